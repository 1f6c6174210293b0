/** What waits and what runs: a request, the pieces it is cut into, the batch they go in. Pure. */
import type { NamedTensors, RunOptions, RunResult, Tensor } from './types.js'

/** A request in the queue or in a run. */
export interface Request {
  readonly inputs: NamedTensors
  readonly rows: number
  readonly shapeKey: string
  readonly options: RunOptions
  readonly arrivedAt: number
  readonly resolve: (result: RunResult) => void
  readonly reject: (error: Error) => void
  /** Rows handed to batches so far, and rows answered. */
  taken: number
  done: number
  settled: boolean
  startedAt: number
  computeMs: number
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

/** What one run gets. */
export interface Batch {
  readonly pieces: readonly Piece[]
  readonly rows: number
  /** Outputs that any of the requests wants; all when undefined. */
  readonly outputs: readonly string[] | undefined
  readonly startedAt: number
  /** The run's input, in memory of its own. */
  tensors(): NamedTensors
}

export function settle(request: Request, error: Error): void {
  if (request.settled) return
  request.settled = true
  request.reject(error)
}

export function countRows(pieces: readonly Piece[]): number {
  let rows = 0
  for (const piece of pieces) rows += piece.rows
  return rows
}

export function wantedOutputs(pieces: readonly Piece[]): readonly string[] | undefined {
  const wanted = new Set<string>()
  for (const { request } of pieces) {
    if (request.options.outputs === undefined) return undefined
    for (const name of request.options.outputs) wanted.add(name)
  }
  return [...wanted]
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
