import { now } from '../../clock.js'
import { ChargeTooLarge } from '../../errors.js'
import type { Policy } from '../../policy.js'
import { SlidingLog } from '../../window.js'
import {
  type Answer,
  type BlockPlaces,
  blockLogOf,
  type Check,
  keyAt,
  type Lease,
  type Names,
  type Penalty,
  type PolicyAnswer,
  type Refund,
  type Store,
} from '../store.js'
import { Blocks } from './blocks.js'
import { type Row, Table } from './table.js'

type Mutable<T> = { -readonly [name in keyof T]: T[name] }

/** A fraction of the window: what is learnt within one slice of it is one entry. */
const LEARNT_PRECISION = 0.01

/** Logs in which nothing counts any more are dropped when there are this many, and when as many again have come. */
const FIRST_SWEEP = 1000
/** Logs at most. They are fewer, unless a `timeWindow` that is a function gives ever new windows. */
const MOST_LOGS = 50_000

/** Counts in this process: no Redis, no waiting, the same rule. */
export class MemoryStore implements Store {
  readonly #capacity: number
  readonly #clock: () => number
  readonly #tables = new Map<string, Table>()
  #sweepAt = FIRST_SWEEP
  readonly #permits = new Map<string, Set<Lease>>()
  readonly #blocks = new Blocks()
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
    const inFlight = concurrency === undefined ? 0 : this.held(check.key, concurrency.log)
    const violated = concurrency !== undefined && inFlight >= concurrency.max
    if (!allowed || violated) {
      this.#penalise(check, policies, now)
      return { allowed: false, policies, concurrency: concurrency && { inFlight, violated } }
    }
    for (let index = 0; index < policies.length; index++) {
      const policy = check.policies[index] as Policy
      if (policy.cost === 0) continue
      const row = rows[index] ?? this.#row(policy.log, policy.windowMs, keyAt(check, index), now)
      admit(row, policy, now, policy.sliced, policies[index] as Mutable<PolicyAnswer>)
    }
    if (concurrency === undefined) return { allowed, policies }
    const lease = this.#permit(permitsOf(check.key, concurrency.log))
    return { allowed, policies, concurrency: { inFlight: inFlight + 1, violated, lease } }
  }

  peek(check: Check): Answer {
    const { policies, allowed } = this.#look(check, this.#tick(), true)
    const { concurrency } = check
    if (concurrency === undefined) return { allowed, policies }
    const inFlight = this.held(check.key, concurrency.log)
    const violated = inFlight >= concurrency.max
    return { allowed: allowed && !violated, policies, concurrency: { inFlight, violated } }
  }

  knownDenial(check: Check): Answer | undefined {
    const answer = this.peek(check)
    return answer.allowed ? undefined : answer
  }

  charge(check: Check): Answer {
    const now = this.#tick()
    const rows = check.policies.map(({ log, windowMs }, index) => this.#row(log, windowMs, keyAt(check, index), now))
    const policies = check.policies.map((policy, index): PolicyAnswer => {
      const { log } = rows[index] as Row
      const state = log.read(now, policy.windowMs, 0, 0)
      if (!log.canHold(policy.cost)) throw new ChargeTooLarge()
      return { ...state, retryMs: 0, denials: 0 }
    })
    for (const [index, policy] of check.policies.entries()) {
      if (policy.cost > 0) admit(rows[index] as Row, policy, now, true, policies[index] as Mutable<PolicyAnswer>)
      const blockedMs = this.#blocks.left(blockLogOf(policy), keyAt(check, index), now)
      if (blockedMs > 0)
        policies[index] = { ...blocked(policies[index] as PolicyAnswer, policy, blockedMs), retryMs: 0 }
    }
    return { allowed: true, policies }
  }

  refund(check: Check, refunds: readonly Refund[]): number[] {
    const now = this.#tick()
    return refunds.map(({ policy, cost, admission, key = check.key }) => {
      const log = this.#tables.get(policy.log)?.get(key, now)?.log
      if (log === undefined) return 0
      log.read(now, policy.windowMs, 0, 0)
      if (admission !== undefined) {
        const isOver = admission.generation !== log.generation || admission.time <= now - policy.windowMs
        if (isOver) return 0
      }
      return log.refund(cost)
    })
  }

  /**
   * Takes over the usage that another store reports, as much as it says. What exceeds the usage known here, and at least
   * what was admitted just now, is dated now, and the oldest units make room. Entries older than the oldest one that still
   * counts there are dropped. `lateMs`: for so long beyond its window the usage of a policy is to be known.
   */
  learn(check: Check, answer: Answer, lateMs: (policy: Policy) => number = none): void {
    const now = this.#tick()
    for (let index = 0; index < check.policies.length; index++) {
      const policy = check.policies[index] as Policy
      const { log: name, windowMs, cost } = policy
      const { used, prefetched = 0, resetMs, admission } = answer.policies[index] as PolicyAnswer
      const total = used + prefetched
      if (total === 0) {
        this.#tables.get(name)?.delete(keyAt(check, index))
        continue
      }
      const { log } = this.#row(name, windowMs + lateMs(policy), keyAt(check, index), now)
      const known = log.read(now, Math.max(1, windowMs - resetMs + 1), 0, 0).used
      const more = Math.max(total - known, admission === undefined ? 0 : Math.min(cost, total))
      log.refund(known + more - total)
      log.append(now, more, windowMs * LEARNT_PRECISION)
    }
  }

  /** Takes over which keys another store says are blocked. */
  learnBlocks(check: Check, answer: Answer): void {
    for (let index = 0; index < check.policies.length; index++) {
      const { blockedMs } = answer.policies[index] as PolicyAnswer
      if (blockedMs === undefined && this.#blocks.isEmpty) continue
      const log = blockLogOf(check.policies[index] as Policy)
      const key = keyAt(check, index)
      if (blockedMs === undefined) this.#blocks.delete(log, key)
      else this.#blocks.set(log, key, blockedMs, this.#tick())
    }
  }

  /** Usage of each key in one log, where there is any. */
  *usage(log: string, windowMs: number): Iterable<[key: string, used: number]> {
    const now = this.#tick()
    for (const [key, row] of this.#tables.get(log)?.entries() ?? []) {
      const { used } = row.log.read(now, windowMs, 0, 0)
      if (used > 0) yield [key, used]
    }
  }

  reset(key: string, { logs, permits }: Names): void {
    for (const log of logs) {
      this.#tables.get(log)?.delete(key)
      this.#tables.get(penaltiesOf(log))?.delete(key)
      this.#blocks.delete(log, key)
    }
    for (const log of permits) this.#permits.delete(permitsOf(key, log))
  }

  block(key: string, { logs }: BlockPlaces, durationMs: number): void {
    const now = this.#tick()
    for (const { log } of logs) this.#blocks.set(log, key, durationMs, now)
  }

  held(key: string, permits: string): number {
    return this.#permits.get(permitsOf(key, permits))?.size ?? 0
  }

  close(): void {
    this.#tables.clear()
    this.#permits.clear()
    this.#blocks.clear()
  }

  /** Logs that are held, those of penalties included. */
  get logs(): number {
    return this.#tables.size
  }

  /** Keys held for one log. */
  size(log: string): number {
    return this.#tables.get(log)?.size ?? 0
  }

  #tick(): number {
    const read = this.#clock()
    this.#ahead += Math.max(0, this.#read - read)
    this.#read = read
    const now = read + this.#ahead
    // Between operations: each holds rows of the logs that it has looked at.
    if (this.#tables.size >= this.#sweepAt) this.#sweep(now)
    return now
  }

  /** `rows`: filled with what is kept of each policy. */
  #look(
    check: Check,
    now: number,
    peek: boolean,
    rows?: (Row | undefined)[],
  ): { policies: PolicyAnswer[]; allowed: boolean } {
    const policies: PolicyAnswer[] = []
    let allowed = true
    for (let index = 0; index < check.policies.length; index++) {
      const policy = check.policies[index] as Policy
      const key = keyAt(check, index)
      const table = this.#tables.get(policy.log)
      if (table !== undefined && table.windowMs < policy.windowMs) table.windowMs = policy.windowMs
      const row = table?.get(key, now)
      rows?.push(row)
      const denials = policy.decides === false ? undefined : this.#denialsOf(check, policy, row, now)
      let answer = answerOf(row, denials, policy, now, check.penalty, peek)
      const blockedMs = this.#blocks.left(blockLogOf(policy), key, now)
      if (blockedMs > 0) answer = blocked(answer, policy, blockedMs)
      policies.push(answer)
      if (answer.retryMs > 0) allowed = false
    }
    return { policies, allowed }
  }

  /** Penalties go by the key of the check: beside the log, where that has the same. */
  #denialsOf(check: Check, { log }: Policy, row: Row | undefined, now: number): Row['denials'] {
    if (check.penalty === 'none') return undefined
    if (check.keys === undefined) return row?.denials
    return this.#tables.get(penaltiesOf(log))?.get(check.key, now)?.denials
  }

  #row(log: string, windowMs: number, key: string, now: number): Row {
    let table = this.#tables.get(log)
    if (table === undefined) {
      table = new Table(this.#capacity)
      this.#tables.set(log, table)
    }
    if (table.windowMs < windowMs) table.windowMs = windowMs
    return table.get(key, now) ?? table.add(key, now)
  }

  /** Drops the logs of periods and windows that are over; beyond MOST_LOGS the oldest ones that deny nobody. */
  #sweep(now: number): void {
    for (const [log, table] of this.#tables) if (!table.isInUse(now)) this.#tables.delete(log)
    for (const [log, table] of this.#tables) {
      if (this.#tables.size <= MOST_LOGS) break
      if (!table.isDenying(now)) this.#tables.delete(log)
    }
    this.#sweepAt = Math.max(FIRST_SWEEP, 2 * this.#tables.size)
  }

  /** Records the denial with every policy that stood in the way, and keeps its row. */
  #penalise(check: Check, policies: PolicyAnswer[], now: number): void {
    for (const [index, policy] of check.policies.entries()) {
      const answer = policies[index] as PolicyAnswer
      if (answer.retryMs === 0) continue
      const { log, windowMs } = policy
      const row = this.#row(log, windowMs, keyAt(check, index), now)
      keepUntil(row, now + answer.retryMs)
      if (check.penalty === 'none') continue
      const punished = check.keys === undefined ? row : this.#row(penaltiesOf(log), windowMs, check.key, now)
      const denied = deny(punished, policy, answer, now, check.penalty)
      policies[index] = denied
      keepUntil(punished, now + denied.retryMs)
    }
  }

  /** Lasts as long as it is held: in one process a permit cannot outlive its holder. */
  #permit(id: string): Lease {
    const permits = this.#permits.get(id) ?? new Set()
    const permit = {
      release: () => {
        permits.delete(permit)
        if (permits.size === 0 && this.#permits.get(id) === permits) this.#permits.delete(id)
      },
    }
    this.#permits.set(id, permits.add(permit))
    return permit
  }
}

