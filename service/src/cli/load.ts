/** Load: many predictions at once, for a time, never waiting as they are told. */
import { setTimeout as delay } from 'node:timers/promises'
import { Pool } from 'undici'
import { headersFor, reasonOf } from './client.js'
import { Statuses } from './statuses.js'

export interface LoadOptions {
  readonly url: URL
  readonly body: string
  readonly apiKey: string | undefined
  /** Requests in flight at most. */
  readonly concurrency: number
  readonly durationMs: number
  /** Requests a second; undefined: each follows the answer to the one before. */
  readonly rate: number | undefined
  readonly timeoutMs: number
}

export class Load {
  readonly statuses = new Statuses()
  /** Why there was no answer. */
  readonly reasons = new Map<string, number>()
  readonly #options: LoadOptions
  #begun = 0
  #from = 0
  #until = 0

  constructor(options: LoadOptions) {
    this.#options = options
  }

  /** Seconds since the begin. */
  get seconds(): number {
    return (performance.now() - this.#from) / 1000
  }

  /** Requests that the rate asked for and that could not be begun in time. */
  get late(): number {
    const { rate, durationMs } = this.#options
    return rate === undefined ? 0 : Math.max(0, Math.ceil((rate * durationMs) / 1000) - this.#begun)
  }

  /** Resolves when the time is over and every request has its answer, or at once when `signal` is aborted. */
  async run(signal: AbortSignal): Promise<void> {
    const { url, concurrency, durationMs, timeoutMs } = this.#options
    const timeouts = { headersTimeout: timeoutMs, bodyTimeout: timeoutMs, connect: { timeout: timeoutMs } }
    const pool = new Pool(url.origin, { connections: concurrency, pipelining: 1, ...timeouts })
    this.#from = performance.now()
    this.#until = this.#from + durationMs
    try {
      await Promise.all(Array.from({ length: concurrency }, () => this.#askOn(pool, signal)))
    } finally {
      await pool.destroy()
    }
  }

  async #askOn(pool: Pool, signal: AbortSignal): Promise<void> {
    for (;;) {
      const due = await this.#next(signal)
      if (due === undefined || signal.aborted) return
      await this.#ask(pool, due, signal)
    }
  }

  /**
   * When the next request is due, as `performance.now()`; undefined when the time is over. With a rate its latency counts
   * from then, also when it had to wait for a place: else a slow service would hide how slow it is.
   */
  async #next(signal: AbortSignal): Promise<number | undefined> {
    const { rate } = this.#options
    const now = performance.now()
    if (rate === undefined) return now < this.#until ? now : undefined
    const due = this.#from + (this.#begun * 1000) / rate
    if (due >= this.#until || now >= this.#until) return undefined
    this.#begun++
    if (due > now) await delay(due - now, undefined, { signal }).catch(() => {})
    return due
  }

  async #ask(pool: Pool, since: number, signal: AbortSignal): Promise<void> {
    const { body, apiKey } = this.#options
    const record = (status: number) => this.statuses.record(status, performance.now() - since)
    try {
      const headers = headersFor(body, apiKey)
      const answer = await pool.request({ path: '/v1/predict', method: 'POST', headers, body, signal })
      await answer.body.dump()
      record(answer.statusCode)
    } catch (error) {
      if (signal.aborted) return
      record(0)
      const reason = reasonOf(error)
      this.reasons.set(reason, (this.reasons.get(reason) ?? 0) + 1)
      // A service that is not there is not asked a hundred thousand times a second.
      await delay(100, undefined, { signal }).catch(() => {})
    }
  }
}
