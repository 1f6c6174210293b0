/** The part of the OpenAPI document that follows the models: each one's own paths, schemas and samples. Pure. */
import { isShort, sampleUrl } from '../http/model-summary.js'
import { type JsonSchema, requestSchema } from '../inference/tensors/request-schema.js'
import { isFixed, rowLayout, rowShape } from '../inference/tensors/signature.js'
import type { ModelInfo, TensorSpec } from '../inference/types.js'

type Json = Readonly<Record<string, unknown>>

export interface Document {
  readonly paths?: Readonly<Record<string, Json>>
  readonly [member: string]: unknown
}

const PREDICT = '/v1/models/{name}/predict'
const INFER = '/v2/models/{model}/infer'

/** The document with the paths of each model besides the general ones, which say what is answered. */
export function withModels(document: Document, models: readonly ModelInfo[]): Document {
  const paths: Record<string, Json> = { ...document.paths }
  const predict = paths[PREDICT]?.post as Json | undefined
  const infer = paths[INFER]?.post as Json | undefined
  const examples: Record<string, Json> = {}
  for (const info of models) {
    const name = encodeURIComponent(info.name)
    examples[info.name] = { summary: info.description ?? info.name, ...exampleOf(info) }
    const shared = { tags: [`Model ${info.name}`], ...(info.description && { description: info.description }) }
    if (predict !== undefined) {
      const example = isShort(info.sample) ? { example: info.sample } : { examples: { sample: exampleOf(info) } }
      const content = { schema: requestSchema(info), ...example }
      paths[`/v1/models/${name}/predict`] = {
        post: { ...only(predict, content), ...shared, summary: 'Predict', operationId: `predict-${name}` },
      }
    }
    const example = isShort(info.sample) ? inferSample(info) : undefined
    if (infer !== undefined) {
      const { schema } = jsonOf(infer) as { schema: JsonSchema }
      paths[`/v2/models/${name}/infer`] = {
        post: {
          ...only(infer, { schema, ...(example && { example }) }),
          ...shared,
          summary: 'Inference by the Open Inference Protocol',
          operationId: `infer-${name}`,
        },
      }
    }
  }
  const unnamed = paths['/v1/predict']?.post as Json | undefined
  if (unnamed !== undefined && models.length > 0) {
    const requestBody = bodyOf({ ...jsonOf(unnamed), examples })
    paths['/v1/predict'] = { ...paths['/v1/predict'], post: { ...unnamed, requestBody } }
  }
  return { ...document, paths }
}

/** A sample, or where it is if it is long. */
const exampleOf = (info: ModelInfo): Json =>
  isShort(info.sample) ? { value: info.sample } : { externalValue: sampleUrl(info) }

const bodyOf = (content: Json): Json => ({ required: true, content: { 'application/json': content } })

const jsonOf = (operation: Json): Json =>
  ((operation.requestBody as { content?: Readonly<Record<string, Json>> } | undefined)?.content?.['application/json'] ??
    {}) as Json

/** An operation for one model: the general one without its place for a name. */
function only(operation: Json, content: Json): Json {
  const parameters = (operation.parameters as readonly { in: string }[] | undefined)?.filter(each => each.in !== 'path')
  return { ...operation, ...(parameters && { parameters }), requestBody: bodyOf(content) }
}

/** The sample in the form of the Open Inference Protocol; undefined where its shape cannot be told. */
function inferSample(info: ModelInfo): Json | undefined {
  const { sample } = info
  const [first] = info.inputs
  const rows = (sample.inputs ?? (first === undefined ? {} : { [first.name]: sample.features })) as Json
  const inputs = info.inputs.map(spec => tensorSample(info, spec, rows[spec.name]))
  return inputs.includes(undefined) ? undefined : { inputs }
}

function tensorSample(info: ModelInfo, spec: TensorSpec, row: unknown): Json | undefined {
  if (row === undefined || spec.anyShape) return undefined
  const layout = rowLayout(info)
  const inner = rowShape(spec, layout)
  const shape = isFixed(inner) ? [...inner] : shapeOf(row, inner.length)
  const data = [row].flat(Number.POSITIVE_INFINITY)
  return { name: spec.name, datatype: spec.datatype, shape: layout === 'whole' ? shape : [1, ...shape], data }
}

function shapeOf(nested: unknown, rank: number): number[] {
  const shape: number[] = []
  for (let value = nested; shape.length < rank && Array.isArray(value); value = value[0]) shape.push(value.length)
  return shape
}
