/** Rows of a request body into tensors, and outputs of a run into one prediction a row. Pure. */

import { InvalidInput } from '../errors.js'
import type { Dimension, NamedTensors, Signature, Tensor, TensorSpec } from '../types.js'
import { allocateShared, elementCount } from './datatype.js'
import { isFixed, type RowLayout, rowLayout, rowShape, showShape } from './signature.js'
import { refusal, show, writeValues } from './tensor.js'

/** What one input takes of a request, worked out once a model. */
interface InputPlan {
  readonly spec: TensorSpec
  readonly layout: RowLayout
  /** One row, without the batch dimension. */
  readonly row: readonly Dimension[]
  /** Elements of a row; undefined where a dimension is dynamic. */
  readonly elements: number | undefined
  /** What a row is, in the words of a message. */
  readonly takes: string
}

const plans = new WeakMap<Signature, readonly InputPlan[]>()

function plansOf(signature: Signature): readonly InputPlan[] {
  let known = plans.get(signature)
  if (known === undefined) {
    const layout = rowLayout(signature)
    known = signature.inputs.map(spec => planOf(spec, layout))
    plans.set(signature, known)
  }
  return known
}

function planOf(spec: TensorSpec, layout: RowLayout): InputPlan {
  const row = rowShape(spec, layout)
  const elements = isFixed(row) && !spec.anyShape ? elementCount(row) : undefined
  return { spec, layout, row, elements, takes: takes(spec, row, elements, layout) }
}

function takes(spec: TensorSpec, row: readonly Dimension[], elements: number | undefined, layout: RowLayout): string {
  const what = spec.datatype === 'BYTES' ? 'string' : spec.datatype === 'BOOL' ? 'boolean' : 'number'
  const unit = layout === 'whole' ? 'the model takes' : 'a row is'
  if (spec.anyShape) return `${unit} ${what}s of any shape`
  if (row.length === 0) return `${unit} one ${what}`
  if (elements === undefined) {
    return `${unit} ${what}s in the shape ${showShape(row)}${row.length > 1 ? ', nested' : ''}`
  }
  const count = `${elements} ${what}${elements === 1 ? '' : 's'}`
  return row.length === 1 ? `${unit} ${count}` : `${unit} ${count}, flat or in the shape ${showShape(row)}`
}

export interface EncodedRows {
  readonly inputs: NamedTensors
  readonly rows: number
}

/**
 * The tensors of a request: `features` for a model of one input (one row or a list of rows), or `inputs` with as many
 * rows for each input by name. A row is flat, or nested in the shape of the signature without its batch dimension.
 * Throws InvalidInput, which names the value by its path and says what the model takes.
 */
export function encodeRows(
  signature: Signature,
  body: { readonly features?: unknown; readonly inputs?: unknown },
): EncodedRows {
  const known = plansOf(signature)
  const { features, inputs } = body
  if (features !== undefined) {
    const [plan] = known
    if (inputs !== undefined) throw invalid('', "'features' and 'inputs' exclude each other")
    if (plan === undefined || known.length > 1) {
      throw invalid('features', `fits a model of one input; this one takes 'inputs' with ${names(known)}`)
    }
    const tensor = encodeInput(plan, features, 'features')
    return { inputs: { [plan.spec.name]: tensor }, rows: plan.layout === 'whole' ? 1 : (tensor.shape[0] as number) }
  }
  if (inputs === undefined) {
    throw known.length === 1
      ? invalid('features', `is missing; ${(known[0] as InputPlan).takes}`)
      : invalid('inputs', `is missing; the model takes ${names(known)}`)
  }
  return encodeNamed(known, inputs)
}

