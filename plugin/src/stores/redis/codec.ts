import type { Policy } from '../../policy.js'
import type { Admission, Answer, Check, Penalty, PolicyAnswer, Refund } from '../store.js'
import type { Take } from './prefetch.js'

/** What a caller waits for. Times are milliseconds of `performance.now()`. */
export interface Pending {
  readonly operation: 'peek' | 'check' | 'charge' | 'refund' | 'take'
  readonly check: Check
  /** The partition key as it stands in Redis. */
  readonly key: string
  /** That of each policy, where policies have keys of their own. */
  readonly keys?: readonly string[] | undefined
  readonly refunds: readonly Refund[]
  readonly since: number
  /** When it is given up; it changes nothing in Redis after that. */
  readonly deadline: number
  settled: boolean
  /** How often it was asked again, and when it was last. */
  again?: number
  asked?: number
  /** The denial because of which it was asked again. */
  denied?: Answer | undefined
  resolve(answer: never): void
  reject(error: unknown): void
}

/** Keys and arguments of one script call. */
export interface Call {
  readonly keys: string[]
  readonly args: (string | number)[]
}

/** A permit to give back: the set that it is in, and its number. */
export interface Release {
  readonly key: string
  readonly number: number
}

/** What came of a call for a grant. */
export interface TakeReply {
  /** How many of the requests that waited were admitted, and how many more are granted. */
  readonly admitted: number
  readonly ahead: number
  readonly policies: readonly {
    /** Units that count now, these included. */
    readonly used: number
    /** Milliseconds until more quota arrives. */
    readonly resetMs: number
    readonly blockedMs: number | undefined
    /** Milliseconds until one more request fits; 0 where all that waited were admitted. */
    readonly retryMs: number
    readonly admission: Admission
  }[]
}

/** Why a check has no answer. */
export type Refusal = 'foreign' | 'late' | 'too large' | 'other period'

const OPERATIONS = { peek: 0, check: 1, charge: 2, take: 3 } as const
const PENALTIES: Readonly<Record<Penalty, number>> = { none: 0, count: 1, renew: 2, backoff: 3 }
const REFUSALS: Readonly<Record<number, Refusal>> = {
  [-1]: 'foreign',
  [-2]: 'late',
  [-3]: 'too large',
  [-4]: 'other period',
}

/** Deadlines this near to each other (ms) are sent as one, the earlier. */
const DEADLINE_STEP_MS = 5

/**
 * Version of what is stored. Releases of different versions count apart, because the version is part of every key.
 * 1 was without it. Raise it with every change of `log.lua` that an older release would misread.
 */
export const FORMAT = 2

/**
 * The key of a log, of its penalties, or of a set of permits. All keys of one partition key share a slot of a cluster.
 * The version stands behind the partition key and ends with a dot, which no name of a log begins with.
 */
export function redisKey(nameSpace: string, key: string, name: string): string {
  return `${nameSpace}{${key}}${FORMAT}.${name}`
}

/**
 * The key of what is kept about denials of a policy, beside its log. The name of a log begins with the limiter's
 * identity, whose length is fixed, and a kind; see `Limiter`. So no name of a policy leads to another policy's penalties.
 */
export function penaltyName(log: string, penalty: Penalty): string {
  return `${penalty === 'count' ? '-' : '!'}${log}`
}

/** Most limiters have the same policies for every request, and so the same text. */
const shapes = new WeakMap<readonly Policy[], string>()

