/** Where the caller stands. Asking costs nothing. */
import type { FastifyPluginAsync } from 'fastify'
import { answers, Limits as LimitsSchema } from '../openapi/schemas.js'
import type { Limits, PolicyStanding } from '../protection/limits.js'

const schema = {
  tags: ['Quota'],
  summary: 'Where the caller stands; asking costs nothing',
  operationId: 'limits',
  response: answers({ success: LimitsSchema, refusals: [401, 403, 429, 503] }),
}

export const limitRoutes: FastifyPluginAsync<{ readonly limits: Limits }> = async (app, { limits }) => {
  app.get('/v1/limits', { config: { rateLimit: false }, schema }, async (request, reply) => {
    const { plan, policies } = await limits.standing(request, reply)
    reply.header('cache-control', 'no-store')
    return { plan, policies: policies.map(policyView) }
  })
}

/** Where a caller stands with one policy, as it is told. */
export interface PolicyView {
  readonly name: string
  readonly unit: string
  readonly limit: number
  readonly remaining: number
  /** Of a window. */
  readonly windowSeconds?: number
  /** Of a budget. */
  readonly period?: 'day' | 'month'
  readonly resetSeconds: number
  readonly per?: 'owner'
  readonly models?: readonly string[]
}

export function policyView(standing: PolicyStanding): PolicyView {
  const { name, unit, limit, remaining, windowMs, period, reset, per, models } = standing
  return {
    ...{ name, unit, limit, remaining },
    ...(period === undefined ? { windowSeconds: windowMs / 1000 } : { period }),
    resetSeconds: Math.ceil(reset / 1000),
    ...(per === 'owner' ? { per } : {}),
    ...(models === undefined ? {} : { models }),
  }
}
