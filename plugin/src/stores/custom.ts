import { StoreCannot, StoreCannotRead } from '../errors.js'
import type { Policy } from '../policy.js'
import type { Answer, Check, Store } from './store.js'

/** `(error, result)`: `current` is the count in the window, this request included; `ttl` milliseconds to its end. */
export type CustomStoreCallback = (error: Error | null, result?: { current: number; ttl: number }) => void

/** A store as `@fastify/rate-limit` has them: it counts requests in windows of its own making. */
export interface CustomStore {
  incr(key: string, callback: CustomStoreCallback, timeWindow: number, max: number): void
  /** Reads without counting; needed for `{ increment: false }` only. */
  read?(key: string, callback: CustomStoreCallback, timeWindow: number, max: number): void
  /** A store for one route: the options of the registration and the route, and the route itself in `routeInfo`. */
  child(options: Record<string, unknown>): CustomStore
}

export type CustomStoreConstructor = new (options: Record<string, unknown>) => CustomStore

/** Asks a custom store. It counts every request, the denied too, and knows one policy and cost 1 only. */
export class CustomStoreAdapter implements Store {
  readonly #store: CustomStore
  readonly #suffix: string

  /** `suffix` stands behind every key: the group of a route. */
  constructor(store: CustomStore, suffix: string) {
    this.#store = store
    this.#suffix = suffix
  }

  check(check: Check): Promise<Answer> {
    return this.#ask('incr', check)
  }

  peek(check: Check): Promise<Answer> {
    if (typeof this.#store.read !== 'function') throw new StoreCannotRead()
    return this.#ask('read', check)
  }

  charge(): never {
    throw new StoreCannot('charge a cost')
  }

  refund(): never {
    throw new StoreCannot('refund a cost')
  }

  reset(): never {
    throw new StoreCannot('reset a key')
  }

  held(): number {
    return 0
  }

  close(): void {}

  #ask(method: 'incr' | 'read', check: Check): Promise<Answer> {
    const { limit, windowMs } = check.policies[0] as Policy
    return new Promise((resolve, reject) => {
      const callback: CustomStoreCallback = (error, result) => {
        if (error || result === undefined) {
          reject(error ?? new StoreCannot('leave out its result'))
          return
        }
        const { current, ttl } = result
        const allowed = current <= limit
        const policy = {
          used: current,
          resetMs: ttl,
          retryMs: allowed ? 0 : Math.max(1, ttl),
          denials: Math.max(0, current - limit),
        }
        resolve({ allowed, policies: [policy] })
      }
      this.#store[method]?.(check.key + this.#suffix, callback, windowMs, limit)
    })
  }
}
