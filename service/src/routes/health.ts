/** Probes. They are never limited, and tell nothing that a stranger may not know. */
import type { FastifyPluginAsync } from 'fastify'
import { Type } from 'typebox'
import { Refusal, unavailable } from '../http/problem.js'
import type { Models } from '../inference/types.js'
import type { Keyring } from '../keys/keyring.js'
import { answers } from '../openapi/schemas.js'

interface HealthOptions {
  readonly models: Models
  /** Undefined where limits are counted in this process. */
  readonly storeAnswers: (() => Promise<boolean>) | undefined
  /** The API keys, and where they are kept. */
  readonly keys: { readonly keyring: Pick<Keyring, 'state'>; readonly place: string }
  /** True from the moment that a stop was asked for. */
  readonly isStopping: () => boolean
}

const config = { rateLimit: false } as const

const KEYS_REASONS = {
  behind: 'the store of the API keys does not answer; the keys that are known go on working',
  stale: 'the store of the API keys has not answered for longer than KEYS_MAX_STALE; requests with such a key get 503',
} as const

const live = {
  tags: ['Health'],
  summary: 'The process answers',
  operationId: 'live',
  response: answers({ success: Type.Object({ status: Type.Literal('live') }), refusals: [] }),
}

const ready = {
  tags: ['Health'],
  summary: 'Models are loaded and workers up; `degraded` says what is not as it should be',
  operationId: 'ready',
  response: answers({
    success: Type.Object({
      status: Type.Union([Type.Literal('ready'), Type.Literal('degraded')]),
      reasons: Type.Optional(Type.Array(Type.String())),
      store: Type.Union([Type.Literal('up'), Type.Literal('down'), Type.Literal('in-process')]),
      models: Type.Array(Type.String()),
    }),
    refusals: [503],
  }),
}

export const healthRoutes: FastifyPluginAsync<HealthOptions> = async (app, options) => {
  const { models, storeAnswers, isStopping, keys } = options
  app.addHook('onRequest', async (_request, reply) => {
    reply.header('cache-control', 'no-store')
  })
  app.get('/health/live', { config, schema: live }, async () => ({ status: 'live' }))
  app.get('/health/ready', { config, schema: ready }, async (_request, reply) => {
    if (isStopping()) throw new Refusal(unavailable('STOPPING', 'the service is stopping', 1000))
    const { loading = [] } = models
    if (loading.length > 0) {
      reply.code(503).header('retry-after', '1')
      return { status: 'loading', loading, loaded: models.list().map(({ info }) => info.name) }
    }
    if (!models.ready) throw new Refusal(unavailable('NOT_READY', 'models or their workers are not up', 1000))
    const { state } = keys.keyring
    if (state === 'loading') throw new Refusal(unavailable('NOT_READY', 'the API keys have not been loaded yet', 1000))
    const broken = new Set(models.broken.map(({ name }) => name))
    const reasons = [...broken].map(name => `model '${name}' could not be loaded as it is in the folder`)
    reasons.push(...(models.faults ?? []))
    for (const { info, ready } of models.list()) {
      if (ready === false) reasons.push(`model '${info.name}' is not ready: no worker or backend that runs it is up`)
    }
    const store = storeAnswers === undefined ? 'in-process' : (await storeAnswers()) ? 'up' : 'down'
    if (state !== 'current') reasons.push(KEYS_REASONS[state])
    if (store === 'down') reasons.unshift('the store of the limits does not answer')
    return {
      status: reasons.length === 0 ? 'ready' : 'degraded',
      ...(reasons.length === 0 ? {} : { reasons }),
      store,
      models: models.list().map(({ info }) => info.name),
    }
  })
}
