/**
 * What the runtime does not tell of an ONNX file, read from its protobuf (onnx.proto3), and the edits that make more
 * models servable: ZipMap is lifted out of the graph, weights kept in files beside it are taken in. Pure.
 */
import {
  bytesField,
  concatBytes,
  type Field,
  fields,
  integers,
  intField,
  textField,
  textOf,
  varint,
} from './protobuf.js'

/** One input or output of the graph as the file states it. */
export interface GraphValue {
  readonly name: string
  readonly kind: 'tensor' | 'sparse tensor' | 'sequence' | 'map' | 'optional' | 'opaque value'
  /** `TensorProto.DataType`, of tensors. */
  readonly elementType: number
  /** Undefined where the file states no shape, not even its rank. */
  readonly rank: number | undefined
}

export interface OnnxFile {
  readonly irVersion: number
  readonly producer: string
  readonly description: string
  /** Version of each operator set, by domain; the default domain is `''`. */
  readonly opsets: ReadonlyMap<string, number>
  readonly metadata: ReadonlyMap<string, string>
  readonly inputs: readonly GraphValue[]
  readonly outputs: readonly GraphValue[]
  /** Files beside the model that hold weights, as the model names them. */
  readonly externalFiles: readonly string[]
}

/** The file's own words. Throws Error saying that it is no ONNX model. */
export function readOnnx(bytes: Uint8Array): OnnxFile {
  try {
    return read(bytes)
  } catch (error) {
    throw new Error(`is not an ONNX model (${(error as Error).message})`)
  }
}

function read(bytes: Uint8Array): OnnxFile {
  let irVersion = 0
  let producer = ''
  let description = ''
  let graph: Field | undefined
  const opsets = new Map<string, number>()
  const metadata = new Map<string, string>()
  for (const field of fields(bytes)) {
    if (field.number === 1) irVersion = Number(field.value)
    else if (field.number === 2) producer = textOf(bytes, field)
    else if (field.number === 6) description = textOf(bytes, field)
    else if (field.number === 7) graph = field
    else if (field.number === 8) {
      const [domain, version] = opsetOf(bytes, field)
      opsets.set(domain, version)
    } else if (field.number === 14) {
      const [key, value] = pair(bytes, field)
      metadata.set(key, value)
    }
  }
  if (graph === undefined) throw new RangeError(bytes.length === 0 ? 'the file is empty' : 'it has no graph')
  return { irVersion, producer, description, opsets, metadata, ...readGraph(bytes, graph) }
}

function opsetOf(bytes: Uint8Array, message: Field): [string, number] {
  let domain = ''
  let version = 0
  for (const field of fields(bytes, message.start, message.end)) {
    if (field.number === 1) domain = textOf(bytes, field)
    else if (field.number === 2) version = Number(field.value)
  }
  return [domain === 'ai.onnx' ? '' : domain, version]
}

function pair(bytes: Uint8Array, message: Field): [string, string] {
  let key = ''
  let value = ''
  for (const field of fields(bytes, message.start, message.end)) {
    if (field.number === 1) key = textOf(bytes, field)
    else if (field.number === 2) value = textOf(bytes, field)
  }
  return [key, value]
}

function readGraph(bytes: Uint8Array, graph: Field): Pick<OnnxFile, 'inputs' | 'outputs' | 'externalFiles'> {
  const inputs: GraphValue[] = []
  const outputs: GraphValue[] = []
  const initializers = new Set<string>()
  const externalFiles = new Set<string>()
  for (const field of fields(bytes, graph.start, graph.end)) {
    if (field.number === 5) {
      const tensor = readTensor(bytes, field)
      initializers.add(tensor.name)
      if (tensor.external !== undefined) externalFiles.add(tensor.external.location)
    } else if (field.number === 11) inputs.push(readValue(bytes, field))
    else if (field.number === 12) outputs.push(readValue(bytes, field))
  }
  // Before IR version 4 the weights were listed as inputs too.
  return {
    inputs: inputs.filter(({ name }) => !initializers.has(name)),
    outputs,
    externalFiles: [...externalFiles],
  }
}

