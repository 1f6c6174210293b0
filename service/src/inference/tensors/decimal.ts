/**
 * Decimal fractions as the nearest double, without the general way of reading them. Up to 15 digits the quotient of two
 * exact numbers is rounded once, as it has to be (W. D. Clinger, How to Read Floating Point Numbers Accurately, PLDI
 * 1990). Beyond, as the 17 digits that doubles are usually printed with, the quotient is taken in two parts (T. J. Dekker,
 * A Floating-Point Technique for Extending the Available Precision, 1971). Pure.
 */

/** Powers of ten that are exact, and how large a product of two of them is at most. */
const POWERS = Array.from({ length: 23 }, (_, exponent) => 10 ** exponent)
const MOST_POWER = 22
const MOST_DECIMALS = 2 * MOST_POWER

/** Digits of `back`: so many keep all parts exact. */
const MOST_BACK_DIGITS = 9

/** Splits a double into two of 26 bits. */
const SPLITTER = 2 ** 27 + 1

/** How wrong a quotient in two parts is at most, in times its size: less than 2^-103. */
const MARGIN = 2 ** -98

/**
 * (`front` × 10^`backDigits` + `back`) / 10^`decimals`, rounded to the nearest double; undefined where that cannot be told
 * for certain. `front` has at most nine digits, `back` as many as `backDigits` says.
 */
export function decimalQuotient(front: number, back: number, backDigits: number, decimals: number): number | undefined {
  if (decimals < 0 || decimals > MOST_DECIMALS || backDigits > MOST_BACK_DIGITS) return undefined
  const power = POWERS[backDigits] as number
  const product = front * power
  const high = product + back
  if (decimals <= MOST_POWER && high <= Number.MAX_SAFE_INTEGER) return high / (POWERS[decimals] as number)
  // The dividend is high + low, the divisor is divisor + divisorLow.
  const low = productError(front, power, product) + (back - (high - product))
  const one = POWERS[Math.min(decimals, MOST_POWER)] as number
  const other = POWERS[Math.max(decimals - MOST_POWER, 0)] as number
  const divisor = one * other
  const divisorLow = productError(one, other, divisor)
  const quotient = high / divisor
  const backwards = quotient * divisor
  const rest = high - backwards - productError(quotient, divisor, backwards) + low - quotient * divisorLow
  const correction = rest / divisor
  const margin = quotient * MARGIN
  const value = quotient + (correction + margin)
  return value === quotient + (correction - margin) ? value : undefined
}

/** What `product` lacks of a × b. */
function productError(a: number, b: number, product: number): number {
  const aHigh = a * SPLITTER - (a * SPLITTER - a)
  const aLow = a - aHigh
  const bHigh = b * SPLITTER - (b * SPLITTER - b)
  const bLow = b - bHigh
  return aLow * bLow - (product - aHigh * bHigh - aLow * bHigh - aHigh * bLow)
}
