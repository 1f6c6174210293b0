/**
 * Quota that a replica takes ahead for keys that are busy here, so that most requests of such a key are answered at once.
 *
 * A grant is a number of whole requests of one shape (the policies and costs of one limiter). Redis counts it from the call
 * that takes it until its window has passed over its end, because its entry is dated at that end. It is spent here, by a
 * monotonic clock that was read before the call was sent, up to its end less a margin. So at every moment at which it is
 * spent it counts, and no window holds more than its limit; docs/how-it-works.md has the proof. What it did not spend goes
 * back by identity, off its own entry.
 *
 *   quiet ─ several requests within a life ─▶ a grant is taken ─ spent here, the next is taken before it runs out ─▶ …
 *   near the limit Redis grants nothing ahead: each request asks for itself, until there is room again
 */
import { clearTimeout, monotonic, setTimeout } from '../../clock.js'
import type { Policy } from '../../policy.js'
import { type Admission, type Answer, type Check, keyAt, type PolicyAnswer, type Refund } from '../store.js'
import type { Pending, TakeReply } from './codec.js'

/** A grant lives no longer than this (ms): what a replica that died had not spent is lost for a window. */
const LONGEST_LIFE_MS = 1000

/** Shorter grants would be over before much of them is spent. */
const SHORTEST_LIFE_MS = 5

/** A part of a life that is left unused, for clocks that run at different speeds, and milliseconds on top. */
const DRIFT = 0.01
const MARGIN_MS = 0.1

/** Fewer requests than this are not worth a grant: the call that gives back what is left costs as much as a check. */
const LEAST = 3

/** Grants end at whole multiples of this part of a life, 10 ms at most, so that what is left over goes back together. */
const TICK = 0.1
const LONGEST_TICK_MS = 10

/** Grants grow from one to the next by no more than this, so that two requests in a row do not take much. */
const GROWTH = 2

/** No replica takes more than 1 in this many of the room that there is for each replica. */
const SHARES = 4

/**
 * Milliseconds for which a call that nobody waits for waits for others. Each call wakes Redis and this process, which costs
 * more than a grant does where many keys are busy.
 */
const COMPANY_MS = 2

/** Keys whose rates are measured: two generations of this many. */
const MOST_KEYS = 5000

export interface PrefetchParts {
  /** Milliseconds after which a call is given up. */
  readonly timeoutMs: number
  /** Replicas that share the quotas, this one included. */
  readonly replicas: () => number
  /** Sends a call for a grant; false where none can be sent now. */
  readonly send: (take: Take) => boolean
  /** Answers a request that waited for a grant. */
  readonly settle: (rider: Pending, answer: Answer) => void
  /** Asks for requests that waited for a grant, each by itself; once `back` has resolved, where there is one. */
  readonly again: (riders: readonly Pending[], back?: Promise<unknown>) => void
  /** Gives units back; resolves when Redis has answered, or will not. */
  readonly giveBack: (check: Check, refunds: readonly Refund[]) => Promise<unknown>
  /** A request that is about to wait for a grant. */
  readonly pending: (check: Check, resolve: (answer: Answer) => void, reject: (error: unknown) => void) => Pending
}

/** A call for a grant, and the requests that wait for its answer. */
export class Take implements Pending {
  readonly operation = 'take'
  readonly check: Check
  readonly key: string
  readonly keys: readonly string[] | undefined
  readonly refunds: readonly Refund[] = []
  readonly since: number
  readonly deadline: number
  readonly riders: Pending[]
  /** Requests to take ahead, and the milliseconds in which they may be spent. */
  readonly wanted: number
  readonly lifeMs: number
  readonly share: number
  /** Recalls before it was asked for. */
  readonly recalls: number
  /** How many of the riders are in the call: set when it is sent. */
  waiting = 0
  settled = false
  readonly holding: Holding
  /** Resolves when the call is over. */
  readonly over: Promise<void>
  #end: () => void = ignore

