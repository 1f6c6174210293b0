/**
 * JSON as the Open Inference Protocol puts tensors into it: no digit of a 64-bit integer is lost, in either direction.
 * (RFC 8259, section 6: readers may keep numbers as doubles, and JSON.parse does.)
 */
import { InvalidInput } from '../errors.js'
import { allocate, isInteger } from '../tensors/datatype.js'
import { JsonBytes } from '../tensors/json-bytes.js'
import { jsonFault } from '../tensors/json-text.js'
import { refusal, writeElements, writeValues } from '../tensors/tensor.js'
import type { Datatype, Tensor, TensorData } from '../types.js'

export interface JsonDocument {
  readonly value: unknown
  /** The same, with integers of 16 digits and more as strings of their digits. Costs a second parse. */
  exact(): unknown
}

/** Parses the JSON of a message. Throws InvalidInput. */
export function readJson(bytes: Buffer): JsonDocument {
  if (bytes.length === 0) throw invalid('', 'the body is empty where a JSON object is needed')
  const fault = jsonFault(bytes)
  if (fault !== undefined) throw invalid('', fault)
  const marked = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf
  const text = bytes.toString('utf8', marked ? 3 : 0)
  let exact: unknown
  return {
    value: parse(text),
    exact: () => {
      exact ??= JSON.parse(quoteLongIntegers(text))
      return exact
    },
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    const [, place] = /at position (\d+)/.exec((error as Error).message) ?? []
    throw invalid('', `the body is not valid JSON${place === undefined ? '' : ` from character ${place} on`}`)
  }
}

/**
 * Strings, which stay as they are, or whole integers of 16 digits and more. Linear: no two ways lead through a string,
 * and a run of digits is tried from its first one only.
 */
const stringOrLongInteger = /"[^"\\]*(?:\\.[^"\\]*)*"|(?<![\d.eE+-])-?\d{16,}(?![\d.eE])/g

/** `[12345678901234567890]` into `["12345678901234567890"]`. Takes valid JSON only. */
export const quoteLongIntegers = (json: string): string =>
  json.replace(stringOrLongInteger, token => (token.startsWith('"') ? token : `"${token}"`))

/** What `data` of a message is to become. */
export interface ElementsWanted {
  readonly datatype: Datatype
  readonly shape: readonly number[]
  /** Elements of the shape; the caller has made sure that there may be as many. */
  readonly elements: number
}

/** A value that does not fit, by its path within `data`. */
interface Misfit {
  readonly path: string
  readonly message: string
  readonly value?: unknown
}

/**
 * The elements of `data`, which is flat, or nested as the shape is. `exactly` gives the same list from `exact()` of the
 * document: it is asked for only where an integer has more digits than a double keeps. `path` is where the list is in
 * the message. Throws InvalidInput.
 */
export function elementsFromJson(
  data: readonly unknown[],
  wanted: ElementsWanted,
  path: string,
  exactly: () => readonly unknown[],
): TensorData {
  const target = allocate(wanted.datatype, wanted.elements)
  const misfit = fill(data, wanted, target)
  if (misfit === undefined) return target
  const wide = wanted.datatype === 'INT64' || wanted.datatype === 'UINT64'
  const still = wide && Number.isInteger(misfit.value) ? fill(exactly(), wanted, target) : misfit
  if (still === undefined) return target
  throw invalid(path + still.path, still.message)
}

function fill(data: readonly unknown[], { datatype, shape, elements }: ElementsWanted, target: TensorData) {
  if (shape.length > 1 && Array.isArray(data[0])) return fillNested(data, datatype, shape, 0, target, 0)
  if (data.length === elements) return fillRow(data, datatype, target, 0)
  return { path: '', message: `has ${data.length} values; the shape [${shape.join(', ')}] has ${elements}` }
}

function fillNested(
  data: readonly unknown[],
  datatype: Datatype,
  shape: readonly number[],
  depth: number,
  target: TensorData,
  offset: number,
): Misfit | undefined {
  const size = shape[depth] as number
  if (data.length !== size) {
    return { path: '', message: `has ${data.length} values; the shape [${shape.join(', ')}] has ${size} here` }
  }
  if (depth === shape.length - 1) return fillRow(data, datatype, target, offset)
  let step = 1
  for (let i = depth + 1; i < shape.length; i++) step *= shape[i] as number
  for (let i = 0; i < size; i++) {
    const inner = data[i]
    const misfit = Array.isArray(inner)
      ? fillNested(inner, datatype, shape, depth + 1, target, offset + i * step)
      : { path: '', message: 'is no list where those before it are; data is flat, or nested as the shape' }
    if (misfit !== undefined) return { ...misfit, path: `[${i}]${misfit.path}` }
  }
  return undefined
}

function fillRow(data: readonly unknown[], datatype: Datatype, target: TensorData, offset: number): Misfit | undefined {
  const bad = writeValues(datatype, data, target, offset)
  return bad === -1 ? undefined : { path: `[${bad}]`, message: refusal(datatype, data[bad]), value: data[bad] }
}

/**
 * The elements of a tensor as JSON, without the brackets: as everywhere in this service, but that integers of 64 bits
 * are numbers with all their digits.
 */
export function elementsToJson(tensor: Tensor): string {
  if (isInteger(tensor.datatype)) return tensor.data.join()
  out.clear()
  writeElements(out, tensor)
  return out.text()
}

/** There is one tensor at a time. */
const out = new JsonBytes()

const invalid = (path: string, message: string): InvalidInput => new InvalidInput([{ path, message }])
