/**
 * What the Lua scripts keep and answer, written down plainly: lists of entries, no summaries, no shortcuts. All times are
 * microseconds. See `log.lua` and `check.lua` for the words.
 */
import { LARGEST_TOTAL } from '../../plugin/src/policy.js'
import type { Penalty } from '../../plugin/src/stores/store.js'

/** How far the newest entry may be ahead of the clock before that clock is taken to have gone back. */
const STEP = 100_000
/** A wait that exceeds the window by less than this is the window. */
const ROUNDING = 1000
/** Entries of a slice are merged when the total passes a multiple of this. */
const LOOSE = 8
/** What was taken ahead comes off its own entry where there are so many at most from that one on. */
const NEWER = 32

const rounded = (wait: number, window: number) =>
  wait > window && wait < window + ROUNDING ? window : Math.max(1, wait)

/**
 * When the key of a log ends (ms), after an entry at `score` was written. The end covers a stretch of time from then on, so
 * that it need not be renewed with each entry.
 */
export function endOfLog(score: number, window: number, shift = 0): number {
  const long = stretchOf(window)
  return Math.floor((beginOf(score, long) + long + window - shift) / 1000 + 1)
}

const stretchOf = (window: number) => Math.min(window / 16, 500_000)
const beginOf = (time: number, stretch: number) => Math.floor(time / stretch) * stretch

export interface Slices {
  /** Length of a slice, 0 for none. */
  readonly slice: number
  /** Whether entries of a slice are merged. */
  readonly shared: boolean
}

export const aheadOf = ({ slice, shared }: Slices): number => (shared ? Math.min(slice, 1_000_000) : 0)

/** The log of one policy and one key. */
export class LogModel {
  /** Entries that counted when something was written last, the oldest first. */
  entries: { time: number; cost: number }[] = []
  last: number | undefined
  total = 0
  generation = 0
  shift = 0
  /** When its key ends (ms). */
  end = 0

  forget(): void {
    Object.assign(this, new LogModel())
  }

  /** What the log says, after a look at whether the clock has gone back. */
  read(clock: number, window: number, ahead: number, writes: boolean) {
    let now = clock + this.shift
    if (this.last !== undefined && this.last > now + ahead + STEP) {
      now = this.last - ahead
      if (writes) {
        this.shift = now - clock
        this.generation = this.last + 1
        this.end = endOfLog(this.last, window, this.shift)
      }
    }
    return this.state(now, window)
  }

  /** What the log says at `now`, in its own time. */
  state(now: number, window: number) {
    const entries = this.entries.filter(({ time }) => time > now - window)
    const used = entries.reduce((sum, { cost }) => sum + cost, 0)
    return {
      now,
      entries,
      used,
      reset: entries[0] === undefined ? 0 : rounded(entries[0].time + window - now, window),
      aheadUnits: entries.reduce((sum, { time, cost }) => (time > now ? sum + cost : sum), 0),
      wait: (cost: number, limit: number) => {
        if (used + cost <= limit) return 0
        if (cost > limit) return window
        let left = used
        for (const entry of entries) {
          left -= entry.cost
          if (left + cost <= limit) return rounded(entry.time + window - now, window)
        }
        throw new Error('a cost within the limit fits into an empty window')
      },
    }
  }

  /** Charges `cost`, after a `read` that writes. `life`: how long it may still be used. Returns the time of its entry. */
  append(clock: number, window: number, cost: number, { slice, shared }: Slices, life: number): number {
    const now = clock + this.shift
    const edge = now - window
    this.entries = this.entries.filter(({ time }) => time > edge)
    const used = this.entries.reduce((sum, entry) => sum + entry.cost, 0)
    if (this.total + cost > LARGEST_TOTAL) {
      this.total = used
      if (used === 0) this.forget()
    }
    const { last } = this
    const time = last === undefined ? now + life : Math.max(now + life, last + 1)
    if (last === undefined) this.generation = time
    if (last === undefined || beginOf(time, stretchOf(window)) > last) this.end = endOfLog(time, window, this.shift)
    this.total += cost
    this.last = time
    this.entries.push({ time, cost })
    if (shared && last !== undefined && last > edge) {
      const start = last - (last % slice)
      if (time >= start + slice) this.#merge(start, last)
      else if (this.total % LOOSE < cost) this.#merge(start, time)
    }
    return time
  }

