/**
 * JSON as the Open Inference Protocol puts tensors into it: no digit of a 64-bit integer is lost, in either direction.
 * (RFC 8259, section 6: readers may keep numbers as doubles, and JSON.parse does.)
 */
import { InvalidInput } from '../errors.js'
import { allocate, elementCount, isInteger } from '../tensors/datatype.js'
import { JsonBytes } from '../tensors/json-bytes.js'
import { readJsonText } from '../tensors/json-text.js'
import { findRagged, type Misfit, writeNestedLists } from '../tensors/nested.js'
import { showShape } from '../tensors/signature.js'
import { refusal, writeElements } from '../tensors/tensor.js'
import type { Tensor, TensorData } from '../types.js'

export interface JsonDocument {
  readonly value: unknown
  /** The same, with integers of 16 digits and more as strings of their digits. Costs a second parse. */
  exact(): unknown
}

/** Parses the JSON of a message. Throws InvalidInput. */
export function readJson(bytes: Buffer): JsonDocument {
  const read = readJsonText(bytes)
  if (read.fault !== undefined) throw invalid('', read.fault)
  const { text, value } = read
  let exact: unknown
  return {
    value,
    exact: () => {
      exact ??= JSON.parse(quoteLongIntegers(text))
      return exact
    },
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

/**
 * The elements of `data`, which is flat, or nested as `shape` is. `exactly` gives the same list from `exact()` of the
 * document: it is called only where an integer has more digits than a double keeps. `path` is where the list is in the
 * message. Throws InvalidInput.
 */
export function elementsFromJson(
  data: readonly unknown[],
  { datatype, shape }: Pick<Tensor, 'datatype' | 'shape'>,
  path: string,
  exactly: () => readonly unknown[],
): TensorData {
  const elements = elementCount(shape)
  const lists = shape.length > 1 && Array.isArray(data[0]) ? shape : [elements]
  const ragged = findRagged(data, lists)
  if (ragged !== undefined) throw invalid(path + ragged.path, raggedMessage(ragged, shape))
  const target = allocate(datatype, elements)
  const misfit = writeNestedLists(datatype, data, lists, target)
  if (misfit === undefined) return target
  const wide = datatype === 'INT64' || datatype === 'UINT64'
  const still = wide && Number.isInteger(misfit.value) ? writeNestedLists(datatype, exactly(), lists, target) : misfit
  if (still === undefined) return target
  throw invalid(path + still.path, refusal(datatype, still.value))
}

function raggedMessage({ path, value, length }: Misfit, shape: readonly number[]): string {
  if (!Array.isArray(value)) return 'is not a list, while those before it are; data is flat, or nested as the shape'
  return `has ${value.length} values; the shape ${showShape(shape)} has ${length}${path === '' ? '' : ' here'}`
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
