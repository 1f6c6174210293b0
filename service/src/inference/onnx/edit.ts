/**
 * The edit that makes more models servable: ZipMap is lifted out of the graph. Everything else stays byte for byte as it
 * was. Pure.
 */
import { opsetOf, readValue } from './file.js'
import {
  bytesField,
  concatBytes,
  type Field,
  fields,
  integers,
  intField,
  messageField,
  textField,
  textOf,
} from './protobuf.js'

export interface PreparedModel {
  readonly bytes: Uint8Array
  /** Class labels that a lifted ZipMap held. */
  readonly labels: readonly string[] | undefined
}

/** The model as it will be loaded: the same bytes where there is nothing to edit. */
export function prepareModel(bytes: Uint8Array): PreparedModel {
  const top = [...fields(bytes)]
  const graph = top.find(({ number }) => number === 7) as Field
  const hasDefaultOps = top.some(field => field.number === 8 && opsetOf(bytes, field)[0] === '')
  const zipMaps = findZipMaps(bytes, graph)
  if (zipMaps.size === 0) return { bytes, labels: undefined }
  const parts: Uint8Array[] = []
  const batch = firstDimension(bytes, graph)
  for (const field of fields(bytes, graph.start, graph.end)) {
    parts.push(editGraphField(bytes, field, { zipMaps, batch, hasDefaultOps }))
  }
  const edited = concatBytes([bytes.subarray(0, graph.from), messageField(7, parts), bytes.subarray(graph.end)])
  return { bytes: edited, labels: [...zipMaps.values()][0]?.labels }
}

/** scikit-learn's, LightGBM's and XGBoost's converters end in one: a tensor of probabilities into a list of maps. */
interface ZipMap {
  readonly input: string
  readonly output: string
  readonly labels: readonly string[]
  /** Where the node stands in the file. */
  readonly from: number
}

function findZipMaps(bytes: Uint8Array, graph: Field): ReadonlyMap<string, ZipMap> {
  const found = new Map<string, ZipMap>()
  for (const field of fields(bytes, graph.start, graph.end)) {
    if (field.number !== 1) continue
    const zipMap = readZipMap(bytes, field)
    if (zipMap !== undefined) found.set(zipMap.output, zipMap)
  }
  return found
}

function readZipMap(bytes: Uint8Array, message: Field): ZipMap | undefined {
  let input = ''
  let output = ''
  let isZipMap = false
  // Attributes are read only of a ZipMap: those of a forest are millions of numbers.
  const attributes: Field[] = []
  for (const field of fields(bytes, message.start, message.end)) {
    if (field.number === 1) input = textOf(bytes, field)
    else if (field.number === 2) output = textOf(bytes, field)
    else if (field.number === 4) isZipMap = textOf(bytes, field) === 'ZipMap'
    else if (field.number === 5) attributes.push(field)
  }
  if (!isZipMap) return undefined
  return { input, output, labels: attributes.flatMap(each => classLabels(bytes, each)), from: message.from }
}

/** `classlabels_strings` or `classlabels_int64s`: the only attributes a ZipMap has. */
function classLabels(bytes: Uint8Array, attribute: Field): string[] {
  const labels: string[] = []
  for (const field of fields(bytes, attribute.start, attribute.end)) {
    if (field.number === 9) labels.push(textOf(bytes, field))
    else if (field.number === 8) for (const value of integers(bytes, field)) labels.push(String(value))
  }
  return labels
}

/** The first dimension of the first input, as bytes: the lifted output has the same. */
function firstDimension(bytes: Uint8Array, graph: Field): Uint8Array {
  for (const field of fields(bytes, graph.start, graph.end)) {
    if (field.number !== 11) continue
    const path = [2, 1, 2, 1]
    let inner: Field | undefined = field
    for (const number of path) {
      inner = inner && [...fields(bytes, inner.start, inner.end)].find(each => each.number === number)
    }
    return inner === undefined ? new Uint8Array() : bytes.subarray(inner.start, inner.end)
  }
  return new Uint8Array()
}

interface Edits {
  readonly zipMaps: ReadonlyMap<string, ZipMap>
  readonly batch: Uint8Array
  readonly hasDefaultOps: boolean
}

const nothing = new Uint8Array()

function editGraphField(bytes: Uint8Array, field: Field, edits: Edits): Uint8Array {
  const asItIs = bytes.subarray(field.from, field.end)
  if (field.number === 1) {
    const zipMap = [...edits.zipMaps.values()].find(({ from }) => from === field.from)
    if (zipMap === undefined) return asItIs
    // An Identity in its place keeps the output's name; the runtime removes it again.
    return edits.hasDefaultOps ? bytesField(1, identityNode(zipMap)) : nothing
  }
  if (field.number === 12) {
    const zipMap = edits.zipMaps.get(readValue(bytes, field).name)
    if (zipMap === undefined) return asItIs
    const name = edits.hasDefaultOps ? zipMap.output : zipMap.input
    return bytesField(12, probabilities(name, edits.batch, zipMap.labels.length))
  }
  return asItIs
}

const identityNode = ({ input, output }: ZipMap): Uint8Array =>
  concatBytes([textField(1, input), textField(2, output), textField(4, 'Identity')])

/** `ValueInfoProto` of a float tensor `[batch, classes]`. */
function probabilities(name: string, batch: Uint8Array, classes: number): Uint8Array {
  const shape = messageField(2, [bytesField(1, batch), bytesField(1, intField(1, classes))])
  return concatBytes([textField(1, name), bytesField(2, messageField(1, [intField(1, 1), shape]))])
}
