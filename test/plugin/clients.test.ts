/** The Redis clients that the plugin takes. `npm run test:clients` tries the same with every one of them. */
import Fastify from 'fastify'
import Mock from 'ioredis-mock'
import rateLimit, { type RedisClient } from 'ml-api-rate-limiter'
import t from 'tap'
import { ioredis6, nodeRedis6 } from '../clients/candidates.js'
import { conform } from '../clients/conformance.js'
import { limited, statuses } from '../support/plugin.js'

for (const { name, single, waits } of [ioredis6, nodeRedis6]) {
  t.test(name, t => conform(t, { name, waits, ...(single && { single }) }))
}

const method = () => {}
/** Clients that would fail at the first request only, and what they lack. */
const FOREIGN = {
  'Upstash, over HTTP': [{ eval: method, evalsha: method }, "the method 'connect'"],
  Bun: [{ send: method, connect: method, get: method }, "the method 'evalsha'"],
  'node-redis 3, with callbacks': [
    { eval: method, evalsha: method, on: method, off: method, status: undefined },
    "the method 'connect'",
  ],
  'the options of a client': [{ host: 'localhost', port: 6379 }, "the method 'evalsha'"],
  'an adapter without eval': [{ onReady: method, status: 'ready' }, "the method 'eval'"],
} as const

for (const [name, [client, lack]] of Object.entries(FOREIGN)) {
  t.test(`register refuses ${name}, and says what is missing`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    app.register(rateLimit, { redis: client as unknown as RedisClient })
    await t.rejects(async () => app.ready(), {
      code: 'ML_RATE_INVALID_OPTION',
      message: `option 'redis' is an object without ${lack}; allowed: a client of ioredis, iovalkey, node-redis 5 or later or Valkey GLIDE, or an adapter { status, eval, onReady }`,
    })
  })
}

t.test('register refuses an adapter whose status is none, and says what it is', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  const redis = { eval: async () => [], onReady: () => () => {}, status: 'open' }
  app.register(rateLimit, { redis: redis as unknown as RedisClient })
  await t.rejects(async () => app.ready(), { message: /'redis' is an adapter whose status is 'open'; allowed: / })
})

t.test('ioredis-mock counts, denies, gives back and resets', async t => {
  const policies = [
    { name: 'short', max: 3, timeWindow: '1 minute' },
    { name: 'long', max: 1000, timeWindow: '1 hour' },
  ]
  const redis = new Mock() as unknown as RedisClient
  const app = await limited(t, { redis, nameSpace: 'mock:', policies, storeTimeout: 20_000 }, app => {
    app.get('/', async request => request.rateLimit?.charge({ long: 10 }))
    app.get('/back', async request => request.rateLimit?.refund())
    const own = { policies: null, max: 5, timeWindow: '1 hour' }
    app.get('/permit', { config: { rateLimit: { ...own, concurrency: { max: 1 } } } }, async () => 1)
    app.get('/ban', { config: { rateLimit: { ...own, max: 0, ban: 1 } } }, async () => 1)
    app.get('/backoff', { config: { rateLimit: { ...own, max: 1, exponentialBackoff: true } } }, async () => 1)
  })
  const left = async () => (await app.rateLimiter.status('lone'))?.policies.map(({ remaining }) => remaining)
  t.strictSame(await statuses(app, 4), [200, 200, 200, 429])
  t.strictSame(await left(), [0, 967])
  await app.rateLimiter.refund('lone', { short: 2 })
  t.strictSame(await left(), [2, 967])
  t.strictSame(await statuses(app, 2, '/back'), [200, 200])
  t.strictSame(await left(), [2, 967])
  await app.rateLimiter.reset('lone')
  t.strictSame(await left(), [3, 1000])
  t.strictSame(await statuses(app, 6, '/permit'), [200, 200, 200, 200, 200, 429])
  t.strictSame(await statuses(app, 3, '/ban'), [429, 403, 403])
  t.strictSame(await statuses(app, 3, '/backoff'), [200, 429, 429])
})

t.test('ioredis-mock frees quota when the window has passed', async t => {
  const redis = new Mock() as unknown as RedisClient
  const app = await limited(t, { redis, nameSpace: 'passing:', max: 1, timeWindow: 50, storeTimeout: 20_000 })
  for (let admitted = 0; admitted < 3; ) {
    const [status] = await statuses(app, 1)
    if (status === 200) admitted++
    else t.equal(status, 429)
  }
})
