/** What a model takes, as JSON Schema for the OpenAPI document, and a body that it takes, to copy. Pure. */

import type { Datatype, Dimension, ModelInfo, Signature, TensorSpec } from '../types.js'
import { type Column, columnsOf } from './columns.js'
import { elementCount } from './datatype.js'
import { isFixed, type RowLayout, rowLayout, rowShape, showShape } from './signature.js'

export type JsonSchema = Readonly<Record<string, unknown>>

const integer = (minimum: number, maximum: number): JsonSchema => ({ type: 'integer', minimum, maximum })

const digits = (pattern: string): JsonSchema => ({
  anyOf: [{ type: 'integer' }, { type: 'string', pattern, description: 'Exact beyond ±9007199254740991.' }],
})

const float = (bounds: JsonSchema = {}): JsonSchema => ({
  anyOf: [
    { type: 'number', ...bounds },
    { type: 'string', enum: ['NaN', 'Infinity', '-Infinity'] },
  ],
})

const elements: Readonly<Record<Datatype, JsonSchema>> = {
  BOOL: { anyOf: [{ type: 'boolean' }, { type: 'integer', enum: [0, 1] }] },
  UINT8: integer(0, 255),
  UINT16: integer(0, 65535),
  UINT32: integer(0, 4294967295),
  UINT64: digits('^[0-9]{1,20}$'),
  INT8: integer(-128, 127),
  INT16: integer(-32768, 32767),
  INT32: integer(-2147483648, 2147483647),
  INT64: digits('^-?[0-9]{1,19}$'),
  FP16: float({ minimum: -65504, maximum: 65504 }),
  FP32: float(),
  FP64: float(),
  BYTES: { type: 'string' },
}

const list = (items: JsonSchema, length?: Dimension): JsonSchema =>
  typeof length === 'number'
    ? { type: 'array', items, minItems: length, maxItems: length }
    : { type: 'array', items, minItems: 1 }

function nested(element: JsonSchema, shape: readonly Dimension[]): JsonSchema {
  return shape.reduceRight<JsonSchema>((inner, dimension) => list(inner, dimension), element)
}

/** The schema of one input's value: a row, flat or nested, or a list of rows. */
export function inputSchema(spec: TensorSpec, layout: RowLayout): JsonSchema {
  const element = elements[spec.datatype]
  if (spec.anyShape) return { description: `${spec.datatype} of any shape, nested` }
  const row = rowShape(spec, layout)
  const forms: JsonSchema[] = [nested(element, row)]
  if (row.length > 1 && isFixed(row)) forms.unshift(list(element, elementCount(row)))
  const description = `${spec.datatype} ${showShape(row)}`
  if (layout !== 'whole') forms.push(...forms.map(form => list(form)))
  return forms.length === 1 ? { description, ...forms[0] } : { description, anyOf: forms }
}

/** The body of `POST /v1/models/:name/predict` for one model. */
export function requestSchema(info: Described): JsonSchema {
  const layout = rowLayout(info)
  const [only] = info.inputs
  const named = Object.fromEntries(info.inputs.map(spec => [spec.name, inputSchema(spec, layout)]))
  const inputs = {
    type: 'object',
    properties: named,
    required: info.inputs.map(({ name }) => name),
    additionalProperties: false,
  }
  const forms: Record<string, JsonSchema> = {
    ...(info.inputs.length === 1 && only !== undefined ? { features: inputSchema(only, layout) } : {}),
    inputs,
    ...tableSchemas(info),
    ...(info.image === undefined ? {} : { images: pictures }),
  }
  return {
    type: 'object',
    properties: { model: { type: 'string', enum: [info.name] }, version: { type: 'string' }, ...forms },
    anyOf: Object.keys(forms).map(form => ({ required: [form] })),
    additionalProperties: false,
  }
}

type Described = Signature & Pick<ModelInfo, 'name' | 'features' | 'image'>

const picture: JsonSchema = { type: 'string', contentEncoding: 'base64' }
const pictures: JsonSchema = { anyOf: [picture, { type: 'array', items: picture, minItems: 1 }] }

/** The forms of a table, for a model whose values have names. */
function tableSchemas(info: Described): Record<string, JsonSchema> {
  const columns = columnsOf(info)
  if (!columns?.named) return {}
  const record = {
    type: 'object',
    properties: Object.fromEntries(columns.list.map(column => [column.name, valueSchema(column)])),
    required: columns.list.filter(({ fallback }) => fallback === undefined).map(({ name }) => name),
    additionalProperties: false,
  }
  const names = { type: 'string', enum: columns.list.map(({ name }) => name) }
  return {
    records: { anyOf: [record, { type: 'array', items: record, minItems: 1 }] },
    instances: { type: 'array', items: { anyOf: [{ type: 'array' }, record] }, minItems: 1 },
    dataframe_split: {
      type: 'object',
      properties: { columns: { type: 'array', items: names }, data: { type: 'array', items: { type: 'array' } } },
      required: ['columns', 'data'],
    },
  }
}

function valueSchema({ spec, categories, fallback }: Column): JsonSchema {
  const value = categories === undefined ? elements[spec.datatype] : { type: 'string', enum: [...categories.keys()] }
  return fallback === undefined ? value : { anyOf: [value, { type: 'null' }], default: fallback }
}

const zero: Readonly<Record<Datatype, unknown>> = {
  BOOL: true,
  UINT8: 1,
  UINT16: 1,
  UINT32: 1,
  UINT64: 1,
  INT8: 1,
  INT16: 1,
  INT32: 1,
  INT64: 1,
  FP16: 0.5,
  FP32: 0.5,
  FP64: 0.5,
  BYTES: 'text',
}

/**
 * A body that fits the signature: one row, nested as the shape is, every dynamic dimension `size` long. `sample` is the
 * row that model.json gives (for several inputs an object of rows by name).
 */
export function sampleBody(
  info: Signature & Pick<ModelInfo, 'name'>,
  sample?: unknown,
  size = 2,
): Readonly<Record<string, unknown>> {
  const layout = rowLayout(info)
  const valueFor = (spec: TensorSpec): unknown => {
    const row = rowShape(spec, layout)
    const build = (depth: number): unknown => {
      if (depth === row.length) return zero[spec.datatype]
      const dimension = row[depth] as Dimension
      // One list in all places: a row has as many values as the model wants, and a body is made of each model.
      const inner = build(depth + 1)
      return new Array(typeof dimension === 'number' ? dimension : size).fill(inner)
    }
    return build(0)
  }
  const [only] = info.inputs
  if (info.inputs.length === 1 && only !== undefined) return { model: info.name, features: sample ?? valueFor(only) }
  return {
    model: info.name,
    inputs: sample ?? Object.fromEntries(info.inputs.map(spec => [spec.name, valueFor(spec)])),
  }
}
