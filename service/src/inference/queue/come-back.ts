/**
 * When those who were refused are to come back. Pure: time is an argument.
 *
 * They are told in whole seconds, so all who are refused in one moment and told the same come back in one moment: each is
 * given a time of its own by chance, anywhere in the time that it takes to serve them all.
 */
import { comeBack as rules } from './admission-constants.js'

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
    const rate = this.#rate * Math.exp((this.#refusedAt - now) / rules.memoryMs)
    this.#rate = rate + 1 / rules.memoryMs
    this.#refusedAt = now
    const servedMs = Math.max(this.#servedAt - now, 0) + eachMs / rules.part
    // More than will all come back.
    if (servedMs > rules.mostMs) return rules.mostMs * (0.5 + Math.random() / 2)
    this.#servedAt = now + servedMs
    // As many more may follow in the next second as would in this moment's manner.
    const secondMs = (rate * 1000 * eachMs) / rules.part
    return Math.max(waitMs, Math.random() * Math.min(rules.mostMs, Math.max(servedMs, secondMs)))
  }
}
