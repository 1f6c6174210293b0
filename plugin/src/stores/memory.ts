import { now } from '../clock.js'
import { type Policy, sharesSlices } from '../policy.js'
import { SlidingLog } from '../window.js'
import type { Answer, Check, Lease, Penalty, PolicyAnswer, Store } from './store.js'

type Mutable<T> = { -readonly [name in keyof T]: T[name] }

/** Denials of one policy and one key: what `ban`, `continueExceeding` and `exponentialBackoff` go by. */
interface Denials {
  /** Denials in a row (`renew`, `backoff`). */
  count: number
  last: number
  blockedUntil: number
  /** Denials inside the window (`count`). */
  readonly log: SlidingLog
}

/** Everything kept about one policy and one key. */
interface Row {
  readonly log: SlidingLog
  denials: Denials | undefined
  /** Until when the key is being denied: it is not forgotten before. */
  deniedUntil: number
}

/** A fraction of the window: what is learnt within one slice of it is one entry. */
const LEARNT_PRECISION = 0.01

/** Denied keys may outnumber the keys kept by this factor before the first of them is given up. */
const DENIED_FACTOR = 10

/**
 * The rows of one log. The `capacity` most recently used are always there, and at most as many again: rows live in
 * two generations, and when the younger is full the older is forgotten. That is nearly the order of an LRU list and
 * costs a hit no more than a look. A key that is being denied outlives its generation, so that a crowd of new keys
 * cannot buy it a fresh quota.
 */
class Table {
  readonly #capacity: number
  #young = new Map<string, Row>()
  #old = new Map<string, Row>()

  constructor(capacity: number) {
    this.#capacity = capacity
  }

  get(key: string, now: number): Row | undefined {
    const young = this.#young.get(key)
    if (young !== undefined) return young
    const old = this.#old.get(key)
    if (old !== undefined) this.#put(key, old, now)
    return old
  }

  add(key: string, now: number): Row {
    const row = { log: new SlidingLog(), denials: undefined, deniedUntil: 0 }
    this.#put(key, row, now)
    return row
  }

  delete(key: string): void {
    this.#young.delete(key)
    this.#old.delete(key)
  }

  get size(): number {
    let size = this.#young.size
    for (const key of this.#old.keys()) if (!this.#young.has(key)) size++
    return size
  }

  #put(key: string, row: Row, now: number): void {
    if (this.#young.size >= this.#capacity) this.#age(now)
    this.#young.set(key, row)
  }

  #age(now: number): void {
    const forgotten = this.#old
    this.#old = this.#young
    this.#young = new Map()
    for (const [key, row] of forgotten) {
      if (row.deniedUntil > now && this.#old.size < this.#capacity * DENIED_FACTOR) this.#old.set(key, row)
    }
  }
}

/** Counts in this process: no Redis, no waiting, the same rule. */
export class MemoryStore implements Store {
  readonly #capacity: number
  readonly #clock: () => number
  readonly #tables = new Map<string, Table>()
  readonly #leases = new Map<string, Set<Lease>>()
  /** What the clock said last, and how far it has gone back since the start, in all. */
  #read = 0
  #ahead = 0

  /**
   * `capacity`: keys kept for each log, 1 or more. `clock`: milliseconds; where it steps back, time goes on from where
   * it was.
   */
  constructor(capacity: number, clock: () => number = now) {
    this.#capacity = capacity
    this.#clock = clock
  }

  check(check: Check): Answer {
    const now = this.#tick()
    const rows: (Row | undefined)[] = []
    const { policies, allowed } = this.#look(check, now, false, rows)
    const { concurrency } = check
    const inFlight = this.#inFlight(check)
    const violated = concurrency !== undefined && inFlight >= concurrency.max
    if (!allowed || violated) {
      this.#penalise(check, policies, now)
      return { allowed: false, policies, concurrency: concurrency && { inFlight, violated } }
    }
    for (let index = 0; index < policies.length; index++) {
      const policy = check.policies[index] as Policy
      if (policy.cost === 0) continue
      const answer = policies[index] as Mutable<PolicyAnswer>
      const { log } = rows[index] ?? this.#row(policy.log, check.key, now)
      log.append(now, policy.cost, sharesSlices(policy.limit, check.precision) ? policy.windowMs * check.precision : 0)
      answer.used += policy.cost
      answer.resetMs = log.resetMs(now, policy.windowMs, policy.keepMs)
    }
    if (concurrency === undefined) return { allowed, policies }
    return {
      allowed,
      policies,
      concurrency: { inFlight: inFlight + 1, violated, lease: this.#lease(leasesOf(check)) },
    }
  }

  peek(check: Check): Answer {
    const { policies, allowed } = this.#look(check, this.#tick(), true)
    const inFlight = this.#inFlight(check)
    const violated = check.concurrency !== undefined && inFlight >= check.concurrency.max
    return { allowed: allowed && !violated, policies, concurrency: check.concurrency && { inFlight, violated } }
  }

  charge(check: Check): void {
    const now = this.#tick()
    for (const policy of check.policies) {
      const { log } = this.#row(policy.log, check.key, now)
      log.append(now, policy.cost, policy.windowMs * check.precision)
    }
  }

  refund(check: Check): void {
    const now = this.#tick()
    for (const policy of check.policies) {
      const row = this.#tables.get(policy.log)?.get(check.key, now)
      row?.log.read(now, policy.windowMs, policy.keepMs, policy.limit, 0)
      row?.log.refund(policy.cost)
    }
  }

  /**
   * Takes over what another store says is used, as if what is more than was known here had been used now: it expires
   * here no earlier than there. What is older than the oldest that still counts there has expired there, and gives way.
   */
  learn(check: Check, answer: Answer): void {
    const now = this.#tick()
    for (let index = 0; index < check.policies.length; index++) {
      const { log: name, windowMs, keepMs } = check.policies[index] as Policy
      const { used, resetMs } = answer.policies[index] as PolicyAnswer
      if (used === 0) continue
      const { log } = this.#row(name, check.key, now)
      // A log that serves longer windows too holds what they still count.
      const ageMs = keepMs === windowMs ? Math.max(1, windowMs - resetMs + 1) : windowMs
      const more = used - log.read(now, ageMs, keepMs === windowMs ? ageMs : keepMs, 0, 0).used
      if (more > 0) log.append(now, more, windowMs * LEARNT_PRECISION)
    }
  }

  reset(check: Check): void {
    for (const policy of check.policies) this.#tables.get(policy.log)?.delete(check.key)
    this.#leases.delete(leasesOf(check))
  }

  close(): void {
    this.#tables.clear()
    this.#leases.clear()
  }

  /** Keys held for one log. */
  size(log: string): number {
    return this.#tables.get(log)?.size ?? 0
  }

  #tick(): number {
    const read = this.#clock()
    if (read < this.#read) this.#ahead += this.#read - read
    this.#read = read
    return read + this.#ahead
  }

  #table(log: string): Table {
    let table = this.#tables.get(log)
    if (table === undefined) {
      table = new Table(this.#capacity)
      this.#tables.set(log, table)
    }
    return table
  }

  /** `rows`: filled with what is kept of each policy. */
  #look(
    check: Check,
    now: number,
    peek: boolean,
    rows: (Row | undefined)[] = [],
  ): { policies: PolicyAnswer[]; allowed: boolean } {
    const policies: PolicyAnswer[] = []
    let allowed = true
    for (const policy of check.policies) {
      const row = this.#tables.get(policy.log)?.get(check.key, now)
      rows.push(row)
      const answer = answerOf(row, policy, now, check.penalty, peek)
      policies.push(answer)
      if (answer.retryMs > 0) allowed = false
    }
    return { policies, allowed }
  }

