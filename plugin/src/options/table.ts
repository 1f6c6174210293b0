import { parse as parseDuration } from '@lukeed/ms'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Awaitable } from '../awaitable.js'
import type { RedisClient } from '../clients/index.js'
import type { Decision } from '../decision.js'
import { isFieldString } from '../headers.js'
import { periodOf } from '../period.js'
import type { CustomStoreConstructor } from '../stores/custom.js'
import type { CountsLink } from '../stores/processes/shared-store.js'
import type { StoreListener } from '../stores/redis/events.js'
import {
  isFlag,
  isFunction,
  isInteger,
  isListOf,
  isNull,
  isNumber,
  isObject,
  isText,
  kind,
  type Options,
  oneOf,
  required,
  type Test,
} from './kinds.js'

/**
 * The tables of all options. Checks, the texts of errors and the types that users see follow from them; the tables in
 * `docs/options.md` are written by `npm run docs` from the comments here: the text is the meaning, `@default` the value if
 * the option is left out, and `@example` one use.
 */

/** A value, or a function of the request that gives it. */
export type PerRequest<T> = T | ((request: FastifyRequest, key: string) => Awaitable<T>)
/** What it returns is not used. */
export type Callback = (request: FastifyRequest, key: string) => void
/** Gets every decision about a request, before its headers are set. */
export type OnDecision = (request: FastifyRequest, decision: Decision) => void
/** Whether a request gets its cost back when its response is done. */
export type RefundOn = (request: FastifyRequest, reply: FastifyReply) => Awaitable<boolean>

/** What `errorResponseBuilder` gets. */
export interface ErrorResponseContext {
  readonly statusCode: number
  /** The client is banned: 403 instead of 429. */
  readonly ban: boolean
  /** Quota of the policy that binds. */
  readonly max: number
  /** Milliseconds until the request would be allowed. */
  readonly ttl: number
  /** The same in words: `1 minute`. */
  readonly after: string
}

/** Header names with whether to set them. */
export type Flags = Readonly<Record<string, boolean>>

/** What a timer can be set to; beyond it fires at once. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1

/** Milliseconds, or a duration in words that comes to so many. */
const isDuration =
  (min: number, max = Infinity): Test =>
  value =>
    isNumber(min, max)(typeof value === 'string' ? parseDuration(value) : value)

/** What headers and decisions call the limit on requests in flight. */
export const CONCURRENCY = 'concurrency'

const isPolicyName: Test = value =>
  typeof value === 'string' && value.length <= 64 && isFieldString(value) && value !== CONCURRENCY

const flag = kind<boolean>('true or false', isFlag)
const flags = kind<Flags>(
  'an object of header names with true or false',
  value => isObject(value) && Object.values(value as object).every(isFlag),
)
const onEvent = kind<Callback>('a function (request, key)', isFunction)
const max = kind<PerRequest<number>>(
  'a number ≥ 0, or a function (request, key) that returns one',
  isNumber(0),
  isFunction,
)
const timeWindow = kind<PerRequest<number> | string>(
  "milliseconds ≥ 1, a duration such as '10 seconds' or '1 minute', or a function (request, key) that returns milliseconds",
  isDuration(1),
  isFunction,
)
const windowOrPeriod = kind<PerRequest<number> | string>(
  "milliseconds ≥ 1, a duration such as '10 seconds' or '1 minute', 'calendar day', 'calendar month', or a function (request, key) that returns milliseconds",
  isDuration(1),
  isFunction,
  value => periodOf(value) !== undefined,
)
const cost = kind<PerRequest<number>>(
  'an integer ≥ 0 (at most 2^53 − 1), or a function (request, key) that returns one',
  isInteger(0, Number.MAX_SAFE_INTEGER),
  isFunction,
)

const keyGenerator = kind<(request: FastifyRequest) => Awaitable<string | number>>(
  'a function (request) that returns a string or a number',
  isFunction,
)

