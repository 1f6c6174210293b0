/** Rows of several requests into the tensors of one batch, and the batch's outputs back into theirs. Pure. */

import type { NamedTensors, Tensor, TensorData } from '../types.js'
import { allocate, elementCount } from './datatype.js'

/** Rows `from` to `from + rows` of one request's tensors. */
export interface Part {
  readonly inputs: NamedTensors
  readonly from: number
  readonly rows: number
}

type Copyable = Exclude<TensorData, string[]>

/**
 * The parts' rows on top of each other, in new memory (which may then be moved to another thread). The parts agree in
 * datatypes and in every dimension but the first.
 */
export function stackInputs(parts: readonly Part[], rows: number): NamedTensors {
  const first = (parts[0] as Part).inputs
  const stacked: Record<string, Tensor> = {}
  for (const name in first) {
    const { datatype, shape } = first[name] as Tensor
    const width = elementCount(shape, 1)
    const data = allocate(datatype, rows * width)
    let at = 0
    for (const part of parts) {
      const source = (part.inputs[name] as Tensor).data
      copy(source, part.from * width, data, at, part.rows * width)
      at += part.rows * width
    }
    stacked[name] = { datatype, shape: [rows, ...shape.slice(1)], data }
  }
  return stacked
}

/** The tensors as they are, in new memory. */
export function copyInputs(inputs: NamedTensors): NamedTensors {
  const copies: Record<string, Tensor> = {}
  for (const name in inputs) {
    const { datatype, shape, data } = inputs[name] as Tensor
    const target = allocate(datatype, data.length)
    copy(data, 0, target, 0, data.length)
    copies[name] = { datatype, shape, data: target }
  }
  return copies
}

function copy(source: TensorData, from: number, target: TensorData, at: number, length: number): void {
  if (Array.isArray(source)) {
    for (let i = 0; i < length; i++) (target as string[])[at + i] = source[from + i] as string
    return
  }
  const part = from === 0 && length === source.length ? source : source.subarray(from, from + length)
  ;(target as { set(from: unknown, at: number): void }).set(part, at)
}

/** True when every output has one entry a row. */
export function hasRows(outputs: NamedTensors, rows: number): boolean {
  for (const name in outputs) if ((outputs[name] as Tensor).shape[0] !== rows) return false
  return true
}

/** Rows `from` to `from + rows` of every wanted output: views, not copies. */
export function sliceOutputs(
  outputs: NamedTensors,
  from: number,
  rows: number,
  wanted?: readonly string[],
): NamedTensors {
  const slices: Record<string, Tensor> = {}
  for (const name in outputs) {
    if (wanted !== undefined && !wanted.includes(name)) continue
    const { datatype, shape, data } = outputs[name] as Tensor
    const width = elementCount(shape, 1)
    const slice = Array.isArray(data)
      ? data.slice(from * width, (from + rows) * width)
      : (data as Copyable).subarray(from * width, (from + rows) * width)
    slices[name] = { datatype, shape: [rows, ...shape.slice(1)], data: slice }
  }
  return slices
}

/** The outputs of a request that was split, put together in order. Undefined when their inner shapes differ. */
export function joinOutputs(parts: readonly NamedTensors[]): NamedTensors | undefined {
  const first = parts[0] as NamedTensors
  const joined: Record<string, Tensor> = {}
  for (const name in first) {
    const { datatype, shape } = first[name] as Tensor
    const tensors = parts.map(part => part[name] as Tensor)
    const inner = shape.slice(1).join()
    if (tensors.some(tensor => tensor.shape.slice(1).join() !== inner)) return undefined
    const rows = tensors.reduce((sum, tensor) => sum + (tensor.shape[0] ?? 0), 0)
    const data = allocate(datatype, rows * elementCount(shape, 1))
    let at = 0
    for (const tensor of tensors) {
      copy(tensor.data, 0, data, at, tensor.data.length)
      at += tensor.data.length
    }
    joined[name] = { datatype, shape: [rows, ...shape.slice(1)], data }
  }
  return joined
}
