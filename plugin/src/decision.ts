import type { Period } from './period.js'
import { type Answer, type Check, keyAt, type PolicyAnswer } from './stores/store.js'

/** Quota units registered by draft-ietf-httpapi-ratelimit-headers, section "Quota Unit". */
export type QuotaUnit = 'requests' | 'content-bytes' | 'concurrent-requests'

/** Where one policy stands after a decision. */
export interface PolicyState {
  readonly name: string
  /** Whose quota it is: the decision's key, unless the policy has a key of its own. */
  readonly key: string
  readonly unit: QuotaUnit
  /** Quota: cost units allowed in any one window (`max`), or requests in flight. */
  readonly limit: number
  /** Window length in milliseconds; 0 for requests in flight, which have none. */
  readonly windowMs: number
  /** Of a budget: its calendar period, which does not slide; `windowMs` is the longest that it may be. */
  readonly period?: Period | undefined
  /** Cost units still to be had now. */
  readonly remaining: number
  /** Milliseconds until more quota arrives (the oldest admission leaves the window); 0 when none is used. */
  readonly reset: number
  /** Milliseconds until the block of this key ends; only while it is blocked by `rateLimiter.block`. */
  readonly blocked?: number
  /** Of `status` with Redis: cost units that this replica has taken ahead and not spent. They are part of `remaining`. */
  readonly prefetched?: number
  /** Of `status` with Redis: cost units that replicas took ahead until a time that is not over, spent or not. */
  readonly ahead?: number
}

/**
 * The one answer to a check; headers, errors and callbacks are made from it and nothing is computed twice.
 * Denied means that nothing was charged.
 */
export interface Decision {
  /** Whose quota it is. */
  readonly key: string
  readonly allowed: boolean
  /** One for each policy; requests in flight last, where they are limited. */
  readonly policies: readonly PolicyState[]
  /** The one that binds: allowed, the window with the least left; denied, the one that frees last. */
  readonly binding: PolicyState
  /** Milliseconds after which this cost fits if nobody else uses the key; 0 when allowed. */
  readonly retryAfterMs: number
  /** Names of the policies that stood in the way; empty when allowed. */
  readonly violated: readonly string[]
  /** Denied more often than `ban` allows. */
  readonly banned: boolean
  /** False when the store gave no answer and the request passed all the same: `remaining` and `reset` mean nothing. */
  readonly known: boolean
}

/** How long a client is told to wait for a place among the requests in flight: nobody knows when one ends. */
const CONCURRENCY_RETRY_MS = 1000

/** Of a decision that lets a request pass. */
const NONE: readonly string[] = Object.freeze([])

/** Units by policy name are fixed at start and travel beside the check. */
export type Units = Readonly<Record<string, QuotaUnit>>

export function decide(check: Check, answer: Answer, ban: number, units: Units): Decision {
  const policies: PolicyState[] = []
  let violated = NONE
  let binding: PolicyState | undefined
  let retryAfterMs = 0
  let banned = false
  for (let index = 0; index < check.decisive; index++) {
    const { name, limit, windowMs, span } = check.policies[index] as Check['policies'][number]
    const {
      used,
      denials,
      prefetched = 0,
      ahead,
      resetMs,
      retryMs: waitMs,
      blockedMs,
    } = answer.policies[index] as PolicyAnswer
    // A budget frees everything at once, at the end of its period.
    let retryMs = span !== undefined && waitMs > (blockedMs ?? 0) ? span.leftMs : waitMs
    let state: PolicyState = {
      name,
      key: keyAt(check, index),
      unit: units[name] as QuotaUnit,
      limit,
      windowMs,
      remaining: Math.max(0, limit - used),
      reset: span !== undefined && used > 0 ? span.leftMs : resetMs,
    }
    if (span !== undefined) state = { ...state, period: span.period }
    if (ahead !== undefined) state = { ...state, prefetched, ahead }
    if (blockedMs !== undefined) {
      const reset = used < limit ? blockedMs : Math.max(state.reset, blockedMs)
      state = { ...state, remaining: 0, reset, blocked: blockedMs }
      if (waitMs > 0) retryMs = Math.max(retryMs, blockedMs)
    }
    policies.push(state)
    if (retryMs > 0) {
      violated = [...violated, name]
      if (ban >= 0 && denials > ban) banned = true
    }
    const binds = answer.allowed ? state.remaining < (binding?.remaining ?? Infinity) : retryMs > retryAfterMs
    if (binds || binding === undefined) binding = state
    retryAfterMs = Math.max(retryAfterMs, retryMs)
  }
  if (check.concurrency !== undefined && answer.concurrency !== undefined) {
    const { name, max } = check.concurrency
    const state = {
      name,
      key: check.key,
      unit: 'concurrent-requests' as const,
      limit: max,
      windowMs: 0,
      remaining: Math.max(0, max - answer.concurrency.inFlight),
      reset: answer.concurrency.violated ? CONCURRENCY_RETRY_MS : 0,
    }
    policies.push(state)
    if (answer.concurrency.violated) {
      violated = [...violated, name]
      if (retryAfterMs < CONCURRENCY_RETRY_MS) {
        binding = state
        retryAfterMs = CONCURRENCY_RETRY_MS
      }
    }
  }
  return {
    key: check.key,
    allowed: answer.allowed,
    policies,
    binding: binding as PolicyState,
    retryAfterMs: answer.allowed ? 0 : retryAfterMs,
    violated,
    banned: banned && !answer.allowed,
    known: true,
  }
}

/** The request passes because the store cannot be asked: the quotas are known, what is left of them is not. */
export function pass(check: Check, units: Units): Decision {
  const policies: PolicyState[] = check.policies
    .slice(0, check.decisive)
    .map(({ name, limit, windowMs, span }, index) => ({
      name,
      key: keyAt(check, index),
      unit: units[name] as QuotaUnit,
      limit,
      windowMs,
      remaining: limit,
      reset: 0,
      ...(span === undefined ? {} : { period: span.period }),
    }))
  const binding = policies.reduce(
    (least, policy) => (policy.limit < least.limit ? policy : least),
    policies[0] as PolicyState,
  )
  if (check.concurrency !== undefined) {
    const { name, max } = check.concurrency
    policies.push({
      name,
      key: check.key,
      unit: 'concurrent-requests',
      limit: max,
      windowMs: 0,
      remaining: max,
      reset: 0,
    })
  }
  return {
    key: check.key,
    allowed: true,
    policies,
    binding,
    retryAfterMs: 0,
    violated: NONE,
    banned: false,
    known: false,
  }
}

/** Milliseconds as whole seconds, rounded up. */
export function seconds(ms: number): number {
  return Math.ceil(ms / 1000)
}
