/** `block`: a key is denied for a time, whatever it has used. */
import { randomUUID } from 'node:crypto'
import { createLimiter } from 'ml-api-rate-limiter/limiter'
import t, { type Test } from 'tap'
import { type App, ask, limited, redisClient, STORES, statuses } from '../support/plugin.js'
import { until } from '../support/redis-fleet.js'

const HOUR = 3_600_000
const policyOf = async (app: App, key = 'lone') => (await app.rateLimiter.status(key))?.policies[0]

/** Whether a time in ms is one that began as `whole` during this test. */
function isNear(t: Test, left: number | undefined, whole: number): void {
  t.ok(left !== undefined && left <= whole && left > whole - 120_000, `${left} of ${whole}`)
}

for (const { name, options } of STORES) {
  t.test(`${name}: a blocked key is denied for as long as the block lasts, and others are not`, async t => {
    const app = await limited(t, { ...options(t), max: 10, timeWindow: '1 minute' })
    t.strictSame(await statuses(app, 1), [200])
    await app.rateLimiter.block('lone', '1 hour')
    const denied = await ask(app)
    t.equal(denied.statusCode, 429)
    isNear(t, Number(denied.headers['retry-after']) * 1000, HOUR)
    t.equal(denied.headers['x-ratelimit-remaining'], '0')
    t.match(denied.headers.ratelimit, /^"default";r=0;t=3\d\d\d$/)
    const policy = await policyOf(app)
    t.equal(policy?.remaining, 0)
    isNear(t, policy?.reset, HOUR)
    isNear(t, policy?.blocked, HOUR)
    t.strictSame(await statuses(app, 1, { url: '/', headers: { 'x-key': 'other' } }), [200])
  })

  t.test(`${name}: each denial of a blocked key tells of the block, whoever remembers it`, async t => {
    const windows = [
      { name: 'burst', max: 10, timeWindow: '1 minute' },
      { name: 'daily', max: 10, timeWindow: 'calendar day' },
    ]
    const app = await limited(t, { ...options(t), policies: windows })
    await app.rateLimiter.block('lone', '40 days')
    for (let index = 0; index < 3; index++) {
      const { statusCode, headers } = await ask(app)
      t.equal(statusCode, 429)
      isNear(t, Number(headers['retry-after']) * 1000, 40 * 24 * HOUR)
      t.match(headers.ratelimit, /^"burst";r=0;t=34\d{5}, "daily";r=0;t=34\d{5}$/)
    }
  })

  t.test(`${name}: the end of a block leaves the usage as it was`, async t => {
    const app = await limited(t, { ...options(t), max: 10, timeWindow: '1 hour' })
    await statuses(app, 4)
    await app.rateLimiter.block('lone', 50)
    await until('the block is over', async () => (await policyOf(app))?.blocked === undefined)
    t.equal((await policyOf(app))?.remaining, 6)
    t.strictSame(await statuses(app, 1), [200])
    t.match(await policyOf(app, 'fresh'), { remaining: 10, reset: 0 })
    await app.rateLimiter.block('fresh', 1)
    await until('the block is over', async () => (await policyOf(app, 'fresh'))?.blocked === undefined)
    t.match(await policyOf(app, 'fresh'), { remaining: 10, reset: 0 }, 'nothing was counted')
  })

  t.test(`${name}: another block replaces the one before, and reset ends it`, async t => {
    const app = await limited(t, { ...options(t), max: 10, timeWindow: '1 minute' })
    await app.rateLimiter.block('lone', '2 hours')
    await app.rateLimiter.block('lone', HOUR)
    isNear(t, (await policyOf(app))?.blocked, HOUR)
    await app.rateLimiter.block('lone', '1 day')
    isNear(t, (await policyOf(app))?.blocked, 24 * HOUR)
    t.strictSame(await statuses(app, 1), [429])
    await app.rateLimiter.reset('lone')
    t.match(await policyOf(app), { remaining: 10, blocked: undefined })
    t.strictSame(await statuses(app, 2), [200, 200])
  })

  t.test(`${name}: charges and refunds of a blocked key are counted, and do not end its block`, async t => {
    const app = await limited(t, { ...options(t), max: 10, timeWindow: '1 minute' }, app => {
      app.get('/', async request => {
        await app.rateLimiter.block('lone', HOUR)
        await request.rateLimit?.charge(3)
        await request.rateLimit?.refund()
      })
    })
    t.equal((await ask(app)).statusCode, 200)
    isNear(t, (await policyOf(app))?.blocked, HOUR)
    await app.rateLimiter.refund('lone', 10)
    isNear(t, (await policyOf(app))?.blocked, HOUR)
    t.strictSame(await statuses(app, 1), [429])
  })

  t.test(`${name}: a block holds for every route and limiter, however its window is given`, async t => {
    let windowMs = 60_000
    const app = await limited(t, { ...options(t), max: 10, timeWindow: '1 minute' }, app => {
      const config = (rateLimit: object) => ({ config: { rateLimit } })
      app.get('/', async () => 'ok')
      app.get('/own', config({ max: 5 }), async () => 'ok')
      app.get('/function', config({ timeWindow: () => windowMs }), async () => 'ok')
      app.get('/one', config({ groupId: 'group', timeWindow: '1 minute' }), async () => 'ok')
      app.get('/two', config({ groupId: 'group', timeWindow: '1 hour' }), async () => 'ok')
      app.get(
        '/budget',
        config({ policies: [{ name: 'daily', max: 5, timeWindow: 'calendar day' }] }),
        async () => 'ok',
      )
      app.get('/hand', { preHandler: app.rateLimit({ max: 5, name: 'hand' }) }, async () => 'ok')
      app.get('/ban', config({ ban: 1 }), async () => 'ok')
      app.get('/longer', config({ exponentialBackoff: true }), async () => 'ok')
    })
    const urls = ['/', '/own', '/function', '/one', '/two', '/budget', '/hand', '/ban', '/longer']
    for (const url of urls) t.strictSame(await statuses(app, 1, url), [200], url)
    await app.rateLimiter.block('lone', '40 days')
    windowMs = 5000
    for (const url of urls) {
      const { statusCode, headers } = await ask(app, url)
      t.equal(statusCode, 429, url)
      isNear(t, Number(headers['retry-after']) * 1000, 40 * 24 * HOUR)
    }
    t.strictSame(await statuses(app, 2, '/ban'), [403, 403], 'its denials count towards a ban')
    await app.rateLimiter.reset('lone')
    for (const url of urls) t.strictSame(await statuses(app, 1, url), [200], url)
  })

  t.test(`${name}: of policies with keys of their own, only those that are named are blocked`, async t => {
    const header = (name: string) => (request: { headers: Record<string, unknown> }) => String(request.headers[name])
    const app = await limited(t, {
      ...options(t),
      policies: [
        { name: 'user', max: 10, timeWindow: '1 minute', keyGenerator: header('x-user') },
        { name: 'tenant', max: 100, timeWindow: '1 minute', keyGenerator: header('x-tenant') },
      ],
    } as never)
    const of = async (user: string, tenant: string) =>
      (await ask(app, { url: '/', headers: { 'x-user': user, 'x-tenant': tenant } })).statusCode
    await app.rateLimiter.block({ tenant: 'acme' }, '1 hour')
    t.equal(await of('ann', 'acme'), 429)
    t.equal(await of('acme', 'other'), 200, 'a user of that name is not')
    t.equal(await of('ann', 'other'), 200)
    await app.rateLimiter.block({ user: 'ann', tenant: 'other' }, '1 hour')
    t.strictSame([await of('ann', 'third'), await of('bob', 'other'), await of('bob', 'third')], [429, 429, 200])
    await t.rejects(app.rateLimiter.block({ account: 'acme' }, '1 hour'), {
      code: 'ML_RATE_INVALID_OPTION',
      message: /'key' is \{ 'account': 'acme' \}; allowed: a string, or an object .* user, tenant/,
    })
  })

  t.test(`${name}: a limiter without requests blocks`, async t => {
    const limiter = createLimiter({ ...(options(t) as object), max: 10, timeWindow: '1 minute' })
    t.teardown(() => limiter.close())
    await limiter.block('ann', '1 hour')
    const { allowed, retryAfterMs } = await limiter.check('ann')
    t.notOk(allowed)
    isNear(t, retryAfterMs, HOUR)
    isNear(t, (await limiter.status('ann'))?.policies[0]?.blocked, HOUR)
    await limiter.block({ default: 'bob' }, 60_000)
    t.notOk((await limiter.check('bob')).allowed)
    await limiter.reset('ann')
    t.ok((await limiter.check('ann')).allowed)
  })

  t.test(`${name}: a duration that is none is refused, and nothing is blocked`, async t => {
    const app = await limited(t, { ...options(t), max: 10 })
    for (const duration of [0, -1, 0.5, Number.NaN, Infinity, '', 'soon', '-1 hour', '5 parsecs', undefined, null, {}])
      await t.rejects(app.rateLimiter.block('lone', duration as never), {
        code: 'ML_RATE_INVALID_OPTION',
        message: /^option 'duration' is .*; allowed: milliseconds ≥ 1, or a duration such as '1 hour'$/,
      })
    t.strictSame(await statuses(app, 1), [200])
  })
}

