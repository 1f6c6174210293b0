/**
 * One model's queue: which rows run together, and whose they are. Pure: time is an argument, workers are the
 * scheduler's, and a batch is only described here.
 *
 *   submit ─▶ [ request, request, … ] ─ take ─▶ batch of pieces ─ (a worker) ─▶ succeed / fail ─▶ each request's promise
 */
import {
  type Batch,
  countRows,
  latestDeadline,
  type Piece,
  pick,
  type Request,
  settle,
  shapeKey,
  wantedOutputs,
} from './batch.js'
import { Cancelled, DeadlineExceeded, InputRefused, NotRun, RunFailed } from './errors.js'
import { ServiceTime } from './service-time.js'
import { copyInputs, hasRows, joinOutputs, sliceOutputs, stackInputs } from './stack.js'
import type { NamedTensors, RunOptions, RunResult } from './types.js'

export interface BatcherOptions {
  /** Rows of one run. A request of more is split; 1 for a model whose batch is fixed at one. */
  readonly maxRows: number
  /**
   * `shared`: rows of several requests run together. `split`: requests run alone, row by row.
   * `alone`: requests run alone and whole.
   */
  readonly mode: 'shared' | 'split' | 'alone'
  /** How long the oldest request may wait for company while a worker is free, in milliseconds. */
  readonly maxDelayMs: number
  /** True when rows may differ in shape, so that only those of one shape run together. */
  readonly shapesVary: boolean
}

/** A piece that could not be sent is put back this often: more than once, since several backends may be down. */
const unsentRetries = 3

/** How far into the queue a batch looks for rows of its shape, in requests. */
const lookAhead = 256

export class Batcher {
  readonly options: BatcherOptions
  readonly serviceTime: ServiceTime
  #queue: Request[] = []
  #head = 0
  #queueRows = 0
  /** Pieces of batches that failed, each to be run once more by itself. */
  #retries: Piece[] = []
  /** How often a piece was put back. */
  readonly #retried = new WeakMap<Piece, number>()
  readonly #running = new Set<Batch>()

  constructor(options: BatcherOptions, serviceTime = new ServiceTime()) {
    this.options = options
    this.serviceTime = serviceTime
  }

  /** Rows that wait. */
  get queueRows(): number {
    return this.#queueRows
  }

  /** Nothing waits and nothing runs. */
  get idle(): boolean {
    return this.#queueRows === 0 && this.#running.size === 0
  }