  /** Entries from `start` on become part of the one at `survivor`. */
  #merge(start: number, survivor: number): void {
    const merged = this.entries.filter(({ time }) => time >= start && time < survivor)
    this.entries = this.entries.filter(entry => !merged.includes(entry))
    const into = this.entries.find(({ time }) => time === survivor)
    if (into) into.cost += merged.reduce((sum, { cost }) => sum + cost, 0)
  }

  /** Gives cost back, off the oldest units. `generation`, `time`: whose cost it is, 0 and 0 for an operator's refund. */
  refund(clock: number, window: number, ahead: number, cost: number, generation: number, time: number): number {
    if (this.last === undefined) return 0
    const { now, entries, used } = this.read(clock, window, ahead, true)
    // The newest entry may show that the clock has gone back a little.
    if (generation > 0 && (generation !== this.generation || time <= Math.max(now, this.last) - window)) return 0
    const given = Math.min(cost, used)
    if (given === 0) return 0
    let left = given
    for (const entry of entries) {
      const part = Math.min(left, entry.cost)
      entry.cost -= part
      left -= part
    }
    this.entries = entries.filter(entry => entry.cost > 0)
    if (this.entries.length === 0) this.forget()
    return given
  }

  /** Gives back what was taken ahead and not used: off its own entry as far as that goes, and then off the oldest units. */
  refundAhead(clock: number, window: number, ahead: number, cost: number, generation: number, time: number): number {
    if (this.last === undefined) return 0
    const { now, entries, used } = this.read(clock, window, ahead, true)
    const counts = generation === this.generation && time > Math.max(now, this.last) - window
    const from = entries.filter(entry => entry.time >= time)
    const [its] = from
    let own = 0
    if (counts && used > cost && its !== undefined && from.length <= NEWER) {
      own = Math.min(cost, its.cost)
      its.cost -= own
      this.total -= own
      this.entries = this.entries.filter(entry => entry.cost > 0)
      this.last = this.entries.at(-1)?.time
    }
    return own === cost ? own : own + this.refund(clock, window, ahead, cost - own, generation, time)
  }
}

export interface PolicyModel extends Slices {
  readonly limit: number
  readonly window: number
  readonly log: LogModel
  readonly penalty: PenaltyModel
}

/** What is kept about the denials of one policy and one key. */
export class PenaltyModel {
  readonly log = new LogModel()
  /** `end`: when its key ends (ms). */
  block: { denials: number; till: number; last: number; end: number } | undefined

  /** How many denials count, and the end of the block. */
  read(clock: number, window: number, kind: Penalty, writes: boolean): { denials: number; till: number } {
    if (kind === 'none') return { denials: 0, till: 0 }
    if (kind === 'count') {
      const { used } = this.log.read(clock, window, aheadOf({ slice: window / 100, shared: true }), writes)
      return { denials: used, till: 0 }
    }
    if (this.block === undefined) return { denials: 0, till: 0 }
    if (writes && this.block.last - clock > STEP) {
      this.block.till += clock - this.block.last
      this.block.last = clock
      this.block.end = Math.floor(clock / 1000) + Math.floor((this.block.till - clock) / 1000 + 1)
    }
    const { denials, last } = this.block
    const till = writes ? this.block.till : Math.min(last + window, this.block.till)
    return till > clock ? { denials, till } : { denials: 0, till: 0 }
  }

  deny(clock: number, window: number, kind: Penalty, before: number): { denials: number; till: number } {
    const denials = before + 1
    if (kind === 'count') {
      this.log.append(clock, window, 1, { slice: window / 100, shared: true }, 0)
      return { denials, till: 0 }
    }
    const block = kind === 'renew' ? window : Math.min(window * 2 ** before, 9007199254740991000)
    this.block = { denials, till: clock + block, last: clock, end: Math.floor(clock / 1000) + block / 1000 }
    return { denials, till: clock + block }
  }
}

/** The requests of one key that are in flight: the end of each, by its number. */
export class PermitsModel {
  ends = new Map<number, number>()
  /** When a permit was taken last. */
  lastTaken = 0
  /** When the key ends (ms). */
  end = 0

  inFlight(clock: number): number {
    return [...this.ends.values()].filter(end => end > clock).length
  }

  /** Permits that were taken before the clock went back end as if they had been taken now. */
  setBack(clock: number, life: number): void {
    for (const [number, end] of this.ends) {
      if (end <= clock + life + STEP || number <= clock + STEP) continue
      this.ends.set(number, clock + life)
      this.#endAfter(clock, life)
    }
  }

  #endAfter(clock: number, life: number): void {
    this.end = Math.floor(clock / 1000) + Math.floor(life / 1000 + 1)
  }

  take(clock: number, life: number): number {
    this.lastTaken = clock
    let number = clock
    while (this.ends.has(number)) number++
    this.ends.set(number, clock + life)
    this.#endAfter(clock, life)
    for (const [other, end] of this.ends) if (end <= clock) this.ends.delete(other)
    return number
  }
}

