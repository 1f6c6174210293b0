import { type Decision, seconds } from './decision.js'
import type { Outcome } from './limiter.js'

/** What a function made by `createRateLimit` answers, with the fields of `@fastify/rate-limit`. */
export type CreatedRateLimit =
  | {
      /** On the allow list. */
      readonly isAllowed: true
      readonly key: string
    }
  | {
      /** Not on the allow list; whether the request may pass is said by `isExceeded`. */
      readonly isAllowed: false
      readonly key: string
      readonly max: number
      /** Milliseconds. */
      readonly timeWindow: number
      readonly remaining: number
      /** Milliseconds until more quota arrives or, when exceeded, until the request would fit. */
      readonly ttl: number
      readonly ttlInSeconds: number
      readonly isExceeded: boolean
      readonly isBanned: boolean
      /** The whole decision, every policy of it. Not part of the JSON of this object. */
      readonly decision: Decision
    }

export function createdRateLimit(outcome: Outcome): CreatedRateLimit {
  if (outcome.listed) return { isAllowed: true, key: outcome.key as string }
  const { decision } = outcome
  const { binding, allowed } = decision
  const ttl = allowed ? binding.reset : decision.retryAfterMs
  const created = {
    isAllowed: false as const,
    key: outcome.key as string,
    max: binding.limit,
    timeWindow: binding.windowMs,
    remaining: allowed ? binding.remaining : 0,
    ttl,
    ttlInSeconds: seconds(ttl),
    isExceeded: !allowed,
    isBanned: decision.banned,
  }
  return Object.defineProperty(created, 'decision', { value: decision }) as CreatedRateLimit
}
