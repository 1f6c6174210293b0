import type { FastifyRequest } from 'fastify'
import { isThenable, then } from './awaitable.js'
import { clientKey } from './client-key.js'
import { type Decision, decide, pass, type Units } from './decision.js'
import { StoreUnavailable } from './errors.js'
import { digest } from './key.js'
import { checkedCost, checkedKey, checkedMax, checkedWindow, type Key } from './options/answers.js'
import type { LimiterConfig, PolicyConfig } from './options/parse.js'
import type { Policy } from './policy.js'
import type { MemoryStore } from './stores/memory.js'
import { type Replicas, shareOfCheck } from './stores/replicas.js'
import type { Answer, Check, Lease, Store } from './stores/store.js'

/** Costs of a later charge or refund: for every policy alike, or by policy name (the others are left alone). */
export type Cost = number | Readonly<Record<string, number>>

/** What became of a request: let through unasked, or decided. */
export type Outcome = { readonly listed: true; readonly key: Key } | Decided

export interface Decided {
  readonly listed: false
  readonly key: Key
  readonly decision: Decision
  readonly check: Check
  /** Where the check was counted; undefined where it was denied or not counted at all. */
  readonly charged: Store | undefined
  readonly lease: Lease | undefined
}

/** Windows of the logs that several limiters share, so that the longest decides how long a log is kept. */
export type SharedWindows = Map<string, number>

export interface LimiterParts {
  readonly config: LimiterConfig
  /** Tells this limiter's logs from those of all others in the name space; the same in every replica. */
  readonly id: string
  readonly store: Store
  /** Where counting goes on with `onStoreError: 'local'`. */
  readonly local: Store
  /** Who shares the quotas, so that each counts its part of them there; undefined where nobody does. */
  readonly replicas: Replicas | undefined
  /** What the shared store last said of each key, for when it is lost; there where `replicas` is. */
  readonly learnt: MemoryStore | undefined
  readonly sharedWindows: SharedWindows
}

type Awaitable<T> = T | Promise<T>

/** One set of policies over one set of logs: from a request to a decision. Knows nothing of replies. */
export class Limiter {
  readonly config: LimiterConfig
  /** The limiters that most requests meet. */
  readonly alone: readonly Limiter[] = [this]
  readonly #id: string
  readonly #store: Store
  readonly #local: Store
  readonly #replicas: Replicas | undefined
  readonly #learnt: MemoryStore | undefined
  readonly #units: Units
  readonly #logs: readonly string[]
  readonly #concurrency: Check['concurrency']
  readonly #sharedWindows: SharedWindows
  /** Whether nothing in the policies depends on the request. */
  readonly #isFixed: boolean
  /** The policies of every request then. A group may still gain a route with a longer window, which has them made anew. */
  #fixed: readonly Policy[] = []

