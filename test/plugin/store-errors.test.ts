import { Redis } from 'ioredis'
import { StoreTimeout, StoreUnavailable } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { type App, ask, inRedis, limited, redisClient, statuses } from '../support/plugin.js'
import { freeze, type RedisProcess, startRedis, until } from '../support/redis-fleet.js'

/** Somewhere nobody answers. */
function nowhere(t: Test): Redis {
  const redis = new Redis({ port: 1, host: '127.0.0.1', lazyConnect: true, retryStrategy: () => 100 })
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  return redis
}

function clientOf(t: Test, server: RedisProcess): Redis {
  const redis = new Redis(server.port, '127.0.0.1', {
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    retryStrategy: () => 50,
  })
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  return redis
}

const quick = { max: 2, timeWindow: '1 minute', storeTimeout: 60, startTimeout: 0 } as const

t.test('with no store from the start, each mode answers as it says', async t => {
  const thrown = await limited(t, { ...quick, redis: nowhere(t) })
  const failure = await ask(thrown)
  t.match(failure.json(), { statusCode: 500, code: 'ML_RATE_STORE_TIMEOUT', message: /did not answer within 60 ms/ })

  const allowed = await limited(t, { ...quick, redis: nowhere(t), onStoreError: 'allow' })
  const passed = await ask(allowed)
  t.match(passed, { statusCode: 200, headers: { 'ratelimit-policy': '"default";q=2;w=60' } })
  t.equal(passed.headers.ratelimit, undefined, 'nothing is said of what nobody knows')
  t.strictSame(await statuses(allowed, 4), [200, 200, 200, 200])

  const skipped = await limited(t, { ...quick, redis: nowhere(t), skipOnError: true })
  t.strictSame(await statuses(skipped, 3), [200, 200, 200])

  const several = await limited(t, {
    storeTimeout: 60,
    startTimeout: 0,
    redis: nowhere(t),
    onStoreError: 'allow',
    policies: [
      { name: 'wide', max: 9, timeWindow: 1000 },
      { name: 'narrow', max: 3, timeWindow: 1000 },
      { name: 'middle', max: 6, timeWindow: 1000 },
    ],
  })
  t.match((await ask(several)).headers, { 'x-ratelimit-limit': '3', 'x-ratelimit-remaining': '3' })

  const denied = await limited(t, { ...quick, redis: nowhere(t), onStoreError: 'deny' })
  const refusal = await ask(denied)
  t.match(refusal.json(), { statusCode: 503, code: 'ML_RATE_STORE_UNAVAILABLE' })
  const wait = Number(refusal.headers['retry-after'])
  t.ok(wait >= 1 && wait <= 5)

  const local = await limited(t, { ...quick, redis: nowhere(t), onStoreError: 'local' })
  t.strictSame(await statuses(local, 3), [200, 200, 429])
  t.match((await local.rateLimiter.status('lone'))?.policies[0], { remaining: 0 })
})

t.test('a lost store is left alone after some failures, tried behind the scenes, and counted with again', async t => {
  const server = await startRedis(t)
  const redis = clientOf(t, server)
  await until('the client is ready', async () => redis.status === 'ready')
  const lines: string[] = []
  const logger = {
    level: 'info',
    stream: { write: (line: string) => void lines.push((JSON.parse(line) as { msg: string }).msg) },
  }
  const app = await limited(
    t,
    {
      redis,
      nameSpace: 'lost:',
      max: 3,
      timeWindow: '1 hour',
      storeTimeout: 100,
      onStoreError: 'local',
      denyMemory: false,
    },
    app => app.get('/', async () => 'ok'),
    { logger, disableRequestLogging: true },
  )
  t.strictSame(await statuses(app, 2), [200, 200])
  await freeze(server)
  t.strictSame(
    await statuses(app, 8),
    [200, 429, 429, 429, 429, 429, 429, 429],
    'in process only what was left is given',
  )
  server.signal('SIGCONT')
  await until('Redis is asked again', async () => {
    const { policies = [] } = (await app.rateLimiter.status('lone')) ?? {}
    return lines.includes('the rate limit store answers again') && policies[0]?.remaining === 0
  })
  t.strictSame(await statuses(app, 2), [429, 429], 'what Redis knew counts, and what was admitted meanwhile')
  t.strictSame(
    lines.filter(line => line.includes('store')),
    ['the rate limit store is lost', 'the rate limit store answers again'],
    'one line each way',
  )
})

