import { StoreForeignKey } from '../errors.js'
import type { Answer, Check, Store } from './store.js'

/** Failures in a row after which a store is left alone. */
const FAILURES = 5
/** Milliseconds between two attempts to reach a store that is left alone. */
const PROBE_MS = 1000

/** Told once when a store is lost, with the reason, and once when it is back. */
export type StoreWatcher = (lost: Error | undefined) => void

/**
 * A circuit breaker: a store that fails again and again is no longer asked, so that no request waits for it; one
 * request a second tries it, and the first that is answered brings it back.
 */
export class Breaker implements Store {
  readonly #store: Store
  readonly #watcher: StoreWatcher
  #failures = 0
  #nextProbe = 0
  #lost: Error | undefined

  constructor(store: Store, watcher: StoreWatcher) {
    this.#store = store
    this.#watcher = watcher
  }

  check(check: Check): Answer | Promise<Answer> {
    return this.#guard(() => this.#store.check(check))
  }

  peek(check: Check): Answer | Promise<Answer> {
    return this.#guard(() => this.#store.peek(check))
  }

  charge(check: Check): void | Promise<void> {
    return this.#guard(() => this.#store.charge(check))
  }

  refund(check: Check): void | Promise<void> {
    return this.#guard(() => this.#store.refund(check))
  }

  reset(check: Check): void | Promise<void> {
    return this.#guard(() => this.#store.reset(check))
  }

  close(): void {
    this.#store.close()
  }

  #guard<T>(call: () => T | Promise<T>): T | Promise<T> {
    if (this.#lost !== undefined) {
      const now = performance.now()
      if (now < this.#nextProbe) return Promise.reject(this.#lost)
      this.#nextProbe = now + PROBE_MS
    }
    const answer = call()
    return answer instanceof Promise ? answer.then(this.#succeeded, this.#failed) : answer
  }

  readonly #succeeded = <T>(answer: T): T => {
    this.#failures = 0
    if (this.#lost !== undefined) {
      this.#lost = undefined
      this.#watcher(undefined)
    }
    return answer
  }

  readonly #failed = (reason: unknown): never => {
    const error = reason instanceof Error ? reason : new Error(String(reason))
    // A foreign value under one key is no fault of the store, and other keys are well.
    if (!(error instanceof StoreForeignKey) && ++this.#failures === FAILURES) {
      this.#lost = error
      this.#nextProbe = performance.now() + PROBE_MS
      this.#watcher(error)
    }
    throw error
  }
}
