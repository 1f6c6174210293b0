/**
 * When those who were refused are to come back. Pure: time is an argument.
 *
 * They are told in whole seconds, so all who are refused in one moment and told the same come back in one moment: each is
 * given a time of its own by chance, anywhere in the time that it takes to serve them all.
 */

/** Part of the workers' time that is meant for those who come back: others come for the first time meanwhile. */
const comeBackPart = 0.33

/** Longest time that is asked of anybody, in milliseconds. */
const mostMs = 10_000

/** What was refused counts less and less by this time constant, in milliseconds. */
const memoryMs = 100

export class ComeBack {
  /** When the last of them will have been served. */
  #servedAt = Number.NEGATIVE_INFINITY
  /** Refused a millisecond, of late. */
  #rate = 0
  #refusedAt = Number.NEGATIVE_INFINITY

  /**
   * Milliseconds until one more of those that are refused is to come back. `eachMs`: what it takes of all the workers;
   * `waitMs`: what it would wait now, which is the least.
   */
  next(now: number, eachMs: number, waitMs: number): number {
    const rate = this.#rate * Math.exp((this.#refusedAt - now) / memoryMs)
    this.#rate = rate + 1 / memoryMs
    this.#refusedAt = now
    const servedMs = Math.max(this.#servedAt - now, 0) + eachMs / comeBackPart
    // More than will all come back.
    if (servedMs > mostMs) return mostMs * (0.5 + Math.random() / 2)
    this.#servedAt = now + servedMs
    // As many more may follow in the next second as would in this moment's manner.
    const secondMs = (rate * 1000 * eachMs) / comeBackPart
    return Math.max(waitMs, Math.random() * Math.min(mostMs, Math.max(servedMs, secondMs)))
  }
}
