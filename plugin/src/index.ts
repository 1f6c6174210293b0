import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import type { AnyReply, AnyRequest } from './any-request.js'
import { type CreatedRateLimit, createdRateLimit } from './created.js'
import type { Decision, PolicyState } from './decision.js'
import { guard, MET, type RateLimitRefusal, refusalOf } from './guard.js'
import type { RequestRateLimit } from './live-decision.js'
import type { Cost, Keys } from './options/answers.js'
import type { CreateRateLimitOptions, RateLimitOptions, RateLimitPluginOptions } from './options/table.js'
import { Registration } from './registration.js'
import { limitRoutes } from './routes.js'

/** Where a key stands, without counting anything. */
export interface RateLimitStatus {
  /** As it was asked for; of a request, that of the limiter. */
  readonly key: Keys
  readonly policies: readonly PolicyState[]
}

/**
 * The quotas of a registration by hand. `key`: for every policy, or an object of keys by policy name, which leaves other
 * policies alone. `request` is for options that are functions of the request.
 */
export interface RateLimiter {
  /**
   * Where a key stands with the policies of the registration. Counts nothing. Null where the store cannot be asked and
   * `onStoreError` is 'allow'.
   */
  status(key: Keys, request?: AnyRequest): Promise<RateLimitStatus | null>
  /**
   * Gives a key its whole quota back, with every limiter of the registration. Rejects with StoreUnavailable
   * (`ML_RATE_STORE_UNAVAILABLE`) where the store could not be asked.
   */
  reset(key: Keys): Promise<void>
  /**
   * An operator's act: takes up to `cost` units off the oldest of a key, whoever was charged for them, with the policies
   * of the registration (a number for every policy, an object by policy name). The key may then be served that much
   * more, so that a window can hold its quota and `cost` beyond it. `request.rateLimit.refund()` has no such effect.
   * Rejects with StoreUnavailable (`ML_RATE_STORE_UNAVAILABLE`) where the store could not be asked.
   */
  refund(key: Keys, cost: Cost, request?: AnyRequest): Promise<void>
  /**
   * Denies a key for a time, whatever it has used, with every limiter of the registration and in every replica. `duration`:
   * milliseconds ≥ 1, or a duration such as '1 hour'. Another block replaces the one before, and `reset` ends it. Clients
   * on the allow list are not blocked.
   *
   * Rejects with InvalidOption (`ML_RATE_INVALID_OPTION`) for another duration, with StoreUnavailable
   * (`ML_RATE_STORE_UNAVAILABLE`) where the store could not be asked: then the key is not blocked; and with StoreCannot
   * (`ML_RATE_STORE_CANNOT`) with a custom store.
   */
  block(key: Keys, duration: number | string): Promise<void>
}

/** A hook handler that holds each request against one limiter. */
export interface RateLimitHandler {
  (request: AnyRequest, reply: AnyReply): Promise<void>
  /**
   * The same for hooks in the callback style: what the request is to be answered with where it is denied, else nothing,
   * and a promise of it only where something has to be waited for. Throws, or rejects, with anything else that fails.
   */
  check(request: AnyRequest, reply: AnyReply): object | undefined | Promise<object | undefined>
  /**
   * Where the client of a request, or a key, stands with this limiter. Counts nothing. Null where the store cannot be
   * asked and `onStoreError` is 'allow'.
   */
  status(of: AnyRequest | Keys): Promise<RateLimitStatus | null>
  /**
   * The denial that a request with this key would meet now, where it is known at once: from the denials that this
   * process remembers (`denyMemory`), or from the counts that it keeps itself. Counts nothing and calls nobody. It is for
   * a server that refuses before a request object exists. Undefined where the request may be allowed, and always where
   * that depends on the request (functions, an allow list), where a denial has consequences (`ban`, `continueExceeding`,
   * `exponentialBackoff`), with `mode: 'report'` and with an `errorResponseBuilder`. Where policies have keys of their own,
   * it needs the key of each of them.
   */
  knownDenial(key: Keys): Decision | undefined
  /** What a request that such a decision denies is answered with: the error, and the header fields. */
  refusalOf(decision: Decision): RateLimitRefusal
}

declare module 'fastify' {
  interface FastifyInstance {
    /** A hook handler that always runs, for a single route or the not-found handler. */
    rateLimit(options?: CreateRateLimitOptions): RateLimitHandler
    /** A function to ask by hand; answers and sets no header. */
    createRateLimit(
      options?: CreateRateLimitOptions,
    ): (request: AnyRequest, callOptions?: { increment?: boolean }) => Promise<CreatedRateLimit>
    rateLimiter: RateLimiter
  }
  interface FastifyRequest {
    /** The decision of the last limiter that this request met; null before, and for clients on the allow list. */
    rateLimit: RequestRateLimit | null
  }
  interface FastifyContextConfig {
    rateLimit?: RateLimitOptions | false
  }
}

