/**
 * Tensors of an inference message. The inputs of a request and the outputs of a response are written alike:
 * `{ name, shape, datatype, data }`, or `parameters.binary_data_size` in place of `data` and the bytes after the JSON.
 */
import { InvalidInput, listed } from '../errors.js'
import { describeSpec, showShape } from '../tensors/signature.js'
import { show } from '../tensors/tensor.js'
import type { NamedTensors, Tensor, TensorData, TensorSpec } from '../types.js'
import { readElements, writeElements } from './binary.js'
import { elementsFromJson, elementsToJson, type JsonDocument } from './json.js'

/** A message that has been taken apart. */
export interface TensorSource {
  readonly document: JsonDocument
  /** What follows the JSON; undefined where the message has no such part. */
  readonly binary: Buffer | undefined
}

export type JsonObject = Readonly<Record<string, unknown>>

/** Ranks beyond this are hostile, also where the model takes any. */
const maxRank = 64

/** Keys and values of an empty cache have such shapes: `[1, 32, 0, 128]`. */
const mostEmptySpan = 16_384

/**
 * The tensors under `member` of a message. Each has the name and datatype of one that is known, as many elements as its
 * shape, and only values that its datatype holds; whether the shape fits the model is left to `checkInputs`. Throws
 * InvalidInput.
 */
export function readTensors(
  source: TensorSource,
  member: 'inputs' | 'outputs',
  known: readonly TensorSpec[],
): NamedTensors {
  const list = objectAt(source.document.value, '')[member]
  if (!Array.isArray(list)) throw invalid(member, `is ${show(list)}; it takes a list of tensors`)
  // Without a prototype no name means anything but itself.
  const tensors: Record<string, Tensor> = Object.create(null)
  let at = 0
  for (let i = 0; i < list.length; i++) {
    const path = `${member}[${i}]`
    const entry = objectAt(list[i], path)
    const { name, datatype, ...spec } = specOf(entry, path, known)
    if (name in tensors) throw invalid(`${path}.name`, `is '${name}' once more`)
    const shape = readShape(entry.shape, { name, datatype, ...spec }, `${path}.shape`)
    const size = binarySize(entry, path)
    let data: TensorData
    if (size === undefined) {
      const exactly = () => (source.document.exact() as Record<string, { data: unknown[] }[]>)[member]?.[i]?.data ?? []
      data = readData(entry.data, { datatype, shape }, `${path}.data`, exactly)
    } else {
      data = readElements(datatype, countElements(shape), takeBytes(source.binary, at, size, path), `${path} (binary)`)
      at += size
    }
    tensors[name] = { datatype, shape, data }
  }
  const left = (source.binary?.length ?? 0) - at
  if (left > 0) throw invalid('', `${left} bytes are left after the binary data of all ${member}`)
  return tensors
}

function specOf(entry: JsonObject, path: string, known: readonly TensorSpec[]): TensorSpec {
  const spec = known.find(({ name }) => name === entry.name)
  if (spec === undefined) {
    throw invalid(`${path}.name`, `is ${show(entry.name)}; the model has ${listed(known.map(describeSpec))}`)
  }
  if (entry.datatype === spec.datatype) return spec
  throw invalid(`${path}.datatype`, `is ${show(entry.datatype)}; the model has ${describeSpec(spec)}`)
}

function readShape(value: unknown, spec: TensorSpec, path: string): readonly number[] {
  if (!Array.isArray(value)) throw invalid(path, `is ${show(value)}; it takes a list of dimensions`)
  const bad = value.findIndex(dimension => !Number.isSafeInteger(dimension) || dimension < 0)
  if (bad !== -1) throw invalid(`${path}[${bad}]`, `is ${show(value[bad])}; a dimension is an integer, 0 or more`)
  if (spec.anyShape ? value.length > maxRank : value.length !== spec.shape.length) {
    throw invalid(path, `has ${value.length} dimensions; the model has ${describeSpec(spec)}`)
  }
  // Elements cost bytes of the body, but an empty tensor costs none, whatever its other dimensions: a model that sums
  // over the empty one gives as many values as those say.
  if (value.includes(0) && value.reduce((span, size) => span * (size || 1), 1) > mostEmptySpan) {
    throw invalid(
      path,
      `is ${showShape(value)}; the dimensions of an empty tensor multiply to ${mostEmptySpan} at most, the 0 aside`,
    )
  }
  return value
}

