/** The protocol's messages for the OpenAPI document. Bodies are checked by the codec, whose errors say more. */
import { Type } from 'typebox'
import { datatypes } from '../inference/tensors/datatype.js'
import { answers } from '../openapi/schemas.js'

const Parameters = Type.Record(Type.String(), Type.Union([Type.String(), Type.Number(), Type.Boolean()]), {
  description: 'Those that are not known are ignored.',
})
const Datatype = Type.Unsafe<string>({ type: 'string', enum: datatypes })
const Shape = Type.Array(Type.Integer({ minimum: 0 }), { description: 'Every dimension, the batch included.' })
const Data = Type.Array(Type.Unknown(), {
  description:
    'Numbers, booleans or strings in row-major order: flat, or nested as the shape. Absent with binary data.',
})

const ErrorBody = Type.Object({ error: Type.String() })

const TensorMetadata = Type.Object({
  name: Type.String(),
  datatype: Datatype,
  shape: Type.Array(Type.Integer({ minimum: -1 }), { description: '-1 for a dimension that varies.' }),
})

const ModelMetadata = Type.Object({
  name: Type.String(),
  versions: Type.Array(Type.String()),
  platform: Type.String(),
  inputs: Type.Array(TensorMetadata),
  outputs: Type.Array(TensorMetadata),
})

const Tensor = (parameters: string) =>
  Type.Object({
    name: Type.String(),
    shape: Shape,
    datatype: Datatype,
    parameters: Type.Optional({ ...Parameters, description: parameters }),
    data: Type.Optional(Data),
  })

const InferRequest = Type.Object({
  id: Type.Optional(Type.String({ description: 'Comes back in the response.' })),
  parameters: Type.Optional({
    ...Parameters,
    description: '`timeout`: microseconds; `binary_data_output`: outputs come as binary data.',
  }),
  inputs: Type.Array(Tensor('`binary_data_size`: bytes of this tensor after the JSON, in place of `data`.')),
  outputs: Type.Optional(
    Type.Array(
      Type.Object({
        name: Type.String(),
        parameters: Type.Optional({ ...Parameters, description: '`binary_data`: it comes after the JSON.' }),
      }),
      { description: 'Those wanted, in this order; all when left out.' },
    ),
  ),
})

const InferResponse = Type.Object({
  id: Type.Optional(Type.String()),
  model_name: Type.String(),
  model_version: Type.String(),
  outputs: Type.Array(Tensor('`binary_data_size`: bytes of this tensor after the JSON, in place of `data`.')),
})

const IndexRequest = Type.Object({ ready: Type.Optional(Type.Boolean({ description: 'Only what can be called.' })) })

const Index = Type.Array(
  Type.Object({
    name: Type.String(),
    version: Type.Optional(Type.String()),
    state: Type.String(),
    reason: Type.String(),
  }),
)

const tags = ['Open Inference Protocol v2']
const json = <T>(schema: T) => ({ content: { 'application/json': { schema } } })
const bytes = { schema: { type: 'string', format: 'binary' } }
const refusal = {
  type: 'application/json',
  schema: ErrorBody,
  headers: { 'x-error-code': { type: 'string', description: 'For programs; never changes.' } },
}

const told = (operationId: string, summary: string, success: object, refusals: readonly number[] = []) => ({
  tags,
  summary,
  operationId,
  response: answers({ success, refusals, refusal }),
})

const inferAnswers = answers({
  success: InferResponse,
  refusals: [400, 401, 403, 404, 413, 415, 429, 500, 503, 504],
  limited: true,
  refusal,
})
;(inferAnswers[200] as { content: Record<string, object> }).content['application/octet-stream'] = bytes

/** Of each route. */
export const schemas = {
  server: told(
    'v2Server',
    'Server metadata',
    Type.Object({ name: Type.String(), version: Type.String(), extensions: Type.Array(Type.String()) }),
  ),
  live: told('v2Live', 'Server live', Type.Object({ live: Type.Boolean() })),
  ready: told('v2Ready', 'Server ready', Type.Object({ live: Type.Boolean(), ready: Type.Boolean() }), [503]),
  models: told('v2Models', 'Names of the models', Type.Object({ models: Type.Array(Type.String()) })),
  index: {
    ...told('v2Index', 'Versions of all models, also of those that do not load', Index, [400]),
    body: json(IndexRequest),
  },
  load: {
    ...told('v2Load', 'Loads a model as it is in the folder now', Type.Object({}), [400, 401, 404, 429]),
    security: [{ adminToken: [] }],
  },
  unload: {
    ...told('v2Unload', 'Takes a model out until it is loaded again', Type.Object({}), [400, 401, 404, 429]),
    security: [{ adminToken: [] }],
  },
  stats: told(
    'v2Stats',
    'What a model has run',
    Type.Object({ model_stats: Type.Array(Type.Object({}, { additionalProperties: true })) }),
    [404],
  ),
  model: told('v2Model', 'Model metadata', ModelMetadata, [404]),
  modelReady: told(
    'v2ModelReady',
    'Model ready',
    Type.Object({ name: Type.String(), ready: Type.Boolean() }),
    [404, 503],
  ),
  infer: {
    tags,
    summary: 'Inference',
    operationId: 'v2Infer',
    description:
      'Binary tensors follow the JSON, whose length is in the header `Inference-Header-Content-Length`, in the request ' +
      'as in the response.',
    headers: Type.Object({
      'inference-header-content-length': Type.Optional(
        Type.String({ description: 'Bytes of the body that are JSON; 0: the body is the only input, for one row.' }),
      ),
      'x-request-timeout-ms': Type.Optional(Type.String({ description: 'Milliseconds that the caller will wait.' })),
    }),
    body: { content: { 'application/json': { schema: InferRequest }, 'application/octet-stream': bytes } },
    response: inferAnswers,
  },
} as const
