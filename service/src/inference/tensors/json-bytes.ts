/**
 * JSON written as bytes. This is our own code because numbers are most of an answer: with `JSON.stringify`, which makes a
 * string of each number and joins and encodes the strings, writing took more than half the time of an answer.
 */
import { rareFloat32Text, ShortestDigits } from './shortest-float.js'

const zero = 0x30
const comma = 0x2c
const point = 0x2e
const minus = 0x2d
const e = 0x65

/** Texts up to this length are copied character by character, which a call of Node's own is too dear for. */
const shortText = 48
/** Kept for the next text; a larger one goes away with the answer that needed it. */
const keptBytes = 1 << 16

/** Whole numbers up to 2^24 are their own shortest form. */
const mostWhole = 1 << 24

export class JsonBytes {
  #bytes = Buffer.allocUnsafeSlow(keptBytes)
  #length = 0
  readonly #shortest = new ShortestDigits()

  /** Bytes written since `clear`. */
  get length(): number {
    return this.#length
  }

  /** Begins anew. */
  clear(): this {
    this.#length = 0
    return this
  }

  /** What was written since `clear`, in memory of its own. */
  take(): Buffer {
    return this.#bytes.length === keptBytes ? Buffer.from(this.#bytes.subarray(0, this.#length)) : this.#giveAway()
  }

  /** The same in memory that nothing else shares, so that it may be moved to another thread. */
  takeAlone(): Uint8Array<ArrayBuffer> {
    return this.#bytes.length === keptBytes ? new Uint8Array(this.#bytes.subarray(0, this.#length)) : this.#giveAway()
  }

  #giveAway(): Buffer<ArrayBuffer> {
    const taken = this.#bytes.subarray(0, this.#length)
    this.#bytes = Buffer.allocUnsafeSlow(keptBytes)
    return taken
  }

  /** What was written since `clear`. */
  text(): string {
    const text = this.#bytes.toString('utf8', 0, this.#length)
    if (this.#bytes.length > keptBytes) this.#bytes = Buffer.allocUnsafeSlow(keptBytes)
    return text
  }

  /** A piece of JSON as it is. */
  json(text: string): this {
    const { length } = text
    // No character of a string is more than three bytes long in UTF-8.
    this.#reserve(length * 3)
    if (length > shortText) {
      this.#length += this.#bytes.write(text, this.#length, 'utf8')
      return this
    }
    const bytes = this.#bytes
    let at = this.#length
    for (let index = 0; index < length; index++) {
      const code = text.charCodeAt(index)
      if (code > 0x7f) {
        this.#length += bytes.write(text, this.#length, 'utf8')
        return this
      }
      bytes[at++] = code
    }
    this.#length = at
    return this
  }

  /** A finite float32, in the fewest digits that read back as the same value, in the form in which JavaScript prints a number. */
  float32(value: number): this {
    // More than any takes.
    this.#reserve(32)
    if (Number.isInteger(value)) {
      if (Object.is(value, -0)) return this.json('-0')
      if (value >= -mostWhole && value <= mostWhole) return this.#integer(value)
      return this.json(rareFloat32Text(value))
    }
    if (!this.#shortest.find(Math.abs(value))) return this.json(rareFloat32Text(value))
    if (value < 0) this.#bytes[this.#length++] = minus
    this.#decimal(this.#shortest.whole, this.#shortest.scale)
    return this
  }

  /** Elements `from` to `to` (exclusive) with commas between; those that JSON has no numbers for as strings. */
  float32s(values: Float32Array, from: number, to: number): this {
    for (let index = from; index < to; index++) {
      if (index > from) {
        this.#reserve(1)
        this.#bytes[this.#length++] = comma
      }
      const value = values[index] as number
      if (Number.isFinite(value)) this.float32(value)
      else this.json(`"${value}"`)
    }
    return this
  }

  #integer(value: number): this {
    if (value < 0) this.#bytes[this.#length++] = minus
    const size = Math.abs(value)
    this.#length = this.#digits(size, digitsOf(size), this.#length)
    return this
  }

  /** `whole` / 10^`scale`, which is no whole number, as ECMA-262, Number::toString, writes it. */
  #decimal(whole: number, scale: number): void {
    const bytes = this.#bytes
    const digits = digitsOf(whole)
    const before = digits - scale
    let at = this.#length
    if (before > 0) {
      // One place further than they will stay: those before the point move up.
      at = this.#digits(whole, digits, at + 1)
      for (let index = this.#length; index < this.#length + before; index++) bytes[index] = bytes[index + 1] as number
      bytes[this.#length + before] = point
    } else if (before > -6) {
      bytes[at++] = zero
      bytes[at++] = point
      for (let index = before; index < 0; index++) bytes[at++] = zero
      at = this.#digits(whole, digits, at)
    } else {
      const end = this.#digits(whole, digits, at + 1)
      bytes[at] = bytes[at + 1] as number
      if (digits > 1) bytes[at + 1] = point
      at = digits > 1 ? end : at + 1
      bytes[at++] = e
      bytes[at++] = minus
      const exponent = 1 - before
      at = this.#digits(exponent, digitsOf(exponent), at)
    }
    this.#length = at
  }

  /** So many digits from `at` on; gives where they end. */
  #digits(whole: number, count: number, at: number): number {
    const bytes = this.#bytes
    const end = at + count
    let rest = whole | 0
    for (let index = end - 1; index >= at; index--) {
      const tenth = (rest / 10) | 0
      bytes[index] = zero + rest - tenth * 10
      rest = tenth
    }
    return end
  }

  #reserve(bytes: number): void {
    const needed = this.#length + bytes
    if (needed <= this.#bytes.length) return
    const larger = Buffer.allocUnsafeSlow(Math.max(needed, this.#bytes.length * 2))
    this.#bytes.copy(larger, 0, 0, this.#length)
    this.#bytes = larger
  }
}

/** How many digits a whole number below 2^31 has. */
function digitsOf(whole: number): number {
  if (whole < 100_000) {
    if (whole < 100) return whole < 10 ? 1 : 2
    return whole < 1000 ? 3 : whole < 10_000 ? 4 : 5
  }
  if (whole < 10_000_000) return whole < 1_000_000 ? 6 : 7
  return whole < 100_000_000 ? 8 : whole < 1_000_000_000 ? 9 : 10
}