function none(): number {
  return 0
}

/** The table of the penalties of a policy whose log goes by another key. No name of a log begins so. */
function penaltiesOf(log: string): string {
  return `!${log}`
}

function permitsOf(key: string, permits: string): string {
  return `${permits}\n${key}`
}

/** A row that is kept longer already stays so. */
function keepUntil(row: Row, time: number): void {
  row.deniedUntil = Math.max(row.deniedUntil, time)
}

/** Charges one policy, and updates its answer. */
function admit({ log }: Row, policy: Policy, now: number, shared: boolean, answer: Mutable<PolicyAnswer>): void {
  log.append(now, policy.cost, shared ? policy.sliceMs : 0)
  answer.used += policy.cost
  answer.resetMs = log.resetMs(now, policy.windowMs)
  answer.admission = { generation: log.generation, time: now }
}

/** Counts a denial, and blocks the key where the penalty says so. */
function deny(row: Row, policy: Policy, answer: PolicyAnswer, now: number, penalty: Penalty): PolicyAnswer {
  row.denials ??= { count: 0, last: now, blockedUntil: 0, log: new SlidingLog() }
  const { denials } = row
  const { windowMs } = policy
  if (penalty === 'count') {
    const { used } = denials.log.read(now, windowMs, 0, 0)
    denials.log.append(now, 1, windowMs / 100)
    return { ...answer, denials: used + 1 }
  }
  denials.count = denials.blockedUntil > now ? denials.count + 1 : 1
  denials.last = now
  const longer = penalty === 'backoff' ? 2 ** (denials.count - 1) : 1
  const blockMs = Math.min(windowMs * longer, Number.MAX_SAFE_INTEGER)
  denials.blockedUntil = now + blockMs
  const denied = {
    used: Math.max(answer.used, policy.limit),
    resetMs: blockMs,
    retryMs: blockMs,
    denials: denials.count,
  }
  return answer.blockedMs === undefined ? denied : blocked(denied, policy, answer.blockedMs)
}

