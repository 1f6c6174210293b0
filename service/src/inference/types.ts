/** The words of the inference rooms: what a tensor, a model and a run are. No behaviour, no imports. */

/** Open Inference Protocol names of the datatypes that a served model may use. */
export type Datatype =
  | 'BOOL'
  | 'UINT8'
  | 'UINT16'
  | 'UINT32'
  | 'UINT64'
  | 'INT8'
  | 'INT16'
  | 'INT32'
  | 'INT64'
  | 'FP16'
  | 'FP32'
  | 'FP64'
  | 'BYTES'

/**
 * Elements in row-major order. BOOL is 0 or 1 in a Uint8Array, FP16 the raw 16 bits in a Uint16Array,
 * INT64 and UINT64 are BigInt arrays, BYTES (ONNX strings) an array of strings.
 */
export type TensorData =
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | BigUint64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Float32Array
  | Float64Array
  | string[]

export interface Tensor {
  readonly datatype: Datatype
  /** Every dimension, the batch dimension first. */
  readonly shape: readonly number[]
  readonly data: TensorData
}

export type NamedTensors = Readonly<Record<string, Tensor>>

/** A dimension of a signature: its size, or the name of a dynamic one (`'?'` where the model gives none). */
export type Dimension = number | string

export interface TensorSpec {
  readonly name: string
  readonly datatype: Datatype
  /** The batch dimension included. */
  readonly shape: readonly Dimension[]
  /** The file states no shape: tensors of any shape are taken. */
  readonly anyShape?: boolean
}

export interface Signature {
  readonly inputs: readonly TensorSpec[]
  readonly outputs: readonly TensorSpec[]
}

/** How requests for one model share runs; `reason` says why a model is served one request at a time. */
export type Batching =
  | { readonly enabled: true; readonly maxRows: number }
  | { readonly enabled: false; readonly reason: string }

/** One value of a row by its name, alone or with what is known of it. */
export type Feature =
  | string
  | {
      readonly name: string
      /** Texts that the value may be. Where the model takes numbers, each stands for its place in this list. */
      readonly categories?: readonly string[]
      /** What stands for a value that is missing or null. */
      readonly default?: unknown
    }

/** How pictures become rows. */
export interface ImageJson {
  /** The input that takes the picture; the only one when left out. */
  readonly input?: string
  /** Pixels; those of the input's shape when left out. */
  readonly width?: number
  readonly height?: number
  /** The order of the channels: by default `gray` for one, `rgb` for three. */
  readonly channels?: 'rgb' | 'bgr' | 'gray'
  /** Channels before or behind the pixels; by default as the input's shape tells. */
  readonly layout?: 'nchw' | 'nhwc'
  /** How a picture of another shape is fitted: cut (`cover`, the default), with edges (`contain`), or stretched (`fill`). */
  readonly fit?: 'fill' | 'cover' | 'contain'
  /** Whether black is 255 and white is 0. */
  readonly invert?: boolean
  /** A value is (pixel × scale − mean) / std, a pixel being 0 to 255. By default 1/255 for floats, and 1 for integers. */
  readonly scale?: number
  /** One value a channel, in the order of the channels. */
  readonly mean?: readonly number[]
  readonly std?: readonly number[]
}

/** What `GET /v1/models/:name` tells about one loaded version. */
export interface ModelInfo extends Signature {
  readonly name: string
  readonly version: string
  readonly description?: string
  /** Names of the values of a row, in their order, or of the inputs. */
  readonly features?: readonly Feature[]
  /** How pictures become rows, of models that take them. */
  readonly image?: ImageJson
  /** Class names by index, where the model is a classifier. */
  readonly labels?: readonly string[]
  /** The output that names the class, where model.json says so. */
  readonly labelOutput?: string
  /** The output with one value a class, where model.json says so. */
  readonly scoreOutput?: string
  /** Share of held-out rows predicted rightly, 0 to 1, as model.json states it. */
  readonly testAccuracy?: number
  /** Held-out rows that this was measured on. */
  readonly testRows?: number
  readonly license?: string
  readonly source?: string
  /** Credits of each request, and of each of its rows, as model.json states them. */
  readonly cost?: { readonly request?: number; readonly row?: number }
  /** What runs the model, in the words of the backend's metadata; left out where it runs here. */
  readonly platform?: string
  /** A body that `POST /v1/predict` accepts for this model. */
  readonly sample: Readonly<Record<string, unknown>>
  readonly batching: Batching
}

