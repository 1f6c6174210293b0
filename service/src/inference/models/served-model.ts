/** One loaded version: checks a request, then queues it. */

import { InvalidInput, listed } from '../errors.js'
import { background } from '../queue/admission-constants.js'
import type { Batcher } from '../queue/batcher.js'
import type { Scheduler } from '../queue/scheduler.js'
import { fromFloat16Bits } from '../tensors/float16.js'
import { labelsOf } from '../tensors/predictions.js'
import { checkInputs, type RowLayout } from '../tensors/signature.js'
import { show } from '../tensors/tensor.js'
import type { Asked, Model, ModelInfo, NamedTensors, RunOptions, RunResult, Tensor } from '../types.js'
import type { Tally } from './routing.js'

export interface Serving {
  readonly key: string
  readonly layout: RowLayout
  readonly batcher: Batcher
  readonly scheduler: Scheduler
  /**
   * The model now in this one's place, of the version that was asked for, or that of the caller; throws UnknownModel where
   * there is none.
   */
  readonly successor: (asked?: string, caller?: string) => Model
  /** Throws where no request can be run at present. */
  readonly assertAvailable?: () => void
}

/** Another version that also runs a share of the requests. */
export interface Shadow {
  readonly target: ServedModel
  /** From 0 to 1. */
  readonly share: number
  readonly tally: Tally
}

/** A shadow's runs are given up after so many milliseconds. */
const SHADOW_MS = 10_000

export class ServedModel implements Model {
  readonly info: ModelInfo
  readonly #serving: Serving
  #retired = false
  #shadow: Shadow | undefined

  constructor(info: ModelInfo, serving: Serving) {
    this.info = info
    this.#serving = serving
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
    if (this.#retired) return this.#serving.successor(undefined, asked.partitionKey).refusalOf?.(asked)
    return this.#serving.scheduler.refusalOf(this.#serving.key, asked)
  }

  register(): void {
    this.#serving.scheduler.addModel(this.#serving.key, this.#serving.batcher)
  }

  /** From now on this version also runs a share of the requests; undefined: none does. */
  setShadow(shadow: Shadow | undefined): void {
    this.#shadow = shadow
  }

  /** From now on another serves in its place: requests of those who still hold this one go there. */
  retire(): void {
    this.#retired = true
  }

  run(inputs: NamedTensors, options: RunOptions): Promise<RunResult> {
    // Not an async function: each would cost a promise more, at the place where all requests pass.
    try {
      if (this.#retired) {
        return this.#serving.successor(options.version, options.partitionKey).run(inputs, options)
      }
      const { key, layout, scheduler } = this.#serving
      this.#serving.assertAvailable?.()
      const rows = checkInputs(this.info, inputs, layout)
      const shadow = this.#shadow
      if (shadow !== undefined && Math.random() < shadow.share) return this.#runBeside(shadow, inputs, options, rows)
      const plain = rows === options.rows && options.outputs === undefined
      return scheduler.submit(key, inputs, plain ? options : this.#complete(options, rows))
    } catch (error) {
      options.meter?.ended('not-run', 0)
      return Promise.reject(error)
    }
  }

  /** Runs a request, and then the shadow on the same rows: nobody waits for that. */
  async #runBeside(shadow: Shadow, inputs: NamedTensors, options: RunOptions, rows: number): Promise<RunResult> {
    const { key, scheduler } = this.#serving
    // The outputs are compared, so they are needed as they are.
    const whole = this.#complete({ ...options, json: false }, rows)
    const result = await scheduler.submit(key, inputs, whole)
    void this.#compare(shadow, inputs, result, rows)
    return result
  }

  async #compare({ target, tally }: Shadow, inputs: NamedTensors, given: RunResult, rows: number): Promise<void> {
    tally.requests++
    try {
      const outputs = given.outputs
      const deadline = performance.now() + SHADOW_MS
      // Named, since another version may answer by now for one that is gone.
      const { version } = target.info
      const { priority } = background
      const shadowed = await target.run(inputs, { rows, version, priority, partitionKey: 'shadow', deadline })
      tally.rows += rows
      compareOutputs(tally, outputs, shadowed.outputs)
      const labels = labelsOf(this.info, outputs, rows)
      const others = labelsOf(target.info, shadowed.outputs, rows)
      for (const [i, label] of labels.entries()) {
        if (label === undefined || others[i] === undefined) continue
        tally.labelled++
        if (label === others[i]) tally.agreed++
      }
    } catch {
      tally.failed++
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

/** Notes the largest difference of numbers that both have at the same place. */
function compareOutputs(tally: Tally, one: NamedTensors, other: NamedTensors): void {
  for (const name in one) {
    const tensor = one[name] as Tensor
    const compared = other[name]
    const { length } = tensor.data
    if (compared === undefined || compared.data.length !== length) continue
    if (tensor.datatype === 'BYTES' || compared.datatype === 'BYTES') continue
    for (let i = 0; i < length; i++) {
      const difference = differenceOf(numberAt(tensor, i), numberAt(compared, i))
      if (difference > tally.largestDifference) tally.largestDifference = difference
    }
  }
}

/** Of two values that are the same it is 0, also where they are not finite; between a number and NaN it is Infinity. */
function differenceOf(one: number, other: number): number {
  if (Object.is(one, other)) return 0
  const difference = Math.abs(one - other)
  return Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference
}

const numberAt = ({ datatype, data }: Tensor, index: number): number =>
  datatype === 'FP16' ? fromFloat16Bits(data[index] as number) : Number(data[index])