t.test('a check that was given up on charges nothing when Redis wakes up', async t => {
  const server = await startRedis(t)
  const redis = clientOf(t, server)
  const app = await limited(t, { redis, nameSpace: 'late:', max: 10, timeWindow: '1 hour', storeTimeout: 80 })
  await until('Redis answers', async () => (await ask(app)).statusCode === 200)
  let remaining: number | undefined
  await until('it tells what is left', async () => {
    remaining = (await app.rateLimiter.status('lone'))?.policies[0]?.remaining
    return remaining !== undefined
  })
  await freeze(server)
  t.strictSame(await statuses(app, 3), [500, 500, 500])
  server.signal('SIGCONT')
  await until('Redis answers, and nothing was charged', async () => {
    const left = (await app.rateLimiter.status('lone'))?.policies[0]?.remaining
    return left === remaining
  })
})

t.test('a place taken for somebody who no longer waits is given back', async t => {
  const server = await startRedis(t)
  const redis = clientOf(t, server)
  await until('the client is ready', async () => redis.status === 'ready')
  const options = {
    redis,
    nameSpace: 'gone:',
    max: 10,
    timeWindow: '1 hour',
    storeTimeout: 80,
    concurrency: { max: 1 },
  }
  const app = await limited(t, options)
  await freeze(server)
  // The first call of all: nothing is known of the clock yet, so it cannot say until when it may run.
  t.equal((await ask(app)).statusCode, 500)
  server.signal('SIGCONT')
  await until('it ran', async () => (await app.rateLimiter.status('lone'))?.policies[0]?.remaining === 9)
  await until('its place is free', async () => (await app.rateLimiter.status('lone'))?.policies[1]?.remaining === 1)
})

t.test('the clock of Redis may jump: the next check learns it, and is answered', async t => {
  const { RedisClock } = await import('../../plugin/src/stores/redis/clock.js')
  const clock = new RedisClock()
  t.equal(clock.latest(100), 0, 'nothing is known at first')
  clock.observe(5_000_000, 10, 12, false)
  const latest = clock.latest(112)
  t.equal(latest, 5_100_000, 'never ahead of the clock')
  clock.observe(5_900_000, 13, 23, false)
  t.equal(clock.latest(112), latest, 'a slower answer tells less')
  clock.observe(35_000_000, 20, 25, true)
  t.ok(clock.latest(125) > 35_000_000, 'unless the last estimate was wrong')
  clock.observe(36_000_000, 1100, 1130, false)
  t.ok(clock.latest(1230) < 36_200_000, 'or the sample is old')
})

t.test('a check that runs too late by what was known of the clock is asked again, once for each jump', async t => {
  const server = await startRedis(t)
  const redis = clientOf(t, server)
  await until('the client is ready', async () => redis.status === 'ready')
  const app = await limited(t, { redis, nameSpace: 'jump:', max: 3, timeWindow: '1 hour', storeTimeout: 5000 })
  t.equal((await ask(app)).statusCode, 200)
  // As if the server's clock had jumped ahead: what is sent says an earlier latest time.
  const send = redis.evalsha.bind(redis) as (...args: unknown[]) => Promise<unknown>
  let calls = 0
  redis.evalsha = (async (sha: string, keys: number, ...args: (string | number)[]) => {
    if (++calls === 1) args[keys] = 1
    return send(sha, keys, ...args)
  }) as never
  t.equal((await ask(app)).statusCode, 200)
  t.equal(calls, 2)
  t.equal((await app.rateLimiter.status('lone'))?.policies[0]?.remaining, 1, 'it was charged once')
})

t.test('a refund that runs too late by what was known of the clock is asked again, and happens once', async t => {
  const redis = redisClient(t)
  const app = await limited(t, { ...inRedis(t), redis, max: 5, timeWindow: '1 hour' })
  t.strictSame(await statuses(app, 3), [200, 200, 200])
  // Redis then has the script, and one call is enough.
  await app.rateLimiter.refund('other', 1)
  // As if the server's clock had jumped ahead: what is sent says an earlier latest time.
  const send = redis.evalsha.bind(redis) as (...args: unknown[]) => Promise<unknown>
  let calls = 0
  redis.evalsha = (async (sha: string, keys: number, ...args: (string | number)[]) => {
    if (++calls === 1) args[keys] = 1
    return send(sha, keys, ...args)
  }) as never
  await app.rateLimiter.refund('lone', 2)
  t.equal(calls, 2)
  t.equal((await app.rateLimiter.status('lone'))?.policies[0]?.remaining, 4)
})

