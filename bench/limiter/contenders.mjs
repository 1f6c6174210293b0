import fastifyRateLimit from '@fastify/rate-limit'
import mlRateLimit from 'ml-api-rate-limiter'
import { RateLimiterMemory, RateLimiterRedis, RateLimiterUnion } from 'rate-limiter-flexible'
import { fitting, pluginOf } from './other-build.mjs'
import { KEY_HEADER } from './scenarios.mjs'

/** Contenders of these two kinds differ by address family alone. */
const ADDRESS_SCENARIOS = ['mapped']
/** Where quota can be prefetched, and where keys are cold. */
const PREFETCH_SCENARIOS = [
  'allowed',
  'one-key',
  'cold',
  'half',
  'policies',
  'mapped',
  'paced',
  'delayed',
  'delayed-full',
]

/**
 * What is measured. `store`: where it counts. `only`: the scenarios it takes part in, all where left out. `base`: the
 * contender without a limiter that it is compared with, `bare` where left out. `listen`: the address it listens on.
 * `growsWithRequests`: keeps every request apart. `keepsLogs`: has a log for each key, which can be filled beforehand.
 * `isOtherBuild`: takes part only where another build is given.
 * `limit(app, scenario, tools)` puts the limiter in front of the routes of the app. `tools`: `redis`, a client;
 * `against`, the folder of another build; `options`, more options for ours.
 */
export const contenders = {
  bare: {
    title: 'bare Fastify',
    store: 'none',
    limit: answerAsDenied,
  },
  'bare-ipv4': {
    title: 'bare Fastify, plain IPv4',
    store: 'none',
    only: ADDRESS_SCENARIOS,
    base: 'bare-ipv4',
    listen: '0.0.0.0',
    limit: answerAsDenied,
  },
  'ours-redis': {
    title: 'ml-api-rate-limiter',
    store: 'redis',
    keepsLogs: true,
    limit: (app, scenario, { redis, options }) =>
      ours(mlRateLimit, app, scenario, { redis, standardHeaders: false, ...options }),
  },
  'ours-redis-default': {
    title: 'ml-api-rate-limiter, IETF headers too (default)',
    store: 'redis',
    keepsLogs: true,
    only: ['allowed', 'denied', 'half', 'one-key', 'policies', 'paced'],
    limit: (app, scenario, { redis, options }) => ours(mlRateLimit, app, scenario, { redis, ...options }),
  },
  'ours-redis-no-prefetch': {
    title: 'ml-api-rate-limiter, `prefetch: false`',
    store: 'redis',
    keepsLogs: true,
    only: PREFETCH_SCENARIOS,
    limit: (app, scenario, { redis, options }) =>
      ours(mlRateLimit, app, scenario, { redis, standardHeaders: false, prefetch: false, ...options }),
  },
  'ours-redis-ipv4': {
    title: 'ml-api-rate-limiter, plain IPv4',
    store: 'redis',
    keepsLogs: true,
    only: ADDRESS_SCENARIOS,
    base: 'bare-ipv4',
    listen: '0.0.0.0',
    limit: (app, scenario, { redis, options }) =>
      ours(mlRateLimit, app, scenario, { redis, standardHeaders: false, ...options }),
  },
  'ours-before': {
    title: 'ml-api-rate-limiter, the other build',
    store: 'redis',
    keepsLogs: true,
    isOtherBuild: true,
    limit: async (app, scenario, { redis, against, options = {} }) => {
      const plugin = await pluginOf(against)
      await ours(plugin, app, scenario, { redis, standardHeaders: false, ...(await fitting(plugin, options)) })
    },
  },
  'fastify-redis': {
    title: '@fastify/rate-limit',
    store: 'redis',
    limit: (app, scenario, { redis }) => fastifyOwn(app, scenario, { redis }),
  },
  'flexible-redis': {
    title: 'rate-limiter-flexible',
    store: 'redis',
    limit: (app, scenario, { redis }) =>
      flexible(app, scenario, options => new RateLimiterRedis({ ...options, storeClient: redis })),
  },
  'flexible-redis-block': {
    title: 'rate-limiter-flexible, in-memory block',
    store: 'redis',
    only: ['denied', 'half'],
    limit: (app, scenario, { redis }) =>
      flexible(
        app,
        scenario,
        options => new RateLimiterRedis({ ...options, storeClient: redis, inMemoryBlockOnConsumed: options.points }),
      ),
  },
  'async-redis': {
    title: 'async-ratelimiter (rolling window)',
    store: 'redis',
    growsWithRequests: true,
    limit: asyncRateLimiter,
  },
  'ours-memory': {
    title: 'ml-api-rate-limiter',
    store: 'memory',
    keepsLogs: true,
    limit: (app, scenario) => ours(mlRateLimit, app, scenario, { standardHeaders: false }),
  },
  'ours-memory-ipv4': {
    title: 'ml-api-rate-limiter, plain IPv4',
    store: 'memory',
    keepsLogs: true,
    only: ADDRESS_SCENARIOS,
    base: 'bare-ipv4',
    listen: '0.0.0.0',
    limit: (app, scenario) => ours(mlRateLimit, app, scenario, { standardHeaders: false }),
  },
  'ours-before-memory': {
    title: 'ml-api-rate-limiter, the other build',
    store: 'memory',
    keepsLogs: true,
    isOtherBuild: true,
    limit: async (app, scenario, { against }) =>
      ours(await pluginOf(against), app, scenario, { standardHeaders: false }),
  },
  'fastify-memory': {
    title: '@fastify/rate-limit',
    store: 'memory',
    limit: (app, scenario) => fastifyOwn(app, scenario, {}),
  },
  'flexible-memory': {
    title: 'rate-limiter-flexible',
    store: 'memory',
    limit: (app, scenario) => flexible(app, scenario, options => new RateLimiterMemory(options)),
  },
}

