import { parse as parseDuration } from '@lukeed/ms'
import type { FastifyRequest } from 'fastify'
import { type Static, type TProperties, type TSchema, Type } from 'typebox'
import { Value } from 'typebox/value'
import { DEFAULT_IPV6_SUBNET } from './address.js'
import { type Awaitable, isThenable, then } from './awaitable.js'
import type { Decision, QuotaUnit } from './decision.js'
import { InvalidAnswer, InvalidGroup, InvalidOption } from './errors.js'
import { isFieldString } from './headers.js'
import type { CustomStoreConstructor } from './stores/custom.js'
import type { StoreListener } from './stores/observed.js'
import type { RedisClient } from './stores/redis-client.js'
import type { Penalty } from './stores/store.js'

/** A value, or a function of the request that gives it. */
type PerRequest<T> = T | ((request: FastifyRequest, key: string) => Awaitable<T>)
type Callback = (request: FastifyRequest, key: string) => void

/**
 * A partition key as `keyGenerator` gave it. Callbacks are handed it unchanged; their types say string, as in
 * `@fastify/rate-limit`, because that is what nearly every generator returns.
 */
export type Key = string | number

/** What `errorResponseBuilder` is told. */
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

const fn = Type.Function([], Type.Unknown())

/** A schema, the type users see for it, and in `description` what the error message says is allowed. */
const option = <T>(schema: TSchema, description: string) => Type.Optional(Type.Unsafe<T>({ ...schema, description }))

const limit = Type.Union([Type.Number({ minimum: 0 }), fn])
const duration = Type.Union([Type.Number(), Type.String(), fn])
const cost = Type.Union([Type.Integer({ minimum: 0 }), fn])

