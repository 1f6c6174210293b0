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
 * `docs/options.md` are written by `npm run docs` from the comments here: the text is the meaning, `@default` what holds
 * where the option is left out, `@example` one use.
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
  'an integer ≥ 0, or a function (request, key) that returns one',
  isInteger(0),
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
   * As above.
   * @example max: 5000
   */
  max: required(max),
  /**
   * As above; besides, `'calendar day'` and `'calendar month'` make the policy a budget: a fixed period that begins at
   * 00:00 UTC by the clock of the store (of a month on its first day), and not a window that slides. It is decided with
   * the other policies, and never taken ahead.
   * @example timeWindow: '1 day'
   */
  timeWindow: required(windowOrPeriod),
  /**
   * What a request takes from this policy. When it is left out, the option `cost` beside `policies` holds.
   * @default `1`
   * @example cost: request => request.headers['x-rows'] ? 10 : 1
   */
  cost,
  /**
   * Returns whose quota the policy is: users, tenants and everybody have policies in one decision. When it is left out,
   * the option `keyGenerator` beside `policies` holds. Penalties (`ban`, `continueExceeding`, `exponentialBackoff`) and
   * `concurrency` always go by that one.
   * @default the limiter's
   * @example keyGenerator: request => request.headers['x-tenant'] ?? 'none'
   */
  keyGenerator,
  /**
   * What is counted, for the `qu` parameter of `RateLimit-Policy`. Other units (rows, compute time) have no registered
   * name: leave the option out and say it in the policy's name.
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
   * In Redis, how long a permit is held after its process has died. While the process lives the permit is renewed,
   * however long the request takes, and given back when the response ends or the client goes away.
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
   * The most requests whose quota this process takes ahead in one call. One such grant is spent while the next is there.
   * @example max: 20
   */
  max: required(kind<number>('an integer ≥ 1', isInteger(1))),
}

