/**
 * A client that is alone with its key at one replica: it is denied only when its whole quota was used, however grants, units
 * on their way back and checks come between each other.
 *
 * Calls of a replica run, and are answered, in the order in which they were sent, as on one connection, or in any order; each
 * takes as long as it likes. None is lost: what is lost stays counted, as the docs say.
 */
import { append, giveBackAhead, type Log, type LogConstants, moved, usedOf } from './log.js'
import type { Model, Visit } from './search.js'

export interface LoneConstants extends LogConstants {
  readonly life: number
  /** A grant takes 1 in so many of the room that is left. */
  readonly share: number
  /** Requests that wait for an answer at a time. */
  readonly waiting: number
  /** Whether calls overtake each other. Then no other request comes while this many are on their way. */
  readonly overtaking: number | undefined
  /** How often a denied request is asked again, each time after something has come back. */
  readonly again: number
}

export interface LonePlants {
  /** A request is denied although units are out. */
  readonly noCallBack?: boolean
  /** A request is denied although the units that it called back may have made room for it. */
  readonly neverAgain?: boolean
  /** A request is asked again at once, and may overtake the units that it called back. */
  readonly atOnce?: boolean
  /** A request is denied although units came back after its call was sent, which may have run before that. */
  readonly cameBackUnseen?: boolean
  /** What a grant has not spent stays where it is. */
  readonly neverBack?: boolean
}

interface Grant {
  readonly left: number
  /** May be spent while this is above 0. */
  readonly until: number
  readonly score: number
}

interface Call {
  readonly kind: 'check' | 'take' | 'back'
  /** Of a check: whether it waits for the takes and the units on their way back that stand before it. */
  readonly isHeld: boolean
  readonly hasRun: boolean
  /** Of a take: ticks since it was sent, requests that wait for it, and how many of them are in the call. */
  readonly age: number
  readonly riders: number
  readonly waiting: number
  /** Of a take that ran: requests admitted, and units granted ahead. Of a check that ran: 1 if it was admitted. */
  readonly admitted: number
  readonly ahead: number
  /** Of a take that ran, and of units on their way back. */
  readonly score: number
  readonly units: number
  /** Of what was sent: whether units came back since then. */
  readonly mayHaveMissed: boolean
  /** Of a check: how often it was asked before. */
  readonly again: number
  /** Of what was denied: whether the whole quota was used at some moment since then. */
  readonly isFair: boolean
}

const CALL: Call = {
  kind: 'check',
  isHeld: false,
  hasRun: false,
  age: 0,
  riders: 0,
  waiting: 0,
  admitted: 0,
  ahead: 0,
  score: 0,
  units: 0,
  mayHaveMissed: false,
  again: 0,
  isFair: true,
}

export interface LoneState {
  readonly log: Log
  readonly phase: number
  /** Units served, by their age in ticks: as long as they may count. */
  readonly served: readonly number[]
  readonly grants: readonly Grant[]
  /** In the order in which they were sent. Those behind a check that waits were sent after it began to wait. */
  readonly calls: readonly Call[]
  readonly isScarce: boolean
}

const PREFETCH = 'plugin/src/stores/redis/prefetch.ts'
const STORE = 'plugin/src/stores/redis/redis-store.ts'
const CHECK_LUA = 'plugin/src/stores/redis/check.lua'

/** What each step stands for in the program. */
export const LONE_SOURCES: Readonly<Record<string, readonly string[]>> = {
  'tick of one': ['plugin/src/stores/redis/log.lua#begin'],
  'request spends': [`${PREFETCH}#spend`, `${PREFETCH}#check`],
  'request refills': [`${PREFETCH}#refill`],
  'request rides': [`${PREFETCH}#ride`],
  'request takes': [`${PREFETCH}#take`],
  'request asks': [`${STORE}#ask`, 'plugin/src/stores/redis/batcher.ts#add'],
  'request of a group': [`${STORE}#ask`, `${PREFETCH}#sharesLog`],
  'grant ends': [`${PREFETCH}#retire`],
  'check runs': [`${CHECK_LUA}#check`],
  'take runs': [`${CHECK_LUA}#grant`],
  'back runs': ['plugin/src/stores/redis/log.lua#give_back_ahead', 'plugin/src/stores/redis/batcher.ts#sendSome'],
  'check answered': [
    `${STORE}#answer`,
    `${PREFETCH}#callBack`,
    `${STORE}#mayAskAgain`,
    `${STORE}#askAgain`,
    `${PREFETCH}#seen`,
  ],
  'take answered': [`${PREFETCH}#granted`, `${PREFETCH}#answerRest`],
  'back answered': [`${PREFETCH}#retire`, `${PREFETCH}#noteReturn`],
}

