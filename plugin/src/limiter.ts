import type { FastifyRequest } from 'fastify'
import { isThenable, then } from './awaitable.js'
import { clientKey } from './client-key.js'
import { now } from './clock.js'
import { type Decision, decide, pass, type Units } from './decision.js'
import { ChargeTooLarge, StoreCannot, StoreCannotRead, StoreClosed, StoreFailed, StoreUnavailable } from './errors.js'
import type { Group } from './group.js'
import { digest } from './key.js'
import { type Cost, costOf, type Ledger } from './ledger.js'
import { checkedCost, checkedKey, checkedMax, checkedWindow, type Key } from './options/answers.js'
import type { LimiterConfig, PolicyConfig } from './options/parse.js'
import { type Period, type PeriodSpan, spanAt } from './period.js'
import { type Policy, sharesSlices, UNLIMITED } from './policy.js'
import type { Outage } from './stores/redis/outage.js'
import type { Answer, Check, Lease, Names, Refund, Store } from './stores/store.js'

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
}

type Awaitable<T> = T | Promise<T>

/** Windows that a function has given, remembered for `reset`: the most recent ones. */
const MOST_WINDOWS = 1000

/** One set of policies over one set of logs: from a request to a decision. Knows nothing of replies. */
export class Limiter {
  readonly config: LimiterConfig
  /** The limiters that most requests meet. */
  readonly alone: readonly Limiter[] = [this]
  readonly #parts: LimiterParts
  readonly #units: Units
  readonly #concurrency: Check['concurrency']
  /** Whether quotas and windows are the same for every request. */
  readonly isFixed: boolean
  readonly #hasBudget: boolean
  /** The policies of every request, where nothing in them depends on it, and the version of the group they are for. */
  #fixed: readonly Policy[] | undefined
  #fixedFor = -1
  /** Names of logs whose windows a function has given. */
  readonly #given = new Set<string>()