  constructor(
    holding: Holding,
    first: Pending,
    riders: Pending[],
    plan: Pick<Take, 'wanted' | 'lifeMs' | 'share' | 'recalls'>,
    ended: () => void,
  ) {
    this.check = first.check
    this.key = first.key
    this.keys = first.keys
    this.since = first.since
    this.deadline = first.deadline
    this.riders = riders
    this.holding = holding
    this.over = new Promise(resolve => {
      this.#end = () => {
        ended()
        resolve()
      }
    })
    this.wanted = plan.wanted
    this.lifeMs = plan.lifeMs
    this.share = plan.share
    this.recalls = plan.recalls
  }

  resolve(): void {}

  reject(): void {
    this.end()
  }

  /** The call is over, or takes too long: who comes now does not wait for it. */
  end(): void {
    if (this.holding.call !== this) return
    this.holding.call = undefined
    this.#end()
  }
}

interface Grant {
  left: number
  /** `performance.now()` from which it may not be spent any more. */
  readonly until: number
  /** When its answer came, and by policy what is counted without this grant's own units, and the wait for more then. */
  readonly at: number
  readonly used: number[]
  readonly resetMs: readonly number[]
  readonly admissions: readonly Admission[]
  timer: NodeJS.Timeout | undefined
}

/** What this replica holds for one shape and one key, or one key of each policy, and how busy they are. */
class Holding {
  readonly check: Check
  /** The one that is spent first; mostly one, two while the next has come before the first ran out. */
  readonly grants: Grant[] = []
  call: Take | undefined
  /** Requests since `since`, and the rate before that (a millisecond). The first of them came at `since`. */
  count = 1
  since: number
  rate = 0
  /** Requests that may be left when the next grant is asked for. */
  low = 1
  /** Set while Redis had nothing to give ahead: nobody waits for a grant then. */
  isScarce = false

  constructor(check: Check, since: number) {
    this.check = check
    this.since = since
  }
}

/** Of a key that was asked for once: the millisecond of that. It costs less than an object, where most keys are cold. */
type Once = number

/** The policies of one limiter, where quota of them may be taken ahead. */
interface Shape {
  readonly lifeMs: number
  /** By key; see `idOf`. */
  young: Map<string, Holding | Once>
  old: Map<string, Holding | Once>
}

/** What is out for one partition key: holdings with grants or a call for one, and units on their way back. */
interface Out {
  readonly holdings: Set<Holding>
  /** Each resolves when its units are back, or will not come. */
  readonly returning: Set<Promise<void>>
}

export class Prefetch {
  readonly #parts: PrefetchParts
  readonly #shapes = new WeakMap<readonly Policy[], Shape | null>()
  readonly #out = new Map<string, Out>()
  /** Keys that units came back of, and when that was; the last one last. A call may be on its way that ran before that. */
  readonly #returned = new Map<string, number>()
  /** How long a call takes, smoothed. */
  #callMs = 1
  /** Holdings whose next grant is to be asked for, and when that happens. */
  readonly #due = new Map<Holding, Shape>()
  #dueTimer: NodeJS.Timeout | undefined
  /** Counts recalls: what was asked for before one is not spent after it. */
  #recalls = 0
  #closed = false

  constructor(parts: PrefetchParts) {
    this.#parts = parts
  }

  /** Keys of which something is out. */
  get keysOut(): number {
    return this.#out.size
  }

  /** Undefined where quota of such a check is not taken ahead: it is asked as it is. */
  check(check: Check): Answer | Promise<Answer> | undefined {
    const shape = this.#closed ? null : this.#shapeOf(check)
    if (shape === null) return undefined
    const now = monotonic()
    const holding = holdingOf(shape, check, now)
    if (holding === undefined) return undefined
    holding.count++
    const answer = this.#spend(holding, shape, now)
    if (answer !== undefined) return answer
    if (holding.call !== undefined) return holding.isScarce ? undefined : this.#ride(holding.call)
    const wanted = holding.isScarce ? 0 : this.#wanted(holding, shape, now)
    if (wanted < 2) return undefined
    return this.#take(holding, shape, wanted)
  }

