/** One loaded version: checks a request, then queues it. */

import { InvalidInput, listed } from '../errors.js'
import type { Batcher } from '../queue/batcher.js'
import type { Scheduler } from '../queue/scheduler.js'
import { checkInputs, type RowLayout } from '../tensors/signature.js'
import { show } from '../tensors/tensor.js'
import type { Asked, Model, ModelInfo, NamedTensors, RunOptions, RunResult } from '../types.js'

export interface Serving {
  readonly key: string
  readonly layout: RowLayout
  readonly batcher: Batcher
  readonly scheduler: Scheduler
  /** The model now in this one's place, of the version that was asked for; throws UnknownModel where there is none. */
  readonly successor: (asked?: string) => Model
  /** Throws where no request can be run at present. */
  readonly assertAvailable?: () => void
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

  get ready(): boolean {
    return !this.#retired && this.#serving.scheduler.runnersOf(this.#serving.key) > 0
  }

  get fairnessIndex(): number {
    return this.#serving.batcher.fairnessIndex
  }

  predictedMs(rows: number): number {
    return this.#serving.batcher.computeMs(rows)
  }

  refusalOf(asked: Asked): Error | undefined {
    if (this.#retired) return this.#serving.successor().refusalOf?.(asked)
    return this.#serving.scheduler.refusalOf(this.#serving.key, asked)
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
      if (this.#retired) return this.#serving.successor(options.version).run(inputs, options)
      const { key, layout, scheduler } = this.#serving
      this.#serving.assertAvailable?.()
      const rows = checkInputs(this.info, inputs, layout)
      const plain = rows === options.rows && options.outputs === undefined
      return scheduler.submit(key, inputs, plain ? options : this.#complete(options, rows))
    } catch (error) {
      options.meter?.ended('not-run', 0)
      return Promise.reject(error)
    }
  }

  /** Options with the rows that are really there, and outputs that the model has; an empty list means all. */
  #complete(options: RunOptions, rows: number): RunOptions {
    const { outputs, ...others } = options
    if (outputs === undefined || outputs.length === 0) return { ...others, rows }
    const known = this.info.outputs.map(({ name }) => name)
    const unknown = outputs.findIndex(name => !known.includes(name))
    if (unknown !== -1) {
      const message = `is ${show(outputs[unknown])}; the model gives ${listed(known)}`
      throw new InvalidInput([{ path: `outputs[${unknown}]`, message }])
    }
    return { ...options, rows }
  }
}