  constructor(parts: LimiterParts) {
    const { config, id } = parts
    this.config = config
    this.#id = id
    this.#store = parts.store
    this.#local = parts.local
    this.#replicas = parts.replicas
    this.#learnt = parts.learnt
    this.#sharedWindows = parts.sharedWindows
    this.#units = Object.fromEntries(config.policies.map(({ name, unit }) => [name, unit]))
    this.#logs = config.policies.map(({ name }) => `${id}:${name}`)
    this.#concurrency = config.concurrency && { ...config.concurrency, log: `${id}/leases` }
    for (const [index, { timeWindow }] of config.policies.entries()) {
      const log = this.#logs[index] as string
      if (typeof timeWindow === 'number') {
        this.#sharedWindows.set(log, Math.max(timeWindow, this.#sharedWindows.get(log) ?? 0))
      }
    }
    this.#isFixed = config.policies.every(policy =>
      [policy.max, policy.timeWindow, policy.cost].every(value => typeof value === 'number'),
    )
  }

  /** Whether quotas and windows are the same for every request. */
  get isFixed(): boolean {
    return this.#isFixed
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
    if (this.#isFixed && !this.config.allowList) {
      return this.#answer(key, this.#checkOf(key, this.#fixedPolicies()), peek)
    }
    return then(this.#listed(request, key), listed => {
      if (listed) return { listed, key }
      return then(this.#check(request, key, false), check => this.#answer(key, check, peek))
    })
  }

  /** Where a key stands; nothing is counted. `request` is for options that are functions of it. */
  status(key: Key, request: FastifyRequest | undefined): Awaitable<Decision> {
    return then(this.#check(request, key, true), check =>
      then(this.#answer(key, check, true), ({ decision }) => decision),
    )
  }

  /** Charges cost that is known only now; may overdraw. */
  async charge(check: Check, cost: Cost): Promise<void> {
    await this.#store.charge({ ...check, policies: withCost(check.policies, cost) })
  }

  /** Gives cost back. */
  async refund(key: Key, cost: Cost, request: FastifyRequest | undefined): Promise<void> {
    const check = await this.#check(request, key, true)
    await this.#store.refund({ ...check, policies: withCost(check.policies, cost) })
  }

  /** Gives back what an admitted request was charged by its decision. */
  async refundCharged({ charged, check }: Pick<Decided, 'charged' | 'check'>): Promise<void> {
    await charged?.refund(check)
  }

  /** Forgets a key. */
  async reset(key: Key): Promise<void> {
    const policies = this.#logs.map(log => ({ name: log, limit: 0, windowMs: 1, cost: 0, log, keepMs: 1 }))
    const check = this.#checkOf(key, policies)
    await this.#store.reset(check)
    await this.#local.reset(check)
    this.#learnt?.reset(check)
  }

  #answer(key: Key, check: Check, peek: boolean): Awaitable<Decided> {
    const answer = peek ? this.#store.peek(check) : this.#store.check(check)
    if (!isThenable(answer)) return this.#decided(key, check, peek, answer)
    return answer.then(
      settled => {
        this.#learnt?.learn(check, settled)
        return this.#decided(key, check, peek, settled)
      },
      error => {
        switch (this.config.onStoreError) {
          case 'allow':
            return {
              listed: false,
              key,
              decision: pass(check, this.#units),
              check,
              charged: undefined,
              lease: undefined,
            }
          case 'deny':
            throw unavailable(error)
          case 'local': {
            const share = this.#share(check)
            return then(peek ? this.#local.peek(share) : this.#local.check(share), local =>
              this.#decided(key, check, peek, local, share, this.#local),
            )
          }
          default:
            throw error
        }
      },
    )
  }

  /** By `check` unless only a share of it was `counted`. */
  #decided(key: Key, check: Check, peek: boolean, answer: Answer, counted = check, by = this.#store): Decided {
    const decision = decide(counted, answer, this.config.ban, this.#units)
    const charged = decision.allowed && !peek ? by : undefined
    return { listed: false, key, decision, check, charged, lease: answer.concurrency?.lease }
  }

  /** This replica's part of what was left when the shared store was lost, and of what has expired since. */
  #share(check: Check): Check {
    if (this.#replicas === undefined) return check
    const learnt = this.#learnt?.peek(check).policies.map(({ used }) => used)
    return shareOfCheck(check, this.#replicas.seen, learnt ?? [])
  }

  #listed(request: FastifyRequest, key: Key): Awaitable<boolean> {
    const { allowList } = this.config
    if (typeof allowList === 'function') return then(allowList(request, key as string), Boolean)
    return allowList?.has(request.ip, key) === true
  }

  #check(request: FastifyRequest | undefined, key: Key, free: boolean): Awaitable<Check> {
    if (this.#isFixed && !free) return this.#checkOf(key, this.#fixedPolicies())
    return then(this.#policies(request, key, free), policies => this.#checkOf(key, policies))
  }

  #checkOf(key: Key, policies: readonly Policy[]): Check {
    const { penalty, precision } = this.config
    return { key: String(key), limiter: this.#id, policies, penalty, precision, concurrency: this.#concurrency }
  }

  #fixedPolicies(): readonly Policy[] {
    const kept = ({ log, keepMs }: Policy) => this.#sharedWindows.get(log) === keepMs
    if (this.#fixed.length === 0 || !this.#fixed.every(kept))
      this.#fixed = this.#policies(undefined, '', false) as Policy[]
    return this.#fixed
  }

  /** `free`: they cost nothing, and no function is asked what they would. */
  #policies(request: FastifyRequest | undefined, key: Key, free: boolean): Awaitable<Policy[]> {
    const policies = this.config.policies.map((policy, index) =>
      this.#policy(free ? { ...policy, cost: 0 } : policy, index, request, key),
    )
    return policies.some(isThenable) ? Promise.all(policies) : (policies as Policy[])
  }

  #policy(config: PolicyConfig, index: number, request: FastifyRequest | undefined, key: Key): Awaitable<Policy> {
    const ask = (value: PolicyConfig['max']) =>
      typeof value === 'function' ? value(request as FastifyRequest, key as string) : value
    return then(ask(config.max), max =>
      then(ask(config.timeWindow), timeWindow =>
        then(ask(config.cost), cost => {
          const windowMs = checkedWindow(timeWindow)
          const log = this.#logs[index] as string
          return {
            name: config.name,
            limit: checkedMax(max),
            windowMs,
            cost: checkedCost(cost),
            log,
            keepMs: Math.max(windowMs, this.#sharedWindows.get(log) ?? 0),
          }
        }),
      ),
    )
  }
}

/** A short name for a limiter, the same in every replica that is set up alike. */
export function limiterId(...parts: readonly (string | number)[]): string {
  return digest(JSON.stringify(parts), 8)
}

function withCost(policies: readonly Policy[], cost: Cost): Policy[] {
  const charged: Policy[] = []
  for (const policy of policies) {
    const units = typeof cost === 'number' ? cost : cost[policy.name]
    if (units !== undefined) charged.push({ ...policy, cost: checkedCost(units) })
  }
  return charged
}

/** Fastify answers with the headers that an error carries. A second to five, so that not everybody is back at once. */
function unavailable(cause: unknown): Error {
  const retryAfter = 1 + Math.floor(Math.random() * 5)
  return Object.assign(new StoreUnavailable({ cause }), { headers: { 'retry-after': `${retryAfter}` } })
}
