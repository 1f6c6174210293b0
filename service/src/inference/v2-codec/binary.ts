/**
 * The binary tensor data extension of the Open Inference Protocol: elements as they lie in memory, row-major, without
 * padding, little-endian. That is also the order of every machine that ONNX Runtime for Node is built for (x64, arm64).
 * https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
 */
import { isUtf8 } from 'node:buffer'
import { InvalidInput } from '../errors.js'
import { elementBytes } from '../tensors/datatype.js'
import type { Datatype, Tensor, TensorData } from '../types.js'

/** Tells how many bytes of a body are JSON; the tensors follow. */
export const headerLengthField = 'inference-header-content-length'

const arrays = {
  BOOL: Uint8Array,
  UINT8: Uint8Array,
  UINT16: Uint16Array,
  UINT32: Uint32Array,
  UINT64: BigUint64Array,
  INT8: Int8Array,
  INT16: Int16Array,
  INT32: Int32Array,
  INT64: BigInt64Array,
  FP16: Uint16Array,
  FP32: Float32Array,
  FP64: Float64Array,
} as const

/** A body in its two parts. */
export interface MessageParts {
  readonly json: Buffer
  /** Undefined where the message has no such part, not even an empty one. */
  readonly binary: Buffer | undefined
}

/** The JSON and the tensors of a body, by its header; without one the whole body is JSON. Throws InvalidInput. */
export function splitMessage(body: Buffer, headerLength: string | undefined): MessageParts {
  if (headerLength === undefined) return { json: body, binary: undefined }
  const length = /^\d{1,15}$/.test(headerLength) ? Number(headerLength) : -1
  if (length < 0 || length > body.length) {
    const message = `takes the number of bytes that are JSON, at most the ${body.length} of the body`
    throw invalid(`headers.${headerLengthField}`, message)
  }
  return { json: body.subarray(0, length), binary: body.subarray(length) }
}

/**
 * The elements that `bytes` hold: a view on them where they are aligned, a copy where they are not. `path` names them in
 * the InvalidInput that it throws. A BOOL that is neither 0 nor 1 is refused rather than taken for true.
 */
export function readElements(datatype: Datatype, elements: number, bytes: Buffer, path: string): TensorData {
  if (datatype === 'BYTES') return readStrings(elements, bytes, path)
  const size = elementBytes(datatype)
  if (bytes.length !== elements * size) {
    throw invalid(path, `has ${bytes.length} bytes; ${elements} values of ${datatype} take ${elements * size}`)
  }
  const Elements = arrays[datatype]
  const data =
    bytes.byteOffset % size === 0
      ? new Elements(bytes.buffer as ArrayBuffer, bytes.byteOffset, elements)
      : new Elements(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) as ArrayBuffer)
  if (datatype === 'BOOL') {
    const bad = (data as Uint8Array).findIndex(value => value > 1)
    if (bad !== -1) throw invalid(path, `has the byte ${data[bad]} as value ${bad}; a BOOL is 0 or 1`)
  }
  return data
}

/** Each string is its length in bytes (4 bytes), and its bytes. ONNX strings are UTF-8. */
function readStrings(elements: number, bytes: Buffer, path: string): string[] {
  const strings: string[] = []
  let at = 0
  while (at < bytes.length) {
    if (strings.length === elements) throw invalid(path, `goes on after the ${elements} values of the shape`)
    if (at + 4 > bytes.length) throw invalid(path, `ends within the length of value ${strings.length}`)
    const end = at + 4 + bytes.readUInt32LE(at)
    if (end > bytes.length)
      throw invalid(path, `ends within value ${strings.length}, which says it has ${end - at - 4} bytes`)
    strings.push(readString(bytes.subarray(at + 4, end), path, strings.length))
    at = end
  }
  if (strings.length !== elements) throw invalid(path, `has ${strings.length} values; the shape has ${elements}`)
  return strings
}

/** One string; the runtime would cut it at U+0000, and decoding would replace what is not UTF-8. */
export function readString(bytes: Buffer, path: string, place = 0): string {
  if (!isUtf8(bytes)) throw invalid(path, `has bytes that are not UTF-8 in value ${place}; the model takes text`)
  if (bytes.includes(0)) throw invalid(path, `has U+0000 in value ${place}, which the runtime cannot take`)
  return bytes.toString('utf8')
}

/** A tensor's elements as bytes: a view on them, strings aside. */
export function writeElements({ data }: Tensor): Buffer {
  if (!Array.isArray(data)) return Buffer.from(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
  const lengths = data.map(text => Buffer.byteLength(text))
  const bytes = Buffer.allocUnsafe(lengths.reduce((sum, length) => sum + 4 + length, 0))
  let at = 0
  for (const [i, text] of data.entries()) {
    at = bytes.writeUInt32LE(lengths[i] as number, at)
    at += bytes.write(text, at)
  }
  return bytes
}

const invalid = (path: string, message: string): InvalidInput => new InvalidInput([{ path, message }])
