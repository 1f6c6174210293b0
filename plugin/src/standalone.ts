/** The limiter without requests: for jobs, sockets and other frameworks. `ml-api-rate-limiter/limiter`. */
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { PolicyState } from './decision.js'
import { InvalidOption } from './errors.js'
import type { Decided, Limiter as Engine } from './limiter.js'
import { LiveDecision, type RequestRateLimit } from './live-decision.js'
import type { Cost, Keys } from './options/answers.js'
import { isFunction, isObject, refusal, show } from './options/kinds.js'
import { limiterOptions, type RateLimitPluginOptions, type RateLimitPolicy } from './options/table.js'
import { Registration } from './registration.js'

/** Options of the plugin that mean the same without requests. */
const SHARED = [
  ...['precision', 'concurrency', 'ban', 'continueExceeding', 'exponentialBackoff', 'cache', 'prefetch'],
  ...[
    'onStoreError',
    'redis',
    'counts',
    'nameSpace',
    'hashKeys',
    'hashTag',
    'storeTimeout',
    'startTimeout',
    'denyMemory',
  ],
  'onStoreEvent',
] as const
/** Options that are functions of a request in the plugin, and plain values here. */
const PLAIN = ['max', 'timeWindow', 'cost'] as const
const NAMES: readonly string[] = [...SHARED, ...PLAIN, 'policies', 'log']

type Shared = Pick<
  RateLimitPluginOptions,
  | ('precision' | 'concurrency' | 'ban' | 'continueExceeding' | 'exponentialBackoff' | 'cache' | 'prefetch')
  | (
      | 'onStoreError'
      | 'redis'
      | 'counts'
      | 'nameSpace'
      | 'hashKeys'
      | 'hashTag'
      | 'storeTimeout'
      | 'startTimeout'
      | 'denyMemory'
    )
  | 'onStoreEvent'
>

/** One quota over one sliding window. */
export interface LimiterPolicy extends Pick<RateLimitPolicy, 'name' | 'unit'> {
  /** Cost admitted in any one window. */
  readonly max: number
  /** Milliseconds, or a duration such as '1 minute'. */
  readonly timeWindow: number | string
  /** What a check takes where it names no cost. Default 1. */
  readonly cost?: number | undefined
}

/** What says that Redis is lost and back; the one of Fastify, pino and `console` will do. */
export type LimiterLog = Pick<FastifyBaseLogger, 'info' | 'warn' | 'error'>

/** As the options of the plugin, without those that concern requests. With `redis`, `nameSpace` names the limiter. */
export interface LimiterOptions extends Shared {
  readonly max?: number | undefined
  readonly timeWindow?: number | string | undefined
  readonly cost?: number | undefined
  readonly policies?: readonly LimiterPolicy[] | undefined
  /** Default: nothing is logged. */
  readonly log?: LimiterLog | undefined
}

/** The answer to a check, and ways to charge more and to give back. */
export interface LimiterDecision extends RequestRateLimit {
  /** Gives the permit back, with `concurrency`: the work is done. More than once is as good as once. */
  release(): void
}

/** Where a key stands. */
export interface LimiterStatus {
  readonly key: Keys
  readonly policies: readonly PolicyState[]
}

/**
 * A limiter. `key`: whose quota; an object of keys by policy name where policies have keys of their own. Policies that it
 * does not name are left alone. `cost`: a number for every policy, or an object by policy name. Calls reject with
 * InvalidOption (`ML_RATE_INVALID_OPTION`) for a key that is neither, and for a policy that there is not, and with
 * InvalidAnswer (`ML_RATE_INVALID_ANSWER`) for a cost that is no integer ≥ 0.
 */