/** One of `policies`. */
export const policyOptions = {
  /**
   * What headers and decisions call the policy: 1 to 64 characters of printable ASCII, different from the others and not
   * `concurrency`.
   * @example name: 'daily'
   */
  name: required(
    kind<string>('a name of printable ASCII characters, at most 64, different from the others', isPolicyName),
  ),
  /**
   * The quota of the policy, like the option `max`.
   * @example max: 5000
   */
  max: required(max),
  /**
   * The window of the policy, like the option `timeWindow`. `'calendar day'` and `'calendar month'` make the policy a
   * budget: a fixed period instead of a sliding window. It begins at 00:00 UTC by the clock of the store, a month on its
   * first day. A budget is decided with the other policies, and its quota is never taken ahead.
   * @example timeWindow: '1 day'
   */
  timeWindow: required(windowOrPeriod),
  /**
   * What a request takes from this policy. By default the option `cost` beside `policies` applies.
   * @default `1`
   * @example cost: request => request.headers['x-rows'] ? 10 : 1
   */
  cost,
  /**
   * Returns the key of this policy, so that users, tenants and everybody have their policies in one decision. By default
   * the option `keyGenerator` beside `policies` applies. Penalties (`ban`, `continueExceeding`, `exponentialBackoff`) and
   * `concurrency` always use that one.
   * @default the limiter's
   * @example keyGenerator: request => request.headers['x-tenant'] ?? 'none'
   */
  keyGenerator,
  /**
   * What is counted, for the `qu` parameter of `RateLimit-Policy`. Other units (rows, compute time) have no registered
   * name: leave the option out and put the unit into the policy's name.
   * @default `'requests'`
   * @example unit: 'content-bytes'
   */
  unit: oneOf('requests', 'content-bytes'),
}

export type RateLimitPolicy = Options<typeof policyOptions>

/** Members of `concurrency`. */
export const concurrencyOptions = {
  /**
   * Requests in flight allowed for one key.
   * @example max: 3
   */
  max: required(kind<number>('requests in flight allowed for one key: an integer ≥ 0', isInteger(0))),
  /**
   * In Redis, how long a permit is held after its process has died. While the process lives, it renews the permit,
   * however long the request takes. It releases the permit when the response ends or the client goes away.
   * @default `30_000`
   * @example ttl: '10 seconds'
   */
  ttl: kind<number | string>(
    "life of a permit whose holder has died: milliseconds ≥ 100 (at most 2^31 − 1), or a duration such as '30 seconds'",
    isDuration(100, LONGEST_TIMER_MS),
  ),
}

/** Members of `prefetch`. */
export const prefetchOptions = {
  /**
   * The most requests whose quota this process takes ahead in one call. It may hold two such grants at once.
   * @example max: 20
   */
  max: required(kind<number>('an integer ≥ 1', isInteger(1))),
}

