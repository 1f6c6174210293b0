/** What was used, by hour, key and model. Pure. */

/** Milliseconds of an hour, by whose number since 1970 (UTC) use is kept. */
export const HOUR_MS = 3_600_000
const HOURS_OF_DAY = 24

/** Who used something: an API key, or one of the two below. */
export interface UsageHolder {
  readonly key: string
  readonly owner: string | null
}

/** Callers without a key, all together. */
export const ANONYMOUS: UsageHolder = { key: 'anonymous', owner: null }
/** Requests that were refused before anybody knew who asks, for a wrong key above all. */
export const UNKNOWN: UsageHolder = { key: 'unknown', owner: null }

export interface UsageCounts {
  /** Requests that were answered as they asked. */
  requests: number
  /** Rows of these, and rows that streams had answered before they were refused. */
  rows: number
  /** Microseconds that models ran, also for requests that then failed. */
  computeUs: number
  /** Requests that were refused, by the code of the refusal. */
  refused: Record<string, number>
}

export interface UsageEntry extends UsageCounts, UsageHolder {
  readonly hour: number
  /** Null where it was not known yet. */
  readonly model: string | null
}

/** Entries that are sent to the store once, under a number that the replica gives to no others. */
export interface UsageBatch {
  readonly replica: string
  readonly sequence: number
  readonly entries: readonly UsageEntry[]
}

export const noCounts = (): UsageCounts => ({ requests: 0, rows: 0, computeUs: 0, refused: {} })

/** Adds `more` to `sum`. */
export function addCounts(sum: UsageCounts, more: UsageCounts): void {
  sum.requests += more.requests
  sum.rows += more.rows
  sum.computeUs += more.computeUs
  for (const [code, count] of Object.entries(more.refused)) sum.refused[code] = (sum.refused[code] ?? 0) + count
}

export const hourOf = (ms: number): number => Math.floor(ms / HOUR_MS)

/** The day of an hour, as in 2026-01-31. */
export const dayOf = (hour: number): string => new Date(hour * HOUR_MS).toISOString().slice(0, 10)

/** The days that hold the hours from `from` to before `to`. */
export function daysBetween(from: number, to: number): string[] {
  const days: string[] = []
  for (let hour = from - (from % HOURS_OF_DAY); hour < to; hour += HOURS_OF_DAY) days.push(dayOf(hour))
  return days
}

/** The sum of entries that are of one hour, key and model. */
export class UsageSum {
  readonly #entries = new Map<string, UsageEntry>()

  add(entry: UsageEntry): void {
    const id = `${entry.hour} ${entry.key} ${entry.model ?? ''}`
    const known = this.#entries.get(id)
    if (known === undefined) this.#entries.set(id, { ...entry, refused: { ...entry.refused } })
    else addCounts(known, entry)
  }

  get entries(): UsageEntry[] {
    return [...this.#entries.values()]
  }

  get size(): number {
    return this.#entries.size
  }
}
