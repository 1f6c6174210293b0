import createError, { type FastifyErrorConstructor } from '@fastify/error'
import type { Decision } from './decision.js'

/** Said by name, because the type that TypeScript would write is not found by every module system. */
type ErrorClass = FastifyErrorConstructor<{ code: string; statusCode: number }>
type ErrorClassOf<Arguments extends unknown[]> = FastifyErrorConstructor<{ code: string }, Arguments>

/** A wrong option. Arguments: the option, the value given, what is allowed. */
export const InvalidOption: ErrorClassOf<[string, string, string]> = createError<[string, string, string]>(
  'ML_RATE_INVALID_OPTION',
  "option '%s' is %s; allowed: %s",
  500,
  TypeError,
)

/** A `config.rateLimit` that is neither an object nor `false`. */
export const InvalidRouteConfig: ErrorClass = createError(
  'ML_RATE_INVALID_ROUTE_CONFIG',
  'Unknown value for route rate-limit configuration',
  500,
  TypeError,
)

/** A `groupId` that is not a string. */
export const InvalidGroup: ErrorClass = createError('ML_RATE_INVALID_GROUP', 'groupId must be a string', 500, TypeError)

/** A callback of the options answered with something that cannot be used. Arguments: option, answer, what is allowed. */
export const InvalidAnswer: ErrorClassOf<[string, string, string]> = createError<[string, string, string]>(
  'ML_RATE_INVALID_ANSWER',
  "option '%s' returned %s; allowed: %s",
  500,
  TypeError,
)

/** A custom store without `read` was asked for a state without counting. */
export const StoreCannotRead: ErrorClass = createError(
  'ML_RATE_STORE_CANNOT_READ',
  'The configured rate-limit store does not implement a `read` method, which is required to use `{ increment: false }`',
  500,
)

/** A custom store was asked for something that `incr`, `child` and `read` cannot do. Argument: what. */
export const StoreCannot: ErrorClassOf<[string]> = createError<[string]>(
  'ML_RATE_STORE_CANNOT',
  'A custom store cannot %s: it counts one per request and nothing else',
  500,
)

/** The store did not answer in time. Argument: the time allowed, in milliseconds. */
export const StoreTimeout: ErrorClassOf<[number]> = createError<[number]>(
  'ML_RATE_STORE_TIMEOUT',
  'The rate limit store did not answer within %d ms',
  500,
)

/** The store holds a value of another kind under one of our keys; it was left as it is. */
export const StoreForeignKey: ErrorClass = createError(
  'ML_RATE_STORE_FOREIGN_KEY',
  'The rate limit store holds a foreign value under the key of this client',
  500,
)

/** A charge that would bring the total above 2^53 − 1, beyond which it could not be counted exactly. */
export const ChargeTooLarge: ErrorClass = createError(
  'ML_RATE_CHARGE_TOO_LARGE',
  'The cost cannot be counted: the total of a window must stay below 2^53',
  500,
  RangeError,
)

/**
 * The client of the store was closed for good. The code stands on the class: Fastify would copy an instance's code into
 * its default body, which clients of `@fastify/rate-limit` know without one.
 */
export class StoreClosed extends Error {
  static readonly code = 'ML_RATE_STORE_CLOSED'

  constructor() {
    super('Connection is closed.')
  }
}
Object.defineProperty(StoreClosed.prototype, 'name', { value: 'StoreClosed', configurable: true })

/** The store failed; the reason is in `cause`, and not in the message, which clients see. */
export const StoreFailed: ErrorClass = createError('ML_RATE_STORE_FAILED', 'The rate limit store failed', 500)

/** The store is out of reach, and `onStoreError` is 'deny'; or an operator's reset, refund or block did not happen. */
export const StoreUnavailable: ErrorClass = createError(
  'ML_RATE_STORE_UNAVAILABLE',
  'Rate limits cannot be checked at the moment, retry later',
  503,
  Error,
  false,
)

/**
 * A denial: 429, or 403 once the client is banned. It is an answer, not a fault, and so has no stack
 * (making one costs fifty times as much as the error itself).
 *
 * The code stands on the class and not on the instance, because Fastify copies an instance's `code` into its
 * default body, which clients of `@fastify/rate-limit` know without one.
 */
export class QuotaExceeded extends Error {
  static readonly code = 'ML_RATE_QUOTA_EXCEEDED'
  readonly statusCode: 429 | 403
  readonly decision: Decision

  constructor(after: string, statusCode: 429 | 403, decision: Decision) {
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0
    super(`Rate limit exceeded, retry in ${after}`)
    Error.stackTraceLimit = stackTraceLimit
    this.statusCode = statusCode
    this.decision = decision
  }

  /** With `expose`, as the errors of `http-errors` have it: NestJS and others answer with it in place of 500. */
  get status(): 429 | 403 {
    return this.statusCode
  }

  /** The message is for the client. */
  get expose(): true {
    return true
  }
}
Object.defineProperty(QuotaExceeded.prototype, 'name', { value: 'QuotaExceeded', configurable: true })
