/**
 * One pool of workers for the queues of all models: a free worker takes the batch whose first request has waited
 * longest. Pure: workers, clock and timers are given.
 */

import { DeadlineExceeded, Overloaded, Stopping } from '../errors.js'
import type { Answers, NamedTensors, RunOptions, RunResult } from '../types.js'
import type { Batch, Request, RunControl } from './batch.js'
import type { Batcher } from './batcher.js'

export interface BatchResult {
  readonly outputs: NamedTensors
  /** In place of outputs, where RunControl asks for them and the worker can write them. */
  readonly answers?: Answers | undefined
  readonly computeMs: number
}

/** A worker as the scheduler sees it: what it has loaded, and one run at a time. */
export interface Runner {
  readonly keys: ReadonlySet<string>
  /** It has ended, or is about to: what were sent to it now would be lost. */
  readonly lost: boolean
  run(
    key: string,
    inputs: NamedTensors,
    outputs: readonly string[] | undefined,
    control: RunControl,
  ): Promise<BatchResult>
}

/** Time and turns of the event loop, injected so that tests need neither. */
export interface Clock {
  /** Milliseconds, never backwards. */
  now(): number
  /** Calls back once everything that is to happen in this turn has happened. */
  afterTurn(callback: () => void): void
  /** Calls back after that long; returns what cancels it. */
  after(ms: number, callback: () => void): () => void
}

export interface BatchEvent {
  readonly key: string
  readonly rows: number
  readonly requests: number
  /** Milliseconds that the oldest request of the batch had waited. */
  readonly queueMs: number
  readonly computeMs: number
  readonly failed: boolean
}

export interface SchedulerOptions {
  readonly clock: Clock
  /** Rows that may wait for one model. */
  readonly queueMaxRows: number
  /** Batches that may be on their way to one worker, the running one included. */
  readonly depth?: number
  readonly onBatch?: (event: BatchEvent) => void
}

/** Runs may take longer than the last ones did: so many times what is expected must fit before the deadline. */
const safety = 1.2

/** Callers that have gone are looked for this often while anything waits, in milliseconds. */
const watchMs = 50

interface Slot {
  readonly runner: Runner
  busy: number
  /** When its work is expected to end. */
  freeAt: number
  /** Serves only models that no newer worker has: it is on its way out. */
  retiring: boolean
}

export class Scheduler {
  readonly #options: SchedulerOptions
  readonly #batchers = new Map<string, Batcher>()
  readonly #slots: Slot[] = []
  #turnPending = false
  #stopping = false
  #cancelSweep: (() => void) | undefined
  #sweepAt = Number.POSITIVE_INFINITY
  #nextSweepFull = Number.NEGATIVE_INFINITY
  #cancelDelay: (() => void) | undefined
  #idleWaiters: { key: string; resolve: () => void }[] = []

  constructor(options: SchedulerOptions) {
    this.#options = options
  }

  addModel(key: string, batcher: Batcher): void {
    this.#batchers.set(key, batcher)
  }

  removeModel(key: string): void {
    this.#batchers.delete(key)
  }

  addRunner(runner: Runner): void {
    this.#slots.push({ runner, busy: 0, freeAt: 0, retiring: false })
    this.#dispatch()
  }

  /** From now on this worker only runs what no other can. */
  retireRunner(runner: Runner): void {
    const slot = this.#slots.find(each => each.runner === runner)
    if (slot !== undefined) slot.retiring = true
  }

  /** No more batches for this worker. */
  removeRunner(runner: Runner): void {
    const index = this.#slots.findIndex(each => each.runner === runner)
    if (index !== -1) this.#slots.splice(index, 1)
  }

