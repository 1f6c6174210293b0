/**
 * Many replicas, one key, one store: checks, grants taken ahead, units on their way back, refunds, resets, replicas that
 * die, and a clock of the store that goes back.
 *
 * What replicas send may be delayed for as long as it likes, lost before it runs, lost after it ran, or answered late. A
 * check acts when it runs in the store, which is when its request is admitted; so a check has no state on its way, and
 * that its answer is lost is a step of its own.
 *
 * More is allowed here than in the program, so whatever holds here holds there: a grant may take all the room there is,
 * goes back whenever it likes, and a call may run however late. The program takes 1 in `4 × replicas` of the room, gives
 * back at the end of a grant or before a denial, and a call that is too late changes nothing.
 */
import {
  aheadOf,
  append,
  giveBack,
  giveBackAhead,
  type Identity,
  type Log,
  type LogConstants,
  type LogPlants,
  modulo,
  moved,
  setBackOf,
  usedOf,
  waitOf,
} from './log.js'
import type { Model, Visit } from './search.js'

export interface QuotaConstants extends LogConstants {
  readonly replicas: number
  /** Costs that a request may have. */
  readonly costs: readonly number[]
  /** Ticks in which a grant may be spent; 0: there are no grants. */
  readonly life: number
  /** Units that a grant may have. */
  readonly ahead: readonly number[]
  /** Grants, and calls for one, that a replica has at most. */
  readonly most: number
  /** Requests at a time that are refunded some day; 0: none is. Which ones, is left open. */
  readonly refunds: number
  /** Calls on their way at a time that give something back. */
  readonly messages: number
  readonly resets: boolean
  /** Whether answers of checks are lost. */
  readonly losses: boolean
  readonly deaths: boolean
  /** Ticks by which the clock of the store may go back at once. */
  readonly steps: readonly number[]
  /** Ticks by which it may jump forward; then a window may hold twice the limit. */
  readonly jumps: readonly number[]
}

export interface QuotaPlants extends LogPlants {
  /** The entry of a grant is dated at its start. */
  readonly datedAtStart?: boolean
  /** A grant may be spent for its whole life from the moment at which its answer arrives. */
  readonly lateAnswer?: boolean
  /** A refund that the client sends twice gives back twice. */
  readonly noMarker?: boolean
  /** A replica goes on with what it has asked to be taken back. */
  readonly spentAfterBack?: boolean
}

/** A request that was admitted, and is refunded later if at all. */
interface Refundable extends Identity {
  readonly cost: number
  /** Ticks since it was served; those of the window where it is no part of any window any more. */
  readonly age: number
}

/** Quota that a replica holds: may be spent while `until` is above 0. */
interface Grant extends Identity {
  readonly left: number
  readonly until: number
}

/** A call for a grant: since when it is on its way, and once it ran what it took. */
interface Take extends Identity {
  readonly age: number
  readonly units: number
}

interface Replica {
  readonly grants: readonly Grant[]
  readonly takes: readonly Take[]
}

/** A call that gives something back. */
interface Message extends Identity {
  readonly units: number
  /** Of a grant, that has not used them. */
  readonly isAhead: boolean
  /** Whether it has run: only its marker in the store is left of it, should the client send it again. */
  readonly hasRun: boolean
}

export interface QuotaState {
  readonly log: Log
  /** Ticks since the slice of the present began, by the time of the log, and by the clock of the store. */
  readonly phase: number
  readonly clock: number
  /** Units served, by their age in ticks: as many as the window has. */
  readonly served: readonly number[]
  readonly refundable: readonly Refundable[]
  readonly replicas: readonly Replica[]
  readonly messages: readonly Message[]
}

const IDLE: Replica = { grants: [], takes: [] }

/** Nobody looks at a refund of something older than the window by more than this. */
const BEYOND = 1

const CHECK_LUA = 'plugin/src/stores/redis/check.lua'
const LOG_LUA = 'plugin/src/stores/redis/log.lua'
const PREFETCH = 'plugin/src/stores/redis/prefetch.ts'
const STORE = 'plugin/src/stores/redis/redis-store.ts'

