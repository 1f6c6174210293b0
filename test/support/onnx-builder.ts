/**
 * Writes ONNX files byte by byte: just enough of the protobuf schema (onnx.proto3, IR version 8) for the tiny models of
 * the tests, so that neither Python nor a binary fixture is needed.
 */

/** `TensorProto.DataType` of onnx.proto3. */
export const ElementType = {
  FLOAT: 1,
  UINT8: 2,
  INT8: 3,
  UINT16: 4,
  INT16: 5,
  INT32: 6,
  INT64: 7,
  STRING: 8,
  BOOL: 9,
  FLOAT16: 10,
  DOUBLE: 11,
  UINT32: 12,
  UINT64: 13,
  BFLOAT16: 16,
} as const
export type ElementType = (typeof ElementType)[keyof typeof ElementType]

type Bytes = Uint8Array

const utf8 = new TextEncoder()

function concat(parts: readonly Bytes[]): Bytes {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let offset = 0
  for (const part of parts) {
    out.set(part, offset)
    offset += part.length
  }
  return out
}

function varint(value: number | bigint): Bytes {
  let rest = BigInt.asUintN(64, BigInt(value))
  const bytes: number[] = []
  while (rest > 127n) {
    bytes.push(Number(rest & 127n) | 128)
    rest >>= 7n
  }
  bytes.push(Number(rest))
  return Uint8Array.from(bytes)
}

const integer = (field: number, value: number | bigint): Bytes => concat([varint(field << 3), varint(value)])
const bytes = (field: number, value: Bytes): Bytes => concat([varint((field << 3) | 2), varint(value.length), value])
const text = (field: number, value: string): Bytes => bytes(field, utf8.encode(value))
const float = (field: number, value: number): Bytes =>
  concat([varint((field << 3) | 5), new Uint8Array(Float32Array.of(value).buffer)])

/** A tensor of values known at export: weights, axes, constants. */
export interface Initializer {
  name: string
  type: ElementType
  dims: readonly number[]
  /** Little-endian elements as they lie in memory. */
  data: ArrayBufferView
  /** Where the elements are, if not in the model. */
  external?: ExternalData
}

export const int64s = (name: string, values: readonly number[], dims: readonly number[] = [values.length]) => ({
  name,
  type: ElementType.INT64,
  dims,
  data: BigInt64Array.from(values.map(BigInt)),
})

export const floats = (name: string, values: ArrayLike<number>, dims: readonly number[] = [values.length]) => ({
  name,
  type: ElementType.FLOAT,
  dims,
  data: Float32Array.from(values),
})

const rawBytes = (view: ArrayBufferView) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength)

function tensorProto(tensor: Initializer, external?: { location: string; offset: number }): Bytes {
  const raw = rawBytes(tensor.data)
  external ??= tensor.external?.place(tensor)
  const entry = (key: string, value: string) => bytes(13, concat([text(1, key), text(2, value)]))
  return concat([
    ...tensor.dims.map(dim => integer(1, dim)),
    integer(2, tensor.type),
    text(8, tensor.name),
    ...(external
      ? [
          entry('location', external.location),
          entry('offset', String(external.offset)),
          entry('length', String(raw.length)),
          integer(14, 1),
        ]
      : [bytes(9, raw)]),
  ])
}

export type Attribute =
  | { int: number }
  | { float: number }
  | { string: string }
  | { ints: readonly number[] }
  | { strings: readonly string[] }
  | { tensor: Initializer }
  | { graph: Graph }

/** `AttributeProto`: field numbers and `AttributeType` of onnx.proto3. */
function attributeProto(name: string, value: Attribute): Bytes {
  const body = (): Bytes[] => {
    if ('int' in value) return [integer(3, value.int), integer(20, 2)]
    if ('float' in value) return [float(2, value.float), integer(20, 1)]
    if ('string' in value) return [text(4, value.string), integer(20, 3)]
    if ('ints' in value) return [...value.ints.map(i => integer(8, i)), integer(20, 7)]
    if ('strings' in value) return [...value.strings.map(s => text(9, s)), integer(20, 8)]
    if ('tensor' in value) return [bytes(5, tensorProto(value.tensor)), integer(20, 4)]
    return [bytes(6, graphProto(value.graph)), integer(20, 5)]
  }
  return concat([text(1, name), ...body()])
}

