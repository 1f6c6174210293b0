/** For the people who run the service; there are no such routes without ADMIN_TOKEN. */
import type { FastifyPluginAsync, onRequestAsyncHookHandler } from 'fastify'
import { Type } from 'typebox'
import { Refusal } from '../http/problem.js'
import { NoModels } from '../inference/errors.js'
import type { Models } from '../inference/types.js'
import { answers } from '../openapi/schemas.js'
import type { Limits } from '../protection/limits.js'
import { audit } from './audit.js'

interface AdminOptions {
  readonly models: Models
  readonly limits: Limits
  /** Lets pass who has the admin token. */
  readonly onRequest: onRequestAsyncHookHandler
}

const schema = {
  tags: ['Admin'],
  summary: 'Reads the models folder again',
  operationId: 'reload',
  description: 'Requests in flight finish on what was loaded; a model that cannot be loaded leaves the rest serving.',
  security: [{ adminToken: [] }],
  response: answers({
    success: Type.Object({}, { additionalProperties: true }),
    refusals: [401, 409, 429, 503],
  }),
}

export const adminRoutes: FastifyPluginAsync<AdminOptions> = async (app, { models, limits, onRequest }) => {
  app.post('/v1/admin/reload', { config: { rateLimit: false }, onRequest, schema }, async request => {
    try {
      const file = limits.reload()
      const report = await models.reload()
      audit(request, 'models.reload', file === undefined ? {} : { limits: file.loaded })
      return file === undefined ? report : { ...report, limits: file }
    } catch (error) {
      if (!(error instanceof NoModels)) throw error
      throw new Refusal({
        status: 409,
        code: 'NO_MODELS',
        detail: 'the models folder holds nothing that can be served; what was loaded goes on serving',
      })
    }
  })
}
