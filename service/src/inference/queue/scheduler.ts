/**
 * Dispatch: what was admitted is given to the workers. A free worker takes a batch of the model whose oldest request has
 * waited longest, of those that it can run. Pure: workers, clock and timers are given.
 */

import { type Overloaded, Stopping } from '../errors.js'
import type { Answers, Asked, NamedTensors, RunOptions, RunResult } from '../types.js'
import { Admission, type AdmissionOptions, type Contention } from './admission.js'
import { queue as rules } from './admission-constants.js'
import type { Batch, RunControl } from './batch.js'
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
  readonly admission: AdmissionOptions
  /** Batches that may be on their way to one worker, the running one included. */
  readonly depth?: number
  readonly onBatch?: (event: BatchEvent) => void
}

interface Slot {
  readonly runner: Runner
  busy: number
  /** When its work is expected to end. */
  freeAt: number
  /** The models that it may run. */
  queues: readonly ModelQueue[]
}

/** A model in the scheduler: its queue, and the workers that may run it. */
class ModelQueue implements Contention {
  readonly admission: Admission
  slots: readonly Slot[] = []
  readonly #all: ReadonlyMap<string, ModelQueue>
  /** See `#rivalsNow`; undefined until they are asked for after a change. */
  #rivals: readonly Rival[] | undefined

  constructor(
    readonly key: string,
    readonly batcher: Batcher,
    options: AdmissionOptions,
    all: ReadonlyMap<string, ModelQueue>,
  ) {
    this.admission = new Admission(batcher, this, options)
    this.#all = all
  }

  get workers(): number {
    return this.slots.length
  }

  busyMs(now: number): number {
    let workMs = 0
    for (const { freeAt } of this.slots) workMs += Math.max(0, freeAt - now)
    this.#rivals ??= this.#rivalsNow()
    for (const { queue, part } of this.#rivals) workMs += part * queue.batcher.backlogMs()
    return workMs / Math.max(1, this.slots.length)
  }

  /** Finds the workers that run it, of all. */
  assign(all: readonly Slot[]): void {
    this.slots = all.filter(({ runner }) => runner.keys.has(this.key))
    this.#rivals = undefined
  }

  /** Other models that its workers run, and the part of their work that falls to these workers. */
  #rivalsNow(): readonly Rival[] {
    const rivals = []
    for (const queue of this.#all.values()) {
      const shared = queue.slots.filter(slot => this.slots.includes(slot)).length
      if (queue !== this && shared > 0) rivals.push({ queue, part: shared / queue.slots.length })
    }
    return rivals
  }
}

interface Rival {
  readonly queue: ModelQueue
  readonly part: number
}

export class Scheduler {
  readonly #options: SchedulerOptions
  readonly #queues = new Map<string, ModelQueue>()
  readonly #slots: Slot[] = []
  #turnPending = false
  #stopping = false
  #cancelSweep: (() => void) | undefined
  #sweepAt = Number.POSITIVE_INFINITY
  #cancelDelay: (() => void) | undefined
  #idleWaiters: { key: string; resolve: () => void }[] = []

  constructor(options: SchedulerOptions) {
    this.#options = options
  }