/** Elements of a shape that a caller gave: Infinity or inexact where nothing so large could have been sent. */
const countElements = (shape: readonly number[]): number =>
  shape.includes(0) ? 0 : shape.reduce((product, dimension) => product * dimension, 1)

/** Bytes after the JSON that are this tensor's; undefined where it has `data` instead. */
function binarySize(entry: JsonObject, path: string): number | undefined {
  const size = parametersOf(entry, path).binary_data_size
  if (size === undefined) return undefined
  if (entry.data !== undefined) throw invalid(path, "has both 'data' and 'binary_data_size', which exclude each other")
  if (Number.isSafeInteger(size) && (size as number) >= 0) return size as number
  throw invalid(`${path}.parameters.binary_data_size`, `is ${show(size)}; it takes a number of bytes`)
}

function takeBytes(binary: Buffer | undefined, at: number, size: number, path: string): Buffer {
  if (binary === undefined) {
    throw invalid(
      path,
      'has its data after the JSON, but no header Inference-Header-Content-Length says where that ends',
    )
  }
  if (size <= binary.length - at) return binary.subarray(at, at + size)
  throw invalid(`${path}.parameters.binary_data_size`, `is ${size}; ${binary.length - at} bytes are left of the body`)
}

function readData(
  data: unknown,
  tensor: Pick<Tensor, 'datatype' | 'shape'>,
  path: string,
  exactly: () => readonly unknown[],
): TensorData {
  if (Array.isArray(data)) return elementsFromJson(data, tensor, path, exactly)
  throw invalid(path, `is ${show(data)}; it takes a list, flat or nested as the shape`)
}

/** A tensor to be written, and whether its elements go after the JSON. */
export interface OutgoingTensor {
  readonly name: string
  readonly tensor: Tensor
  readonly binary: boolean
}

export interface Message {
  readonly body: string | Buffer
  /** Bytes of the body that are JSON; undefined where all of it is. */
  readonly headerLength: number | undefined
}

/** A message: `members`, then the tensors under their name, then the bytes of those that are binary. */
export function writeMessage(
  members: JsonObject,
  name: 'inputs' | 'outputs',
  tensors: readonly OutgoingTensor[],
): Message {
  const binary: Buffer[] = []
  const entries = tensors.map(({ name, tensor, binary: after }) => {
    const head = `{"name":${JSON.stringify(name)},"shape":[${tensor.shape.join()}],"datatype":"${tensor.datatype}"`
    if (!after) return `${head},"data":[${elementsToJson(tensor)}]}`
    const bytes = writeElements(tensor)
    binary.push(bytes)
    return `${head},"parameters":{"binary_data_size":${bytes.length}}}`
  })
  const before = JSON.stringify(members).slice(1, -1)
  const json = `{${before}${before === '' ? '' : ','}"${name}":[${entries.join()}]}`
  if (binary.length === 0) return { body: json, headerLength: undefined }
  const head = Buffer.from(json)
  return { body: Buffer.concat([head, ...binary]), headerLength: head.length }
}

export function objectAt(value: unknown, path: string): JsonObject {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as JsonObject
  throw invalid(
    path,
    path === '' ? `the body is ${show(value)} where an object is needed` : `is ${show(value)}; it takes an object`,
  )
}

/** The parameters of a message or a tensor. Those that nobody knows are ignored, as the protocol says. */
export const parametersOf = (entry: JsonObject, path: string): JsonObject =>
  entry.parameters === undefined ? {} : objectAt(entry.parameters, path === '' ? 'parameters' : `${path}.parameters`)

export const invalid = (path: string, message: string): InvalidInput => new InvalidInput([{ path, message }])
