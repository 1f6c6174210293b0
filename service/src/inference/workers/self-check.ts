/**
 * What a model shows when it is run at load: that it runs at all, whether rows of several callers may share a run, and
 * how many are worth it. Pure: the run is given.
 */

import { ServiceTime } from '../queue/service-time.js'
import { allocate, isFloat } from '../tensors/datatype.js'
import { fromFloat16Bits, toFloat16Bits } from '../tensors/float16.js'
import { sampleBody } from '../tensors/request-schema.js'
import { encodeRows } from '../tensors/rows.js'
import { rowLayout, unbatchable } from '../tensors/signature.js'
import { stackInputs } from '../tensors/stack.js'
import type { Batching, NamedTensors, Signature, Tensor, TensorData } from '../types.js'

export interface SelfCheckOptions {
  readonly name: string
  /** `sample` of model.json. */
  readonly sample?: unknown
  /** `false` of model.json. */
  readonly batching?: boolean
  /** Rows of one run, where they are set. */
  readonly maxRows?: number
  readonly run: (inputs: NamedTensors) => Promise<{ readonly outputs: NamedTensors }>
  /** Milliseconds. */
  readonly now: () => number
}

export interface SelfCheckResult {
  readonly batching: Batching
  /** A body that the model has answered. */
  readonly sample: Readonly<Record<string, unknown>>
  readonly inputs: NamedTensors
  readonly serviceTime: ServiceTime
}

/** Throws Error where the model does not even run on the sample that model.json gives. */
export async function selfCheck(signature: Signature, options: SelfCheckOptions): Promise<SelfCheckResult> {
  const serviceTime = new ServiceTime()
  const { sample, inputs, failure } = await findSample(signature, options)
  const timed = timedRun(options, serviceTime)
  const alone = async (reason: string): Promise<SelfCheckResult> => {
    if (failure === undefined) for (let i = 0; i < 3; i++) await timed(inputs, 1)
    return { batching: { enabled: false, reason }, sample, inputs, serviceTime }
  }
  if (options.batching === false) return alone('switched off in model.json')
  const static_ = unbatchable(signature)
  if (static_ !== undefined) return alone(static_)
  if (failure !== undefined) return alone(`no input made up for the check could be run: ${failure}`)
  const rows = Array.from({ length: checkRows }, (_, i) => (i === 0 ? inputs : vary(inputs, i)))
  const objection = await provesIndependent(rows, options)
  if (objection !== undefined) return alone(objection)
  const maxRows = await findMaxRows(rows, timed, options.maxRows)
  return { batching: { enabled: true, maxRows }, sample, inputs, serviceTime }
}

/** Lengths tried for dynamic dimensions where no sample says them: sentences, small and usual pictures. */
const sizes = [2, 1, 8, 32, 224]

interface Sample {
  readonly sample: Readonly<Record<string, unknown>>
  readonly inputs: NamedTensors
  readonly failure: string | undefined
}

async function findSample(signature: Signature, { name, sample, run }: SelfCheckOptions): Promise<Sample> {
  if (sample !== undefined) {
    const body = sampleBody({ ...signature, name }, sample)
    const inputs = encodeSample(signature, body)
    await run(inputs)
    return { sample: body, inputs, failure: undefined }
  }
  let failure: string | undefined
  for (const size of hasDynamicRow(signature) ? sizes : sizes.slice(0, 1)) {
    const body = sampleBody({ ...signature, name }, undefined, size)
    const inputs = encodeRows(signature, body).inputs
    try {
      await run(inputs)
      return { sample: body, inputs, failure: undefined }
    } catch (error) {
      failure ??= reasonOf(error)
    }
  }
  const body = sampleBody({ ...signature, name })
  return { sample: body, inputs: encodeRows(signature, body).inputs, failure }
}

function encodeSample(signature: Signature, body: Readonly<Record<string, unknown>>): NamedTensors {
  const { inputs, rows } = encodeRows(signature, body)
  if (rows !== 1) throw new Error(`model.json: 'sample' has ${rows} rows; it takes one`)
  return inputs
}

const hasDynamicRow = (signature: Signature): boolean =>
  signature.inputs.some(({ shape }) => shape.filter(dimension => typeof dimension === 'string').length > 1) ||
  rowLayout(signature) === 'whole'

/** The runtime's words, cut to what a person reads. */
export function reasonOf(error: unknown): string {
  const { detail, message } = error as { detail?: string; message?: string }
  return (detail ?? message ?? String(error)).slice(0, 500)
}

/** Rows in the comparison: enough that sorting, padding or summing over them shows. */
const checkRows = 5
const tolerance = 1e-5

/** Undefined when every row gives alone what it gives in company, or why rows must not share a run. */
async function provesIndependent(
  rows: readonly NamedTensors[],
  { run }: SelfCheckOptions,
): Promise<string | undefined> {
  try {
    const alone: NamedTensors[] = []
    for (const row of rows) alone.push((await run(row)).outputs)
    const again = (await run(rows[0] as NamedTensors)).outputs
    const unlike = compare(alone[0] as NamedTensors, again, 0, 1)
    if (unlike !== undefined) return unlike.values ? 'the same row gives different answers' : unlike.reason
    for (const order of [rows.map((_, i) => i), rows.map((_, i) => rows.length - 1 - i)]) {
      const parts = order.map(i => ({ inputs: rows[i] as NamedTensors, from: 0, rows: 1 }))
      const { outputs } = await run(stackInputs(parts, rows.length))
      for (const [place, i] of order.entries()) {
        const objection = compare(alone[i] as NamedTensors, outputs, place, rows.length)
        if (objection !== undefined) return objection.reason
      }
    }
    return undefined
  } catch (error) {
    return `rows made up for the check could not be run together: ${reasonOf(error)}`
  }
}

