/**
 * The log of one key, as `log.lua` keeps it, in ticks. Times count from the present time of the log: 0 is now, −1 the tick
 * before. A tick is many microseconds, so several entries may have one time.
 */

export interface Entry {
  readonly score: number
  readonly units: number
}

/** Oldest first. Entries that have left the window stay until something is written, as in Redis. */
export type Log = readonly Entry[]

export interface LogConstants {
  readonly limit: number
  readonly window: number
  /** Ticks of a slice; 0 where each admission has an entry. */
  readonly slice: number
  /** Ticks by which the newest entry may be ahead of the clock in addition to `aheadOf`. */
  readonly tolerance: number
}

/** Ways to get it wrong. */
export interface LogPlants {
  /** A slice is dated at its oldest time. */
  readonly sliceAtOldest?: boolean
  /** Time itself moves to the newest entry. */
  readonly timeMoves?: boolean
  /** What happened exactly one window ago still counts. */
  readonly bothEdges?: boolean
  /** The window is one tick too short. */
  readonly shortWindow?: boolean
  /** The clock goes back, and nobody cares. */
  readonly stepIgnored?: boolean
  /** A refund takes units whose admission has left the window. */
  readonly backAnyTime?: boolean
  /** A refund looks at the clock alone, also where the newest entry shows that it has gone back. */
  readonly backByClock?: boolean
  /** A refund does not look at the generation. */
  readonly anyGeneration?: boolean
  /** A refund takes the newest units. */
  readonly backNewest?: boolean
  /** What was not used comes off the next entry after its own has left the window. */
  readonly aheadAnyTime?: boolean
}

/** How far the newest entry may be ahead of the clock (`ahead_of`). */
export function aheadOf({ slice }: LogConstants): number {
  return slice
}

/** Whether an entry counts at `now`. */
function counts(score: number, now: number, { window }: LogConstants, plants: LogPlants): boolean {
  if (plants.bothEdges) return score >= now - window
  if (plants.shortWindow) return score > now - window + 1
  return score > now - window
}

/** Units in the window at `now` ticks from the present. */
export function usedOf(log: Log, constants: LogConstants, plants: LogPlants, now = 0): number {
  const last = log.at(-1)?.score ?? 0
  const time = plants.timeMoves ? Math.max(now, last) : now
  let used = 0
  for (const { score, units } of log) if (counts(score, time, constants, plants)) used += units
  return used
}

/** How far the time of the log has to be moved, because the clock has gone back (`look`); 0 where it has not. */
export function setBackOf(log: Log, constants: LogConstants, plants: LogPlants): number {
  const last = log.at(-1)?.score
  const ahead = aheadOf(constants)
  if (last === undefined || plants.stepIgnored || last <= ahead + constants.tolerance) return 0
  return last - ahead
}

export function moved(log: Log, ticks: number): Log {
  return ticks === 0 ? log : log.map(({ score, units }) => ({ score: score + ticks, units }))
}

/**
 * The log with `units` more, dated `life` ticks ahead: one log, or two where it is left open whether the present slice is
 * merged (`append`). `phase`: ticks since the slice of the present began.
 */
export function append(
  log: Log,
  units: number,
  life: number,
  phase: number,
  constants: LogConstants,
  plants: LogPlants,
): Log[] {
  const { slice } = constants
  const kept = log.filter(({ score }) => counts(score, 0, constants, plants))
  const last = kept.at(-1)?.score
  const score = Math.max(life, last ?? life)
  const entry = { score, units }
  if (slice === 0 || last === undefined) return [joined(kept, entry)]
  const start = last - modulo(last + phase, slice)
  const isOver = score >= start + slice
  const before = kept.filter(each => each.score < start)
  const inSlice = kept.filter(each => each.score >= start)
  const merged = merge(isOver ? inSlice : [...inSlice, entry], plants)
  if (isOver) return [joined([...before, merged], entry)]
  const apart = joined(kept, entry)
  return inSlice.at(-1)?.score === score && inSlice.length === 1 ? [apart] : [apart, [...before, merged]]
}

function merge(entries: Log, { sliceAtOldest }: LogPlants): Entry {
  const { score } = entries.at(sliceAtOldest ? 0 : -1) as Entry
  return { score, units: entries.reduce((sum, { units }) => sum + units, 0) }
}

/** Entries of one tick are one. */
function joined(log: Log, entry: Entry): Log {
  const last = log.at(-1)
  if (last?.score !== entry.score) return [...log, entry]
  return [...log.slice(0, -1), { score: entry.score, units: last.units + entry.units }]
}

/** Who was charged: the time of an admission, and whether the log is still of its generation. */
export interface Identity {
  readonly score: number
  readonly isCurrent: boolean
}

/** The log without `units` of an admission, off the oldest (`give_back`); the same log where nothing is given back. */
export function giveBack(
  log: Log,
  units: number,
  { score, isCurrent }: Identity,
  constants: LogConstants,
  plants: LogPlants,
): Log {
  if (!isCurrent && !plants.anyGeneration) return log
  const newest = plants.backByClock ? 0 : Math.max(0, log.at(-1)?.score ?? 0)
  if (score <= newest - constants.window && !plants.backAnyTime) return log
  let left = units
  const kept: Entry[] = []
  const inWindow = log.filter(({ score }) => counts(score, 0, constants, plants))
  for (const entry of plants.backNewest ? [...inWindow].reverse() : inWindow) {
    const off = Math.min(left, entry.units)
    left -= off
    if (entry.units > off) kept.push({ score: entry.score, units: entry.units - off })
  }
  return plants.backNewest ? kept.reverse() : kept
}

/**
 * The log without `units` that were taken ahead and not used, off the entry that holds them (`give_back_ahead`): the first
 * that is dated as they are, or later. What that does not hold any more, and all of the log, goes off the oldest.
 */
export function giveBackAhead(
  log: Log,
  units: number,
  identity: Identity,
  constants: LogConstants,
  plants: LogPlants,
): Log {
  const index = log.findIndex(({ score }) => score >= identity.score)
  const own = log[index]
  const isOld = !plants.aheadAnyTime && identity.score <= Math.max(0, log.at(-1)?.score ?? 0) - constants.window
  if (own === undefined || !identity.isCurrent || isOld || usedOf(log, constants, plants) <= units) {
    return giveBack(log, units, identity, constants, plants)
  }
  const off = Math.min(units, own.units)
  const without = log.map((entry, at) => (at === index ? { ...entry, units: entry.units - off } : entry))
  const kept = without.filter(entry => entry.units > 0)
  return units === off ? kept : giveBack(kept, units - off, identity, constants, plants)
}

/** Ticks until `units` fit (`wait`). */
export function waitOf(log: Log, units: number, constants: LogConstants, plants: LogPlants): number {
  const { limit, window } = constants
  let mustLeave = usedOf(log, constants, plants) + units - limit
  for (const entry of log) {
    if (!counts(entry.score, 0, constants, plants)) continue
    mustLeave -= entry.units
    if (mustLeave <= 0) return entry.score + window
  }
  return window
}

export function modulo(number: number, by: number): number {
  return ((number % by) + by) % by
}
