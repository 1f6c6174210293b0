/** Where the caller stands. Asking costs nothing. */
import type { FastifyPluginAsync } from 'fastify'
import { callerOf } from '../auth.js'
import { answers, Limits } from '../openapi/schemas.js'

const schema = {
  tags: ['Quota'],
  summary: 'Where the caller stands; asking costs nothing',
  operationId: 'limits',
  response: answers({ success: Limits, refusals: [503] }),
}

export const limitRoutes: FastifyPluginAsync = async app => {
  app.get('/v1/limits', { config: { rateLimit: false }, schema }, async (request, reply) => {
    const { key, plan } = callerOf(request)
    const { policies } = await app.rateLimiter.status(key, request)
    reply.header('cache-control', 'no-store')
    return {
      plan,
      policies: policies.map(({ name, unit, limit, remaining, windowMs, reset }) => ({
        name,
        unit,
        limit,
        remaining,
        windowSeconds: windowMs / 1000,
        resetSeconds: Math.ceil(reset / 1000),
      })),
    }
  })
}