/** Whether a contender takes part in a scenario. */
export function takesPart(name, scenarioName, scenarios) {
  const { only: ownScenarios } = contenders[name]
  const { only: itsContenders } = scenarios[scenarioName]
  return (ownScenarios?.includes(scenarioName) ?? true) && (itsContenders?.includes(name) ?? true)
}

/** The database of Redis in which a contender counts. */
export const databaseOf = name => Object.keys(contenders).indexOf(name) + 1

const headerKey = request => request.headers[KEY_HEADER]
const addressKey = request => request.ip
const keyOf = ({ byAddress }) => (byAddress ? addressKey : headerKey)

/** Plugins take the address as the key by themselves; of the header they are told. */
const keyOption = ({ byAddress }) => (byAddress ? {} : { keyGenerator: headerKey })

async function ours(plugin, app, scenario, options) {
  const { policies, concurrency } = scenario
  const limits =
    policies.length === 1
      ? { max: policies[0].max, timeWindow: policies[0].windowMs }
      : { policies: policies.map(({ max, windowMs }) => ({ name: `per-${windowMs}`, max, timeWindow: windowMs })) }
  await app.register(plugin, {
    nameSpace: 'bench',
    ...limits,
    ...(concurrency && { concurrency }),
    ...keyOption(scenario),
    ...options,
  })
}

/** It takes one policy; several are several registrations, each with a count and a Redis call of its own. */
async function fastifyOwn(app, scenario, options) {
  for (const { max, windowMs } of scenario.policies) {
    const nameSpace = `fastify-rate-limit-${windowMs}-`
    await app.register(fastifyRateLimit, { max, timeWindow: windowMs, nameSpace, ...keyOption(scenario), ...options })
  }
}

/** Several policies are its `RateLimiterUnion`, which asks all of them at once. */
async function flexible(app, scenario, create) {
  const { policies } = scenario
  const key = keyOf(scenario)
  const limiters = policies.map(({ max, windowMs }) =>
    create({ points: max, duration: windowMs / 1000, keyPrefix: `flexible-${windowMs}` }),
  )
  const limiter = limiters.length === 1 ? limiters[0] : new RateLimiterUnion(...limiters)
  const binding = result => (limiters.length === 1 ? result : Object.values(result)[0])
  const { max } = policies[0]
  app.addHook('onRequest', async (request, reply) => {
    try {
      const { remainingPoints, msBeforeNext } = binding(await limiter.consume(key(request)))
      setQuota(reply, max, remainingPoints, Math.ceil(msBeforeNext / 1000))
    } catch (denial) {
      if (denial instanceof Error) throw denial
      return deny(reply, max, Math.ceil(binding(denial).msBeforeNext / 1000))
    }
  })
}

/** The maintained package with a rolling window on sorted sets: one entry a request, trimmed at every request. */
async function asyncRateLimiter(app, scenario, { redis }) {
  const { default: AsyncRateLimiter } = await import('async-ratelimiter')
  const key = keyOf(scenario)
  const limiters = scenario.policies.map(
    ({ max, windowMs }) =>
      new AsyncRateLimiter({ db: redis, max, duration: windowMs, namespace: `rolling-${windowMs}` }),
  )
  app.addHook('onRequest', async (request, reply) => {
    const id = key(request)
    for (const limiter of limiters) {
      const { remaining, reset, total } = await limiter.get({ id })
      const resetSeconds = Math.ceil((reset - Date.now() / 1000) | 0)
      if (remaining === 0) return deny(reply, total, resetSeconds)
      setQuota(reply, total, remaining - 1, resetSeconds)
    }
  })
}

/** No limiter: what is to be denied gets the very bytes of a denial from a hook that knows them beforehand. */
async function answerAsDenied(app, { policies, denied }) {
  if (denied === 0) return
  const { max, windowMs } = policies[0]
  app.addHook('onRequest', (request, reply, done) => {
    if (headerKey(request).startsWith('hot')) deny(reply, max, windowMs / 1000)
    else done()
  })
}

function setQuota(reply, max, remaining, resetSeconds) {
  reply.header('x-ratelimit-limit', max)
  reply.header('x-ratelimit-remaining', remaining)
  reply.header('x-ratelimit-reset', resetSeconds)
}

/** The answer that both plugins give by default. */
function deny(reply, max, resetSeconds) {
  setQuota(reply, max, 0, resetSeconds)
  reply.header('retry-after', resetSeconds)
  return reply
    .code(429)
    .send({ statusCode: 429, error: 'Too Many Requests', message: 'Rate limit exceeded, retry in 1 hour' })
}
