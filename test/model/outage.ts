/**
 * One key, replicas with `onStoreError: 'local'`, and a store that goes away and comes back, with its data or empty: the
 * shares that replicas give by themselves, what they write when the store is back, and the roll call that ends their guard.
 *
 * When the store goes away, every replica knows the usage of the key. So what a replica does not know at the beginning of
 * an outage, whose bound is documented and measured, is not in question here: what is left is the end.
 *
 * Announcements and charges may be delayed for as long as it likes, also beyond the end of the outage in which they were
 * sent; charges may be lost before or after they ran.
 */
import type { Model, Visit } from './search.js'

export interface OutageConstants {
  readonly replicas: number
  readonly limit: number
  /** Ticks. */
  readonly window: number
  /** Whether the store may come back empty. */
  readonly dataLoss: boolean
  /** Replicas that may die at most. */
  readonly deaths: number
  /** Announcements of a replica that may be on their way at a time. */
  readonly words: number
  /** Whether answers are lost, and calls fail, while the store is there. Then what a window may hold is `most`. */
  readonly losses: boolean
  /** Units that a window may hold. */
  readonly most: number
}

export interface OutagePlants {
  /** Each replica gives all that is left. */
  readonly wholeShare?: boolean
  /** Each replica gives its share of the limit, whatever was used before. */
  readonly shareOfLimit?: boolean
  /** A replica returns without writing what it gave. */
  readonly noReport?: boolean
  /** A replica that has written asks the store alone at once. */
  readonly noGuard?: boolean
  /** An announcement counts however old it is. */
  readonly oldWords?: boolean
  /** An announcement counts although its replica has something to write. */
  readonly dirtyWords?: boolean
  /** What was written is taken off what is owed, also where that was admitted since. */
  readonly paidOffLater?: boolean
  /** Nobody writes the usage that was lost. */
  readonly noRestore?: boolean
}

type Phase = 'calm' | 'away' | 'writing' | 'waiting'

/** What a replica announces: whether it has something to write, and of which roll calls it had heard (a bit for each replica). */
interface Word {
  readonly isDirty: boolean
  readonly heard: number
}

/** Units by their age in ticks. */
type Units = readonly number[]

interface Replica {
  readonly isDead: boolean
  readonly phase: Phase
  /** Usage that it knew when the store went away. */
  readonly known: Units
  /** What it has admitted within its share. */
  readonly own: Units
  /** What it has admitted by itself, and not written. */
  readonly owed: Units
  /** Units of a charge on its way; 0 for none. */
  readonly paying: number
  readonly hasPaid: boolean
  /** Units that it has admitted by itself since that charge was made. */
  readonly sincePaying: number
  /** Whether it has to write the usage that was lost. */
  readonly isEmpty: boolean
  /** Whether its roll call has reached the store. */
  readonly isCalling: boolean
  /** Roll calls that it has heard of. */
  readonly heard: number
  /** Announcements on their way, and the last one that arrived. */
  readonly words: readonly Word[]
  readonly said: Word
}

export interface OutageState {
  readonly isUp: boolean
  readonly log: Units
  /** Units that were served. */
  readonly served: Units
  /** The largest usage that was written after a loss, and its age. */
  readonly baseline: number
  readonly baselineAge: number
  readonly replicas: readonly Replica[]
}

const OUTAGE = 'plugin/src/stores/redis/outage.ts'
const PRESENCE = 'plugin/src/stores/redis/presence.ts'
const OWED = 'plugin/src/stores/redis/owed.ts'
const LIMITER = 'plugin/src/limiter.ts'

