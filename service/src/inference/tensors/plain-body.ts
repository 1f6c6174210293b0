/**
 * The commonest bodies read straight from their bytes: an object of a few known members whose values are plain texts,
 * numbers, lists of numbers, and such lists by name. It takes a third to two thirds of the time that JSON.parse takes for
 * whole numbers as for the 17 digits that Python and `numpy.tolist()` write, beside which nothing else has to be looked
 * at: that such bytes are UTF-8, hold no `__proto__` and nest no deeper than they may shows on the way. Anything else is
 * left to JSON.parse, also to say what is wrong with it.
 */
import { decimalQuotient } from './decimal.js'

export interface PlainBody {
  model?: unknown
  version?: unknown
  features?: unknown
  inputs?: unknown
}

const TAB = 0x09
const LINE_FEED = 0x0a
const CARRIAGE_RETURN = 0x0d
const SPACE = 0x20
const QUOTE = 0x22
const PLUS = 0x2b
const COMMA = 0x2c
const MINUS = 0x2d
const POINT = 0x2e
const ZERO = 0x30
const NINE = 0x39
const COLON = 0x3a
const UPPER_E = 0x45
const OPEN_BRACKET = 0x5b
const BACKSLASH = 0x5c
const CLOSE_BRACKET = 0x5d
const LOWER_E = 0x65
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const LAST_PRINTABLE = 0x7e

const MEMBERS = ['model', 'version', 'features', 'inputs'] as const

/** Lists inside each other: rows of four dimensions. Nothing that is read here calls itself more often. */
const MAX_DEPTH = 5
/** Longer ones are no names of models. */
const MAX_TEXT = 100

/** Below this a number takes another digit and has nine at most. */
const MOST_FRONT = 10 ** 8

/** Far beyond what a double has room for. */
const MOST_EXPONENT = 10_000

/** What is left to JSON.parse. */
const OTHER = Symbol('other')

const NOTHING = new Uint8Array()

export class PlainBodyReader {
  #bytes: Uint8Array = NOTHING
  #at = 0
  /** Most callers of a service ask for the same model. */
  #lastText = ''

  /** What JSON.parse gives for these bytes; undefined where it has to be asked. */
  read(bytes: Uint8Array): PlainBody | undefined {
    this.#bytes = bytes
    this.#at = 0
    const body = this.#body()
    this.#bytes = NOTHING
    return body
  }

  #body(): PlainBody | undefined {
    if (!this.#take(OPEN_BRACE)) return undefined
    const body: PlainBody = {}
    do {
      const member = this.#member()
      if (member === undefined || body[member] !== undefined || !this.#take(COLON)) return undefined
      const value = this.#value()
      if (value === OTHER) return undefined
      // Each by its own name, so that bodies with the same members are the same to the compiler.
      if (member === 'model') body.model = value
      else if (member === 'version') body.version = value
      else if (member === 'features') body.features = value
      else body.inputs = value
    } while (this.#take(COMMA))
    return this.#take(CLOSE_BRACE) && this.#next() === -1 ? body : undefined
  }

  /** The byte behind any white space, which is left where it is; -1 at the end. */
  #next(): number {
    const bytes = this.#bytes
    for (let at = this.#at; at < bytes.length; at++) {
      const byte = bytes[at] as number
      if (isBlank(byte)) continue
      this.#at = at
      return byte
    }
    return -1
  }

  #take(byte: number): boolean {
    if (this.#next() !== byte) return false
    this.#at++
    return true
  }

  #member(): (typeof MEMBERS)[number] | undefined {
    if (this.#next() !== QUOTE) return undefined
    for (const member of MEMBERS) {
      if (!this.#isText(member)) continue
      this.#at += member.length + 2
      return member
    }
    return undefined
  }

  /** Whether these characters and a quote stand behind the quote here. */
  #isText(text: string): boolean {
    const bytes = this.#bytes
    const from = this.#at + 1
    if (bytes[from + text.length] !== QUOTE) return false
    for (let index = 0; index < text.length; index++) if (bytes[from + index] !== text.charCodeAt(index)) return false
    return true
  }

  #value(): unknown {
    const byte = this.#next()
    if (byte === OPEN_BRACKET) return this.#list(1)
    if (byte === QUOTE) return this.#text()
    return byte === OPEN_BRACE ? this.#byName() : OTHER
  }

