/** What is loaded: enough to call each model without another page. */
import type { FastifyPluginAsync } from 'fastify'
import { Type } from 'typebox'
import type { ModelInfo, Models } from '../inference/types.js'
import { answers, list, ModelDescription } from '../openapi/schemas.js'

const Listed = list(ModelDescription, 'models')

const documented = (operationId: string, summary: string, refusals: readonly number[], success: object) => ({
  tags: ['Models'],
  summary,
  operationId,
  response: answers({ success, refusals }),
})

const unlimited = { rateLimit: false } as const

export const modelRoutes: FastifyPluginAsync<{ readonly models: Models }> = async (app, { models }) => {
  const describe = (info: ModelInfo) => ({
    ...info,
    versions: models.versions(info.name).map(({ info: { version } }) => version),
  })
  app.get('/v1/models', { config: unlimited, schema: documented('models', 'All models', [], Listed) }, async () => ({
    models: models.list().map(({ info }) => describe(info)),
  }))
  app.get<{ Params: { name: string }; Querystring: { version?: string } }>(
    '/v1/models/:name',
    {
      config: unlimited,
      schema: {
        ...documented('model', 'One model', [400, 404], ModelDescription),
        params: Type.Object({ name: Type.String() }),
        querystring: Type.Object({ version: Type.Optional(Type.String()) }),
      },
    },
    async ({ params, query }) => describe(models.get(params.name, query.version).info),
  )
}
