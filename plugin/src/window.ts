import { LARGEST_TOTAL } from './policy.js'

/** What a log says about its window. */
export interface WindowState {
  /** Cost admitted in (now − windowMs, now]. */
  readonly used: number
  /** Milliseconds until the oldest entry leaves the window; 0 when nothing is in it. */
  readonly resetMs: number
  /**
   * Milliseconds until the cost asked about fits, if nothing else is admitted: 0 when it fits now, the whole window
   * when it never will.
   */
  readonly retryMs: number
}

let generations = 0

/**
 * The sliding-window log of one policy and one key, in memory: admission times with the running total of cost.
 * The cost inside a window is the newest total less the total of the newest entry that has left it.
 *
 * Times are milliseconds and must not decrease from call to call; costs are integers. The same rule as `log.lua`.
 */
export class SlidingLog {
  /**
   * Identifies this log among all of the process: an admission of another log is not refunded here. Changes when a
   * refund has emptied the log.
   */
  get generation(): number {
    return this.#generation
  }

  #generation = ++generations
  #times: number[] = []
  #totals: number[] = []
  /** Index of the oldest entry kept. */
  #head = 0
  /** Total of everything before it, and of everything refunded. */
  #base = 0
  #total = 0

  /** Reads the window, and drops what has left it. */
  read(now: number, windowMs: number, quota: number, cost: number): WindowState {
    const limit = Math.min(quota, LARGEST_TOTAL)
    const first = this.#after(now - windowMs)
    if (first > this.#head) {
      this.#base = Math.max(this.#base, this.#totals[first - 1] as number)
      this.#head = first
      this.#shrink()
    }
    const used = this.#total - this.#base
    return {
      used,
      resetMs: this.resetMs(now, windowMs),
      retryMs: used + cost <= limit ? 0 : this.#retryMs(now, windowMs, this.#total + cost - limit),
    }
  }

  /** Time of the newest admission that is kept; −Infinity without one. */
  get newest(): number {
    return this.#times[this.#times.length - 1] ?? Number.NEGATIVE_INFINITY
  }

  /** Whether `cost` more can be counted exactly, after a `read`. */
  canHold(cost: number): boolean {
    return this.#total - this.#base + cost <= LARGEST_TOTAL
  }

  /** Charges `cost` at `now`; entries of the same slice (length in ms, 0 for none) are one. */
  append(now: number, cost: number, sliceMs: number): void {
    if (cost === 0) return
    if (this.#total + cost > LARGEST_TOTAL) this.#rebase()
    this.#total += cost
    const last = this.#times.length - 1
    const newest = this.#times[last]
    const shared =
      newest !== undefined &&
      last >= this.#head &&
      (newest === now || (sliceMs > 0 && Math.floor(newest / sliceMs) === Math.floor(now / sliceMs)))
    if (shared) {
      this.#times[last] = now
      this.#totals[last] = this.#total
    } else {
      this.#times.push(now)
      this.#totals.push(this.#total)
    }
  }

  /** Milliseconds until the oldest entry leaves the window, after a `read`; 0 when nothing is in it. */
  resetMs(now: number, windowMs: number): number {
    const oldest = this.#times[this.#head]
    return oldest === undefined ? 0 : oldest + windowMs - now
  }

  /**
   * Gives up to `cost` back, off the oldest units: what stays is as new as it can be, so no window is overfilled.
   * Returns the cost given back. Call it after a `read`.
   */
  refund(cost: number): number {
    const given = Math.min(cost, this.#total - this.#base)
    this.#base += given
    this.#head = this.#reach(this.#base + 1)
    if (given > 0 && this.#base === this.#total) this.#generation = ++generations
    this.#shrink()
    return given
  }

  /** Index of the first entry newer than `edge`. Most calls find it within a step or two of the head. */
  #after(edge: number): number {
    let index = this.#head
    while ((this.#times[index] ?? Number.POSITIVE_INFINITY) <= edge) index++
    return index
  }

  #retryMs(now: number, windowMs: number, mustLeave: number): number {
    const leaving = this.#times[this.#reach(mustLeave)]
    return leaving === undefined ? windowMs : leaving + windowMs - now
  }

  /** Index of the first entry whose total is at least `goal`, by halving: totals rise. */
  #reach(goal: number): number {
    let low = this.#head
    let high = this.#totals.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#totals[middle] as number) >= goal) high = middle
      else low = middle + 1
    }
    return low
  }

  /** Lowers all totals by what no longer counts, so that they stay exact. */
  #rebase(): void {
    this.#totals = this.#totals.map(total => total - this.#base)
    this.#total -= this.#base
    this.#base = 0
  }

  /** Frees the front of the arrays once it is the larger part, so that moving is paid for once an entry. */
  #shrink(): void {
    if (this.#head < 16 || this.#head * 2 < this.#times.length) return
    this.#times = this.#times.slice(this.#head)
    this.#totals = this.#totals.slice(this.#head)
    this.#head = 0
  }
}
