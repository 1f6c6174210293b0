import { randomUUID } from 'node:crypto'
import { createServer, type RequestListener } from 'node:http'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import rateLimit, { type RateLimitPluginOptions } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { redisClient, statuses } from '../support/plugin.js'

/** An app with default settings but for the limit; `key` is the client, so that tests do not count together. */
async function build(t: Test, options: RateLimitPluginOptions, server: FastifyServerOptions = {}) {
  const app = Fastify(server) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(rateLimit, { max: 2, timeWindow: '1 minute', storeTimeout: 5000, ...options })
  app.get('/', async () => 'ok')
  app.get('/own', { config: { rateLimit: { max: 1 } } }, async () => 'ok')
  await app.ready()
  return app
}

function lone(t: Test): RateLimitPluginOptions {
  const key = randomUUID()
  return { redis: redisClient(t), keyGenerator: () => key }
}

t.test('an app that is built again after it closed finds its counts in Redis', async t => {
  const options = lone(t)
  for (const expected of [
    [200, 200, 429],
    [429, 429, 429],
    [429, 429, 429],
  ]) {
    const app = await build(t, options)
    t.strictSame(await statuses(app, 3), expected)
    await app.close()
  }
})

t.test('an app that is built again before the old one closes finds its counts in Redis', async t => {
  const options = lone(t)
  let old = await build(t, options)
  t.strictSame([...(await statuses(old, 3)), ...(await statuses(old, 2, '/own'))], [200, 200, 429, 200, 429])
  for (let times = 0; times < 2; times++) {
    const next = await build(t, options)
    await old.close()
    t.strictSame([...(await statuses(next, 3)), ...(await statuses(next, 1, '/own'))], [429, 429, 429, 429])
    old = next
  }
})

t.test('an app that is built again around the same server finds its counts in Redis', async t => {
  const shared = createServer()
  const serverFactory = (handler: RequestListener) => shared.removeAllListeners('request').on('request', handler)
  for (const extra of [{}, { nameSpace: `rebuilt:${randomUUID()}:` }]) {
    const options = { ...lone(t), ...extra }
    const old = await build(t, options, { serverFactory })
    t.strictSame(await statuses(old, 3), [200, 200, 429])
    const next = await build(t, options, { serverFactory })
    await old.close()
    t.strictSame(await statuses(next, 2), [429, 429])
    const third = await build(t, options, { serverFactory })
    await next.close()
    t.strictSame(await statuses(third, 2), [429, 429])
  }
})

t.test('an app that is built again starts anew where it counts in the process', async t => {
  const old = await build(t, { keyGenerator: () => 'lone' })
  t.strictSame(await statuses(old, 3), [200, 200, 429])
  const next = await build(t, { keyGenerator: () => 'lone' })
  t.strictSame(await statuses(next, 3), [200, 200, 429])
})

t.test('registrations of one app count apart, and each finds its counts again when the app is built again', async t => {
  const options = lone(t)
  const three = async () => {
    const app = Fastify()
    t.teardown(() => app.close())
    for (const [prefix, max] of [
      ['/a', 1],
      ['/b', 2],
      ['/b', 3],
    ] as const) {
      await app.register(
        async scope => {
          await scope.register(rateLimit, { max, timeWindow: '1 minute', storeTimeout: 5000, ...options })
          scope.get(`/${max}`, async () => 'ok')
        },
        { prefix },
      )
    }
    return app
  }
  const old = await three()
  t.strictSame(await statuses(old, 4, '/a/1'), [200, 429, 429, 429])
  t.strictSame(await statuses(old, 4, '/b/2'), [200, 200, 429, 429])
  const next = await three()
  await old.close()
  t.strictSame(await statuses(next, 1, '/a/1'), [429])
  t.strictSame(await statuses(next, 4, '/b/3'), [200, 200, 200, 429])
  t.strictSame(await statuses(next, 1, '/b/2'), [429])
})

t.test('two apps of one process that serve at the same time count apart', async t => {
  const options = lone(t)
  const [one, two] = [await build(t, options), await build(t, options)]
  t.strictSame([...(await statuses(one, 3)), ...(await statuses(two, 3))], [200, 200, 429, 200, 200, 429])
  await one.close()
  t.strictSame(await statuses(two, 1), [429], 'a name is settled with the first request')
})
