/** From registration to the first connection. */
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { type App, ask, limited } from '../support/plugin.js'
import { freePort, startRedis, until } from '../support/redis-fleet.js'
import { startProxy } from '../support/redis-proxy.js'

function clientOf(t: Test, port: number, options: { lazyConnect?: boolean } = {}): Redis {
  const redis = new Redis(port, '127.0.0.1', { retryStrategy: () => 50, ...options })
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  return redis
}

const statusesOf = async (asked: readonly ReturnType<typeof ask>[]) =>
  (await Promise.all(asked)).map(({ statusCode }) => statusCode)
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

t.test(
  'a connection that takes longer than storeTimeout is waited for: the first requests are all counted',
  async t => {
    const server = await startRedis(t)
    const proxy = await startProxy(t, server.port)
    proxy.delayMs = 1000
    const redis = clientOf(t, proxy.port)
    const app = await limited(t, {
      redis,
      nameSpace: 'start:',
      max: 56,
      timeWindow: '1 hour',
      storeTimeout: 100,
      startTimeout: 30_000,
    })
    const asked: ReturnType<typeof ask>[] = []
    for (let index = 0; index < 56; index++) {
      asked.push(ask(app))
      await new Promise(resolve => setImmediate(resolve))
    }
    t.strictSame(await statusesOf(asked), Array(56).fill(200))
    proxy.delayMs = 0
    await until('Redis has counted each of them', async () => (await ask(app)).statusCode === 429)
  },
)

t.test('a reset and a block wait for the first connection as requests do', async t => {
  const server = await startRedis(t)
  const proxy = await startProxy(t, server.port)
  proxy.delayMs = 400
  const options = { nameSpace: 'start:', max: 5, timeWindow: '1 hour', storeTimeout: 100, startTimeout: 30_000 }
  const redis = clientOf(t, proxy.port)
  redis.once('ready', () => {
    proxy.delayMs = 0
  })
  const app = await limited(t, { ...options, redis })
  await Promise.all([app.rateLimiter.reset('ann'), app.rateLimiter.block('lone', '1 hour')])
  const direct = await limited(t, { ...options, redis: clientOf(t, server.port) })
  t.equal((await ask(direct)).statusCode, 429)
})

/** What a request is answered while Redis has never been there. */
const MODES = {
  throw: [500, 'ML_RATE_STORE_TIMEOUT'],
  deny: [503, 'ML_RATE_STORE_UNAVAILABLE'],
  allow: [200, undefined],
  local: [200, undefined],
} as const

for (const [mode, [status, code]] of Object.entries(MODES) as [keyof typeof MODES, (typeof MODES)['throw']][]) {
  t.test(`no connection within startTimeout: '${mode}' applies at once, until Redis is there`, async t => {
    const port = await freePort()
    const redis = clientOf(t, port)
    const lines: string[] = []
    const stream = { write: (line: string) => void lines.push((JSON.parse(line) as { msg: string }).msg) }
    const routes = (app: App) => app.get('/', async () => 'ok')
    const options = {
      redis,
      nameSpace: 'start:',
      max: 1000,
      timeWindow: '1 hour',
      // Whoever waited for it would wait for longer than the test does.
      storeTimeout: 300_000,
      startTimeout: 300,
      onStoreError: mode,
    } as const
    const app = await limited(t, options, routes, { logger: { level: 'info', stream }, disableRequestLogging: true })
    const early = await Promise.all([ask(app), ask(app)])
    const late = await Promise.all([ask(app), ask(app)])
    for (const answer of [...early, ...late]) {
      t.equal(answer.statusCode, status)
      t.equal(code === undefined || answer.json().code === code, true)
    }
    const told = () => lines.filter(line => line.startsWith('the rate limit store'))
    t.strictSame(told(), ['the rate limit store is lost'])
    await startRedis(t, { port })
    await until('counting goes on in Redis', async () => {
      const { statusCode, headers } = await ask(app)
      return statusCode === 200 && headers.ratelimit !== undefined && told().length === 2
    })
    t.strictSame(told(), ['the rate limit store is lost', 'the rate limit store answers again'])
  })
}

t.test('a lazy client connects with the first request, also when startTimeout is over', async t => {
  const server = await startRedis(t)
  const redis = clientOf(t, server.port, { lazyConnect: true })
  const app = await limited(t, { redis, nameSpace: 'lazy:', max: 2, storeTimeout: 20_000, startTimeout: 1 })
  await pause(50)
  t.equal(redis.status, 'wait', 'nobody has asked')
  t.strictSame(await statusesOf([ask(app), ask(app), ask(app)]), [200, 200, 429])
})

t.test('a lazy client without a Redis: onStoreError applies when startTimeout is over', async t => {
  const redis = clientOf(t, await freePort(), { lazyConnect: true })
  const options = { redis, max: 2, storeTimeout: 100, startTimeout: 600, onStoreError: 'allow' } as const
  const app = await limited(t, options)
  const since = performance.now()
  t.strictSame(await statusesOf([ask(app), ask(app), ask(app)]), [200, 200, 200])
  t.ok(performance.now() - since >= 500, 'it was waited for that long')
})

t.test('startTimeout: 0 waits for the first connection no longer than for any answer', async t => {
  const redis = clientOf(t, await freePort())
  const options = { redis, max: 2, storeTimeout: 50, startTimeout: 0 } as const
  const app = await limited(t, options)
  t.match((await ask(app)).json(), { code: 'ML_RATE_STORE_TIMEOUT', message: /within 50 ms/ })
})