/** Options of every limiter: of the registration, of routes, of `rateLimit()` and of `createRateLimit()`. */
export const limiterOptions = {
  /**
   * The quota: cost admitted in any one window. `0` admits nothing. A fraction is cut off.
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
   * Several [policies](#policies) instead of `max` and `timeWindow`: a request is admitted by all of them and charged to
   * all, or denied and charged to none.
   * @default none
   * @example policies: [{ name: 'burst', max: 10, timeWindow: 1000 }, { name: 'daily', max: 5000, timeWindow: '1 day' }]
   */
  policies: kind<readonly RateLimitPolicy[]>(
    'a list of one or more { name, max, timeWindow, cost?, keyGenerator?, unit? }',
    isListOf(() => true, 1),
  ),
  /**
   * What a request takes from the quota. A request of cost `0` is not counted; it is denied only where more than the
   * quota is used.
   * @default `1`
   * @example cost: request => Number(request.headers['content-length'] ?? 0)
   */
  cost,
  /**
   * Where `max` is above `1 / precision`, admissions that fall into one slice of that length share one entry of the log,
   * so that memory stays bounded. A request may then count up to one slice longer; never more than `max` is admitted.
   * All routes of one `groupId` have the same.
   * @default `0.01`
   * @example precision: 0
   */
  precision: kind<number>('a fraction of the window, 0 (every admission apart) to 1', isNumber(0, 1)),
  /**
   * Limits [requests in flight](#concurrency) for one key, besides the windows and in the same decision. Limiters of
   * `createRateLimit`, which do not see the response end, do not inherit it and cannot be given it.
   * @default none
   * @example concurrency: { max: 3 }
   */
  concurrency: kind<Options<typeof concurrencyOptions>>('{ max, ttl? }', isObject),
  /**
   * Denials inside one window after which the answer is 403 and no longer 429. `0` answers 403 at once, `-1` never.
   * @default `-1`
   * @example ban: 10
   */
  ban: kind<number>('a number ≥ 0, or -1 for never', isNumber(-1)),
  /**
   * A request was denied with 403. Called after `onExceeded`.
   * @default none
   * @example onBanReach: (request, key) => {}
   */
  onBanReach: onEvent,
  /**
   * The hook that asks, after the route's own handlers of that hook. `request.body` is there from `'preValidation'` on.
   * @default `'onRequest'`
   * @example hook: 'preHandler'
   */
  hook: oneOf('onRequest', 'preParsing', 'preValidation', 'preHandler'),
  /**
   * In the process, the keys of one policy that are kept: at least the `cache` used last, at most as many again, and those
   * being denied longer than the rest. A route's own `cache` gives it a store of its own.
   * @default `5000`
   * @example cache: 50_000
   */
  cache: kind<number>('an integer ≥ 1', isInteger(1)),
  /**
   * Who is not limited. Addresses and CIDR ranges are compared with `request.ip`, in whatever spelling, and never with
   * the key that `ipv6Subnet` cuts. With a `keyGenerator`, every string is also compared with the whole key. The list is
   * read when the plugin is registered or the route declared; a function is asked at each request.
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
   * Every denial restarts the wait: a client is admitted only after a whole window without a request.
   * @default `false`
   * @example continueExceeding: true
   */
  continueExceeding: flag,
  /**
   * The n-th denial in a row blocks the key for window × 2^(n−1). Not used where `continueExceeding` is on.
   * @default `false`
   * @example exponentialBackoff: true
   */
  exponentialBackoff: flag,
  /**
   * `true` is `onStoreError: 'allow'`.
   * @default `false`
   * @example skipOnError: true
   */
  skipOnError: flag,
  /**
   * What happens to a request that the store gives no answer about. `'throw'`: an error, status 500. `'allow'`: it
   * passes, uncounted. `'deny'`: 503. `'local'`: it is counted in the process until the store is back, against this
   * replica's part of each limit. Then Redis [is told](how-it-works.md#the-end-of-an-outage) what was admitted.
   * @default `'throw'`
   * @example onStoreError: 'local'
   */
  onStoreError: oneOf('throw', 'allow', 'deny', 'local'),
  /**
   * Returns the partition key: whose quota the request takes from. The default is `normalizeIP(request.ip, ipv6Subnet)`;
   * behind a proxy set Fastify's `trustProxy` to the proxy's addresses. On a Unix socket requests have no address unless
   * `trustProxy` finds one; without a `keyGenerator` they share one count then, and a warning in the log says so once.
   * @default client address
   * @example keyGenerator: request => request.headers['x-api-key'] ?? request.ip
   */
  keyGenerator,
  /**
   * Prefix length to which the default `keyGenerator` cuts IPv6 addresses, since one site usually has a whole /64.
   * @default `64`
   * @example ipv6Subnet: 56
   */
  ipv6Subnet: kind<number>('a prefix length, 0 to 128', isNumber(0, 128)),
  /**
   * Routes that name the same group share one count. For routes and limiters made by hand; without it, every one with
   * options of its own counts for itself.
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
   * Calls the `x-ratelimit-…` headers `ratelimit-limit`, `ratelimit-remaining` and `ratelimit-reset`.
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
   * Which headers a denied response has. Names left out stay `true`. With `enableDraftSpec` the names are those without
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
   * A request was admitted.
   * @default none
   * @example onExceeding: (request, key) => {}
   */
  onExceeding: onEvent,
  /**
   * A request was denied; in report mode, it would have been.
   * @default none
   * @example onExceeded: (request, key) => request.log.info({ key }, 'denied')
   */
  onExceeded: onEvent,
  /**
   * A decision was made. Called before headers are set and before the other callbacks. For metrics. Costs nothing when
   * left out.
   * @default none
   * @example onDecision: (request, decision) => request.log.debug(decision)
   */
  onDecision: kind<OnDecision>('a function (request, decision)', isFunction),
  /**
   * Counts by outcome, such as failed logins only: called when the whole response of an admitted request was sent, and
   * `true` gives the request back what it was charged when it was admitted. May be async. The request counts where it
   * throws or rejects, which is logged, and where the client goes away before the response is complete: then it is not
   * called. Until the response is sent every request counts, so it never lets more than `max` run at once.
   * @default none
   * @example refundOn: (request, reply) => reply.statusCode < 400
   */
  refundOn: kind<RefundOn>('a function (request, reply) that returns true or false', isFunction),
  /**
   * Whether this process takes quota of a busy key ahead, so that most of its requests are answered without asking Redis.
   * `false`: each request asks. `{ max }` bounds [how much](#prefetch). No window holds more than `max` either way; see
   * [How it works](how-it-works.md#quota-taken-ahead). Only with `redis`, where every policy of the request has a quota
   * above `1 / precision`, a fixed cost and a window of at least 0.5 s (at the default `precision`), and without
   * `concurrency`, `ban`, `continueExceeding` and `exponentialBackoff`.
   * @default `true`
   * @example prefetch: false
   */
  prefetch: kind<boolean | Options<typeof prefetchOptions>>('true, false or { max }', isFlag, isObject),
  /**
   * A [store of your own](#a-store-of-your-own); a route or a limiter can have one of its own. Not together with `redis`,
   * `policies`, `cost`, `precision`, `concurrency` or `refundOn`.
   * @default none
   * @example store: MyStore
   */
  store: kind<CustomStoreConstructor>(
    'a class with incr(key, callback, timeWindow, max) and child(options)',
    isFunction,
  ),
  /**
   * `'report'` counts, sets headers, calls callbacks and logs, but never denies: to try a quota on real traffic.
   * @default `'enforce'`
   * @example mode: 'report'
   */
  mode: oneOf('enforce', 'report'),
}