/** Why a row is not the same alone and at its place in a batch; `values` when only its values differ. */
interface Objection {
  readonly reason: string
  readonly values: boolean
}

function compare(alone: NamedTensors, together: NamedTensors, place: number, rows: number): Objection | undefined {
  for (const name in alone) {
    const one = alone[name] as Tensor
    const all = together[name]
    if (one.shape[0] !== 1 || all?.shape[0] !== rows) {
      return { reason: `output '${name}' has no batch dimension`, values: false }
    }
    if (one.shape.slice(1).join() !== all.shape.slice(1).join()) {
      return { reason: `the shape of output '${name}' depends on the other rows of the batch`, values: false }
    }
    const width = one.data.length
    for (let i = 0; i < width; i++) {
      if (alike(valueAt(one, i), valueAt(all, place * width + i))) continue
      return { reason: `output '${name}' of a row depends on the other rows of the batch`, values: true }
    }
  }
  return undefined
}

const valueAt = ({ datatype, data }: Tensor, i: number): number | bigint | string =>
  datatype === 'FP16' ? fromFloat16Bits(data[i] as number) : (data[i] as number | bigint | string)

function alike(a: number | bigint | string, b: number | bigint | string): boolean {
  if (typeof a !== 'number' || typeof b !== 'number') return a === b
  return Object.is(a, b) || a === b || Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(a), Math.abs(b))
}

/** Another row of the same shape: floats near the sample's, anything else out of the sample's own values. */
function vary(inputs: NamedTensors, seed: number): NamedTensors {
  let state = seed * 2654435761
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
  const varied: Record<string, Tensor> = {}
  for (const name in inputs) {
    const { datatype, shape, data } = inputs[name] as Tensor
    const target = allocate(datatype, data.length)
    if (isFloat(datatype)) varyFloats(data as Float32Array, target as Float32Array, datatype === 'FP16', random)
    else varyOthers(data, target, random)
    varied[name] = { datatype, shape, data: target }
  }
  return varied
}

function varyFloats(data: Float32Array, target: Float32Array, half: boolean, random: () => number): void {
  for (let i = 0; i < data.length; i++) {
    const bits = data[i] as number
    const value = half ? fromFloat16Bits(bits) : bits
    const varied = value + (random() - 0.5) * Math.max(0.5, Math.abs(value))
    target[i] = half ? toFloat16Bits(varied) : varied
  }
}

const others: Readonly<Record<string, readonly [unknown, unknown]>> = {
  number: [0, 1],
  bigint: [0n, 1n],
  string: ['text', 'other'],
}

function varyOthers(data: TensorData, target: TensorData, random: () => number): void {
  const values = new Set<unknown>(data as Iterable<unknown>)
  const pool = values.size > 1 ? [...values] : (others[typeof data[0]] ?? [...values])
  const into = target as unknown as unknown[]
  for (let i = 0; i < data.length; i++) into[i] = pool[Math.floor(random() * pool.length)]
}

type TimedRun = (inputs: NamedTensors, rows: number) => Promise<number>

function timedRun({ run, now }: SelfCheckOptions, serviceTime: ServiceTime): TimedRun {
  return async (inputs, rows) => {
    const start = now()
    await run(inputs)
    const ms = now() - start
    serviceTime.observe(rows, ms)
    return ms
  }
}

/** Time spent on finding the size, in milliseconds. */
const budgetMs = 300
/** The longest run that others should have to wait for, in milliseconds. */
const longestRunMs = 50
const largest = 64
/**
 * What a run costs besides while the service is busy, in milliseconds: two messages, and the worker and the main thread
 * taking turns on the cores. Timed alone it does not show: at ten times the capacity, a model of 2 ms a row had 36% more
 * answered in time with 8 rows a run than with one, though it ran them only 6% faster.
 */
const turnMs = 0.25

/** The smallest of 1, 2, 4, … 64 that reaches 96 % of the best rate (Triton's advice: only sizes that are faster). */
async function findMaxRows(rows: readonly NamedTensors[], timed: TimedRun, given?: number): Promise<number> {
  const rates: { size: number; rate: number }[] = []
  let spent = 0
  for (let size = 1; size <= Math.min(largest, given ?? largest); size *= 2) {
    const parts = Array.from({ length: size }, (_, i) => ({
      inputs: rows[i % rows.length] as NamedTensors,
      from: 0,
      rows: 1,
    }))
    let best = Number.POSITIVE_INFINITY
    for (let i = 0; i < 5 && (i < 2 || spent < budgetMs); i++) {
      const ms = await timed(stackInputs(parts, size), size)
      spent += ms
      best = Math.min(best, ms)
    }
    if (best > longestRunMs && size > 1) break
    rates.push({ size, rate: size / (best + turnMs) })
    if (spent > budgetMs) break
  }
  if (given !== undefined) return given
  const top = Math.max(...rates.map(({ rate }) => rate))
  return rates.find(({ rate }) => rate >= 0.96 * top)?.size ?? 1
}
