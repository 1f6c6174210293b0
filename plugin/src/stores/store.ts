import type { Policy } from '../policy.js'

/**
 * What a denial costs the client, beside the wait for its window:
 * `none` nothing; `count` denials inside the window are counted (for `ban`);
 * `renew` every denial starts a block of one window (`continueExceeding`);
 * `backoff` the n-th denial in a row starts a block of window × 2^(n−1) (`exponentialBackoff`).
 */
export type Penalty = 'none' | 'count' | 'renew' | 'backoff'

/** A limit on requests in flight: at most `max` leases, each ending by itself after `ttlMs` milliseconds. */
export interface Concurrency {
  readonly name: string
  readonly max: number
  readonly ttlMs: number
  readonly log: string
}

/** One question to a store: may this key be charged these costs by all of these policies? */
export interface Check {
  /** Partition key: whose quota. Any string. */
  readonly key: string
  /** Names the limiter that asks, whichever of its policies the check is about. */
  readonly limiter: string
  readonly policies: readonly Policy[]
  readonly penalty: Penalty
  /** A fraction of the window; see `sliceLength`. */
  readonly precision: number
  readonly concurrency?: Concurrency | undefined
}

export interface PolicyAnswer {
  /** Cost counted in the window, this request included if it was admitted. */
  readonly used: number
  /** Milliseconds until more quota arrives; 0 when none is used. */
  readonly resetMs: number
  /** Milliseconds until this cost fits if nothing else is admitted; 0 where the policy does not stand in the way. */
  readonly retryMs: number
  /** Denials that count towards a ban, this one included; 0 without a penalty. */
  readonly denials: number
}

/** Denied by one policy or by concurrency means charged by none, and no lease taken. */
export interface Answer {
  readonly allowed: boolean
  /** One for each policy of the check, in its order. */
  readonly policies: readonly PolicyAnswer[]
  readonly concurrency?: { readonly inFlight: number; readonly violated: boolean; readonly lease?: Lease } | undefined
}

/** A place among the requests in flight. */
export interface Lease {
  /** Gives the place back; more than once is as good as once. Never throws. */
  release(): void
}

/**
 * Keeps the logs. Each method is one atomic step for all policies of the check; a failure of the store is an error
 * thrown or a promise rejected, never an answer. Stores that need no waiting answer at once.
 */
export interface Store {
  /** Admits and charges, or denies and leaves everything as it was. */
  check(check: Check): Answer | Promise<Answer>
  /** What `check` would answer, changing nothing. */
  peek(check: Check): Answer | Promise<Answer>
  /** Charges what is only known now; may overdraw the quota. */
  charge(check: Check): void | Promise<void>
  /** Gives cost back; never more than was used. */
  refund(check: Check): void | Promise<void>
  /** Forgets the key: its logs, its penalties and its leases. */
  reset(check: Check): void | Promise<void>
  /** Stops timers. The user's Redis client stays open. */
  close(): void
}
