/**
 * The fewest digits that read back as the same float32: 0.1, where JavaScript prints the nearest double as
 * 0.10000000149011612. This is our own code because JavaScript knows only the digits of doubles, and because these digits
 * are most of an answer's bytes and of the time to write it. They are found as a whole number, without a second search by
 * way of a double.
 */

/** The nearest doubles; exact up to 10^22. */
const powers = Array.from({ length: 40 }, (_, i) => Number(`1e${i}`))
const mostExact = 22

const least = 1e-30
const most = 1e6

/** Bits of a float32, to see its exponent. */
const single = new Float32Array(1)
const bits = new Int32Array(single.buffer)

/** For powers of two from 2^-100 on: the power of ten at or below them, and the next one, as doubles. */
const firstPower = -100
const tens = Array.from({ length: 121 }, (_, i) => {
  const exponent = Math.floor((i + firstPower) * Math.LOG10E * Math.LN2)
  return { exponent, next: Number(`1e${exponent + 1}`) }
})

/** Digits of a number as `whole` / 10^`scale`, where `whole` ends in no zero. */
export class ShortestDigits {
  whole = 0
  scale = 0

  /** Finds them for a positive float32 that is no whole number; false where it is too large or too small for this way. */
  find(size: number): boolean {
    if (!(size >= least && size < most)) return false
    single[0] = size
    const ten = tens[((bits[0] as number) >> 23) - 127 - firstPower] as (typeof tens)[number]
    const exponent = size >= ten.next ? ten.exponent + 1 : ten.exponent
    for (let digits = 6; digits <= 9; digits++) {
      const scale = digits - 1 - exponent
      const power = powers[scale] as number
      const whole = Math.round(size * power)
      if (Math.fround(whole / power) !== size) continue
      // Of a power that is not exact the quotient is only nearly right.
      if (scale > mostExact && Math.fround(Number(`${whole}e-${scale}`)) !== size) continue
      this.whole = whole
      this.scale = scale
      this.#strip()
      return true
    }
    return false
  }

  #strip(): void {
    while (this.whole % 10 === 0) {
      this.whole /= 10
      this.scale--
    }
  }
}

/** Text of a finite float32 that `ShortestDigits` does not find the digits of, as JavaScript prints it. */
export function rareFloat32Text(value: number): string {
  for (let digits = 6; digits <= 9; digits++) {
    const candidate = Number(value.toPrecision(digits))
    if (Math.fround(candidate) === value) return `${candidate}`
  }
  return `${value}`
}
