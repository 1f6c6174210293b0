/** What is loaded: enough to call each model without another page. */
import type { FastifyPluginAsync } from 'fastify'
import { Type } from 'typebox'
import { Documents, documentOf, sendDocument } from '../http/document.js'
import { described, listed } from '../http/model-summary.js'
import type { ModelInfo, Models } from '../inference/types.js'
import { answers, list, ModelDescription } from '../openapi/schemas.js'

const Listed = list(ModelDescription, 'models')

const documented = (
  operationId: string,
  summary: string,
  refusals: readonly number[],
  success: object,
  limited = false,
) => ({
  tags: ['Models'],
  summary,
  operationId,
  response: answers({ success, refusals, limited, unchanged: true }),
})

const ofOneModel = {
  params: Type.Object({ name: Type.String() }),
  querystring: Type.Object({ version: Type.Optional(Type.String()) }),
}

interface OneModel {
  readonly Params: { readonly name: string }
  readonly Querystring: { readonly version?: string }
}

const Sample = Type.Object({}, { additionalProperties: true, description: 'A body that POST /v1/predict takes.' })

const unlimited = { rateLimit: false } as const

export const modelRoutes: FastifyPluginAsync<{ readonly models: Models }> = async (app, { models }) => {
  const documents = new Documents(models)
  const versionsOf = ({ name }: ModelInfo) => ({ versions: models.versions(name).map(({ info }) => info.version) })
  app.get(
    '/v1/models',
    { config: unlimited, schema: documented('models', 'All models', [], Listed) },
    (request, reply) => {
      const build = () => ({ models: models.list().map(({ info }) => ({ ...listed(info), ...versionsOf(info) })) })
      return sendDocument(documents.get('models', build), request, reply)
    },
  )
  app.get<OneModel>(
    '/v1/models/:name',
    {
      config: unlimited,
      schema: { ...documented('model', 'One model', [400, 404], ModelDescription), ...ofOneModel },
    },
    (request, reply) => {
      const { info } = models.get(request.params.name, request.query.version)
      const routing = models.routing?.(info.name)
      const build = () => ({ ...described(info), ...versionsOf(info), ...routing })
      // What a shadow has found changes with each request.
      if (routing?.shadow !== undefined) return sendDocument(documentOf(build()), request, reply)
      return sendDocument(documents.get(`model ${info.name} ${info.version}`, build), request, reply)
    },
  )
  // Limited as predictions are: it may be as large as a picture.
  app.get<OneModel>(
    '/v1/models/:name/sample',
    {
      schema: {
        ...documented('sample', 'A body that the model takes', [400, 401, 403, 404, 429, 503], Sample, true),
        ...ofOneModel,
      },
    },
    (request, reply) => {
      const { info } = models.get(request.params.name, request.query.version)
      return sendDocument(
        documents.get(`sample ${info.name} ${info.version}`, () => info.sample),
        request,
        reply,
      )
    },
  )
}