/** Options of every limiter: of the registration, of routes, of `rateLimit()` and of `createRateLimit()`. */
export const limiterOptions = {
  /**
   * The quota: cost admitted in any one window. `0` admits nothing. Fractions are rounded down.
   * @default `1000`
   * @example max: 100
   */
  max,
  /**
   * Length of the window. A string is a duration: `'10 seconds'`, `'1 minute'`, `'1 day'`, `'500ms'`.
   * @default `60_000`
   * @example timeWindow: '10 seconds'
   */
  timeWindow,
  /**
   * Several [policies](#policies) instead of `max` and `timeWindow`. Either all of them admit a request and are charged,
   * or it is denied and none is charged.
   * @default none
   * @example policies: [{ name: 'burst', max: 10, timeWindow: 1000 }, { name: 'daily', max: 5000, timeWindow: '1 day' }]
   */
  policies: kind<readonly RateLimitPolicy[]>(
    'a list of one or more { name, max, timeWindow, cost?, keyGenerator?, unit? }',
    isListOf(() => true, 1),
  ),
  /**
   * What a request takes from the quota. A request of cost `0` is not counted, and is denied only if more than the quota
   * is used.
   * @default `1`
   * @example cost: request => Number(request.headers['content-length'] ?? 0)
   */
  cost,
  /**
   * Length of a slice, as a fraction of the window. If `max` is above `1 / precision`, admissions of one slice share one
   * entry of the log, so that memory is bounded. A request may then count up to one slice too long. Never more than `max`
   * is admitted. All routes of one `groupId` must have the same `precision`.
   * @default `0.01`
   * @example precision: 0
   */
  precision: kind<number>('a fraction of the window, 0 (every admission apart) to 1', isNumber(0, 1)),
  /**
   * Limits [requests in flight](#concurrency) for one key, in addition to the windows and in the same decision. Limiters
   * of `createRateLimit` do not inherit it and cannot have it, because they do not see the response end.
   * @default none
   * @example concurrency: { max: 3 }
   */
  concurrency: kind<Options<typeof concurrencyOptions>>('{ max, ttl? }', isObject),
  /**
   * After so many denials in one window the answer is 403 instead of 429. `0` answers 403 at once, `-1` never.
   * @default `-1`
   * @example ban: 10
   */
  ban: kind<number>('a number ≥ 0, or -1 for never', isNumber(0), value => value === -1),
  /**
   * Called when a request was denied with 403, after `onExceeded`.
   * @default none
   * @example onBanReach: (request, key) => {}
   */
  onBanReach: onEvent,
  /**
   * The hook in which requests are checked, after the route's own handlers of that hook. From `'preValidation'` on there
   * is a `request.body`.
   * @default `'onRequest'`
   * @example hook: 'preHandler'
   */
  hook: oneOf('onRequest', 'preParsing', 'preValidation', 'preHandler'),
  /**
   * For counts in the process: how many keys of one policy are kept. At least the `cache` most recently used ones are
   * kept, and at most as many again. Keys that are being denied are kept longer. A route with its own `cache` has its own
   * store.
   * @default `5000`
   * @example cache: 50_000
   */
  cache: kind<number>('an integer ≥ 1', isInteger(1)),
  /**
   * Who is not limited. Addresses and CIDR ranges, in any spelling, are compared with `request.ip`, and not with the key
   * that `ipv6Subnet` shortens. With a `keyGenerator`, every string is also compared with the whole key. The list is read
   * when the plugin is registered or the route is declared. A function is called for each request.
   * @default none
   * @example allowList: ['127.0.0.1', '10.0.0.0/8', '2001:db8::/32']
   */
  allowList: kind<readonly string[] | ((request: FastifyRequest, key: string) => Awaitable<boolean>) | null>(
    'a list of addresses, ranges of addresses or keys, or a function (request, key) that returns whether to let the request pass',
    isListOf(isText(0)),
    isFunction,
    isNull,
  ),
  /**
   * Every denial restarts the wait. A client is admitted again only after a whole window without a request.
   * @default `false`
   * @example continueExceeding: true
   */
  continueExceeding: flag,
  /**
   * The n-th denial in a row blocks the key for window × 2^(n−1). Ignored with `continueExceeding`.
   * @default `false`
   * @example exponentialBackoff: true
   */
  exponentialBackoff: flag,
  /**
   * `true` means `onStoreError: 'allow'`.
   * @default `false`
   * @example skipOnError: true
   */
  skipOnError: flag,
  /**
   * What happens to a request if the store gives no answer. `'throw'`: an error, status 500. `'allow'`: it passes and is
   * not counted. `'deny'`: 503. `'local'`: the process counts it against this replica's share of each limit, until the
   * store is back. Then the replica [writes to Redis](how-it-works.md#the-end-of-an-outage) what it admitted.
   * @default `'throw'`
   * @example onStoreError: 'local'
   */
  onStoreError: oneOf('throw', 'allow', 'deny', 'local'),
  /**
   * Returns the partition key, which says whose quota the request takes from. The default is
   * `normalizeIP(request.ip, ipv6Subnet)`. Behind a proxy set Fastify's `trustProxy` to the proxy's addresses. On a Unix
   * socket requests have no address unless `trustProxy` finds one. Without a `keyGenerator` they then share one count, and
   * one warning in the log says so.
   * @default client address
   * @example keyGenerator: request => request.headers['x-api-key'] ?? request.ip
   */
  keyGenerator,
  /**
   * Prefix length to which the default `keyGenerator` shortens IPv6 addresses. One site usually has a whole /64.
   * @default `64`
   * @example ipv6Subnet: 56
   */
  ipv6Subnet: kind<number>('a prefix length, 0 to 128', isNumber(0, 128)),
  /**
   * Routes with the same `groupId` share one count. For routes and for limiters made by hand. Without it, each of them
   * that has its own options counts for itself.
   * @default none
   * @example groupId: 'otp'
   */
  groupId: kind<string>('a string', isText(0)),
  /**
   * Returns what is thrown for a denied request: an error, or an object to send. `context` is
   * `{ statusCode, ban, max, ttl, after }`: `ttl` in milliseconds, `after` the same in words. An object without a
   * `statusCode` is sent with status 500.
   * @default 429 error
   * @example errorResponseBuilder: (request, context) => ({ statusCode: context.statusCode, error: 'Slow down', retryAfter: context.after })
   */
  errorResponseBuilder: kind<(request: FastifyRequest, context: ErrorResponseContext) => object>(
    'a function (request, context) that returns an error or an object',
    isFunction,
  ),
  /**
   * Names the `x-ratelimit-…` headers `ratelimit-limit`, `ratelimit-remaining` and `ratelimit-reset`.
   * @default `false`
   * @example enableDraftSpec: true
   */
  enableDraftSpec: flag,
  /**
   * Sets `RateLimit` and `RateLimit-Policy`.
   * @default `true`
   * @example standardHeaders: false
   */
  standardHeaders: flag,
  /**
   * Which headers a denied response has. Names that are left out stay `true`. With `enableDraftSpec` the names have no
   * `x-`.
   * @default `{ 'x-ratelimit-limit': true, 'x-ratelimit-remaining': true, 'x-ratelimit-reset': true, 'retry-after': true }`
   * @example addHeaders: { 'x-ratelimit-limit': false }
   */
  addHeaders: flags,
  /**
   * Which headers every other response has.
   * @default `{ 'x-ratelimit-limit': true, 'x-ratelimit-remaining': true, 'x-ratelimit-reset': true }`
   * @example addHeadersOnExceeding: { 'x-ratelimit-reset': false }
   */
  addHeadersOnExceeding: flags,
  /**
   * Called when a request was admitted.
   * @default none
   * @example onExceeding: (request, key) => {}
   */
  onExceeding: onEvent,
  /**
   * Called when a request was denied. In report mode: when it would have been denied.
   * @default none
   * @example onExceeded: (request, key) => request.log.info({ key }, 'denied')
   */
  onExceeded: onEvent,
  /**
   * Called for every decision, before headers are set and before the other callbacks. For metrics. Costs nothing if it is
   * left out.
   * @default none
   * @example onDecision: (request, decision) => request.log.debug(decision)
   */
  onDecision: kind<OnDecision>('a function (request, decision)', isFunction),
  /**
   * Counts by outcome, such as failed logins only. Called when the whole response of an admitted request was sent. `true`
   * gives back what the request was charged when it was admitted. May be async. If it throws or rejects, that is logged,
   * and the request counts. If the client goes away before the response is complete, it is not called, and the request
   * counts. Every request counts until its response is sent, so never more than `max` run at once.
   * @default none
   * @example refundOn: (request, reply) => reply.statusCode < 400
   */
  refundOn: kind<RefundOn>('a function (request, reply) that returns true or false', isFunction),
  /**
   * Whether this process takes quota of a busy key ahead, so that it answers most requests of the key without asking Redis.
   * `false`: each request asks Redis. `{ max }` bounds [how much](#prefetch). In both cases no window holds more than `max`;
   * see [How it works](how-it-works.md#quota-taken-ahead). It needs `redis`, and for every policy of the request a quota
   * above `1 / precision`, a fixed cost and a window of at least 0.5 s (with the default `precision`). It has no effect with
   * `concurrency`, `ban`, `continueExceeding` or `exponentialBackoff`, or if another route of the group has one of the last
   * three.
   * @default `true`
   * @example prefetch: false
   */
  prefetch: kind<boolean | Options<typeof prefetchOptions>>('true, false or { max }', isFlag, isObject),
  /**
   * A [store of your own](#a-store-of-your-own). A route or a limiter can have another one. It cannot be combined with
   * `redis`, `policies`, `cost`, `precision`, `concurrency` or `refundOn`.
   * @default none
   * @example store: MyStore
   */
  store: kind<CustomStoreConstructor>(
    'a class with incr(key, callback, timeWindow, max) and child(options)',
    isFunction,
  ),
  /**
   * `'report'` counts, sets headers, calls callbacks and logs, but never denies. Use it to try a quota on real traffic. A
   * store that fails lets requests pass as well: `onStoreError` `'throw'` and `'deny'` mean `'allow'` then.
   * @default `'enforce'`
   * @example mode: 'report'
   */
  mode: oneOf('enforce', 'report'),
}