t.test('every replica denies a key that one has blocked, quota that it took ahead included', async t => {
  const shared = { nameSpace: `block:${randomUUID()}:`, max: 100_000, timeWindow: '1 minute', storeTimeout: 20_000 }
  const apps = [
    await limited(t, { ...shared, redis: redisClient(t) }),
    await limited(t, { ...shared, redis: redisClient(t) }),
  ] as const
  const ahead = async (app: App) => (await policyOf(app))?.prefetched ?? 0
  for (const app of apps)
    await until('quota is taken ahead', async () => (await statuses(app, 20)) && (await ahead(app)) > 0)
  await apps[0].rateLimiter.block('lone', '1 hour')
  t.strictSame(await statuses(apps[0], 2), [429, 429], 'where it was blocked at once')
  await until('elsewhere, once what was taken ahead is over', async () => (await ask(apps[1])).statusCode === 429)
  t.strictSame(await statuses(apps[1], 5), [429, 429, 429, 429, 429])
  await apps[1].rateLimiter.reset('lone')
  t.strictSame(await statuses(apps[1], 1), [200])
  await until('a reset is seen', async () => (await ask(apps[0])).statusCode === 200)
})

t.test('a block outlives the window, and the log that holds it expires with it', async t => {
  const redis = redisClient(t)
  const nameSpace = `block:${randomUUID()}:`
  const app = await limited(t, { redis, nameSpace, max: 10, timeWindow: 1000, storeTimeout: 20_000 })
  await statuses(app, 2)
  await app.rateLimiter.block('lone', HOUR)
  const keys = await redis.keys(`${nameSpace}*`)
  t.equal(keys.length, 1)
  isNear(t, await redis.pttl(keys[0] as string), HOUR + 2)
  await app.rateLimiter.block('lone', 1)
  await until('it is over', async () => (await policyOf(app))?.blocked === undefined)
  t.ok((await redis.pttl(keys[0] as string)) <= 2000)
})