  /** Lists by the names of their inputs. */
  #byName(): Record<string, unknown> | typeof OTHER {
    const named: Record<string, unknown> = {}
    this.#at++
    if (this.#take(CLOSE_BRACE)) return named
    do {
      if (this.#next() !== QUOTE) return OTHER
      const name = this.#text()
      // What has a meaning for JavaScript is looked at by those who know it.
      if (name === OTHER || name === '__proto__' || name === 'constructor' || !this.#take(COLON)) return OTHER
      const list = this.#next() === OPEN_BRACKET ? this.#list(1) : OTHER
      if (list === OTHER) return OTHER
      named[name] = list
    } while (this.#take(COMMA))
    return this.#take(CLOSE_BRACE) ? named : OTHER
  }

  /** Numbers, or lists of them. All in one loop: most of what most bodies are made of, and looked at only once. */
  #list(depth: number): unknown[] | typeof OTHER {
    const bytes = this.#bytes
    const list: unknown[] = []
    let at = this.#at + 1
    let wasWhole = true
    for (;;) {
      let byte = bytes[at] as number
      // Whole numbers with a comma directly behind each, and at most a blank before it, as Python writes them.
      while (wasWhole) {
        const start = byte === SPACE ? at + 1 : at
        let end = start
        let whole = 0
        byte = bytes[end] as number
        while (byte >= ZERO && byte <= NINE && end - start < 9) {
          whole = whole * 10 + byte - ZERO
          byte = bytes[++end] as number
        }
        if (byte !== COMMA || end === start || (bytes[start] === ZERO && end - start > 1)) break
        list.push(whole)
        at = end + 1
        byte = bytes[at] as number
      }
      byte = bytes[at] as number
      while (byte <= SPACE && isBlank(byte)) byte = bytes[++at] as number
      if (byte === OPEN_BRACKET) {
        this.#at = at
        const inner = depth === MAX_DEPTH ? OTHER : this.#list(depth + 1)
        if (inner === OTHER) return OTHER
        list.push(inner)
        at = this.#at
      } else {
        const sign = byte === MINUS ? 1 : 0
        const from = at + sign
        if (sign === 1) byte = bytes[++at] as number
        // The first nine digits that count and those behind them, as integers of 32 bits: doubles take twice the time.
        let front = 0
        let back = 0
        let backDigits = 0
        while (byte >= ZERO && byte <= NINE) {
          if (front < MOST_FRONT) front = Math.imul(front, 10) + byte - ZERO
          else {
            back = Math.imul(back, 10) + byte - ZERO
            backDigits++
          }
          byte = bytes[++at] as number
        }
        if (at === from || (bytes[from] === ZERO && at - from > 1)) {
          if (byte !== CLOSE_BRACKET || sign === 1 || at !== from || list.length > 0) return OTHER
          this.#at = at + 1
          return list
        }
        let decimals = 0
        if (byte === POINT) {
          const point = at
          byte = bytes[++at] as number
          while (byte >= ZERO && byte <= NINE) {
            if (front < MOST_FRONT) front = Math.imul(front, 10) + byte - ZERO
            else {
              back = Math.imul(back, 10) + byte - ZERO
              backDigits++
            }
            byte = bytes[++at] as number
          }
          decimals = at - point - 1
          if (decimals === 0) return OTHER
        }
        if (byte === LOWER_E || byte === UPPER_E) {
          const exponent = this.#exponent(at)
          if (exponent === undefined) return OTHER
          decimals -= exponent
          at = this.#at
          byte = bytes[at] as number
        }
        wasWhole = decimals === 0
        // Small ones by themselves: the list then stays one of integers.
        if (wasWhole && backDigits === 0 && sign === 0) list.push(front)
        else {
          const value = decimalQuotient(front, back, backDigits, decimals) ?? Number(asText(bytes, from, at))
          list.push(sign === 1 ? -value : value)
        }
      }
      byte = bytes[at] as number
      while (byte <= SPACE && isBlank(byte)) byte = bytes[++at] as number
      at++
      if (byte === COMMA) continue
      this.#at = at
      return byte === CLOSE_BRACKET ? list : OTHER
    }
  }

  /** The exponent whose letter is at `from`; undefined where it has no digits. */
  #exponent(from: number): number | undefined {
    const bytes = this.#bytes
    const sign = bytes[from + 1]
    let at = from + (sign === MINUS || sign === PLUS ? 2 : 1)
    const start = at
    let exponent = 0
    while ((bytes[at] as number) >= ZERO && (bytes[at] as number) <= NINE) {
      exponent = Math.min(exponent * 10 + (bytes[at++] as number) - ZERO, MOST_EXPONENT)
    }
    this.#at = at
    if (at === start) return undefined
    return sign === MINUS ? -exponent : exponent
  }

  /** Plain ASCII without escapes. */
  #text(): string | typeof OTHER {
    const last = this.#lastText
    if (this.#isText(last)) {
      this.#at += last.length + 2
      return last
    }
    const bytes = this.#bytes
    let text = ''
    for (let at = this.#at + 1; at < bytes.length && text.length < MAX_TEXT; at++) {
      const byte = bytes[at] as number
      if (byte === QUOTE) {
        this.#at = at + 1
        this.#lastText = text
        return text
      }
      if (byte < SPACE || byte === BACKSLASH || byte > LAST_PRINTABLE) return OTHER
      text += String.fromCharCode(byte)
    }
    return OTHER
  }
}

const isBlank = (byte: number): boolean =>
  byte === SPACE || byte === LINE_FEED || byte === CARRIAGE_RETURN || byte === TAB

const asText = (bytes: Uint8Array, from: number, to: number): string => {
  let text = ''
  for (let at = from; at < to; at++) text += String.fromCharCode(bytes[at] as number)
  return text
}