/** Options that only the registration has. */
export const registrationOptions = {
  /**
   * Limits all routes of the scope and of nested scopes. They share one count. `false` limits only routes with
   * `config.rateLimit`. [Routes that are declared before the plugin has loaded](#routes-declared-earlier) are limited too.
   * @default `true`
   * @example global: false
   */
  global: flag,
  /**
   * A [client](clients.md) of ioredis, iovalkey, node-redis or Valkey GLIDE, or an adapter for another one. With it the
   * plugin counts in Redis or Valkey, for all replicas. It may be a single, Sentinel or Cluster client. The plugin does not
   * close it. Without `redis`, `counts` and `store` the plugin counts in the process.
   * @default none
   * @example redis: new Redis(process.env.REDIS_URL)
   */
  redis: kind<RedisClient | null>(
    'a client of ioredis, iovalkey, node-redis 5 or later or Valkey GLIDE, or an adapter { status, eval, onReady }',
    value => !value || isObject(value),
  ),
  /**
   * The way to another process of this machine that holds the counts, for example with `node:cluster`: see
   * [Several processes without Redis](#several-processes-without-redis). It cannot be combined with `redis` or `store`.
   * @default none
   * @example counts: { ask: async batch => batch }
   */
  counts: kind<CountsLink>(
    'an object { ask, listen? }',
    value => isObject(value) && typeof (value as CountsLink).ask === 'function',
  ),
  /**
   * Prefix of every key in Redis. All replicas must have the same one. The default is made from the package and the script
   * of the program, so that two programs on one Redis do not count together. Apps of one process have the same default:
   * [give each its own](how-it-works.md#keys-and-name-spaces).
   * @default from package and script
   * @example nameSpace: 'shop:limits:'
   */
  nameSpace: kind<string>('a string that is not empty', isText(1)),
  /**
   * Stores every key as its SHA-256. By default a key of up to 64 letters, digits and `._:@/|+-` is readable in Redis, and
   * only other keys are hashed. Set it if keys are secrets, such as API keys. A hash does not hide a key that can be
   * guessed, such as an address. Changing this option starts all counts from zero.
   * @default `false`
   * @example hashKeys: true
   */
  hashKeys: flag,
  /**
   * Returns the part of a partition key that chooses its slot in a Redis Cluster. Keys of one request that share it are
   * [one call](how-it-works.md#keys-of-policies-in-a-cluster): for example those of a user and of its tenant. It must
   * always return the same for the same key. Changing it starts the counts of all keys whose tag changes from zero.
   * @default the whole key
   * @example hashTag: key => key.split('/')[0]
   */
  hashTag: kind<(key: string) => string>('a function (key) that returns a string', isFunction),
  /**
   * How long a request waits for Redis, for `counts` or for a store of your own, before `onStoreError` decides.
   * @default `100`
   * @example storeTimeout: 50
   */
  storeTimeout: kind<number>('milliseconds ≥ 1 (at most 2^31 − 1)', isNumber(1, LONGEST_TIMER_MS)),
  /**
   * How long after the registration requests wait for the first connection to Redis, before `onStoreError` decides. With
   * `0` they wait no longer than `storeTimeout`, as for everything else.
   * @default `2000`
   * @example startTimeout: 500
   */
  startTimeout: kind<number>('milliseconds ≥ 0 (at most 2^31 − 1)', isNumber(0, LONGEST_TIMER_MS)),
  /**
   * With `redis` or `counts`, how many denials this process remembers. It denies such a client again without asking, for at
   * most a second at a time. `true` means the default, `false` and `0` mean none.
   * @default `10_000`
   * @example denyMemory: false
   */
  denyMemory: kind<number | boolean>(
    'denials to remember in this process: an integer ≥ 0; false or 0 for none, true for the default',
    isInteger(0),
    isFlag,
  ),
  /**
   * With `redis` or `counts`, called for every call to it, with `{ type: 'answered', ms }` or `{ type: 'failed', ms, error }`.
   * Also called with `{ type: 'lost', error }` when it is lost, and with `{ type: 'back' }` when it is back. For metrics. Costs
   * nothing if it is left out. If it throws or rejects, that is logged.
   * @default none
   * @example onStoreEvent: event => console.log(event)
   */
  onStoreEvent: kind<StoreListener>('a function (event)', isFunction),
}

