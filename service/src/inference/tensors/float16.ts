/** IEEE 754 binary16, by hand, because only Node 24 and later have Float16Array. */

const single = new Float32Array(1)
const singleBits = new Uint32Array(single.buffer)

/** The 16 bits nearest to `value` (ties to even). Values beyond 65504 by half a unit or more become ±Infinity. */
export function toFloat16Bits(value: number): number {
  // Rounding to double to single to half could round twice; `sticky` keeps what the first rounding would lose.
  single[0] = value
  let bits = singleBits[0] as number
  const rounded = single[0] as number
  if (rounded !== value && Number.isFinite(rounded) && (bits & 1) === 0) {
    // Round to odd: an inexact single with an even mantissa is moved toward the value by setting its last bit.
    const away = Math.abs(value) > Math.abs(rounded)
    bits = away ? bits | 1 : bits - 1
  }
  const sign = (bits >>> 16) & 0x8000
  const exponent = (bits >>> 23) & 0xff
  const mantissa = bits & 0x7fffff
  if (exponent === 0xff) return sign | (mantissa === 0 ? 0x7c00 : 0x7e00)
  const e = exponent - 112
  if (e >= 31) return sign | 0x7c00
  if (e <= 0) {
    if (e < -10) return sign
    const full = mantissa | 0x800000
    const shift = 14 - e
    return sign | roundShift(full, shift)
  }
  // A carry out of the mantissa rightly runs into the exponent, up to Infinity.
  return sign | roundShift((e << 23) | mantissa, 13)
}

/** `value >> shift`, to the nearest, ties to even. */
function roundShift(value: number, shift: number): number {
  const quotient = value >>> shift
  const rest = value & ((1 << shift) - 1)
  const half = 1 << (shift - 1)
  return rest > half || (rest === half && (quotient & 1) === 1) ? quotient + 1 : quotient
}

/** The value of 16 bits. */
export function fromFloat16Bits(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >>> 10) & 0x1f
  const mantissa = bits & 0x3ff
  if (exponent === 0) return sign * mantissa * 2 ** -24
  if (exponent === 0x1f) return mantissa === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15)
}

/** Values of this size or more have no finite float16. */
export const float16Limit = 65520
