/**
 * What a model shows when it is run at load: that it runs at all, whether rows of several callers may share a run, and
 * how many are worth it. Pure: the run is given.
 */

import { inWords } from '../onnx/reasons.js'
import { allocate, elementCount, isFloat } from '../tensors/datatype.js'
import { fromFloat16Bits, toFloat16Bits } from '../tensors/float16.js'
import { sampleBody } from '../tensors/request-schema.js'
import { type EncodedRows, encodeRows } from '../tensors/rows.js'
import { rowLayout, rowShape, unbatchable } from '../tensors/signature.js'
import { copyInputs, stackInputs } from '../tensors/stack.js'
import type { Batching, Dimension, NamedTensors, Signature, Tensor, TensorData, TensorSpec } from '../types.js'

/** The row that a model is tried with. */
export interface SampleTask {
  readonly name: string
  readonly signature: Signature
  /** `sample` of model.json. */
  readonly sample?: unknown
  /** Length of every dynamic dimension of a row that is made up. */
  readonly size: number
}

export interface CheckTask extends Omit<SampleTask, 'size'> {
  /** Of model.json. `false`: rows never share a run. `true`: they do, whatever the comparison would say. */
  readonly batching?: boolean
  /** Rows of one run, where they are set. */
  readonly maxRows?: number
  /** Milliseconds that the whole check may take. */
  readonly budgetMs: number
}

export interface Bench {
  readonly run: (inputs: NamedTensors) => Promise<{ readonly outputs: NamedTensors }>
  /** Milliseconds. */
  readonly now: () => number
}

export interface SelfCheckResult {
  readonly batching: Batching
  /** Length of every dynamic dimension of a row that the model takes, or that was tried last. */
  readonly size: number
  /** Rows and milliseconds of each run that was timed. */
  readonly timings: readonly (readonly [rows: number, ms: number])[]
}

/** Throws Error where the model does not even run on the sample that model.json gives. */
export async function selfCheck(task: CheckTask, bench: Bench): Promise<SelfCheckResult> {
  const { signature, budgetMs } = task
  const start = bench.now()
  const { size, inputs, failure, runMs } = await findSample(task, bench)
  const timings: [number, number][] = []
  const timed = timedRun(bench, timings)
  const fits = (runs: number): boolean => bench.now() - start + runs * runMs < budgetMs / 2
  const alone = async (reason: string): Promise<SelfCheckResult> => {
    if (failure === undefined) for (let i = 0; i < 3 && (i === 0 || fits(1)); i++) await timed(inputs, 1)
    return { batching: { enabled: false, reason }, size, timings }
  }
  if (task.batching === false) return alone('switched off in model.json')
  const static_ = unbatchable(signature)
  if (static_ !== undefined) return alone(static_)
  if (failure !== undefined) {
    if (task.batching) return { batching: { enabled: true, maxRows: task.maxRows ?? usualRows }, size, timings }
    return alone(`no input made up for the check could be run: ${failure}`)
  }
  const rows = Array.from({ length: checkRows }, (_, i) => (i === 0 ? inputs : vary(inputs, i)))
  if (task.batching !== true) {
    // Each row alone, one again, and all of them twice.
    if (!fits(3 * checkRows + 1)) {
      return alone(`one row takes ${Math.round(runMs)} ms: there is no time to compare it with rows that share a run`)
    }
    const objection = await provesIndependent(rows, bench)
    if (objection !== undefined) return alone(objection)
  }
  const maxRows = await findMaxRows(rows, timed, task.maxRows)
  return { batching: { enabled: true, maxRows }, size, timings }
}

/** Rows of one run where nothing can be timed. */
export const usualRows = 32

/** Lengths tried for dynamic dimensions where no sample says them: sentences, small and usual pictures. */
const sizes = [2, 1, 8, 32, 224] as const

/** Most values of a row that is made up, over all inputs. Five rows are held at once, and more in a batch. */
export const mostSampleValues = 1 << 22

interface Sample {
  readonly size: number
  readonly inputs: NamedTensors
  readonly failure: string | undefined
  /** Milliseconds of the run that ended well. */
  readonly runMs: number
}

async function findSample(task: CheckTask, { run, now }: Bench): Promise<Sample> {
  const { signature, sample } = task
  const timedOnce = async (inputs: NamedTensors): Promise<number> => {
    const start = now()
    await run(inputs)
    return now() - start
  }
  if (sample !== undefined) {
    const inputs = sampleInputs({ ...task, size: sizes[0] })
    return { size: sizes[0], inputs, failure: undefined, runMs: await timedOnce(inputs) }
  }
  let failure: string | undefined
  let smallest = Number.POSITIVE_INFINITY
  for (const size of hasDynamicRow(signature) ? sizes : sizes.slice(0, 1)) {
    const values = sampleValues(signature, size)
    smallest = Math.min(smallest, values)
    if (values > mostSampleValues) continue
    const inputs = sampleInputs({ ...task, size })
    try {
      return { size, inputs, failure: undefined, runMs: await timedOnce(inputs) }
    } catch (error) {
      failure ??= reasonOf(error)
    }
  }
  failure ??= `the smallest has ${smallest} values, and ${mostSampleValues} are made up at most; model.json may give a 'sample'`
  return { size: sizes[0], inputs: {}, failure, runMs: 0 }
}

