import { parse as parseDuration } from '@lukeed/ms'
import { DEFAULT_IPV6_SUBNET } from '../address.js'
import { AllowList, isAddressOrRange } from '../allow-list.js'
import { type RedisClient, whatClientLacks } from '../clients/index.js'
import type { QuotaUnit } from '../decision.js'
import { InvalidGroup, InvalidOption } from '../errors.js'
import { LONGEST_PERIOD_MS, type Period, periodOf } from '../period.js'
import type { CustomStoreConstructor } from '../stores/custom.js'
import type { CountsLink } from '../stores/processes/shared-store.js'
import type { StoreListener } from '../stores/redis/events.js'
import type { Penalty } from '../stores/store.js'
import { wholeWindow } from './answers.js'
import { checkAll, type Kinds, refusal, show } from './kinds.js'
import {
  byHandOptions,
  type Callback,
  CONCURRENCY,
  type CreateRateLimitOptions,
  concurrencyOptions,
  type Flags,
  type LimiterOptions,
  limiterOptions,
  type OnDecision,
  type OnStoreError,
  type PerRequest,
  policyOptions,
  prefetchOptions,
  type RateLimitHook,
  type RateLimitPluginOptions,
  type RefundOn,
  registrationOptions,
} from './table.js'

/** Where options are given. */
export type Place = 'registration' | 'route' | 'hand'

/** One policy with all defaults; what is a function is asked at each request. */
export interface PolicyConfig {
  readonly name: string
  readonly unit: QuotaUnit
  readonly max: PerRequest<number>
  readonly timeWindow: PerRequest<number>
  /** Of a budget; `timeWindow` is the longest that the period may be. */
  readonly period: Period | undefined
  readonly cost: PerRequest<number>
  /** Undefined: the limiter's. */
  readonly keyGenerator: LimiterOptions['keyGenerator']
}

/** The labels of the headers that `addHeaders` and `addHeadersOnExceeding` switch. */
export interface HeaderLabels {
  readonly limit: string
  readonly remaining: string
  readonly reset: string
  readonly retryAfter: string
}

/** Everything that a limiter needs to know: complete, checked and never changed. */
export interface LimiterConfig {
  readonly policies: readonly PolicyConfig[]
  readonly concurrency: { readonly name: string; readonly max: number; readonly ttlMs: number } | undefined
  readonly precision: number
  /** The most requests in one grant, Infinity where only the store bounds it; undefined: nothing is taken ahead. */
  readonly prefetch: { readonly max: number } | undefined
  readonly penalty: Penalty
  readonly ban: number
  readonly hook: RateLimitHook
  readonly cache: number
  readonly allowList: AllowList | Exclude<LimiterOptions['allowList'], readonly string[] | null>
  readonly onStoreError: OnStoreError
  /** Undefined: the client's address, normalized. */
  readonly keyGenerator: LimiterOptions['keyGenerator']
  readonly ipv6Subnet: number
  readonly groupId: string | undefined
  /** Of a limiter made by hand. */
  readonly name: string | undefined
  readonly errorResponseBuilder: LimiterOptions['errorResponseBuilder']
  readonly labels: HeaderLabels
  readonly addHeaders: Flags
  readonly addHeadersOnExceeding: Flags
  readonly standardHeaders: boolean
  readonly onExceeding: Callback | undefined
  readonly onExceeded: Callback | undefined
  readonly onBanReach: Callback | undefined
  readonly onDecision: OnDecision | undefined
  readonly refundOn: RefundOn | undefined
  readonly report: boolean
}

/** What only the registration says, complete and checked. */
export interface RegistrationConfig {
  readonly global: boolean
  readonly redis: RedisClient | undefined
  readonly store: CustomStoreConstructor | undefined
  /** The way to the process that holds the counts. */
  readonly counts: CountsLink | undefined
  readonly nameSpace: string | undefined
  readonly hashKeys: boolean
  readonly hashTag: RateLimitPluginOptions['hashTag']
  readonly storeTimeoutMs: number
  /** How long requests wait for the first connection, counted from the registration; 0 for not at all. */
  readonly startTimeoutMs: number
  /** Denials remembered; 0 for none. */
  readonly denyMemory: number
  readonly onStoreEvent: StoreListener | undefined
}

