/** Probes. They are never limited, and tell nothing that a stranger may not know. */
import type { FastifyPluginAsync } from 'fastify'
import { Type } from 'typebox'
import { Refusal, unavailable } from '../http/problem.js'
import type { Models } from '../inference/types.js'
import type { Keyring } from '../keys/keyring.js'
import { answers } from '../openapi/schemas.js'
import type { Answers } from '../processes/messages.js'
import type { Peers } from '../processes/peers.js'

interface HealthOptions {
  readonly models: Models
  /** Undefined where limits are counted in this process. */
  readonly storeAnswers: (() => Promise<boolean>) | undefined
  /** The API keys, and where they are kept. */
  readonly keys: { readonly keyring: Pick<Keyring, 'state'>; readonly place: string }
  /** True from the moment that a stop was asked for. */
  readonly isStopping: () => boolean
  /** True until the code of requests is warm. */
  readonly isWarming: () => boolean
  /** The other processes of the service; undefined where this is the only one. */
  readonly peers: Pick<Peers, 'ask' | 'answer'> | undefined
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

/** `refused`: with this code. */
export type Readiness =
  | { readonly status: 'loading'; readonly loading: readonly string[]; readonly loaded: readonly string[] }
  | { readonly status: 'refused'; readonly code: 'STOPPING' | 'NOT_READY'; readonly detail: string }
  | {
      readonly status: 'ready' | 'degraded'
      readonly reasons?: readonly string[]
      readonly store: 'up' | 'down' | 'in-process'
      readonly models: readonly string[]
    }

export const healthRoutes: FastifyPluginAsync<HealthOptions> = async (app, options) => {
  const { isStopping, peers } = options
  const own = () => readinessOf(options)
  peers?.answer('ready', own)
  app.addHook('onRequest', async (_request, reply) => {
    reply.header('cache-control', 'no-store')
  })
  app.get('/health/live', { config, schema: live }, async () => ({ status: 'live' }))
  app.get('/health/ready', { config, schema: ready }, async (_request, reply) => {
    const readiness =
      peers === undefined || isStopping() ? await own() : readinessOfAll(await peers.ask<Readiness>('ready'))
    if (readiness.status === 'refused') throw new Refusal(unavailable(readiness.code, readiness.detail, 1000))
    if (readiness.status === 'loading') reply.code(503).header('retry-after', '1')
    return readiness
  })
}

export const isServing = ({ status }: Readiness): boolean => status === 'ready' || status === 'degraded'

/** Of this process. */
async function readinessOf({ models, storeAnswers, isStopping, isWarming, keys }: HealthOptions): Promise<Readiness> {
  const refused = (code: 'STOPPING' | 'NOT_READY', detail: string) => ({ status: 'refused', code, detail }) as const
  if (isStopping()) return refused('STOPPING', 'the service is stopping')
  const { loading = [] } = models
  if (loading.length > 0) return { status: 'loading', loading, loaded: models.list().map(({ info }) => info.name) }
  if (!models.ready) return refused('NOT_READY', 'models or their workers are not up')
  if (isWarming()) return refused('NOT_READY', 'the service is warming up')
  const { state } = keys.keyring
  if (state === 'loading') return refused('NOT_READY', 'the API keys have not been loaded yet')
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
}

/**
 * Of several processes: ready once all are, the first time. Later one that is not leaves it degraded, since the others
 * serve; where none is ready, it is not.
 */
export function readinessOfAll({ expected, wereReady, answers }: Answers<Readiness>): Readiness {
  const given = answers.flatMap(answer => (typeof answer === 'object' && 'value' in answer ? [answer.value] : []))
  const serving = given.flatMap(each => (each.status === 'ready' || each.status === 'degraded' ? [each] : []))
  const [first] = serving
  const waiting = given.find(({ status }) => status === 'refused' || status === 'loading')
  const missing = `${expected - serving.length} of ${expected} processes ${expected - serving.length === 1 ? 'is' : 'are'} not ready`
  if (first === undefined || (!wereReady && serving.length < expected)) {
    return waiting ?? { status: 'refused', code: 'NOT_READY', detail: missing }
  }
  const reasons = new Set(serving.flatMap(each => each.reasons ?? []))
  if (serving.length < expected) reasons.add(missing)
  return {
    ...first,
    status: reasons.size === 0 ? 'ready' : 'degraded',
    ...(reasons.size === 0 ? {} : { reasons: [...reasons] }),
    store: serving.some(({ store }) => store === 'down') ? 'down' : first.store,
  }
}
