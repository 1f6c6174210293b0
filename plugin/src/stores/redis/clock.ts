/** A sample of the Redis clock is replaced after this many milliseconds, so that its steps and drift are followed. */
const SAMPLE_MS = 1000

/**
 * What we know of the Redis clock, to tell a script the latest time at which it may still charge. A reply carries the
 * time at which it was made, somewhere between sending and receiving. It is taken for the time of receiving, so that
 * the estimate is behind and never ahead of the clock: what was given up charges nothing. The best sample is the one
 * of least delay.
 */
export class RedisClock {
  /** Redis µs less our ms × 1000; at most what it truly is. */
  #offset: number | undefined
  #delay = 0
  #sampledAt = 0

  /** `redisUs`: the time in the reply; `sent`, `received`: `performance.now()`; `wrong`: our last estimate was off. */
  observe(redisUs: number, sent: number, received: number, wrong: boolean): void {
    const delay = received - sent
    const stale = received - this.#sampledAt > SAMPLE_MS
    if (this.#offset !== undefined && !stale && !wrong && delay > this.#delay) return
    this.#offset = redisUs - received * 1000
    this.#delay = delay
    this.#sampledAt = received
  }

  get isKnown(): boolean {
    return this.#offset !== undefined
  }

  /** The Redis time, in ms, at `ms` of `performance.now()`; undefined while nothing is known. */
  at(ms: number): number | undefined {
    return this.#offset === undefined ? undefined : this.#offset / 1000 + ms
  }

  /** The Redis time, in µs, at a `deadline` in ms of `performance.now()`; 0 while nothing is known. */
  latest(deadline: number): number {
    return this.#offset === undefined ? 0 : Math.ceil(this.#offset + deadline * 1000)
  }
}
