/** One version of a model on its way into a worker: loaded, checked, described. */

import { ModelBroken } from '../errors.js'
import { Batcher, type BatcherOptions } from '../queue/batcher.js'
import { tellsLabels } from '../tensors/predictions.js'
import { type RowLayout, rowLayout, signatureOf } from '../tensors/signature.js'
import { copyInputs, stackInputs } from '../tensors/stack.js'
import type { Batching, ModelInfo, NamedTensors, Signature } from '../types.js'
import type { Host } from '../workers/host.js'
import type { PooledModel } from '../workers/pool.js'
import { type SelfCheckResult, selfCheck } from '../workers/self-check.js'
import type { ModelFiles } from './model-files.js'

export interface LoadOptions {
  /** The name of this version in the workers: never given twice, so that old and new can serve side by side. */
  readonly key: string
  readonly batchMaxRows: number | undefined
  readonly batchMaxDelayMs: number
  /** Workers there are. */
  readonly poolSize: number
}

export interface LoadedModel {
  readonly info: ModelInfo
  readonly layout: RowLayout
  readonly batcher: Batcher
  readonly pooled: PooledModel
}

/** Throws Error with the reason why the model cannot be served. */
export async function loadModel(files: ModelFiles, host: Host, options: LoadOptions): Promise<LoadedModel> {
  const { name, json, bytes, onnx } = files
  const { key } = options
  const session = { threads: json.threads ?? threadsFor(json.workers, options.poolSize) }
  const metadata = await host.load(key, bytes, session)
  const unknownRanks = onnx.inputs.filter(({ rank }) => rank === undefined).map(each => each.name)
  const signature = signatureOf(metadata.inputs, metadata.outputs, new Set(unknownRanks))
  const labels = labelsFor(files, signature)
  const maxRows = json.maxBatchRows ?? options.batchMaxRows
  const check = await selfCheck(signature, {
    name,
    sample: json.sample,
    // A run takes its inputs' memory away, and the check goes on using them.
    run: inputs => host.run(key, copyInputs(inputs), undefined),
    now: () => performance.now(),
    ...(json.batching === undefined ? {} : { batching: json.batching }),
    ...(maxRows === undefined ? {} : { maxRows }),
  })
  const layout = rowLayout(signature)
  const workers = json.workers ?? Number.POSITIVE_INFINITY
  const info = describe(files, signature, labels, check)
  const batcher = new Batcher(batcherOptions(signature, layout, check.batching, options), check.serviceTime, info)
  host.describe(key, info)
  const pooled: PooledModel = {
    key,
    bytes,
    session,
    workers,
    warm: other => {
      other.describe(key, info)
      return warm(other, key, check)
    },
  }
  return { info, layout, batcher, pooled }
}

/** The share of one of `workers`, where there are fewer than the pool has: so the model still has all cores. */
export const threadsFor = (workers: number | undefined, poolSize: number): number =>
  workers === undefined ? 1 : Math.max(1, Math.floor(poolSize / workers))

/** Labels that no output could tell are a mistake of model.json, and chance in the file's own metadata. */
function labelsFor({ labels, json }: ModelFiles, signature: Signature): readonly string[] | undefined {
  if (labels === undefined || tellsLabels({ ...signature, labels })) return labels
  if (json.labels === undefined) return undefined
  throw new ModelBroken(`model.json: 'labels' has ${labels.length} entries, and no output has as many values a row`)
}

export function batcherOptions(
  signature: Signature,
  layout: RowLayout,
  batching: Batching,
  { batchMaxDelayMs }: Pick<LoadOptions, 'batchMaxDelayMs'>,
): BatcherOptions {
  const mode = batching.enabled ? 'shared' : layout === 'single' ? 'split' : 'alone'
  const maxRows = batching.enabled ? batching.maxRows : layout === 'single' ? 1 : Number.POSITIVE_INFINITY
  const shapesVary = signature.inputs.some(({ shape }) => shape.slice(1).some(each => typeof each === 'string'))
  return { mode, maxRows, maxDelayMs: batchMaxDelayMs, shapesVary }
}

/** The first runs of a session are slower than the later ones: of one row, and of a full batch. */
async function warm(host: Host, key: string, { batching, inputs }: SelfCheckResult): Promise<void> {
  const run = async (tensors: NamedTensors) => {
    // An input made up for a model that takes others fails here as it did at the check; requests will tell.
    await host.run(key, tensors, undefined).catch(() => {})
  }
  await run(copyInputs(inputs))
  if (!batching.enabled) return
  const parts = Array.from({ length: batching.maxRows }, () => ({ inputs, from: 0, rows: 1 }))
  await run(stackInputs(parts, batching.maxRows))
}

function describe(
  { name, version, json, onnx }: ModelFiles,
  signature: Signature,
  labels: readonly string[] | undefined,
  { sample, batching }: SelfCheckResult,
): ModelInfo {
  const { description = onnx.description, testAccuracy, testRows, license, source, cost } = json
  return {
    name,
    version,
    ...(description === '' ? {} : { description }),
    ...signature,
    ...(labels === undefined ? {} : { labels }),
    ...(testAccuracy === undefined ? {} : { testAccuracy }),
    ...(testRows === undefined ? {} : { testRows }),
    ...(cost === undefined ? {} : { cost }),
    ...(license === undefined ? {} : { license }),
    ...(source === undefined ? {} : { source }),
    sample,
    batching,
  }
}