/** The answer about a key that is blocked: it has no quota before the block ends. */
function blocked(answer: PolicyAnswer, { limit }: Policy, blockedMs: number): PolicyAnswer {
  const resetMs = answer.used < limit ? blockedMs : Math.max(answer.resetMs, blockedMs)
  return { ...answer, resetMs, retryMs: Math.max(answer.retryMs, blockedMs), blockedMs }
}

/**
 * What one policy says about one row. Asked without charging (`peek`), a block counts from the last denial for the
 * base window only, as `@fastify/rate-limit` has it.
 */
function answerOf(
  row: Row | undefined,
  denials: Row['denials'],
  policy: Policy,
  now: number,
  penalty: Penalty,
  peek: boolean,
): PolicyAnswer {
  const { windowMs, limit, cost } = policy
  const { used, resetMs, retryMs } = row?.log.read(now, windowMs, limit, cost) ?? {
    used: 0,
    resetMs: 0,
    retryMs: cost <= limit ? 0 : windowMs,
  }
  if (denials === undefined) return { used, resetMs, retryMs, denials: 0 }
  if (penalty === 'count') return { used, resetMs, retryMs, denials: denials.log.read(now, windowMs, 0, 0).used }
  const until = peek ? Math.min(denials.last + windowMs, denials.blockedUntil) : denials.blockedUntil
  if (until <= now) return { used, resetMs, retryMs, denials: 0 }
  const left = until - now
  return { used: Math.max(used, limit), resetMs: left, retryMs: Math.max(retryMs, left), denials: denials.count }
}
