/** A limiter of the service: policies of one decision, some of which may be those of an API key and some of its owner. */
import type { FastifyRequest } from 'fastify'
import type { Decision, Keys, RateLimitHandler, RateLimitOptions, RateLimitStatus } from 'ml-api-rate-limiter'
import { partitionKeyOf, type Whose } from './callers.js'
import type { Charges } from './charges.js'
import type { PlanPolicy, Scope } from './plans.js'

type KeyGenerator = (request: FastifyRequest) => string

const KEYS: Readonly<Record<Scope, KeyGenerator>> = {
  key: request => (request.caller as Charges).identity.key,
  owner: request => (request.caller as Charges).identity.ownerKey,
}

type Cost = number | ((request: FastifyRequest) => number)

/** What a request costs policies of each unit. */
const COSTS: Readonly<Record<PlanPolicy['unit'], Cost>> = {
  requests: 1,
  rows: request => request.caller?.rows as number,
  'compute-ms': request => request.caller?.reservedMs as number,
  credits: request => request.caller?.credits as number,
}

export class ScopedLimiter {
  readonly limiter: RateLimitHandler
  /** Whose the requests in flight are. */
  readonly per: Scope
  /** Whose each policy is, by its name; undefined where all have the same. */
  readonly #scopes: readonly (readonly [name: string, per: Scope])[] | undefined

  /**
   * `mostInFlight`: requests in flight, undefined for any number. `make`: makes the limiter of policies whose key is this
   * one, unless they have a key of their own.
   */
  constructor(
    policies: readonly PlanPolicy[],
    mostInFlight: number | undefined,
    make: (options: RateLimitOptions) => RateLimitHandler,
  ) {
    const per = policies.some(each => each.per === 'key') ? 'key' : 'owner'
    this.per = per
    this.limiter = make({
      keyGenerator: KEYS[per],
      ...(mostInFlight === undefined ? {} : { concurrency: { max: mostInFlight } }),
      policies: policies.map(({ name, limit, windowMs, period, unit, per: own }) => ({
        name,
        max: limit,
        timeWindow: period === undefined ? windowMs : `calendar ${period}`,
        cost: COSTS[unit],
        ...(own === per ? {} : { keyGenerator: KEYS[own] }),
      })),
    })
    const isMixed = policies.some(each => each.per !== per)
    const names: [string, Scope][] = policies.map(each => [each.name, each.per])
    if (mostInFlight !== undefined) names.push(['concurrency', per])
    this.#scopes = isMixed ? names : undefined
  }

  /** Where a caller stands with each of its policies. Counts nothing. */
  status(whose: Whose): Promise<RateLimitStatus | null> {
    return this.limiter.status(this.#keysOf(whose))
  }

  /** The denial that a caller would meet now, where it is known at once. Counts nothing. */
  knownDenial(whose: Whose): Decision | undefined {
    return this.limiter.knownDenial(this.#keysOf(whose))
  }

  #keysOf(whose: Whose): Keys {
    if (this.#scopes === undefined) return partitionKeyOf(whose, this.per)
    return Object.fromEntries(this.#scopes.map(([name, per]) => [name, partitionKeyOf(whose, per)]))
  }
}
