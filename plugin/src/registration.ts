import type { FastifyBaseLogger, FastifyInstance, RouteOptions } from 'fastify'
import { type App, appOf } from './app.js'
import { isThenable } from './awaitable.js'
import { notify } from './callbacks.js'
import { connectionOf } from './clients/index.js'
import { InvalidOption } from './errors.js'
import { Group } from './group.js'
import { digest, storedKeys, storedNameSpace } from './key.js'
import { Limiter, limiterId, orUnavailable } from './limiter.js'
import { checkedDuration, checkedKeys, type Keys, tagOf } from './options/answers.js'
import { isObject, show } from './options/kinds.js'
import {
  checkLimiterOptions,
  type LimiterConfig,
  overlay,
  type Place,
  parseLimiter,
  parseRegistration,
  type RegistrationConfig,
  refuseBesideStore,
  tolerate,
} from './options/parse.js'
import type { CreateRateLimitOptions, RateLimitOptions, RateLimitPluginOptions } from './options/table.js'
import { RouteNames } from './route-name.js'
import { type CustomStore, CustomStoreAdapter, childOf, newCustomStore } from './stores/custom.js'
import { MemoryStore } from './stores/memory/memory-store.js'
import { SharedStore } from './stores/processes/shared-store.js'
import type { Connection } from './stores/redis/client.js'
import { Outage } from './stores/redis/outage.js'
import type { Replicas } from './stores/redis/presence.js'
import { RedisStore } from './stores/redis/redis-store.js'
import type { Store } from './stores/store.js'

/** One `app.register(rateLimit, …)`: its stores, and the limiters that come of it. */
export class Registration {
  readonly config: RegistrationConfig
  /** The limiter of all routes that have none of their own. */
  readonly main: Limiter
  readonly #app: FastifyInstance
  readonly #given: RateLimitPluginOptions
  /** Tells this registration from the others of the app, the same in every replica. */
  readonly #scope: readonly (string | number)[]
  readonly #store: Store
  readonly #custom: CustomStore | undefined
  readonly #local: MemoryStore
  #presence: ReturnType<App['announce']> | undefined
  /** How limiters go on without Redis and return to it; undefined until the first of them is used. */
  #outage: Outage | undefined
  /** The ids of these limiters. */
  readonly #outlasting = new Set<string>()
  readonly #cache: number
  /** The stores of limiters that have a cache of their own, by what names the limiter. */
  readonly #caches = new Map<string, MemoryStore>()
  /** A partition key as it stands in Redis. */
  readonly #stored: (key: string) => string
  readonly #limiters = new Set<Limiter>()
  readonly #stores = new Set<Store>()
  readonly #routeNames = new RouteNames()
  readonly #routes = new Map<string, { readonly given: RateLimitOptions; readonly limiter: Limiter }>()
  readonly #groups = new Map<string, Group>()
  readonly #connection: Connection | undefined
  #made = 0
  #closed = false
  #warnedOfOrder = false