t.test('a block that cannot be written is an error, and blocks nothing', async t => {
  for (const onStoreError of ['throw', 'allow', 'deny', 'local'] as const) {
    const redis = redisClient(t)
    await redis.ping()
    let fails = false
    const send = redis.evalsha.bind(redis) as (...args: unknown[]) => Promise<unknown>
    redis.evalsha = ((...args: unknown[]) => (fails ? Promise.reject(new Error('secret')) : send(...args))) as never
    const nameSpace = `block:${randomUUID()}:`
    const app = await limited(t, { redis, nameSpace, max: 10, storeTimeout: 20_000, onStoreError })
    t.strictSame(await statuses(app, 1), [200])
    fails = true
    await t.rejects(app.rateLimiter.block('lone', '1 hour'), { code: 'ML_RATE_STORE_UNAVAILABLE' }, onStoreError)
    fails = false
    await until('requests pass', async () => (await ask(app)).statusCode === 200)
  }
})

t.test("during an outage a replica with 'local' goes on denying keys that it knows to be blocked", async t => {
  const redis = [redisClient(t), redisClient(t)] as const
  const shared = { nameSpace: `block:${randomUUID()}:`, max: 10, onStoreError: 'local', storeTimeout: 20_000 } as const
  const [one, two] = [
    await limited(t, { ...shared, redis: redis[0] }),
    await limited(t, { ...shared, redis: redis[1] }),
  ]
  await one.rateLimiter.block('lone', '1 hour')
  t.strictSame(await statuses(two, 1), [429])
  await one.rateLimiter.block('other', '1 hour')
  await one.rateLimiter.reset('other')
  t.ok(await two.rateLimiter.status('other'))
  for (const client of redis) client.disconnect()
  for (const app of [one, two]) {
    const denied = await ask(app)
    t.equal(denied.statusCode, 429)
    isNear(t, Number(denied.headers['retry-after']) * 1000, HOUR)
    t.strictSame(await statuses(app, 1, { url: '/', headers: { 'x-key': 'other' } }), [200])
  }
})

t.test('a custom store cannot block, and says so', async t => {
  class Counting {
    incr(_key: string, callback: (error: null, result: { current: number; ttl: number }) => void): void {
      callback(null, { current: 1, ttl: 1000 })
    }
    child(): Counting {
      return this
    }
  }
  const expected = { code: 'ML_RATE_STORE_CANNOT', message: /cannot block a key/ }
  await t.rejects((await limited(t, { store: Counting })).rateLimiter.block('lone', '1 hour'), expected)
  const mixed = await limited(t, {}, app => {
    app.get('/', async () => 'ok')
    app.get('/own', { config: { rateLimit: { store: Counting } } }, async () => 'ok')
  })
  await t.rejects(mixed.rateLimiter.block('lone', '1 hour'), expected)
  t.strictSame(await statuses(mixed, 1), [200], 'and nothing was blocked elsewhere')
})
