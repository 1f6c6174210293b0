import fastifyRateLimit from '@fastify/rate-limit'
import mlRateLimit from 'ml-api-rate-limiter'
import { RateLimiterMemory, RateLimiterRedis, RateLimiterUnion } from 'rate-limiter-flexible'
import { KEY_HEADER } from './scenarios.mjs'

/**
 * What is measured. `store`: where it counts. `only`: the scenarios it takes part in, all where left out.
 * `growsWithRequests`: keeps every request apart.
 * `limit(app, scenario, redis)` puts the limiter in front of the routes of the app.
 */
export const contenders = {
  bare: {
    title: 'bare Fastify',
    store: 'none',
    limit: answerAsDenied,
  },
  'ours-redis': {
    title: 'ml-api-rate-limiter',
    store: 'redis',
    limit: (app, scenario, redis) => ours(app, scenario, { redis, standardHeaders: false }),
  },
  'ours-redis-default': {
    title: 'ml-api-rate-limiter, IETF headers too (default)',
    store: 'redis',
    limit: (app, scenario, redis) => ours(app, scenario, { redis }),
  },
  'fastify-redis': {
    title: '@fastify/rate-limit',
    store: 'redis',
    limit: (app, scenario, redis) => fastifyOwn(app, scenario, { redis }),
  },
  'flexible-redis': {
    title: 'rate-limiter-flexible',
    store: 'redis',
    limit: (app, scenario, redis) =>
      flexible(app, scenario, options => new RateLimiterRedis({ ...options, storeClient: redis })),
  },
  'flexible-redis-block': {
    title: 'rate-limiter-flexible, in-memory block',
    store: 'redis',
    only: ['denied', 'half'],
    limit: (app, scenario, redis) =>
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
    limit: (app, scenario) => ours(app, scenario, { standardHeaders: false }),
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

/** Both plugins take it from the header; the hooks below do the same. */
const keyGenerator = request => request.headers[KEY_HEADER]

async function ours(app, { policies }, options) {
  const limits =
    policies.length === 1
      ? { max: policies[0].max, timeWindow: policies[0].windowMs }
      : { policies: policies.map(({ max, windowMs }) => ({ name: `per-${windowMs}`, max, timeWindow: windowMs })) }
  await app.register(mlRateLimit, { ...limits, keyGenerator, ...options })
}

/** It takes one policy; several are several registrations, each with a count and a Redis call of its own. */
async function fastifyOwn(app, { policies }, options) {
  for (const { max, windowMs } of policies) {
    const nameSpace = `fastify-rate-limit-${windowMs}-`
    await app.register(fastifyRateLimit, { max, timeWindow: windowMs, keyGenerator, nameSpace, ...options })
  }
}

/** Several policies are its `RateLimiterUnion`, which asks all of them at once. */
async function flexible(app, { policies }, create) {
  const limiters = policies.map(({ max, windowMs }) =>
    create({ points: max, duration: windowMs / 1000, keyPrefix: `flexible-${windowMs}` }),
  )
  const limiter = limiters.length === 1 ? limiters[0] : new RateLimiterUnion(...limiters)
  const binding = result => (limiters.length === 1 ? result : Object.values(result)[0])
  const { max } = policies[0]
  app.addHook('onRequest', async (request, reply) => {
    try {
      const { remainingPoints, msBeforeNext } = binding(await limiter.consume(keyGenerator(request)))
      setQuota(reply, max, remainingPoints, Math.ceil(msBeforeNext / 1000))
    } catch (denial) {
      if (denial instanceof Error) throw denial
      return deny(reply, max, Math.ceil(binding(denial).msBeforeNext / 1000))
    }
  })
}

/** The maintained package with a rolling window on sorted sets: one entry a request, trimmed at every request. */
async function asyncRateLimiter(app, { policies }, redis) {
  const { default: AsyncRateLimiter } = await import('async-ratelimiter')
  const limiters = policies.map(
    ({ max, windowMs }) =>
      new AsyncRateLimiter({ db: redis, max, duration: windowMs, namespace: `rolling-${windowMs}` }),
  )
  app.addHook('onRequest', async (request, reply) => {
    const id = keyGenerator(request)
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
    if (keyGenerator(request).startsWith('hot')) deny(reply, max, windowMs / 1000)
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
