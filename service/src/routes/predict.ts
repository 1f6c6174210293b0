/** Predictions: a body that fits the model's own signature in, one prediction a row out. */
import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import { type Static, Type } from 'typebox'
import { checkCharset, unpackBody } from '../http/body-coding.js'
import { expectLongBody } from '../http/malformed.js'
import { takenBy } from '../http/model-summary.js'
import { badRequest, type Fault, faultOf, Refusal, sendError, sendFault } from '../http/problem.js'
import { Cancelled, DeadlineExceeded, InvalidInput } from '../inference/errors.js'
import { decodeImages, picturesOf } from '../inference/images/decode.js'
import { imagePlanOf } from '../inference/images/image-plan.js'
import { columnsOf, encodeRecords, encodeTable } from '../inference/tensors/columns.js'
import { predictionsJson } from '../inference/tensors/predictions.js'
import { type EncodedRows, encodeInstances, encodeRows } from '../inference/tensors/rows.js'
import { checkInputs } from '../inference/tensors/signature.js'
import type { Model, ModelInfo, Models } from '../inference/types.js'
import { answers, Predictions, TimeoutHeader } from '../openapi/schemas.js'
import { deadlineOf, timeoutOf } from '../protection/urgency.js'
import { callerOfReply } from './caller.js'
import { runCharged, type Task } from './run.js'
import { answerStream, STREAM_TYPES, type StreamOptions } from './stream.js'

const Body = Type.Object(
  {
    model: Type.Optional(Type.String({ description: 'Needless with a single or a default model.' })),
    version: Type.Optional(Type.String({ description: 'The newest when left out.' })),
    features: Type.Optional(Type.Unknown({ description: 'One row or a list of rows, for a model of one input.' })),
    inputs: Type.Optional(
      Type.Record(Type.String(), Type.Unknown(), { description: 'Rows by input, for a model of several inputs.' }),
    ),
    records: Type.Optional(
      Type.Unknown({ description: 'Rows as objects by the names of the features, for a model that has them.' }),
    ),
    images: Type.Optional(
      Type.Union([Type.String(), Type.Array(Type.String())], {
        description: 'Pictures in base64 (PNG, JPEG, WebP), for a model that takes them.',
      }),
    ),
    instances: Type.Optional(Type.Array(Type.Unknown(), { description: 'Rows as lists, as records, or by input.' })),
    dataframe_split: Type.Optional(
      Type.Object(
        { columns: Type.Array(Type.String()), data: Type.Array(Type.Array(Type.Unknown())) },
        { additionalProperties: true, description: 'A table: the names of its columns, and its rows.' },
      ),
    ),
  },
  { additionalProperties: false },
)
type Body = Static<typeof Body>

const Params = Type.Object({ name: Type.String() })
const Query = Type.Object({
  version: Type.Optional(
    Type.String({ description: 'As `version` in the body, which pictures and streams of rows do not have.' }),
  ),
})

const documented = (operationId: string) => ({
  tags: ['Predictions'],
  summary: 'Predict',
  operationId,
  description:
    'One prediction a row, in order. Each request counts against the quota of the caller, a refused one too.',
  headers: TimeoutHeader,
  querystring: Query,
  body: Body,
  response: answers({
    success: Predictions,
    refusals: [400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504],
    limited: true,
  }),
})

interface PredictOptions extends StreamOptions {
  readonly models: Models
  /** Most pixels of the pictures of a request. */
  readonly imagePixelLimit: number
  /** Most bytes of a picture whose body is packed, once unpacked. */
  readonly unpackedLimit: number
  readonly requestTimeoutMs: number
}

interface Asked {
  Body: Body
  Params: { name?: string }
  Querystring: { version?: string }
}
type PredictRequest = FastifyRequest<Asked>

declare module 'fastify' {
  interface FastifyRequest {
    /** True where the body is a stream of rows, which its route reads. */
    hasRowStream: boolean
    /** The body, where it is a picture. */
    picture: Buffer | null
  }
}

