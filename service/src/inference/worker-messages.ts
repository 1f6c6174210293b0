/** What pool and worker say to each other. Arrays, not objects: one small message a batch, cheap to clone. */
import type { OrtValueMetadata } from './signature.js'
import type { Datatype, TensorData } from './types.js'

/** A tensor on its way: name, datatype, shape, data (moved, not copied, between threads). */
export type WireTensor = readonly [name: string, datatype: Datatype, shape: readonly number[], data: TensorData]

export interface SessionOptions {
  /** Threads of one run. */
  readonly threads: number
}

export type ToWorker =
  | readonly ['load', id: number, key: string, bytes: Uint8Array, options: SessionOptions]
  | readonly ['run', id: number, key: string, feeds: readonly WireTensor[], outputs: readonly string[] | undefined]
  | readonly ['close']

export type FromWorker =
  | readonly ['up']
  | readonly ['loaded', id: number, inputs: readonly OrtValueMetadata[], outputs: readonly OrtValueMetadata[]]
  | readonly ['done', id: number, computeMs: number, outputs: readonly WireTensor[]]
  | readonly ['failed', id: number, message: string]