export interface Limiter {
  /** Admits and charges, or denies and charges nothing. Rejects where the store fails and `onStoreError` says so. */
  check(key: Keys, cost?: Cost): Promise<LimiterDecision>
  /** Where a key stands. Counts nothing. Null where the store cannot be asked and `onStoreError` is 'allow'. */
  status(key: Keys): Promise<LimiterStatus | null>
  /** Charges without asking; may overdraw the quota. */
  charge(key: Keys, cost: Cost): Promise<void>
  /** An operator's act: takes cost off the oldest units of a key, whoever was charged for them. */
  refund(key: Keys, cost: Cost): Promise<void>
  /** Gives a key its whole quota back. */
  reset(key: Keys): Promise<void>
  /**
   * Denies a key for a time, whatever it has used, in every process. `duration`: milliseconds ≥ 1, or a duration such as
   * '1 hour'. Another block replaces the one before, and `reset` ends it. Rejects with InvalidOption
   * (`ML_RATE_INVALID_OPTION`) for another duration, and with StoreUnavailable (`ML_RATE_STORE_UNAVAILABLE`) where Redis
   * could not be asked: then the key is not blocked.
   */
  block(key: Keys, duration: number | string): Promise<void>
  /** Stops timers. The Redis client stays open. */
  close(): Promise<void>
}

/**
 * A limiter that counts in Redis for all processes with the same `nameSpace`, or in this process.
 *
 * Throws InvalidOption (`ML_RATE_INVALID_OPTION`) for an option that cannot be met.
 */
export function createLimiter(options: LimiterOptions): Limiter {
  refuseOthers(options)
  const { log = SILENT, ...given } = options
  const closers: (() => unknown)[] = []
  const registration = new Registration(hostOf(log, closers), given as RateLimitPluginOptions)
  const { main } = registration
  return {
    check: async (key, cost) => new Admission(main, await main.decideByHand(key, cost)),
    status: async key => {
      const decision = await main.status(key, undefined)
      return decision && { key, policies: decision.policies }
    },
    charge: (key, cost) => main.chargeByHand(key, cost),
    refund: (key, cost) => main.refund(key, cost, undefined),
    reset: key => registration.reset(key),
    block: (key, duration) => registration.block(key, duration),
    close: async () => {
      await registration.close()
      for (const close of closers) await close()
    },
  }
}

class Admission extends LiveDecision implements LimiterDecision {
  readonly #lease: Decided['lease']

  constructor(engine: Engine, decided: Decided) {
    super(engine, decided)
    this.#lease = decided.lease
  }

  release(): void {
    this.#lease?.release()
  }
}

function refuseOthers(options: LimiterOptions): void {
  if (!isObject(options)) throw new InvalidOption('options', show(options), 'an object')
  for (const name of Object.keys(options)) {
    if (!NAMES.includes(name))
      throw new InvalidOption(name, 'unknown to a limiter without requests', `one of ${NAMES.join(', ')}`)
  }
  const policies = Array.isArray(options.policies) ? options.policies : []
  for (const [at, given] of [['', options], ...policies.map((policy, index) => [`policies[${index}].`, policy])] as [
    string,
    object,
  ][]) {
    for (const [name, value] of Object.entries(given ?? {})) {
      const isOfRequests = typeof value === 'function' && (name === 'keyGenerator' || PLAIN.includes(name as 'max'))
      if (isOfRequests) throw new InvalidOption(at + name, show(value), 'a plain value, because there is no request')
    }
  }
  // The plugin takes the default for these where its registration has NaN, and warns of it; see `tolerate`.
  for (const name of ['max', 'timeWindow'] as const) {
    if (Number.isNaN(options[name])) throw refusal(name, options[name], limiterOptions[name])
  }
  const { log } = options
  const isLog = log === undefined || ['info', 'warn', 'error'].every(level => isFunction(Object(log)[level]))
  if (!isLog) throw new InvalidOption('log', show(log), 'an object with the functions info, warn and error')
  if (options.redis && options.nameSpace === undefined) {
    throw new InvalidOption('nameSpace', 'undefined', 'a string that names the limiter in Redis')
  }
}

const SILENT: LimiterLog = { info: () => {}, warn: () => {}, error: () => {} }

/** What a registration needs of an app. */
function hostOf(log: LimiterLog, closers: (() => unknown)[]): FastifyInstance {
  const host = {
    prefix: 'limiter',
    log,
    server: {},
    addHook: (_name: 'onClose', close: () => unknown) => closers.push(close),
  }
  return host as unknown as FastifyInstance
}