export interface PolicyReply {
  readonly used: number
  readonly reset: number
  readonly wait: number
  readonly denials: number
  readonly ahead: number
  /** Generation and time, where the cost was charged. */
  readonly charged: readonly [number, number] | undefined
}

export interface CheckModel {
  readonly operation: 'peek' | 'check' | 'charge'
  readonly penalty: Penalty
  readonly policies: readonly (PolicyModel & { readonly cost: number })[]
  readonly permits: { readonly of: PermitsModel; readonly max: number; readonly life: number } | undefined
}

/** One check, as `check.lua` answers it. */
export function checkByModel(
  clock: number,
  { operation, penalty, policies, permits }: CheckModel,
): { policies: PolicyReply[]; inFlight: number; permit: number } | 'too large' {
  const writes = operation !== 'peek'
  let isAdmitted = true
  let tooLarge = false
  const looks = policies.map(policy => {
    const { log, window, limit, cost } = policy
    const state = log.read(clock, window, aheadOf(policy), writes)
    const denied = policy.penalty.read(clock, window, penalty, writes)
    let wait = 0
    if (operation === 'charge') tooLarge ||= state.used + cost > LARGEST_TOTAL
    else
      wait = Math.max(state.wait(cost, Math.min(limit, LARGEST_TOTAL)), denied.till > clock ? denied.till - clock : 0)
    if (wait > 0) isAdmitted = false
    return { ...denied, wait }
  })
  let inFlight = permits?.of.inFlight(clock) ?? 0
  let permit = 0
  if (permits !== undefined && inFlight >= permits.max && operation !== 'charge') {
    isAdmitted = false
    permit = -1
    if (operation === 'check') permits.of.setBack(clock, permits.life)
  }
  if (tooLarge) return 'too large'
  const replies = policies.map((policy, index): PolicyReply => {
    const { log, window, cost, slice, shared } = policy
    let { denials, till, wait } = looks[index] as (typeof looks)[number]
    let charged: [number, number] | undefined
    if (!isAdmitted && wait > 0 && penalty !== 'none' && operation === 'check') {
      ;({ denials, till } = policy.penalty.deny(clock, window, penalty, denials))
      if (penalty !== 'count') wait = till - clock
    }
    if (isAdmitted && operation !== 'peek' && cost > 0) {
      const time = log.append(
        clock,
        window,
        cost,
        { slice, shared: shared || (operation === 'charge' && slice > 0) },
        0,
      )
      charged = [log.generation, time]
    }
    // A peek changes nothing, so it finds the clock gone back once more.
    let { used, reset, aheadUnits } = writes
      ? log.state(clock + log.shift, window)
      : log.read(clock, window, aheadOf(policy), false)
    if (till > clock) {
      used = Math.max(used, Math.min(policy.limit, LARGEST_TOTAL))
      reset = till - clock
    }
    return { used, reset, wait, denials, ahead: aheadUnits, charged }
  })
  if (permits !== undefined && isAdmitted && operation === 'check') {
    permit = permits.of.take(clock, permits.life)
    inFlight++
  }
  return { policies: replies, inFlight, permit }
}

/** A call for a grant, as `check.lua` answers it. */
export function grantByModel(
  clock: number,
  policies: readonly (PolicyModel & { readonly cost: number })[],
  { waiting, wanted, share, life }: { waiting: number; wanted: number; share: number; life: number },
) {
  let room = LARGEST_TOTAL
  for (const policy of policies) {
    const { used } = policy.log.read(clock, policy.window, aheadOf(policy), true)
    room = Math.min(room, Math.floor((policy.limit - used) / policy.cost))
  }
  room = Math.max(room, 0)
  const admitted = Math.min(waiting, room)
  let ahead = Math.min(wanted, Math.floor((room - admitted) / share))
  if (ahead < 2) ahead = 0
  const requests = admitted + ahead
  return {
    admitted,
    ahead,
    policies: policies.map(policy => {
      const { log, window, cost, limit } = policy
      const time = requests > 0 ? log.append(clock, window, cost * requests, policy, ahead > 0 ? life : 0) : 0
      const { used, reset, wait } = log.state(clock + log.shift, window)
      const retry = admitted < waiting && used + cost > limit ? wait(cost, limit) : 0
      return { used, reset, retry, generation: requests > 0 ? log.generation : 0, time }
    }),
  }
}
