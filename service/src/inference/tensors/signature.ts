/** What a model takes and gives, from the runtime's own metadata, and what of it is a row. Pure. */

import { clip, InvalidInput, listed } from '../errors.js'
import type { Dimension, NamedTensors, Signature, TensorSpec } from '../types.js'
import { elementCount, fromOrtType } from './datatype.js'

/** One entry of `session.inputMetadata` or `outputMetadata`, as onnxruntime-node 1.22 and later give it. */
export interface OrtValueMetadata {
  readonly name: string
  readonly isTensor: boolean
  readonly type?: string
  readonly shape?: readonly (number | string)[]
}

/** Inputs whose file states no shape at all: the runtime's metadata cannot tell them from scalars. */
export type UnknownRanks = ReadonlySet<string>

/**
 * The signature of a session, with the outputs that can be served. Throws a plain Error saying which input cannot be
 * served, or that no output can, and why.
 */
export function signatureOf(
  inputs: readonly OrtValueMetadata[],
  outputs: readonly OrtValueMetadata[],
  unknownRanks: UnknownRanks = new Set(),
): Signature {
  const [first] = outputs
  if (first === undefined) throw new Error('the model has no outputs')
  const served = outputs.filter(isServed)
  return {
    inputs: inputs.map(each => specOf('input', each, unknownRanks)),
    outputs: (served.length === 0 ? [first] : served).map(each => specOf('output', each, unknownRanks)),
  }
}

/** Whether a value of the runtime is a tensor of a datatype that is served. A model may have other outputs besides. */
export const isServed = ({ name, isTensor, type }: OrtValueMetadata): boolean =>
  isTensor && fromOrtType(type ?? '') !== undefined && name !== '__proto__'

function specOf(kind: 'input' | 'output', value: OrtValueMetadata, unknownRanks: UnknownRanks): TensorSpec {
  if (!value.isTensor) throw new Error(`${kind} '${value.name}' is not a tensor (a sequence, map or optional)`)
  const datatype = fromOrtType(value.type ?? '')
  if (datatype === undefined)
    throw new Error(`${kind} '${value.name}' has the datatype ${value.type}, which is not served`)
  const shape = (value.shape ?? []).map(dimension => (dimension === '' ? '?' : dimension))
  const spec: TensorSpec = { name: value.name, datatype, shape }
  return unknownRanks.has(value.name) ? { ...spec, anyShape: true } : spec
}

/**
 * Where the rows of a request lie.
 * `dynamic`: the first dimension of every input is free and the same: any number of rows in one run.
 * `single`: the first dimension of every input is 1: one row a run, a request of several is run row by row.
 * `whole`: there is no common batch dimension: a request is one row, the tensors as they are.
 */
export type RowLayout = 'dynamic' | 'single' | 'whole'

export function rowLayout(signature: Signature): RowLayout {
  const firsts = signature.inputs.map(spec => (spec.anyShape ? undefined : spec.shape[0]))
  if (firsts.length === 0) return 'whole'
  const [first] = firsts
  if (firsts.every(each => each === 1)) return 'single'
  if (typeof first === 'string' && firsts.every(each => each === first)) return 'dynamic'
  return 'whole'
}

/** The shape of one row of this input: without the batch dimension, where there is one. */
export function rowShape(spec: TensorSpec, layout: RowLayout): readonly Dimension[] {
  return layout === 'whole' ? spec.shape : spec.shape.slice(1)
}

export function isFixed(shape: readonly Dimension[]): shape is readonly number[] {
  return shape.every(dimension => typeof dimension === 'number')
}

/** A shape in the words of a message: `[batch, 8, 8]`. */
export const showShape = (shape: readonly Dimension[]): string => `[${shape.join(', ')}]`

