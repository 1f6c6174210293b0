/**
 * The fewest digits that still read back as the same float32: 0.1, where the nearest double would print as
 * 0.10000000149011612. It is also the largest part of a response's bytes, and of what writing it takes: so the text is
 * made here, from whole numbers, and not by way of a double whose digits would be looked for a second time.
 */

/** The nearest doubles; exact up to 10^22. */
const powers = Array.from({ length: 40 }, (_, i) => Number(`1e${i}`))
const mostExact = 22

/** As JavaScript prints a number of that value; finite ones only. */
export function float32Text(value: number): string {
  // Whole numbers up to 2^24 are their own shortest form, and so is 0.
  if (Number.isInteger(value) && value >= -16777216 && value <= 16777216) {
    return Object.is(value, -0) ? '-0' : `${value}`
  }
  const size = Math.abs(value)
  if (size >= 1e-30 && size < 1e6) {
    const exponent = Math.floor(Math.log10(size))
    for (let digits = 6; digits <= 9; digits++) {
      const scale = digits - 1 - exponent
      const power = powers[scale] as number
      const whole = Math.round(size * power)
      if (Math.fround(whole / power) !== size) continue
      // Of a power that is not exact the quotient is only nearly right.
      if (scale > mostExact && Math.fround(Number(`${whole}e-${scale}`)) !== size) continue
      return value < 0 ? `-${decimal(whole, scale)}` : decimal(whole, scale)
    }
    return `${value}`
  }
  for (let digits = 6; digits <= 9; digits++) {
    const candidate = Number(value.toPrecision(digits))
    if (Math.fround(candidate) === value) return `${candidate}`
  }
  return `${value}`
}

const zeros = ['', '0', '00', '000', '0000', '00000']

/** `whole` / 10^`scale`, which is below 10^7, as ECMA-262, Number::toString, writes it. */
function decimal(whole: number, scale: number): string {
  while (whole % 10 === 0) {
    whole /= 10
    scale--
  }
  const digits = `${whole}`
  if (scale <= 0) return digits + zeros[-scale]
  const point = digits.length - scale
  if (point > 0) return `${digits.slice(0, point)}.${digits.slice(point)}`
  if (point > -6) return `0.${zeros[-point]}${digits}`
  return digits.length === 1 ? `${digits}e${point - 1}` : `${digits.slice(0, 1)}.${digits.slice(1)}e${point - 1}`
}
