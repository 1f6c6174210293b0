/**
 * Every error of the inference rooms. Each has a stable `code` and the data that an answer needs; `http/problem` says
 * which status each has. An error that is an answer and not a fault carries no stack.
 */

/** One value of a request that does not fit, by its path in the body (`features[3]`, `inputs.x[0][2]`). */
export interface InvalidValue {
  readonly path: string
  readonly message: string
}

/** Every `code` there is. */
export type InferenceErrorCode =
  | 'INFERENCE_UNKNOWN_MODEL'
  | 'INFERENCE_MODEL_REQUIRED'
  | 'INFERENCE_MODEL_LOADING'
  | 'INFERENCE_INVALID_INPUT'
  | 'INFERENCE_OVERLOADED'
  | 'INFERENCE_DEADLINE_EXCEEDED'
  | 'INFERENCE_CANCELLED'
  | 'INFERENCE_WORKER_LOST'
  | 'INFERENCE_STOPPING'
  | 'INFERENCE_RUN_FAILED'
  | 'INFERENCE_INPUT_REFUSED'
  | 'INFERENCE_BACKEND_UNAVAILABLE'
  | 'INFERENCE_BACKEND_FAILED'
  | 'INFERENCE_MODEL_BROKEN'
  | 'INFERENCE_NO_MODELS'

/** Base of all. */
export abstract class InferenceError extends Error {
  abstract readonly code: InferenceErrorCode
  /** Milliseconds of the run that failed with this; undefined where nobody can tell how long, or whether, it ran. */
  ranMs: number | undefined = 0
  override get name(): string {
    return this.constructor.name
  }
}

/** An answer, not a fault: made without a stack, since they come in thousands a second (0.14 µs against 6.8 µs). */
abstract class Refusal extends InferenceError {
  constructor(message: string) {
    const limit = Error.stackTraceLimit
    Error.stackTraceLimit = 0
    super(message)
    Error.stackTraceLimit = limit
  }
}

/** No such model, or no such version of it. */
export class UnknownModel extends Refusal {
  readonly code = 'INFERENCE_UNKNOWN_MODEL'
  readonly model: string
  readonly version: string | undefined
  /** What may be asked for: names of models, or versions of the model that was named. */
  readonly available: readonly string[]

  constructor(model: string, version: string | undefined, available: readonly string[]) {
    const what =
      version === undefined ? `no model '${clip(model)}'` : `model '${model}' has no version '${clip(version)}'`
    const exists = available.length === 0 ? 'none is loaded' : `there is: ${listed(available)}`
    super(`${what}; ${exists}`)
    this.model = model
    this.version = version
    this.available = available
  }
}

/** Several models are loaded, none is the default and the request names none. */
export class ModelRequired extends Refusal {
  readonly code = 'INFERENCE_MODEL_REQUIRED'
  readonly available: readonly string[]

  constructor(available: readonly string[]) {
    super(`say which model is meant; there is: ${listed(available)}`)
    this.available = available
  }
}

/** The service has just started, and the model that is meant is not loaded so far. */
export class ModelLoading extends Refusal {
  readonly code = 'INFERENCE_MODEL_LOADING'
  readonly retryAfterMs = 1000

  constructor(model: string | undefined) {
    super(model === undefined ? 'the models are still being loaded' : `model '${clip(model)}' is still being loaded`)
  }
}

/** The request does not fit the model's signature. */
export class InvalidInput extends Refusal {
  readonly code = 'INFERENCE_INVALID_INPUT'
  readonly errors: readonly InvalidValue[]

  constructor(errors: readonly InvalidValue[]) {
    super(errors.map(({ path, message }) => (path === '' ? message : `${path} ${message}`)).join('; '))
    this.errors = errors
  }
}

/**
 * Why a request was not taken: `queue-full` by `QUEUE_MAX`, `limit` by the adaptive limit of rows under way, `too-late` for
 * its deadline, `displaced` by another that goes before it, `main-thread` since more comes than can be read, `unserved`
 * since nothing is up that could run it.
 */
export const overloadReasons = ['queue-full', 'limit', 'too-late', 'displaced', 'main-thread', 'unserved'] as const
export type OverloadReason = (typeof overloadReasons)[number]