  addModel(key: string, batcher: Batcher): void {
    if (this.#queues.get(key)?.batcher === batcher) return
    this.#queues.set(key, new ModelQueue(key, batcher, this.#options.admission, this.#queues))
    this.#reassign()
  }

  removeModel(key: string): void {
    this.#queues.delete(key)
    this.#reassign()
  }

  addRunner(runner: Runner): void {
    this.#slots.push({ runner, busy: 0, freeAt: 0, queues: [] })
    this.#reassign()
    this.#dispatch()
  }

  /** Workers have other models than before. */
  runnersChanged(): void {
    this.#reassign()
    this.#dispatch()
  }

  /** No more batches for this worker. */
  removeRunner(runner: Runner): void {
    const index = this.#slots.findIndex(each => each.runner === runner)
    if (index === -1) return
    this.#slots.splice(index, 1)
    this.#reassign()
  }

  /** A worker that was taken for lost is there again. */
  wake(): void {
    this.#dispatch()
  }

  /** Rows that wait, over all models. */
  get queueRows(): number {
    let rows = 0
    for (const { batcher } of this.#queues.values()) rows += batcher.queueRows
    return rows
  }

  /** Workers that can run this model. */
  runnersOf(key: string): number {
    return this.#queues.get(key)?.workers ?? 0
  }

  /** Expected milliseconds until a request of `rows` would be answered if it came now, behind all that wait. */
  estimateWaitMs(key: string, rows: number): number {
    const asked = { rows, priority: Number.NEGATIVE_INFINITY }
    return this.#queues.get(key)?.admission.sojournMs(asked, this.#options.clock.now()) ?? 0
  }

  /** What such a request would be refused with if it came now; undefined where it would be taken. */
  refusalOf(key: string, asked: Asked): Overloaded | undefined {
    return this.#queues.get(key)?.admission.refusalOf(asked, this.#options.clock.now())
  }

  /** Throws Stopping, Overloaded or DeadlineExceeded; rejects with what became of the request. */
  submit(key: string, inputs: NamedTensors, options: RunOptions): Promise<RunResult> {
    const queue = this.#queues.get(key)
    if (queue === undefined || this.#stopping) throw new Stopping()
    const { batcher, admission, slots } = queue
    const now = this.#options.clock.now()
    admission.admit(options, now)
    const result = batcher.submit(inputs, options, now)
    if (options.deadline !== undefined) this.#sweepBy(options.deadline, now)
    if (options.signal !== undefined) this.#sweepBy(now + rules.watchMs, now)
    // A good part of a batch goes out at once where a worker is free: waiting for the rest of the turn would have the
    // workers wait while requests are read, and the requests wait while the workers run, in turns.
    if (batcher.hasGoodPart && slots.some(({ busy }) => busy === 0)) {
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
    if (this.#queues.get(key)?.batcher.idle ?? true) return Promise.resolve()
    return new Promise(resolve => this.#idleWaiters.push({ key, resolve }))
  }

  /** Takes no more requests, and resolves when all that were taken are answered. */
  async stop(): Promise<void> {
    this.#stopping = true
    await Promise.all([...this.#queues.keys()].map(key => this.whenIdle(key)))
    this.#cancelSweep?.()
    this.#cancelDelay?.()
  }

  /** Gives this answer to everything that waits, or waits for this model: there is no worker left to run it. */
  rejectWaiting(error: Error, key?: string): void {
    for (const queue of this.#queues.values()) {
      if (key === undefined || queue.key === key) queue.batcher.rejectWaiting(error)
    }
    this.#tellIdle()
  }

  /** Which workers run which models has changed. */
  #reassign(): void {
    const queues = [...this.#queues.values()]
    for (const queue of queues) queue.assign(this.#slots)
    for (const slot of this.#slots) slot.queues = queues.filter(({ slots }) => slots.includes(slot))
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
          const { batcher, admission } = choice.queue
          const batch = batcher.take(now, admission.staleBefore(now), admission.shedsLate)
          // All that waited had expired or gone: look for another.
          if (batch === undefined) continue
          this.#run(slot, choice.queue, batch, now)
          break
        }
      }
    }
    this.#dispatchAt(nextReady, now)
    if (this.#idleWaiters.length > 0) this.#tellIdle()
  }

  /**
   * The model whose oldest request has waited longest, of those that this worker may start now. What waits in the
   * background goes behind all others.
   */
  #choose({ queues }: Slot, now: number): { queue: ModelQueue; readyAt: number } | undefined {
    let best: { queue: ModelQueue; readyAt: number } | undefined
    let bestAt = Number.POSITIVE_INFINITY
    for (const queue of queues) {
      const oldest = queue.batcher.oldestAt
      if (oldest === undefined) continue
      const readyAt = queue.batcher.readyAt() as number
      // One that may start now goes before one that still waits for company.
      const rank = (readyAt > now ? readyAt + 1e9 : oldest) + (queue.batcher.isInBackground ? 1e12 : 0)
      if (rank >= bestAt && best !== undefined) continue
      best = { queue, readyAt }
      bestAt = rank
    }
    return best
  }

  #run(slot: Slot, { key, batcher }: ModelQueue, batch: Batch, now: number): void {
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
    for (const { batcher } of this.#queues.values()) {
      const { nextDeadline, watching } = batcher.sweep(now)
      next = Math.min(next, nextDeadline, watching ? now + rules.watchMs : Number.POSITIVE_INFINITY)
    }
    if (next !== Number.POSITIVE_INFINITY) this.#sweepBy(next, now)
    this.#tellIdle()
  }

  #tellIdle(): void {
    this.#idleWaiters = this.#idleWaiters.filter(({ key, resolve }) => {
      if (this.#queues.get(key)?.batcher.idle === false) return true
      resolve()
      return false
    })
  }
}
