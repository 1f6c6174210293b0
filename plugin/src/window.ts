/** What a log says about one window. */
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

/**
 * The sliding-window log of one policy and one key, in memory: admission times with the running total of cost.
 * The cost inside a window is the newest total less the total of the newest entry that has left it.
 *
 * Times are milliseconds and must not decrease from call to call; costs are integers. The same rule as `check.lua`.
 */
export class SlidingLog {
  #times: number[] = []
  #totals: number[] = []
  /** Index of the oldest entry kept. */
  #head = 0
  /** Total of everything before it, and of everything refunded. */
  #base = 0
  #total = 0

  /** Looks, and forgets what is older than `keepMs`. */
  read(now: number, windowMs: number, keepMs: number, limit: number, cost: number): WindowState {
    const kept = this.#after(now - keepMs)
    if (kept > this.#head) {
      this.#base = Math.max(this.#base, this.#totals[kept - 1] as number)
      this.#head = kept
      this.#shrink()
    }
    const first = keepMs === windowMs ? this.#head : this.#after(now - windowMs)
    const base = first === this.#head ? this.#base : Math.max(this.#base, this.#totals[first - 1] as number)
    const used = this.#total - base
    const oldest = this.#times[first]
    return {
      used,
      resetMs: oldest === undefined ? 0 : oldest + windowMs - now,
      retryMs: used + cost <= limit ? 0 : this.#retryMs(now, windowMs, first, this.#total + cost - limit),
    }
  }

  /** Charges `cost` at `now`; entries of the same slice (length in ms, 0 for none) are one. */
  append(now: number, cost: number, sliceMs: number): void {
    if (cost === 0) return
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

  /** Milliseconds until the oldest entry leaves the window; 0 when nothing is in it. */
  resetMs(now: number, windowMs: number, keepMs: number): number {
    const oldest = this.#times[keepMs === windowMs ? this.#head : this.#after(now - windowMs)]
    return oldest === undefined ? 0 : oldest + windowMs - now
  }

  /** Gives `cost` back, the oldest first: what stays counted is as new as it can be, so no window is overfilled. */
  refund(cost: number): void {
    this.#base = Math.min(this.#base + cost, this.#total)
    while ((this.#totals[this.#head] ?? Number.POSITIVE_INFINITY) <= this.#base) this.#head++
    this.#shrink()
  }

  /** Index of the first entry newer than `edge`. Most calls find it within a step or two of the head. */
  #after(edge: number): number {
    let index = this.#head
    while ((this.#times[index] ?? Number.POSITIVE_INFINITY) <= edge) index++
    return index
  }

  /** Totals rise, so the first entry that reaches `mustLeave` is found by halving. */
  #retryMs(now: number, windowMs: number, first: number, mustLeave: number): number {
    let low = first
    let high = this.#totals.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#totals[middle] as number) >= mustLeave) high = middle
      else low = middle + 1
    }
    const leaving = this.#times[low]
    return leaving === undefined ? windowMs : leaving + windowMs - now
  }

  /** Frees the front of the arrays once it is the larger part, so that moving is paid for once an entry. */
  #shrink(): void {
    if (this.#head < 16 || this.#head * 2 < this.#times.length) return
    this.#times = this.#times.slice(this.#head)
    this.#totals = this.#totals.slice(this.#head)
    this.#head = 0
  }
}