function encodeNamed(known: readonly InputPlan[], inputs: unknown): EncodedRows {
  if (typeof inputs !== 'object' || inputs === null || Array.isArray(inputs)) {
    throw invalid('inputs', `is ${show(inputs)}; the model takes an object with ${names(known)}`)
  }
  const given = inputs as Readonly<Record<string, unknown>>
  const extra = Object.keys(given).find(name => !known.some(plan => plan.spec.name === name))
  if (extra !== undefined) throw invalid(`inputs.${extra}`, `is not an input; the model takes ${names(known)}`)
  const tensors: Record<string, Tensor> = {}
  let rows = 1
  let first: InputPlan | undefined
  for (const plan of known) {
    const { name } = plan.spec
    const path = `inputs.${name}`
    if (!Object.hasOwn(given, name)) throw invalid(path, `is missing; the model takes ${names(known)}`)
    const tensor = encodeInput(plan, given[name], path)
    // `__proto__` as a plain property: names come from the model file.
    Object.defineProperty(tensors, name, { value: tensor, enumerable: true, configurable: true, writable: true })
    if (plan.layout === 'whole') continue
    const count = tensor.shape[0] as number
    if (first !== undefined && count !== rows) {
      throw invalid(path, `has ${count} rows where inputs.${first.spec.name} has ${rows}`)
    }
    first ??= plan
    rows = count
  }
  return { inputs: tensors, rows }
}

const names = (known: readonly InputPlan[]): string => known.map(({ spec }) => `'${spec.name}'`).join(', ')

const invalid = (path: string, message: string): InvalidInput => new InvalidInput([{ path, message }])

function encodeInput(plan: InputPlan, value: unknown, path: string): Tensor {
  if (plan.layout === 'whole') return encodeWhole(plan, value, path)
  const { row, elements } = plan
  if (row.length === 0) return encodeScalars(plan, value, path)
  if (!Array.isArray(value)) throw invalid(path, `is ${show(value)}; ${plan.takes}, or a list of rows`)
  if (value.length === 0) throw invalid(path, `is an empty list; ${plan.takes}`)
  if (!Array.isArray(value[0])) {
    const fixed = plan.elements
    // The commonest request of all: one flat row.
    if (row.length > 1 && fixed === undefined) throw invalid(path, `is a flat list; ${plan.takes}`)
    if (fixed !== undefined && value.length !== fixed) {
      throw invalid(path, `has ${value.length} values; ${plan.takes}`)
    }
    const data = allocateShared(plan.spec.datatype, value.length)
    fill(plan, value, data, 0, path)
    return {
      datatype: plan.spec.datatype,
      shape: fixed === undefined ? [1, value.length] : [1, ...(row as number[])],
      data,
    }
  }
  const depth = depthOf(value, row.length + 1)
  if (depth === row.length && isOneRow(plan, value)) {
    const shape = elements === undefined ? shapeOf(value, row.length) : (row as number[])
    return encodeList(plan, [value], () => path, shape)
  }
  const shape = elements === undefined ? shapeOf(value[0], row.length) : (row as number[])
  return encodeList(plan, value, i => `${path}[${i}]`, shape)
}

/** A list as deep as one row is one, unless it is a list of flat rows: `[[…16…], […16…]]` for `[4, 4]`. */
function isOneRow({ row, elements }: InputPlan, value: readonly unknown[]): boolean {
  if (elements === undefined || row.length !== 2) return true
  const { length } = value[0] as readonly unknown[]
  return length === row[1] && (length !== elements || value.length === 1)
}

function encodeScalars(plan: InputPlan, value: unknown, path: string): Tensor {
  const { datatype } = plan.spec
  const list = Array.isArray(value) ? value : undefined
  if (list?.length === 0) throw invalid(path, `is an empty list; ${plan.takes}`)
  const values = list ?? [value]
  const data = allocateShared(datatype, values.length)
  const bad = writeValues(datatype, values, data, 0)
  if (bad !== -1) throw invalid(list === undefined ? path : `${path}[${bad}]`, refusal(datatype, values[bad]))
  return { datatype, shape: [values.length], data }
}

function encodeList(
  plan: InputPlan,
  rows: readonly unknown[],
  pathOf: (row: number) => string,
  shape: readonly number[],
): Tensor {
  const { datatype } = plan.spec
  checkInner(plan, shape, pathOf(0))
  const elements = elementCount(shape)
  const data = allocateShared(datatype, rows.length * elements)
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i]
    const path = pathOf(i)
    if (!Array.isArray(row)) throw invalid(path, `is ${show(row)}; ${plan.takes}`)
    const flat = !Array.isArray(row[0]) && (shape.length === 1 || plan.elements !== undefined)
    if (flat) {
      if (row.length !== elements) throw ragged(plan, path, row.length, elements)
      fill(plan, row, data, i * elements, path)
    } else {
      fillNested(plan, row, shape, 0, data, i * elements, path)
    }
  }
  return { datatype, shape: [rows.length, ...shape], data }
}

