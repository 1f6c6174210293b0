/** The Redis clients that the plugin takes. `npm run test:clients` tries the same with every one of them. */
import { randomUUID } from 'node:crypto'
import Fastify from 'fastify'
import rateLimit, { type RedisClient } from 'ml-api-rate-limiter'
import t from 'tap'
import { connectionOfGlide } from '../../plugin/src/clients/glide.js'
import { connectionOfNodeRedis } from '../../plugin/src/clients/node-redis.js'
import { ioredis6, nodeRedis6 } from '../clients/candidates.js'
import { conform } from '../clients/conformance.js'
import { ask, limited, redisClient, statuses } from '../support/plugin.js'
import { until } from '../support/redis-fleet.js'

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

t.test('a Sentinel client that becomes ready is seen to be so each time, though it has no event for that', async t => {
  let isReady = false
  let looks = 0
  const client = {
    isOpen: true,
    get isReady() {
      looks++
      return isReady
    },
    getSentinelNode: method,
    connect: async () => {},
    evalSha: async () => [],
    eval: async () => [],
    on: method,
    off: method,
  }
  const connection = connectionOfNodeRedis(client)
  let times = 0
  const end = connection.onReady(() => times++)
  const seenAs = async (ready: boolean) => {
    isReady = ready
    const before = looks
    await until('it was looked at', async () => looks > before)
  }
  for (let round = 1; round <= 2; round++) {
    await seenAs(true)
    await seenAs(true)
    t.equal(times, round)
    await seenAs(false)
    t.equal(times, round)
  }
  end()
})

t.test('many limiters on one client are one listener of it, which goes with the last', async t => {
  const redis = redisClient(t)
  await redis.ping()
  const before = redis.listenerCount('ready')
  const apps = [1, 2, 3, 4, 5, 6].map(() => Fastify())
  for (const app of apps) await app.register(rateLimit, { redis, nameSpace: 'listeners:', onStoreError: 'local' })
  t.equal(redis.listenerCount('ready'), before + 1)
  for (const app of apps) await app.close()
  t.equal(redis.listenerCount('ready'), before)
})

t.test('an adapter that gives something else than the reply limits nobody less: it is a store that fails', async t => {
  const redis = redisClient(t)
  const others: ((reply: unknown) => unknown)[] = [
    reply => ({ result: reply }),
    reply => [reply],
    reply => JSON.stringify(reply),
    () => undefined,
    reply => (Array.isArray(reply) ? reply.map(() => null) : null),
    () => 'OK',
    () => [],
  ]
  for (const other of others) {
    for (const max of [5, 1000]) {
      const adapter = {
        status: 'ready' as const,
        eval: async (source: string, keys: readonly string[], args: readonly (string | number)[]) =>
          other(await redis.eval(source, keys.length, ...keys, ...args)),
        onReady: () => () => {},
      }
      const nameSpace = `test:${randomUUID()}:`
      const app = await limited(t, { redis: adapter, nameSpace, max, onStoreError: 'deny', storeTimeout: 5000 })
      t.strictSame(await statuses(app, 3), [503, 503, 503])
      await t.rejects(app.rateLimiter.reset('lone'), { code: 'ML_RATE_STORE_UNAVAILABLE' })
      await t.rejects(app.rateLimiter.refund('lone', 1), { code: 'ML_RATE_STORE_UNAVAILABLE' })
      await t.rejects(app.rateLimiter.status('lone'), { code: 'ML_RATE_STORE_UNAVAILABLE' })
    }
  }
})

t.test('errors of Redis have names of their own in Valkey GLIDE, and are known by them', async t => {
  const redis = redisClient(t)
  const glide = {
    isClosed: false,
    said: [] as string[],
    customCommand: async ([name = '', ...args]: string[]) => {
      try {
        return await redis.call(name, args)
      } catch (error) {
        const { message } = error as Error
        const itsName = message.startsWith('NOSCRIPT') ? 'NoScriptError' : 'ResponseError'
        glide.said.push(itsName)
        throw new Error(`An error was signalled by the server: - ${itsName}: ${message.replace(/^[A-Z]+ /, '')}`)
      }
    },
  }
  await redis.script('FLUSH')
  const nameSpace = `test:${randomUUID()}:`
  const app = await limited(t, { redis: glide, nameSpace, max: 3 })
  t.strictSame(await statuses(app, 2), [200, 200])
  t.match(glide.said, ['NoScriptError'])
  glide.isClosed = true
  t.strictSame([(await ask(app)).statusCode], [500])

  const connection = connectionOfGlide(glide)
  connection.connect()
  connection.onReady(() => {})()
  t.equal(connection.nodeOf(1), undefined)
  t.equal(connection.isCluster, false)
  t.equal(connectionOfGlide({ ...glide, invokeScriptWithRoute: () => {} } as never).isCluster, true)
  await t.rejects(connection.eval('return redis.call("nothing")', ['k'], [1]), /ResponseError/)
})
