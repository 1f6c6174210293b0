/**
 * One model's queue: which rows run together, and whose they are. Whether a request is taken at all is for `Admission`
 * to say. Pure: time is an argument, workers are the scheduler's, and a batch is only described here.
 *
 *   submit ─▶ [ request, request, … ] ─ take ─▶ batch of pieces ─ (a worker) ─▶ succeed / fail ─▶ each request's promise
 */

import { Cancelled, DeadlineExceeded, InferenceError, InputRefused, NotRun, Overloaded, RunFailed } from '../errors.js'
import { copyInputs, hasRows, joinOutputs, sliceOutputs, stackInputs } from '../tensors/stack.js'
import type { Answers, ModelInfo, NamedTensors, RunOptions, RunResult } from '../types.js'
import type { Sample } from './adaptive-limit.js'
import {
  answerRows,
  type Batch,
  countRows,
  isInBackground,
  latestDeadline,
  type Piece,
  pick,
  pieceEnded,
  type Request,
  settle,
  shapeKey,
  startTraces,
  tellMeter,
  wantedOutputs,
} from './batch.js'
import { RequestQueue } from './request-queue.js'
import { ServiceTime } from './service-time.js'

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

/**
 * What a run may cost besides its rows, in milliseconds, for the rest of a turn not to be worth waiting for: about as
 * long as it takes to read what is missing of a batch.
 */
const cheapRunMs = 0.25

export class Batcher {
  readonly options: BatcherOptions
  readonly serviceTime: ServiceTime
  /** When the last run ended well. */
  ranAt = Number.NEGATIVE_INFINITY
  /** Called with each request that was answered. */
  onAnswered: ((sample: Sample, now: number) => void) | undefined
  readonly #queue = new RequestQueue()
  #queueRows = 0
  #runningRows = 0
  /** Pieces of batches that failed, each to be run once more by itself. */
  #retries: Piece[] = []
  /** How often a piece was put back. */
  readonly #retried = new WeakMap<Piece, number>()
  /**
   * A handful. No Set: the table that a Set or Map of V8 has outgrown refers to the next and keeps its entries, so once
   * one of them is old, garbage of all that runs after it is taken for alive, and is moved to the old generation.
   */
  readonly #running: Batch[] = []
  /** Of runs in their worker alone, while `serviceTime` also has what they wait for the main thread. */
  readonly #computeTime = new ServiceTime()
  #runsAreDear = false

  readonly #info: ModelInfo | undefined

  /** `info`: what results say has run. */
  constructor(options: BatcherOptions, serviceTime = new ServiceTime(), info?: ModelInfo) {
    this.options = options
    this.serviceTime = serviceTime
    this.#info = info
  }

  /** Rows that wait. */
  get queueRows(): number {
    return this.#queueRows
  }

  /** Rows that wait or run. */
  get busyRows(): number {
    return this.#queueRows + this.#runningRows
  }

  /**
   * Whether as much waits as is worth a run of its own though more is still being read in this turn: half a batch, so
   * that worker and main thread do not wait for each other in turns; or a whole one, where each run costs much however
   * few its rows.
   */
  get hasGoodPart(): boolean {
    const { maxRows } = this.options
    return this.#queueRows * 2 >= maxRows && (this.#queueRows >= maxRows || !this.#runsAreDear)
  }

  /** Nothing waits and nothing runs. */
  get idle(): boolean {
    return this.#queueRows === 0 && this.#running.length === 0
  }