/**
 * Limits how much a client may ask, by an exact sliding window: in Redis, shared by all replicas, or in this process.
 *
 * Throws InvalidOption (`ML_RATE_INVALID_OPTION`) when it is registered with an option that cannot be met.
 */
const rateLimit: FastifyPluginAsync<RateLimitPluginOptions> = async (app, given) => {
  const registration = new Registration(app, given)
  if (!app.hasRequestDecorator('rateLimit')) app.decorateRequest('rateLimit', null)
  if (!app.hasRequestDecorator(MET)) app.decorateRequest(MET, null)

  decorate(app, 'createRateLimit', (options?: CreateRateLimitOptions) => {
    const limiter = registration.byHand('created', options)
    return async (request: FastifyRequest, callOptions?: { increment?: boolean }) =>
      createdRateLimit(await limiter.decide(request, callOptions?.increment === false))
  })
  decorate(app, 'rateLimit', (options?: CreateRateLimitOptions): RateLimitHandler => {
    const limiter = options === undefined ? registration.main : registration.byHand('attached', options)
    const check = (request: FastifyRequest, reply: FastifyReply) => guard(limiter, request, reply)
    const hold = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
      const denial = await check(request, reply)
      if (denial !== undefined) throw denial
    }
    const status = async (of: FastifyRequest | Keys): Promise<RateLimitStatus | null> => {
      const isRequest = typeof of === 'object' && typeof of?.raw === 'object'
      const decision = await (isRequest
        ? limiter.statusOf(of as FastifyRequest)
        : limiter.status(of as Keys, undefined))
      return decision && { key: isRequest ? decision.key : (of as Keys), policies: decision.policies }
    }
    const knownDenial = (key: Keys): Decision | undefined => limiter.knownDenial(key)
    return Object.assign(hold, {
      check,
      status,
      knownDenial,
      refusalOf: (decision: Decision) => refusalOf(limiter, decision),
    }) as RateLimitHandler
  })
  decorate(app, 'rateLimiter', {
    status: async (key, request) => {
      const decision = await registration.main.status(key, request as FastifyRequest)
      return decision && { key, policies: decision.policies }
    },
    reset: key => registration.reset(key),
    refund: (key, cost, request) => registration.main.refund(key, cost, request as FastifyRequest),
    block: (key, duration) => registration.block(key, duration),
  } satisfies RateLimiter)

  limitRoutes(app, registration)
  app.addHook('preClose', () => registration.drain())
  app.addHook('onClose', () => registration.close())
}

/** A nested registration has decorators of its own; beside another, the first keeps the names. */
function decorate(app: FastifyInstance, name: string, value: unknown): void {
  if (!app.hasDecorator(name)) app.decorate(name, value as never)
  else if (!Object.hasOwn(app, name)) Object.defineProperty(app, name, { value, enumerable: true, configurable: true })
}

export default fp(rateLimit, { name: 'ml-api-rate-limiter', fastify: '5.x' })

export { normalizeIP } from './address.js'
export type { AnyReply, AnyRequest } from './any-request.js'
export type { RedisAdapter, RedisClient } from './clients/index.js'
export type { CreatedRateLimit } from './created.js'
export type { Decision, PolicyState, QuotaUnit } from './decision.js'
export {
  ChargeTooLarge,
  InvalidAnswer,
  InvalidGroup,
  InvalidOption,
  InvalidRouteConfig,
  QuotaExceeded,
  StoreCannot,
  StoreCannotRead,
  StoreClosed,
  StoreFailed,
  StoreForeignKey,
  StoreTimeout,
  StoreUnavailable,
} from './errors.js'
export type { RateLimitRefusal } from './guard.js'
export type { RequestRateLimit } from './live-decision.js'
export type { Cost, Keys } from './options/answers.js'
export type {
  CreateRateLimitOptions,
  ErrorResponseContext,
  OnDecision,
  OnStoreError,
  RateLimitHook,
  RateLimitOptions,
  RateLimitPluginOptions,
  RateLimitPolicy,
  RefundOn,
} from './options/table.js'
export type { CustomStore, CustomStoreCallback, CustomStoreConstructor } from './stores/custom.js'
export type { SharedCountsOptions } from './stores/processes/shared-counts.js'
export { SharedCounts } from './stores/processes/shared-counts.js'
export type { CountsLink } from './stores/processes/shared-store.js'
export type { StoreEvent, StoreListener } from './stores/redis/events.js'