/** What each step stands for in the program. */
export const OUTAGE_SOURCES: Readonly<Record<string, readonly string[]>> = {
  tick: ['plugin/src/window.ts#read', 'plugin/src/stores/redis/log.lua#begin'],
  'store check': [`${LIMITER}#ask`, 'plugin/src/stores/redis/check.lua#check'],
  'own check': [`${LIMITER}#withoutStore`, `${OUTAGE}#gave`, `${OUTAGE}#share`, `${PRESENCE}#shareOfCheck`],
  'both checks': [`${LIMITER}#askBoth`, `${OUTAGE}#isGuarded`],
  'check fails': [`${LIMITER}#askBoth`, `${LIMITER}#withoutStore`],
  'check ran, answer lost': [`${LIMITER}#askBoth`, `${LIMITER}#withoutStore`],
  'store away': [`${OUTAGE}#circuit`, `${OUTAGE}#learn`],
  'store back': [`${OUTAGE}#heard`],
  'store back empty': [`${OUTAGE}#markerOf`, 'plugin/src/stores/redis/marker.lua#marker'],
  notice: [`${OUTAGE}#missed`, `${OUTAGE}#leave`, `${PRESENCE}#missed`],
  return: [`${OUTAGE}#return`, `${OUTAGE}#catchUp`, `${OUTAGE}#write`, `${OWED}#pay`],
  'usage restored': [
    `${OUTAGE}#restore`,
    'plugin/src/stores/redis/restore.lua:baseline',
    'plugin/src/stores/redis/restore.ts#restore',
  ],
  'charge runs': ['plugin/src/stores/redis/check.lua#check', `${OWED}#charge`],
  'charge answered': [`${OWED}#pay`],
  'charge lost': [`${OUTAGE}#return`],
  'roll call': [`${PRESENCE}#allClean`, `${PRESENCE}#answer`, 'plugin/src/stores/redis/announce.lua:called'],
  announce: [`${PRESENCE}#run`, `${OUTAGE}#dirty`],
  'announcement arrives': ['plugin/src/stores/redis/announce.lua:said', `${PRESENCE}#observe`],
  'all are clean': [`${PRESENCE}#answer`, `${PRESENCE}#isCleanSince`, `${OUTAGE}#takeOver`],
  die: [`${PRESENCE}#list`],
}