  /** Rows that wait, over all models. */
  get queueRows(): number {
    let rows = 0
    for (const batcher of this.#batchers.values()) rows += batcher.queueRows
    return rows
  }

  /** Workers that are up. */
  get runners(): number {
    return this.#slots.length
  }

  /**
   * Expected milliseconds until a request of `rows` would be answered if it came now: what waits for all models and
   * what still runs, shared by the workers, and its own time. Of its own model only what goes before `priority` counts,
   * by default all.
   */
  estimateWaitMs(key: string, rows: number, priority = Number.NEGATIVE_INFINITY): number {
    const batcher = this.#batchers.get(key)
    return batcher === undefined ? 0 : this.#waitMs(key, batcher, rows, priority, this.#options.clock.now())
  }

  #waitMs(key: string, batcher: Batcher, rows: number, priority: number, now: number): number {
    let work = 0
    for (const each of this.#batchers.values()) {
      if (each !== batcher) work += each.backlogMs()
      // A fresh request passes those that wait.
      else if (priority === Number.NEGATIVE_INFINITY || !each.newestFirst(now)) work += each.backlogMs(priority)
    }
    let workers = 0
    for (const { runner, freeAt } of this.#slots) {
      if (!runner.keys.has(key)) continue
      workers++
      work += Math.max(0, freeAt - now)
    }
    return work / Math.max(1, workers) + batcher.requestMs(rows)
  }

  /** What such a request would be refused with if it came now; undefined where it would be taken. */
  refusalOf(key: string, options: RunOptions): Overloaded | undefined {
    const batcher = this.#batchers.get(key)
    const room = batcher && this.#roomFor(key, batcher, options, this.#options.clock.now())
    return room instanceof Overloaded ? room : undefined
  }