  /** When the oldest waiting request arrived; undefined when none waits. */
  get oldestAt(): number | undefined {
    if (this.#retries.length > 0) return Number.NEGATIVE_INFINITY
    return this.#queue.oldestAt
  }

  /** Requests of one run are this many rows at most; what they usually are, where there is no such limit. */
  get runRows(): number {
    const { maxRows } = this.options
    return Number.isFinite(maxRows) ? maxRows : Math.max(1, this.serviceTime.meanRows)
  }

  /** Jain's index of how the model was shared of late: 1 where every caller had its due. */
  get fairnessIndex(): number {
    return this.#queue.fairnessIndex()
  }

  /** Whether something waits, and all of it in the background. */
  get isInBackground(): boolean {
    return this.#queueRows > 0 && this.#queueRows === this.#queue.backgroundRows
  }

  /** Expected milliseconds of one worker's time that all waiting rows will take which are not in the background. */
  backlogMs(): number {
    return this.#workMs(this.#queueRows - this.#queue.backgroundRows)
  }

  /** Expected milliseconds of one worker's time that those rows will take which run before such a request. */
  aheadMs({ rows, priority = 0, partitionKey = '' }: RunOptions, staleBefore: number): number {
    return this.#workMs(this.#queue.rowsBefore(rows, priority, partitionKey, staleBefore))
  }

  /** Expected milliseconds that a worker computes for a request of `rows` that runs alone; of the self-check before any. */
  computeMs(rows: number): number {
    return (this.#computeTime.known ? this.#computeTime : this.serviceTime).totalMs(rows, this.#runsOf(rows))
  }

  /** Expected milliseconds of one worker's time for a request of `rows`. */
  requestMs(rows: number): number {
    return this.serviceTime.totalMs(rows, this.#runsOf(rows))
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
        share: undefined,
        order: 0,
        taken: 0,
        done: 0,
        settled: false,
        running: 0,
        unknown: false,
        startedAt: 0,
        computeMs: 0,
        computeShareMs: 0,
        batchRows: 0,
        parts: undefined,
      })
      this.#queueRows += rows
    })
  }

  /** Notes that such a request was refused, for the fairness index. */
  refused(options: RunOptions, now: number): void {
    this.#queue.missed(options, now)
  }

  /** Whose places would make so many rows' room for such a request; undefined where there is not enough. */
  victims(missing: number, asked: RunOptions, staleBefore: number, now: number): readonly Request[] | undefined {
    return missing <= 0 ? [] : this.#queue.victims(missing, asked, staleBefore, now)
  }

  /** Has waiting requests give up their places. */
  evict(victims: readonly Request[], retryAfterMs: () => number, now: number): void {
    for (const request of victims) {
      const text = 'another request took the place of this one in the queue'
      this.#shed(request, new Overloaded('displaced', text, retryAfterMs()), now)
      this.#queueRows -= request.rows
    }
    this.#queue.remove(victims)
  }

  /** When the next batch may start: now, or when the oldest request has waited long enough for company. */
  readyAt(): number | undefined {
    const oldest = this.oldestAt
    if (oldest === undefined) return undefined
    const { mode, maxDelayMs, maxRows } = this.options
    if (mode !== 'shared' || maxDelayMs === 0 || this.#queueRows >= maxRows) return Number.NEGATIVE_INFINITY
    return oldest + maxDelayMs
  }

  /**
   * The next batch, for a worker that is free now; undefined when nothing waits. A caller whose oldest request came
   * before `staleBefore` has its newest run first: adaptive LIFO, as in B. Maurer, Fail at Scale (ACM Queue 13(8), 2015).
   * The callers of the oldest are the most likely to have given up, and in order of arrival all would be served too late.
   * `shedLate`: requests for which a run would end too late leave, so that another can use it.
   */
  take(now: number, staleBefore = Number.NEGATIVE_INFINITY, shedLate = true): Batch | undefined {
    for (let retry = this.#retries.shift(); retry !== undefined; retry = this.#retries.shift()) {
      this.#queueRows -= retry.rows
      if (!this.#alive(retry.request, now)) continue
      retry.request.running++
      return this.#start([retry], retry.rows, now)
    }
    const pieces: Piece[] = []
    let room = this.options.mode === 'alone' ? Number.POSITIVE_INFINITY : this.options.maxRows
    let shape: string | undefined
    const skipped: Request[] = []
    const unfinished: Request[] = []
    const queue = this.#queue
    while (room > 0 && skipped.length < lookAhead) {
      const request = queue.next(staleBefore)
      if (request === undefined) break
      if (!this.#alive(request, now) || (shedLate && this.#isHopeless(request, now))) {
        this.#queueRows -= request.rows - request.taken
        queue.take(request, 0, now)
        continue
      }
      // A run that somebody waits for takes no rows from the background.
      const [first] = pieces
      if (first !== undefined && isInBackground(request) && !isInBackground(first.request)) break
      if (shape !== undefined && request.shapeKey !== shape) {
        skipped.push(request)
        queue.take(request, 0, now)
        continue
      }
      const left = request.rows - request.taken
      // A request that would fit a batch whole is not torn for the sake of filling this one.
      if (left > room && request.rows <= this.options.maxRows) break
      const rows = Math.min(left, room)
      shape = request.shapeKey
      queue.take(request, rows, now)
      pieces.push(this.#piece(request, rows, now))
      room -= rows
      // A large request goes behind the others after each of its batches, so that small ones pass between.
      if (rows < left) unfinished.push(request)
      if (this.options.mode !== 'shared') break
    }
    queue.putBack(skipped)
    for (const request of unfinished) queue.push(request)
    return pieces.length === 0 ? undefined : this.#start(pieces, countRows(pieces), now)
  }

  /**
   * The batch has run. Outputs that do not have one entry a row could belong to anyone: they go to nobody. `answers`: in
   * place of outputs, to each of its requests.
   */
  succeed(batch: Batch, outputs: NamedTensors, computeMs: number, now: number, answers?: Answers): void {
    this.serviceTime.observe(batch.rows, now - batch.startedAt)
    this.#computeTime.observe(batch.rows, computeMs)
    this.#runsAreDear = this.#computeTime.line().overheadMs > cheapRunMs
    this.ranAt = now
    const whole = batch.pieces.length === 1 && (batch.pieces[0] as Piece).rows === batch.pieces[0]?.request.rows
    if (answers === undefined && !whole && !hasRows(outputs, batch.rows)) {
      const detail = `the model answered ${batch.rows} rows with another number of them`
      this.fail(batch, new RunFailed(detail, computeMs))
      return
    }
    this.#ended(batch)
    const bytes = answers === undefined ? undefined : viewOf(answers.bytes)
    const oldestAt = this.#queue.oldestAt ?? now
    let at = 0
    for (const [index, piece] of batch.pieces.entries()) {
      const { request } = piece
      let part = nothing
      let json: Buffer | undefined
      if (bytes === undefined) {
        part = whole
          ? pick(outputs, request.options.outputs)
          : sliceOutputs(outputs, at, piece.rows, request.options.outputs)
        at += piece.rows
      } else {
        const end = answers?.ends[index] as number
        json = bytes.subarray(at, end)
        at = end
      }
      request.computeMs += computeMs
      pieceEnded(piece, computeMs, batch.rows)
      request.batchRows = Math.max(request.batchRows, batch.rows)
      this.#answer(piece, part, now, oldestAt, json)
    }
  }

  /**
   * The batch has failed. Where the model itself failed, each request of it is run once more by itself, so that one
   * poisoned row fails only its own; what cannot have run goes back to the queue; any other error (a lost worker) is
   * the answer to all.
   */
  fail(batch: Batch, error: Error): void {
    this.#ended(batch)
    const ranMs = error instanceof InferenceError ? error.ranMs : 0
    for (const piece of batch.pieces) {
      pieceEnded(piece, ranMs, batch.rows)
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
      if (!this.#alive(request, now, running)) return
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
    for (const request of this.#queue) {
      look(request, request.taken > 0)
      if (request.settled) dead++
    }
    if (dead > 0) this.#purge()
    return { nextDeadline, watching }
  }

  /** Answers everything that waits with this error; what runs is left to end. */
  rejectWaiting(error: Error): void {
    for (const piece of this.#retries) settle(piece.request, error)
    for (const request of this.#queue) settle(request, error)
    this.#purge()
  }

  #start(pieces: readonly Piece[], rows: number, now: number): Batch {
    const batch: Batch = {
      pieces,
      rows,
      outputs: wantedOutputs(pieces),
      answerRows: answerRows(pieces),
      startedAt: now,
      deadline: latestDeadline(pieces),
      trace: startTraces(pieces, rows),
      onAbandoned: undefined,
      tensors: () => this.#tensors(pieces, rows),
    }
    this.#running.push(batch)
    this.#runningRows += rows
    return batch
  }

  #ended(batch: Batch): void {
    const index = this.#running.indexOf(batch)
    if (index === -1) return
    this.#running.splice(index, 1)
    this.#runningRows -= batch.rows
  }

  #workMs(rows: number): number {
    if (rows === 0) return 0
    const { mode, maxRows } = this.options
    const runs = mode === 'alone' ? (this.#queue.length * rows) / this.#queueRows : rows / maxRows
    return this.serviceTime.totalMs(rows, Math.ceil(runs))
  }

  /** Runs of a request that has none for company. */
  #runsOf(rows: number): number {
    return this.options.mode === 'alone' ? 1 : Math.ceil(rows / this.options.maxRows)
  }

  /** A run that would end too late for one request is left to another that can use it. */
  #isHopeless(request: Request, now: number): boolean {
    const { deadline } = request.options
    if (deadline === undefined || request.taken > 0 || this.#queue.length === 1) return false
    const runMs = this.requestMs(request.rows)
    if (now + runMs <= deadline) return false
    this.#shed(request, new Overloaded('too-late', 'the answer would come after the deadline', runMs), now)
    return true
  }

  /** A request leaves without the run that it needed. */
  #shed(request: Request, error: Error, now: number): void {
    settle(request, error)
    this.#queue.missed(request.options, now)
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
    request.running++
    this.#queueRows -= rows
    return piece
  }

  #answer(piece: Piece, part: NamedTensors, now: number, oldestAt: number, json: Buffer | undefined): void {
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
    tellMeter(request)
    const { arrivedAt, startedAt } = request
    const { deadline } = request.options
    this.onAnswered?.(
      {
        // Where the order is not that of arrival, those that are answered say nothing of those that wait.
        sojournMs: now - Math.min(arrivedAt, oldestAt),
        serviceMs: now - startedAt,
        givenMs: deadline === undefined ? undefined : deadline - arrivedAt,
        answeredRows: request.rows,
        batchRows: request.batchRows,
      },
      now,
    )
    request.resolve({
      ran: this.#info,
      outputs,
      json,
      queueMs: request.startedAt - request.arrivedAt,
      computeMs: request.computeMs,
      computeShareMs: request.computeShareMs,
      batchRows: request.batchRows,
    })
  }

  #alive(request: Request, now: number, running = request.taken > 0): boolean {
    if (request.settled) return false
    const { deadline, signal } = request.options
    if (signal?.aborted) settle(request, new Cancelled())
    else if (deadline !== undefined && deadline <= now) {
      if (running) settle(request, new DeadlineExceeded(true))
      else this.#shed(request, new DeadlineExceeded(false), now)
    }
    return !request.settled
  }

  #purge(): void {
    this.#queue.purge()
    this.#retries = this.#retries.filter(({ request }) => !request.settled)
    this.#queueRows = countRows(this.#retries) + this.#queue.rows
  }
}

const nothing: NamedTensors = {}

const viewOf = ({ buffer, byteOffset, byteLength }: Uint8Array<ArrayBuffer>): Buffer =>
  Buffer.from(buffer, byteOffset, byteLength)

function mayRunAgain(error: Error, batch: Batch, retries: number): boolean {
  if (error instanceof NotRun) return retries < unsentRetries
  const ownFault = error instanceof RunFailed || error instanceof InputRefused
  return ownFault && batch.pieces.length > 1 && retries === 0
}