/** What each step stands for in the program. */
export const QUOTA_SOURCES: Readonly<Record<string, readonly string[]>> = {
  tick: [`${LOG_LUA}#begin`, `${LOG_LUA}#expire`],
  check: [`${CHECK_LUA}#check`, `${LOG_LUA}#append`, `${STORE}#sendChecks`],
  'check, answer lost': [`${CHECK_LUA}#check`, `${STORE}#failAll`],
  'check, denied': [`${CHECK_LUA}#check`, `${LOG_LUA}#wait`, `${LOG_LUA}#reach`],
  'ask for a grant': [`${PREFETCH}#take`, `${PREFETCH}#refill`, `${STORE}#sendTake`],
  'grant made': [`${CHECK_LUA}#grant`, `${LOG_LUA}#append`],
  'grant arrives': [`${PREFETCH}#granted`, `${PREFETCH}#hold`],
  'grant lost': [`${PREFETCH}#end`],
  spend: [`${PREFETCH}#spend`],
  'give a grant back': [`${PREFETCH}#retire`, `${PREFETCH}#callBack`],
  refund: ['plugin/src/limiter.ts#refundDecision', 'plugin/src/ledger.ts#take'],
  'give back runs': [`${LOG_LUA}#give_back`, `${LOG_LUA}#give_back_ahead`, `${STORE}#sendRefunds`],
  'give back lost': [`${STORE}#sendRefunds`],
  'give back sent again': ['plugin/src/stores/redis/refund.lua:NX', `${STORE}#sendRefunds`],
  reset: ['plugin/src/stores/redis/reset.lua:UNLINK', `${STORE}#reset`],
  die: [`${PREFETCH}#retire`],
  'clock back': [`${LOG_LUA}#look`, `${LOG_LUA}#ahead_of`],
  'clock forward': [`${LOG_LUA}#look`],
}