/** There is no room for the request, or no time. */
export class Overloaded extends Refusal {
  readonly code = 'INFERENCE_OVERLOADED'
  /** When this request is expected to find room, in milliseconds. */
  readonly retryAfterMs: number

  constructor(
    readonly why: OverloadReason,
    message: string,
    retryAfterMs: number,
  ) {
    super(message)
    this.retryAfterMs = Math.max(1, Math.ceil(retryAfterMs))
  }

  /** Whether a worker or backend of the model is up: false where it is not load alone that is in the way. */
  get served(): boolean {
    return this.why !== 'unserved'
  }
}

/** The deadline passed after the request had been admitted. */
export class DeadlineExceeded extends Refusal {
  readonly code = 'INFERENCE_DEADLINE_EXCEEDED'

  constructor(readonly running: boolean) {
    super(running ? 'the deadline passed while the model was running' : 'the deadline passed while the request waited')
  }
}

/** The caller has gone; nobody hears this. */
export class Cancelled extends Refusal {
  readonly code = 'INFERENCE_CANCELLED'

  constructor() {
    super('the caller has gone')
  }
}

/** The worker that ran this batch ended before it could answer. The request may be sent again. */
export class WorkerLost extends Refusal {
  readonly code = 'INFERENCE_WORKER_LOST'
  readonly retryAfterMs = 1000

  /** `ranMs`: 0 where nothing had been sent to it. */
  constructor(detail: string, ranMs?: number) {
    super(`the worker that ran this request was lost (${detail}); send it again`)
    this.ranMs = ranMs
  }
}

/** The engine is being closed and takes no more requests. */
export class Stopping extends Refusal {
  readonly code = 'INFERENCE_STOPPING'
  readonly retryAfterMs = 1000

  constructor() {
    super('the service is stopping')
  }
}

/** The model itself failed at run time, for this request alone (its neighbours in the batch were run again without it). */
export class RunFailed extends Refusal {
  readonly code = 'INFERENCE_RUN_FAILED'

  /** `detail` is the runtime's own message: for logs, since it can name nodes of the graph. */
  constructor(
    readonly detail: string,
    ranMs = 0,
  ) {
    super('the model failed while it ran on this input')
    this.ranMs = ranMs
  }
}

/** The backend of a remote model takes no such input, though it fits the signature. */
export class InputRefused extends Refusal {
  readonly code = 'INFERENCE_INPUT_REFUSED'

  /** `detail` is the backend's own message: for logs. */
  constructor(readonly detail: string) {
    super('the model does not take this input, though it fits the signature')
  }
}

/** No backend of a remote model can be reached, or the one that had the request was lost. It may be sent again. */
export class BackendUnavailable extends Refusal {
  readonly code: InferenceErrorCode = 'INFERENCE_BACKEND_UNAVAILABLE'

  /** `busy`: the backend did answer, and asks to be left alone for so long. */
  constructor(
    message: string,
    readonly retryAfterMs = 1000,
    readonly busy = false,
  ) {
    super(message)
  }
}

/** A call that cannot have run, or may run twice: the batcher puts it back into the queue, for another backend. */
export class NotRun extends BackendUnavailable {}

/** A backend answered, but not with what its own metadata promises. */
export class BackendFailed extends BackendUnavailable {
  override readonly code = 'INFERENCE_BACKEND_FAILED'

  /** `detail` says what was wrong with the answer: for logs. */
  constructor(readonly detail: string) {
    super("the model's backend gave an answer that cannot be used")
  }
}

/** A model of the folder cannot be served; the reason is for the people who put it there. */
export class ModelBroken extends InferenceError {
  readonly code = 'INFERENCE_MODEL_BROKEN'
}

/** The folder itself does not serve: it does not exist, or holds nothing that loads. */
export class NoModels extends InferenceError {
  readonly code = 'INFERENCE_NO_MODELS'
}

/** Callers' words go into messages, cut to a length that cannot fill a log. */
export function clip(text: string): string {
  return text.length > 64 ? `${text.slice(0, 64)}…` : text
}

/** Longest list in a message, in characters. */
const longestList = 1000

/** Names one after the other, as many as a message has room for. */
export function listed(names: readonly string[]): string {
  let text = ''
  for (const [index, name] of names.entries()) {
    if (text.length + name.length > longestList && index > 0) return `${text} and ${names.length - index} more`
    text += index === 0 ? name : `, ${name}`
  }
  return text
}
