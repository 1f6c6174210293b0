/** What the Open Inference Protocol tells about a server and its models. Pure. */
import { show } from '../inference/tensors/tensor.js'
import type { Dimension, ModelInfo, ModelStats, Models, TensorSpec } from '../inference/types.js'
import { readJson } from '../inference/v2-codec/json.js'
import { invalid, objectAt } from '../inference/v2-codec/tensors.js'

/** Those that are implemented in full. `model_repository`: models can be loaded and unloaded, with the admin token. */
export const extensions = (canLoad: boolean): readonly string[] => [
  'binary_tensor_data',
  'statistics',
  ...(canLoad ? ['model_repository'] : []),
]

export interface TensorMetadata {
  readonly name: string
  readonly datatype: string
  /** -1 for a dimension that varies, the batch dimension included. */
  readonly shape: readonly number[]
}

export interface ModelMetadata {
  readonly name: string
  /** Those that may stand in a URL, the newest first. */
  readonly versions: readonly string[]
  /** `onnx_onnxv1`, or what the backend of a remote model says. */
  readonly platform: string
  readonly inputs: readonly TensorMetadata[]
  readonly outputs: readonly TensorMetadata[]
}

export function modelMetadata(
  { name, inputs, outputs, platform = 'onnx_onnxv1' }: ModelInfo,
  versions: readonly string[],
): ModelMetadata {
  return {
    name,
    versions,
    platform,
    inputs: inputs.map(tensorMetadata),
    outputs: outputs.map(tensorMetadata),
  }
}

/** The protocol has no way to say that the rank is free as well; one variable dimension comes nearest. */
const tensorMetadata = ({ name, datatype, shape, anyShape }: TensorSpec): TensorMetadata => ({
  name,
  datatype,
  shape: anyShape ? [-1] : shape.map(size),
})

const size = (dimension: Dimension): number => (typeof dimension === 'number' ? dimension : -1)

/** One line of the repository's index. */
export interface IndexEntry {
  readonly name: string
  readonly version?: string
  readonly state: 'READY' | 'UNAVAILABLE' | 'LOADING'
  readonly reason: string
}

/** Every version that is loaded, and every one that could not be. Why it could not is for the log: it names paths. */
export function repositoryIndex(models: Models): readonly IndexEntry[] {
  const loaded = models
    .list()
    .flatMap(({ info: { name } }) =>
      models.versions(name).map(({ info: { version } }): IndexEntry => ({ name, version, state: 'READY', reason: '' })),
    )
  const reason = 'it could not be loaded as it is in the folder; the log says why'
  const broken = models.broken.map(
    ({ name, version }): IndexEntry => ({
      name,
      ...(version === undefined ? {} : { version }),
      state: 'UNAVAILABLE',
      reason,
    }),
  )
  // A version that broke when it was changed is still served as it was before.
  const isServed = (entry: IndexEntry) =>
    loaded.some(({ name, version }) => name === entry.name && version === entry.version)
  const loading = (models.loading ?? []).map((name): IndexEntry => ({ name, state: 'LOADING', reason: '' }))
  return [...loaded, ...loading, ...broken.filter(entry => !isServed(entry))]
}

/** What versions have run, in the form of Triton's extension `statistics`: durations are in nanoseconds. */
export function statistics(stats: readonly ModelStats[]): object {
  const total = (count: number, ms: number) => ({ count, ns: Math.round(ms * 1e6) })
  return {
    model_stats: stats.map(({ name, version, rows, batches, failedBatches, queueMs, computeMs, lastAt, bySize }) => ({
      name,
      version,
      last_inference: lastAt,
      inference_count: rows,
      execution_count: batches,
      inference_stats: {
        success: total(batches, queueMs + computeMs),
        fail: total(failedBatches, 0),
        queue: total(batches, queueMs),
        compute_input: total(batches, 0),
        compute_infer: total(batches, computeMs),
        compute_output: total(batches, 0),
      },
      batch_stats: [...bySize]
        .sort(([a], [b]) => a - b)
        .map(([size, { count, ms }]) => ({
          batch_size: size,
          compute_input: total(count, 0),
          compute_infer: total(count, ms),
          compute_output: total(count, 0),
        })),
    })),
  }
}

/** The body of an index request: none, or `{ "ready": true }` for what can be called only. Throws InvalidInput. */
export function readIndexRequest(body: Buffer): { readonly readyOnly: boolean } {
  if (body.length === 0) return { readyOnly: false }
  const { ready } = objectAt(readJson(body).value, '')
  if (ready === undefined || typeof ready === 'boolean') return { readyOnly: ready === true }
  throw invalid('ready', `is ${show(ready)}; it takes true or false`)
}