  /** When the oldest waiting request arrived; undefined when none waits. */
  get oldestAt(): number | undefined {
    if (this.#retries.length > 0) return Number.NEGATIVE_INFINITY
    return this.#queue[this.#head]?.arrivedAt
  }

  /** Expected milliseconds of one worker's time that the waiting rows will take. */
  backlogMs(): number {
    if (this.#queueRows === 0) return 0
    const { overheadMs, perRowMs } = this.serviceTime.line()
    const batches =
      this.options.mode === 'alone'
        ? this.#queue.length - this.#head
        : Math.ceil(this.#queueRows / this.options.maxRows)
    return batches * overheadMs + this.#queueRows * perRowMs
  }

  /** Expected milliseconds of one worker's time for a request of `rows`. */
  requestMs(rows: number): number {
    const { overheadMs, perRowMs } = this.serviceTime.line()
    const batches = this.options.mode === 'alone' ? 1 : Math.ceil(rows / this.options.maxRows)
    return batches * overheadMs + rows * perRowMs
  }

  submit(inputs: NamedTensors, options: RunOptions, now: number): Promise<RunResult> {
    const { rows } = options
    return new Promise((resolve, reject) => {
      this.#queue.push({
        inputs,
        rows,
        shapeKey: this.options.shapesVary ? shapeKey(inputs) : '',
        options,
        arrivedAt: now,
        resolve,
        reject,
        taken: 0,
        done: 0,
        settled: false,
        startedAt: 0,
        computeMs: 0,
        batchRows: 0,
        parts: undefined,
      })
      this.#queueRows += rows
    })
  }

  /** When the next batch may start: now, or when the oldest request has waited long enough for company. */
  readyAt(): number | undefined {
    const oldest = this.oldestAt
    if (oldest === undefined) return undefined
    const { mode, maxDelayMs, maxRows } = this.options
    if (mode !== 'shared' || maxDelayMs === 0 || this.#queueRows >= maxRows) return Number.NEGATIVE_INFINITY
    return oldest + maxDelayMs
  }

  /** The next batch, for a worker that is free now; undefined when nothing waits. */
  take(now: number): Batch | undefined {
    for (let retry = this.#retries.shift(); retry !== undefined; retry = this.#retries.shift()) {
      this.#queueRows -= retry.rows
      if (this.#alive(retry.request, now)) return this.#start([retry], retry.rows, now)
    }
    const pieces: Piece[] = []
    let room = this.options.mode === 'alone' ? Number.POSITIVE_INFINITY : this.options.maxRows
    let shape: string | undefined
    const skipped: Request[] = []
    const unfinished: Request[] = []
    while (room > 0 && this.#head < this.#queue.length && skipped.length < lookAhead) {
      const request = this.#queue[this.#head] as Request
      if (!this.#alive(request, now)) {
        this.#queueRows -= request.rows - request.taken
        this.#dropHead()
        continue
      }
      if (shape !== undefined && request.shapeKey !== shape) {
        skipped.push(request)
        this.#dropHead()
        continue
      }
      const left = request.rows - request.taken
      // A request that would fit a batch whole is not torn for the sake of filling this one.
      if (left > room && request.rows <= this.options.maxRows) break
      const rows = Math.min(left, room)
      shape = request.shapeKey
      pieces.push(this.#piece(request, rows, now))
      room -= rows
      this.#dropHead()
      // A large request goes behind the others after each of its batches, so that small ones pass between.
      if (rows < left) unfinished.push(request)
      if (this.options.mode !== 'shared') break
    }
    if (skipped.length > 0) this.#queue.splice(this.#head, 0, ...skipped)
    this.#queue.push(...unfinished)
    return pieces.length === 0 ? undefined : this.#start(pieces, countRows(pieces), now)
  }

  /** The batch has run. Outputs that do not have one entry a row could belong to anyone: they go to nobody. */
  succeed(batch: Batch, outputs: NamedTensors, computeMs: number, now: number): void {
    this.serviceTime.observe(batch.rows, now - batch.startedAt)
    const whole = batch.pieces.length === 1 && (batch.pieces[0] as Piece).rows === batch.pieces[0]?.request.rows
    if (!whole && !hasRows(outputs, batch.rows)) {
      this.fail(batch, new RunFailed(`the model answered ${batch.rows} rows with another number of them`))
      return
    }
    this.#running.delete(batch)
    let at = 0
    for (const piece of batch.pieces) {
      const { request } = piece
      const part = whole
        ? pick(outputs, request.options.outputs)
        : sliceOutputs(outputs, at, piece.rows, request.options.outputs)
      at += piece.rows
      request.computeMs += computeMs
      request.batchRows = Math.max(request.batchRows, batch.rows)
      this.#answer(piece, part)
    }
  }

  /**
   * The batch has failed. Where the model itself failed, each request of it is run once more by itself, so that one
   * poisoned row fails only its own; what cannot have run goes back to the queue; any other error (a lost worker) is
   * the answer to all.
   */
  fail(batch: Batch, error: Error): void {
    this.#running.delete(batch)
    for (const piece of batch.pieces) {
      const retries = this.#retried.get(piece) ?? 0
      if (!mayRunAgain(error, batch, retries)) settle(piece.request, error)
      else if (!piece.request.settled) {
        this.#retried.set(piece, retries + 1)
        this.#retries.push(piece)
        this.#queueRows += piece.rows
      }
    }
  }

  /**
   * Answers requests whose deadline has passed or whose caller has gone, also those that run: the run ends unheard.
   * Returns when to look again (the earliest deadline), or undefined; `watching` says whether any has a signal.
   */
  sweep(now: number): { nextDeadline: number; watching: boolean } {
    let nextDeadline = Number.POSITIVE_INFINITY
    let watching = false
    const look = (request: Request, running: boolean) => {
      if (request.settled || !this.#alive(request, now, running)) return
      const { deadline, signal } = request.options
      if (deadline !== undefined && deadline < nextDeadline) nextDeadline = deadline
      if (signal !== undefined) watching = true
    }
    for (const batch of this.#running) {
      for (const piece of batch.pieces) look(piece.request, true)
      if (batch.onAbandoned !== undefined && batch.pieces.every(({ request }) => request.settled)) batch.onAbandoned()
    }
    let dead = 0
    for (const { request } of this.#retries) {
      look(request, true)
      if (request.settled) dead++
    }
    for (let i = this.#head; i < this.#queue.length; i++) {
      const request = this.#queue[i] as Request
      look(request, request.taken > 0)
      if (request.settled) dead++
    }
    if (dead > 0) this.#purge()
    return { nextDeadline, watching }
  }

  /** Answers everything that waits with this error; what runs is left to end. */
  rejectWaiting(error: Error): void {
    for (const piece of this.#retries) settle(piece.request, error)
    for (let i = this.#head; i < this.#queue.length; i++) settle(this.#queue[i] as Request, error)
    this.#retries = []
    this.#queue = []
    this.#head = 0
    this.#queueRows = 0
  }

  #start(pieces: readonly Piece[], rows: number, now: number): Batch {
    const batch: Batch = {
      pieces,
      rows,
      outputs: wantedOutputs(pieces),
      startedAt: now,
      deadline: latestDeadline(pieces),
      onAbandoned: undefined,
      tensors: () => this.#tensors(pieces, rows),
    }
    this.#running.add(batch)
    return batch
  }

  #tensors(pieces: readonly Piece[], rows: number): NamedTensors {
    const [only] = pieces
    if (this.options.mode === 'alone' && only !== undefined) return copyInputs(only.request.inputs)
    return stackInputs(
      pieces.map(({ request, from, rows: count }) => ({ inputs: request.inputs, from, rows: count })),
      rows,
    )
  }

  #piece(request: Request, rows: number, now: number): Piece {
    if (request.taken === 0) request.startedAt = now
    const parts = request.parts ?? (rows < request.rows ? [] : undefined)
    request.parts = parts
    const piece = { request, from: request.taken, rows, index: parts?.length ?? 0 }
    parts?.push(undefined)
    request.taken += rows
    this.#queueRows -= rows
    return piece
  }

  #answer(piece: Piece, part: NamedTensors): void {
    const { request } = piece
    if (request.settled) return
    request.done += piece.rows
    if (request.parts !== undefined) request.parts[piece.index] = part
    if (request.done < request.rows) return
    const outputs = request.parts === undefined ? part : joinOutputs(request.parts as NamedTensors[])
    if (outputs === undefined) {
      settle(request, new RunFailed('parts of the request gave outputs of different shapes'))
      return
    }
    request.settled = true
    request.resolve({
      outputs,
      queueMs: request.startedAt - request.arrivedAt,
      computeMs: request.computeMs,
      batchRows: request.batchRows,
    })
  }

  #alive(request: Request, now: number, running = request.taken > 0): boolean {
    if (request.settled) return false
    const { deadline, signal } = request.options
    if (signal?.aborted) settle(request, new Cancelled())
    else if (deadline !== undefined && deadline <= now) settle(request, new DeadlineExceeded(running))
    return !request.settled
  }

  #dropHead(): void {
    // What is left behind the head goes in bulk: shifting one by one would move the whole queue each time.
    this.#queue[this.#head++] = undefined as unknown as Request
    if (this.#head === this.#queue.length) {
      this.#queue = []
      this.#head = 0
    } else if (this.#head > 1024 && this.#head * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head)
      this.#head = 0
    }
  }

  #purge(): void {
    this.#queue = this.#queue.slice(this.#head).filter(request => !request.settled)
    this.#head = 0
    this.#retries = this.#retries.filter(({ request }) => !request.settled)
    this.#queueRows = countRows(this.#retries)
    for (const request of this.#queue) this.#queueRows += request.rows - request.taken
  }
}

function mayRunAgain(error: Error, batch: Batch, retries: number): boolean {
  if (error instanceof NotRun) return retries < unsentRetries
  const ownFault = error instanceof RunFailed || error instanceof InputRefused
  return ownFault && batch.pieces.length > 1 && retries === 0
}
