/** What the runtime does not tell of an ONNX file, read from its protobuf (onnx.proto3). Pure. */
import { type Field, fields, textOf } from './protobuf.js'

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
    throw new Error(otherThanOnnx(bytes) ?? `is not an ONNX model, or only a part of one (${(error as Error).message})`)
  }
}

/** What people take for an ONNX model, by the letters at a place near its beginning. */
const others: readonly (readonly [place: number, letters: string, what: string])[] = [
  [0, 'version https://git-lfs', 'a pointer of Git LFS: run `git lfs pull` where the repository was cloned'],
  [0, '<', 'a web page: the download went wrong'],
  [
    0,
    'PK\x03\x04',
    'a ZIP archive: unpack it, or export the model to ONNX if it is one of PyTorch (.pt) or Keras (.keras)',
  ],
  [0, '\x1f\x8b', 'packed by gzip: unpack it'],
  [0, '\x89HDF', 'a model of Keras in HDF5 (.h5): convert it to ONNX with tf2onnx'],
  [4, 'TFL3', 'a model of TensorFlow Lite: convert it to ONNX with tf2onnx'],
  [0, '\x80\x02', 'a pickle of Python: export the model to ONNX'],
  [0, '\x80\x04', 'a pickle of Python: export the model to ONNX'],
]

function otherThanOnnx(bytes: Uint8Array): string | undefined {
  const start = String.fromCharCode(...bytes.subarray(0, 64))
  if (start.startsWith('ORTM', 4)) {
    return 'is in the ORT format (.ort), which is not served: keep the ONNX file that it was made from'
  }
  const what = others.find(([place, letters]) => start.startsWith(letters, place))?.[2]
  return what && `is not an ONNX model but ${what}`
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
  const externalFiles = new Set(weightFiles(bytes, graph))
  for (const functions of fields(bytes)) {
    if (functions.number !== 25) continue
    for (const field of fields(bytes, functions.start, functions.end)) {
      if (field.number === 7) for (const file of filesOfNode(bytes, field)) externalFiles.add(file)
    }
  }
  return {
    irVersion,
    producer,
    description,
    opsets,
    metadata,
    ...readGraph(bytes, graph),
    externalFiles: [...externalFiles],
  }
}

export function opsetOf(bytes: Uint8Array, message: Field): [string, number] {
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

function readGraph(bytes: Uint8Array, graph: Field): Pick<OnnxFile, 'inputs' | 'outputs'> {
  const inputs: GraphValue[] = []
  const outputs: GraphValue[] = []
  const initializers = new Set<string>()
  for (const field of fields(bytes, graph.start, graph.end)) {
    if (field.number === 5) initializers.add(readTensor(bytes, field).name)
    else if (field.number === 11) inputs.push(readValue(bytes, field))
    else if (field.number === 12) outputs.push(readValue(bytes, field))
  }
  // Before IR version 4 the weights were listed as inputs too. Later ones have a value that the runtime for Node does not
  // let anyone replace.
  return { inputs: inputs.filter(({ name }) => !initializers.has(name)), outputs }
}

/** Files that hold weights of a graph, of the graphs inside its nodes, and of the constants of those. */
function* weightFiles(bytes: Uint8Array, graph: Field): Generator<string> {
  for (const field of fields(bytes, graph.start, graph.end)) {
    if (field.number === 5) yield* fileOfTensor(bytes, field)
    else if (field.number === 1) yield* filesOfNode(bytes, field)
  }
}

function* fileOfTensor(bytes: Uint8Array, message: Field): Generator<string> {
  const { location } = readTensor(bytes, message)
  if (location !== undefined) yield location
}

/** `AttributeProto`: the fields that hold tensors and graphs, and those that hold other values. */
const attribute = { tensors: [5, 10], graphs: [6, 11], others: [2, 3, 4, 7, 8, 9, 22, 23] }

function* filesOfNode(bytes: Uint8Array, node: Field): Generator<string> {
  for (const field of fields(bytes, node.start, node.end)) {
    if (field.number !== 5) continue
    for (const part of fields(bytes, field.start, field.end)) {
      // Those of a forest are millions of numbers.
      if (attribute.others.includes(part.number)) break
      if (attribute.tensors.includes(part.number)) yield* fileOfTensor(bytes, part)
      else if (attribute.graphs.includes(part.number)) yield* weightFiles(bytes, part)
    }
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

export function readValue(bytes: Uint8Array, message: Field): GraphValue {
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

/** A tensor's name, and the file that holds its values where that is another one. */
export function readTensor(bytes: Uint8Array, message: Field): { name: string; location: string | undefined } {
  let name = ''
  let outside = false
  let location = ''
  for (const field of fields(bytes, message.start, message.end)) {
    if (field.number === 8) name = textOf(bytes, field)
    else if (field.number === 13) {
      const [key, value] = pair(bytes, field)
      if (key === 'location') location = value
    } else if (field.number === 14) outside = field.value === 1n
  }
  return { name, location: outside ? location : undefined }
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

/**
 * Why these inputs and outputs cannot be served; undefined when they can. Every input must be a tensor that a request can
 * carry, but of the outputs one is enough: the others are left out.
 */
export function unservable({ inputs, outputs }: Pick<OnnxFile, 'inputs' | 'outputs'>): string | undefined {
  if (outputs.length === 0) return 'the model has no outputs'
  const refused = inputs.map(value => refusalOf(value, 'input')).find(refusal => refusal !== undefined)
  if (refused !== undefined) return refused
  const refusals = outputs.map(value => refusalOf(value, 'output'))
  return refusals.every(refusal => refusal !== undefined) ? refusals[0] : undefined
}

function refusalOf({ kind, name, elementType }: GraphValue, what: string): string | undefined {
  // No property of an object: neither requests nor the runtime for Node can carry it.
  if (name === '__proto__') return `${what} '__proto__' has a name that JavaScript does not allow: give it another one`
  if (kind !== 'tensor') return `${what} '${name}' is a ${kind}; only tensors can be served`
  const type = unserved[elementType]
  return type === undefined ? undefined : `${what} '${name}' is ${type}, which the runtime for Node cannot carry`
}