const DEFAULT_MAX = 1000
const DEFAULT_WINDOW_MS = 60_000
const DEFAULT_CACHE = 5000
const DEFAULT_DENY_MEMORY = 10_000
const DEFAULT_STORE_TIMEOUT_MS = 100
const DEFAULT_START_TIMEOUT_MS = 2000
const DEFAULT_PERMIT_MS = 30_000

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

const REGISTRATION = 'only where the plugin is registered'
const BY_HAND = 'only in app.rateLimit() and app.createRateLimit()'

/** Fastify passes these to every plugin. */
const FASTIFY_OPTIONS = new Set(['prefix', 'logLevel', 'logSerializers'])

/** Checks the options of a registration; throws InvalidOption, which names option, value and what is allowed. */
export function parseRegistration(given: RateLimitPluginOptions): RegistrationConfig {
  const known = { ...limiterOptions, ...registrationOptions }
  const custom = given.store !== undefined
  if (!custom) refuse(byHandOptions, given, BY_HAND)
  checkAll(given, known, '', name => custom || FASTIFY_OPTIONS.has(name))
  if (given.redis && custom) throw new InvalidOption('store', "combined with 'redis'", 'only one of them')
  for (const name of ['redis', 'store'] as const) {
    if (given.counts !== undefined && given[name])
      throw new InvalidOption('counts', `combined with '${name}'`, 'only one of them')
  }
  const lack = given.redis ? whatClientLacks(given.redis) : undefined
  if (lack !== undefined) throw new InvalidOption('redis', lack, registrationOptions.redis.allowed)
  refuseBesideStore(given)
  return {
    global: given.global ?? true,
    redis: given.redis || undefined,
    store: given.store,
    counts: given.counts,
    nameSpace: given.nameSpace,
    hashKeys: given.hashKeys ?? false,
    hashTag: given.hashTag,
    storeTimeoutMs: given.storeTimeout ?? DEFAULT_STORE_TIMEOUT_MS,
    startTimeoutMs: given.startTimeout ?? DEFAULT_START_TIMEOUT_MS,
    denyMemory: given.denyMemory === undefined || given.denyMemory === true ? DEFAULT_DENY_MEMORY : +given.denyMemory,
    onStoreEvent: given.onStoreEvent,
  }
}

/** What a custom store cannot do. */
export function refuseBesideStore(given: LimiterOptions): void {
  if (given.store === undefined) return
  for (const name of ['policies', 'cost', 'concurrency', 'precision', 'refundOn'] as const) {
    if (given[name] !== undefined) {
      throw new InvalidOption(
        name,
        "combined with 'store'",
        'max and timeWindow, because a custom store counts requests',
      )
    }
  }
}

/**
 * Options of a route or a limiter laid over those of its registration; `null` takes an inherited one back. Naming one
 * kind of quota, or one way to treat errors of the store, replaces the other.
 */
export function overlay(base: RateLimitPluginOptions, given: CreateRateLimitOptions): LimiterOptions {
  const merged: Record<string, unknown> = { ...base }
  for (const name of Object.keys(registrationOptions)) delete merged[name]
  if (isGiven(given.max) || isGiven(given.timeWindow)) delete merged.policies
  if (isGiven(given.policies)) {
    delete merged.max
    delete merged.timeWindow
  }
  if (isGiven(given.skipOnError)) delete merged.onStoreError
  if (isGiven(given.onStoreError)) delete merged.skipOnError
  for (const [name, value] of Object.entries(given)) {
    if (value === null) delete merged[name]
    else if (value !== undefined) merged[name] = value
  }
  return merged
}

function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null
}

