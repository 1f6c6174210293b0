/** What pool and worker say to each other. Arrays, not objects: one small message a batch, cheap to clone. */
import type { Answered } from '../tensors/predictions.js'
import type { OrtValueMetadata } from '../tensors/signature.js'
import type { Answers, Datatype, NamedTensors, Tensor, TensorData } from '../types.js'

/** A tensor on its way: name, datatype, shape, data (moved, not copied, between threads). */
export type WireTensor = readonly [name: string, datatype: Datatype, shape: readonly number[], data: TensorData]

export interface SessionOptions {
  /** Threads of one run. */
  readonly threads: number
}

export type ToWorker =
  | readonly ['load', id: number, key: string, bytes: Uint8Array, options: SessionOptions]
  /** From now on answers of this model can be asked for. */
  | readonly ['describe', key: string, model: Answered]
  | readonly [
      'run',
      id: number,
      key: string,
      feeds: readonly WireTensor[],
      outputs: readonly string[] | undefined,
      answerRows: readonly number[] | undefined,
    ]
  | readonly ['close']

export type FromWorker =
  | readonly ['up']
  | readonly ['loaded', id: number, inputs: readonly OrtValueMetadata[], outputs: readonly OrtValueMetadata[]]
  | readonly ['done', id: number, computeMs: number, outputs: readonly WireTensor[], answers: Answers | undefined]
  | readonly ['failed', id: number, message: string, ranMs: number]

export function tensorsOf(wires: readonly WireTensor[]): NamedTensors {
  const tensors: Record<string, Tensor> = {}
  for (const [name, datatype, shape, data] of wires) tensors[name] = { datatype, shape, data }
  return tensors
}