export function lone(constants: LoneConstants, plants: LonePlants = {}): Model<LoneState> {
  const { limit, window, slice, life, overtaking } = constants
  /** A unit may count so much longer than it should: until the end of a grant, and of its slice. */
  const longest = window + slice + life

  const isTake = ({ kind }: Call) => kind === 'take'

  function serve(state: LoneState, units: number): LoneState {
    const [newest = 0, ...older] = state.served
    return { ...state, served: [newest + units, ...older] }
  }

  function isUsed(state: LoneState): boolean {
    return sum(state.served) >= limit
  }

  function sent(state: LoneState, ...calls: readonly Partial<Call>[]): LoneState {
    return { ...state, calls: [...state.calls, ...calls.map(call => ({ ...CALL, ...call }))] }
  }

  /** Units that are out come back, whatever asks for them. */
  function retired(state: LoneState, which: (grant: Grant) => boolean): LoneState {
    const out = state.grants.filter(which)
    const back = plants.neverBack ? [] : out.filter(({ left }) => left > 0)
    const kept = state.grants.filter(grant => !which(grant))
    return sent(
      { ...state, grants: kept },
      ...back.map(({ left, score }) => ({ kind: 'back' as const, units: left, score })),
    )
  }

  function asked(state: LoneState, count: number, part: Partial<Call> = {}): LoneState {
    return sent(state, ...Array.from({ length: count }, () => part))
  }

  function requests(given: LoneState, visit: Visit<LoneState>): void {
    const waits = given.calls.reduce((all, { kind, riders }) => all + (kind === 'check' ? 1 : riders), 0)
    if (waits >= constants.waiting || given.calls.length >= (overtaking ?? Number.POSITIVE_INFINITY)) return
    // Another limiter on the same log knows nothing of the grants of this one.
    visit('request of a group', 0, 1, asked(given, 1))
    const state = retired(given, ({ until }) => until === 0)
    const [grant, ...others] = state.grants
    const take = state.calls.find(isTake)
    if (grant !== undefined) {
      const left = grant.left - 1
      const spent = serve({ ...state, grants: left === 0 ? others : [{ ...grant, left }, ...others] }, 1)
      visit('request spends', 0, 1, spent)
      const isAsked = take !== undefined || state.isScarce || others.length > 0
      if (!isAsked) visit('request refills', 0, 1, sent(spent, { kind: 'take' }))
      return
    }
    if (take !== undefined && !state.isScarce) {
      const calls = state.calls.map(call => (call === take ? { ...call, riders: call.riders + 1 } : call))
      visit('request rides', 0, 1, { ...state, calls })
      return
    }
    if (take === undefined && !state.isScarce)
      visit('request takes', 0, 1, sent(state, { kind: 'take', riders: 1, waiting: 1 }))
    visit('request asks', 0, 1, asked(state, 1))
  }

  function runs(state: LoneState, visit: Visit<LoneState>): void {
    for (const [at, call] of state.calls.entries()) {
      if (call.hasRun || call.isHeld) continue
      run(state, at, call, visit)
      if (overtaking === undefined) return
    }
  }

  function run(state: LoneState, at: number, call: Call, visit: Visit<LoneState>): void {
    const having = (next: LoneState, part: Partial<Call>): LoneState => ({
      ...next,
      calls: next.calls.map((one, each) => (each === at ? { ...one, ...part, hasRun: true } : one)),
    })
    const room = limit - usedOf(state.log, constants, {})
    if (call.kind === 'back') {
      const log = giveBackAhead(state.log, call.units, { score: call.score, isCurrent: true }, constants, {})
      visit('back runs', 0, call.units, having({ ...state, log }, {}))
      return
    }
    if (call.kind === 'check') {
      if (room < 1) visit('check runs', 0, 0, having(state, { isFair: isUsed(state) }))
      for (const log of room < 1 ? [] : append(state.log, 1, 0, state.phase, constants, {}))
        visit('check runs', 0, 1, having(serve({ ...state, log }, 1), { admitted: 1 }))
      return
    }
    const admitted = Math.min(call.waiting, room)
    for (let ahead = 0; ahead <= Math.floor((room - admitted) / constants.share); ahead++) {
      if (ahead === 1) continue
      const units = admitted + ahead
      const date = ahead > 0 ? life : 0
      const logs = units === 0 ? [state.log] : append(state.log, units, date, state.phase, constants, {})
      const score = Math.max(date, state.log.at(-1)?.score ?? date)
      for (const log of logs) {
        const next = serve({ ...state, log }, admitted)
        visit('take runs', 0, units, having(next, { admitted, ahead, score, isFair: isUsed(next) }))
      }
    }
  }

  function answers(state: LoneState, visit: Visit<LoneState>): void {
    for (const call of state.calls) {
      if (call.hasRun) answer(state, call, visit)
      if (overtaking === undefined && !call.isHeld) return
    }
  }

  /** What was waited for has come: the check is sent. */
  function released(calls: readonly Call[]): readonly Call[] {
    const isOut = (call: Call) => call.kind !== 'check'
    const isReleased = (call: Call, at: number) => call.isHeld && !calls.slice(0, at).some(isOut)
    if (!calls.some(isReleased)) return calls
    const sent = calls.filter(isReleased).map(call => ({ ...call, isHeld: false }))
    return [...calls.filter((call, at) => !isReleased(call, at)), ...sent]
  }

  function missing(call: Call): Call {
    return call.kind === 'back' || call.isHeld || plants.cameBackUnseen ? call : { ...call, mayHaveMissed: true }
  }

  function answer(state: LoneState, call: Call, visit: Visit<LoneState>): void {
    const rest = { ...state, calls: released(state.calls.filter(one => one !== call)) }
    if (call.kind === 'back') visit('back answered', 0, call.units, { ...rest, calls: rest.calls.map(missing) })
    else if (call.kind === 'take') visit('take answered', 0, call.ahead, ...granted(rest, call))
    else if (call.admitted > 0) {
      const hasRoom = limit - usedOf(state.log, constants, {}) >= 2
      visit('check answered', 0, 1, { ...rest, isScarce: rest.isScarce && !hasRoom })
    } else visit('check answered', 0, 0, ...denied(rest, 1, call))
  }

  /** The answer to a call for a grant, and to those that wait for it. */
  function granted(state: LoneState, call: Call): [LoneState, string?] {
    const { admitted, ahead, riders, waiting, score, age } = call
    const until = Math.max(0, life - age)
    const others = riders - Math.min(admitted, riders)
    const atOnce = until > 0 ? Math.min(others, ahead) : 0
    const left = ahead - atOnce
    const held = left > 0 ? [...state.grants, { left, until, score }] : state.grants
    const next = serve({ ...state, grants: held, isScarce: ahead === 0 }, atOnce)
    const kept = retired(next, grant => grant.until === 0)
    const unserved = others - atOnce
    if (unserved === 0) return [kept]
    return admitted < waiting ? denied(kept, unserved, call) : [asked(kept, unserved)]
  }

  /** Denied, once nothing is out any more that this replica could have asked back. */
  function denied(given: LoneState, count: number, { again, isFair, mayHaveMissed }: Call): [LoneState, string?] {
    const state = plants.noCallBack ? given : retired(given, () => true)
    const isOut = !plants.noCallBack && state.calls.some(({ kind }) => kind !== 'check')
    if ((isOut || mayHaveMissed) && again < constants.again && !plants.neverAgain)
      return [asked(state, count, { again: again + 1, isHeld: isOut && !plants.atOnce })]
    const problem = `denied, and ${sum(state.served)} of ${limit} were served in the last ${longest} ticks`
    return isFair || isUsed(given) ? [state] : [state, problem]
  }

  function tick(state: LoneState): LoneState {
    const log = moved(state.log, -1)
    const isOver = (log.at(-1)?.score ?? 0) < -window
    return {
      ...state,
      log: isOver ? [] : log,
      phase: slice === 0 ? 0 : (state.phase + 1) % slice,
      served: [0, ...state.served.slice(0, -1)],
      grants: state.grants.map(({ left, until, score }) => ({
        left,
        until: Math.max(0, until - 1),
        score: older(score),
      })),
      calls: state.calls.map(call => ({
        ...call,
        isFair: call.isFair || isUsed(state),
        age: call.kind === 'take' ? Math.min(call.age + 1, life) : 0,
        score: call.units > 0 || call.ahead > 0 ? older(call.score) : 0,
      })),
    }
  }

  /** What is older counts as little. */
  function older(score: number): number {
    return Math.max(score - 1, -window - 1)
  }

  return {
    start: {
      log: [],
      phase: 0,
      served: Array.from({ length: longest }, () => 0),
      grants: [],
      calls: [],
      isScarce: false,
    },
    encode: state => encodeLone(state, overtaking !== undefined),
    next(state, visit) {
      visit('tick of one', 0, 0, tick(state))
      requests(state, visit)
      runs(state, visit)
      answers(state, visit)
      if (state.grants.some(({ until }) => until === 0))
        visit(
          'grant ends',
          0,
          0,
          retired(state, ({ until }) => until === 0),
        )
    },
    problem() {
      return undefined
    },
    say(action, _who, units) {
      const many = `${units} unit${units === 1 ? '' : 's'}`
      switch (action) {
        case 'tick of one':
          return 'a tick passes'
        case 'request spends':
          return 'a request is served from a grant'
        case 'request refills':
          return 'a request is served from a grant, and the next grant is asked for'
        case 'request rides':
          return 'a request waits for the grant that was asked for'
        case 'request takes':
          return 'a request asks for a grant'
        case 'request asks':
          return 'a request asks for itself'
        case 'request of a group':
          return 'a request of another limiter on this log asks'
        case 'grant ends':
          return 'a grant ends'
        case 'check runs':
          return units > 0 ? 'the store admits the request' : 'the store has no room for the request'
        case 'take runs':
          return `the store grants ${many}`
        case 'back runs':
          return `${many} arrive back in the store`
        case 'check answered':
          return units > 0 ? 'the request is served' : 'the denial arrives'
        case 'take answered':
          return `the answer arrives: ${many} ahead`
        default:
          return 'the answer arrives: units are back'
      }
    },
    show({ log, served, grants, calls }) {
      return {
        log: log.map(({ score, units }) => `${units} at ${score}`).join(', ') || '–',
        served: `${sum(served)} of ${limit}`,
        grants: grants.map(({ left, until }) => `${left} for ${until}`).join(', ') || '–',
        'on their way':
          calls
            .map(({ kind, hasRun, isHeld }) => `${kind}${hasRun ? ' (ran)' : isHeld ? ' (waits)' : ''}`)
            .join(', ') || '–',
      }
    },
  }
}

