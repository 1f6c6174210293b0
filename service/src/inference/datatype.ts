import type { Datatype, TensorData } from './types.js'

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
  /** Bytes of one element; 0 where it varies. */
  readonly bytes: number
  readonly allocate: (length: number) => TensorData
}

const table: Readonly<Record<Datatype, Row>> = {
  BOOL: { ort: 'bool', bytes: 1, allocate: n => new Uint8Array(n) },
  UINT8: { ort: 'uint8', bytes: 1, allocate: n => new Uint8Array(n) },
  UINT16: { ort: 'uint16', bytes: 2, allocate: n => new Uint16Array(n) },
  UINT32: { ort: 'uint32', bytes: 4, allocate: n => new Uint32Array(n) },
  UINT64: { ort: 'uint64', bytes: 8, allocate: n => new BigUint64Array(n) },
  INT8: { ort: 'int8', bytes: 1, allocate: n => new Int8Array(n) },
  INT16: { ort: 'int16', bytes: 2, allocate: n => new Int16Array(n) },
  INT32: { ort: 'int32', bytes: 4, allocate: n => new Int32Array(n) },
  INT64: { ort: 'int64', bytes: 8, allocate: n => new BigInt64Array(n) },
  FP16: { ort: 'float16', bytes: 2, allocate: n => new Uint16Array(n) },
  FP32: { ort: 'float32', bytes: 4, allocate: n => new Float32Array(n) },
  FP64: { ort: 'float64', bytes: 8, allocate: n => new Float64Array(n) },
  BYTES: { ort: 'string', bytes: 0, allocate: n => new Array<string>(n).fill('') },
}

export const datatypes = Object.keys(table) as readonly Datatype[]

const byOrtType = new Map<string, Datatype>(datatypes.map(each => [table[each].ort, each]))

/** The protocol's name for a datatype of the runtime; undefined for those that cannot be served (int4, bfloat16, …). */
export const fromOrtType = (type: string): Datatype | undefined => byOrtType.get(type)

export const toOrtType = (datatype: Datatype): OrtType => table[datatype].ort

/** Bytes of one element as it lies in memory; 0 for BYTES. */
export const elementBytes = (datatype: Datatype): number => table[datatype].bytes

/** Room for `length` elements, all zero (or empty strings). */
export const allocate = (datatype: Datatype, length: number): TensorData => table[datatype].allocate(length)

export const isFloat = (datatype: Datatype): boolean =>
  datatype === 'FP32' || datatype === 'FP64' || datatype === 'FP16'

export const isInteger = (datatype: Datatype): boolean => datatype.startsWith('INT') || datatype.startsWith('UINT')

/** Elements of a shape. */
export function elementCount(shape: readonly number[], from = 0): number {
  let count = 1
  for (let i = from; i < shape.length; i++) count *= shape[i] as number
  return count
}
