/**
 * Values between JSON and tensors, without ever altering one in silence: what a datatype cannot hold is refused (no wrap,
 * no word read as a number, no null read as 0), and every answer is valid JSON that reads back as the same value.
 */

import type { Datatype, Tensor, TensorData } from '../types.js'
import { allocate, elementCount } from './datatype.js'
import { float16Limit, fromFloat16Bits, roundToFloat16, toFloat16Bits } from './float16.js'
import type { JsonBytes } from './json-bytes.js'

/**
 * Copies `source` into `target` from `offset` on. Returns -1, or the index of the first value that does not fit, in
 * which case `target` is half written and must not be used.
 */
type Writer = (source: readonly unknown[], target: never, offset: number) => number

/** From here on, rounding to float32 gives Infinity: the largest float32 plus half a unit in its last place. */
const float32Limit = 3.4028235677973366e38

/** Numbers that JSON lacks, as they are given out. `1e999` is none of them: a number that cannot be held is refused. */
const words: ReadonlyMap<unknown, number> = new Map([
  ['NaN', Number.NaN],
  ['Infinity', Number.POSITIVE_INFINITY],
  ['-Infinity', Number.NEGATIVE_INFINITY],
])

const writeFloat32 = (source: readonly unknown[], target: Float32Array, offset: number): number => {
  for (let i = 0; i < source.length; i++) {
    const value = source[i]
    if (typeof value === 'number' && value < float32Limit && value > -float32Limit) target[offset + i] = value
    else if (words.has(value)) target[offset + i] = words.get(value) as number
    else return i
  }
  return -1
}

const writeFloat64 = (source: readonly unknown[], target: Float64Array, offset: number): number => {
  for (let i = 0; i < source.length; i++) {
    const value = source[i]
    if (typeof value === 'number' && Number.isFinite(value)) target[offset + i] = value
    else if (words.has(value)) target[offset + i] = words.get(value) as number
    else return i
  }
  return -1
}

const writeFloat16 = (source: readonly unknown[], target: Uint16Array, offset: number): number => {
  for (let i = 0; i < source.length; i++) {
    const value = source[i]
    const isHalf = typeof value === 'number' && value < float16Limit && value > -float16Limit
    const number = isHalf ? value : words.get(value)
    if (number === undefined) return i
    target[offset + i] = toFloat16Bits(number)
  }
  return -1
}

const writeInteger =
  (min: number, max: number) =>
  (source: readonly unknown[], target: Int32Array, offset: number): number => {
    for (let i = 0; i < source.length; i++) {
      const value = source[i]
      if (typeof value !== 'number' || !(value >= min && value <= max) || !Number.isInteger(value)) return i
      target[offset + i] = value
    }
    return -1
  }

const decimal = /^-?[0-9]{1,20}$/

const writeBigInteger =
  (min: bigint, max: bigint) =>
  (source: readonly unknown[], target: BigInt64Array, offset: number): number => {
    for (let i = 0; i < source.length; i++) {
      const value = source[i]
      // A number beyond 2^53-1 has already lost digits in JSON.parse: such values come as strings.
      const exact = Number.isSafeInteger(value) || (typeof value === 'string' && decimal.test(value))
      if (!exact) return i
      const big = BigInt(value as number | string)
      if (big < min || big > max) return i
      target[offset + i] = big
    }
    return -1
  }

const writeBool = (source: readonly unknown[], target: Uint8Array, offset: number): number => {
  for (let i = 0; i < source.length; i++) {
    const value = source[i]
    if (value === true || value === 1) target[offset + i] = 1
    else if (value === false || value === 0) target[offset + i] = 0
    else return i
  }
  return -1
}

const writeString = (source: readonly unknown[], target: string[], offset: number): number => {
  for (let i = 0; i < source.length; i++) {
    const value = source[i]
    // The runtime would cut the string at U+0000, and turn half of a surrogate pair into another character.
    if (typeof value !== 'string' || value.includes('\0') || !isWellFormed(value)) return i
    target[offset + i] = value
  }
  return -1
}

const writers: Readonly<Record<Datatype, Writer>> = {
  BOOL: writeBool,
  UINT8: writeInteger(0, 255),
  UINT16: writeInteger(0, 65535),
  UINT32: writeInteger(0, 4294967295),
  UINT64: writeBigInteger(0n, 18446744073709551615n),
  INT8: writeInteger(-128, 127),
  INT16: writeInteger(-32768, 32767),
  INT32: writeInteger(-2147483648, 2147483647),
  INT64: writeBigInteger(-9223372036854775808n, 9223372036854775807n),
  FP16: writeFloat16,
  FP32: writeFloat32,
  FP64: writeFloat64,
  BYTES: writeString,
}

