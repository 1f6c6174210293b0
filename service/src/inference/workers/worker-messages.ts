/** What pool and worker say to each other. Arrays, not objects: one small message a batch, cheap to clone. */
import type { MessagePort } from 'node:worker_threads'
import type { Answered } from '../tensors/predictions.js'
import type { OrtValueMetadata } from '../tensors/signature.js'
import type { Answers, Datatype, NamedTensors, Tensor, TensorData } from '../types.js'
import type { CheckTask, SampleTask, SelfCheckResult } from './self-check.js'
import type { SessionOptions } from './session-options.js'

/** A tensor on its way: name, datatype, shape, data (moved, not copied, between threads). */
export type WireTensor = readonly [name: string, datatype: Datatype, shape: readonly number[], data: TensorData]

/** Where a session is made from: a file, or bytes whose weights, if they are elsewhere, are in `folder`. */
export type SessionSource = { readonly path: string } | { readonly bytes: Uint8Array; readonly folder?: string }

export type ToWorker =
  | readonly ['load', id: number, key: string, source: SessionSource, options: SessionOptions]
  /** Runs the self-check on a model that is loaded. */
  | readonly ['check', id: number, key: string, task: CheckTask]
  /** Runs a model on its sample, alone and in a full batch. */
  | readonly ['warm', id: number, key: string, task: SampleTask, maxRows: number]
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
  | readonly ['unload', key: string]
  | readonly ['close']

export type FromWorker =
  | readonly ['up']
  | readonly [
      'loaded',
      id: number,
      inputs: readonly OrtValueMetadata[],
      outputs: readonly OrtValueMetadata[],
      warnings: readonly string[],
    ]
  | readonly ['checked', id: number, result: SelfCheckResult]
  | readonly ['warmed', id: number]
  | readonly ['done', id: number, computeMs: number, outputs: readonly WireTensor[], answers: Answers | undefined]
  | readonly ['failed', id: number, message: string, ranMs: number]

/** What a worker that is a thread gets: where its messages go to, and a counter of those that were sent. */
export interface FromThread {
  readonly answers: MessagePort
  readonly sent: Int32Array
}

export function tensorsOf(wires: readonly WireTensor[]): NamedTensors {
  const tensors: Record<string, Tensor> = {}
  for (const [name, datatype, shape, data] of wires) tensors[name] = { datatype, shape, data }
  return tensors
}