/** The arguments of `check.lua`. `latest`: see there; it is that of the earliest deadline. */
export function encodeChecks(
  nameSpace: string,
  pending: readonly Pending[],
  releases: readonly Release[],
  latest: number,
): Call {
  const keys: string[] = []
  const args: (string | number)[] = [latest, releases.length]
  for (const release of releases) {
    keys.push(release.key)
    args.push(release.number)
  }
  const known = new Map<string, number>()
  const runs: (string | number)[] = []
  const earliest = earliestDeadline(pending)
  let last: Pending | undefined
  let lastLater = 0
  let run = 0
  for (const one of pending) {
    const { check, key } = one
    for (let index = 0; index < check.policies.length; index++) {
      const { log, penaltyLog = log } = check.policies[index] as Policy
      keys.push(redisKey(nameSpace, one.keys?.[index] ?? key, log))
      if (check.penalty !== 'none') keys.push(redisKey(nameSpace, key, penaltyName(penaltyLog, check.penalty)))
    }
    if (check.concurrency !== undefined) keys.push(redisKey(nameSpace, key, check.concurrency.log))
    for (let index = 0; index < check.policies.length; index++) {
      const { blockLog } = check.policies[index] as Policy
      if (blockLog !== undefined) keys.push(redisKey(nameSpace, one.keys?.[index] ?? key, blockLog))
    }
    const later = Math.floor((one.deadline - earliest) / DEADLINE_STEP_MS) * DEADLINE_STEP_MS * 1000
    if (last !== undefined && later === lastLater && alike(last, one) && one.operation !== 'take') {
      runs[run] = (runs[run] as number) + 1
      continue
    }
    last = one
    lastLater = later
    const shape = shapeOf(one)
    let number = known.get(shape)
    if (number === undefined) {
      number = known.size + 1
      known.set(shape, number)
    }
    run = runs.length
    runs.push(1, number, later)
    for (const { cost } of check.policies) runs.push(cost)
    if (one.operation === 'take') {
      const take = one as Take
      take.waiting = take.riders.length
      runs.push(take.waiting, take.wanted, take.share, take.lifeMs * 1000)
    }
  }
  args.push(known.size)
  for (const shape of known.keys()) args.push(...shape.split(' '))
  args.push(...runs)
  return { keys, args }
}

export function earliestDeadline(pending: readonly Pending[]): number {
  let earliest = Number.POSITIVE_INFINITY
  for (const { deadline } of pending) if (deadline < earliest) earliest = deadline
  return earliest
}

/**
 * A number in the reply of a script. It may come as text, as some clients are set up. Throws for anything else: what an
 * adapter gives in place of the reply must not count as an answer.
 */
export function numberIn(value: unknown): number {
  if (typeof value === 'number') return value
  const isText = (typeof value === 'string' && value !== '') || Buffer.isBuffer(value) || typeof value === 'bigint'
  const number = isText ? Number(value) : Number.NaN
  if (Number.isNaN(number)) throw notAReply()
  return number
}

/** The reply of a script that gives a list. Throws for anything else. */
export function listIn(reply: unknown): readonly unknown[] {
  if (Array.isArray(reply)) return reply
  throw notAReply()
}

const notAReply = () => new Error('the Redis client gave something else than the reply of the script')

/** A reply of `check.lua`, read one check after the other. */
export class Reply {
  readonly #values: readonly unknown[]
  #at = 1
  /** µs of the Redis clock. */
  readonly time: number