export function quota(constants: QuotaConstants, plants: QuotaPlants = {}): Model<QuotaState> {
  const { limit, window, slice, replicas, costs, life, ahead, most, messages: mostMessages } = constants
  const allowed = constants.jumps.length > 0 ? 2 * limit : limit
  const noneServed = Array.from({ length: window }, () => 0)
  const longestWait = window + aheadOf(constants) + constants.tolerance

  /** The state as the script finds it: set back where the clock has gone back, before it decides. */
  function look(state: QuotaState): QuotaState {
    const back = setBackOf(state.log, constants, plants)
    if (back === 0) return state
    return { ...shifted(newGeneration(state), -back), phase: modulo(state.phase + back, slice || 1) }
  }

  function newGeneration(state: QuotaState): QuotaState {
    return {
      ...state,
      refundable: state.refundable.map(stale),
      replicas: state.replicas.map(({ grants, takes }) => ({
        grants: grants.map(stale),
        takes: takes.map(one => (one.units === 0 ? one : stale(one))),
      })),
      messages: state.messages.map(stale),
    }
  }

  /** All that is dated by the time of the log, so many ticks later. */
  function shifted(state: QuotaState, ticks: number): QuotaState {
    const later = <T extends Identity>(one: T): T => ({ ...one, score: one.score + ticks })
    const taken = (take: Take) => (take.units === 0 ? take : later(take))
    return {
      ...state,
      log: moved(state.log, ticks),
      refundable: state.refundable.map(later),
      replicas: state.replicas.map(({ grants, takes }) => ({ grants: grants.map(later), takes: takes.map(taken) })),
      messages: state.messages.map(later),
    }
  }

  /** Every log that an admission may lead to, with the time of its entry. A log that was empty begins a slice by the clock. */
  function admitted(state: QuotaState, units: number, ticks: number): { log: Log; phase: number; score: number }[] {
    const phase = state.log.length === 0 ? state.clock : state.phase
    return append(state.log, units, ticks, phase, constants, plants).map(log => {
      const last = state.log.at(-1)?.score ?? ticks
      return { log, phase, score: Math.max(ticks, last) }
    })
  }

  /** The key of a log expires with its newest entry. */
  function unexpired(log: Log): Log {
    return (log.at(-1)?.score ?? 0) < -window ? [] : log
  }

  function tick(state: QuotaState): QuotaState {
    const phase = slice === 0 ? 0 : (state.phase + 1) % slice
    const clock = slice === 0 ? 0 : (state.clock + 1) % slice
    const next = shifted(state, -1)
    const log = unexpired(next.log)
    return {
      ...next,
      phase: log.length === 0 ? clock : phase,
      clock,
      log,
      served: [0, ...next.served.slice(0, -1)],
      refundable: next.refundable.map(one => ({ ...one, age: Math.min(one.age + 1, window) })).filter(isInWindow),
      replicas: next.replicas.map(({ grants, takes }) => ({
        grants: grants.map(one => ({ ...one, until: Math.max(0, one.until - 1) })).filter(isInWindow),
        takes: takes
          .map(one => ({ ...one, age: Math.min(one.age + 1, life) }))
          .filter(one => one.units === 0 || isInWindow(one)),
      })),
      messages: next.messages.filter(isInWindow),
    }
  }

  /** What is older changes nothing any more, whatever is done to it. */
  function isInWindow({ score }: Identity): boolean {
    return score >= -window - BEYOND
  }

  function withReplica(state: QuotaState, index: number, replica: Replica): QuotaState {
    return { ...state, replicas: state.replicas.map((one, at) => (at === index ? replica : one)) }
  }

  /** Serves a request: with refunds, one that is never refunded, or one that may be. */
  function serve(
    state: QuotaState,
    action: string,
    who: number,
    cost: number,
    identity: Identity,
    visit: Visit<QuotaState>,
  ) {
    const [newest = 0, ...older] = state.served
    const next = { ...state, served: [newest + cost, ...older] }
    visit(action, who, cost, next)
    if (state.refundable.length >= constants.refunds) return
    const one = { cost, age: 0, score: identity.score, isCurrent: identity.isCurrent }
    visit(action, who, cost, { ...next, refundable: [...state.refundable, one] })
  }

  function checks(given: QuotaState, visit: Visit<QuotaState>): void {
    const state = look(given)
    const used = usedOf(state.log, constants, plants)
    for (const cost of costs) {
      if (used + cost > limit) {
        const wait = waitOf(state.log, cost, constants, plants)
        visit('check, denied', 0, cost, state, problemOfWait(state.log, cost, wait))
        continue
      }
      for (const { log, phase, score } of admitted(state, cost, 0)) {
        const next = { ...state, log, phase }
        serve(next, 'check', 0, cost, { score, isCurrent: true }, visit)
        if (constants.losses) visit('check, answer lost', 0, cost, next)
      }
    }
  }

  /** Whoever waits so long, while nothing else happens, is admitted; and it is never longer than a window and a slice. */
  function problemOfWait(log: Log, cost: number, wait: number): string | undefined {
    if (cost > limit) return undefined
    const used = usedOf(log, constants, plants, wait)
    if (used + cost > limit) return `retry-after is ${wait} ticks, and then ${used} of ${limit} still count`
    if (wait > longestWait) return `retry-after is ${wait} ticks, of a window of ${window}`
    return undefined
  }

  function takes(given: QuotaState, index: number, visit: Visit<QuotaState>): void {
    const replica = given.replicas[index] as Replica
    if (replica.takes.length + replica.grants.length < most) {
      const take = { age: 0, units: 0, score: 0, isCurrent: true }
      visit('ask for a grant', index, 0, withReplica(given, index, { ...replica, takes: [...replica.takes, take] }))
    }
    for (const [at, take] of replica.takes.entries()) {
      const others = replica.takes.filter((_take, each) => each !== at)
      if (take.units > 0) {
        visit('grant arrives', index, take.units, arrived(given, index, others, take))
        visit('grant lost', index, take.units, withReplica(given, index, { ...replica, takes: others }))
        continue
      }
      if (take.age >= life) visit('grant lost', index, 0, withReplica(given, index, { ...replica, takes: others }))
      const state = look(given)
      const room = limit - usedOf(state.log, constants, plants)
      for (const units of ahead) {
        if (units > room) continue
        const date = plants.datedAtStart ? 0 : life
        for (const { log, phase, score } of admitted(state, units, date)) {
          const ran = { age: take.age, units, score, isCurrent: true }
          const mine = state.replicas[index] as Replica
          const kept = mine.takes.map((one, each) => (each === at ? ran : one))
          visit('grant made', index, units, withReplica({ ...state, log, phase }, index, { ...mine, takes: kept }))
        }
      }
    }
  }

  /** Grants of a log that was made anew are dropped. */
  function arrived(state: QuotaState, index: number, others: readonly Take[], take: Take): QuotaState {
    const { age, units: left, score, isCurrent } = take
    const held = (state.replicas[index] as Replica).grants.filter(one => one.isCurrent === isCurrent)
    const until = plants.lateAnswer ? life : life - age
    return withReplica(state, index, { grants: [...held, { left, until, score, isCurrent }], takes: others })
  }

  function grants(state: QuotaState, index: number, visit: Visit<QuotaState>): void {
    const { grants, takes } = state.replicas[index] as Replica
    for (const [at, grant] of grants.entries()) {
      const others = grants.filter((_grant, each) => each !== at)
      for (const cost of costs) {
        // The oldest is spent first.
        if (at > 0 || grant.until === 0 || grant.left < cost) continue
        const spent = { ...grant, left: grant.left - cost }
        const kept = spent.left === 0 ? others : [spent, ...others]
        serve(withReplica(state, index, { grants: kept, takes }), 'spend', index, cost, grant, visit)
      }
      if (state.messages.length >= mostMessages) continue
      const { left: units, score, isCurrent } = grant
      const message = { units, score, isCurrent, isAhead: true, hasRun: false }
      const next = plants.spentAfterBack ? state : withReplica(state, index, { grants: others, takes })
      visit('give a grant back', index, grant.left, { ...next, messages: [...state.messages, message] })
    }
  }

  function refunds(state: QuotaState, visit: Visit<QuotaState>): void {
    if (state.messages.length >= mostMessages) return
    for (const [at, one] of state.refundable.entries()) {
      const refundable = state.refundable.filter((_one, each) => each !== at)
      const served = state.served.map((units, age) => (age === one.age ? units - one.cost : units))
      const message = { units: one.cost, score: one.score, isCurrent: one.isCurrent, isAhead: false, hasRun: false }
      visit('refund', 0, one.cost, { ...state, served, refundable, messages: [...state.messages, message] })
    }
  }

  function messages(given: QuotaState, visit: Visit<QuotaState>): void {
    for (const [at, message] of given.messages.entries()) {
      const others = given.messages.filter((_message, each) => each !== at)
      visit('give back lost', 0, message.units, { ...given, messages: others })
      const action = message.hasRun ? 'give back sent again' : 'give back runs'
      if (message.hasRun && !plants.noMarker) {
        visit(action, 0, message.units, { ...given, messages: others })
        continue
      }
      const state = look(given)
      const identity = state.messages[at] as Message
      const back = message.isAhead ? giveBackAhead : giveBack
      const log = back(state.log, message.units, identity, constants, plants)
      const ran = state.messages.map((one, each) => (each === at ? { ...one, hasRun: true } : one))
      const next = { ...state, log, messages: message.hasRun ? others : ran }
      // A log that was emptied is made anew.
      const after = log.length === 0 && state.log.length > 0 ? newGeneration(next) : next
      const used = usedOf(log, constants, plants)
      const held = sum(state.served)
      const isShort = constants.jumps.length === 0 && log !== state.log && used < held
      const problem = isShort ? `units of others were given back: ${used} count, of ${held} in the window` : undefined
      visit(action, 0, message.units, after, problem)
    }
  }

  function clocks(state: QuotaState, visit: Visit<QuotaState>): void {
    const last = state.log.at(-1)?.score ?? 0
    for (const ticks of constants.steps) {
      // However far it goes back, once it is noticed: to go further changes nothing.
      if (state.log.length === 0 || last > aheadOf(constants) + constants.tolerance) continue
      const by = slice || 1
      const phases = { phase: modulo(state.phase - ticks, by), clock: modulo(state.clock - ticks, by) }
      visit('clock back', 0, ticks, { ...shifted(state, ticks), ...phases })
    }
    for (const ticks of constants.jumps) {
      // One jump in a window: what the last one has freed twice is not freed again.
      if (state.log.length === 0 || sum(state.served) > limit) continue
      const by = slice || 1
      const phases = { phase: modulo(state.phase + ticks, by), clock: modulo(state.clock + ticks, by) }
      const next = shifted(state, -ticks)
      visit('clock forward', 0, ticks, { ...next, ...phases, log: unexpired(next.log) })
    }
  }

  return {
    start: {
      log: [],
      phase: 0,
      clock: 0,
      served: noneServed,
      refundable: [],
      replicas: Array.from({ length: replicas }, () => IDLE),
      messages: [],
    },
    encode: encodeQuota,
    next(state, visit) {
      visit('tick', 0, 0, tick(state))
      checks(state, visit)
      if (life > 0) {
        for (let index = 0; index < replicas; index++) {
          takes(state, index, visit)
          grants(state, index, visit)
          const { grants: held, takes: asked } = state.replicas[index] as Replica
          if (constants.deaths && held.length + asked.length > 0)
            visit('die', index, 0, withReplica(state, index, IDLE))
        }
      }
      refunds(state, visit)
      messages(state, visit)
      if (constants.resets && state.log.length > 0) {
        const next = newGeneration({ ...state, log: [], phase: state.clock })
        const refundable = next.refundable.map(one => ({ ...one, age: window }))
        visit('reset', 0, 0, { ...next, served: noneServed, refundable })
      }
      clocks(state, visit)
    },
    problem(state) {
      const units = sum(state.served)
      return units > allowed ? `a window holds ${units} of ${limit}` : undefined
    },
    say(action, who, units) {
      const many = `${units} unit${units === 1 ? '' : 's'}`
      const one = `replica ${who + 1}`
      switch (action) {
        case 'tick':
          return 'a tick passes'
        case 'check':
          return `a check of ${many} is admitted`
        case 'check, answer lost':
          return `a check of ${many} is admitted, and its answer is lost`
        case 'check, denied':
          return `a check of ${many} is denied`
        case 'ask for a grant':
          return `${one} asks for a grant`
        case 'grant made':
          return `the store grants ${one} ${many}`
        case 'grant arrives':
          return `the grant of ${many} arrives at ${one}`
        case 'grant lost':
          return `the call of ${one} is lost`
        case 'spend':
          return `${one} serves ${many} of its grant`
        case 'give a grant back':
          return `${one} gives ${many} back`
        case 'refund':
          return `a request of ${many} is refunded`
        case 'give back runs':
          return `${many} arrive back in the store`
        case 'give back lost':
          return `${many} are lost on their way back`
        case 'give back sent again':
          return `the client sends ${many} back once more`
        case 'reset':
          return 'the key is reset'
        case 'die':
          return `${one} dies, another takes its place`
        case 'clock back':
          return `the clock of the store goes back by ${units}`
        default:
          return `the clock of the store jumps forward by ${units}`
      }
    },
    show(state) {
      const used = usedOf(state.log, constants, plants)
      const entries = state.log.map(({ score, units }) => `${units} at ${sign(score)}`)
      return {
        log: entries.join(', ') || '–',
        counted: String(used),
        window: `${sum(state.served)} of ${limit}`,
        ...(life > 0 ? { grants: state.replicas.map(heldBy).join(' · ') } : {}),
        'on its way': wayOf(state),
      }
    },
  }
}

