/** What is loaded: enough to call each model without another page. */
import type { FastifyPluginAsync } from 'fastify'
import { Type } from 'typebox'
import type { ModelInfo, Models } from '../inference/types.js'

const unlimited = { rateLimit: false } as const

export const modelRoutes: FastifyPluginAsync<{ readonly models: Models }> = async (app, { models }) => {
  const describe = (info: ModelInfo) => ({
    ...info,
    versions: models.versions(info.name).map(({ info: { version } }) => version),
  })
  app.get('/v1/models', { config: unlimited }, async () => ({
    models: models.list().map(({ info }) => describe(info)),
  }))
  app.get<{ Params: { name: string }; Querystring: { version?: string } }>(
    '/v1/models/:name',
    {
      config: unlimited,
      schema: {
        params: Type.Object({ name: Type.String() }),
        querystring: Type.Object({ version: Type.Optional(Type.String()) }),
      },
    },
    async ({ params, query }) => describe(models.get(params.name, query.version).info),
  )
}