const hasDynamicRow = (signature: Signature): boolean =>
  signature.inputs.some(({ shape }) => shape.filter(dimension => typeof dimension === 'string').length > 1) ||
  rowLayout(signature) === 'whole'

const sized = (shape: readonly Dimension[], size: number): number[] =>
  shape.map(dimension => (typeof dimension === 'number' ? dimension : size))

const shapeOfSample = (signature: Signature, spec: TensorSpec, size: number): number[] => {
  const layout = rowLayout(signature)
  const row = sized(rowShape(spec, layout), size)
  return layout === 'whole' ? row : [1, ...row]
}

/** Values of a row that is made up, over all inputs. */
export const sampleValues = (signature: Signature, size: number): number =>
  signature.inputs.reduce((sum, spec) => sum + elementCount(shapeOfSample(signature, spec, size)), 0)

/** The row of model.json, or one that is made up: tensors at once, without a list of numbers. */
export function sampleInputs({ name, signature, sample, size }: SampleTask): NamedTensors {
  if (sample !== undefined) return encodeSample(signature, sampleBody({ ...signature, name }, sample))
  const inputs: Record<string, Tensor> = {}
  for (const spec of signature.inputs) {
    const shape = shapeOfSample(signature, spec, size)
    const data = allocate(spec.datatype, elementCount(shape))
    ;(data as { fill(value: unknown): void }).fill(madeUp(spec))
    inputs[spec.name] = { datatype: spec.datatype, shape, data }
  }
  return inputs
}

/** The same as `sampleBody` writes. */
function madeUp({ datatype }: TensorSpec): unknown {
  if (datatype === 'BYTES') return 'text'
  if (datatype === 'FP16') return toFloat16Bits(0.5)
  if (isFloat(datatype)) return 0.5
  return datatype === 'INT64' || datatype === 'UINT64' ? 1n : 1
}

function encodeSample(signature: Signature, body: Readonly<Record<string, unknown>>): NamedTensors {
  let encoded: EncodedRows
  try {
    encoded = encodeRows(signature, body, 'it')
  } catch (error) {
    throw new Error(`model.json: 'sample' does not fit: ${(error as Error).message}`)
  }
  const { inputs, rows } = encoded
  if (rows !== 1) throw new Error(`model.json: 'sample' has ${rows} rows; it takes one`)
  return inputs
}

/** The first runs of a session are slower than the later ones: of one row, and of a full batch (0 rows: none). */
export async function warmUp(task: SampleTask, maxRows: number, run: Bench['run']): Promise<void> {
  if (task.sample === undefined && sampleValues(task.signature, task.size) > mostSampleValues) return
  const inputs = sampleInputs(task)
  // A row made up for a model that takes others fails here as it did at the check; requests will tell.
  const runAnyhow = async (tensors: NamedTensors) => void (await run(tensors).catch(() => {}))
  await runAnyhow(copyInputs(inputs))
  if (maxRows === 0) return
  const rows = Math.min(maxRows, mostStacked(inputs))
  const parts = Array.from({ length: rows }, () => ({ inputs, from: 0, rows: 1 }))
  await runAnyhow(stackInputs(parts, rows))
}

/** Most values of a batch that is made up. */
const mostBatchValues = 1 << 24

const mostStacked = (row: NamedTensors): number => {
  let values = 0
  for (const name in row) values += (row[name] as Tensor).data.length
  return Math.max(1, Math.floor(mostBatchValues / Math.max(1, values)))
}

/** What the runtime says, in words, cut to what a person reads. */
export function reasonOf(error: unknown): string {
  const { detail, message } = error as { detail?: string; message?: string }
  return inWords(detail ?? message ?? String(error)).slice(0, 500)
}

/** Rows in the comparison: enough that sorting, padding or summing over them shows. */
const checkRows = 5
const tolerance = 1e-5

/** Undefined when every row gives alone what it gives in company, or why rows must not share a run. */
async function provesIndependent(rows: readonly NamedTensors[], { run }: Bench): Promise<string | undefined> {
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

function timedRun({ run, now }: Bench, timings: [number, number][]): TimedRun {
  return async (inputs, rows) => {
    const start = now()
    await run(inputs)
    const ms = now() - start
    timings.push([rows, ms])
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
  const most = Math.min(largest, given ?? largest, mostStacked(rows[0] as NamedTensors))
  for (let size = 1; size <= most; size *= 2) {
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
