import type { PeriodSpan } from './period.js'

/** One quota over one sliding window, with every value known: what a store holds a request against. */
export interface Policy {
  readonly name: string
  /** Quota: cost units admitted in any one window, at most 2^53 − 1. 0 admits nothing. */
  readonly limit: number
  /** Window length in milliseconds, at least 1. */
  readonly windowMs: number
  /** Of a budget: the period that its log is for. Undefined: a window. */
  readonly span?: PeriodSpan | undefined
  /** Cost units this request takes, 0 or more. */
  readonly cost: number
  /** Names the log in the store: one log serves one window. */
  readonly log: string
  /** Names the log that holds the end of a block, where that is not `log`. */
  readonly blockLog?: string | undefined
  /** Length of a slice of the window in milliseconds, 0 for none. Charges of one slice always share an entry. */
  readonly sliceMs: number
  /** Whether admissions of one slice share an entry too; see `sharesSlices`. */
  readonly sliced: boolean
  /** False: it is charged with the others and denies nothing, whatever penalties stand beside its log. */
  readonly decides?: false | undefined
  /** Names what is kept about denials, where that is not `log`. */
  readonly penaltyLog?: string | undefined
}

/**
 * The most that a window can hold: the largest integer that is exact, less what some Redis clients add to a number
 * while they read it. A larger quota admits no more.
 */
export const LARGEST_TOTAL: number = Number.MAX_SAFE_INTEGER - 63

/** A quota that denies nothing: for policies that are charged and do not decide. */
export const UNLIMITED = Number.MAX_SAFE_INTEGER

/**
 * Whether admissions of one slice of the window (`precision` is its length as a fraction) share an entry of the log.
 * They do where the quota is larger than the number of slices: then a log of any quota stays within about
 * 1/precision entries. The entry carries the slice's newest time, so that a request may count up to one slice
 * longer, and never shorter. 0 keeps every admission apart: a true log.
 */
export function sharesSlices(limit: number, precision: number): boolean {
  return limit > 1 / precision // 1 / 0 is infinite
}
