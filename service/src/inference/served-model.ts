/** One loaded version: checks a request, then queues it. */
import type { Batcher } from './batcher.js'
import type { Scheduler } from './scheduler.js'
import { checkInputs, type RowLayout } from './signature.js'
import type { Model, ModelInfo, NamedTensors, RunOptions, RunResult } from './types.js'

export interface Serving {
  readonly key: string
  readonly layout: RowLayout
  readonly batcher: Batcher
  readonly scheduler: Scheduler
  /** The model now in this one's place; throws UnknownModel where there is none. */
  readonly successor: () => Model
}

export class ServedModel implements Model {
  readonly info: ModelInfo
  readonly #serving: Serving
  #retired = false

  constructor(info: ModelInfo, serving: Serving) {
    this.info = info
    this.#serving = serving
  }

  /** Rows that wait for this model. */
  get queueRows(): number {
    return this.#serving.batcher.queueRows
  }

  /** Expected milliseconds until a request of `rows` would be answered if it came now. */
  estimateWaitMs(rows: number): number {
    return this.#serving.scheduler.estimateWaitMs(this.#serving.key, rows)
  }

  register(): void {
    this.#serving.scheduler.addModel(this.#serving.key, this.#serving.batcher)
  }

  /** From now on another serves in its place: requests of those who still hold this one go there. */
  retire(): void {
    this.#retired = true
  }

  run(inputs: NamedTensors, options: RunOptions): Promise<RunResult> {
    // Not an async function: each would cost a promise more, at the place where all requests pass.
    try {
      if (this.#retired) return this.#serving.successor().run(inputs, options)
      const { key, layout, scheduler } = this.#serving
      const rows = checkInputs(this.info, inputs, layout)
      return scheduler.submit(key, inputs, rows === options.rows ? options : { ...options, rows })
    } catch (error) {
      return Promise.reject(error)
    }
  }
}
