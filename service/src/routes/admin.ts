/** For the people who run the service; there are no such routes without ADMIN_TOKEN. */
import type { FastifyPluginAsync } from 'fastify'
import { adminOnly } from '../auth.js'
import { NoModels } from '../inference/errors.js'
import type { Models } from '../inference/types.js'
import { Refusal } from '../problem.js'

interface AdminOptions {
  readonly models: Models
  readonly token: string
}

/** Guesses of the token that one address has a minute; nobody reloads as often. */
const policies = [{ name: 'admin', max: 30, timeWindow: 60_000 }]

export const adminRoutes: FastifyPluginAsync<AdminOptions> = async (app, { models, token }) => {
  // After the limiter, so that wrong guesses are counted.
  const preParsing = adminOnly(token)
  app.post('/v1/admin/reload', { config: { rateLimit: { policies } }, preParsing }, async () => {
    try {
      return await models.reload()
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
