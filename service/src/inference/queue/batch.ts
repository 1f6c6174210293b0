/** What waits and what runs: a request, the pieces it is cut into, the batch they go in. Pure. */
import type { NamedTensors, RunOptions, RunResult, RunTrace, Tensor } from '../types.js'
import { background } from './admission-constants.js'
import type { Share } from './request-queue.js'

/** A request in the queue or in a run. */
export interface Request {
  readonly inputs: NamedTensors
  readonly rows: number
  readonly shapeKey: string
  readonly options: RunOptions
  readonly arrivedAt: number
  readonly resolve: (result: RunResult) => void
  readonly reject: (error: Error) => void
  /** Its caller's part in the queue, and its place there: both are set when it first waits. */
  share: Share | undefined
  order: number
  /** Rows handed to batches so far, and rows answered. */
  taken: number
  done: number
  settled: boolean
  /** Pieces of it that run now. */
  running: number
  /** A run of it began, and nobody can tell how much of it ran. */
  unknown: boolean
  startedAt: number
  computeMs: number
  computeShareMs: number
  batchRows: number
  /** Outputs of the pieces of a split request, by their place. */
  parts: (NamedTensors | undefined)[] | undefined
}

export interface Piece {
  readonly request: Request
  readonly from: number
  readonly rows: number
  /** Place among the request's pieces. */
  readonly index: number
}

/** What a run may know of those who wait for it; a worker that cannot stop a run has no use for it. */
export interface RunControl {
  /** Latest `performance.now()` at which the answer is of use to any of them; undefined where one of them sets none. */
  readonly deadline: number | undefined
  /** Rows of each request, where all of them are in it whole and are to be answered in JSON. */
  readonly answerRows?: readonly number[] | undefined
  /** That of the first of them who is traced. */
  readonly trace?: RunTrace | undefined
  /** Set by a runner that can stop: called when nobody waits for the answer any more. */
  onAbandoned: (() => void) | undefined
}

/** What one run gets. */
export interface Batch extends RunControl {
  readonly pieces: readonly Piece[]
  readonly rows: number
  /** Outputs that any of the requests wants; all when undefined. */
  readonly outputs: readonly string[] | undefined
  readonly startedAt: number
  /** The run's input, in memory of its own. */
  tensors(): NamedTensors
}

/** Whether nobody waits for it: see `background`. */
export const isInBackground = ({ options: { priority = 0 } }: Request): boolean => priority <= background.priority

export function settle(request: Request, error: Error): void {
  if (request.settled) return
  request.settled = true
  if (request.running === 0) tellMeter(request)
  request.reject(error)
}

/** A run of the piece has ended, after its part of so many milliseconds; undefined where nobody knows. */
export function pieceEnded({ request, rows }: Piece, computeMs: number | undefined, batchRows: number): void {
  request.running--
  if (computeMs === undefined) request.unknown = true
  else request.computeShareMs += (computeMs * rows) / batchRows
  if (request.settled && request.running === 0) tellMeter(request)
}

/** Nothing of it runs, or will. */
export function tellMeter({ options, unknown, computeShareMs }: Request): void {
  const outcome = unknown ? 'unknown' : computeShareMs > 0 ? 'ran' : 'not-run'
  options.meter?.ended(outcome, computeShareMs)
}

export function countRows(pieces: readonly Piece[]): number {
  let rows = 0
  for (const piece of pieces) rows += piece.rows
  return rows
}

export function latestDeadline(pieces: readonly Piece[]): number | undefined {
  let latest = Number.NEGATIVE_INFINITY
  for (const { request } of pieces) latest = Math.max(latest, request.options.deadline ?? Number.POSITIVE_INFINITY)
  return latest === Number.POSITIVE_INFINITY ? undefined : latest
}

/** Tells those who trace that their requests run. Returns what stands for the batch in its own calls. */
export function startTraces(pieces: readonly Piece[], batchRows: number): RunTrace | undefined {
  let first: RunTrace | undefined
  for (const { request } of pieces) {
    const { trace } = request.options
    if (trace === undefined) continue
    first ??= trace
    trace.started(batchRows, first)
  }
  return first
}

export function wantedOutputs(pieces: readonly Piece[]): readonly string[] | undefined {
  const wanted = new Set<string>()
  for (const { request } of pieces) {
    if (request.options.outputs === undefined) return undefined
    for (const name of request.options.outputs) wanted.add(name)
  }
  return [...wanted]
}

/** Rows of each request; undefined where one of them is in pieces, or wants its outputs. */
export function answerRows(pieces: readonly Piece[]): readonly number[] | undefined {
  const counts: number[] = []
  for (const { request, rows } of pieces) {
    const { json, outputs } = request.options
    if (json !== true || outputs !== undefined || rows !== request.rows) return undefined
    counts.push(rows)
  }
  return counts
}

export function pick(outputs: NamedTensors, wanted: readonly string[] | undefined): NamedTensors {
  if (wanted === undefined) return outputs
  return Object.fromEntries(wanted.map(name => [name, outputs[name] as Tensor]))
}

/** Everything in which rows must agree to run together, besides the datatypes, which the signature fixes. */
export function shapeKey(inputs: NamedTensors): string {
  let key = ''
  for (const name of Object.keys(inputs).sort()) key += `${(inputs[name] as Tensor).shape.slice(1).join()};`
  return key
}
