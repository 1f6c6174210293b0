/** One worker and what has been asked of it. It loads its models first, then serves, and at last is drained. */

import { RunFailed, WorkerLost } from '../errors.js'
import type { RunControl } from '../queue/batch.js'
import type { BatchResult, Runner } from '../queue/scheduler.js'
import type { Answered } from '../tensors/predictions.js'
import type { OrtValueMetadata } from '../tensors/signature.js'
import type { NamedTensors, Tensor } from '../types.js'
import type { CheckTask, SampleTask, SelfCheckResult } from './self-check.js'
import type { SessionOptions } from './session-options.js'
import { type FromWorker, type SessionSource, type ToWorker, tensorsOf, type WireTensor } from './worker-messages.js'
import type { WorkerPort } from './worker-port.js'

export interface SessionMetadata {
  readonly inputs: readonly OrtValueMetadata[]
  readonly outputs: readonly OrtValueMetadata[]
  /** What is not as model.json asks for, in words. */
  readonly warnings: readonly string[]
}

interface Waiting {
  readonly id: number
  readonly resolve: (value: never) => void
  readonly reject: (error: Error) => void
  /** A run, and not what comes before a model serves. */
  readonly isRun: boolean
  /** When it became the oldest: what came before it was answered. */
  since: number
}

/** Answered by the first message of a worker; those that are asked begin with 1. */
const upId = 0

export class Host implements Runner {
  readonly keys = new Set<string>()
  readonly #described = new Set<string>()
  readonly #port: WorkerPort
  /** The oldest first: a handful, and no Map, for the reason that `Batcher` gives for what runs. */
  #waiting: Waiting[] = []
  #nextId = 1
  #lost: string | undefined
  #closing = false
  /** Resolves when the worker takes messages; rejects when it ends before. */
  readonly up: Promise<void>
  /** Resolves with the reason when the worker has ended. */
  readonly ended: Promise<string>

  constructor(port: WorkerPort) {
    this.#port = port
    this.up = new Promise((resolve, reject) => {
      this.#waiting.push({ id: upId, resolve, reject, isRun: false, since: performance.now() })
    })
    // Whoever waits for it hears; a worker nobody waits for ends quietly.
    this.up.catch(() => {})
    port.onMessage(message => this.#receive(message))
    this.ended = new Promise(resolve =>
      port.onExit(reason => {
        this.#lose(reason)
        resolve(reason)
      }),
    )
  }

  get pid(): number | undefined {
    return this.#port.pid
  }

  get lost(): boolean {
    return this.#lost !== undefined || !this.#port.connected
  }

  /** True once the worker was asked to end. */
  get closing(): boolean {
    return this.#closing
  }

  /** Milliseconds that the run which goes on has taken; 0 where none does. */
  busyMs(now: number): number {
    const [oldest] = this.#waiting
    return oldest === undefined || !oldest.isRun ? 0 : now - oldest.since
  }

  /** See `WorkerPort`. */
  takeMessages(): void {
    this.#port.takeMessages()
  }

  /** Ends a worker that hangs; false where that cannot be done. */
  kill(): boolean {
    return this.#port.kill()
  }

  /** Rejects with the runtime's own message where it cannot load the model. */
  async load(key: string, source: SessionSource, options: SessionOptions): Promise<SessionMetadata> {
    const metadata = await this.#ask<SessionMetadata>(id => ['load', id, key, source, options], [])
    this.keys.add(key)
    return metadata
  }

  /** Rejects with RunFailed where the model does not run on its own sample. */
  check(key: string, task: CheckTask): Promise<SelfCheckResult> {
    return this.#ask<SelfCheckResult>(id => ['check', id, key, task], [])
  }

  /** First runs, which are slower than the later ones; `maxRows` 0: of one row alone. */
  warm(key: string, task: SampleTask, maxRows: number): Promise<void> {
    return this.#ask<void>(id => ['warm', id, key, task, maxRows], [])
  }

  /** Gives a model's memory back, once what was asked of it before has ended. */
  unload(key: string): void {
    this.keys.delete(key)
    this.#described.delete(key)
    if (this.#lost === undefined) this.#port.post(['unload', key], [])
  }

  /** From now on the worker can write answers of this model. */
  describe(key: string, model: Answered): void {
    this.#described.add(key)
    this.#port.post(['describe', key, model], [])
  }

  /** Moves the inputs' memory to the worker. Rejects with RunFailed, or with WorkerLost where the worker ended. */
  run(
    key: string,
    inputs: NamedTensors,
    outputs: readonly string[] | undefined,
    control?: RunControl,
  ): Promise<BatchResult> {
    const feeds: WireTensor[] = []
    const moved: ArrayBuffer[] = []
    for (const name in inputs) {
      const { datatype, shape, data } = inputs[name] as Tensor
      feeds.push([name, datatype, shape, data])
      if (!Array.isArray(data)) moved.push(data.buffer as ArrayBuffer)
    }
    const answerRows = this.#described.has(key) ? control?.answerRows : undefined
    return this.#ask<BatchResult>(id => ['run', id, key, feeds, outputs, answerRows], moved, true)
  }

  /** Lets the worker end what it has begun, release its sessions and leave by itself; never stops it. */
  async close(): Promise<void> {
    if (!this.#closing) {
      this.#closing = true
      this.#port.post(['close'], [])
    }
    await this.ended
  }

  #ask<T>(message: (id: number) => ToWorker, moved: ArrayBuffer[], isRun = false): Promise<T> {
    if (this.#lost !== undefined) return Promise.reject(new WorkerLost(this.#lost, 0))
    const id = this.#nextId++
    return new Promise<T>((resolve, reject) => {
      this.#waiting.push({ id, resolve: resolve as (value: never) => void, reject, isRun, since: performance.now() })
      this.#port.post(message(id), moved)
    })
  }

  #receive(message: FromWorker): void {
    const id = message[0] === 'up' ? upId : message[1]
    const index = this.#waiting.findIndex(each => each.id === id)
    if (index === -1) return
    const [waiting] = this.#waiting.splice(index, 1) as [Waiting]
    const [oldest] = this.#waiting
    if (index === 0 && oldest !== undefined) oldest.since = performance.now()
    const resolve = waiting.resolve as (value: unknown) => void
    if (message[0] === 'up') resolve(undefined)
    else if (message[0] === 'loaded') {
      resolve({ inputs: message[2], outputs: message[3], warnings: message[4] } satisfies SessionMetadata)
    } else if (message[0] === 'checked') resolve(message[2])
    else if (message[0] === 'warmed') resolve(undefined)
    else if (message[0] === 'done') {
      const [, , computeMs, outputs, answers] = message
      resolve({ computeMs, outputs: tensorsOf(outputs), answers } satisfies BatchResult)
    } else waiting.reject(new RunFailed(message[2], message[3]))
  }

  #lose(reason: string): void {
    this.#lost = reason
    const waiting = this.#waiting
    this.#waiting = []
    for (const { id, reject } of waiting) {
      reject(id === upId ? new Error(`an inference worker could not be started: ${reason}`) : new WorkerLost(reason))
    }
  }
}