  constructor(parts: LimiterParts) {
    const { config, id, group } = parts
    this.config = config
    this.#parts = parts
    this.#units = Object.fromEntries(config.policies.map(({ name, unit }) => [name, unit]))
    this.#concurrency = config.concurrency && { ...config.concurrency, log: `${id}/permits` }
    for (const { name, max, timeWindow, period } of config.policies) {
      if (isNumber(timeWindow) && period === undefined)
        group?.join(this.#logOf(name, timeWindow, false), name, timeWindow, isNumber(max) ? max : 0)
    }
    this.#hasBudget = config.policies.some(({ period }) => period !== undefined)
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
    const fixed = this.config.allowList ? undefined : this.#fixedPolicies()
    if (fixed !== undefined) return this.#ask(key, this.#checkOf(key, fixed), peek)
    return then(this.#listed(request, key), listed => {
      if (listed) return { listed, key }
      return then(this.#check(request, key, false), check => this.#ask(key, check, peek))
    })
  }

  /** Where a key stands; null where the store cannot be asked and requests pass. `request`: for options that are functions. */
  status(key: Key, request: FastifyRequest | undefined): Awaitable<Decision | null> {
    return then(this.#check(request, key, true), check =>
      then(this.#ask(key, check, true), ({ decision }) => (decision.known ? decision : null)),
    )
  }

  /**
   * The denial that a request of this key would meet now, where it is known without waiting. Counts nothing. Undefined
   * where the request may pass, where something of the decision or the answer depends on the request itself, and where
   * a denial has consequences (penalties) or none (shadow mode).
   */
  knownDenial(key: Key): Decision | undefined {
    const { allowList, penalty, report, errorResponseBuilder, ban } = this.config
    const isPlain = !allowList && !report && penalty === 'none' && errorResponseBuilder === undefined
    const fixed = isPlain ? this.#fixedPolicies() : undefined
    if (fixed === undefined) return undefined
    const check = this.#checkOf(key, fixed)
    const answer = this.#parts.store.knownDenial?.(check)
    return answer && decide(check, answer, ban, this.#units)
  }

  /**
   * Charges cost that is known only now, where the request was counted; may overdraw. Adds it to the ledger of the
   * decision. While the store cannot be asked, `onStoreError` says what becomes of it.
   */
  async charge({ store, check }: Decided, cost: Cost, ledger: Ledger): Promise<void> {
    const { local } = this.#parts
    const outage = this.#parts.outage?.()
    const policies: Policy[] = []
    for (const policy of check.policies) {
      const units = costOf(cost, policy.name)
      if (units !== undefined) policies.push({ ...policy, cost: checkedCost(units) })
    }
    if (store === undefined || policies.length === 0) return
    const charged = { ...check, policies, decisive: policies.length, concurrency: undefined, penalty: 'none' as const }
    try {
      const answer = await store.charge(charged)
      ledger.charge(charged, answer)
      if (store === local) outage?.gave(charged, answer, undefined)
      else if (outage?.isGuarded(check.key)) await local.charge(charged)
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
    if (cost !== undefined)
      for (const units of typeof cost === 'number' ? [cost] : Object.values(cost)) checkedCost(units)
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

  /** Gives cost of a key back, whoever was charged for it. Rejects with StoreUnavailable where that did not happen. */
  async refund(key: Key, cost: Cost, request: FastifyRequest | undefined): Promise<void> {
    const check = await this.#check(request, key, true)
    const refunds: Refund[] = []
    for (const policy of check.policies) {
      const units = costOf(cost, policy.name)
      if (units !== undefined) refunds.push({ policy, cost: checkedCost(units), admission: undefined })
    }
    await orUnavailable(() => this.#parts.store.refund(check, refunds))
  }

  /** Everything that is kept about a key, by name. */
  names(key: Key): Names {
    const { id, group } = this.#parts
    const own = this.config.policies.flatMap(({ name, timeWindow, period }) => {
      if (period !== undefined) return [this.#logOfSpan(name, this.#spanOf(period, key))]
      return isNumber(timeWindow) ? [this.#logOf(name, timeWindow, false)] : []
    })
    const shared = group === undefined ? [] : group.logs.map(({ log }) => log)
    return {
      limiters: [id],
      logs: [...new Set([...own, ...shared, ...this.#given])],
      permits: this.#concurrency === undefined ? [] : [this.#concurrency.log],
    }
  }

  /** The stores that keep them, the shared one first. */
  get stores(): readonly Store[] {
    const { store, local } = this.#parts
    return [store, local]
  }

  #ask(key: Key, check: Check, peek: boolean): Awaitable<Decided> {
    const { store } = this.#parts
    const outage = this.#parts.outage?.()
    if (outage !== undefined && !peek && outage.isGuarded(check.key)) return this.#askBoth(key, check, outage)
    let answer: Awaitable<Answer>
    try {
      answer = peek ? store.peek(check) : store.check(check)
    } catch (reason) {
      return this.#withoutStore(key, check, peek, reason)
    }
    if (!isThenable(answer)) return this.#decided(key, check, store, answer)
    return answer.then(
      settled => this.#decided(key, check, store, settled),
      reason => this.#withoutStore(key, check, peek, reason),
    )
  }

  /** Admitted by this replica's share and by the store. Where the store gives no answer, the share decides. */
  async #askBoth(key: Key, check: Check, outage: Outage): Promise<Decided> {
    const { local, store } = this.#parts
    const share = outage.share(check)
    const own = await local.check(share)
    if (!own.allowed) {
      // Whether the store answers, and takes writes, is found out by asking it.
      if (outage.isAway(check.key)) await this.#tryStore(check)
      return this.#decided(key, share, local, own)
    }
    try {
      const answer = await store.check(check)
      own.concurrency?.lease?.release()
      if (!answer.allowed) await local.refund(share, refundsOf(share, own))
      return this.#decided(key, check, store, answer)
    } catch (reason) {
      if (isAboutCall(reason)) {
        own.concurrency?.lease?.release()
        await local.refund(share, refundsOf(share, own))
        throw reason
      }
      outage.gave(share, own, reason)
      return this.#decided(key, share, local, own)
    }
  }

  /** Asks the store about a request that is denied, whatever it says. */
  async #tryStore(check: Check): Promise<void> {
    const { store } = this.#parts
    try {
      const answer = await store.check(check)
      answer.concurrency?.lease?.release()
      if (answer.allowed) await store.refund(check, refundsOf(check, answer))
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

  #check(request: FastifyRequest | undefined, key: Key, free: boolean): Awaitable<Check> {
    const fixed = free ? undefined : this.#fixedPolicies()
    if (fixed !== undefined) return this.#checkOf(key, fixed)
    return then(this.#policies(request, key, free), policies => this.#checkOf(key, policies))
  }

  #checkOf(key: Key, policies: readonly Policy[]): Check {
    return {
      key: String(key),
      limiter: this.#parts.id,
      policies,
      decisive: this.config.policies.length,
      penalty: this.config.penalty,
      concurrency: this.#concurrency,
      prefetch: this.#hasBudget ? undefined : this.config.prefetch?.max,
    }
  }

  /** Undefined where something depends on the request. */
  #fixedPolicies(): readonly Policy[] | undefined {
    const version = this.#parts.group?.version ?? 0
    if (this.#fixedFor === version) return this.#fixed
    const isFixed = this.isFixed && this.config.policies.every(({ cost, period }) => isNumber(cost) && !period)
    this.#fixed = isFixed ? (this.#policies(undefined, '', false) as Policy[]) : undefined
    this.#fixedFor = version
    return this.#fixed
  }

  /** `free`: they cost nothing, and no function is asked what they would. */
  #policies(request: FastifyRequest | undefined, key: Key, free: boolean): Awaitable<Policy[]> {
    const ask = (value: PolicyConfig['max']) =>
      typeof value === 'function' ? value(request as FastifyRequest, key as string) : value
    const policies = this.config.policies.map(config =>
      then(ask(config.max), max =>
        then(ask(config.timeWindow), timeWindow =>
          then(free ? 0 : ask(config.cost), cost => this.#policy(config, key, max, timeWindow, cost)),
        ),
      ),
    )
    return then(all(policies), own => [...own, ...this.#othersOfGroup(own)])
  }

  /** The other windows of the group's policies: charged as the own ones, and denying nothing. */
  #othersOfGroup(own: readonly Policy[]): Policy[] {
    const { group } = this.#parts
    if (group === undefined) return []
    return group.logs.flatMap(({ log, name, windowMs, sliced }) => {
      const policy = own.find(policy => policy.name === name)
      if (policy === undefined || own.some(policy => policy.log === log)) return []
      return [{ name, limit: UNLIMITED, windowMs, cost: policy.cost, log, sliceMs: windowMs * group.precision, sliced }]
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
   * The name of a log: the limiter, a kind (`:` or `@`, which no identity holds) and the policy. In a group, and where
   * the window is a function, the length of the window is part of it.
   */
  #logOf(policy: string, windowMs: number, given: boolean): string {
    const { id, group } = this.#parts
    if (!given && group === undefined) return `${id}:${policy}`
    const log = `${id}@${windowMs}:${policy}`
    if (given && !this.#given.has(log)) {
      if (this.#given.size >= MOST_WINDOWS) this.#given.delete(this.#given.values().next().value as string)
      this.#given.add(log)
    }
    return log
  }
}

/** What gives a check back all that it was charged. */
function refundsOf({ policies }: Check, answer: Answer): Refund[] {
  return policies.flatMap((policy, index) => {
    const admission = answer.policies[index]?.admission
    return admission === undefined ? [] : [{ policy, cost: policy.cost, admission }]
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

/** What was asked cannot be done by this store, whether or not it answers. */
function isAboutCall(reason: unknown): boolean {
  return reason instanceof StoreCannot || reason instanceof StoreCannotRead || reason instanceof ChargeTooLarge
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
