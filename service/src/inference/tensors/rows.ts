/** Rows of a request body into tensors, and outputs of a run into one prediction a row. Pure. */

import { clip, InvalidInput, listed } from '../errors.js'
import type { Dimension, NamedTensors, Signature, Tensor, TensorSpec } from '../types.js'
import { allocateShared, elementCount } from './datatype.js'
import { findRagged, type Misfit, shapeAlongFirst, writeNestedLists } from './nested.js'
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
 * Throws InvalidInput, which names the value by its path and says what the model takes. `path`: where `features` come from.
 */
export function encodeRows(
  signature: Signature,
  body: { readonly features?: unknown; readonly inputs?: unknown },
  path = 'features',
): EncodedRows {
  const known = plansOf(signature)
  const { features, inputs } = body
  if (features !== undefined) {
    const [plan] = known
    if (inputs !== undefined) throw invalid('', "'features' and 'inputs' exclude each other")
    if (plan === undefined || known.length > 1) {
      throw invalid(path, `fits a model of one input; this one takes 'inputs' with ${names(known)}`)
    }
    const tensor = encodeInput(plan, features, path)
    return { inputs: { [plan.spec.name]: tensor }, rows: plan.layout === 'whole' ? 1 : (tensor.shape[0] as number) }
  }
  if (inputs === undefined) {
    throw known.length === 1
      ? invalid('features', `is missing; ${(known[0] as InputPlan).takes}`)
      : invalid('inputs', `is missing; the model takes ${names(known)}`)
  }
  return encodeNamed(known, inputs)
}

/**
 * The same of `instances`: a list of rows, each an object with the row of every input by its name, as TensorFlow Serving
 * takes them.
 */
export function encodeInstances(signature: Signature, instances: readonly unknown[]): EncodedRows {
  const known = plansOf(signature)
  const columns = new Map(known.map(({ spec }) => [spec.name, [] as unknown[]]))
  for (const [i, instance] of instances.entries()) {
    const path = `instances[${i}]`
    if (typeof instance !== 'object' || instance === null || Array.isArray(instance)) {
      throw invalid(path, `is ${show(instance)}; the model takes an object with ${names(known)}`)
    }
    const given = instance as Readonly<Record<string, unknown>>
    const extra = Object.keys(given).find(name => !columns.has(name))
    if (extra !== undefined) throw invalid(`${path}.${clip(extra)}`, `is not an input; the model takes ${names(known)}`)
    for (const { spec, row } of known) {
      const { name } = spec
      if (!Object.hasOwn(given, name)) throw invalid(`${path}.${name}`, `is missing; the model takes ${names(known)}`)
      const value = given[name]
      // A row of one value may stand alone.
      columns.get(name)?.push(row.length > 0 && !Array.isArray(value) ? [value] : value)
    }
  }
  return encodeNamed(known, Object.fromEntries(columns), 'instances')
}

function encodeNamed(known: readonly InputPlan[], inputs: unknown, where = 'inputs'): EncodedRows {
  if (typeof inputs !== 'object' || inputs === null || Array.isArray(inputs)) {
    throw invalid('inputs', `is ${show(inputs)}; the model takes an object with ${names(known)}`)
  }
  const given = inputs as Readonly<Record<string, unknown>>
  const extra = Object.keys(given).find(name => !known.some(plan => plan.spec.name === name))
  if (extra !== undefined) throw invalid(`inputs.${clip(extra)}`, `is not an input; the model takes ${names(known)}`)
  const tensors: Record<string, Tensor> = {}
  let rows = 1
  let first: InputPlan | undefined
  for (const plan of known) {
    const { name } = plan.spec
    const path = `${where}.${name}`
    if (!Object.hasOwn(given, name)) throw invalid(path, `is missing; the model takes ${names(known)}`)
    const tensor = encodeInput(plan, given[name], path)
    // `__proto__` as a plain property: names come from the model file.
    Object.defineProperty(tensors, name, { value: tensor, enumerable: true, configurable: true, writable: true })
    if (plan.layout === 'whole') continue
    const count = tensor.shape[0] as number
    if (first !== undefined && count !== rows) {
      throw invalid(path, `has ${count} rows where ${where}.${first.spec.name} has ${rows}`)
    }
    first ??= plan
    rows = count
  }
  return { inputs: tensors, rows }
}

const names = (known: readonly InputPlan[]): string => listed(known.map(({ spec }) => `'${spec.name}'`))

const invalid = (path: string, message: string): InvalidInput => new InvalidInput([{ path, message }])

function encodeInput(plan: InputPlan, value: unknown, path: string): Tensor {
  if (plan.layout === 'whole') return encodeWhole(plan, value, path)
  const { row, elements } = plan
  if (row.length === 0) return encodeScalars(plan, value, path)
  if (!Array.isArray(value)) throw invalid(path, `is ${show(value)}; ${plan.takes}, or a list of rows`)
  if (value.length === 0 && elements !== 0) throw invalid(path, `is an empty list; ${plan.takes}`)
  if (!Array.isArray(value[0])) {
    // One flat row: the commonest request of all.
    if (row.length > 1 && elements === undefined) throw invalid(path, `is a flat list; ${plan.takes}`)
    if (elements !== undefined && value.length !== elements) {
      throw invalid(path, `has ${value.length} values; ${plan.takes}`)
    }
    return encodeFlat(plan, value, [1, ...(elements === undefined ? [value.length] : (row as number[]))], path)
  }
  if (isOneRow(plan, value)) return encodeRowList(plan, [value], rowShapeOf(plan, value), () => path)
  return encodeRowList(plan, value, rowShapeOf(plan, value[0]), i => `${path}[${i}]`)
}