  constructor(reply: unknown) {
    this.#values = listIn(reply)
    this.time = numberIn(this.#values[0])
  }

  /** The answer to the next check, and the number of the permit that it took, 0 for none. */
  next({ check, operation }: Pending): { answer: Answer; permit: number } | Refusal {
    const refusal = this.#refusal()
    if (refusal !== undefined) return refusal
    const policies: PolicyAnswer[] = []
    let allowed = true
    for (let index = 0; index < check.policies.length; index++) {
      const { used, resetMs, blockedMs } = this.#usage()
      const third = this.#take()
      const admission = third < 0 ? { generation: -third, time: this.#take() } : undefined
      if (third > 0) allowed = false
      const denials = check.penalty === 'none' ? 0 : this.#take()
      const policy = { used, resetMs, retryMs: third > 0 ? third / 1000 : 0, denials, admission, blockedMs }
      policies.push(operation === 'peek' ? { ...policy, ahead: this.#take() } : policy)
    }
    if (check.concurrency === undefined) return { answer: { allowed, policies }, permit: 0 }
    const inFlight = this.#take()
    const permit = this.#take()
    const violated = permit < 0
    return {
      answer: { allowed: allowed && !violated, policies, concurrency: { inFlight, violated } },
      permit: Math.max(0, permit),
    }
  }

  /** The answer to a call for a grant. */
  nextTake(check: Check): TakeReply | Refusal {
    const refusal = this.#refusal()
    if (refusal !== undefined) return refusal
    const [admitted, ahead] = [this.#take(), this.#take()]
    const policies = check.policies.map(() => {
      const usage = this.#usage()
      const retryMs = this.#take() / 1000
      return { ...usage, retryMs, admission: { generation: this.#take(), time: this.#take() } }
    })
    return { admitted, ahead, policies }
  }

  /** Where the key is blocked, the time until more quota is negative, and that until the end of the block follows. */
  #usage(): { used: number; resetMs: number; blockedMs: number | undefined } {
    const used = this.#take()
    const resetMs = this.#take() / 1000
    if (resetMs >= 0) return { used, resetMs, blockedMs: undefined }
    return { used, resetMs: -resetMs, blockedMs: this.#take() / 1000 }
  }

  #refusal(): Refusal | undefined {
    const refusal = REFUSALS[numberIn(this.#values[this.#at])]
    if (refusal !== undefined) this.#at++
    return refusal
  }

  #take(): number {
    return numberIn(this.#values[this.#at++])
  }
}

/** The arguments of `refund.lua`. `marker`: a name of this call alone. `latest`: µs, see there. `lifeMs` of the marker. */
export function encodeRefunds(
  nameSpace: string,
  pending: readonly Pending[],
  marker: string,
  latest: number,
  lifeMs: number,
): Call {
  const keys = [redisKey(nameSpace, (pending[0] as Pending).key, `~${marker}`)]
  const args: (string | number)[] = [latest, lifeMs]
  for (const { key, keys: own, refunds } of pending) {
    for (const [index, { policy, cost, admission, isAhead }] of refunds.entries()) {
      keys.push(redisKey(nameSpace, own?.[index] ?? key, policy.log))
      args.push(cost, policy.windowMs * 1000, sliceUs(policy), (policy.sliced ? 1 : 0) + (isAhead ? 2 : 0))
      args.push(admission?.generation ?? 0, admission?.time ?? 0)
    }
  }
  return { keys, args }
}

/** Whether two checks differ in nothing but their key. */
function alike(a: Pending, b: Pending): boolean {
  return (
    a.operation === b.operation &&
    a.check.policies === b.check.policies &&
    a.check.penalty === b.check.penalty &&
    a.check.concurrency === b.check.concurrency
  )
}

export function sliceUs({ sliceMs }: Policy): number {
  return sliceMs * 1000
}

function flagsOf({ sliced, blockLog, decides }: Policy): number {
  return (sliced ? 1 : 0) + (blockLog === undefined ? 0 : 2) + (decides === false ? 4 : 0)
}

/** The fixed part of a check as the script reads it: numbers with blanks between them. */
function shapeOf({ operation, check }: Pending): string {
  const { concurrency, penalty } = check
  let policies = shapes.get(check.policies)
  if (policies === undefined) {
    policies = check.policies
      .map(policy => ` ${policy.limit} ${policy.windowMs * 1000} ${sliceUs(policy)} ${flagsOf(policy)}`)
      .join('')
    shapes.set(check.policies, policies)
  }
  const permits = concurrency === undefined ? '-1 0' : `${concurrency.max} ${concurrency.ttlMs * 1000}`
  const op = OPERATIONS[operation as keyof typeof OPERATIONS]
  return `${op} ${PENALTIES[penalty]} ${permits} ${periodOf(check.policies)} ${check.policies.length}${policies}`
}

/** Begin and end (µs) of the time in which all budgets are for the present period. */
function periodOf(policies: readonly Policy[]): string {
  let [from, until] = [0, Number.POSITIVE_INFINITY]
  for (const { span } of policies) {
    if (span === undefined) continue
    from = Math.max(from, span.fromMs)
    until = Math.min(until, span.untilMs)
  }
  return until === Number.POSITIVE_INFINITY ? '0 0' : `${from * 1000} ${until * 1000}`
}