  constructor(app: FastifyInstance, given: RateLimitPluginOptions) {
    this.#app = app
    this.#given = tolerate(given, 'registration', message => app.log.warn(message))
    this.config = withListener(parseRegistration(this.#given), app.log)
    this.#connection = this.config.redis && connectionOf(this.config.redis)
    const { hashKeys, hashTag } = this.config
    this.#stored = storedKeys(hashKeys, hashTag && (key => tagOf(hashTag, key)))
    const options = overlay(this.#given, {})
    const config = parseLimiter(options)
    this.#scope = [app.prefix, appOf(app).enlist(app.prefix)]
    this.#local = new MemoryStore(config.cache)
    this.#cache = config.cache
    this.#stores.add(this.#local)
    this.#custom = this.config.store && this.#newCustom(config)
    this.#store = this.#newStore()
    this.#stores.add(this.#store)
    this.main = this.#newLimiter(config, ['main'], this.#store)
  }

  /** The limiter of a route with options of its own. GET and HEAD of a URL are one route, a group is one limiter's logs. */
  ofRoute(route: RouteOptions, given: RateLimitOptions): Limiter {
    const name = this.#routeNames.nameOf(route)
    const url = JSON.stringify(name)
    const twin = this.#routes.get(url)
    if (twin?.given === given) return twin.limiter
    const config = this.#configOf(given, 'route')
    const id = config.groupId === undefined ? ['route', ...name] : ['group', config.groupId]
    const limiter = this.#newLimiter(config, id, this.#childStore(config, given, id, route))
    this.#routes.set(url, { given, limiter })
    return limiter
  }

  /**
   * A limiter of `app.rateLimit()` (`attached`) or `app.createRateLimit()` (`created`). It has a count of its own, which
   * it finds again by its name, or the count of the group that it names.
   */
  byHand(kind: 'attached' | 'created', given: CreateRateLimitOptions = {}): Limiter {
    if (!isObject(given) || isThenable(given)) throw new InvalidOption('options', show(given), 'an object, or nothing')
    const config = this.#configOf(kind === 'created' ? withoutResponse(given) : given, 'hand')
    const groupId = given.groupId ?? undefined
    const id = this.#idByHand(kind, config.name, groupId)
    const store = this.#childStore(config, given, id, undefined)
    const isNameless = config.name === undefined && groupId === undefined
    if (isNameless && this.config.redis !== undefined && store === this.#store) this.#warnOfOrder()
    return this.#newLimiter(config, id, store)
  }

  #idByHand(kind: string, name: string | undefined, groupId: string | undefined): readonly (string | number)[] {
    if (groupId === undefined) return name === undefined ? [kind, this.#made++] : [kind, 'name', name]
    if (name === undefined) return ['group', groupId]
    throw new InvalidOption('name', "combined with 'groupId'", 'only one of them')
  }

  /** Of one key everything, or of the keys of policies what is kept of these. */
  async reset(given: Keys): Promise<void> {
    const keys = checkedKeys(given, distinct([...this.#limiters].flatMap(({ policyNames }) => policyNames)))
    if (typeof keys === 'string') return this.#reset(keys, undefined)
    for (const [policy, key] of Object.entries(keys)) await this.#reset(key, policy)
  }

  async #reset(key: string, policy: string | undefined): Promise<void> {
    for (const limiter of this.#limiters) await limiter.learnTime(key)
    for (const [store, limiters] of this.#byStore()) {
      const names = limiters.map(limiter => limiter.names(key, policy))
      const all = {
        limiters: names.flatMap(({ limiters }) => limiters),
        logs: distinct(names.flatMap(({ logs }) => logs)),
        permits: distinct(names.flatMap(({ permits }) => permits)),
      }
      await orUnavailable(() => store.reset(key, all))
      if (store === this.#store) this.#outage?.reset(key, all)
    }
  }

  /** Denies one key for a time with every limiter, or the keys of policies with these. */
  async block(given: Keys, duration: number | string): Promise<void> {
    const durationMs = checkedDuration(duration)
    const names = distinct([...this.#limiters].flatMap(({ config }) => config.policies.map(({ name }) => name)))
    const keys = checkedKeys(given, names)
    if (typeof keys === 'string') return this.#block(keys, undefined, durationMs)
    for (const [policy, key] of Object.entries(keys)) await this.#block(key, policy, durationMs)
  }

  async #block(key: string, policy: string | undefined, durationMs: number): Promise<void> {
    for (const [store, limiters] of this.#byStore()) {
      const logs = new Map(limiters.flatMap(limiter => limiter.blockLogs(policy)).map(log => [log.log, log]))
      if (logs.size === 0) continue
      const places = { limiters: limiters.map(({ id }) => id), logs: [...logs.values()] }
      await orUnavailable(() => store.block(key, places, durationMs))
    }
  }

  /**
   * The limiters that count in each store. Custom stores come first, because they refuse what they cannot do, and those in
   * the process last: where another store fails, they stay as they are.
   */
  #byStore(): readonly (readonly [Store, readonly Limiter[]])[] {
    const all = new Map<Store, Limiter[]>()
    for (const limiter of this.#limiters) {
      for (const store of limiter.stores) all.set(store, [...(all.get(store) ?? []), limiter])
    }
    const rank = (store: Store) => (store instanceof CustomStoreAdapter ? 0 : store instanceof MemoryStore ? 2 : 1)
    return [...all].sort(([a], [b]) => rank(a) - rank(b))
  }

  /**
   * The app begins to close, and its last requests may still run. What Redis has to be told goes there now: the client may
   * be closed before `close` is called, since hooks run in reverse order.
   */
  async drain(): Promise<void> {
    await this.#outage?.flush()
    for (const store of this.#stores) await store.drain?.()
  }

  /** What this replica has not yet told Redis is written first. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#outage?.close()
    for (const store of this.#stores) store.close()
    this.#presence?.withdraw()
  }

  #configOf(given: CreateRateLimitOptions, place: Place): LimiterConfig {
    const tolerated = tolerate(given, place, message => this.#app.log.warn(message))
    checkLimiterOptions(tolerated, this.#custom !== undefined || Boolean(tolerated.store), place)
    const options = overlay(this.#given, tolerated)
    refuseBesideStore(options)
    return parseLimiter(options)
  }

  #warnOfOrder(): void {
    if (this.#warnedOfOrder) return
    this.#warnedOfOrder = true
    this.#app.log.warn(
      "a limiter of rateLimit() or createRateLimit() has neither a name nor a groupId. It finds its counts in Redis by the order in which such limiters are made, which a new release of your app may change. Give it a 'name'",
    )
  }

  #newLimiter(config: LimiterConfig, id: readonly (string | number)[], store: Store): Limiter {
    const sharesQuotas = config.onStoreError === 'local' && this.#connection !== undefined
    const outlasts = sharesQuotas && store === this.#store
    const name = limiterId(...this.#scope, ...id)
    if (outlasts) this.#outlasting.add(name)
    // A name that nobody gave is settled with the first request.
    if (sharesQuotas && this.config.nameSpace !== undefined) this.#outlast()
    const limiter = new Limiter({
      config,
      id: name,
      group: id[0] === 'group' ? this.#groupOf(config) : undefined,
      store,
      local: this.#local,
      share: sharesQuotas ? check => this.#outlast()?.share(check) ?? check : undefined,
      outage: outlasts ? () => this.#outlast() : undefined,
      warn: message => this.#app.log.warn(message),
    })
    this.#limiters.add(limiter)
    return limiter
  }

  #groupOf({ groupId, precision }: LimiterConfig): Group | undefined {
    if (groupId === undefined) return undefined
    let group = this.#groups.get(groupId)
    if (group === undefined) {
      group = new Group(precision)
      this.#groups.set(groupId, group)
    } else if (group.precision !== precision) {
      throw new InvalidOption(
        'precision',
        String(precision),
        `${group.precision}, like the other routes of the group '${groupId}'`,
      )
    }
    return group
  }

  /** From the first limiter on that needs to know the others. */
  #announced(): Replicas | undefined {
    const connection = this.#connection
    const { redis } = this.config
    if (connection === undefined || redis === undefined || this.#closed) return undefined
    this.#presence ??= appOf(this.#app).announce(redis, connection, this.#nameSpace())
    return this.#presence.replicas
  }

  /** From the first limiter on that goes on without Redis. */
  #outlast(): Outage | undefined {
    if (this.#outage !== undefined) return this.#outage
    const replicas = this.#announced()
    const connection = this.#connection
    const store = this.#store
    if (replicas === undefined || connection === undefined || !(store instanceof RedisStore)) return undefined
    const { storeTimeoutMs: timeoutMs } = this.config
    const stored = this.#stored
    const nameSpace = this.#nameSpace()
    const capacity = this.#cache
    const local = this.#local
    this.#outage = new Outage({ connection, store, local, replicas, nameSpace, stored, timeoutMs, capacity })
    return this.#outage
  }

  #nameSpace(): string {
    const { nameSpace } = this.config
    return nameSpace === undefined ? `mlrl:${digest(appOf(this.#app).name.name, 8)}:` : storedNameSpace(nameSpace)
  }

  #newStore(): Store {
    const { counts, storeTimeoutMs, startTimeoutMs, denyMemory, onStoreEvent } = this.config
    if (this.#custom !== undefined)
      return new CustomStoreAdapter(this.#custom, { suffix: '', timeoutMs: storeTimeoutMs })
    if (counts !== undefined) {
      return new SharedStore(counts, {
        timeoutMs: storeTimeoutMs,
        denyMemory,
        onEvent: event => {
          onStoreEvent?.(event)
          if (event.type === 'lost') this.#app.log.error({ err: event.error }, 'the rate limit store is lost')
          if (event.type === 'back') this.#app.log.info('the rate limit store answers again')
        },
      })
    }
    if (this.#connection === undefined) return this.#local
    return new RedisStore(this.#connection, {
      nameSpace: () => this.#nameSpace(),
      stored: this.#stored,
      timeoutMs: storeTimeoutMs,
      startTimeoutMs,
      denyMemory,
      replicas: () => this.#announced()?.seen.count ?? 1,
      onAnswer: (check, answer) => {
        if (this.#outlasting.has(check.limiter)) this.#outage?.answered(check, answer)
      },
      onEvent: onStoreEvent,
      onCircuit: (error, node) => {
        this.#outage?.circuit(error !== undefined, node)
        if (error === undefined) this.#app.log.info({ node }, 'the rate limit store answers again')
        else this.#app.log.error({ err: error, node }, 'the rate limit store is lost')
      },
    })
  }

  /** Where a route or a limiter made by hand counts: mostly with the rest, apart from a custom store and a cache size of its own. */
  #childStore(
    config: LimiterConfig,
    given: RateLimitOptions,
    id: readonly (string | number)[],
    route: RouteOptions | undefined,
  ): Store {
    const options = { ...this.#customOptions(config), ...given, ...windowOf(config), routeInfo: route ?? {} }
    const Own = given.store
    const custom =
      Own === undefined ? this.#custom && childOf(this.#custom, options) : Own && newCustomStore(Own, options)
    if (custom) {
      const { storeTimeoutMs } = this.config
      return new CustomStoreAdapter(custom, { suffix: config.groupId ?? '', timeoutMs: storeTimeoutMs })
    }
    const isElsewhere = this.config.redis !== undefined || this.config.counts !== undefined
    if (!given.cache || isElsewhere || config.groupId !== undefined) {
      return Own === null && this.#custom !== undefined ? this.#local : this.#store
    }
    // Limiters of one name share one count.
    const name = JSON.stringify(id)
    const store = this.#caches.get(name) ?? new MemoryStore(config.cache)
    this.#caches.set(name, store)
    this.#stores.add(store)
    return store
  }

  #newCustom(config: LimiterConfig): CustomStore | undefined {
    const Store = this.config.store
    return Store && newCustomStore(Store, { ...this.#customOptions(config), ...windowOf(config) })
  }

  #customOptions(config: LimiterConfig): Record<string, unknown> {
    const { continueExceeding, exponentialBackoff } = this.#given
    return {
      ...this.#given,
      global: this.config.global,
      ban: config.ban,
      hook: config.hook,
      continueExceeding: continueExceeding ?? false,
      exponentialBackoff: exponentialBackoff ?? false,
      ipv6Subnet: config.ipv6Subnet,
      addHeaders: config.addHeaders,
      addHeadersOnExceeding: config.addHeadersOnExceeding,
    }
  }
}

function distinct<T>(values: readonly T[]): T[] {
  return [...new Set(values)]
}

/** A listener that fails changes nothing of what the store does. */
function withListener(config: RegistrationConfig, log: FastifyBaseLogger): RegistrationConfig {
  const { onStoreEvent } = config
  if (onStoreEvent === undefined) return config
  return { ...config, onStoreEvent: event => notify(log, 'onStoreEvent', onStoreEvent, event, undefined) }
}

/** What has to see the response end is not inherited by a limiter that answers by hand, and cannot be given to it. */
function withoutResponse(given: CreateRateLimitOptions): CreateRateLimitOptions {
  for (const name of ['concurrency', 'refundOn'] as const) {
    if (given[name] !== undefined && given[name] !== null) {
      throw new InvalidOption(name, 'given to createRateLimit()', 'only in rateLimit(), which sees the response end')
    }
  }
  return { ...given, concurrency: null, refundOn: null }
}

/** A custom store is told its window in milliseconds. */
function windowOf(config: LimiterConfig): { max: unknown; timeWindow: unknown } {
  return { max: config.policies[0]?.max, timeWindow: config.policies[0]?.timeWindow }
}