t.test('a reset or a block that runs too late by what was known of the clock is asked again', async t => {
  const redis = redisClient(t)
  const app = await limited(t, { ...inRedis(t), redis, max: 2, timeWindow: '1 hour' })
  t.strictSame(await statuses(app, 3), [200, 200, 429])
  // Redis then has the scripts, and one call is enough.
  await app.rateLimiter.reset('other')
  await app.rateLimiter.block('other', '1 hour')
  // As if the server's clock had jumped ahead: what is sent says an earlier latest time.
  const send = redis.evalsha.bind(redis) as (...args: unknown[]) => Promise<unknown>
  let isNext = false
  redis.evalsha = (async (sha: string, keys: number, ...args: (string | number)[]) => {
    if (isNext) args[keys] = 1
    isNext = false
    return send(sha, keys, ...args)
  }) as never
  isNext = true
  await app.rateLimiter.reset('lone')
  t.strictSame(await statuses(app, 1), [200])
  isNext = true
  await app.rateLimiter.block('lone', '1 hour')
  t.strictSame(await statuses(app, 1), [429])
})

t.test('a reset as the first call of all, which Redis does not answer in time, does not happen later', async t => {
  const server = await startRedis(t)
  const options = { nameSpace: 'reset:', max: 5, timeWindow: '1 hour' }
  const app = await limited(t, { ...options, redis: clientOf(t, server), storeTimeout: 20_000 })
  t.strictSame(await statuses(app, 2), [200, 200])
  const redis = clientOf(t, server)
  await until('the client is ready', async () => redis.status === 'ready')
  const fresh = await limited(t, { ...options, redis, storeTimeout: 60 })
  await freeze(server)
  await t.rejects(fresh.rateLimiter.reset('lone'), { code: 'ML_RATE_STORE_UNAVAILABLE' })
  server.signal('SIGCONT')
  await redis.ping()
  t.equal((await app.rateLimiter.status('lone'))?.policies[0]?.remaining, 3)
})

t.test('a script that Redis has lost is sent again, and no request fails', async t => {
  const shared = inRedis(t)
  const app = await limited(t, { ...shared, max: 100 })
  const redis = redisClient(t)
  for (let round = 0; round < 3; round++) {
    await redis.script('FLUSH')
    t.strictSame(await statuses(app, 2), [200, 200])
    await redis.script('FLUSH')
    await app.rateLimiter.refund('lone', 1)
  }
  t.equal((await app.rateLimiter.status('lone'))?.policies[0]?.remaining, 97)
})

t.test('a client that was closed fails at once, with its own message', async t => {
  const redis = redisClient(t)
  await redis.ping()
  const app = await limited(t, { redis, nameSpace: 'closed:', max: 2 })
  await redis.quit()
  await until('the client has ended', async () => redis.status === 'end')
  const { statusCode, json } = await ask(app)
  t.strictSame([statusCode, json().message], [500, 'Connection is closed.'])
  await t.rejects(app.rateLimiter.refund('lone', 1), { code: 'ML_RATE_STORE_UNAVAILABLE' })
})

t.test('a client that connects late is waited for, and one that connects lazily is woken', async t => {
  const server = await startRedis(t)
  const lazy = new Redis({ port: server.port, host: '127.0.0.1', lazyConnect: true })
  t.teardown(() => lazy.disconnect())
  const app = await limited(t, { redis: lazy, nameSpace: 'lazy:', max: 30, storeTimeout: 5000 })
  const first = ask(app)
  await new Promise(resolve => setImmediate(resolve))
  const crowd = await Promise.all([first, ...Array.from({ length: 49 }, () => ask(app))])
  t.equal(crowd.filter(({ statusCode }) => statusCode === 200).length, 30)
})

t.test('closing the app answers whoever still waits for a connection', async t => {
  const app: App = await limited(t, { redis: nowhere(t), max: 1, storeTimeout: 60_000 })
  const waiting = app.rateLimiter.status('lone')
  await new Promise(resolve => setImmediate(resolve))
  await app.close()
  await t.rejects(waiting, { message: 'Connection is closed.' })
})

t.test('the errors of the store can be told apart', async t => {
  t.match(new StoreTimeout(5), { code: 'ML_RATE_STORE_TIMEOUT', statusCode: 500 })
  t.match(new StoreUnavailable(), { code: 'ML_RATE_STORE_UNAVAILABLE', statusCode: 503 })
})

t.test('a refund that Redis does not answer is given up', async t => {
  const server = await startRedis(t)
  const redis = clientOf(t, server)
  await until('the client is ready', async () => redis.status === 'ready')
  const app = await limited(t, { redis, nameSpace: 'slow:', max: 1, storeTimeout: 50 })
  await freeze(server)
  await t.rejects(app.rateLimiter.refund('lone', 1), { code: 'ML_RATE_STORE_UNAVAILABLE' })
  await t.rejects(app.rateLimiter.reset('lone'), { code: 'ML_RATE_STORE_UNAVAILABLE' })
  server.signal('SIGCONT')
})