function sign(ticks: number): string {
  return ticks > 0 ? `+${ticks}` : ticks < 0 ? `−${-ticks}` : '0'
}

function heldBy({ grants }: Replica): string {
  return grants.map(({ left, until }) => `${left} for ${until}`).join(', ') || '–'
}

function wayOf({ replicas, messages }: QuotaState): string {
  const takes = replicas.flatMap(({ takes }) => takes.map(({ units }) => (units === 0 ? 'call' : `grant of ${units}`)))
  const back = messages.filter(({ hasRun }) => !hasRun).map(({ units }) => `${units} back`)
  return [...takes, ...back].join(', ') || '–'
}

function stale<T extends Identity>(one: T): T {
  return one.isCurrent ? { ...one, isCurrent: false } : one
}

function sum(numbers: readonly number[]): number {
  let all = 0
  for (const number of numbers) all += number
  return all
}

/** Small numbers, as characters. */
const ZERO = 100

function encodeQuota({ log, phase, clock, served, refundable, replicas, messages }: QuotaState): string {
  let text = String.fromCharCode(ZERO + phase, ZERO + clock, ...served)
  for (const { score, units } of log) text += String.fromCharCode(ZERO + score, ZERO + units)
  text += '|'
  text += sorted(refundable, ({ age, cost, score, isCurrent }) =>
    String.fromCharCode(age, cost, ZERO + score, isCurrent ? 1 : 0),
  )
  text += '|'
  text += sorted(messages, ({ units, score, isCurrent, isAhead, hasRun }) =>
    String.fromCharCode(units, ZERO + score, (isAhead ? 4 : 0) + (isCurrent ? 2 : 0) + (hasRun ? 1 : 0)),
  )
  return text + sorted(replicas, encodeReplica)
}

function encodeReplica({ grants, takes }: Replica): string {
  let text = '/'
  for (const { left, until, score, isCurrent } of grants)
    text += String.fromCharCode(left, until, ZERO + score, isCurrent ? 1 : 0)
  if (takes.length === 0) return text
  return `${text}:${sorted(takes, ({ age, units, score, isCurrent }) => String.fromCharCode(age, units, ZERO + score, isCurrent ? 1 : 0))}`
}

/** In whatever order they come, the same text. */
function sorted<T>(all: readonly T[], textOf: (one: T) => string): string {
  if (all.length === 0) return ''
  if (all.length === 1) return textOf(all[0] as T)
  return all.map(textOf).sort().join('')
}