/** Who waits for an answer. An AbortSignal is one. It is asked now and then, so that nobody has to listen. */
export interface Caller {
  /** True once nobody waits any more. */
  readonly aborted: boolean
}

/** Whoever traces a request is told here how it fares. */
export interface RunTrace {
  /** A batch of so many rows begins with it in; `first` is that of the batch's first request that is traced. */
  started(batchRows: number, first: RunTrace): void
  /** Its batch is sent to `url` now. Returns the headers by which the trace goes on there. */
  sent(url: string): Readonly<Record<string, string>>
}

/** What became of the runs of a request. `unknown`: a run began, and nobody can tell how much of it ran. */
export type RunOutcome = 'ran' | 'not-run' | 'unknown'

/** Whoever pays for a request learns here what ran for it. */
export interface ComputeMeter {
  /**
   * Called exactly once for each call of `Model.run`, as soon as nothing of the request runs any more or will run: with
   * the end of its last batch, also where its caller has gone or its deadline has passed meanwhile; or at once where it
   * is refused or leaves the queue before it runs. It is called before the promise of `run` settles, or after that where
   * the caller stopped waiting for a run that goes on.
   *
   * `computeMs`: milliseconds of a worker that its runs took, failed ones included; of a run that it shared the part of
   * its rows. 0 for `not-run`. For `unknown` only what is known, which may be 0.
   */
  ended(outcome: RunOutcome, computeMs: number): void
}

export interface RunOptions {
  /** Rows in this request: the size of the batch dimension, or 1 for a model without one. */
  readonly rows: number
  /** The version that was asked for by name, if any: no other may run in its place after a reload. */
  readonly version?: string | undefined
  /** Outputs wanted; all when left out. */
  readonly outputs?: readonly string[] | undefined
  /** The answer of `/v1` will do in place of all outputs: what runs the model may write it, so that nobody else need. */
  readonly json?: boolean | undefined
  /** Once it is aborted the request leaves the queue, within 50 ms; a run that has begun ends unheard. */
  readonly signal?: Caller
  /** Whose requests go first where several wait: the higher. 0 by default. */
  readonly priority?: number
  /** Whose request it is. Callers of one priority share the model: who was served least of late goes first. */
  readonly partitionKey?: string | undefined
  /** Latest `performance.now()` at which an answer is still of use, in milliseconds. */
  readonly deadline?: number
  readonly trace?: RunTrace
  readonly meter?: ComputeMeter | undefined
}

/** What decides whether a request is taken; but for the rows it is known before its body is read. */
export type Asked = Pick<RunOptions, 'rows' | 'deadline' | 'priority' | 'partitionKey'>

/** Answers to requests that shared a run, one behind the other. */
export interface Answers {
  /** JSON in UTF-8. */
  readonly bytes: Uint8Array<ArrayBuffer>
  /** Where each ends. */
  readonly ends: Uint32Array<ArrayBuffer>
}

export interface RunResult {
  /** The version that ran: another than the one that was asked where a reload came between. */
  readonly ran?: ModelInfo | undefined
  /** None where `json` is there instead. */
  readonly outputs: NamedTensors
  /** The answer of `/v1`, in UTF-8, where it was asked for and what ran the model has written it. */
  readonly json?: Uint8Array | undefined
  /** Milliseconds between admission to the queue and the start of the run. */
  readonly queueMs: number
  /** Milliseconds the batch took in the worker. */
  readonly computeMs: number
  /** The part of it that falls to this request, by its rows. What failed and was run again is counted twice. */
  readonly computeShareMs: number
  /** Rows of the whole batch that this request ran in (the largest, where it was split). */
  readonly batchRows: number
}

