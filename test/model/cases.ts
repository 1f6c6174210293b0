/**
 * What is searched. The product of everything has too many states, so each case brings some of it together: within a case,
 * every order of everything that it covers is tried, in histories of any length.
 *
 * Small cases end in seconds and run in `npm test`. Large ones run in `npm run model`.
 */
import { type LoneConstants, type LonePlants, lone } from './lone.js'
import { type OutageConstants, type OutagePlants, outage } from './outage.js'
import { type QuotaConstants, type QuotaPlants, quota } from './quota.js'
import { type Result, search } from './search.js'

export interface Case {
  readonly name: string
  /** What meets in it. */
  readonly covers: string
  /** Undefined where even the smallest has too many states for `npm test`. */
  readonly small: (() => Result) | undefined
  readonly large: () => Result
}

const LOG: QuotaConstants = {
  replicas: 2,
  limit: 3,
  window: 3,
  slice: 2,
  tolerance: 0,
  costs: [1],
  life: 0,
  ahead: [],
  most: 1,
  refunds: 0,
  messages: 0,
  resets: false,
  losses: false,
  deaths: false,
  steps: [],
  jumps: [],
}

const GRANTS: QuotaConstants = { ...LOG, life: 2, ahead: [2], messages: 1 }

const OUTAGE: OutageConstants = {
  replicas: 2,
  limit: 2,
  window: 2,
  dataLoss: false,
  deaths: 0,
  words: 1,
  losses: false,
  most: 2,
}

const LONE: LoneConstants = {
  limit: 5,
  window: 2,
  slice: 1,
  tolerance: 0,
  life: 1,
  share: 2,
  waiting: 1,
  overtaking: undefined,
  again: 3,
}

const OVERTAKING: LoneConstants = { ...LONE, limit: 3, share: 1, overtaking: 2 }

function ofQuota(name: string, covers: string, small: QuotaConstants, large: Partial<QuotaConstants>): Case {
  return { name, covers, small: () => search(quota(small)), large: () => search(quota({ ...small, ...large })) }
}

function ofOutage(name: string, covers: string, small: OutageConstants, large: Partial<OutageConstants>): Case {
  return { name, covers, small: () => search(outage(small)), large: () => search(outage({ ...small, ...large })) }
}

export const CASES: readonly Case[] = [
  ofQuota(
    'slices',
    'checks of several costs that share entries, and answers that are lost',
    { ...LOG, limit: 4, window: 4, costs: [1, 2], losses: true },
    { limit: 6, window: 6, slice: 3, costs: [1, 2, 3] },
  ),
  ofQuota(
    'refunds',
    'slices; refunds that are late, lost or sent twice',
    { ...LOG, losses: true, refunds: 1, messages: 1 },
    { window: 4, refunds: 2, messages: 2 },
  ),
  ofQuota(
    'resets',
    'an entry for each admission; refunds, resets and answers that are lost',
    { ...LOG, slice: 0, limit: 2, losses: true, refunds: 2, messages: 1, resets: true },
    { limit: 3, window: 4 },
  ),
  ofQuota(
    'clock',
    'slices; a clock of the store that goes back, by little and by much',
    { ...LOG, costs: [1, 2], losses: true, steps: [1, 3] },
    { limit: 5, window: 5, slice: 3, steps: [1, 2, 6] },
  ),
  ofQuota(
    'clock and refunds',
    'refunds while the clock goes back',
    { ...LOG, limit: 2, refunds: 1, messages: 1, steps: [1, 3] },
    { limit: 3, losses: true },
  ),
  ofQuota(
    'jumps',
    'a clock of the store that jumps forward: twice the limit at most',
    { ...LOG, losses: true, jumps: [1, 3] },
    { limit: 4, window: 4, jumps: [1, 2, 4] },
  ),
  ofQuota(
    'grants',
    'replicas that take quota ahead beside plain checks: calls late or lost, units given back late or never',
    { ...GRANTS, limit: 3 },
    { replicas: 3, deaths: true, losses: true },
  ),
  ofQuota(
    'two grants',
    'one replica that asks for the next grant while it spends the last one, and dies',
    { ...GRANTS, replicas: 1, limit: 2, window: 2, most: 2, deaths: true },
    { limit: 3, window: 3 },
  ),
  ofQuota(
    'grants and refunds',
    'requests served from grants, and refunded',
    { ...GRANTS, replicas: 1, limit: 2, window: 2, refunds: 1 },
    { replicas: 2 },
  ),
  ofQuota(
    'grants and clock',
    'grants while the clock of the store goes back',
    { ...GRANTS, replicas: 1, limit: 2, window: 2, steps: [1, 4] },
    { replicas: 2, window: 3 },
  ),
  {
    name: 'alone',
    covers: 'a client that is alone: its requests, grants, and units on their way back, on one connection',
    small: () => search(lone(LONE)),
    large: () => search(lone({ ...LONE, waiting: 2 })),
  },
  {
    name: 'overtaking',
    covers: 'a client that is alone: calls that overtake each other, and so do their answers',
    small: () => search(lone(OVERTAKING)),
    large: () => search(lone({ ...OVERTAKING, overtaking: 3 })),
  },
  ofOutage(
    'outage',
    'shares, reports and the roll call; announcements that arrive after the outage in which they were sent; a replica that dies',
    { ...OUTAGE, deaths: 1 },
    { limit: 3, most: 3, words: 2 },
  ),
  ofOutage(
    'data lost',
    'a store that comes back empty',
    { ...OUTAGE, dataLoss: true },
    { limit: 3, most: 3, deaths: 1 },
  ),
  {
    name: 'three replicas',
    covers: 'an outage of three replicas, of which one may die',
    small: undefined,
    large: () => search(outage({ ...OUTAGE, replicas: 3, limit: 1, window: 1, most: 1, deaths: 1 })),
  },
  ofOutage(
    'cut off',
    'calls of single replicas that fail while the store is there: their shares above the limit at most',
    { ...OUTAGE, window: 1, losses: true, most: 3 },
    { window: 2 },
  ),
]

