import type { Policy } from '../policy.js'

/**
 * What a denial costs the client, beside the wait for its window:
 * `none` nothing; `count` denials inside the window are counted (for `ban`);
 * `renew` every denial starts a block of one window (`continueExceeding`);
 * `backoff` the n-th denial in a row starts a block of window × 2^(n−1) (`exponentialBackoff`).
 */
export type Penalty = 'none' | 'count' | 'renew' | 'backoff'

/** A limit on requests in flight: at most `max` permits, each ending by itself after `ttlMs` milliseconds. */
export interface Concurrency {
  readonly name: string
  readonly max: number
  readonly ttlMs: number
  /** Names the set of permits in the store. */
  readonly log: string
}

/** A pending check: may this key be charged these costs by all of these policies? */
export interface Check {
  /** Partition key: whose quota, penalties and permits. Any string. */
  readonly key: string
  /** The partition key of each policy, where policies have keys of their own. Penalties and permits go by `key`. */
  readonly keys?: readonly string[] | undefined
  /** Names the limiter that asks, whichever of its policies the check is about. */
  readonly limiter: string
  /** Those that decide come first. */
  readonly policies: readonly Policy[]
  /** How many of the policies decide. The others are charged with them, and deny nothing. */
  readonly decisive: number
  readonly penalty: Penalty
  readonly concurrency?: Concurrency | undefined
  /** Requests whose quota may be taken ahead in one call, at most; undefined where none may. */
  readonly prefetch?: number | undefined
}

/** The partition key of a policy of a check. */
export function keyAt({ key, keys }: Check, index: number): string {
  return keys?.[index] ?? key
}

/** A check and its answer for each of its keys; permits and penalties are left to the key of the check. */
export function byKey(check: Check, answer: Answer): readonly (readonly [Check, Answer])[] {
  const { keys } = check
  if (keys === undefined) return [[check, answer]]
  return [...new Set(keys)].map(key => {
    const isIts = (_value: unknown, index: number) => keys[index] === key
    const policies = check.policies.filter(isIts)
    const part = { ...check, key, keys: undefined, policies, decisive: policies.length }
    return [part, { ...answer, policies: answer.policies.filter(isIts) }]
  })
}

/** Identifies one admission in one log, so that a refund never takes other people's units. */
export interface Admission {
  /** The log's generation; another one begins when the log is made anew, reset or set back. */
  readonly generation: number
  /** Time of the admission by the clock of the store. */
  readonly time: number
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
  /** Milliseconds until the block of this key ends; undefined where it is not blocked. `retryMs` and `resetMs` cover it. */
  readonly blockedMs?: number | undefined
  /** Units of grants that this replica holds and has not spent. They count for all others and not in `used`. */
  readonly prefetched?: number | undefined
  /** What was charged here, for a refund; undefined where nothing was. */
  readonly admission?: Admission | undefined
  /** Of a peek: units in entries dated ahead of the clock, taken ahead by any replica, spent or not. Part of `used`. */
  readonly ahead?: number | undefined
}

/** Denied by one policy or by concurrency means charged by none, and no permit taken. */
export interface Answer {
  readonly allowed: boolean
  /** One for each policy of the check, in its order. */
  readonly policies: readonly PolicyAnswer[]
  readonly concurrency?: { readonly inFlight: number; readonly violated: boolean; readonly lease?: Lease } | undefined
}

/** A permit: one request in flight. */
export interface Lease {
  /** Gives the permit back; more than once is as good as once. Never throws. */
  release(): void
}

/** A budget of the check is for a period that is over, or has not begun, by the clock of the store. Nothing was changed. */
export class OtherPeriod extends Error {
  override readonly name = 'OtherPeriod'
}

/** Cost to give back to one log. */
export interface Refund {
  readonly policy: Policy
  readonly cost: number
  /** Whose cost it is. Undefined: an operator's refund, which takes the oldest units whoever was charged for them. */
  readonly admission: Admission | undefined
  /** The cost was taken ahead and not used: it comes off its own entry instead of off the oldest units. */
  readonly isAhead?: boolean | undefined
  /** The partition key of the log. Undefined: that of the check. */
  readonly key?: string | undefined
}

/** Everything that limiters keep about a key, by name. */
export interface Names {
  readonly limiters: readonly string[]
  readonly logs: readonly string[]
  /** Sets of permits. */
  readonly permits: readonly string[]
}

/** A log that holds the end of a block, and the length of its window in milliseconds. */
export interface BlockLog {
  readonly log: string
  readonly windowMs: number
}

/** Where to block a key: the limiters that deny it, and the logs that they read. */
export interface BlockPlaces {
  readonly limiters: readonly string[]
  readonly logs: readonly BlockLog[]
}

/** The name of the log that holds the end of a block. */
export function blockLogOf({ log, blockLog = log }: Policy): string {
  return blockLog
}

/**
 * Keeps the logs. Each method is one atomic step for all policies of the check; a failure of the store is an error
 * thrown or a promise rejected, never an answer. Stores that need no waiting answer at once.
 */
export interface Store {
  /** Admits and charges, or denies and leaves everything as it was. Rejects with OtherPeriod; `now` then tells the period. */
  check(check: Check): Answer | Promise<Answer>
  /** What `check` would answer, changing nothing. */
  peek(check: Check): Answer | Promise<Answer>
  /**
   * The denial that `check` would answer with, where the store can tell at once. Changes nothing. Undefined where the
   * check may be allowed, or where only waiting could tell. A store without this method can never tell.
   */
  knownDenial?(check: Check): Answer | undefined
  /** Charges what is only known now; may overdraw the quota. Throws ChargeTooLarge for what cannot be counted. */
  charge(check: Check): Answer | Promise<Answer>
  /**
   * Gives cost back, never more than is used, and nothing for an admission that has left its window or whose log was
   * made anew. Happens once, within the time that a check has. Returns the cost given back, for each refund.
   */
  refund(check: Check, refunds: readonly Refund[]): readonly number[] | Promise<readonly number[]>
  /** Forgets logs, penalties and permits of a key. */
  reset(key: string, names: Names): void | Promise<void>
  /**
   * Denies a key for a time, whatever its usage; `reset` ends it. Another block replaces the one before. Throws StoreCannot
   * in a store that has none.
   */
  block(key: string, places: BlockPlaces, durationMs: number): void | Promise<void>
  /** Milliseconds since 1970 by the clock of the store where it holds this key. Absent: that of this process. */
  now?(key: string): number | undefined
  /** Permits that this process holds for a key. Absent in stores that give none. */
  held?(key: string, permits: string): number
  /**
   * Soon it is closed. Takes nothing ahead any more, and gives back what is out; resolves once that was sent. Absent in
   * stores that take nothing ahead.
   */
  drain?(): Promise<void>
  /** Stops timers. The user's Redis client stays open. */
  close(): void
}