/** One loaded version of a model, ready to run. */
export interface Model {
  readonly info: ModelInfo
  /** False while no worker or backend is up that could run it. */
  readonly ready?: boolean
  run(inputs: NamedTensors, options: RunOptions): Promise<RunResult>
  /**
   * Expected milliseconds of a worker for a request of `rows` that runs alone, learnt from past batches: what its
   * `ComputeMeter` will be told at most, unless the model gets slower. 0 before the model has run at all.
   */
  predictedMs?(rows: number): number
  /** Jain's index of how callers shared the model of late: 1 where each had its due, 1/n where one of n had all. */
  readonly fairnessIndex?: number
  /**
   * What such a request would be refused with if it came now; undefined where it would be taken. Counts nothing. Throws
   * UnknownModel where this one was unloaded.
   */
  refusalOf?(asked: Asked): Error | undefined
}

/** One model of the repository that could not be loaded, and why. */
export interface BrokenModel {
  readonly name: string
  readonly version?: string
  readonly reason: string
}

export interface ReloadReport {
  readonly loaded: readonly string[]
  readonly unchanged: readonly string[]
  readonly removed: readonly string[]
  readonly broken: readonly BrokenModel[]
}

/** How a shadow has answered so far, beside what was given to callers. */
export interface ShadowTally {
  readonly requests: number
  /** Rows of those that both versions answered. */
  readonly rows: number
  /** Requests that the shadow did not answer. */
  readonly failed: number
  /** Rows to which both versions gave a label, and those where it was the same. */
  readonly labelled: number
  readonly agreed: number
  /** Of all values of outputs that both versions have. */
  readonly largestDifference: number
}

/** Which of a model's versions answers. */
export interface RoutingInfo {
  readonly defaultVersion: string
  /** Shares of the callers that ask for no version, from 0 to 1. */
  readonly split?: Readonly<Record<string, number>>
  readonly shadow?: ShadowTally & { readonly version: string; readonly share: number }
}

/** What a version has run so far. */
export interface ModelStats {
  readonly name: string
  readonly version: string
  /** Rows that were answered, and batches that answered them. */
  readonly rows: number
  readonly batches: number
  readonly failedBatches: number
  /** Milliseconds, over all batches: how long the first request of each had waited, and how long each ran. */
  readonly queueMs: number
  readonly computeMs: number
  /** When the last batch ended, as `Date.now()`; 0 before. */
  readonly lastAt: number
  readonly bySize: ReadonlyMap<number, { readonly count: number; readonly ms: number }>
}

/** Everything that routes know of inference. */
export interface Models {
  /** The default version of each model, by name. */
  list(): readonly Model[]
  /** All loaded versions of one model, newest first; empty when there is none. */
  versions(name: string): readonly Model[]
  /**
   * The model asked for, or the default one where no name is given.
   * Throws UnknownModel (404, naming what exists), or ModelRequired (400) when no name is given and no default is set.
   * `caller` has the same version of a model whose callers are split, as long as the split stays the same.
   */
  get(name?: string, version?: string, caller?: string): Model
  /** Which version of a model answers; undefined where there is no such model, or nobody can tell. */
  routing?(name: string): RoutingInfo | undefined
  /** What each version of a model that serves has run. */
  stats?(name: string): readonly ModelStats[]
  /** Loads a model again that was unloaded, or takes one out until it is loaded again. Rejects with NoModels. */
  setLoaded?(name: string, loaded: boolean): Promise<void>
  readonly broken: readonly BrokenModel[]
  /** Models that the first load has neither loaded nor refused so far; left out or empty once it is over. */
  readonly loading?: readonly string[]
  /** What else is not as it should be, in words that a stranger may know. */
  readonly faults?: readonly string[]
  /** Rows that wait, over all models. */
  readonly queueRows: number
  /**
   * Takes results of runs that have come in this turn of the event loop, so that workers get their next batch before more
   * is refused. Cheap enough to be called for each refusal. Where nothing is refused, a batch that begins later has more
   * rows.
   */
  takeResults?(): void
  /** False until every model is loaded and warm, and again while workers are missing or no model has anything to run on. */
  readonly ready: boolean
  /** Reads the folder again; versions that changed are swapped, requests in flight end on the old ones. */
  reload(): Promise<ReloadReport>
  /** Ends every run that has begun, then the workers. Never stops a busy worker. */
  close(): Promise<void>
}

/** The part of Fastify's logger that is used here. */
export interface Log {
  info(details: object, message: string): void
  warn(details: object, message: string): void
  error(details: object, message: string): void
}
