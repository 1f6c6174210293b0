/** How a session is made: `session` of model.json, with the names that onnxruntime-node has for it. */

export const providerNames = ['cuda', 'tensorrt', 'coreml', 'dml', 'openvino', 'webgpu', 'cpu'] as const
export type ProviderName = (typeof providerNames)[number]

/** A provider by its name, or with options of its own, such as `{ "name": "cuda", "deviceId": 1 }`. */
export type Provider = ProviderName | ({ readonly name: ProviderName } & Readonly<Record<string, unknown>>)

export const optimizationLevels = ['disabled', 'basic', 'extended', 'layout', 'all'] as const

export interface SessionJson {
  /** The first that is there runs each part of the graph; `cpu` is always the last. `["cpu"]` by default. */
  readonly executionProviders?: readonly Provider[]
  /** What happens where one of them is not there. `fallback`: the others are used, with a warning. `refuse`: the model is not served. */
  readonly onMissingProvider?: 'fallback' | 'refuse'
  readonly graphOptimizationLevel?: (typeof optimizationLevels)[number]
  /** Threads of one run. */
  readonly threads?: number
  /** Whether the runtime keeps memory for the next run. */
  readonly enableCpuMemArena?: boolean
  /** Whether the runtime plans the memory of a run from that of the one before. */
  readonly enableMemPattern?: boolean
  /**
   * `false`: weights stay as they are in the file. All sessions of a machine then share those in files beside the model,
   * and large batches take longer.
   */
  readonly prepacking?: boolean
}

/** The same with what a model always has. */
export interface SessionOptions extends SessionJson {
  readonly threads: number
}

export const nameOfProvider = (provider: Provider): ProviderName =>
  typeof provider === 'string' ? provider : provider.name
