/** One quota over one sliding window, with every value known: what a store is asked to hold a request against. */
export interface Policy {
  readonly name: string
  /** Quota: cost units admitted in any one window. 0 admits nothing. */
  readonly limit: number
  /** Window length in milliseconds, at least 1. */
  readonly windowMs: number
  /** Cost units this request takes, 0 or more. */
  readonly cost: number
  /** Names the log in the store, apart from every other policy of every other limiter. */
  readonly log: string
  /** Milliseconds for which the log must be kept: the longest window among all that share it. */
  readonly keepMs: number
}

/**
 * Whether admissions of one slice of the window (`precision` is its length as a fraction) share an entry of the log.
 * They do where the quota is larger than the number of slices: then a log of any quota stays within about
 * 1/precision entries. The entry carries the slice's newest time, so that a request may count up to one slice
 * longer, and never shorter. 0 keeps every admission apart: a true log.
 */
export function sharesSlices(limit: number, precision: number): boolean {
  return precision > 0 && limit > 1 / precision
}
