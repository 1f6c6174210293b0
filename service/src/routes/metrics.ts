/** `GET /metrics`: for Prometheus. Never limited, since a limit would blind those who watch. */
import type { FastifyPluginAsync } from 'fastify'
import { Type } from 'typebox'
import type { Metrics } from '../metrics/metrics.js'
import type { TextsOfAll } from '../metrics/of-all.js'
import { sumOf } from '../metrics/sum.js'
import { answers } from '../openapi/schemas.js'
import { valuesOf } from '../processes/messages.js'
import type { Peers } from '../processes/peers.js'

export interface MetricsOptions {
  readonly metrics: Metrics
  /** The other processes of the service, whose metrics are told with these; undefined where this is the only one. */
  readonly peers: Pick<Peers, 'ask' | 'answer'> | undefined
}

const schema = {
  tags: ['Health'],
  summary: 'Counters and histograms in the text format of Prometheus',
  operationId: 'metrics',
  response: answers({ success: Type.String(), type: 'text/plain', refusals: [] }),
}

export const metricsRoutes: FastifyPluginAsync<MetricsOptions> = async (app, { metrics, peers }) => {
  peers?.answer('metrics', () => metrics.text())
  app.get('/metrics', { config: { rateLimit: false }, schema }, async (_request, reply) => {
    reply.headers({ 'content-type': metrics.contentType, 'cache-control': 'no-store' })
    if (peers === undefined) return metrics.text()
    const [all] = valuesOf(await peers.ask<TextsOfAll>('metrics'))
    return all === undefined ? metrics.text() : sumOf(all.texts, [all.ended])
  })
}