export interface Node {
  op: string
  inputs: readonly string[]
  outputs: readonly string[]
  attributes?: Readonly<Record<string, Attribute>>
  domain?: string
}

export const node = (
  op: string,
  inputs: readonly string[],
  outputs: readonly string[],
  attributes: Readonly<Record<string, Attribute>> = {},
  domain = '',
): Node => ({ op, inputs, outputs, attributes, domain })

const nodeProto = ({ op, inputs, outputs, attributes = {}, domain = '' }: Node): Bytes =>
  concat([
    ...inputs.map(name => text(1, name)),
    ...outputs.map(name => text(2, name)),
    text(3, `${op}_${outputs[0]}`),
    text(4, op),
    ...Object.entries(attributes).map(([name, value]) => bytes(5, attributeProto(name, value))),
    ...(domain === '' ? [] : [text(7, domain)]),
  ])

/** What a graph takes or gives. A dimension: its size, its name, or `''` for a dynamic one without a name. */
export type Value = { name: string } & (
  | { type: ElementType; shape?: readonly (number | string)[] }
  | { sequenceOf: { mapFrom: ElementType; to: ElementType } }
  | { sequenceOf: ElementType }
)

function tensorType(type: ElementType, shape?: readonly (number | string)[]): Bytes {
  const dims = shape?.map(dim =>
    bytes(1, typeof dim === 'number' ? integer(1, dim) : dim === '' ? new Uint8Array() : text(2, dim)),
  )
  return bytes(1, concat([integer(1, type), ...(dims === undefined ? [] : [bytes(2, concat(dims))])]))
}

function typeProto(value: Value): Bytes {
  if ('type' in value) return tensorType(value.type, value.shape)
  const of = value.sequenceOf
  if (typeof of === 'number') return bytes(4, bytes(1, tensorType(of)))
  return bytes(4, bytes(1, bytes(5, concat([integer(1, of.mapFrom), bytes(2, tensorType(of.to, []))]))))
}

const valueProto = (value: Value): Bytes => concat([text(1, value.name), bytes(2, typeProto(value))])

export interface Graph {
  nodes: readonly Node[]
  inputs: readonly Value[]
  outputs: readonly Value[]
  initializers?: readonly Initializer[]
}

function graphProto(graph: Graph, external?: ExternalData): Bytes {
  return concat([
    ...graph.nodes.map(each => bytes(1, nodeProto(each))),
    text(2, 'graph'),
    ...(graph.initializers ?? []).map(each => bytes(5, tensorProto(each, external?.place(each)))),
    ...graph.inputs.map(each => bytes(11, valueProto(each))),
    ...graph.outputs.map(each => bytes(12, valueProto(each))),
  ])
}

/** Weights that are kept in a file beside the model, as large exports do. */
export class ExternalData {
  readonly location: string
  readonly #parts: Bytes[] = []
  #length = 0

  constructor(location: string) {
    this.location = location
  }

  place(tensor: Initializer): { location: string; offset: number } {
    const offset = this.#length
    this.#parts.push(rawBytes(tensor.data))
    this.#length += tensor.data.byteLength
    return { location: this.location, offset }
  }

  bytes(): Bytes {
    return concat(this.#parts)
  }
}

export interface ModelOptions {
  /** Version of each operator set; the default set is there unless it is given as 0. */
  opsets?: Readonly<Record<string, number>>
  producer?: string
  irVersion?: number
  metadata?: Readonly<Record<string, string>>
  external?: ExternalData
}

/** A whole `ModelProto`, ready to be written to `model.onnx`. */
export function model(graph: Graph, options: ModelOptions = {}): Bytes {
  const opsets = { '': 17, ...options.opsets }
  return concat([
    integer(1, options.irVersion ?? 8),
    text(2, options.producer ?? 'onnx-builder'),
    bytes(7, graphProto(graph, options.external)),
    ...Object.entries(opsets)
      .filter(([, version]) => version > 0)
      .map(([domain, version]) => bytes(8, concat([...(domain === '' ? [] : [text(1, domain)]), integer(2, version)]))),
    ...Object.entries(options.metadata ?? {}).map(([key, value]) => bytes(14, concat([text(1, key), text(2, value)]))),
  ])
}