/** What one element of a datatype may be, in the words of an error message. */
const accepted: Readonly<Record<Datatype, string>> = {
  BOOL: 'true, false, 0 or 1',
  UINT8: 'an integer from 0 to 255',
  UINT16: 'an integer from 0 to 65535',
  UINT32: 'an integer from 0 to 4294967295',
  UINT64: 'an integer from 0 to 18446744073709551615, as a string of digits where it is beyond 9007199254740991',
  INT8: 'an integer from -128 to 127',
  INT16: 'an integer from -32768 to 32767',
  INT32: 'an integer from -2147483648 to 2147483647',
  INT64: 'an integer of 64 bits, as a string of digits where it is beyond ±9007199254740991',
  FP16: 'a number within ±65504 (float16), "NaN", "Infinity" or "-Infinity"',
  FP32: 'a number within ±3.4028235e38 (float32), "NaN", "Infinity" or "-Infinity"',
  FP64: 'a finite number, "NaN", "Infinity" or "-Infinity"',
  BYTES: 'a string without U+0000 and without half surrogate pairs',
}

/**
 * Writes JSON values into a tensor's elements. Returns -1, or the index in `source` of the first value that the
 * datatype cannot hold.
 */
export function writeValues(
  datatype: Datatype,
  source: readonly unknown[],
  target: TensorData,
  offset: number,
): number {
  return writers[datatype](source, target as never, offset)
}

/** Says why `value` is refused, and what is taken. */
export function refusal(datatype: Datatype, value: unknown): string {
  return `is ${show(value)}; the model takes ${accepted[datatype]}`
}

/** A caller's value in an error message: short, and on one line. */
export function show(value: unknown): string {
  if (Array.isArray(value)) return `a list of ${value.length}`
  if (value === null || value === undefined) return value === null ? 'null' : 'missing'
  if (typeof value === 'object') return 'an object'
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
  return text.length > 40 ? `${text.slice(0, 40)}…` : text
}

/** A tensor of flat JSON values; throws RangeError naming the first that does not fit. For tests and load-time samples. */
export function tensorOf(datatype: Datatype, shape: readonly number[], values: readonly unknown[]): Tensor {
  const data = allocate(datatype, values.length)
  const bad = writeValues(datatype, values, data, 0)
  if (bad !== -1) throw new RangeError(`value ${bad} ${refusal(datatype, values[bad])}`)
  return { datatype, shape, data }
}

/**
 * Writes one element as JSON. Integers of 64 bits are numbers while JSON readers keep them exact (±2^53-1) and decimal
 * strings beyond; float32 and float16 have the fewest digits that read back as the same value. Numbers that JSON lacks
 * are the strings "NaN", "Infinity" and "-Infinity" (as in ProtoJSON).
 */
export function writeElement(out: JsonBytes, datatype: Datatype, data: TensorData, index: number): void {
  const value = data[index] as number | bigint | string
  if (datatype === 'FP32' && Number.isFinite(value)) out.float32(value as number)
  else out.json(elementText(datatype, value))
}

function elementText(datatype: Datatype, value: number | bigint | string): string {
  if (typeof value === 'string') return JSON.stringify(value)
  if (typeof value === 'bigint') {
    return value >= -9007199254740991n && value <= 9007199254740991n ? `${value}` : `"${value}"`
  }
  if (datatype === 'FP16') return float16Text(value)
  if (datatype === 'BOOL') return value === 0 ? 'false' : 'true'
  return numberText(value)
}

function numberText(value: number): string {
  if (!Number.isFinite(value)) return `"${value}"`
  return Object.is(value, -0) ? '-0' : `${value}`
}

function float16Text(bits: number): string {
  const value = fromFloat16Bits(bits)
  if (!Number.isFinite(value) || Number.isInteger(value)) return numberText(value)
  for (let digits = 1; digits < 5; digits++) {
    const candidate = Number(value.toPrecision(digits))
    if (roundToFloat16(candidate) === value) return `${candidate}`
  }
  return `${value}`
}

/** Writes elements `from` to `to` (exclusive), flat and without brackets. */
export function writeElements(out: JsonBytes, { datatype, data }: Tensor, from = 0, to = data.length): void {
  if (datatype === 'FP32') {
    out.float32s(data as Float32Array, from, to)
    return
  }
  for (let i = from; i < to; i++) {
    if (i > from) out.json(',')
    writeElement(out, datatype, data, i)
  }
}

/** Writes elements from `from` on, nested as `shape` says; a shape without dimensions is the one value. */
export function writeNested(out: JsonBytes, tensor: Tensor, shape: readonly number[] = tensor.shape, from = 0): void {
  if (shape.length === 0) {
    writeElement(out, tensor.datatype, tensor.data, from)
    return
  }
  const size = shape[0] as number
  out.json('[')
  if (shape.length === 1) writeElements(out, tensor, from, from + size)
  else {
    const inner = shape.slice(1)
    const step = elementCount(inner)
    for (let i = 0; i < size; i++) {
      if (i > 0) out.json(',')
      writeNested(out, tensor, inner, from + i * step)
    }
  }
  out.json(']')
}

/** Half a surrogate pair has no UTF-8 form. (`String.prototype.isWellFormed`, which the es2023 library does not know.) */
const halfSurrogate = /\p{Surrogate}/u
const isWellFormed = (text: string): boolean => !halfSurrogate.test(text)
