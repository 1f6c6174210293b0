import fastifyRateLimit from '@fastify/rate-limit'
import mlRateLimit from 'ml-api-rate-limiter'
import { RateLimiterMemory, RateLimiterRedis } from 'rate-limiter-flexible'
import { fitting, pluginOf } from './other-build.mjs'

/**
 * Limiters as they are asked by hand, without HTTP. `create(app, policy, tools)` gives a function that decides about a
 * key, as each limiter offers it. Tools, `store`, `keepsLogs` and `isOtherBuild` are those of the contenders.
 */
export const deciders = {
  'ours-redis': {
    title: 'ml-api-rate-limiter',
    store: 'redis',
    keepsLogs: true,
    create: (app, policy, { redis, options }) => ours(mlRateLimit, app, policy, { redis, ...options }),
  },
  'ours-redis-no-prefetch': {
    title: 'ml-api-rate-limiter, `prefetch: false`',
    store: 'redis',
    keepsLogs: true,
    create: (app, policy, { redis, options }) => ours(mlRateLimit, app, policy, { redis, prefetch: false, ...options }),
  },
  'ours-before': {
    title: 'ml-api-rate-limiter, the other build',
    store: 'redis',
    keepsLogs: true,
    isOtherBuild: true,
    create: async (app, policy, { redis, against, options }) => {
      const plugin = await pluginOf(against)
      return ours(plugin, app, policy, { redis, ...(await fitting(plugin, options)) })
    },
  },
  'fastify-redis': {
    title: '@fastify/rate-limit',
    store: 'redis',
    create: (app, policy, { redis }) => created(fastifyRateLimit, app, policy, { redis }),
  },
  'flexible-redis': {
    title: 'rate-limiter-flexible',
    store: 'redis',
    create: (_app, policy, { redis }) => flexible(new RateLimiterRedis({ ...pointsOf(policy), storeClient: redis })),
  },
  'incr-redis': {
    title: 'INCR, and PEXPIRE with the first',
    store: 'redis',
    create: (_app, policy, { redis }) => increment(redis, policy),
  },
  'ours-memory': {
    title: 'ml-api-rate-limiter',
    store: 'memory',
    keepsLogs: true,
    create: (app, policy) => ours(mlRateLimit, app, policy, {}),
  },
  'ours-before-memory': {
    title: 'ml-api-rate-limiter, the other build',
    store: 'memory',
    keepsLogs: true,
    isOtherBuild: true,
    create: async (app, policy, { against }) => ours(await pluginOf(against), app, policy, {}),
  },
  'fastify-memory': {
    title: '@fastify/rate-limit',
    store: 'memory',
    create: (app, policy) => created(fastifyRateLimit, app, policy, {}),
  },
  'flexible-memory': {
    title: 'rate-limiter-flexible',
    store: 'memory',
    create: (_app, policy) => flexible(new RateLimiterMemory(pointsOf(policy))),
  },
}

const pointsOf = ({ max, windowMs }) => ({ points: max, duration: windowMs / 1000, keyPrefix: 'flexible' })

/** A machine that is busy with other things is to be measured, not to be given up. */
const OURS = { nameSpace: 'bench', storeTimeout: 20_000 }

const ours = (plugin, app, policy, options) => created(plugin, app, policy, { ...OURS, ...options })

/** Both plugins have `createRateLimit`, which decides about a request. */
async function created(plugin, app, { max, windowMs }, options) {
  let key = ''
  const limits = { max, timeWindow: windowMs, keyGenerator: () => key }
  await app.register(plugin, { global: false, ...limits, ...options })
  const decide = app.createRateLimit({ ...limits, groupId: 'direct' })
  const request = await anyRequest(app)
  // The key is read before the function returns.
  return next => {
    key = next
    return decide(request)
  }
}

async function anyRequest(app) {
  let request
  app.get('/any', (one, reply) => {
    request = one
    reply.send()
  })
  await app.inject('/any')
  return request
}

function flexible(limiter) {
  return key => limiter.consume(key)
}

function increment(redis, { windowMs }) {
  return async key => {
    const count = await redis.incr(key)
    if (count === 1) await redis.pexpire(key, windowMs)
    return count
  }
}
