import { isThenable } from '../awaitable.js'
import { clearTimeout, setTimeout } from '../clock.js'
import { StoreForeignKey } from '../errors.js'
import type { Answer, Check, Store } from './store.js'

/** Failures in a row after which a store is left alone. */
const FAILURES = 5
/** Milliseconds between two attempts to reach a store that is left alone. */
const PROBE_MS = 1000

/** Told once when a store is lost, with the reason, and once when it is back. */
export type StoreWatcher = (lost: Error | undefined) => void

/**
 * A circuit breaker: a store that fails again and again is no longer asked, so that no request waits for it. Once a
 * second it is tried behind the scenes, and the first answer brings it back.
 */
export class Breaker implements Store {
  readonly #store: Store
  readonly #watcher: StoreWatcher
  #failures = 0
  #lost: Error | undefined
  #probing: NodeJS.Timeout | undefined

  constructor(store: Store, watcher: StoreWatcher) {
    this.#store = store
    this.#watcher = watcher
  }

  check(check: Check): Answer | Promise<Answer> {
    return this.#guard(check, () => this.#store.check(check))
  }

  peek(check: Check): Answer | Promise<Answer> {
    return this.#guard(check, () => this.#store.peek(check))
  }

  charge(check: Check): void | Promise<void> {
    return this.#guard(check, () => this.#store.charge(check))
  }

  refund(check: Check): void | Promise<void> {
    return this.#guard(check, () => this.#store.refund(check))
  }

  reset(check: Check): void | Promise<void> {
    return this.#guard(check, () => this.#store.reset(check))
  }

  close(): void {
    clearTimeout(this.#probing)
    this.#store.close()
  }

  #guard<T>(check: Check, call: () => T | Promise<T>): T | Promise<T> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost)
    const answer = call()
    return isThenable(answer)
      ? Promise.resolve(answer).then(this.#succeeded, reason => this.#failed(reason, check.key))
      : answer
  }

  readonly #succeeded = <T>(answer: T): T => {
    this.#failures = 0
    return answer
  }

  #failed(reason: unknown, key: string): never {
    const error = reason instanceof Error ? reason : new Error(String(reason))
    // A foreign value under one key is no fault of the store, and other keys are well.
    if (!(error instanceof StoreForeignKey) && ++this.#failures === FAILURES) {
      this.#lost = error
      this.#watcher(error)
      this.#probeLater(probeOf(key))
    }
    throw error
  }

  #probeLater(probe: Check): void {
    this.#probing = setTimeout(() => void this.#probe(probe), PROBE_MS).unref()
  }

  async #probe(probe: Check): Promise<void> {
    try {
      await this.#store.charge(probe)
      this.#failures = 0
      this.#lost = undefined
      this.#watcher(undefined)
    } catch {
      this.#probeLater(probe)
    }
  }
}

/** Takes the same way as a request of that key, and writes what is gone within a few milliseconds. */
function probeOf(key: string): Check {
  const policy = { name: 'probe', limit: 1, windowMs: 1, cost: 1, log: 'probe', keepMs: 1 }
  return { key, limiter: 'probe', policies: [policy], penalty: 'none', precision: 0 }
}
