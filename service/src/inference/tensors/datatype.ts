import type { Datatype, TensorData } from '../types.js'

/** The names that ONNX Runtime for Node uses in its metadata and tensors. */
export type OrtType =
  | 'bool'
  | 'uint8'
  | 'uint16'
  | 'uint32'
  | 'uint64'
  | 'int8'
  | 'int16'
  | 'int32'
  | 'int64'
  | 'float16'
  | 'float32'
  | 'float64'
  | 'string'

interface Row {
  readonly ort: OrtType
  /** Undefined for strings, which are no bytes. */
  readonly Elements: ElementsConstructor | undefined
}

interface ElementsConstructor {
  readonly BYTES_PER_ELEMENT: number
  new (length: number): TensorData
  new (buffer: ArrayBuffer, byteOffset: number, length: number): TensorData
}

const table: Readonly<Record<Datatype, Row>> = {
  BOOL: { ort: 'bool', Elements: Uint8Array },
  UINT8: { ort: 'uint8', Elements: Uint8Array },
  UINT16: { ort: 'uint16', Elements: Uint16Array },
  UINT32: { ort: 'uint32', Elements: Uint32Array },
  UINT64: { ort: 'uint64', Elements: BigUint64Array },
  INT8: { ort: 'int8', Elements: Int8Array },
  INT16: { ort: 'int16', Elements: Int16Array },
  INT32: { ort: 'int32', Elements: Int32Array },
  INT64: { ort: 'int64', Elements: BigInt64Array },
  FP16: { ort: 'float16', Elements: Uint16Array },
  FP32: { ort: 'float32', Elements: Float32Array },
  FP64: { ort: 'float64', Elements: Float64Array },
  BYTES: { ort: 'string', Elements: undefined },
}

export const datatypes = Object.keys(table) as readonly Datatype[]

const byOrtType = new Map<string, Datatype>(datatypes.map(each => [table[each].ort, each]))

/** The protocol's name for a datatype of the runtime; undefined for those that cannot be served (int4, bfloat16, …). */
export const fromOrtType = (type: string): Datatype | undefined => byOrtType.get(type)

export const toOrtType = (datatype: Datatype): OrtType => table[datatype].ort

/** Bytes of one element as it lies in memory; 0 for BYTES. */
export const elementBytes = (datatype: Datatype): number => table[datatype].Elements?.BYTES_PER_ELEMENT ?? 0

/** Room for `length` elements, all zero (or empty strings). */
export function allocate(datatype: Datatype, length: number): TensorData {
  const { Elements } = table[datatype]
  return Elements === undefined ? new Array<string>(length).fill('') : new Elements(length)
}

/** Bytes of memory that small tensors share, and how large one of them may be. */
const slabBytes = 65_536
const mostShared = 4096

let slab = new ArrayBuffer(slabBytes)
let slabUsed = 0

/**
 * The same for tensors that come and go with each request. Small ones are views of memory that they share, since memory
 * of its own costs more to get and to give back than to fill; so they must not be moved to another thread.
 */
export function allocateShared(datatype: Datatype, length: number): TensorData {
  const { Elements } = table[datatype]
  if (Elements === undefined) return allocate(datatype, length)
  const bytes = length * Elements.BYTES_PER_ELEMENT
  if (bytes > mostShared) return new Elements(length)
  if (slabUsed + bytes > slabBytes) {
    slab = new ArrayBuffer(slabBytes)
    slabUsed = 0
  }
  const data = new Elements(slab, slabUsed, length)
  // The next one may have elements of 8 bytes, which lie at multiples of it.
  slabUsed += (bytes + 7) & ~7
  return data
}

export const isFloat = (datatype: Datatype): boolean =>
  datatype === 'FP32' || datatype === 'FP64' || datatype === 'FP16'

export const isInteger = (datatype: Datatype): boolean => datatype.startsWith('INT') || datatype.startsWith('UINT')

/** Elements of a shape. */
export function elementCount(shape: readonly number[], from = 0): number {
  let count = 1
  for (let i = from; i < shape.length; i++) count *= shape[i] as number
  return count
}