  #row(log: string, key: string, now: number): Row {
    const table = this.#table(log)
    return table.get(key, now) ?? table.add(key, now)
  }

  /** Writes the denial down with every policy that stood in the way, and keeps its row. */
  #penalise(check: Check, policies: PolicyAnswer[], now: number): void {
    for (const [index, policy] of check.policies.entries()) {
      const answer = policies[index] as PolicyAnswer
      if (answer.retryMs === 0) continue
      const row = this.#row(policy.log, check.key, now)
      if (check.penalty !== 'none') policies[index] = deny(row, policy, answer, now, check.penalty)
      row.deniedUntil = Math.max(now + answer.retryMs, row.denials?.blockedUntil ?? 0)
    }
  }

  #inFlight(check: Check): number {
    return check.concurrency === undefined ? 0 : (this.#leases.get(leasesOf(check))?.size ?? 0)
  }

  /** No life of its own: in one process a lease cannot outlive its holder, so it lasts as long as it is held. */
  #lease(id: string): Lease {
    const leases = this.#leases.get(id) ?? new Set()
    const lease = {
      release: () => {
        leases.delete(lease)
        if (leases.size === 0 && this.#leases.get(id) === leases) this.#leases.delete(id)
      },
    }
    this.#leases.set(id, leases.add(lease))
    return lease
  }
}

function leasesOf({ concurrency, key }: Check): string {
  return `${concurrency?.log}\n${key}`
}

/** Counts a denial, and blocks the key where the penalty says so. */
function deny(row: Row, policy: Policy, answer: PolicyAnswer, now: number, penalty: Penalty): PolicyAnswer {
  row.denials ??= { count: 0, last: now, blockedUntil: 0, log: new SlidingLog() }
  const { denials } = row
  const { windowMs } = policy
  if (penalty === 'count') {
    const { used } = denials.log.read(now, windowMs, windowMs, 0, 0)
    denials.log.append(now, 1, windowMs / 100)
    return { ...answer, denials: used + 1 }
  }
  denials.count = denials.blockedUntil > now ? denials.count + 1 : 1
  denials.last = now
  const longer = penalty === 'backoff' ? 2 ** (denials.count - 1) : 1
  const blockMs = Math.min(windowMs * longer, Number.MAX_SAFE_INTEGER)
  denials.blockedUntil = now + blockMs
  return { used: Math.max(answer.used, policy.limit), resetMs: blockMs, retryMs: blockMs, denials: denials.count }
}

/**
 * What one policy says about one row. Asked without charging (`peek`), a block counts from the last denial for the
 * base window only, as `@fastify/rate-limit` has it.
 */
function answerOf(row: Row | undefined, policy: Policy, now: number, penalty: Penalty, peek: boolean): PolicyAnswer {
  const { windowMs, limit, cost } = policy
  if (row === undefined) return { used: 0, resetMs: 0, retryMs: cost <= limit ? 0 : windowMs, denials: 0 }
  const { used, resetMs, retryMs } = row.log.read(now, windowMs, policy.keepMs, limit, cost)
  const { denials } = row
  if (denials === undefined || penalty === 'none') return { used, resetMs, retryMs, denials: 0 }
  if (penalty === 'count') {
    return { used, resetMs, retryMs, denials: denials.log.read(now, windowMs, windowMs, 0, 0).used }
  }
  const until = peek ? Math.min(denials.last + windowMs, denials.blockedUntil) : denials.blockedUntil
  if (until <= now) return { used, resetMs, retryMs, denials: 0 }
  const left = until - now
  return { used: Math.max(used, limit), resetMs: left, retryMs: Math.max(retryMs, left), denials: denials.count }
}
