import { isThenable } from '../awaitable.js'
import { clearTimeout, setImmediate, setTimeout } from '../clock.js'
import { InvalidAnswer, InvalidOption, StoreCannot, StoreCannotRead, StoreTimeout } from '../errors.js'
import { show } from '../options/kinds.js'
import { limiterOptions } from '../options/table.js'
import type { Policy } from '../policy.js'
import type { Answer, Check, Store } from './store.js'

/** `(error, result)`: `current` is the count in the window, this request included; `ttl` milliseconds to its end. */
export type CustomStoreCallback = (error: Error | null, result?: { current: number; ttl: number }) => void

/**
 * What a store is made of. Any member may have any type, so that a class whose own types say more is a store too, such as
 * one that was written for `@fastify/rate-limit`.
 */
// biome-ignore lint/suspicious/noExplicitAny: no other type is one that all of these are assignable to
export type CustomStoreOptions = Record<string, any>

/** A store as `@fastify/rate-limit` has them: it counts requests in windows of its own making. */
export interface CustomStore {
  /** Answers by its callback. It may also return a promise, whose rejection is a failure of the store. */
  incr(key: string, callback: CustomStoreCallback, timeWindow: number, max: number): void
  /** Reads without counting; needed for `{ increment: false }` only. */
  read?(key: string, callback: CustomStoreCallback, timeWindow: number, max: number): void
  /** A store for one route: the options of the registration and the route, and the route itself in `routeInfo`. */
  child(options: CustomStoreOptions): CustomStore
}

export type CustomStoreConstructor = new (options: CustomStoreOptions) => CustomStore

/** Makes a store. Throws InvalidOption where `Store` is no class, or its objects are no stores. */
export function newCustomStore(Store: CustomStoreConstructor, options: CustomStoreOptions): CustomStore {
  if (!isConstructor(Store)) throw notAStore('a function that is no class')
  return checkedStore(new Store(options), () => "a class whose objects have no method 'incr'")
}

/** The store of a route. Throws InvalidOption where a store gives none. */
export function childOf(store: CustomStore, options: CustomStoreOptions): CustomStore {
  if (typeof store.child !== 'function') throw notAStore("a class whose objects have no method 'child'")
  return checkedStore(store.child(options), child => `a class whose child() returned ${show(child)} without an incr()`)
}

function checkedStore(store: CustomStore, lack: (store: unknown) => string): CustomStore {
  if (typeof (store as Partial<CustomStore> | undefined)?.incr !== 'function') throw notAStore(lack(store))
  return store
}

function notAStore(what: string): Error {
  return new InvalidOption('store', what, limiterOptions.store.allowed)
}

/** Calls nothing. */
function isConstructor(value: CustomStoreConstructor): boolean {
  try {
    Reflect.construct(Object, [], value)
    return true
  } catch {
    return false
  }
}

export interface CustomStoreSettings {
  /** Stands behind every key: the group of a route. */
  readonly suffix: string
  /** Milliseconds after which a call is given up. */
  readonly timeoutMs: number
}

/** Asks a custom store. It counts every request, the denied too, and knows one policy and cost 1 only. */
export class CustomStoreAdapter implements Store {
  readonly #store: CustomStore
  readonly #settings: CustomStoreSettings

  constructor(store: CustomStore, settings: CustomStoreSettings) {
    this.#store = store
    this.#settings = settings
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

  block(): never {
    throw new StoreCannot('block a key')
  }

  close(): void {}

  /** What the store does first settles it: an answer, an error, a throw, a rejection. After that, or too late, nothing does. */
  #ask(method: 'incr' | 'read', check: Check): Promise<Answer> {
    const { suffix, timeoutMs } = this.#settings
    const { limit, windowMs } = check.policies[0] as Policy
    return new Promise((resolve, reject) => {
      let settled = false
      let timer: NodeJS.Timeout | undefined
      const settle = (error: unknown, answer?: Answer) => {
        settled = true
        clearTimeout(timer)
        if (answer === undefined) reject(error)
        else resolve(answer)
      }
      const fail = (reason: unknown) => settle(errorOf(reason))
      const callback: CustomStoreCallback = (error, result) => {
        if (error) fail(error)
        else answerOf(result, limit, settle)
      }
      try {
        const returned: unknown = this.#store[method]?.(check.key + suffix, callback, windowMs, limit)
        if (isThenable(returned)) Promise.resolve(returned).catch(fail)
      } catch (error) {
        fail(error)
      }
      // An answer that has arrived while this process was busy is read before the call is given up.
      if (!settled) timer = setTimeout(() => setImmediate(settle, new StoreTimeout(timeoutMs)), timeoutMs)
    })
  }
}

function answerOf(result: unknown, limit: number, settle: (error: unknown, answer?: Answer) => void): void {
  const { current, ttl } = (result ?? {}) as { readonly current?: unknown; readonly ttl?: unknown }
  const [counted, leftMs] = [numberOf(current), numberOf(ttl)]
  if (!Number.isFinite(counted) || !Number.isFinite(leftMs)) {
    const answer = `current ${said(current)} and ttl ${said(ttl)}`
    settle(new InvalidAnswer('store', answer, '{ current, ttl }, two finite numbers'))
    return
  }
  const used = Math.max(0, counted)
  const resetMs = Math.max(0, leftMs)
  const allowed = used <= limit
  const policy = { used, resetMs, retryMs: allowed ? 0 : Math.max(1, resetMs), denials: Math.max(0, used - limit) }
  settle(undefined, { allowed, policies: [policy] })
}

/** Clients may see it, so mostly its type alone. */
function said(value: unknown): string {
  return typeof value === 'number' && !Number.isFinite(value) ? String(value) : typeof value
}

/** Databases often give a count as text or as a bigint. */
function numberOf(value: unknown): number {
  return typeof value === 'number' || typeof value === 'bigint' || (typeof value === 'string' && value !== '')
    ? Number(value)
    : Number.NaN
}

/** Stores reject with anything; what is no object says nothing by itself. */
function errorOf(reason: unknown): object {
  return typeof reason === 'object' && reason !== null ? reason : new Error(`the store failed: ${String(reason)}`)
}
