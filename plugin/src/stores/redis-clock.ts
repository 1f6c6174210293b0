/** A sample of the Redis clock is replaced after this many milliseconds, so that its steps and drift are followed. */
const SAMPLE_MS = 1000

/**
 * What we know of the Redis clock, to tell a script the latest time at which it may still charge. A reply carries the
 * time at which it was made, somewhere between sending and receiving; the best sample is the one of least delay.
 */
export class RedisClock {
  /** Redis µs less our ms × 1000, for the middle of the round trip. */
  #offset: number | undefined
  #delay = 0
  #sampledAt = 0

  /** `redisUs`: the time in the reply; `sent`, `received`: `performance.now()`; `wrong`: our last estimate was off. */
  observe(redisUs: number, sent: number, received: number, wrong: boolean): void {
    const delay = received - sent
    const stale = received - this.#sampledAt > SAMPLE_MS
    if (this.#offset !== undefined && !stale && !wrong && delay > this.#delay) return
    this.#offset = redisUs - ((sent + received) / 2) * 1000
    this.#delay = delay
    this.#sampledAt = received
  }

  /**
   * The Redis time, in µs, at which a call sent now is given up; 0 while nothing is known. What the sample may be off
   * by is allowed on top.
   */
  latest(sent: number, timeoutMs: number): number {
    if (this.#offset === undefined) return 0
    return Math.ceil(this.#offset + (sent + timeoutMs + this.#delay / 2) * 1000)
  }
}