  /** Throws Stopping or Overloaded; rejects with what became of the request. */
  submit(key: string, inputs: NamedTensors, options: RunOptions): Promise<RunResult> {
    const batcher = this.#batchers.get(key)
    if (batcher === undefined || this.#stopping) throw new Stopping()
    const now = this.#options.clock.now()
    this.#admit(key, batcher, options, now)
    const result = batcher.submit(inputs, options, now)
    if (options.deadline !== undefined) this.#sweepBy(options.deadline, now)
    if (options.signal !== undefined) this.#sweepBy(now + watchMs, now)
    // A good part of a batch goes out at once where a worker is free: waiting for the rest of the turn would have the
    // workers wait while requests are read, and the requests wait while the workers run, in turns.
    if (batcher.hasGoodPart && this.#slots.some(({ busy }) => busy === 0)) {
      this.#dispatch()
    } else if (!this.#turnPending) {
      this.#turnPending = true
      this.#options.clock.afterTurn(() => {
        this.#turnPending = false
        this.#dispatch()
      })
    }
    return result
  }

  /** Resolves when nothing waits or runs for this model. */
  whenIdle(key: string): Promise<void> {
    const batcher = this.#batchers.get(key)
    if (batcher === undefined || batcher.idle) return Promise.resolve()
    return new Promise(resolve => this.#idleWaiters.push({ key, resolve }))
  }

  /** Takes no more requests, and resolves when all that were taken are answered. */
  async stop(): Promise<void> {
    this.#stopping = true
    await Promise.all([...this.#batchers.keys()].map(key => this.whenIdle(key)))
    this.#cancelSweep?.()
    this.#cancelDelay?.()
  }

  /** Gives this answer to everything that waits, or waits for this model: there is no worker left to run it. */
  rejectWaiting(error: Error, key?: string): void {
    for (const [each, batcher] of this.#batchers) if (key === undefined || each === key) batcher.rejectWaiting(error)
    this.#tellIdle()
  }

  #admit(key: string, batcher: Batcher, options: RunOptions, now: number): void {
    if (options.deadline !== undefined && options.deadline <= now) throw new DeadlineExceeded(false)
    const room = this.#roomFor(key, batcher, options, now)
    if (room instanceof Overloaded) throw room
    if (room === 'try') batcher.triedAt = now
    if (room === undefined || room === 'try') return
    batcher.evict(room.victims, () => this.#comeBack(key, batcher, now))
    const { rows, deadline } = options
    const givenMs = deadline === undefined ? undefined : deadline - now
    const { sojournMs } = room
    batcher.limit.observe(
      { sojournMs, serviceMs: batcher.requestMs(rows), givenMs, answeredRows: 0, batchRows: 0 },
      batcher.busyRows,
      now,
    )
  }

  /**
   * Who would have to give up its place for such a request, and when it would be answered; undefined where it goes to
   * the front of the queue, `try` where it does though it seems to have no chance; Overloaded where there is no room for
   * it. (Given, not thrown: to throw takes longer than to answer, and it is what happens to most requests when it happens
   * at all.)
   */
  #roomFor(
    key: string,
    batcher: Batcher,
    { rows, deadline, priority = 0 }: RunOptions,
    now: number,
  ): { readonly victims: readonly Request[]; readonly sojournMs: number } | 'try' | Overloaded | undefined {
    // While nothing waits, everything is taken: a request larger than the queue, or one that the estimate gives no
    // chance, which only a run can put right. But of these one a second: they are charged nothing when they fail, and a
    // caller that gives no time would have the workers for itself.
    if (batcher.queueRows === 0) {
      const runMs = batcher.requestMs(rows)
      const hopeless = deadline !== undefined && deadline < now + runMs
      if (hopeless && now < Math.max(batcher.ranAt, batcher.triedAt) + 1000) {
        return new Overloaded(`a run takes ${Math.ceil(runMs)} ms, too long for the deadline`, runMs)
      }
      return hopeless ? 'try' : undefined
    }
    const missing = () => this.#missingRows(key, batcher, rows)
    // Callers that have gone and deadlines that have passed hold no place.
    if (missing() > 0) this.#sweepFull(batcher, now)
    if (batcher.queueRows === 0) return undefined
    const retryAfterMs = () => this.#comeBack(key, batcher, now)
    const victims = batcher.victims(missing(), priority, now)
    if (victims === undefined) {
      return new Overloaded(`${batcher.queueRows} rows wait already, and no more are taken at present`, retryAfterMs())
    }
    const sojournMs = this.#waitMs(key, batcher, rows, priority, now)
    const givenMs = deadline === undefined ? undefined : deadline - now
    if (givenMs !== undefined && sojournMs * safety > givenMs) {
      return new Overloaded(
        `the answer is expected in ${Math.ceil(sojournMs)} ms, too late for the deadline`,
        Math.max(sojournMs - givenMs, retryAfterMs()),
      )
    }
    return { victims, sojournMs }
  }

  /** Rows that would have to leave for a request of `rows` to be taken; 0 or less where none. */
  #missingRows(key: string, batcher: Batcher, rows: number): number {
    const workers = this.#workersOf(key)
    // Below a batch that runs and one that waits for each worker, they would have to wait for work.
    const limit = Math.max(batcher.limit.rows, 2 * workers * batcher.options.maxRows)
    // One that is larger than what is left is taken all the same, or none would be while smaller ones come.
    const overLimit = batcher.busyRows >= limit ? batcher.busyRows + 1 - limit : 0
    return Math.ceil(Math.max(overLimit, batcher.queueRows + rows - this.#options.queueMaxRows))
  }

  #workersOf(key: string): number {
    let workers = 0
    for (const { runner } of this.#slots) if (runner.keys.has(key)) workers++
    return workers
  }

  /** Often enough: while a queue stays full, each look at all of it would be for one request. */
  #sweepFull(batcher: Batcher, now: number): void {
    if (now < this.#nextSweepFull) return
    this.#nextSweepFull = now + 10
    batcher.sweep(now)
  }

  /** Milliseconds until one more of those that were refused is to come back. */
  #comeBack(key: string, batcher: Batcher, now: number): number {
    const { maxRows } = batcher.options
    const rows = Number.isFinite(maxRows) ? maxRows : 1
    const eachMs = batcher.requestMs(rows) / rows / Math.max(1, this.#workersOf(key))
    return batcher.comeBack.next(now, eachMs, this.#waitMs(key, batcher, 1, Number.NEGATIVE_INFINITY, now))
  }

  #dispatch(): void {
    const now = this.#options.clock.now()
    const depth = this.#options.depth ?? 1
    let nextReady = Number.POSITIVE_INFINITY
    for (let level = 0; level < depth; level++) {
      for (const slot of this.#slots) {
        if (slot.busy !== level || slot.runner.lost) continue
        for (;;) {
          const choice = this.#choose(slot, now)
          if (choice === undefined) break
          if (choice.readyAt > now) {
            nextReady = Math.min(nextReady, choice.readyAt)
            break
          }
          const batch = choice.batcher.take(now)
          // All that waited had expired or gone: look for another.
          if (batch === undefined) continue
          this.#run(slot, choice.key, choice.batcher, batch, now)
          break
        }
      }
    }
    this.#dispatchAt(nextReady, now)
    if (this.#idleWaiters.length > 0) this.#tellIdle()
  }

  /** The model whose oldest request has waited longest, of those that this worker has and may start now. */
  #choose(slot: Slot, now: number): { key: string; batcher: Batcher; readyAt: number } | undefined {
    let best: { key: string; batcher: Batcher; readyAt: number } | undefined
    let bestAt = Number.POSITIVE_INFINITY
    for (const [key, batcher] of this.#batchers) {
      const oldest = batcher.oldestAt
      if (oldest === undefined || !slot.runner.keys.has(key)) continue
      if (slot.retiring && this.#slots.some(other => !other.retiring && other.runner.keys.has(key))) continue
      const readyAt = batcher.readyAt() as number
      // One that may start now goes before one that still waits for company.
      const rank = readyAt > now ? readyAt + 1e9 : oldest
      if (rank >= bestAt && best !== undefined) continue
      best = { key, batcher, readyAt }
      bestAt = rank
    }
    return best
  }

  #run(slot: Slot, key: string, batcher: Batcher, batch: Batch, now: number): void {
    slot.busy++
    slot.freeAt = Math.max(slot.freeAt, now) + batcher.serviceTime.estimateMs(batch.rows)
    const end = (failed: boolean, computeMs: number) => {
      slot.busy--
      // The next batch leaves before this one's answers are written.
      this.#dispatch()
      this.#options.onBatch?.({
        key,
        rows: batch.rows,
        requests: batch.pieces.length,
        queueMs: batch.startedAt - (batch.pieces[0]?.request.arrivedAt ?? batch.startedAt),
        computeMs,
        failed,
      })
    }
    slot.runner.run(key, batch.tensors(), batch.outputs, batch).then(
      ({ outputs, answers, computeMs }) => {
        batcher.succeed(batch, outputs, computeMs, this.#options.clock.now(), answers)
        end(false, computeMs)
      },
      error => {
        batcher.fail(batch, error as Error)
        end(true, 0)
      },
    )
  }

  #dispatchAt(readyAt: number, now: number): void {
    this.#cancelDelay?.()
    this.#cancelDelay = undefined
    if (readyAt === Number.POSITIVE_INFINITY) return
    this.#cancelDelay = this.#options.clock.after(readyAt - now, () => this.#dispatch())
  }

  /** One timer for all deadlines: it is set for the earliest, and moved only when an earlier one comes. */
  #sweepBy(at: number, now: number): void {
    if (at >= this.#sweepAt) return
    this.#cancelSweep?.()
    this.#sweepAt = at
    this.#cancelSweep = this.#options.clock.after(Math.max(0, at - now), () => this.#sweep())
  }

  #sweep(): void {
    this.#sweepAt = Number.POSITIVE_INFINITY
    this.#cancelSweep = undefined
    const now = this.#options.clock.now()
    let next = Number.POSITIVE_INFINITY
    for (const batcher of this.#batchers.values()) {
      const { nextDeadline, watching } = batcher.sweep(now)
      next = Math.min(next, nextDeadline, watching ? now + watchMs : Number.POSITIVE_INFINITY)
    }
    if (next !== Number.POSITIVE_INFINITY) this.#sweepBy(next, now)
    this.#tellIdle()
  }

  #tellIdle(): void {
    this.#idleWaiters = this.#idleWaiters.filter(({ key, resolve }) => {
      const batcher = this.#batchers.get(key)
      if (batcher !== undefined && !batcher.idle) return true
      resolve()
      return false
    })
  }
}