const kinds: Readonly<Record<number, GraphValue['kind']>> = {
  1: 'tensor',
  4: 'sequence',
  5: 'map',
  7: 'opaque value',
  8: 'sparse tensor',
  9: 'optional',
}

function readValue(bytes: Uint8Array, message: Field): GraphValue {
  let name = ''
  let kind: GraphValue['kind'] = 'tensor'
  let elementType = 0
  let rank: number | undefined
  for (const field of fields(bytes, message.start, message.end)) {
    if (field.number === 1) name = textOf(bytes, field)
    if (field.number !== 2) continue
    for (const type of fields(bytes, field.start, field.end)) {
      kind = kinds[type.number] ?? kind
      if (type.number !== 1) continue
      for (const part of fields(bytes, type.start, type.end)) {
        if (part.number === 1) elementType = Number(part.value)
        else if (part.number === 2) rank = [...fields(bytes, part.start, part.end)].filter(d => d.number === 1).length
      }
    }
  }
  return { name, kind, elementType, rank }
}

interface External {
  readonly location: string
  readonly offset: number
  readonly length: number | undefined
}

function readTensor(bytes: Uint8Array, message: Field): { name: string; external: External | undefined } {
  let name = ''
  let outside = false
  const entries = new Map<string, string>()
  for (const field of fields(bytes, message.start, message.end)) {
    if (field.number === 8) name = textOf(bytes, field)
    else if (field.number === 13) entries.set(...pair(bytes, field))
    else if (field.number === 14) outside = field.value === 1n
  }
  if (!outside) return { name, external: undefined }
  const length = entries.get('length')
  return {
    name,
    external: {
      location: entries.get('location') ?? '',
      offset: Number(entries.get('offset') ?? 0),
      length: length === undefined ? undefined : Number(length),
    },
  }
}

/** Datatypes of ONNX that no request can carry: not in the protocol, or not in the runtime for Node. */
const unserved: Readonly<Record<number, string>> = {
  14: 'complex64',
  15: 'complex128',
  16: 'bfloat16',
  17: 'float8',
  18: 'float8',
  19: 'float8',
  20: 'float8',
  21: 'uint4',
  22: 'int4',
  23: 'float4',
  24: 'float8',
  25: 'uint2',
  26: 'int2',
}

/** Why these inputs and outputs cannot be served; undefined when they can. */
export function unservable({ inputs, outputs }: Pick<OnnxFile, 'inputs' | 'outputs'>): string | undefined {
  const values = [
    ...inputs.map(value => ({ value, what: 'input' })),
    ...outputs.map(value => ({ value, what: 'output' })),
  ]
  for (const { value, what } of values) {
    if (value.kind !== 'tensor') return `${what} '${value.name}' is a ${value.kind}; only tensors can be served`
    const type = unserved[value.elementType]
    if (type !== undefined) return `${what} '${value.name}' is ${type}, which the runtime for Node cannot carry`
  }
  return undefined
}

export interface PreparedModel {
  readonly bytes: Uint8Array
  /** Class labels that a lifted ZipMap held. */
  readonly labels: readonly string[] | undefined
}

/**
 * The model as it will be loaded. `external` gives the bytes of each file that `externalFiles` names.
 * Throws Error where such a file is too short, or the whole would be larger than protobuf allows.
 */