  /**
   * Calls back the units of these logs that are out. They, and those that may be in an answer on its way, are to come back
   * before this replica denies the check: what is returned resolves then. Undefined where nothing is out, and nothing has
   * come back since the check was asked.
   */
  callBack(check: Check, asked: number): Promise<unknown> | undefined {
    if (this.#out.size === 0 && this.#returned.size === 0) return undefined
    const returning: (Promise<void> | undefined)[] = []
    for (const key of keysOf(check)) {
      const returned = this.#returned.get(key) ?? Number.NEGATIVE_INFINITY
      if (returned > asked) returning.push(undefined)
      const out = this.#out.get(key)
      if (out === undefined) continue
      for (const holding of [...out.holdings]) {
        if (!sharesLog(holding.check, check)) continue
        if (holding.call !== undefined) returning.push(holding.call.over)
        for (const grant of [...holding.grants]) this.#retire(holding, grant)
      }
      returning.push(...out.returning)
    }
    return returning.length > 0 ? Promise.all(returning) : undefined
  }

  /**
   * The answer of Redis without this replica's own units that it has not spent: they are still to be had. What is answered
   * ahead from now on goes by it.
   */
  without(check: Check, answer: Answer): Answer {
    if (this.#out.size === 0) return answer
    let changed = false
    const policies = answer.policies.map((policy, index) => {
      const key = keyAt(check, index)
      const out = this.#out.get(key)
      if (out === undefined) return policy
      const { log } = check.policies[index] as Policy
      const units = Math.min(unspent(out, log, key), policy.used)
      const used = policy.used - units
      level(out, log, key, used)
      if (units === 0) return policy
      changed = true
      return { ...policy, used, prefetched: (policy.prefetched ?? 0) + units }
    })
    return changed ? { ...answer, policies } : answer
  }

  /** Redis has given back so many units of the log of a key, which counted in what is answered ahead. */
  gaveBack(log: string, key: string, units: number): void {
    for (const { check, grants } of this.#out.get(key)?.holdings ?? []) {
      const at = placeOf(check, log, key)
      if (at === -1) continue
      for (const { used } of grants) used[at] = Math.max(0, (used[at] as number) - units)
    }
  }

  /** Redis has answered a check that was asked by itself: there may be room for a grant again. */
  seen(check: Check, answer: Answer): void {
    const holding = this.#known(check)
    if (holding?.isScarce && roomOf(check, answer) >= GROWTH * this.#share()) holding.isScarce = false
  }

  /** The answer to a call for a grant. `sent`: `performance.now()` before it was sent. */
  granted(take: Take, reply: TakeReply, sent: number): void {
    const { holding, check, riders } = take
    const { admitted, ahead } = reply
    const now = monotonic()
    this.#callMs += (now - sent - this.#callMs) / 8
    take.end()
    const admissions = reply.policies.map(({ admission }) => admission as Admission)
    const costs = check.policies.map(({ cost }) => cost)
    /** Requests of this call that nobody has had yet. */
    let left = admitted + ahead
    const answer = (): Answer => {
      left--
      return {
        allowed: true,
        policies: reply.policies.map((policy, index) => allowed(policy, (costs[index] as number) * left)),
      }
    }
    for (let index = 0; index < admitted; index++) {
      const rider = riders[index] as Pending
      if (!rider.settled) this.#parts.settle(rider, answer())
    }
    holding.isScarce = ahead === 0
    // A log was made anew: what was taken of the old one counts no more, and goes back to the others.
    const isOf = (grant: Grant) =>
      grant.admissions.every(({ generation }, index) => generation === admissions[index]?.generation)
    if (admitted + ahead > 0)
      for (const grant of holding.grants.filter(grant => !isOf(grant))) this.#retire(holding, grant)
    const until = sent + take.lifeMs * (1 - DRIFT) - MARGIN_MS
    const mayBeSpent = ahead > 0 && !this.#closed && take.recalls === this.#recalls && now < until
    const rest: Pending[] = []
    for (let index = admitted; index < riders.length; index++) {
      const rider = riders[index] as Pending
      if (rider.settled) continue
      if (mayBeSpent && left > 0) this.#parts.settle(rider, answer())
      else rest.push(rider)
    }
    if (left > 0) {
      const used = reply.policies.map((policy, index) => policy.used - (costs[index] as number) * left)
      const resetMs = reply.policies.map(policy => policy.resetMs)
      const grant: Grant = { left, until, at: now, used, resetMs, admissions, timer: undefined }
      this.#hold(holding, grant)
      if (mayBeSpent) {
        const tick = Math.min(LONGEST_TICK_MS, take.lifeMs * TICK)
        const end = Math.ceil(until / tick) * tick
        grant.timer = setTimeout(() => this.#retire(holding, grant), end - now).unref()
      } else this.#retire(holding, grant)
    }
    if (rest.length > 0) this.#answerRest(take, reply, rest, sent)
  }

  /** Those that a grant did not reach: denied, as Redis has said of the first of them, or asked once more. */
  #answerRest({ check, waiting }: Take, reply: TakeReply, rest: readonly Pending[], sent: number): void {
    const policies = reply.policies.map(({ used, resetMs, retryMs, blockedMs }) => ({
      ...{ used, resetMs, retryMs, blockedMs },
      denials: 0,
    }))
    const denied: Answer | undefined = reply.admitted < waiting ? { allowed: false, policies } : undefined
    const back = denied === undefined ? undefined : this.callBack(check, sent)
    if (denied !== undefined && back === undefined) {
      for (const rider of rest) this.#parts.settle(rider, denied)
      return
    }
    for (const rider of rest) rider.denied = denied
    this.#parts.again(rest, back)
  }

  /** Nothing is spent of what was asked for these keys so far, or is on its way. It goes back: other keys may have their part in it. */
  recall(isMeant: (key: string) => boolean): void {
    this.#recalls++
    for (const holding of this.#due.keys()) if (keysOf(holding.check).some(isMeant)) this.#due.delete(holding)
    for (const [key, { holdings }] of [...this.#out]) {
      if (!isMeant(key)) continue
      for (const holding of [...holdings]) for (const grant of [...holding.grants]) this.#retire(holding, grant)
    }
  }

  /** Resolves once no call for a grant is on its way any more: it was answered, or takes too long. */
  async answered(): Promise<void> {
    const holdings = [...this.#out.values()].flatMap(({ holdings }) => [...holdings])
    await Promise.all(holdings.map(({ call }) => call?.over))
  }

  /** Takes nothing ahead any more, and gives everything back. */
  close(): void {
    this.#closed = true
    clearTimeout(this.#dueTimer)
    this.recall(() => true)
  }

  /** Null where nothing may be taken ahead. */
  #shapeOf(check: Check): Shape | null {
    const { policies } = check
    const known = this.#shapes.get(policies)
    if (known !== undefined) return known
    const shape = newShape(check)
    this.#shapes.set(policies, shape)
    return shape
  }

  #known(check: Check): Holding | undefined {
    const shape = this.#shapes.get(check.policies)
    const id = idOf(check)
    const known = shape?.young.get(id) ?? shape?.old.get(id)
    return known instanceof Holding ? known : undefined
  }

  #share(): number {
    return SHARES * Math.max(1, this.#parts.replicas())
  }

  #spend(holding: Holding, shape: Shape, now: number): Answer | undefined {
    for (let grant = holding.grants[0]; grant !== undefined; grant = holding.grants[0]) {
      if (now >= grant.until) {
        this.#retire(holding, grant)
        continue
      }
      const answer = spend(grant, holding.check, now)
      if (grant.left === 0) this.#drop(holding, grant)
      this.#refill(holding, shape, holding.grants[0] ?? grant, now)
      return answer
    }
    return undefined
  }

  /** Asks for the next grant in time, so that nobody waits for it. */
  #refill(holding: Holding, shape: Shape, grant: Grant, now: number): void {
    if (holding.call !== undefined || holding.isScarce || holding.grants.length > 1) return
    if (grant.left > holding.low && now < grant.until - 2 * this.#callMs - COMPANY_MS) return
    if (this.#due.has(holding)) return
    this.#due.set(holding, shape)
    this.#dueTimer ??= setTimeout(() => this.#askDue(), COMPANY_MS).unref()
  }

  #askDue(): void {
    this.#dueTimer = undefined
    const now = monotonic()
    const due = [...this.#due]
    this.#due.clear()
    for (const [holding, shape] of due) {
      if (holding.call !== undefined || holding.isScarce || holding.grants.length > 1) continue
      const wanted = this.#wanted(holding, shape, now)
      if (wanted < 2) continue
      const nobody = this.#parts.pending(holding.check, ignore, ignore)
      this.#send(holding, shape, nobody, [], wanted)
    }
  }

  /** Requests to take ahead, by the rate of those that came of late. */
  #wanted(holding: Holding, { lifeMs }: Shape, now: number): number {
    const { count } = holding
    // Of two requests in a row nothing is concluded.
    const elapsed = Math.max(now - holding.since, lifeMs / (holding.rate === 0 ? 20 : 4))
    const rate = count / elapsed
    if (elapsed > 2 * lifeMs || (elapsed > lifeMs / 2 && count > 50)) {
      const isStale = holding.rate === 0 || elapsed > 4 * lifeMs
      holding.rate = isStale ? rate : (holding.rate + rate) / 2
      holding.since = now
      holding.count = 0
    }
    // A rate is followed at once only where it has more than doubled, which a few requests in a row do not show.
    const hasRisen = rate > 2 * holding.rate && count > 8
    const perMs = holding.rate === 0 || hasRisen ? rate : holding.rate
    holding.low = Math.max(1, Math.ceil(perMs * (this.#callMs * 2 + COMPANY_MS)))
    // Requests come at random, so their number in a life differs by its root: so many fewer are mostly spent in time.
    const expected = perMs * lifeMs
    const wanted = Math.floor(expected - Math.sqrt(expected))
    if (wanted < LEAST) return 0
    return Math.min(wanted, GROWTH * (count + holding.low), holding.check.prefetch as number)
  }

  #ride(take: Take): Promise<Answer> {
    return new Promise((resolve, reject) => {
      take.riders.push(this.#parts.pending(take.check, resolve, reject))
    })
  }

  #take(holding: Holding, shape: Shape, wanted: number): Promise<Answer> | undefined {
    let rider: Pending | undefined
    const promise = new Promise<Answer>((resolve, reject) => {
      rider = this.#parts.pending(holding.check, resolve, reject)
    })
    return this.#send(holding, shape, rider as Pending, [rider as Pending], wanted) ? promise : undefined
  }

  #send(holding: Holding, { lifeMs }: Shape, first: Pending, riders: Pending[], wanted: number): boolean {
    const plan = { wanted, lifeMs, share: this.#share(), recalls: this.#recalls }
    const take = new Take(holding, first, riders, plan, () => this.#forgetIdle(holding))
    holding.call = take
    this.#note(holding)
    if (this.#parts.send(take)) return true
    take.end()
    return false
  }

  #hold(holding: Holding, grant: Grant): void {
    holding.grants.push(grant)
    this.#note(holding)
  }

  #note(holding: Holding): void {
    for (const key of keysOf(holding.check)) this.#outOf(key).holdings.add(holding)
  }

  #drop(holding: Holding, grant: Grant): void {
    clearTimeout(grant.timer)
    const index = holding.grants.indexOf(grant)
    if (index === -1) return
    holding.grants.splice(index, 1)
    this.#forgetIdle(holding)
  }

  #forgetIdle(holding: Holding): void {
    if (holding.grants.length > 0 || holding.call !== undefined) return
    for (const key of keysOf(holding.check)) {
      const out = this.#out.get(key)
      if (out === undefined) continue
      out.holdings.delete(holding)
      this.#tidy(key, out)
    }
  }

  /** The end of a grant: what it has not spent goes back. */
  #retire(holding: Holding, grant: Grant): void {
    const { check } = holding
    const { left, admissions } = grant
    const outs = keysOf(check).map(key => [key, this.#outOf(key)] as const)
    const refunds = check.policies.map((policy, index) => ({
      policy,
      cost: policy.cost * left,
      admission: admissions[index],
      isAhead: true,
      key: keyAt(check, index),
    }))
    const end = () => {
      for (const [key, out] of outs) {
        out.returning.delete(back)
        this.#tidy(key, out)
      }
      this.#noteReturn(outs.map(([key]) => key))
    }
    const back = this.#parts.giveBack(check, refunds).then(end, end)
    // Before the grant is dropped: whoever calls units back asks here whether some are on their way.
    for (const [, out] of outs) out.returning.add(back)
    this.#drop(holding, grant)
    grant.left = 0
  }

  /** Of what is given up by now, no denial can come any more. */
  #noteReturn(keys: readonly string[]): void {
    const now = monotonic()
    for (const key of keys) {
      this.#returned.delete(key)
      this.#returned.set(key, now)
    }
    for (const [key, at] of this.#returned) {
      if (at > now - this.#parts.timeoutMs) return
      this.#returned.delete(key)
    }
  }

  #outOf(key: string): Out {
    let out = this.#out.get(key)
    if (out === undefined) {
      out = { holdings: new Set(), returning: new Set() }
      this.#out.set(key, out)
    }
    return out
  }

  #tidy(key: string, out: Out): void {
    if (out.holdings.size === 0 && out.returning.size === 0 && this.#out.get(key) === out) this.#out.delete(key)
  }
}

const ignore = (): void => {}

/** For how long after Redis has counted it a unit of this log may be spent by the replica that took it ahead (ms). */
export function longestLife({ sliced, sliceMs }: Policy): number {
  return sliced ? Math.min(LONGEST_LIFE_MS, sliceMs) : 0
}

/** Grants need logs whose entries share slices, since theirs are dated up to a slice ahead, and costs that are known. */
function newShape({ policies, penalty, concurrency }: Check): Shape | null {
  if (penalty !== 'none' || concurrency !== undefined) return null
  if (!policies.every(({ cost }) => cost > 0)) return null
  const lifeMs = Math.min(...policies.map(longestLife))
  return lifeMs < SHORTEST_LIFE_MS ? null : { lifeMs, young: new Map(), old: new Map() }
}

/** Undefined for a key that is new here: nothing is known of its rate. */
function holdingOf(shape: Shape, check: Check, now: number): Holding | undefined {
  const id = idOf(check)
  const known = shape.young.get(id)
  if (known instanceof Holding) return known
  const older = known ?? shape.old.get(id)
  if (shape.young.size >= MOST_KEYS) {
    shape.old = shape.young
    shape.young = new Map()
  }
  const holding = typeof older === 'number' ? new Holding(check, older) : older
  shape.young.set(id, holding ?? Math.floor(now))
  return holding
}

/** The keys of a check as one text; no two lists of keys have the same. */
function idOf({ key, keys }: Check): string {
  if (keys === undefined) return key
  let id = ''
  for (const each of keys) id += `${each.length}:${each}`
  return id
}

/** Each key that the policies of a check have, once. */
function keysOf({ key, keys }: Check): readonly string[] {
  return keys === undefined ? [key] : [...new Set(keys)]
}

function spend(grant: Grant, { policies }: Check, now: number): Answer {
  const elapsed = now - grant.at
  const { used, resetMs } = grant
  grant.left--
  const answers: PolicyAnswer[] = []
  for (let index = 0; index < policies.length; index++) {
    used[index] = (used[index] as number) + (policies[index] as Policy).cost
    answers.push({
      used: used[index] as number,
      resetMs: Math.max(1, (resetMs[index] as number) - elapsed),
      retryMs: 0,
      denials: 0,
      admission: grant.admissions[index],
    })
  }
  return { allowed: true, policies: answers }
}

function allowed({ used, resetMs, admission }: TakeReply['policies'][number], prefetched: number): PolicyAnswer {
  return { used: used - prefetched, resetMs, retryMs: 0, denials: 0, admission, prefetched }
}

function sharesLog(a: Check, b: Check): boolean {
  return a.policies.some(({ log }, at) =>
    b.policies.some((other, index) => other.log === log && keyAt(a, at) === keyAt(b, index)),
  )
}

/** Units of the log of a key that this replica has been granted and not spent. */
function unspent({ holdings }: Out, log: string, key: string): number {
  let units = 0
  for (const { check, grants } of holdings) {
    const at = placeOf(check, log, key)
    if (at === -1) continue
    for (const { left } of grants) units += left * (check.policies[at] as Policy).cost
  }
  return units
}

/** So many units of the log of a key are used, without what this replica has been granted and not spent. */
function level({ holdings }: Out, log: string, key: string, used: number): void {
  for (const { check, grants } of holdings) {
    const at = placeOf(check, log, key)
    if (at === -1) continue
    let before = used
    for (const grant of grants) {
      grant.used[at] = before
      before += grant.left * (check.policies[at] as Policy).cost
    }
  }
}

/** The place of the policy of a log and its key in a check; -1 where it has none. */
function placeOf(check: Check, log: string, key: string): number {
  return check.policies.findIndex((policy, index) => policy.log === log && keyAt(check, index) === key)
}

/** Whole requests that there was still room for. */
function roomOf({ policies }: Check, answer: Answer): number {
  let room = Number.POSITIVE_INFINITY
  for (const [index, { limit, cost }] of policies.entries()) {
    room = Math.min(room, Math.floor((limit - (answer.policies[index]?.used ?? limit)) / cost))
  }
  return room
}
