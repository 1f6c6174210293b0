import type { FastifyRequest } from 'fastify'
import { isThenable, then } from './awaitable.js'
import { clientKey } from './client-key.js'
import { now } from './clock.js'
import { type Decision, decide, pass, type Units } from './decision.js'
import { ChargeTooLarge, StoreCannot, StoreCannotRead, StoreClosed, StoreFailed, StoreUnavailable } from './errors.js'
import type { Group } from './group.js'
import { digest } from './key.js'
import { costOf, Ledger } from './ledger.js'
import {
  type Cost,
  checkedCost,
  checkedCosts,
  checkedKey,
  checkedKeys,
  checkedMax,
  checkedWindow,
  isUnusable,
  type Key,
  type Keys,
} from './options/answers.js'
import type { LimiterConfig, PolicyConfig } from './options/parse.js'
import { CONCURRENCY } from './options/table.js'
import { type Period, type PeriodSpan, spanAt } from './period.js'
import { type Policy, sharesSlices, UNLIMITED } from './policy.js'
import type { Outage } from './stores/redis/outage.js'
import {
  type Answer,
  type BlockLog,
  type Check,
  keyAt,
  type Lease,
  type Names,
  OtherPeriod,
  type Refund,
  type Store,
} from './stores/store.js'

/** What became of a request: let through unasked, or decided. */
export type Outcome = { readonly listed: true; readonly key: Key } | Decided

export interface Decided {
  readonly listed: false
  readonly key: Key
  readonly decision: Decision
  /** What the store was asked: with `onStoreError: 'local'` this replica's share. */
  readonly check: Check
  /** The store that answered; undefined where the request passed uncounted. */
  readonly store: Store | undefined
  readonly answer: Answer | undefined
  readonly lease: Lease | undefined
}

export interface LimiterParts {
  readonly config: LimiterConfig
  /**
   * Identifies this limiter's logs among all others in the name space; the same in every replica. Of a fixed length
   * and of letters, digits, `-` and `_`.
   */
  readonly id: string
  /** The logs shared with other limiters; undefined where there are none. */
  readonly group: Group | undefined
  readonly store: Store
  /** Where counting goes on with `onStoreError: 'local'`. */
  readonly local: Store
  /** This replica's part of a check that is counted there; undefined where there is only one replica. */
  readonly share: ((check: Check) => Check) | undefined
  /** Knows when to count there beside the store, and writes it to the store later; undefined where nobody does. */
  readonly outage: (() => Outage | undefined) | undefined
  /** Tells the log of what is probably not meant. */
  readonly warn?: ((message: string) => void) | undefined
}

type Awaitable<T> = T | Promise<T>

/** How often a check is asked again because the period of a budget has changed meanwhile. */
const MOST_PERIODS = 3
/** Window of a log that holds the end of a block and no admissions, in milliseconds. */
const BLOCK_LOG_MS = 1000

/** Windows that a function has given, remembered for `reset`: the most recent ones. */
const MOST_WINDOWS = 1000
/** So many are warned of. */
const MANY_WINDOWS = 100

/** One set of policies over one set of logs: from a request to a decision. Knows nothing of replies. */
export class Limiter {
  readonly config: LimiterConfig
  /** The limiters that most requests meet. */
  readonly alone: readonly Limiter[] = [this]
  readonly #parts: LimiterParts
  /** What `Cost` may name: a permit has no cost. */
  readonly #quotaNames: readonly string[]
  readonly #units: Units
  readonly #concurrency: Check['concurrency']
  /** Whether quotas and windows are the same for every request. */
  readonly isFixed: boolean
  readonly #hasBudget: boolean
  /** Whether a policy has a key of its own. */
  readonly #hasKeys: boolean
  /** The policies of every request, where nothing in them depends on it, and the version of the group they are for. */
  #fixed: readonly Policy[] | undefined
  #fixedFor = -1
  /** Names of logs whose windows a function has given, with the policy of each. */
  readonly #given = new Map<string, string>()