const rowShapeOf = ({ row, elements }: InputPlan, first: unknown): readonly number[] =>
  elements === undefined ? shapeAlongFirst(first, row) : (row as number[])

/**
 * Whether lists within a list are one row and not a list of rows. They are when they nest as deep as a row; but
 * `[[…16…], […16…]]` is a list of two flat rows for `[4, 4]`, and what ends in an empty list is one row only if it fits.
 */
function isOneRow({ row, elements }: InputPlan, value: readonly unknown[]): boolean {
  const shape = shapeAlongFirst(value)
  const endsEmpty = shape.at(-1) === 0
  if (endsEmpty) return shape.length <= row.length && fits(row, shapeAlongFirst(value, row))
  if (shape.length !== row.length) return false
  if (elements === undefined || row.length !== 2) return true
  return shape[1] === row[1] && (shape[1] !== elements || value.length === 1)
}

const fits = (wanted: readonly Dimension[], shape: readonly number[]): boolean =>
  shape.length === wanted.length && wanted.every((size, i) => typeof size === 'string' || size === shape[i])

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

/** Rows of one shape, each flat or nested. All lists are counted before memory is allocated for the first. */
function encodeRowList(
  plan: InputPlan,
  rows: readonly unknown[],
  shape: readonly number[],
  pathOf: (row: number) => string,
): Tensor {
  const { datatype } = plan.spec
  checkFits(plan, shape, pathOf(0))
  const elements = elementCount(shape)
  const flat = [elements]
  for (let i = 0; i < rows.length; i++) {
    const misfit = findRagged(rows[i], isFlat(plan, rows[i]) ? flat : shape)
    if (misfit !== undefined) throw misfitError(plan, misfit, pathOf(i))
  }
  const data = allocateShared(datatype, rows.length * elements)
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i] as readonly unknown[]
    const misfit = writeNestedLists(datatype, row, isFlat(plan, row) ? flat : shape, data, i * elements)
    if (misfit !== undefined) throw misfitError(plan, misfit, pathOf(i))
  }
  return { datatype, shape: [rows.length, ...shape], data }
}

/** Whether a row is flat where the model's is not: the plain list of all its elements. */
const isFlat = ({ row, elements }: InputPlan, value: unknown): value is readonly unknown[] =>
  elements !== undefined && row.length > 1 && Array.isArray(value) && !Array.isArray(value[0])

function misfitError(plan: InputPlan, { path, value, length }: Misfit, before: string): InvalidInput {
  const where = before + path
  if (length === undefined) return invalidElement(plan, value, where)
  if (!Array.isArray(value)) return invalid(where, `is ${show(value)}; ${plan.takes}`)
  const why = plan.elements === undefined ? ` where the rows before have ${length}` : ''
  return invalid(where, `has ${value.length} values${why}; ${plan.takes}`)
}

const invalidElement = (plan: InputPlan, value: unknown, path: string): InvalidInput =>
  invalid(path, Array.isArray(value) ? `is ${show(value)}; ${plan.takes}` : refusal(plan.spec.datatype, value))

/** The tensors as they are, for models without a batch dimension. */
function encodeWhole(plan: InputPlan, value: unknown, path: string): Tensor {
  const { datatype, shape: wanted, anyShape } = plan.spec
  const takesScalar = anyShape || wanted.length === 0
  if (Array.isArray(value) && wanted.length === 0 && !anyShape) throw invalid(path, `is ${show(value)}; ${plan.takes}`)
  if (!Array.isArray(value)) {
    if (!takesScalar) throw invalid(path, `is ${show(value)}; ${plan.takes}`)
    const data = allocateShared(datatype, 1)
    if (writeValues(datatype, [value], data, 0) !== -1) throw invalidElement(plan, value, path)
    return { datatype, shape: [], data }
  }
  const { elements } = plan
  if (isFlat(plan, value)) {
    if (value.length !== elements) throw invalid(path, `has ${value.length} values; ${plan.takes}`)
    return encodeFlat(plan, value, wanted as number[], path)
  }
  const shape = shapeAlongFirst(value, anyShape ? undefined : wanted)
  checkFits(plan, shape, path)
  const ragged = findRagged(value, shape)
  if (ragged !== undefined) throw misfitError(plan, ragged, path)
  const data = allocateShared(datatype, elementCount(shape))
  const misfit = writeNestedLists(datatype, value, shape, data)
  if (misfit !== undefined) throw misfitError(plan, misfit, path)
  return { datatype, shape, data }
}

/** A flat list of as many elements as `shape` has. */
function encodeFlat(plan: InputPlan, value: readonly unknown[], shape: readonly number[], path: string): Tensor {
  const { datatype } = plan.spec
  const data = allocateShared(datatype, value.length)
  const bad = writeValues(datatype, value, data, 0)
  if (bad !== -1) throw invalidElement(plan, value[bad], `${path}[${bad}]`)
  return { datatype, shape, data }
}

/** Throws InvalidInput where the fixed dimensions of the model are others. */
function checkFits(plan: InputPlan, shape: readonly number[], path: string): void {
  if (plan.spec.anyShape || fits(plan.row, shape)) return
  throw invalid(path, `has the shape ${showShape(shape)}; ${plan.takes}`)
}
