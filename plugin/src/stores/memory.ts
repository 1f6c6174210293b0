import { type Policy, sharesSlices } from '../policy.js'
import { SlidingLog } from '../window.js'
import type { Answer, Check, Lease, Penalty, PolicyAnswer, Store } from './store.js'

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
  /** When the last entry leaves the window: from then on the row says nothing. */
  emptyAt: number
}

/** Keys whose denial is still running may outnumber the keys kept by this factor before the oldest is given up. */
const DENIED_FACTOR = 10

/**
 * The rows of one log, the least recently used forgotten first. A key that is being denied is moved out of the way
 * of the others, so that a crowd of new keys cannot buy it a fresh quota.
 */
class Table {
  readonly #rows = new Map<string, Row>()
  readonly #denied = new Map<string, Row>()

  constructor(readonly capacity: number) {}

  get(key: string): Row | undefined {
    return this.#rows.get(key) ?? this.#denied.get(key)
  }

  /** The row to write to, now the most recently used. */
  touch(key: string, now: number): Row {
    const denied = this.#denied.get(key)
    if (denied !== undefined) {
      if (denied.deniedUntil > now) return denied
      this.#denied.delete(key)
      this.#rows.set(key, denied)
      this.#evict(this.#rows, this.capacity)
      return denied
    }
    let row = this.#rows.get(key)
    if (row === undefined) {
      row = { log: new SlidingLog(), denials: undefined, deniedUntil: 0, emptyAt: 0 }
      this.#rows.set(key, row)
      this.#evict(this.#rows, this.capacity)
    } else if (this.#rows.size > 1) {
      this.#rows.delete(key)
      this.#rows.set(key, row)
    }
    return row
  }

  /** Keeps the row of a denied key until `until`. */
  pin(key: string, row: Row, until: number, now: number): void {
    row.deniedUntil = until
    if (this.#denied.has(key)) return
    this.#rows.delete(key)
    if (this.#denied.size >= this.capacity) this.#unpin(now)
    this.#denied.set(key, row)
    this.#evict(this.#denied, this.capacity * DENIED_FACTOR)
  }

  delete(key: string): void {
    this.#rows.delete(key)
    this.#denied.delete(key)
  }

  get size(): number {
    return this.#rows.size + this.#denied.size
  }

  /** Lets go of rows that say nothing any more, from the oldest on, a few at each call. */
  sweep(now: number): void {
    let steps = 8
    for (const [key, row] of this.#rows) {
      if (steps-- === 0 || row.emptyAt > now) return
      this.#rows.delete(key)
    }
  }

  #unpin(now: number): void {
    for (const [key, row] of this.#denied) {
      if (row.deniedUntil > now) continue
      this.#denied.delete(key)
      if (row.emptyAt > now) this.#rows.set(key, row)
    }
    this.#evict(this.#rows, this.capacity)
  }

  #evict(rows: Map<string, Row>, most: number): void {
    for (const key of rows.keys()) {
      if (rows.size <= most) return
      rows.delete(key)
    }
  }
}

/** Counts in this process: no Redis, no waiting, the same rule. */
export class MemoryStore implements Store {
  readonly #capacity: number
  readonly #clock: () => number
  readonly #tables = new Map<string, Table>()
  readonly #leases = new Map<string, Set<Lease>>()
  #now = 0

  /**
   * `capacity`: keys kept for each log, 1 or more. `clock`: milliseconds; a step backwards is taken as standing still.
   */
  constructor(capacity: number, clock: () => number = () => Date.now()) {
    this.#capacity = capacity
    this.#clock = clock
  }

  check(check: Check): Answer {
    const now = this.#tick()
    const { policies, allowed } = this.#look(check, now, false)
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
      const row = this.#charge(policy, check.key, now, sharesSlices(policy.limit, check.precision), check.precision)
      const { used, resetMs } = row.log.read(now, policy.windowMs, policy.keepMs, policy.limit, 0)
      policies[index] = { used, resetMs, retryMs: 0, denials: (policies[index] as PolicyAnswer).denials }
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
      if (policy.cost > 0) this.#charge(policy, check.key, now, true, check.precision)
    }
  }

  refund(check: Check): void {
    const now = this.#tick()
    for (const policy of check.policies) {
      const row = this.#tables.get(policy.log)?.get(check.key)
      row?.log.read(now, policy.windowMs, policy.keepMs, policy.limit, 0)
      row?.log.refund(policy.cost)
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
    this.#now = Math.max(this.#now, this.#clock())
    return this.#now
  }

  #table(log: string): Table {
    let table = this.#tables.get(log)
    if (table === undefined) {
      table = new Table(this.#capacity)
      this.#tables.set(log, table)
    }
    return table
  }

  #look(check: Check, now: number, peek: boolean): { policies: PolicyAnswer[]; allowed: boolean } {
    const policies: PolicyAnswer[] = []
    let allowed = true
    for (const policy of check.policies) {
      const answer = answerOf(this.#tables.get(policy.log)?.get(check.key), policy, now, check.penalty, peek)
      policies.push(answer)
      if (answer.retryMs > 0) allowed = false
    }
    return { policies, allowed }
  }

  #charge(policy: Policy, key: string, now: number, shared: boolean, precision: number): Row {
    const table = this.#table(policy.log)
    const row = table.touch(key, now)
    row.log.append(now, policy.cost, shared ? policy.windowMs * precision : 0)
    row.emptyAt = Math.max(row.emptyAt, now + policy.keepMs)
    table.sweep(now)
    return row
  }

  /** Writes the denial down with every policy that stood in the way, and keeps its row. */
  #penalise(check: Check, policies: PolicyAnswer[], now: number): void {
    for (const [index, policy] of check.policies.entries()) {
      const answer = policies[index] as PolicyAnswer
      if (answer.retryMs === 0) continue
      const table = this.#table(policy.log)
      const row = table.touch(check.key, now)
      if (check.penalty !== 'none') policies[index] = deny(row, policy, answer, now, check.penalty)
      const until = Math.max(now + answer.retryMs, row.denials?.blockedUntil ?? 0)
      row.emptyAt = Math.max(row.emptyAt, until)
      table.pin(check.key, row, until, now)
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
    row.emptyAt = Math.max(row.emptyAt, now + windowMs)
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
  const until = peek ? denials.last + windowMs : denials.blockedUntil
  if (until <= now) return { used, resetMs, retryMs, denials: 0 }
  return { used: Math.max(used, limit), resetMs: until - now, retryMs: until - now, denials: denials.count }
}
