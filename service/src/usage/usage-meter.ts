/**
 * Counts what is used, and brings it to the store in batches. A batch has a number of its own and is sent until the store
 * has taken it, so that it counts once whatever happens to the connection. What was counted since the last batch is lost
 * with a killed process.
 */
import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import {
  hourOf,
  noCounts,
  type UsageBatch,
  type UsageCounts,
  type UsageEntry,
  type UsageHolder,
  UsageSum,
} from './entry.js'
import type { UsageStore } from './usage-store.js'

/** Entries of one batch at most. */
const MOST_ENTRIES = 1000
/** Entries that wait for a store that is away; beyond, the oldest batch is dropped, and the log says so. */
const MOST_WAITING = 200_000
/** How long a stop tries to bring the last batches to the store. */
const LAST_TRIES_MS = 3000

export class UsageMeter {
  readonly #store: UsageStore
  readonly #log: Pick<FastifyBaseLogger, 'error' | 'info'>
  readonly #replica = randomUUID()
  readonly #timer: NodeJS.Timeout
  /** Counts of the hour, by key and model. */
  #counting = new Map<string, { readonly holder: UsageHolder; readonly byModel: Map<string | null, UsageCounts> }>()
  #hour = hourOf(Date.now())
  #sequence = 0
  /** Counted, and in no batch yet: of hours that are over. */
  #over: UsageEntry[] = []
  /** The oldest first. */
  readonly #batches: UsageBatch[] = []
  #flushing: Promise<void> | undefined
  #isLost = false

  constructor(store: UsageStore, flushMs: number, log: Pick<FastifyBaseLogger, 'error' | 'info'>) {
    this.#store = store
    this.#log = log
    this.#timer = setInterval(() => void this.flush().catch(() => {}), flushMs).unref()
  }

  /** A request was answered as it asked. */
  served(holder: UsageHolder, model: string | null, rows: number): void {
    const counts = this.#countsOf(holder, model)
    counts.requests++
    counts.rows += rows
  }

  /** A request was refused, with this code. `rows`: those that a stream had answered before. */
  refused(holder: UsageHolder, model: string | null, code: string, rows = 0): void {
    const counts = this.#countsOf(holder, model)
    counts.rows += rows
    counts.refused[code] = (counts.refused[code] ?? 0) + 1
  }

  /** A model has run for a request. */
  computed(holder: UsageHolder, model: string | null, ms: number): void {
    this.#countsOf(holder, model).computeUs += Math.round(ms * 1000)
  }

  /** Brings everything that was counted by now to the store. Rejects where that did not take it; it is tried again. */
  async flush(): Promise<void> {
    // One that goes on may have begun before the last count.
    await this.#flushing?.catch(() => {})
    this.#flushing ??= this.#send().finally(() => {
      this.#flushing = undefined
    })
    return this.#flushing
  }

  /** Flushes a last time, for as long as that may take. */
  async close(): Promise<void> {
    clearInterval(this.#timer)
    const until = performance.now() + LAST_TRIES_MS
    for (;;) {
      try {
        return await this.flush()
      } catch (error) {
        if (performance.now() > until) {
          this.#log.error(
            { err: error, entries: this.#waiting },
            'recent usage is lost: the store of usage does not accept it',
          )
          return
        }
        await new Promise(resolve => setTimeout(resolve, 100))
      }
    }
  }

  get #waiting(): number {
    return this.#batches.reduce((sum, { entries }) => sum + entries.length, 0)
  }

  #countsOf(holder: UsageHolder, model: string | null): UsageCounts {
    const hour = hourOf(Date.now())
    if (hour !== this.#hour) this.#endHour(hour)
    let own = this.#counting.get(holder.key)
    if (own === undefined) {
      own = { holder, byModel: new Map() }
      this.#counting.set(holder.key, own)
    }
    let counts = own.byModel.get(model)
    if (counts === undefined) {
      counts = noCounts()
      own.byModel.set(model, counts)
    }
    return counts
  }

  #endHour(next: number): void {
    for (const { holder, byModel } of this.#counting.values()) {
      for (const [model, counts] of byModel) {
        this.#over.push({ hour: this.#hour, key: holder.key, owner: holder.owner, model, ...counts })
      }
    }
    this.#counting = new Map()
    this.#hour = next
  }

  async #send(): Promise<void> {
    this.#endHour(hourOf(Date.now()))
    const over = this.#over
    this.#over = []
    // While the store is away, what waits is summed up: a batch that was never sent may still take more.
    for (let from = 0; from < over.length; from += MOST_ENTRIES) {
      this.#batches.push({
        replica: this.#replica,
        sequence: ++this.#sequence,
        entries: over.slice(from, from + MOST_ENTRIES),
      })
    }
    this.#sumUp()
    try {
      for (let batch = this.#batches[0]; batch !== undefined; batch = this.#batches[0]) {
        await this.#store.add(batch)
        this.#batches.shift()
      }
      if (this.#isLost) this.#log.info('the store of usage answers again')
      this.#isLost = false
    } catch (error) {
      if (!this.#isLost) this.#log.error({ err: error }, 'usage cannot be stored; it is kept and tried again')
      this.#isLost = true
      throw error
    }
  }

  /** Makes few batches of many that wait. The first may have been sent, and stays as it is. */
  #sumUp(): void {
    if (this.#batches.length <= 2) return
    const [first, ...rest] = this.#batches.splice(0) as [UsageBatch, ...UsageBatch[]]
    const sum = new UsageSum()
    for (const { entries } of rest) for (const entry of entries) sum.add(entry)
    let { entries } = sum
    if (entries.length > MOST_WAITING) {
      this.#log.error(
        { dropped: entries.length - MOST_WAITING },
        'the store of usage is away for too long: the oldest is dropped',
      )
      entries = entries.slice(-MOST_WAITING)
    }
    this.#batches.push(first)
    for (let from = 0; from < entries.length; from += MOST_ENTRIES) {
      const some = entries.slice(from, from + MOST_ENTRIES)
      this.#batches.push({ replica: this.#replica, sequence: ++this.#sequence, entries: some })
    }
  }
}