/** Options that only the registration has. */
export const registrationOptions = {
  /**
   * Limits all routes of the scope and of the scopes inside it; they share one count. `false` limits only routes with
   * `config.rateLimit`. [Routes that were declared before the plugin had loaded](#routes-declared-earlier) are limited too.
   * @default `true`
   * @example global: false
   */
  global: flag,
  /**
   * A [client](clients.md) of ioredis, iovalkey, node-redis or Valkey GLIDE, or an adapter for another one. Counts in Redis
   * or Valkey, for all replicas; single, Sentinel and Cluster clients. The client stays yours: it is not closed. Without
   * `redis`, `counts` and `store` the plugin counts in the process.
   * @default none
   * @example redis: new Redis(process.env.REDIS_URL)
   */
  redis: kind<RedisClient | null>(
    'a client of ioredis, iovalkey, node-redis 5 or later or Valkey GLIDE, or an adapter { status, eval, onReady }',
    value => !value || isObject(value),
  ),
  /**
   * The way to another process of this machine that holds the counts, for `node:cluster` and its like: see
   * [Several processes without Redis](#several-processes-without-redis). Not together with `redis` or `store`.
   * @default none
   * @example counts: { ask: async batch => batch }
   */
  counts: kind<CountsLink>(
    'an object { ask, listen? }',
    value => isObject(value) && typeof (value as CountsLink).ask === 'function',
  ),
  /**
   * Stands in front of every key in Redis. Replicas must have the same one. The default names the program by its package
   * and script, so that two programs on one Redis do not count together. Apps of one process have the same default:
   * [give each its own](how-it-works.md#keys-and-name-spaces).
   * @default from package and script
   * @example nameSpace: 'shop:limits:'
   */
  nameSpace: kind<string>('a string that is not empty', isText(1)),
  /**
   * Stores every key as its SHA-256. By default a key of up to 64 letters, digits and `._:@/|+-` stands in Redis as it
   * is, and only others are hashed. Set it where keys are secrets, such as API keys. A key that can be guessed, such as
   * an address, can be found from its hash. Changing it starts all counts from zero.
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
   * How long after the registration requests wait for the first connection to Redis, before `onStoreError` decides about
   * them. `0` does not wait.
   * @default `2000`
   * @example startTimeout: 500
   */
  startTimeout: kind<number>('milliseconds ≥ 0 (at most 2^31 − 1)', isNumber(0, LONGEST_TIMER_MS)),
  /**
   * With `redis` or `counts`, how many denials this process remembers, so that a client known to be over its quota is denied without
   * asking, for at most a second at a time. `true` is the default, `false` and `0` are none.
   * @default `10_000`
   * @example denyMemory: false
   */
  denyMemory: kind<number | boolean>(
    'denials to remember in this process: an integer ≥ 0; false or 0 for none, true for the default',
    isInteger(0),
    isFlag,
  ),
  /**
   * With `redis` or `counts`, gets every call to it: `{ type: 'answered', ms }` or `{ type: 'failed', ms, error }`; and, when it is
   * given up and when it is back, `{ type: 'lost', error }` and `{ type: 'back' }`. For metrics. Costs nothing when left
   * out. That it throws or rejects is logged.
   * @default none
   * @example onStoreEvent: event => console.log(event)
   */
  onStoreEvent: kind<StoreListener>('a function (event)', isFunction),
}

/** Options that only limiters made by hand have. */
export const byHandOptions = {
  /**
   * Only for `app.rateLimit()` and `app.createRateLimit()`. Names the limiter, so that it finds its counts in Redis again
   * whatever other limiters are made before it. Limiters of one of the two that have the same name share one count.
   * Without a name or a `groupId`, the order of creation is the name; with Redis, a warning says so once.
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
