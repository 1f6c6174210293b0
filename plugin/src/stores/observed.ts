import { isThenable } from '../awaitable.js'
import { monotonic } from '../clock.js'
import type { Answer, Check, Store } from './store.js'

/**
 * What became of one question to Redis, and `ms` milliseconds it took; or that Redis is left alone from now on
 * (`lost`), or asked as before (`back`).
 */
export type StoreEvent =
  | { readonly type: 'answered'; readonly ms: number }
  | { readonly type: 'failed'; readonly ms: number; readonly error: Error }
  | { readonly type: 'lost'; readonly error: Error }
  | { readonly type: 'back' }

export type StoreListener = (event: StoreEvent) => void

/** Tells of every question to another store. Stands in the way only of those who want to know. */
export class ObservedStore implements Store {
  readonly #store: Store
  readonly #listener: StoreListener

  constructor(store: Store, listener: StoreListener) {
    this.#store = store
    this.#listener = listener
  }

  check(check: Check): Answer | Promise<Answer> {
    return this.#observe(this.#store.check(check))
  }

  peek(check: Check): Answer | Promise<Answer> {
    return this.#observe(this.#store.peek(check))
  }

  charge(check: Check): void | Promise<void> {
    return this.#observe(this.#store.charge(check))
  }

  refund(check: Check): void | Promise<void> {
    return this.#observe(this.#store.refund(check))
  }

  reset(check: Check): void | Promise<void> {
    return this.#observe(this.#store.reset(check))
  }

  close(): void {
    this.#store.close()
  }

  #observe<T>(answer: T | Promise<T>): T | Promise<T> {
    if (!isThenable(answer)) return answer
    const since = monotonic()
    return Promise.resolve(answer).then(
      settled => {
        this.#listener({ type: 'answered', ms: monotonic() - since })
        return settled
      },
      reason => {
        const error = reason instanceof Error ? reason : new Error(String(reason))
        this.#listener({ type: 'failed', ms: monotonic() - since, error })
        throw reason
      },
    )
  }
}