export const predictRoutes: FastifyPluginAsync<PredictOptions> = async (app, options) => {
  const { models } = options
  app.decorateRequest('hasRowStream', false)
  app.decorateRequest('picture', null)
  app.addContentTypeParser<Buffer>(
    ['image/png', 'image/jpeg', 'image/webp'],
    { parseAs: 'buffer' },
    (request, packed, done) => {
      unpackBody(request.headers, packed, options.unpackedLimit, (error, body) => {
        request.picture = body
        done(error, {})
      })
    },
  )
  app.addContentTypeParser([...STREAM_TYPES], (request, _payload, done) => {
    try {
      checkCharset(request.headers['content-type'])
      request.hasRowStream = true
      expectLongBody(request.raw)
      done(null, {})
    } catch (error) {
      done(error as Refusal)
    }
  })
  app.setErrorHandler((error, request, reply) => {
    const fault = faultOf(error)
    if (![400, 413, 415].includes(fault.status)) return sendError(error, request, reply)
    return sendFault(withHelp(fault, modelMeant(models, request as PredictRequest), options.bodyLimit), request, reply)
  })

  const predict = async (request: PredictRequest, reply: FastifyReply) => {
    if (request.hasRowStream) return predictStream(request, reply)
    if (request.picture !== null || request.body.images !== undefined) return predictImages(request, reply)
    const { model, version, timeoutMs } = askedOf(request)
    const { inputs, rows } = encodeBody(model.info, request.body)
    return answer(request, reply, { model, inputs, rows, version, timeoutMs, json: true })
  }
  /** The model that a request names, as the version that it names. Throws Refusal where its caller may not ask that. */
  const askedOf = (request: PredictRequest) => {
    const { body, params, caller } = request
    const version = versionAsked(request)
    const model = models.get(params.name ?? body.model, version, caller?.key)
    checkName(params.name, body.model)
    caller?.checkModel(model.info.name)
    // A caller may ask for less time than the service gives, never for more.
    return { model, version, timeoutMs: timeoutOf(request, options.requestTimeoutMs) }
  }
  const answer = async (request: PredictRequest, reply: FastifyReply, task: Task) => {
    const { model, inputs, rows } = task
    const { ran = model.info, outputs, json } = await runCharged(request, reply, task)
    reply.type('application/json; charset=utf-8')
    if (json !== undefined) return json
    // Rows are counted by the version that ran. Of pictures each is one.
    const isCounted = ran === model.info || typeof inputs === 'function'
    return predictionsJson(ran, outputs, isCounted ? rows : checkInputs(ran, inputs))
  }
  const predictImages = async (request: PredictRequest, reply: FastifyReply) => {
    const { body, picture } = request
    const asked = askedOf(request)
    const { model, timeoutMs } = asked
    const plan = imagePlanOf(model.info)
    if (plan === undefined) {
      const message = "takes no pictures: its model.json has no 'image'"
      throw new InvalidInput([{ path: '', message: `model '${model.info.name}' ${message}` }])
    }
    assertAlone(body)
    const pictures = picture === null ? picturesOf(body.images) : [picture]
    const pathOf = (i: number) => (picture === null ? (Array.isArray(body.images) ? `images[${i}]` : 'images') : '')
    const caller = callerOfReply(reply)
    const deadline = deadlineOf(request, timeoutMs)
    const checkWanted = () => {
      if (caller.aborted) throw new Cancelled()
      if (performance.now() >= deadline) throw new DeadlineExceeded(false)
    }
    const mostPixels = options.imagePixelLimit
    const inputs = async () => (await decodeImages(plan, pictures, { mostPixels, pathOf, checkWanted })).inputs
    return answer(request, reply, { ...asked, inputs, rows: pictures.length, json: true })
  }
  const predictStream = async (request: PredictRequest, reply: FastifyReply) => {
    const { model, version } = askedOf(request)
    return answerStream(request, reply, model, version, options)
  }
  app.post<Asked>('/v1/predict', { schema: documented('predict') }, predict)
  app.post<Asked>(
    '/v1/models/:name/predict',
    { schema: { ...documented('predictWithModel'), params: Params } },
    predict,
  )
}

/** The rows of a body, in whichever form they are. */
function encodeBody(info: ModelInfo, body: Body): EncodedRows {
  const { records, instances, dataframe_split } = body
  if (records === undefined && instances === undefined && dataframe_split === undefined) return encodeRows(info, body)
  assertAlone(body)
  if (instances === undefined) return encodeTable(info, body)
  const [first] = instances
  if (typeof first !== 'object' || first === null || Array.isArray(first)) {
    return encodeRows(info, { features: instances }, 'instances')
  }
  const columns = columnsOf(info)
  const areInputs = Object.keys(first).some(name => info.inputs.some(input => input.name === name))
  const areRecords = columns?.named && !(areInputs && Object.keys(first).every(name => !columns.byName.has(name)))
  return areRecords ? encodeRecords(info, instances, 'instances') : encodeInstances(info, instances)
}

/** Throws InvalidInput where a body has rows in several forms. */
function assertAlone({ features, inputs, records, instances, dataframe_split, images }: Body): void {
  const given = Object.entries({ features, inputs, records, instances, dataframe_split, images }).filter(
    ([, value]) => value !== undefined,
  )
  if (given.length <= 1) return
  const message = `${given.map(([name]) => `'${name}'`).join(' and ')} exclude each other`
  throw new InvalidInput([{ path: '', message }])
}

function checkName(inUrl: string | undefined, inBody: string | undefined): void {
  if (inUrl === undefined || inBody === undefined || inUrl === inBody) return
  throw new Refusal(badRequest('INVALID_REQUEST', [{ path: 'model', message: 'is another one than in the URL' }]))
}

/** The version that a request names, in its body or its URL. */
function versionAsked({ body, query }: PredictRequest): string | undefined {
  if (query.version === undefined || body.version === undefined) return query.version ?? body.version
  if (query.version === body.version) return body.version
  throw new Refusal(badRequest('INVALID_REQUEST', [{ path: 'version', message: 'is another one than in the URL' }]))
}

/** The model that a request is about, as far as it can be told of one that failed. */
function modelMeant(models: Models, { params, body }: PredictRequest): Model | undefined {
  const name = params?.name ?? (typeof body?.model === 'string' ? body.model : undefined)
  try {
    return models.get(name)
  } catch {
    return undefined
  }
}

const TAKEN_TYPES =
  'the body must be JSON (content-type: application/json), rows (text/csv, application/x-ndjson), or a picture ' +
  '(image/png, image/jpeg, image/webp) for a model that takes pictures'

/** Says what would have been taken, since nobody should need a second page to put a request right. */
function withHelp(fault: Fault, model: Model | undefined, bodyLimit: number): Fault {
  const detail =
    fault.code === 'BODY_TOO_LARGE'
      ? `${fault.detail}; at most ${bodyLimit} bytes are taken`
      : fault.code === 'UNSUPPORTED_MEDIA_TYPE'
        ? TAKEN_TYPES
        : fault.detail
  const takes =
    model === undefined ? { body: '{ "model", "features" }; GET /v1/models says more' } : takenBy(model.info)
  return { ...fault, detail, members: { ...fault.members, takes } }
}