function ragged(plan: InputPlan, path: string, length: number, expected: number): InvalidInput {
  const why = plan.elements === undefined ? ` where the rows before have ${expected}` : ''
  return invalid(path, `has ${length} values${why}; ${plan.takes}`)
}

/** The tensors as they are, for models without a batch dimension. */
function encodeWhole(plan: InputPlan, value: unknown, path: string): Tensor {
  const { datatype, shape: wanted, anyShape } = plan.spec
  if (wanted.length === 0 && !anyShape) {
    if (Array.isArray(value)) throw invalid(path, `is ${show(value)}; ${plan.takes}`)
    const data = allocateShared(datatype, 1)
    fill(plan, [value], data, 0, path, true)
    return { datatype, shape: [], data }
  }
  if (!Array.isArray(value)) {
    if (anyShape) {
      const data = allocateShared(datatype, 1)
      fill(plan, [value], data, 0, path, true)
      return { datatype, shape: [], data }
    }
    throw invalid(path, `is ${show(value)}; ${plan.takes}`)
  }
  const { elements } = plan
  const flat = elements !== undefined && wanted.length > 1 && !Array.isArray(value[0]) && elements > 0
  if (flat) {
    if (value.length !== elements) throw invalid(path, `has ${value.length} values; ${plan.takes}`)
    const data = allocateShared(datatype, value.length)
    fill(plan, value, data, 0, path)
    return { datatype, shape: wanted as number[], data }
  }
  const shape = shapeOf(value, anyShape ? Number.POSITIVE_INFINITY : wanted.length)
  checkInner(plan, shape, path)
  const data = allocateShared(datatype, elementCount(shape))
  fillNested(plan, value, shape, 0, data, 0, path)
  return { datatype, shape, data }
}

function fill(
  plan: InputPlan,
  values: readonly unknown[],
  data: Tensor['data'],
  offset: number,
  path: string,
  alone = false,
): void {
  const bad = writeValues(plan.spec.datatype, values, data, offset)
  if (bad === -1) return
  const value = values[bad]
  const problem = Array.isArray(value) ? `is ${show(value)}; ${plan.takes}` : refusal(plan.spec.datatype, value)
  throw invalid(alone ? path : `${path}[${bad}]`, problem)
}

function fillNested(
  plan: InputPlan,
  value: unknown,
  shape: readonly number[],
  depth: number,
  data: Tensor['data'],
  offset: number,
  path: string,
): number {
  const size = shape[depth] as number
  if (!Array.isArray(value)) throw invalid(path, `is ${show(value)}; ${plan.takes}`)
  if (value.length !== size) throw ragged(plan, path, value.length, size)
  if (depth === shape.length - 1) {
    fill(plan, value, data, offset, path)
    return offset + size
  }
  let at = offset
  for (let i = 0; i < size; i++) at = fillNested(plan, value[i], shape, depth + 1, data, at, `${path}[${i}]`)
  return at
}

/** The fixed dimensions of a row whose others are dynamic must still be right. */
function checkInner(plan: InputPlan, shape: readonly number[], path: string): void {
  if (shape.includes(0)) throw invalid(path, `is empty; ${plan.takes}`)
  if (plan.spec.anyShape) return
  const fits =
    shape.length === plan.row.length && plan.row.every((wanted, i) => typeof wanted === 'string' || wanted === shape[i])
  if (!fits) throw invalid(path, `has the shape ${showShape(shape)}; ${plan.takes}`)
}

/** How deep lists go along their first elements, at most `limit` (hostile bodies nest without end). */
function depthOf(value: unknown, limit: number): number {
  let depth = 0
  for (let inner = value; Array.isArray(inner) && depth < limit; inner = inner[0]) depth++
  return depth
}

/** Lengths of nested lists along their first elements, at most `rank` of them. */
function shapeOf(value: unknown, rank: number): number[] {
  const shape: number[] = []
  for (let inner = value; Array.isArray(inner) && shape.length < Math.min(rank, 32); inner = inner[0]) {
    shape.push(inner.length)
  }
  return shape
}
