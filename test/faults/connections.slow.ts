/** What happens between a limiter and a Redis that is well. */
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { retryDelayMs } from '../../service/src/redis.js'
import { type App, ask, limited, statuses } from '../support/plugin.js'
import { startRedis, until } from '../support/redis-fleet.js'
import { startProxy } from '../support/redis-proxy.js'

t.setTimeout(240_000)

async function clientOf(t: Test, port: number): Promise<Redis> {
  const redis = new Redis(port, '127.0.0.1', { retryStrategy: retryDelayMs })
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  await until('the client is ready', async () => redis.status === 'ready')
  return redis
}

const remaining = async (app: App) => (await app.rateLimiter.status('lone'))?.policies[0]?.remaining

t.test('Redis is slow, and in time: every answer is exact', async t => {
  const server = await startRedis(t)
  const proxy = await startProxy(t, server.port)
  const redis = await clientOf(t, proxy.port)
  const app = await limited(t, { redis, max: 40, timeWindow: '1 hour', storeTimeout: 30_000, onStoreError: 'throw' })
  for (const ms of [20, 80]) {
    proxy.delayMs = ms
    const crowd = await Promise.all(
      Array.from({ length: 60 }, () => ask(app, { url: '/', headers: { 'x-key': `${ms}` } })),
    )
    const codes = crowd.map(({ statusCode }) => statusCode)
    t.strictSame(codes, [...Array(40).fill(200), ...Array(20).fill(429)], `${ms} ms: in the order in which they came`)
  }
})

t.test('an answer that is lost on its way is not asked for again', async t => {
  const server = await startRedis(t)
  const proxy = await startProxy(t, server.port)
  const redis = await clientOf(t, proxy.port)
  const app = await limited(t, { redis, max: 10, timeWindow: '1 hour', storeTimeout: 1000 })
  await until('Redis has counted', async () => (await ask(app)).statusCode === 200)
  const before = Number(await remaining(app))
  proxy.dropsAnswers = true
  t.equal((await ask(app)).statusCode, 500)
  // By default the client sends again what was not answered, once it is connected again.
  proxy.dropsAnswers = false
  proxy.cut()
  await until('Redis is asked again', async () => (await remaining(app)) !== undefined)
  t.ok(Number(await remaining(app)) >= before - 1, 'it counts once at most')
  await until('it counts on', async () => (await ask(app)).statusCode === 200)
})

t.test('all connections of twenty replicas are cut, again and again: all come back, and nobody gets more', async t => {
  const server = await startRedis(t)
  const admin = server.client()
  const options = {
    max: 100,
    timeWindow: '1 hour',
    storeTimeout: 1000,
    onStoreError: 'deny',
    nameSpace: 'all:',
  } as const
  const apps: App[] = []
  for (let i = 0; i < 20; i++) apps.push(await limited(t, { ...options, redis: await clientOf(t, server.port) }))
  const seen: number[] = []
  for (let round = 0; round < 5; round++) {
    const load = Promise.all(apps.map(app => statuses(app, 2)))
    await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    seen.push(...(await load).flat())
  }
  t.strictSame(
    seen.filter(status => ![200, 429, 503].includes(status)),
    [],
  )
  t.ok(seen.filter(status => status === 200).length <= 100)
  for (const app of apps) await until('it is back', async () => [200, 429].includes((await ask(app)).statusCode))
  await until('the quota is used up, once for all', async () => (await statuses(apps[0] as App, 20)).includes(429))
  const delays = new Set(Array.from({ length: 50 }, () => Math.round(retryDelayMs(10))))
  t.ok(delays.size > 10 && Math.max(...delays) <= 1000, 'those who lost it together do not come back together')
})

t.test('a process that is busy for longer than a request may wait blames nobody', async t => {
  const server = await startRedis(t)
  const redis = await clientOf(t, server.port)
  const lines: string[] = []
  const logger = { level: 'error', stream: { write: (line: string) => void lines.push(line) } }
  const routes = (app: App) => app.get('/', async () => 'ok')
  const app = await limited(t, { redis, max: 100, timeWindow: '1 hour', storeTimeout: 1500 }, routes, { logger })
  await until('Redis has counted', async () => (await ask(app)).statusCode === 200)
  lines.length = 0
  const send = redis.evalsha.bind(redis) as (...args: unknown[]) => Promise<unknown>
  let busy = false
  redis.evalsha = ((...args: unknown[]) => {
    const answer = send(...args)
    if (!busy) {
      busy = true
      setImmediate(() => {
        for (const end = performance.now() + 4000; performance.now() < end; );
      })
    }
    return answer
  }) as never
  const crowd = await Promise.all(Array.from({ length: 12 }, () => ask(app)))
  t.strictSame(
    crowd.map(({ statusCode }) => statusCode),
    Array(12).fill(200),
  )
  t.strictSame(lines, [])
})
