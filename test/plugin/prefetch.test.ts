import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { ask, limited, redisClient, statuses } from '../support/plugin.js'

/** The option `prefetch`: quota of busy keys is taken ahead, and spent without asking Redis. */
let spaces = 0
/** In a name space of its own. Nothing here is about time, so a busy machine may take its own. */
const patient = () => ({ nameSpace: `ahead:${process.pid}:${spaces++}:`, storeTimeout: 20_000 })

/** The operation of a script call that takes quota ahead; see check.lua. */
const GRANT = 3

/** Counts the script calls that the client sends. */
function counted(redis: ReturnType<typeof redisClient>): () => number {
  let calls = 0
  const send = redis.evalsha.bind(redis) as (...args: unknown[]) => unknown
  redis.evalsha = ((...args: unknown[]) => {
    calls++
    return send(...args)
  }) as never
  return () => calls
}

t.test('by default a busy client is answered without a trip to Redis for most of its requests', async t => {
  const redis = redisClient(t)
  const calls = counted(redis)
  const app = await limited(t, { redis, ...patient(), max: 100_000, timeWindow: '1 minute' })
  const remaining: number[] = []
  for (let index = 0; index < 300; index++) {
    const { headers, statusCode } = await ask(app)
    if (statusCode !== 200) t.fail(`answered ${statusCode}`)
    remaining.push(Number(headers['x-ratelimit-remaining']))
  }
  t.ok(calls() < 150, `${calls()} calls`)
  t.strictSame(
    remaining,
    remaining.map((_, index) => 99_999 - index),
    'and remaining falls by one with each',
  )
})

t.test('prefetch: false asks Redis for each request', async t => {
  const redis = redisClient(t)
  const calls = counted(redis)
  const app = await limited(t, { redis, ...patient(), max: 100_000, prefetch: false })
  await statuses(app, 100)
  t.ok(calls() >= 100, `${calls()} calls`)
})

t.test('a route may switch it off', async t => {
  const redis = redisClient(t)
  const app = await limited(t, { redis, ...patient(), max: 100_000, timeWindow: '1 minute' }, app => {
    app.get('/each', { config: { rateLimit: { prefetch: false } } }, async () => 'ok')
  })
  const calls = counted(redis)
  await statuses(app, 60, '/each')
  t.ok(calls() >= 60, `${calls()} calls`)
})

t.test('two replicas give a client its quota together, to the unit', async t => {
  const options = { ...patient(), max: 600, timeWindow: '1 hour', prefetch: true, denyMemory: 0 }
  const apps = [
    await limited(t, { ...options, redis: redisClient(t) }),
    await limited(t, { ...options, redis: redisClient(t) }),
  ]
  // Until both deny: what one of them holds comes back within a second.
  let admitted = 0
  for (const began = performance.now(); admitted < 600 && performance.now() - began < 30_000; ) {
    for (const app of apps) admitted += (await statuses(app, 5)).filter(code => code === 200).length
  }
  t.equal(admitted, 600)
  for (const app of apps) t.strictSame(await statuses(app, 3), [429, 429, 429])
})

t.test('status tells what is out, and counts it as still to be had', async t => {
  const redis = redisClient(t)
  const app = await limited(t, {
    redis,
    ...patient(),
    max: 100_000,
    timeWindow: '1 minute',
    keyGenerator: () => 'ann',
  })
  let out = 0
  for (let asked = 1; out === 0 && asked < 1000; asked++) {
    await ask(app)
    const status = await app.rateLimiter.status('ann')
    t.equal(status?.policies[0]?.remaining, 100_000 - asked)
    out = status?.policies[0]?.prefetched ?? 0
    if (out > 0) t.ok((status?.policies[0]?.ahead ?? 0) >= out)
  }
  t.ok(out > 0)
})

t.test('a request that is answered ahead can be refunded', async t => {
  const redis = redisClient(t)
  const app = await limited(
    t,
    { redis, ...patient(), max: 100_000, timeWindow: '1 minute', keyGenerator: () => 'ann' },
    app => {
      app.get('/back', async request => {
        await request.rateLimit?.refund()
        return 'ok'
      })
    },
  )
  await statuses(app, 50, '/back')
  t.equal((await app.rateLimiter.status('ann'))?.policies[0]?.remaining, 100_000)
})

t.test('nothing is taken ahead of a group in which a denial costs a penalty: no client is blocked for it', async t => {
  const group = { groupId: 'g', max: 300, timeWindow: '100 seconds' }
  const app = await limited(t, { redis: redisClient(t), ...patient(), global: false }, app => {
    app.get('/', { config: { rateLimit: group } }, async () => 'ok')
    app.get('/rest', { config: { rateLimit: { ...group, cost: 240, continueExceeding: true } } }, async () => 'ok')
  })
  await statuses(app, 60)
  t.strictSame(await statuses(app, 1, '/rest'), [200])
})

t.test(
  'an app that closes has given back what it took ahead, also where its client is closed before the plugin',
  async t => {
    const options = { ...patient(), max: 1_000_000, timeWindow: '1 hour' }
    const redis = redisClient(t)
    const app = await limited(t, { ...options, redis }, app => {
      app.get('/', async () => 'ok')
      app.addHook('onClose', () => redis.quit())
    })
    let asked = 0
    for (let ahead = 0; ahead === 0; ahead = (await app.rateLimiter.status('lone'))?.policies[0]?.prefetched ?? 0) {
      await statuses(app, 50)
      asked += 50
    }
    // The next grant is on its way to the app when that closes.
    const send = redis.evalsha.bind(redis) as (...args: unknown[]) => Promise<unknown>
    let waiting = 0
    redis.evalsha = (async (...args: unknown[]) => {
      const [, keys, ...rest] = args as [string, number, ...unknown[]]
      if (Number(rest[keys + 3]) !== GRANT) return send(...args)
      waiting++
      const reply = await send(...args)
      await delay(50)
      waiting--
      return reply
    }) as typeof redis.evalsha
    while (waiting === 0) {
      await statuses(app, 50)
      asked += 50
      await new Promise(resolve => setImmediate(resolve))
    }
    await app.close()
    const other = await limited(t, { ...options, redis: redisClient(t) })
    t.match((await other.rateLimiter.status('lone'))?.policies[0], { remaining: 1_000_000 - asked })
  },
)