/** A mistake that the search has to find. */
export interface Plant {
  readonly name: string
  readonly mistake: string
  readonly search: () => Result
}

function inQuota(name: string, mistake: string, constants: QuotaConstants, plants: QuotaPlants): Plant {
  return { name, mistake, search: () => search(quota(constants, plants)) }
}

function inOutage(name: string, mistake: string, plants: OutagePlants, constants = OUTAGE): Plant {
  return { name, mistake, search: () => search(outage(constants, plants)) }
}

function inLone(name: string, mistake: string, plants: LonePlants, constants = LONE): Plant {
  return { name, mistake, search: () => search(lone(constants, plants)) }
}

const REFUNDS = { ...LOG, refunds: 1, messages: 1 }

export const PLANTS: readonly Plant[] = [
  inQuota('dated-at-start', 'a grant is dated at its start', GRANTS, { datedAtStart: true }),
  inQuota('back-any-time', 'units are given back after their entry has left the window', GRANTS, { backAnyTime: true }),
  inQuota('time-moves', 'time itself moves to the newest entry', GRANTS, { timeMoves: true }),
  inQuota('answer-after-deadline', 'a grant is spent although its answer came after its end', GRANTS, {
    lateAnswer: true,
  }),
  inQuota('others-units-back', 'what was not used comes off another entry after its own has left the window', GRANTS, {
    aheadAnyTime: true,
  }),
  inQuota('spent-after-back', 'a grant is spent although it was given back', GRANTS, { spentAfterBack: true }),
  inQuota('refund-without-identity', 'a refund takes units, whosever they are', REFUNDS, {
    backAnyTime: true,
    anyGeneration: true,
  }),
  inQuota(
    'refund-of-another-generation',
    'a refund of an admission before a reset takes units from after it',
    { ...REFUNDS, slice: 0, resets: true },
    { anyGeneration: true },
  ),
  inQuota(
    'refund-by-clock',
    'a refund believes a clock that has gone back',
    { ...REFUNDS, steps: [1, 3] },
    { backByClock: true },
  ),
  inQuota('refund-twice', 'a refund that the client sends twice counts twice', REFUNDS, { noMarker: true }),
  inQuota('refund-of-the-newest', 'a refund takes the newest units', REFUNDS, { backNewest: true }),
  inQuota('slice-at-oldest', 'a slice is dated at its oldest time', LOG, { sliceAtOldest: true }),
  inQuota('clock-ignored', 'a clock that has gone back is ignored', { ...LOG, steps: [1, 3] }, { stepIgnored: true }),
  inQuota('both-edges', 'the edge of the window is inclusive at both ends', LOG, { bothEdges: true }),
  inQuota('short-window', 'the window is one tick too short', LOG, { shortWindow: true }),
  inLone('denied-while-units-are-out', 'a replica denies a request while it holds quota of the key', {
    noCallBack: true,
  }),
  inLone('not-asked-again', 'a replica calls its quota back, and denies without asking again', { neverAgain: true }),
  inLone(
    'asked-again-at-once',
    'a request is asked again before the quota that was called back is there',
    { atOnce: true },
    OVERTAKING,
  ),
  inLone(
    'came-back-unseen',
    'a request is denied although quota came back while it was asked',
    { cameBackUnseen: true },
    OVERTAKING,
  ),
  inLone('never-given-back', 'what a grant has not spent stays counted', { neverBack: true }),
  inOutage('share-not-cut', 'each replica gives all that is left', { wholeShare: true }),
  inOutage('share-of-limit', 'each replica gives its share of the limit, whatever was used before', {
    shareOfLimit: true,
  }),
  inOutage('return-without-report', 'a replica returns without writing what it gave', { noReport: true }),
  inOutage('return-without-guard', 'a replica that has written asks the store alone at once', { noGuard: true }),
  inOutage('old-announcement', 'an announcement from before the roll call counts as an answer', { oldWords: true }),
  inOutage('dirty-announcement', 'an announcement counts although its replica has something to write', {
    dirtyWords: true,
  }),
  inOutage(
    'nothing-restored',
    'nobody writes the usage that was lost',
    { noRestore: true },
    { ...OUTAGE, dataLoss: true },
  ),
  inOutage(
    'paid-off-later',
    'what was written is taken off what was admitted since',
    { paidOffLater: true },
    { ...OUTAGE, losses: true, most: 3 },
  ),
]

/** Cases in which a promise does not hold, as the docs say: a history shows each. */
export const EXCEPTIONS: readonly Plant[] = [
  inQuota(
    'two-refunds-and-a-step',
    'the clock goes back between two refunds, by less than is noticed, and nothing is admitted between them',
    { ...REFUNDS, refunds: 2, steps: [1, 3] },
    {},
  ),
  inLone(
    'more-ahead-each-time',
    'where calls overtake each other, more was taken ahead each time that a request was asked again',
    {},
    { ...OVERTAKING, waiting: 2 },
  ),
  inOutage('one-cut-off', 'one replica alone is cut off from the store', {}, { ...OUTAGE, losses: true }),
]
