/**
 * The number with the fewest digits that still reads back as the same float32 (or float16): 0.1, where the nearest
 * double would print as 0.10000000149011612. It is also the largest part of a response's bytes.
 */

/** Exact up to 10^22, the nearest double beyond. */
const powers = Array.from({ length: 40 }, (_, i) => Number(`1e${i}`))

/** For any float32 `value`; finite ones only. */
export function shortestFloat32(value: number): number {
  // Whole numbers up to 2^24 are their own shortest form, and so is 0.
  if (Number.isInteger(value) && value >= -16777216 && value <= 16777216) return value
  const size = Math.abs(value)
  if (size >= 1e-6 && size < 1e6) {
    // Powers of ten up to 10^22 are exact doubles, so the division gives the double that prints as those digits.
    const exponent = Math.floor(Math.log10(size))
    for (let digits = 6; digits <= 9; digits++) {
      const power = powers[digits - 1 - exponent] as number
      const candidate = Math.round(value * power) / power
      if (Math.fround(candidate) === value) return candidate
    }
    return value
  }
  if (size < 1e-6 && size >= 1e-30) return shortestSmall(value, size)
  for (let digits = 6; digits <= 9; digits++) {
    const candidate = Number(value.toPrecision(digits))
    if (Math.fround(candidate) === value) return candidate
  }
  return value
}

/**
 * As above for what softmax makes of unlikely classes. Their powers of ten are no exact doubles, so the digits are found
 * with powers that are nearly right, and the double that prints as these digits is read from them, once.
 */
function shortestSmall(value: number, size: number): number {
  const exponent = Math.floor(Math.log10(size))
  for (let digits = 6; digits <= 9; digits++) {
    const scale = digits - 1 - exponent
    const power = powers[scale] as number
    const whole = Math.round(value * power)
    if (Math.fround(whole / power) !== value) continue
    const candidate = Number(`${whole}e-${scale}`)
    if (Math.fround(candidate) === value) return candidate
  }
  return value
}