/** What Redis can count with, in microseconds. Longer windows are cut to it: 285,000 years are as good as more. */
const LONGEST_WINDOW_MS = Number.MAX_SAFE_INTEGER
/** What a timer can be set to; beyond it fires at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

const MAX = 'a number ≥ 0, or a function (request, key) that returns one'
const TIME_WINDOW =
  "milliseconds ≥ 1, a duration such as '10 seconds' or '1 minute', or a function (request, key) that returns milliseconds"
const COST = 'an integer ≥ 0, or a function (request, key) that returns one'

export const PolicySchema = Type.Object({
  name: Type.String({ description: 'a name of printable ASCII characters, at most 64, different from the others' }),
  max: Type.Unsafe<PerRequest<number>>({ ...limit, description: MAX }),
  timeWindow: Type.Unsafe<PerRequest<number> | string>({ ...duration, description: TIME_WINDOW }),
  cost: option<PerRequest<number>>(cost, COST),
  unit: option<'requests' | 'content-bytes'>(
    Type.Union([Type.Literal('requests'), Type.Literal('content-bytes')]),
    "'requests' or 'content-bytes'",
  ),
})

export const ConcurrencySchema = Type.Object({
  max: Type.Integer({ minimum: 0, description: 'requests in flight allowed for one key: an integer ≥ 0' }),
  ttl: option<number | string>(
    Type.Union([Type.Number(), Type.String()]),
    "life of a place whose holder has died: milliseconds ≥ 100 (at most 2^31 − 1), or a duration such as '30 seconds'",
  ),
})

type Flags = Readonly<Record<string, boolean>>
const flags = Type.Record(Type.String(), Type.Boolean())

/** Options of `createRateLimit` and `rateLimit`, of routes, and of the registration. */
export const limiterOptions = {
  max: option<PerRequest<number>>(limit, MAX),
  timeWindow: option<PerRequest<number> | string>(duration, TIME_WINDOW),
  policies: option<readonly Static<typeof PolicySchema>[]>(
    Type.Array(Type.Unknown(), { minItems: 1 }),
    'a list of one or more { name, max, timeWindow, cost?, unit? }',
  ),
  cost: option<PerRequest<number>>(cost, COST),
  precision: option<number>(
    Type.Number({ minimum: 0, maximum: 1 }),
    'a fraction of the window, 0 (every admission apart) to 1',
  ),
  concurrency: option<Static<typeof ConcurrencySchema>>(Type.Object({}), '{ max, ttl? }'),
  ban: option<number>(Type.Number({ minimum: -1 }), 'a number ≥ 0, or -1 for never'),
  onBanReach: option<Callback>(fn, 'a function (request, key)'),
  hook: option<RateLimitHook>(
    Type.Union((['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const).map(name => Type.Literal(name))),
    "'onRequest', 'preParsing', 'preValidation' or 'preHandler'",
  ),
  cache: option<number>(Type.Integer({ minimum: 1 }), 'an integer ≥ 1'),
  allowList: option<readonly string[] | ((request: FastifyRequest, key: string) => Awaitable<boolean>)>(
    Type.Union([Type.Array(Type.String()), Type.Null(), fn]),
    'a list of keys, or a function (request, key) that returns whether to let the request pass',
  ),
  continueExceeding: option<boolean>(Type.Boolean(), 'true or false'),
  exponentialBackoff: option<boolean>(Type.Boolean(), 'true or false'),
  skipOnError: option<boolean>(Type.Boolean(), 'true or false'),
  onStoreError: option<OnStoreError>(
    Type.Union((['throw', 'allow', 'deny', 'local'] as const).map(name => Type.Literal(name))),
    "'throw', 'allow', 'deny' or 'local'",
  ),
  keyGenerator: option<(request: FastifyRequest) => Awaitable<string | number>>(
    fn,
    'a function (request) that returns a string or a number',
  ),
  ipv6Subnet: option<number>(Type.Number(), 'a prefix length, 0 to 128'),
  groupId: option<string>(Type.String(), 'a string'),
  errorResponseBuilder: option<(request: FastifyRequest, context: ErrorResponseContext) => object>(
    fn,
    'a function (request, context) that returns an error or an object',
  ),
  enableDraftSpec: option<boolean>(Type.Boolean(), 'true or false'),
  standardHeaders: option<boolean>(Type.Boolean(), 'true or false'),
  addHeaders: option<Flags>(flags, 'an object of header names with true or false'),
  addHeadersOnExceeding: option<Flags>(flags, 'an object of header names with true or false'),
  onExceeding: option<Callback>(fn, 'a function (request, key)'),
  onExceeded: option<Callback>(fn, 'a function (request, key)'),
  onDecision: option<OnDecision>(fn, 'a function (request, decision)'),
  store: option<CustomStoreConstructor>(fn, 'a class with incr(key, callback, timeWindow, max) and child(options)'),
  mode: option<'enforce' | 'report'>(
    Type.Union([Type.Literal('enforce'), Type.Literal('report')]),
    "'enforce' or 'report'",
  ),
}

/** Options of the registration alone. */
export const registrationOptions = {
  global: option<boolean>(Type.Boolean(), 'true or false'),
  redis: option<RedisClient | null>(Type.Unknown(), 'a client of ioredis, single or cluster'),
  nameSpace: option<string>(Type.String({ minLength: 1 }), 'a string that is not empty'),
  storeTimeout: option<number>(
    Type.Number({ minimum: 1, maximum: LONGEST_TIMER_MS }),
    'milliseconds ≥ 1 (at most 2^31 − 1)',
  ),
  denyMemory: option<number | boolean>(
    Type.Union([Type.Integer({ minimum: 0 }), Type.Boolean()]),
    'denials to remember in this process: an integer ≥ 0; false or 0 for none, true for the default',
  ),
  onStoreEvent: option<StoreListener>(fn, 'a function (event)'),
}

const LimiterSchema = Type.Object(limiterOptions)
const RegistrationSchema = Type.Object(registrationOptions)

/** Told of every decision about a request, before its headers are set. */
export type OnDecision = (request: FastifyRequest, decision: Decision) => void

export type RateLimitHook = 'onRequest' | 'preParsing' | 'preValidation' | 'preHandler'
/** What to do with a request that the store gives no answer about. */
export type OnStoreError = 'throw' | 'allow' | 'deny' | 'local'
/** Options of a route (`config.rateLimit`), of `app.rateLimit()` and of `app.createRateLimit()`. */
export type RateLimitOptions = Static<typeof LimiterSchema>
/** Options of the registration: those of every limiter, and those that only the registration can say. */
export type RateLimitPluginOptions = RateLimitOptions & Static<typeof RegistrationSchema>
export type RateLimitPolicy = Static<typeof PolicySchema>

/** One policy with all defaults; what is a function is asked at each request. */
export interface PolicyConfig {
  readonly name: string
  readonly unit: QuotaUnit
  readonly max: PerRequest<number>
  readonly timeWindow: PerRequest<number>
  readonly cost: PerRequest<number>
}

/** The labels of the headers that `addHeaders` and `addHeadersOnExceeding` switch. */
export interface HeaderLabels {
  readonly limit: string
  readonly remaining: string
  readonly reset: string
  readonly retryAfter: string
}

/** Everything a limiter goes by: complete, checked and never changed. */
export interface LimiterConfig {
  readonly policies: readonly PolicyConfig[]
  readonly concurrency: { readonly name: string; readonly max: number; readonly ttlMs: number } | undefined
  readonly precision: number
  readonly penalty: Penalty
  readonly ban: number
  readonly hook: RateLimitHook
  readonly cache: number
  readonly allowList: RateLimitOptions['allowList']
  readonly onStoreError: OnStoreError
  /** Undefined: the client address, normalized. */
  readonly keyGenerator: RateLimitOptions['keyGenerator']
  readonly ipv6Subnet: number
  readonly groupId: string | undefined
  readonly errorResponseBuilder: RateLimitOptions['errorResponseBuilder']
  readonly labels: HeaderLabels
  readonly addHeaders: Flags
  readonly addHeadersOnExceeding: Flags
  readonly standardHeaders: boolean
  readonly onExceeding: Callback | undefined
  readonly onExceeded: Callback | undefined
  readonly onBanReach: Callback | undefined
  readonly onDecision: OnDecision | undefined
  readonly report: boolean
}

/** What only the registration says, complete and checked. */
export interface RegistrationConfig {
  readonly global: boolean
  readonly redis: RedisClient | undefined
  readonly store: CustomStoreConstructor | undefined
  readonly nameSpace: string | undefined
  readonly storeTimeoutMs: number
  /** Denials remembered; 0 for none. */
  readonly denyMemory: number
  readonly onStoreEvent: StoreListener | undefined
}

const DEFAULT_MAX = 1000
const DEFAULT_WINDOW_MS = 60_000
const DEFAULT_CACHE = 5000
const DEFAULT_DENY_MEMORY = 10_000
const DEFAULT_STORE_TIMEOUT_MS = 100
const DEFAULT_LEASE_MS = 30_000
const CONCURRENCY = 'concurrency'

const LABELS: HeaderLabels = {
  limit: 'x-ratelimit-limit',
  remaining: 'x-ratelimit-remaining',
  reset: 'x-ratelimit-reset',
  retryAfter: 'retry-after',
}
const DRAFT_LABELS: HeaderLabels = {
  limit: 'ratelimit-limit',
  remaining: 'ratelimit-remaining',
  reset: 'ratelimit-reset',
  retryAfter: 'retry-after',
}

/** Fastify hands these to every plugin. */
const FASTIFY_OPTIONS = new Set(['prefix', 'logLevel', 'logSerializers'])

/** Checks the options of a registration; throws InvalidOption, which names option, value and what is allowed. */
export function parseRegistration(given: RateLimitPluginOptions): RegistrationConfig {
  const known = { ...limiterOptions, ...registrationOptions }
  checkAll(given, known, '', given.store !== undefined)
  if (given.redis && typeof given.redis.evalsha !== 'function') {
    throw invalid('redis', given.redis, registrationOptions.redis)
  }
  if (given.redis && given.store) {
    throw new InvalidOption('store', 'given together with redis', 'one of the two')
  }
  refuseBesideStore(given)
  return {
    global: given.global ?? true,
    redis: given.redis ?? undefined,
    store: given.store,
    nameSpace: given.nameSpace,
    storeTimeoutMs: given.storeTimeout ?? DEFAULT_STORE_TIMEOUT_MS,
    denyMemory: given.denyMemory === undefined || given.denyMemory === true ? DEFAULT_DENY_MEMORY : +given.denyMemory,
    onStoreEvent: given.onStoreEvent,
  }
}

/** What a custom store cannot count by. */
export function refuseBesideStore(given: RateLimitOptions): void {
  if (given.store === undefined) return
  for (const name of ['policies', 'cost', 'concurrency', 'precision'] as const) {
    if (given[name] !== undefined) {
      throw new InvalidOption(name, 'given together with store', 'max and timeWindow: a custom store counts requests')
    }
  }
}

/**
 * Options of a route or a limiter laid over those of its registration. Naming one kind of quota, or one way to meet
 * errors of the store, takes the place of the other kind.
 */
export function overlay(base: RateLimitOptions, given: RateLimitOptions): RateLimitOptions {
  const merged: Record<string, unknown> = { ...base }
  if (given.max !== undefined || given.timeWindow !== undefined) delete merged.policies
  if (given.policies !== undefined) {
    delete merged.max
    delete merged.timeWindow
  }
  if (given.skipOnError !== undefined) delete merged.onStoreError
  if (given.onStoreError !== undefined) delete merged.skipOnError
  for (const [name, value] of Object.entries(given)) if (value !== undefined) merged[name] = value
  for (const name of Object.keys(registrationOptions)) delete merged[name]
  return merged
}

/** Checks what a route or a call gives, before it is laid over the registration's. */
export function checkLimiterOptions(given: RateLimitOptions, custom: boolean): void {
  if (given.groupId !== undefined && typeof given.groupId !== 'string') throw new InvalidGroup()
  for (const name of Object.keys(registrationOptions)) {
    if (name in given) throw new InvalidOption(name, 'given here', 'only where the plugin is registered')
  }
  checkAll(given, limiterOptions, '', custom, true)
}

/** Fills in every default. `given` was checked; what is left to refuse depends on more than one option. */
export function parseLimiter(given: RateLimitOptions): LimiterConfig {
  const labels = given.enableDraftSpec === true ? DRAFT_LABELS : LABELS
  const { limit, remaining, reset, retryAfter } = labels
  const shown = { [limit]: true, [remaining]: true, [reset]: true }
  const skip = given.skipOnError === true ? 'allow' : 'throw'
  return {
    policies: parsePolicies(given),
    concurrency: parseConcurrency(given.concurrency),
    precision: given.precision ?? 0.01,
    penalty: penaltyOf(given),
    ban: Math.trunc(given.ban ?? -1),
    hook: given.hook ?? 'onRequest',
    cache: given.cache ?? DEFAULT_CACHE,
    allowList: given.allowList ?? undefined,
    onStoreError: given.onStoreError ?? skip,
    keyGenerator: given.keyGenerator,
    ipv6Subnet: Math.trunc(given.ipv6Subnet ?? DEFAULT_IPV6_SUBNET),
    groupId: given.groupId,
    errorResponseBuilder: given.errorResponseBuilder,
    labels,
    addHeaders: { ...shown, [retryAfter]: true, ...given.addHeaders },
    addHeadersOnExceeding: { ...shown, ...given.addHeadersOnExceeding },
    standardHeaders: given.standardHeaders ?? true,
    onExceeding: given.onExceeding,
    onExceeded: given.onExceeded,
    onBanReach: given.onBanReach,
    onDecision: given.onDecision,
    report: given.mode === 'report',
  }
}

/**
 * Values that `@fastify/rate-limit` is documented or tested to replace by the default instead of refusing them: NaN,
 * a prefix length out of range and, on a route, a negative window. Each replacement is told to `warn`.
 */
export function tolerate(
  given: RateLimitPluginOptions,
  onRoute: boolean,
  warn: (message: string) => void,
): RateLimitPluginOptions {
  const kept: Record<string, unknown> = { ...given }
  const drop = (name: string, fallback: unknown) => {
    warn(`option '${name}' is ${show(kept[name])}; the default, ${fallback}, is used instead`)
    delete kept[name]
  }
  const subnet = given.ipv6Subnet
  if (Number.isNaN(given.max)) drop('max', DEFAULT_MAX)
  if (Number.isNaN(given.timeWindow) || (onRoute && typeof given.timeWindow === 'number' && given.timeWindow < 0)) {
    drop('timeWindow', DEFAULT_WINDOW_MS)
    if (onRoute) kept.timeWindow = DEFAULT_WINDOW_MS
  }
  if (typeof subnet === 'number' && !(subnet >= 0 && subnet <= 128)) drop('ipv6Subnet', DEFAULT_IPV6_SUBNET)
  return kept
}

/** A quota asked of a function. Anything but a number ≥ 0 is an error, and never 'no limit'. */
export function checkedMax(value: unknown): number {
  if (typeof value === 'number' && value >= 0) return Math.trunc(value)
  throw new InvalidAnswer('max', show(value), 'a number ≥ 0')
}

/** A window asked of a function, in milliseconds; less than one counts as one. */
export function checkedWindow(value: unknown): number {
  if (typeof value === 'number' && value >= 0 && value < Infinity) return wholeWindow(value)
  throw new InvalidAnswer('timeWindow', show(value), 'milliseconds, a number ≥ 0')
}

/** A cost asked of a function. */
export function checkedCost(value: unknown): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
  throw new InvalidAnswer('cost', show(value), 'an integer ≥ 0')
}

/** The answer to a denied request, asked of a function. Nothing at all would let the request pass. */
export function checkedResponse(value: object | undefined): object {
  if (isThenable(value)) return then(value, checkedResponse)
  if (value) return value
  throw new InvalidAnswer('errorResponseBuilder', show(value), 'an error or an object')
}

/** A partition key asked of a function. */
export function checkedKey(value: unknown): Key {
  if (typeof value === 'string' || typeof value === 'number') return value
  throw new InvalidAnswer('keyGenerator', show(value), 'a string or a number')
}

function parsePolicies(given: RateLimitOptions): PolicyConfig[] {
  const { policies } = given
  if (policies === undefined) {
    return [
      {
        name: 'default',
        unit: 'requests',
        max: whole(given.max ?? DEFAULT_MAX),
        timeWindow: staticWindow('timeWindow', given.timeWindow ?? DEFAULT_WINDOW_MS),
        cost: given.cost ?? 1,
      },
    ]
  }
  for (const name of ['max', 'timeWindow'] as const) {
    if (given[name] !== undefined) throw new InvalidOption(name, 'given together with policies', 'one of the two')
  }
  const names = new Set<string>()
  return policies.map((policy, index) => {
    const at = `policies[${index}]`
    if (typeof policy !== 'object' || policy === null) throw invalid(at, policy, limiterOptions.policies)
    checkAll(policy, PolicySchema.properties, `${at}.`, false)
    const { name } = policy
    if (
      typeof name !== 'string' ||
      name.length > 64 ||
      !isFieldString(name) ||
      names.has(name) ||
      name === CONCURRENCY
    ) {
      throw invalid(`${at}.name`, name, PolicySchema.properties.name)
    }
    names.add(name)
    for (const required of ['max', 'timeWindow'] as const) {
      if (policy[required] === undefined)
        throw invalid(`${at}.${required}`, undefined, PolicySchema.properties[required])
    }
    return {
      name,
      unit: policy.unit ?? 'requests',
      max: whole(policy.max),
      timeWindow: staticWindow(`${at}.timeWindow`, policy.timeWindow),
      cost: policy.cost ?? given.cost ?? 1,
    }
  })
}

function parseConcurrency(given: RateLimitOptions['concurrency']): LimiterConfig['concurrency'] {
  if (given === undefined) return undefined
  checkAll(given, ConcurrencySchema.properties, 'concurrency.', false)
  if (given.max === undefined) throw invalid('concurrency.max', undefined, ConcurrencySchema.properties.max)
  const { ttl } = given
  const ttlMs = typeof ttl === 'string' ? parseDuration(ttl) : (ttl ?? DEFAULT_LEASE_MS)
  if (ttlMs === undefined || !(ttlMs >= 100 && ttlMs <= LONGEST_TIMER_MS))
    throw invalid('concurrency.ttl', ttl, ConcurrencySchema.properties.ttl)
  return { name: CONCURRENCY, max: given.max, ttlMs: Math.trunc(ttlMs) }
}

/** `continueExceeding` goes before `exponentialBackoff`, and both count denials as `ban` needs them. */
function penaltyOf(given: RateLimitOptions): Penalty {
  if (given.continueExceeding === true) return 'renew'
  if (given.exponentialBackoff === true) return 'backoff'
  return (given.ban ?? -1) >= 0 ? 'count' : 'none'
}

function whole(value: PerRequest<number>): PerRequest<number> {
  return typeof value === 'function' ? value : Math.trunc(value)
}

function staticWindow(name: string, value: PerRequest<number> | string): PerRequest<number> {
  if (typeof value === 'function') return value
  const ms = typeof value === 'string' ? parseDuration(value) : value
  if (ms === undefined || !(ms >= 1)) throw invalid(name, value, limiterOptions.timeWindow)
  return wholeWindow(ms)
}

function wholeWindow(ms: number): number {
  return Math.min(Math.max(1, Math.trunc(ms)), LONGEST_WINDOW_MS)
}

function checkAll(given: object, known: TProperties, path: string, custom: boolean, plain = false): void {
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) continue
    const schema = Object.hasOwn(known, name) ? known[name] : undefined
    if (schema === undefined) {
      if (custom || (path === '' && FASTIFY_OPTIONS.has(name) && !plain)) continue
      throw new InvalidOption(path + name, show(value), `one of ${Object.keys(known).join(', ')}`)
    }
    if (!Value.Check(schema, value)) throw invalid(path + name, value, schema)
  }
}

function invalid(name: string, value: unknown, schema: TSchema): Error {
  return new InvalidOption(name, show(value), (schema as { description: string }).description)
}

/** A value as an error message shows it: short, and never a secret's whole length. */
function show(value: unknown): string {
  if (typeof value === 'string') return `'${value.length > 40 ? `${value.slice(0, 40)}…` : value}'`
  if (typeof value === 'function') return 'a function'
  if (Array.isArray(value)) return `a list of ${value.length}`
  if (typeof value === 'object' && value !== null) return 'an object'
  if (typeof value === 'bigint') return `${value}n`
  return String(value)
}