/** Why the signature alone rules out sharing runs between requests; undefined when it does not. */
export function unbatchable(signature: Signature): string | undefined {
  if (signature.inputs.length === 0) return 'the model has no inputs'
  const layout = rowLayout(signature)
  if (layout === 'single') return 'the batch dimension is fixed at 1'
  if (layout === 'whole') {
    const fixed = signature.inputs.find(({ shape }) => typeof shape[0] === 'number')
    if (fixed !== undefined) return `input '${fixed.name}' has a fixed first dimension of ${fixed.shape[0]}`
    const scalar = signature.inputs.find(({ shape }) => shape.length === 0)
    if (scalar !== undefined) return `input '${scalar.name}' has no batch dimension`
    return 'the inputs do not share one batch dimension'
  }
  const output = signature.outputs.find(({ shape }) => typeof shape[0] === 'number')
  return output === undefined ? undefined : `output '${output.name}' has a fixed first dimension of ${output.shape[0]}`
}

/**
 * Checks tensors against a signature and returns the number of rows. The runtime would ignore unknown inputs, spread a
 * batch of one over a larger one, and report the rest without saying what the model takes. Throws InvalidInput.
 */
export function checkInputs(signature: Signature, inputs: NamedTensors, layout = rowLayout(signature)): number {
  let rows = -1
  const sizes: Sizes = {}
  for (const spec of signature.inputs) {
    const tensor = inputs[spec.name]
    if (tensor === undefined) throw invalid(spec, 'is missing', signature)
    const { shape, data, datatype } = tensor
    if (datatype !== spec.datatype) throw invalid(spec, `is ${datatype}`, signature)
    if (data.length !== elementCount(shape)) {
      throw invalid(spec, `has ${data.length} values for the shape ${showShape(shape)}`, signature)
    }
    if (!spec.anyShape) fitShape(spec, shape, sizes, layout, signature)
    if (layout === 'whole') continue
    const first = shape[0] as number
    if (first === 0) throw invalid(spec, 'has no rows', signature)
    if (rows !== -1 && rows !== first) throw invalid(spec, `has ${first} rows where another has ${rows}`, signature)
    rows = first
  }
  for (const name in inputs) {
    if (signature.inputs.some(spec => spec.name === name)) continue
    const takes = listed(signature.inputs.map(spec => spec.name))
    throw new InvalidInput([{ path: `inputs.${clip(name)}`, message: `is not an input; the model takes ${takes}` }])
  }
  return layout === 'whole' ? 1 : rows
}

/** Sizes of the named dimensions met so far; made only where a model has such besides the batch. */
interface Sizes {
  byName?: Map<string, number>
}

/** Dimensions of one name are one size over all inputs, the batch dimension of a `single` model being the exception. */
function fitShape(
  spec: TensorSpec,
  shape: readonly number[],
  sizes: Sizes,
  layout: RowLayout,
  signature: Signature,
): void {
  if (shape.length !== spec.shape.length) throw invalid(spec, `has the shape ${showShape(shape)}`, signature)
  for (let i = layout === 'whole' ? 0 : 1; i < shape.length; i++) {
    const wanted = spec.shape[i] as Dimension
    const size = shape[i] as number
    if (wanted === size || wanted === '?') continue
    if (typeof wanted === 'string') {
      sizes.byName ??= new Map()
      const known = sizes.byName.get(wanted)
      if (known === undefined) sizes.byName.set(wanted, size)
      if (known === undefined || known === size) continue
    }
    throw invalid(spec, `has the shape ${showShape(shape)}`, signature)
  }
}

function invalid(spec: TensorSpec, message: string, signature: Signature): InvalidInput {
  const takes = listed(signature.inputs.map(each => describeSpec(each)))
  return new InvalidInput([{ path: `inputs.${spec.name}`, message: `${message}; the model takes ${takes}` }])
}

/** One tensor of a signature in words: `x FP32 [batch, 64]`. */
export const describeSpec = (spec: TensorSpec): string =>
  `${spec.name} ${spec.datatype} ${spec.anyShape ? '(any shape)' : showShape(spec.shape)}`
