/** `GET /metrics`: for Prometheus. Never limited, since a limit would blind those who watch. */
import type { FastifyPluginAsync } from 'fastify'
import { Type } from 'typebox'
import type { Metrics } from '../metrics/metrics.js'
import { answers } from '../openapi/schemas.js'

const schema = {
  tags: ['Health'],
  summary: 'Counters and histograms in the text format of Prometheus',
  operationId: 'metrics',
  response: answers({ success: Type.String(), type: 'text/plain', refusals: [] }),
}

export const metricsRoutes: FastifyPluginAsync<{ readonly metrics: Metrics }> = async (app, { metrics }) => {
  app.get('/metrics', { config: { rateLimit: false }, schema }, async (_request, reply) => {
    reply.headers({ 'content-type': metrics.contentType, 'cache-control': 'no-store' })
    return metrics.text()
  })
}