  constructor(parts: LimiterParts) {
    const { config, id, group } = parts
    this.config = config
    this.#parts = parts
    this.#quotaNames = config.policies.map(({ name }) => name)
    this.#units = Object.fromEntries(config.policies.map(({ name, unit }) => [name, unit]))
    this.#concurrency = config.concurrency && { ...config.concurrency, log: `${id}/permits` }
    if (group !== undefined && config.penalty !== 'none') group.hasPenalty = true
    for (const { name, max, timeWindow, period } of config.policies) {
      if (isNumber(timeWindow) && period === undefined)
        group?.join(this.#logOf(name, timeWindow, false), name, timeWindow, isNumber(max) ? max : 0)
    }
    this.#hasBudget = config.policies.some(({ period }) => period !== undefined)
    this.#hasKeys = config.policies.some(({ keyGenerator }) => keyGenerator !== undefined)
    this.isFixed = config.policies.every(({ max, timeWindow }) => isNumber(max) && isNumber(timeWindow))
  }

  /** Whose quota a request counts against. */
  key(request: FastifyRequest): Awaitable<Key> {
    const { keyGenerator, ipv6Subnet } = this.config
    if (keyGenerator === undefined) return clientKey(request, ipv6Subnet)
    return then(keyGenerator(request), checkedKey)
  }

  /** Counts a request, or only says what would become of it (`peek`). */
  decide(request: FastifyRequest, peek: boolean): Awaitable<Outcome> {
    const key = this.key(request)
    return isThenable(key)
      ? key.then(settled => this.#decideFor(settled, request, peek))
      : this.#decideFor(key, request, peek)
  }

  #decideFor(key: Key, request: FastifyRequest, peek: boolean): Awaitable<Outcome> {
    // Most limiters: the same for every request, and for everybody.
    const fixed = this.config.allowList || this.#hasKeys ? undefined : this.#fixedPolicies()
    if (fixed !== undefined) return this.#ask(key, this.#checkOf(key, fixed), peek)
    return then(this.#listed(request, key), listed => {
      if (listed) return { listed, key }
      return then(this.#check(request, key), check => this.#ask(key, check, peek))
    })
  }

  /** Where keys stand; null where the store cannot be asked and requests pass. `request`: for options that are functions. */
  status(keys: Keys, request: FastifyRequest | undefined): Awaitable<Decision | null> {
    return then(this.#checkByHand(keys, request), check => this.#standing(check))
  }

  /** Where the client of a request stands. */
  statusOf(request: FastifyRequest): Awaitable<Decision | null> {
    return then(this.key(request), key =>
      then(this.#ownKeys(request, key), own =>
        then(this.#policies(request, key, own, true), policies => this.#standing(this.#checkOf(key, policies, own))),
      ),
    )
  }

  #standing(check: Check): Awaitable<Decision | null> {
    return then(this.#ask(check.key, check, true), ({ decision }) => (decision.known ? decision : null))
  }

  /**
   * The denial that a request of these keys would meet now, where it is known without waiting. Counts nothing. Undefined
   * where the request may pass, where something of the decision or the answer depends on the request itself, and where
   * a denial has consequences (penalties) or none (shadow mode). Where policies have keys of their own, all keys are to be
   * named.
   */
  knownDenial(keys: Keys): Decision | undefined {
    const { allowList, penalty, report, errorResponseBuilder, ban, policies } = this.config
    const isPlain = !allowList && !report && penalty === 'none' && errorResponseBuilder === undefined
    const fixed = isPlain ? this.#fixedPolicies() : undefined
    if (fixed === undefined) return undefined
    const isNamed = typeof keys === 'object'
    if (isNamed ? policies.some(({ name }) => keys[name] === undefined) : this.#hasKeys) return undefined
    const check = isNamed
      ? this.#checkOf(
          this.#keyAmong(keys),
          fixed,
          this.#hasKeys ? policies.map(({ name }) => keys[name] as string) : undefined,
        )
      : this.#checkOf(keys, fixed)
    const answer = this.#parts.store.knownDenial?.(check)
    return answer && decide(check, answer, ban, this.#units)
  }

  /**
   * Charges cost that is known only now, where the request was counted; may overdraw. Adds it to the ledger of the
   * decision. While the store cannot be asked, `onStoreError` says what becomes of it.
   */
  async charge({ store, check }: Decided, cost: Cost, ledger: Ledger): Promise<void> {
    checkedCosts(cost, this.#quotaNames)
    const { local } = this.#parts
    const outage = this.#parts.outage?.()
    const policies: Policy[] = []
    const keys: string[] = []
    for (const [index, policy] of check.policies.entries()) {
      const units = costOf(cost, policy.name)
      if (units === undefined) continue
      policies.push({ ...policy, cost: units })
      keys.push(keyAt(check, index))
    }
    if (store === undefined || policies.length === 0) return
    const charged = {
      ...check,
      policies,
      keys: check.keys && keys,
      decisive: policies.length,
      concurrency: undefined,
      penalty: 'none' as const,
    }
    try {
      const answer = await store.charge(charged)
      ledger.charge(charged, answer)
      if (store === local) outage?.gave(charged, answer, undefined)
      else if (outage?.isGuarded(check)) await local.charge(charged)
    } catch (reason) {
      if (isAboutCall(reason)) throw reason
      const { onStoreError } = this.config
      if (onStoreError !== 'local' && onStoreError !== 'allow') throw this.#failure(reason)
      if (onStoreError === 'allow') return
      const answer = await local.charge(charged)
      ledger.charge(charged, answer)
      outage?.gave(charged, answer, reason)
    }
  }

  /**
   * Gives back what the ledger of a decision holds, up to `cost`. While the store cannot be asked, nothing is given
   * back: that is an error with 'throw' and 'deny', and accepted with 'allow' and 'local'.
   */
  async refundDecision({ store, check }: Decided, ledger: Ledger, cost: Cost | undefined): Promise<void> {
    if (cost !== undefined) checkedCosts(cost, this.#quotaNames)
    const refunds = ledger.take(cost)
    if (store === undefined || refunds.length === 0) return
    try {
      await store.refund(check, refunds)
      if (store === this.#parts.local) this.#parts.outage?.()?.tookBack(check, refunds)
    } catch (reason) {
      const { onStoreError } = this.config
      if (onStoreError === 'throw' || onStoreError === 'deny' || isAboutCall(reason)) throw this.#failure(reason)
    }
  }

  /** Counts without a request. `cost`: of each policy, those that it does not name cost nothing; undefined: as configured. */
  decideByHand(keys: Keys, cost: Cost | undefined): Awaitable<Decided> {
    if (cost !== undefined) checkedCosts(cost, this.#quotaNames)
    // Quota of a busy key is taken ahead for policies that are the same ones from check to check.
    const isPlain = typeof keys === 'string' && cost === undefined && !this.#hasKeys
    const fixed = isPlain ? this.#fixedPolicies() : undefined
    if (fixed !== undefined) return this.#ask(keys as Key, this.#checkOf(keys as Key, fixed), false)
    return then(this.#checkByHand(keys, undefined), check => this.#ask(check.key, this.#costing(check, cost), false))
  }

  /** Charges without asking. Where the store cannot be asked, `onStoreError` says what becomes of it. */
  async chargeByHand(keys: Keys, cost: Cost): Promise<void> {
    checkedCosts(cost, this.#quotaNames)
    await this.learnTime(keys)
    const check = await this.#checkByHand(keys, undefined)
    const { store } = this.#parts
    const decided = { listed: false as const, key: check.key, check, store, answer: undefined, lease: undefined }
    await this.charge({ ...decided, decision: pass(check, this.#units) }, cost, new Ledger())
  }

  #costing(check: Check, cost: Cost | undefined): Check {
    const configured = new Map(this.config.policies.map(({ name, cost }) => [name, cost]))
    const policies = check.policies.map(policy => {
      const units = cost === undefined ? configured.get(policy.name) : (costOf(cost, policy.name) ?? 0)
      return { ...policy, cost: checkedCost(units) }
    })
    return { ...check, policies }
  }

  /** Gives cost of keys back, whoever was charged for it. Rejects with StoreUnavailable where that did not happen. */
  async refund(keys: Keys, cost: Cost, request: FastifyRequest | undefined): Promise<void> {
    checkedCosts(cost, this.#quotaNames)
    await this.learnTime(keys)
    const check = await this.#checkByHand(keys, request)
    const refunds: Refund[] = []
    for (const [index, policy] of check.policies.entries()) {
      const units = costOf(cost, policy.name)
      if (units === undefined) continue
      refunds.push({ policy, cost: units, admission: undefined, key: keyAt(check, index) })
    }
    await orUnavailable(() => this.#parts.store.refund(check, refunds))
  }

  /**
   * Asks the store for its time where that is not known yet, since it says which period of a budget a charge, a refund or
   * a reset is about. Never rejects: where the store gives no answer, those say so.
   */
  async learnTime(keys: Keys): Promise<void> {
    const { store, id } = this.#parts
    if (!this.#hasBudget || store.now === undefined) return
    for (const key of typeof keys === 'object' ? Object.values(keys ?? {}) : [keys]) {
      if (store.now(String(key)) !== undefined) continue
      const policies = this.config.policies
        .filter(({ period }) => period !== undefined)
        .map(config => this.#policy(config, key, isNumber(config.max) ? config.max : 0, config.timeWindow, 0))
      const check = { key: String(key), limiter: id, policies, decisive: policies.length, penalty: 'none' as const }
      await orUnavailable(() => store.peek(check)).catch(() => {})
    }
  }

  get id(): string {
    return this.#parts.id
  }

  /** What `Keys` may name. */
  get policyNames(): readonly string[] {
    return this.#concurrency === undefined ? this.#quotaNames : [...this.#quotaNames, CONCURRENCY]
  }

  /** Everything that is kept about a key, by name. `policy`: of this policy alone. */
  names(key: Key, policy?: string): Names {
    const { id, group } = this.#parts
    const isMeant = (name: string) => policy === undefined || policy === name
    const logs = new Set<string>()
    for (const config of this.config.policies) {
      const { name, timeWindow, period } = config
      if (!isMeant(name)) continue
      const blockLog = this.#blockLogOf(config)
      if (blockLog !== undefined) logs.add(blockLog)
      if (period !== undefined) logs.add(this.#logOfSpan(name, this.#spanOf(period, key)))
      else if (isNumber(timeWindow)) logs.add(this.#logOf(name, timeWindow, false))
    }
    for (const { log, name } of group?.logs ?? []) if (isMeant(name)) logs.add(log)
    for (const [log, name] of this.#given) if (isMeant(name)) logs.add(log)
    const permits = this.#concurrency === undefined || !isMeant(this.#concurrency.name) ? [] : [this.#concurrency.log]
    return { limiters: [id], logs: [...logs], permits }
  }

  /** The logs that hold the end of a block. `policy`: of this policy alone. */
  blockLogs(policy?: string): readonly BlockLog[] {
    const policies = this.config.policies.filter(({ name }) => policy === undefined || policy === name)
    return policies.map(config => {
      const blockLog = this.#blockLogOf(config)
      if (blockLog !== undefined) return { log: blockLog, windowMs: BLOCK_LOG_MS }
      const windowMs = config.timeWindow as number
      return { log: this.#logOf(config.name, windowMs, false), windowMs }
    })
  }

  /** The stores that keep them, the shared one first. */
  get stores(): readonly Store[] {
    const { store, local } = this.#parts
    return [store, local]
  }

  /** `again`: how often it was asked for another period. */
  #ask(key: Key, check: Check, peek: boolean, again = 0): Awaitable<Decided> {
    const { store } = this.#parts
    const outage = this.#parts.outage?.()
    if (outage !== undefined && !peek && outage.isGuarded(check)) return this.#askBoth(key, check, outage, again)
    let answer: Awaitable<Answer>
    try {
      answer = peek ? store.peek(check) : store.check(check)
    } catch (reason) {
      return this.#withoutStore(key, check, peek, reason)
    }
    if (!isThenable(answer)) return this.#decided(key, check, store, answer)
    const guards = outage?.guards
    return answer.then(
      settled => {
        const isUnguarded = settled.allowed && !peek && outage !== undefined && outage.guards !== guards
        return isUnguarded && outage.wasLeft(check, guards as number)
          ? this.#confirmed(key, check, outage, settled)
          : this.#decided(key, check, store, settled)
      },
      reason => {
        if (!(reason instanceof OtherPeriod)) return this.#withoutStore(key, check, peek, reason)
        if (again >= MOST_PERIODS) return this.#withoutStore(key, check, peek, new StoreFailed({ cause: reason }))
        return this.#ask(key, this.#inPresentPeriod(check), peek, again + 1)
      },
    )
  }

  /** The store has told what time it is. */
  #inPresentPeriod(check: Check): Check {
    const policies = check.policies.map((policy, index) => {
      if (policy.span === undefined) return policy
      const span = this.#spanOf(policy.span.period, keyAt(check, index))
      return { ...policy, span, log: this.#logOfSpan(policy.name, span) }
    })
    return { ...check, policies }
  }

  /** Admitted by this replica's share and by the store. Where the store gives no answer, the share decides. */
  async #askBoth(key: Key, check: Check, outage: Outage, again: number): Promise<Decided> {
    const { local, store } = this.#parts
    const share = outage.share(check)
    const own = await local.check(share)
    if (!own.allowed) {
      // Whether the store answers, and takes writes, is found out by asking it.
      if (outage.isAway(check)) await this.#tryStore(check)
      return this.#decided(key, share, local, own)
    }
    try {
      const answer = await store.check(withoutAhead(check))
      own.concurrency?.lease?.release()
      if (!answer.allowed) await local.refund(share, refundsOf(share, own))
      return this.#decided(key, check, store, answer)
    } catch (reason) {
      const isOtherPeriod = reason instanceof OtherPeriod && again < MOST_PERIODS
      if (isOtherPeriod || isAboutCall(reason)) {
        own.concurrency?.lease?.release()
        await local.refund(share, refundsOf(share, own))
        if (isOtherPeriod) return this.#ask(key, this.#inPresentPeriod(check), false, again + 1)
        throw reason
      }
      if (!outage.isGuarded(check)) {
        // The node alone has decided meanwhile, and others may have had what was left.
        own.concurrency?.lease?.release()
        await local.refund(share, refundsOf(share, own))
        return this.#withoutStore(key, check, false, reason)
      }
      outage.gave(share, own, reason)
      return this.#decided(key, share, local, own)
    }
  }

  /**
   * Admitted by the store, which may have missed something since it was asked: this replica's share has to admit it too.
   * If it does not, the store gets its cost back, and nobody waits for that.
   */
  async #confirmed(key: Key, check: Check, outage: Outage, answer: Answer): Promise<Decided> {
    const { local, store } = this.#parts
    const share = outage.share(check)
    const own = await local.check(share)
    own.concurrency?.lease?.release()
    if (own.allowed) return this.#decided(key, check, store, answer)
    answer.concurrency?.lease?.release()
    this.#giveBack(check, answer)
    return this.#decided(key, share, local, own)
  }

  /** Where it fails, the cost counts until it has left the window. */
  #giveBack(check: Check, answer: Answer): void {
    const { store } = this.#parts
    Promise.resolve(store.refund(check, refundsOf(check, answer))).catch(() => {})
  }

  /** Asks the store about a request that is denied, whatever it says. */
  async #tryStore(check: Check): Promise<void> {
    const { store } = this.#parts
    try {
      const answer = await store.check(withoutAhead(check))
      answer.concurrency?.lease?.release()
      if (answer.allowed) this.#giveBack(check, answer)
    } catch {
      // The store says so to those who watch it.
    }
  }

  /** What `onStoreError` says. */
  #withoutStore(key: Key, check: Check, peek: boolean, reason: unknown): Awaitable<Decided> {
    if (isAboutCall(reason)) throw reason
    switch (this.config.onStoreError) {
      case 'allow': {
        const decision = pass(check, this.#units)
        return { listed: false, key, decision, check, store: undefined, answer: undefined, lease: undefined }
      }
      case 'local': {
        const { local } = this.#parts
        const outage = this.#parts.outage?.()
        const share = this.#parts.share?.(check) ?? check
        const answer = peek ? local.peek(share) : local.check(share)
        return then(answer, settled => {
          if (!peek && settled.allowed) outage?.gave(share, settled, reason)
          return this.#decided(key, share, local, settled)
        })
      }
      default:
        throw this.#failure(reason)
    }
  }

  #decided(key: Key, check: Check, store: Store, answer: Answer): Decided {
    const decision = decide(check, answer, this.config.ban, this.#units)
    return { listed: false, key, decision, check, store, answer, lease: answer.concurrency?.lease }
  }

  /** What the caller is told of a failure: never the store's own words. */
  #failure(reason: unknown): unknown {
    if (isAboutCall(reason)) return reason
    if (this.config.onStoreError === 'deny') return unavailable(reason)
    return isOwn(reason) ? reason : new StoreFailed({ cause: reason })
  }

  #listed(request: FastifyRequest, key: Key): Awaitable<boolean> {
    const { allowList } = this.config
    if (typeof allowList === 'function') return then(allowList(request, key as string), Boolean)
    return allowList?.has(request.ip, key) === true
  }

  #check(request: FastifyRequest, key: Key): Awaitable<Check> {
    return then(this.#ownKeys(request, key), own =>
      then(this.#fixedPolicies() ?? this.#policies(request, key, own, false), policies =>
        this.#checkOf(key, policies, own),
      ),
    )
  }

  /** Of the keys that an operator names, free of charge. */
  #checkByHand(given: Keys, request: FastifyRequest | undefined): Awaitable<Check> {
    const keys = checkedKeys(given, this.policyNames)
    if (typeof keys === 'string') {
      const own = this.#hasKeys ? this.config.policies.map(() => keys) : undefined
      return then(this.#policies(request, keys, own, true), policies => this.#checkOf(keys, policies, own))
    }
    const { policies } = this.config
    const key = this.#keyAmong(keys)
    const own = policies.map(({ name }) => keys[name] ?? key)
    return then(this.#policies(request, key, own, true), asked => {
      const check = this.#checkOf(key, asked, own)
      const isNamed = (index: number) => Object.hasOwn(keys, (asked[index] as Policy).name)
      return {
        ...check,
        policies: asked.filter((_policy, index) => isNamed(index)),
        keys: check.keys?.filter((_key, index) => isNamed(index)),
        decisive: policies.filter(({ name }) => Object.hasOwn(keys, name)).length,
        concurrency: Object.hasOwn(keys, CONCURRENCY) ? check.concurrency : undefined,
      }
    })
  }

  /** Penalties go by the key of the limiter: that of a policy without its own, where one is named. */
  #keyAmong(keys: Exclude<Keys, string>): string {
    const { policies } = this.config
    const shared = policies.find(({ name, keyGenerator }) => keyGenerator === undefined && Object.hasOwn(keys, name))
    return (keys[CONCURRENCY] ?? keys[shared?.name ?? ''] ?? Object.values(keys)[0]) as string
  }

  /** The key of each of its policies; undefined where all have that of the limiter. */
  #ownKeys(request: FastifyRequest, key: Key): Awaitable<readonly Key[] | undefined> {
    if (!this.#hasKeys) return undefined
    return all(
      this.config.policies.map(({ keyGenerator }) =>
        keyGenerator === undefined ? key : then(keyGenerator(request), checkedKey),
      ),
    )
  }

  /** The other policies of a group have the keys of the own ones of their name. */
  #checkOf(key: Key, policies: readonly Policy[], own?: readonly Key[]): Check {
    const keys =
      own && policies.map(({ name }) => String(own[this.config.policies.findIndex(one => one.name === name)]))
    return {
      key: String(key),
      keys,
      limiter: this.#parts.id,
      policies,
      decisive: this.config.policies.length,
      penalty: this.config.penalty,
      concurrency: this.#concurrency,
      prefetch: this.#hasBudget || this.#parts.group?.hasPenalty ? undefined : this.config.prefetch?.max,
    }
  }

  /** Undefined where something depends on the request. */
  #fixedPolicies(): readonly Policy[] | undefined {
    const version = this.#parts.group?.version ?? 0
    if (this.#fixedFor === version) return this.#fixed
    const isFixed = this.isFixed && this.config.policies.every(({ cost, period }) => isNumber(cost) && !period)
    this.#fixed = isFixed ? (this.#policies(undefined, '', undefined, false) as Policy[]) : undefined
    this.#fixedFor = version
    return this.#fixed
  }

  /** `own`: their keys. `free`: they cost nothing, and no function is asked what they would. */
  #policies(
    request: FastifyRequest | undefined,
    key: Key,
    own: readonly Key[] | undefined,
    free: boolean,
  ): Awaitable<Policy[]> {
    const policies = this.config.policies.map((config, index) => {
      const ask = (value: PolicyConfig['max']) =>
        typeof value === 'function' ? value(request as FastifyRequest, (own?.[index] ?? key) as string) : value
      return then(ask(config.max), max =>
        then(ask(config.timeWindow), timeWindow =>
          then(free ? 0 : ask(config.cost), cost => this.#policy(config, own?.[index] ?? key, max, timeWindow, cost)),
        ),
      )
    })
    return then(all(policies), own => [...own, ...this.#othersOfGroup(own)])
  }

  /** The other windows of the group's policies: charged as the own ones, and denying nothing. */
  #othersOfGroup(own: readonly Policy[]): Policy[] {
    const { group } = this.#parts
    if (group === undefined) return []
    return group.logs.flatMap(({ log, name, windowMs, sliced }) => {
      const policy = own.find(policy => policy.name === name)
      if (policy === undefined || own.some(policy => policy.log === log)) return []
      const sliceMs = windowMs * group.precision
      return [{ name, limit: UNLIMITED, windowMs, cost: policy.cost, log, sliceMs, sliced, decides: false as const }]
    })
  }

  #policy(config: PolicyConfig, key: Key, max: unknown, timeWindow: unknown, cost: unknown): Policy {
    const windowMs = checkedWindow(timeWindow)
    const limit = Math.min(checkedMax(max), UNLIMITED)
    const { precision } = this.config
    const { group } = this.#parts
    const span = config.period && this.#spanOf(config.period, key)
    const log =
      span === undefined
        ? this.#logOf(config.name, windowMs, typeof config.timeWindow === 'function')
        : this.#logOfSpan(config.name, span)
    return {
      name: config.name,
      limit,
      windowMs,
      ...(span === undefined ? {} : { span }),
      cost: checkedCost(cost),
      log,
      blockLog: this.#blockLogOf(config),
      sliceMs: windowMs * precision,
      sliced: group === undefined ? sharesSlices(limit, precision) : group.isSliced(log, limit),
    }
  }

  /** The present period, by the clock of the store that holds the key. */
  #spanOf(period: Period, key: Key): PeriodSpan {
    return spanAt(period, this.#parts.store.now?.(String(key)) ?? now())
  }

  /** Each period has a log, so that one begins empty. The kind is `#`; see `#logOf`. */
  #logOfSpan(policy: string, { label }: PeriodSpan): string {
    return `${this.#parts.id}#${label}:${policy}`
  }

  /**
   * Where a policy has several logs, in turn or together, a log apart holds the end of a block; undefined where its only
   * log does. The kind is `=`; see `#logOf`.
   */
  #blockLogOf({ name, timeWindow, period }: PolicyConfig): string | undefined {
    const hasOne = this.#parts.group === undefined && isNumber(timeWindow) && period === undefined
    return hasOne ? undefined : `${this.#parts.id}=${name}`
  }

  /**
   * The name of a log: the limiter, a kind (`:` or `@`, which no identity holds) and the policy. In a group, and where
   * the window is a function, the length of the window is part of it.
   */
  #logOf(policy: string, windowMs: number, given: boolean): string {
    const { id, group } = this.#parts
    if (!given && group === undefined) return `${id}:${policy}`
    const log = `${id}@${windowMs}:${policy}`
    if (given && !this.#given.has(log)) {
      if (this.#given.size >= MOST_WINDOWS) this.#given.delete(this.#given.keys().next().value as string)
      this.#given.set(log, policy)
      if (this.#given.size === MANY_WINDOWS) {
        this.#parts.warn?.(
          `option 'timeWindow' has returned ${MANY_WINDOWS} different windows. Each of them has a count of its own, so a function that returns ever new ones limits nobody. For a quota that comes back at midnight UTC use a policy with timeWindow: 'calendar day'`,
        )
      }
    }
    return log
  }
}

/** While others may have admitted something that the store has not been told, nothing is taken ahead. */
function withoutAhead(check: Check): Check {
  return check.prefetch === undefined ? check : { ...check, prefetch: undefined }
}

/** What gives a check back all that it was charged. */
function refundsOf(check: Check, answer: Answer): Refund[] {
  return check.policies.flatMap((policy, index) => {
    const admission = answer.policies[index]?.admission
    return admission === undefined ? [] : [{ policy, cost: policy.cost, admission, key: keyAt(check, index) }]
  })
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number'
}

function all<T>(values: readonly Awaitable<T>[]): Awaitable<T[]> {
  return values.some(isThenable) ? Promise.all(values) : (values as T[])
}

/** A short name for a limiter, the same in every replica that is set up alike. */
export function limiterId(...parts: readonly (string | number)[]): string {
  return digest(JSON.stringify(parts), 8)
}

/** No failure of the store: what was asked cannot be done by it, or a function of the options has failed. */
function isAboutCall(reason: unknown): boolean {
  const isOfStore = [StoreCannot, StoreCannotRead, ChargeTooLarge].some(kind => reason instanceof kind)
  return isOfStore || isUnusable(reason)
}

/** Errors of this package, whose texts are its own. */
function isOwn(reason: unknown): boolean {
  const code = (reason as { code?: unknown } | undefined)?.code
  return (typeof code === 'string' && code.startsWith('ML_RATE_')) || reason instanceof StoreClosed
}

/** Rejects with StoreUnavailable for every failure but an error of this package about the call itself. */
export async function orUnavailable<T>(act: () => T | Promise<T>): Promise<T> {
  try {
    return await act()
  } catch (reason) {
    throw isAboutCall(reason) ? reason : unavailable(reason)
  }
}

/** Fastify answers with the headers that an error carries. A second to five, so that not everybody is back at once. */
function unavailable(cause: unknown): Error {
  const retryAfter = 1 + Math.floor(Math.random() * 5)
  return Object.assign(new StoreUnavailable({ cause }), { headers: { 'retry-after': `${retryAfter}` } })
}
