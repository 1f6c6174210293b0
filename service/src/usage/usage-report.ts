/** Usage summed up for those who ask: as JSON, or as CSV. Pure. */
import { addCounts, dayOf, HOUR_MS, noCounts, type UsageCounts, type UsageEntry } from './entry.js'

export type UsageGroup = 'model' | 'day' | 'hour' | 'key' | 'owner'

export interface UsageRow {
  readonly requests: number
  readonly rows: number
  /** Milliseconds, with three digits behind the point. */
  readonly computeMs: number
  readonly refused: Readonly<Record<string, number>>
  /** What the row is of, under the name of the group. */
  readonly [group: string]: unknown
}

export interface UsageReport {
  /** ISO 8601. */
  readonly from: string
  /** Not included. */
  readonly to: string
  readonly rows: readonly UsageRow[]
}

/** What the entries of a group have in common. */
const GROUPS: Readonly<Record<UsageGroup, (entry: UsageEntry) => Readonly<Record<string, string | null>>>> = {
  model: ({ model }) => ({ model }),
  day: ({ hour }) => ({ day: dayOf(hour) }),
  hour: ({ hour }) => ({ hour: new Date(hour * HOUR_MS).toISOString() }),
  key: ({ key, owner }) => ({ key, owner }),
  owner: ({ owner }) => ({ owner }),
}

/** The rows stand in the order of what they are of. `from` and `to`: hours since 1970. */
export function reportOf(entries: readonly UsageEntry[], by: UsageGroup, from: number, to: number): UsageReport {
  const groups = new Map<string, { readonly of: Readonly<Record<string, string | null>>; readonly sum: UsageCounts }>()
  for (const entry of entries) {
    const of = GROUPS[by](entry)
    const id = JSON.stringify(of[by])
    let group = groups.get(id)
    if (group === undefined) {
      group = { of, sum: noCounts() }
      groups.set(id, group)
    }
    addCounts(group.sum, entry)
  }
  return {
    from: new Date(from * HOUR_MS).toISOString(),
    to: new Date(to * HOUR_MS).toISOString(),
    rows: [...groups]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([, { of, sum }]) => ({
        ...of,
        requests: sum.requests,
        rows: sum.rows,
        computeMs: Math.round(sum.computeUs) / 1000,
        refused: Object.fromEntries(Object.entries(sum.refused).sort(([a], [b]) => (a < b ? -1 : 1))),
      })),
  }
}

/** The same as RFC 4180 has it: a column for each code of a refusal that there is. */
export function csvOf({ rows }: UsageReport, by: UsageGroup): string {
  const names = by === 'key' ? ['key', 'owner'] : [by]
  const codes = [...new Set(rows.flatMap(({ refused }) => Object.keys(refused)))].sort()
  const head = [...names, 'requests', 'rows', 'computeMs', ...codes.map(code => `refused.${code}`)]
  const lines = rows.map(row => [
    ...names.map(name => row[name] as string | null),
    ...[row.requests, row.rows, row.computeMs],
    ...codes.map(code => row.refused[code] ?? 0),
  ])
  return [head, ...lines].map(line => `${line.map(cell).join(',')}\r\n`).join('')
}

/** Spreadsheets take what begins with these for a formula. */
const FORMULA = /^[=+\-@\t\r]/

function cell(value: string | number | null): string {
  if (value === null) return ''
  if (typeof value === 'number') return String(value)
  const text = FORMULA.test(value) ? `'${value}` : value
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
