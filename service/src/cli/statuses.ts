/** What was answered, and how fast, by status. */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks'
import type { Row } from './table.js'

export interface StatusFigures {
  readonly count: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly maxMs: number
}

/** In the words of the service; 0 is no answer. */
const WORDS: Readonly<Record<number, string>> = {
  0: 'no answer',
  200: 'answered',
  400: 'does not fit the model',
  401: 'wrong key',
  404: 'unknown model',
  429: 'quota or overload',
  503: 'cannot serve',
  504: 'deadline passed',
}

export const STATUS_HEADINGS = ['status', 'meaning', 'count', 'share', 'p50 ms', 'p99 ms', 'max ms'] as const
/** Columns that hold numbers. */
export const STATUS_NUMBERS = [2, 3, 4, 5, 6] as const

export class Statuses {
  /** In microseconds. */
  readonly #latencies = new Map<number, RecordableHistogram>()
  total = 0

  record(status: number, ms: number): void {
    let histogram = this.#latencies.get(status)
    if (histogram === undefined) {
      histogram = createHistogram()
      this.#latencies.set(status, histogram)
    }
    histogram.record(Math.max(1, Math.round(ms * 1000)))
    this.total++
  }

  count(status: number): number {
    return this.#latencies.get(status)?.count ?? 0
  }

  figures(): Record<string, StatusFigures> {
    return Object.fromEntries(
      [...this.#latencies].map(([status, histogram]) => {
        const ms = (us: number) => Math.round(us / 10) / 100
        const [p50Ms, p99Ms, maxMs] = [ms(histogram.percentile(50)), ms(histogram.percentile(99)), ms(histogram.max)]
        return [status, { count: histogram.count, p50Ms, p99Ms, maxMs }]
      }),
    )
  }

  rows(): Row[] {
    return Object.entries(this.figures()).map(([status, { count, p50Ms, p99Ms, maxMs }]) => [
      status === '0' ? '---' : status,
      WORDS[Number(status)] ?? '',
      count,
      `${((100 * count) / this.total).toFixed(1)}%`,
      p50Ms.toFixed(2),
      p99Ms.toFixed(2),
      maxMs.toFixed(2),
    ])
  }
}