/** Checks what a route or a call gives, before it is laid over the registration's. `custom`: beside a custom store. */
export function checkLimiterOptions(given: CreateRateLimitOptions, custom: boolean, place: Place): void {
  if (isGiven(given.groupId) && typeof given.groupId !== 'string') throw new InvalidGroup()
  refuse(registrationOptions, given, REGISTRATION)
  if (place === 'route' && !custom) refuse(byHandOptions, given, BY_HAND)
  const known: Kinds = place === 'hand' ? { ...limiterOptions, ...byHandOptions } : limiterOptions
  const named = Object.entries(given).filter(([name, value]) => value !== null || !Object.hasOwn(known, name))
  checkAll(Object.fromEntries(named), known, '', () => custom)
}

/** Options that exist, but not here. */
function refuse(kinds: Kinds, given: object, allowed: string): void {
  for (const name of Object.keys(kinds)) if (name in given) throw new InvalidOption(name, 'given here', allowed)
}

/** Fills in every default. `given` was checked; what is left to refuse depends on more than one option. */
export function parseLimiter(given: LimiterOptions): LimiterConfig {
  const labels = given.enableDraftSpec === true ? DRAFT_LABELS : LABELS
  const { limit, remaining, reset, retryAfter } = labels
  const shown = { [limit]: true, [remaining]: true, [reset]: true }
  return {
    policies: parsePolicies(given),
    concurrency: parseConcurrency(given.concurrency),
    precision: given.precision ?? 0.01,
    prefetch: parsePrefetch(given.prefetch),
    penalty: penaltyOf(given),
    ban: Math.trunc(given.ban ?? -1),
    hook: given.hook ?? 'onRequest',
    cache: given.cache ?? DEFAULT_CACHE,
    allowList: parseAllowList(given),
    onStoreError: onStoreErrorOf(given),
    keyGenerator: given.keyGenerator,
    ipv6Subnet: Math.trunc(given.ipv6Subnet ?? DEFAULT_IPV6_SUBNET),
    groupId: given.groupId,
    name: given.name,
    errorResponseBuilder: given.errorResponseBuilder,
    labels,
    addHeaders: { ...shown, [retryAfter]: true, ...given.addHeaders },
    addHeadersOnExceeding: { ...shown, ...given.addHeadersOnExceeding },
    standardHeaders: given.standardHeaders ?? true,
    onExceeding: given.onExceeding,
    onExceeded: given.onExceeded,
    onBanReach: given.onBanReach,
    onDecision: given.onDecision,
    refundOn: given.refundOn,
    report: given.mode === 'report',
  }
}

/**
 * Values that the published tests of `@fastify/rate-limit` want replaced by the default, while all others of their kind
 * are refused: NaN for `max` and, in a registration, for `timeWindow`; there a prefix length out of range; on a route
 * a negative window. Each replacement is told to `warn`.
 */
export function tolerate<Given extends RateLimitPluginOptions | CreateRateLimitOptions>(
  given: Given,
  place: Place,
  warn: (message: string) => void,
): Given {
  const kept: Record<string, unknown> = { ...given }
  const replace = (name: string, fallback: number) => {
    warn(`option '${name}' is ${show(kept[name])}; the default, ${fallback}, is used instead`)
    kept[name] = fallback
  }
  const { max, timeWindow, ipv6Subnet } = given
  if (place !== 'hand' && Number.isNaN(max)) replace('max', DEFAULT_MAX)
  if (place === 'registration' && Number.isNaN(timeWindow)) replace('timeWindow', DEFAULT_WINDOW_MS)
  if (place === 'route' && typeof timeWindow === 'number' && timeWindow < 0) replace('timeWindow', DEFAULT_WINDOW_MS)
  if (place === 'registration' && typeof ipv6Subnet === 'number' && (ipv6Subnet < 0 || ipv6Subnet > 128)) {
    replace('ipv6Subnet', DEFAULT_IPV6_SUBNET)
  }
  return kept as Given
}

