/**
 * The rule of the window, written down as plainly as can be: a list of what was admitted and when. Slow and obvious;
 * the stores are held against it. Times in any one unit.
 */
export interface OracleAdmission {
  readonly time: number
  readonly generation: number
}

export class WindowOracle {
  #admitted: { time: number; cost: number }[] = []
  #generation = 0

  /** Cost admitted in (now − window, now]. */
  used(now: number, window: number): number {
    return this.#admitted.reduce((sum, { time, cost }) => (time > now - window && time <= now ? sum + cost : sum), 0)
  }

  fits(now: number, window: number, limit: number, cost: number): boolean {
    return this.used(now, window) + cost <= limit
  }

  /** Time from `now` until `cost` fits; 0 when it does, the window when it never will. */
  wait(now: number, window: number, limit: number, cost: number): number {
    if (this.fits(now, window, limit, cost)) return 0
    if (cost > limit) return window
    const leaving = this.#admitted
      .filter(({ time }) => time > now - window)
      .map(({ time }) => time + window)
      .sort((a, b) => a - b)
    return (leaving.find(at => this.fits(at, window, limit, cost)) ?? now + window) - now
  }

  /** Time from `now` until the oldest cost leaves; 0 when there is none. */
  resetsIn(now: number, window: number): number {
    const oldest = this.#admitted.find(({ time }) => time > now - window)
    return oldest === undefined ? 0 : oldest.time + window - now
  }

  /** The identity of the admission, for `refund`. */
  charge(time: number, cost: number): OracleAdmission {
    this.#admitted.push({ time, cost })
    return { time, generation: this.#generation }
  }

  /** Everything is forgotten, and what was admitted before has no part in what comes. */
  reset(): void {
    this.#admitted = []
    this.#generation++
  }

  /**
   * Takes the oldest cost still in the window out of the list. The cost of an admission only while that admission is
   * in the window itself; an operator's refund has none. Returns the cost taken out.
   */
  refund(now: number, window: number, cost: number, admission?: OracleAdmission): number {
    const isOver =
      admission !== undefined && (admission.generation !== this.#generation || admission.time <= now - window)
    let left = isOver ? 0 : cost
    const wanted = left
    for (const entry of this.#admitted) {
      if (entry.time <= now - window) continue
      const taken = Math.min(left, entry.cost)
      entry.cost -= taken
      left -= taken
    }
    this.#admitted = this.#admitted.filter(entry => entry.cost > 0)
    // A log that is empty is made anew.
    if (wanted > left && this.used(now, window) === 0) this.#generation++
    return wanted - left
  }

  /** The most that any window of this length has held, wherever it began. */
  fullest(window: number): number {
    return Math.max(0, ...this.#admitted.map(({ time }) => this.used(time, window)))
  }
}
