/** Calendar periods, in UTC: what a budget is for, instead of a window that slides. Pure. */

export type Period = 'day' | 'month'

const DAY_MS = 86_400_000

/** The longest that each may be, in milliseconds: nothing leaves a window of that length before its period is over. */
export const LONGEST_PERIOD_MS: Readonly<Record<Period, number>> = { day: DAY_MS, month: 31 * DAY_MS }

/** One period: what it is called, and when the next one begins. */
export interface PeriodSpan {
  readonly period: Period
  /** As 2026-01-31 or 2026-01. */
  readonly label: string
  /** When it begins, and when the next one does, in milliseconds since 1970. */
  readonly fromMs: number
  readonly untilMs: number
  /** Milliseconds until the next one. */
  readonly leftMs: number
}

/** What `timeWindow` says for a period: 'calendar day' or 'calendar month'. Undefined for anything else. */
export function periodOf(timeWindow: unknown): Period | undefined {
  return timeWindow === 'calendar day' ? 'day' : timeWindow === 'calendar month' ? 'month' : undefined
}

/** The period that holds `now`, in milliseconds since 1970. */
export function spanAt(period: Period, now: number): PeriodSpan {
  const date = new Date(now)
  const [year, month, day] = [date.getUTCFullYear(), date.getUTCMonth(), date.getUTCDate()]
  const isDay = period === 'day'
  const fromMs = isDay ? Date.UTC(year, month, day) : Date.UTC(year, month)
  const untilMs = isDay ? Date.UTC(year, month, day + 1) : Date.UTC(year, month + 1)
  return { period, label: date.toISOString().slice(0, isDay ? 10 : 7), fromMs, untilMs, leftMs: untilMs - now }
}