/** Options that only limiters made by hand have. */
export const byHandOptions = {
  /**
   * Only for `app.rateLimit()` and `app.createRateLimit()`. Names the limiter, so that it finds its counts in Redis again,
   * whatever other limiters are made before it. Limiters that were made by the same function and have the same name share
   * one count. Without a name or a `groupId`, the order of creation is the name. With Redis, one warning in the log says
   * so.
   * @default none
   * @example name: 'failed-logins'
   */
  name: kind<string>('a string that is not empty', isText(1)),
}

/** What a limiter can be given once all is laid over each other. */
export type LimiterOptions = Options<typeof limiterOptions> & Options<typeof byHandOptions>

type OrNull<T> = { readonly [Name in keyof T]: T[Name] | null }

/** Options of the registration: those of every limiter, and those that only the registration can say. */
export type RateLimitPluginOptions = Options<typeof limiterOptions> & Options<typeof registrationOptions>
/** Options of a route (`config.rateLimit`). `null` takes back what the registration says. */
export type RateLimitOptions = OrNull<Options<typeof limiterOptions>>
/** Options of `app.rateLimit()` and `app.createRateLimit()`. `null` takes back what the registration says. */
export type CreateRateLimitOptions = RateLimitOptions & OrNull<Options<typeof byHandOptions>>
/** Values of `hook`. */
export type RateLimitHook = NonNullable<LimiterOptions['hook']>
/** Values of `onStoreError`. */
export type OnStoreError = NonNullable<LimiterOptions['onStoreError']>