function parsePolicies(given: LimiterOptions): PolicyConfig[] {
  const { policies } = given
  if (policies === undefined) {
    return [
      {
        name: 'default',
        unit: 'requests',
        max: whole(given.max ?? DEFAULT_MAX),
        timeWindow: windowOf(given.timeWindow ?? DEFAULT_WINDOW_MS),
        period: undefined,
        cost: given.cost ?? 1,
        keyGenerator: undefined,
      },
    ]
  }
  for (const name of ['max', 'timeWindow'] as const) {
    if (given[name] !== undefined) throw new InvalidOption(name, "combined with 'policies'", 'only one of them')
  }
  const names = new Set<string>()
  return policies.map((policy, index) => {
    const at = `policies[${index}]`
    if (typeof policy !== 'object' || policy === null) throw refusal(at, policy, limiterOptions.policies)
    checkAll(policy, policyOptions, `${at}.`)
    if (names.has(policy.name)) throw refusal(`${at}.name`, policy.name, policyOptions.name)
    names.add(policy.name)
    const period = periodOf(policy.timeWindow)
    return {
      name: policy.name,
      unit: policy.unit ?? 'requests',
      max: whole(policy.max),
      timeWindow: period === undefined ? windowOf(policy.timeWindow) : LONGEST_PERIOD_MS[period],
      period,
      cost: policy.cost ?? given.cost ?? 1,
      keyGenerator: policy.keyGenerator,
    }
  })
}

function parseConcurrency(given: LimiterOptions['concurrency']): LimiterConfig['concurrency'] {
  if (given === undefined) return undefined
  checkAll(given, concurrencyOptions, 'concurrency.')
  return { name: CONCURRENCY, max: given.max, ttlMs: Math.trunc(milliseconds(given.ttl ?? DEFAULT_PERMIT_MS)) }
}

function parsePrefetch(given: LimiterOptions['prefetch']): LimiterConfig['prefetch'] {
  if (given === false) return undefined
  if (given === undefined || given === true) return { max: Infinity }
  checkAll(given, prefetchOptions, 'prefetch.')
  return { max: given.max }
}

function parseAllowList({ allowList, keyGenerator }: LimiterOptions): LimiterConfig['allowList'] {
  if (typeof allowList === 'function') return allowList
  if (allowList === undefined || allowList === null || allowList.length === 0) return undefined
  const byKey = keyGenerator !== undefined
  const wrong = byKey ? -1 : allowList.findIndex(entry => !isAddressOrRange(entry))
  if (wrong !== -1) {
    throw new InvalidOption(
      `allowList[${wrong}]`,
      show(allowList[wrong]),
      "an address, or a range such as '10.0.0.0/8'; other keys only with a keyGenerator",
    )
  }
  return new AllowList(allowList, byKey)
}

/** In report mode no request fails because of its limits. */
function onStoreErrorOf({ onStoreError, skipOnError, mode }: LimiterOptions): OnStoreError {
  const said = onStoreError ?? (skipOnError === true ? 'allow' : 'throw')
  return mode === 'report' && said !== 'local' ? 'allow' : said
}

/** `continueExceeding` goes before `exponentialBackoff`, and both count denials as `ban` needs them. */
function penaltyOf(given: LimiterOptions): Penalty {
  if (given.continueExceeding === true) return 'renew'
  if (given.exponentialBackoff === true) return 'backoff'
  return (given.ban ?? -1) >= 0 ? 'count' : 'none'
}

function whole(value: PerRequest<number>): PerRequest<number> {
  return typeof value === 'function' ? value : Math.trunc(value)
}

function windowOf(value: PerRequest<number> | string): PerRequest<number> {
  return typeof value === 'function' ? value : wholeWindow(milliseconds(value))
}

/** Of a duration that was checked. */
function milliseconds(duration: number | string): number {
  return typeof duration === 'string' ? (parseDuration(duration) as number) : duration
}