export function outage(constants: OutageConstants, plants: OutagePlants = {}): Model<OutageState> {
  const { replicas: count, limit, window, most } = constants
  const none: Units = Array.from({ length: window }, () => 0)
  const notPaying = { paying: 0, hasPaid: false, sincePaying: 0 }
  const nothing: Word = { isDirty: false, heard: 0 }

  const older = ([...units]: Units): Units => [0, ...units.slice(0, -1)]
  const plus = ([newest = 0, ...rest]: Units, more: number): Units => [newest + more, ...rest]

  /** In the log. More than the limit is as much as the limit: the newest units are those that count longest. */
  function logged(state: OutageState, more: number): Units {
    let room = limit
    return plus(state.log, more).map(units => {
      const some = Math.min(units, room)
      room -= some
      return some
    })
  }

  function sum(units: Units): number {
    let all = 0
    for (const some of units) all += some
    return all
  }

  /** Without so many units, the oldest first. */
  function minus(units: Units, less: number): Units {
    const left = [...units]
    for (let age = window - 1; age >= 0 && less > 0; age--) {
      const off = Math.min(left[age] as number, less)
      left[age] = (left[age] as number) - off
      less -= off
    }
    return left
  }

  /** The part of what is left that a replica may give by itself. */
  function shareOf({ isUp, log }: OutageState, replica: Replica, index: number): number {
    const known = replica.phase === 'calm' && isUp ? log : replica.known
    const left = plants.shareOfLimit ? limit : Math.max(0, limit - sum(known))
    if (plants.wholeShare) return left
    return Math.floor(left / count) + (index < left % count ? 1 : 0)
  }

  function having(state: OutageState, index: number, part: Partial<Replica>): OutageState {
    const replicas = state.replicas.map((one, at) => (at === index ? { ...one, ...part } : one))
    return { ...state, replicas }
  }

  /** Whoever leaves takes its roll call back: the next one is a new one, of which nobody has heard. */
  function leaving(state: OutageState, index: number, part: Partial<Replica>): OutageState {
    return withoutCall(having(state, index, { ...part, phase: 'away', isCalling: false }), index)
  }

  function withoutCall(state: OutageState, index: number): OutageState {
    const others = ~(1 << index)
    const forget = ({ isDirty, heard }: Word): Word => wordOf(isDirty, heard & others)
    const replicas = state.replicas.map(one => ({
      ...one,
      heard: one.heard & others,
      words: one.words.map(forget),
      said: forget(one.said),
    }))
    return { ...state, replicas }
  }

  /** Without having heard of a roll call, it says nothing. */
  function wordOf(isDirty: boolean, heard: number): Word {
    return heard === 0 && !plants.oldWords ? nothing : { isDirty, heard }
  }

  function tick(state: OutageState): OutageState {
    const age = state.baseline === 0 ? 0 : state.baselineAge + 1
    return {
      ...state,
      log: older(state.log),
      served: older(state.served),
      baseline: age >= window ? 0 : state.baseline,
      baselineAge: age >= window ? 0 : age,
      replicas: state.replicas.map(one => ({
        ...one,
        known: older(one.known),
        own: older(one.own),
        owed: older(one.owed),
      })),
    }
  }

  function checks(state: OutageState, index: number, visit: Visit<OutageState>): void {
    const { isUp, log, served } = state
    const replica = state.replicas[index] as Replica
    const { phase, own, owed } = replica
    const hasRoom = sum(log) < limit
    const hasShare = sum(own) < shareOf(state, replica, index)
    const inStore = { ...state, log: logged(state, 1), served: plus(served, 1) }
    const sincePaying = replica.paying > 0 ? Math.min(replica.sincePaying + 1, limit) : 0
    const byItself = { own: plus(own, 1), owed: plus(owed, 1), sincePaying }
    if (isUp && phase === 'calm' && hasRoom) visit('store check', index, 1, inStore)
    if (isUp && phase !== 'calm' && hasShare && hasRoom)
      visit('both checks', index, 1, having(inStore, index, { own: plus(own, 1) }))
    if (!hasShare) return
    const given = { ...state, served: plus(served, 1) }
    if (!isUp) visit('own check', index, 1, leaving(given, index, byItself))
    else if (constants.losses) {
      const known = phase === 'calm' ? log : replica.known
      visit('check fails', index, 1, leaving(given, index, { ...byItself, known }))
      if (hasRoom) visit('check ran, answer lost', index, 1, leaving(inStore, index, { ...byItself, known }))
    }
  }

  /** The way back of one replica: writes what is missing, and calls the roll. */
  function returns(state: OutageState, index: number, visit: Visit<OutageState>): void {
    const replica = state.replicas[index] as Replica
    const { phase, owed, paying, hasPaid, isEmpty } = replica
    if (phase === 'calm' && !state.isUp) visit('notice', index, 0, leaving(state, index, {}))
    if (!state.isUp) {
      if (paying > 0) visit('charge lost', index, paying, leaving(state, index, notPaying))
      return
    }
    if (phase === 'away' && paying === 0) {
      if (isEmpty) {
        const usage = sum(replica.known)
        const more = plants.noRestore ? 0 : Math.max(0, usage - state.baseline)
        const isMore = more > 0
        const written = { ...state, log: logged(state, more), baseline: isMore ? usage : state.baseline }
        const dated = isMore ? { ...written, baselineAge: 0 } : written
        visit('usage restored', index, more, having(dated, index, { isEmpty: false }))
      } else if (plants.noReport || sum(owed) === 0) {
        visit('return', index, 0, written(having(state, index, { owed: none }), index))
      } else visit('return', index, sum(owed), having(state, index, { phase: 'writing', paying: sum(owed) }))
    }
    if (paying > 0) {
      if (!hasPaid)
        visit('charge runs', index, paying, having({ ...state, log: logged(state, paying) }, index, { hasPaid: true }))
      else {
        // Of what was written, what has not left the window meanwhile.
        const units = plants.paidOffLater ? paying : Math.max(0, sum(owed) - replica.sincePaying)
        const paid = having(state, index, { ...notPaying, owed: minus(owed, Math.min(units, paying)) })
        // More was admitted meanwhile: it is away, and begins again.
        visit('charge answered', index, paying, phase === 'writing' ? written(paid, index) : paid)
      }
      visit('charge lost', index, paying, leaving(state, index, notPaying))
    }
    if (phase === 'waiting' && !replica.isCalling)
      visit('roll call', index, 0, having(state, index, { isCalling: true }))
    if (phase === 'waiting' && replica.isCalling && isAllClean(state, index))
      visit(
        'all are clean',
        index,
        0,
        withoutCall(having(state, index, { phase: 'calm', isCalling: false, known: none }), index),
      )
  }

  function written(state: OutageState, index: number): OutageState {
    return having(state, index, plants.noGuard ? { phase: 'calm', known: none } : { phase: 'waiting' })
  }

  /** Whether every other replica has said, in an announcement made after it heard of the call, that it owes nothing. */
  function isAllClean(state: OutageState, index: number): boolean {
    return state.replicas.every(({ isDead, said }, other) => {
      if (isDead || other === index) return true
      const isNew = plants.oldWords || (said.heard & (1 << index)) !== 0
      return isNew && (plants.dirtyWords || !said.isDirty)
    })
  }

  function words(state: OutageState, index: number, visit: Visit<OutageState>): void {
    const replica = state.replicas[index] as Replica
    if (replica.words.length < constants.words && isNews(state, replica)) {
      const isDirty = replica.phase === 'away' || replica.phase === 'writing'
      const word = wordOf(isDirty, replica.heard)
      visit('announce', index, 0, having(state, index, { words: [...replica.words, word] }))
    }
    const [said, ...rest] = replica.words
    if (!state.isUp || said === undefined) return
    let heard = replica.heard
    for (const [caller, { isCalling }] of state.replicas.entries())
      if (isCalling && caller !== index) heard |= 1 << caller
    visit('announcement arrives', index, 0, having(state, index, { words: rest, said, heard }))
  }

  /** Announcements that nobody waits for change nothing: an outage must be over, or begin. */
  function isNews(state: OutageState, replica: Replica): boolean {
    return state.replicas.some(other => other !== replica && !other.isDead && other.phase !== 'calm')
  }

  function store(state: OutageState, visit: Visit<OutageState>): void {
    const alive = state.replicas.filter(({ isDead }) => !isDead)
    if (state.isUp) {
      if (alive.some(({ phase }) => phase !== 'calm')) return
      const replicas = state.replicas.map(one => ({ ...one, known: state.log }))
      visit('store away', 0, 0, { ...state, isUp: false, replicas })
      return
    }
    // Whoever has not noticed it within a second and a half is in the table of the docs.
    if (alive.some(({ phase }) => phase === 'calm')) return
    visit('store back', 0, 0, { ...state, isUp: true })
    if (!constants.dataLoss) return
    const replicas = state.replicas.map(one => (one.isDead ? one : { ...one, isEmpty: true, said: nothing }))
    visit('store back empty', 0, 0, { ...state, isUp: true, log: none, baseline: 0, baselineAge: 0, replicas })
  }

  /** What it gave and has not written is the exception that is documented: it is no part of the window any more. */
  function death(state: OutageState, index: number): OutageState {
    const { owed } = state.replicas[index] as Replica
    const served = state.served.map((units, age) => units - (owed[age] as number))
    return withoutCall({ ...having(state, index, { ...fresh, isDead: true }), served }, index)
  }

  const fresh: Replica = {
    isDead: false,
    phase: 'calm',
    known: none,
    own: none,
    owed: none,
    paying: 0,
    hasPaid: false,
    sincePaying: 0,
    isEmpty: false,
    isCalling: false,
    heard: 0,
    words: [],
    said: nothing,
  }

  return {
    start: {
      isUp: true,
      log: none,
      served: none,
      baseline: 0,
      baselineAge: 0,
      replicas: Array.from({ length: count }, () => fresh),
    },
    encode: encodeOutage,
    next(state, visit) {
      visit('tick', 0, 0, tick(state))
      let dead = 0
      for (const { isDead } of state.replicas) if (isDead) dead++
      for (const [index, { isDead }] of state.replicas.entries()) {
        if (isDead) continue
        checks(state, index, visit)
        returns(state, index, visit)
        words(state, index, visit)
        if (dead < constants.deaths && count - dead > 1) visit('die', index, 0, death(state, index))
      }
      store(state, visit)
    },
    problem(state) {
      const units = sum(state.served)
      return units > most ? `a window holds ${units} of ${limit}` : undefined
    },
    say(action, who, units) {
      const many = `${units} unit${units === 1 ? '' : 's'}`
      const one = `replica ${who + 1}`
      switch (action) {
        case 'tick':
          return 'a tick passes'
        case 'store check':
          return `${one} serves a request that the store admits`
        case 'both checks':
          return `${one} serves a request that its share and the store admit`
        case 'own check':
          return `${one} serves a request by itself`
        case 'check fails':
          return `a check of ${one} is lost, and it serves the request by itself`
        case 'check ran, answer lost':
          return `the answer to ${one} is lost, and it serves the request by itself`
        case 'store away':
          return 'the store goes away'
        case 'store back':
          return 'the store is back'
        case 'store back empty':
          return 'the store is back, empty'
        case 'notice':
          return `${one} notices that the store is away`
        case 'return':
          return units > 0
            ? `${one} sends a charge for the ${many} that it gave`
            : `${one} returns with nothing to write`
        case 'usage restored':
          return `${one} writes the usage that was lost: ${many} more`
        case 'charge runs':
          return `the charge of ${one} runs`
        case 'charge answered':
          return `the charge of ${one} is answered`
        case 'charge lost':
          return `the charge of ${one} is lost`
        case 'roll call':
          return `${one} calls the roll`
        case 'announce':
          return `${one} sends an announcement`
        case 'announcement arrives':
          return `an announcement of ${one} arrives`
        case 'all are clean':
          return `${one} sees that all others are clean, and asks the store alone`
        default:
          return `${one} dies`
      }
    },
    show(state) {
      const shown: Record<string, string> = {
        store: state.isUp ? String(sum(state.log)) : 'away',
        window: `${sum(state.served)} of ${limit}`,
      }
      for (const [index, one] of state.replicas.entries()) {
        const share = `share ${sum(one.own)} of ${shareOf(state, one, index)}, owes ${sum(one.owed)}`
        shown[`replica ${index + 1}`] = one.isDead ? 'dead' : one.phase === 'calm' ? 'calm' : `${one.phase}: ${share}`
      }
      return shown
    },
  }
}

const PHASES: Readonly<Record<Phase, number>> = { calm: 0, away: 1, writing: 2, waiting: 3 }

/** Small numbers, as characters. Replicas have their places, so none stands for another. */
function encodeOutage({ isUp, log, served, baseline, baselineAge, replicas }: OutageState): string {
  const all: number[] = [isUp ? 1 : 0, baseline, baselineAge, ...log, ...served]
  for (const one of replicas) {
    const { words, said, known, own, owed } = one
    const flags = (one.isDead ? 1 : 0) + (one.hasPaid ? 2 : 0) + (one.isEmpty ? 4 : 0) + (one.isCalling ? 8 : 0)
    all.push(PHASES[one.phase], flags, one.paying, one.sincePaying, one.heard, codeOf(said), words.length)
    for (const word of words) all.push(codeOf(word))
    for (const units of known) all.push(units)
    for (const units of own) all.push(units)
    for (const units of owed) all.push(units)
  }
  return String.fromCharCode.apply(undefined, all)
}

function codeOf({ isDirty, heard }: Word): number {
  return heard * 2 + (isDirty ? 1 : 0)
}
