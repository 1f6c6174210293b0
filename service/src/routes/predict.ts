/** Predictions: a body that fits the model's own signature in, one prediction a row out. */
import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import { type Static, Type } from 'typebox'
import { takenBy } from '../http/model-summary.js'
import { badRequest, type Fault, faultOf, Refusal, sendError, sendFault } from '../http/problem.js'
import { predictionsJson } from '../inference/tensors/predictions.js'
import { encodeRows } from '../inference/tensors/rows.js'
import { checkInputs } from '../inference/tensors/signature.js'
import type { Model, Models } from '../inference/types.js'
import { answers, Predictions, TimeoutHeader } from '../openapi/schemas.js'
import { timeoutOf } from '../protection/urgency.js'
import { runCharged } from './run.js'

const Body = Type.Object(
  {
    model: Type.Optional(Type.String({ description: 'Needless with a single or a default model.' })),
    version: Type.Optional(Type.String({ description: 'The newest when left out.' })),
    features: Type.Optional(Type.Unknown({ description: 'One row or a list of rows, for a model of one input.' })),
    inputs: Type.Optional(
      Type.Record(Type.String(), Type.Unknown(), { description: 'Rows by input, for a model of several inputs.' }),
    ),
  },
  { additionalProperties: false },
)
type Body = Static<typeof Body>

const Params = Type.Object({ name: Type.String() })

const documented = (operationId: string) => ({
  tags: ['Predictions'],
  summary: 'Predict',
  operationId,
  description:
    'One prediction a row, in order. Each request counts against the quota of the caller, a refused one too.',
  headers: TimeoutHeader,
  body: Body,
  response: answers({
    success: Predictions,
    refusals: [400, 401, 403, 404, 413, 415, 429, 500, 503, 504],
    limited: true,
  }),
})

interface PredictOptions {
  readonly models: Models
  readonly requestTimeoutMs: number
  readonly bodyLimit: number
}

type PredictRequest = FastifyRequest<{ Body: Body; Params: { name?: string } }>

export const predictRoutes: FastifyPluginAsync<PredictOptions> = async (app, options) => {
  const { models } = options
  app.setErrorHandler((error, request, reply) => {
    const fault = faultOf(error)
    if (![400, 413, 415].includes(fault.status)) return sendError(error, request, reply)
    return sendFault(withHelp(fault, modelMeant(models, request as PredictRequest), options.bodyLimit), request, reply)
  })

  const predict = async (request: PredictRequest, reply: FastifyReply) => {
    const { body } = request
    const model = models.get(request.params.name ?? body.model, body.version)
    checkName(request.params.name, body.model)
    request.caller?.checkModel(model.info.name)
    // A caller may ask for less time than the service gives, never for more.
    const timeoutMs = timeoutOf(request, options.requestTimeoutMs)
    const { inputs, rows } = encodeRows(model.info, body)
    const task = { model, inputs, rows, version: body.version, timeoutMs, json: true }
    const { ran = model.info, outputs, json } = await runCharged(request, reply, task)
    reply.type('application/json; charset=utf-8')
    if (json !== undefined) return json
    // Rows are counted by the version that ran.
    return predictionsJson(ran, outputs, ran === model.info ? rows : checkInputs(ran, inputs))
  }
  app.post<{ Body: Body; Params: { name?: string } }>('/v1/predict', { schema: documented('predict') }, predict)
  app.post<{ Body: Body; Params: { name?: string } }>(
    '/v1/models/:name/predict',
    { schema: { ...documented('predictWithModel'), params: Params } },
    predict,
  )
}

function checkName(inUrl: string | undefined, inBody: string | undefined): void {
  if (inUrl === undefined || inBody === undefined || inUrl === inBody) return
  throw new Refusal(badRequest('INVALID_REQUEST', [{ path: 'model', message: 'is another one than in the URL' }]))
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

/** Says what would have been taken, since nobody should need a second page to put a request right. */
function withHelp(fault: Fault, model: Model | undefined, bodyLimit: number): Fault {
  const detail =
    fault.code === 'BODY_TOO_LARGE' ? `${fault.detail}; at most ${bodyLimit} bytes are taken` : fault.detail
  const takes =
    model === undefined ? { body: '{ "model", "features" }; GET /v1/models says more' } : takenBy(model.info)
  return { ...fault, detail, members: { ...fault.members, takes } }
}
