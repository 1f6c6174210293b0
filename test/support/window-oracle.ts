/**
 * The rule of the window, written down as plainly as can be: a list of what was admitted and when. Slow and obvious;
 * the stores are held against it. Times in any one unit.
 */
export class WindowOracle {
  #admitted: { time: number; cost: number }[] = []

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
  reset(now: number, window: number): number {
    const oldest = this.#admitted.find(({ time }) => time > now - window)
    return oldest === undefined ? 0 : oldest.time + window - now
  }

  charge(time: number, cost: number): void {
    this.#admitted.push({ time, cost })
  }

  /** Takes the oldest cost still in the window out of the list. */
  refund(now: number, window: number, cost: number): void {
    let left = cost
    for (const entry of this.#admitted) {
      if (entry.time <= now - window) continue
      const taken = Math.min(left, entry.cost)
      entry.cost -= taken
      left -= taken
    }
    this.#admitted = this.#admitted.filter(entry => entry.cost > 0)
  }

  /** The most that any window of this length has held, wherever it began. */
  fullest(window: number): number {
    return Math.max(0, ...this.#admitted.map(({ time }) => this.used(time, window)))
  }
}