export function prepareModel(bytes: Uint8Array, external: ReadonlyMap<string, Uint8Array> = new Map()): PreparedModel {
  const top = [...fields(bytes)]
  const graph = top.find(({ number }) => number === 7) as Field
  const hasDefaultOps = top.some(field => field.number === 8 && opsetOf(bytes, field)[0] === '')
  const zipMaps = findZipMaps(bytes, graph)
  if (zipMaps.size === 0 && external.size === 0) return { bytes, labels: undefined }
  const parts: Uint8Array[] = []
  const batch = firstDimension(bytes, graph)
  for (const field of fields(bytes, graph.start, graph.end)) {
    parts.push(editGraphField(bytes, field, { zipMaps, external, batch, hasDefaultOps }))
  }
  const size = parts.reduce((sum, part) => sum + part.length, 0)
  if (size > 0x7fff_0000) throw new Error('with its weights the model is larger than 2 GB')
  const edited = concatBytes([
    bytes.subarray(0, graph.from),
    varint(7 * 8 + 2),
    varint(size),
    ...parts,
    bytes.subarray(graph.end),
  ])
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
  readonly external: ReadonlyMap<string, Uint8Array>
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
  if (field.number === 5 && edits.external.size > 0) return takeIn(bytes, field, edits.external)
  return asItIs
}

const identityNode = ({ input, output }: ZipMap): Uint8Array =>
  concatBytes([textField(1, input), textField(2, output), textField(4, 'Identity')])

/** `ValueInfoProto` of a float tensor `[batch, classes]`. */
function probabilities(name: string, batch: Uint8Array, classes: number): Uint8Array {
  const shape = concatBytes([bytesField(1, batch), bytesField(1, intField(1, classes))])
  const tensor = concatBytes([intField(1, 1), bytesField(2, shape)])
  return concatBytes([textField(1, name), bytesField(2, bytesField(1, tensor))])
}

/** A weight that lies in another file, with its bytes put where an ordinary model has them (`raw_data`). */
function takeIn(bytes: Uint8Array, message: Field, files: ReadonlyMap<string, Uint8Array>): Uint8Array {
  const { name, external } = readTensor(bytes, message)
  const asItIs = bytes.subarray(message.from, message.end)
  if (external === undefined) return asItIs
  const file = files.get(external.location)
  if (file === undefined) throw new Error(`weight '${name}' lies in '${external.location}', which is missing`)
  const end = external.length === undefined ? file.length : external.offset + external.length
  if (!(external.offset >= 0 && end <= file.length)) {
    throw new Error(`weight '${name}' lies beyond the end of '${external.location}'`)
  }
  const kept = [...fields(bytes, message.start, message.end)].filter(({ number }) => number !== 13 && number !== 14)
  return bytesField(
    5,
    concatBytes([
      ...kept.map(({ from, end: to }) => bytes.subarray(from, to)),
      bytesField(9, file.subarray(external.offset, end)),
    ]),
  )
}

const labelKeys = ['labels', 'classes', 'class_names', 'names', 'class_labels']

/** Class names that the exporter left in the metadata: a JSON list, a Python dict by index, or a list with commas. */
export function labelsFromMetadata(metadata: ReadonlyMap<string, string>): readonly string[] | undefined {
  for (const key of labelKeys) {
    const text = metadata.get(key)?.trim()
    if (text === undefined || text === '') continue
    const labels = parseLabels(text)
    if (labels !== undefined && labels.length > 1) return labels
  }
  return undefined
}

function parseLabels(text: string): readonly string[] | undefined {
  if (text.startsWith('[') || text.startsWith('{')) {
    const parsed = parseJson(text)
    if (Array.isArray(parsed)) return parsed.map(String)
    const byIndex = parsed === undefined ? pythonDict(text) : new Map(Object.entries(parsed as object))
    const labels = Array.from({ length: byIndex.size }, (_, i) => byIndex.get(String(i)))
    return labels.every(label => typeof label === 'string') ? (labels as string[]) : undefined
  }
  return text.split(/[,\n]/).map(label => label.trim())
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** `{0: 'person', 1: 'bicycle'}`, as Ultralytics writes it. */
const pythonDict = (text: string): Map<string, unknown> =>
  new Map(Array.from(text.matchAll(/(\d+)\s*:\s*(?:'([^']*)'|"([^"]*)")/g), m => [m[1] as string, m[2] ?? m[3]]))