function sum(numbers: readonly number[]): number {
  let all = 0
  for (const number of numbers) all += number
  return all
}

const KINDS: Readonly<Record<Call['kind'], number>> = { check: 0, take: 1, back: 2 }
const ZERO = 100

function encodeLone({ log, phase, served, grants, calls, isScarce }: LoneState, overtake: boolean): string {
  const all = [phase, isScarce ? 1 : 0, ...served, log.length, grants.length]
  for (const { score, units } of log) all.push(ZERO + score, units)
  for (const { left, until, score } of grants) all.push(left, until, ZERO + score)
  return `${String.fromCharCode(...all)}${encodeCalls(calls, overtake)}`
}

function encodeCalls(calls: readonly Call[], overtake: boolean): string {
  let text = ''
  let some: string[] = []
  for (const call of calls) {
    const { kind, isHeld, hasRun, age, riders, waiting, admitted, ahead, score, units, again } = call
    const flags = (call.mayHaveMissed ? 8 : 0) + (isHeld ? 4 : 0) + (hasRun ? 2 : 0) + (call.isFair ? 1 : 0)
    const all = [KINDS[kind] * 16 + flags]
    if (kind === 'take') all.push(age, riders, waiting, admitted, ahead, ZERO + score)
    else all.push(units, ZERO + score, again, admitted)
    const one = String.fromCharCode(...all)
    // Where calls overtake each other, only which ones a check waits for is of matter.
    if (isHeld || !overtake) {
      text += `${some.sort().join('')}${one}`
      some = []
    } else some.push(one)
  }
  return `${text}${some.sort().join('')}`
}
