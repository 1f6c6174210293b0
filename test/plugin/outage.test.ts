/** `onStoreError` covers everything that is asked of the store, and its words reach no client. */
import type { RateLimitPluginOptions } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { type App, ask, limited, redisClient, statuses } from '../support/plugin.js'
import { startRedis, until } from '../support/redis-fleet.js'

const SECRET = 'ERR secret words of the store, user=ann host=10.1.2.3'
const MODES = ['throw', 'deny', 'allow', 'local'] as const

/** An app on a Redis whose calls fail while `state.fails`. */
async function failing(
  t: Test,
  options: RateLimitPluginOptions,
  routes?: (app: App, state: { fails: boolean }) => void,
) {
  const redis = redisClient(t)
  await redis.ping()
  const state = { fails: false }
  for (const name of ['evalsha', 'eval'] as const) {
    const send = redis[name].bind(redis) as (...args: unknown[]) => Promise<unknown>
    redis[name] = ((...args: unknown[]) => (state.fails ? Promise.reject(new Error(SECRET)) : send(...args))) as never
  }
  const nameSpace = `outage:${process.pid}.${Math.random()}:`
  const all = { redis, nameSpace, timeWindow: '1 hour', storeTimeout: 20_000, ...options } as const
  const app = await limited(t, all, app => (routes ? routes(app, state) : app.get('/', async () => 'ok')))
  return { app, state }
}

/** Redis is asked again, which may take a probe. */
async function counts(app: App, left: number, what: string): Promise<void> {
  await until(what, async () => (await remaining(app)) === left)
}

const remaining = async (app: App) => (await app.rateLimiter.status('lone'))?.policies[0]?.remaining

for (const onStoreError of MODES) {
  t.test(`'${onStoreError}': a handler that charges while the store fails`, async t => {
    const { app, state } = await failing(t, { max: 10, onStoreError }, (app, state) => {
      app.get('/', async request => {
        state.fails = true
        await request.rateLimit?.charge(3)
        return 'ok'
      })
    })
    const { statusCode, payload } = await ask(app)
    t.equal(statusCode, { throw: 500, deny: 503, allow: 200, local: 200 }[onStoreError])
    t.notMatch(payload, /secret|10\.1\.2\.3/)
    if (onStoreError === 'throw') t.equal(JSON.parse(payload).code, 'ML_RATE_STORE_FAILED')
    if (onStoreError === 'deny') t.equal(JSON.parse(payload).code, 'ML_RATE_STORE_UNAVAILABLE')
    if (onStoreError === 'local')
      t.equal(await remaining(app), 6, 'the local count knows of one request and its charge')
    state.fails = false
    await counts(
      app,
      onStoreError === 'local' ? 6 : 9,
      "Redis was charged the request and, with 'local', is told of the charge",
    )
  })

  t.test(`'${onStoreError}': status, reset, refund and block while the store fails`, async t => {
    const { app, state } = await failing(t, { max: 10, onStoreError })
    t.strictSame(await statuses(app, 4), [200, 200, 200, 200])
    state.fails = true
    if (onStoreError === 'allow') t.equal(await app.rateLimiter.status('lone'), null)
    else if (onStoreError === 'local') t.equal(await remaining(app), 6)
    else {
      const code = onStoreError === 'throw' ? 'ML_RATE_STORE_FAILED' : 'ML_RATE_STORE_UNAVAILABLE'
      await t.rejects(app.rateLimiter.status('lone'), { code })
    }
    for (const act of [
      () => app.rateLimiter.reset('lone'),
      () => app.rateLimiter.refund('lone', 1),
      () => app.rateLimiter.block('lone', '1 hour'),
    ]) {
      const error = await act().then(
        () => undefined,
        (reason: Error & { code?: string }) => reason,
      )
      t.equal(error?.code, 'ML_RATE_STORE_UNAVAILABLE')
      t.notMatch(error?.message, /secret/)
      t.match(error?.cause, { message: /secret/ }, 'whoever asks for the reason finds it')
    }
    if (onStoreError === 'local') t.equal(await remaining(app), 6, 'not in the process either')
    state.fails = false
    await counts(app, 6, 'neither happened')
    // On a slow machine the failures have spanned long enough for the store to be left alone for a while.
    await until('the store is asked again', () => app.rateLimiter.refund('lone', 1).then(() => true))
    t.equal(await remaining(app), 7)
  })

  t.test(`'${onStoreError}': a request gives back what it was charged while the store fails`, async t => {
    const { app, state } = await failing(t, { max: 10, onStoreError }, (app, state) => {
      app.get('/', async request => {
        state.fails = true
        await request.rateLimit?.refund()
        return 'ok'
      })
    })
    const { statusCode, payload } = await ask(app)
    t.equal(statusCode, { throw: 500, deny: 503, allow: 200, local: 200 }[onStoreError])
    t.notMatch(payload, /secret/)
    state.fails = false
    await counts(app, 9, 'nothing was given back')
  })
}

t.test("'local': charges and refunds of requests that are counted in the process are told to Redis later", async t => {
  const { app, state } = await failing(t, { max: 10, onStoreError: 'local' }, app => {
    app.get('/charge', async request => {
      await request.rateLimit?.charge(3)
      return 'ok'
    })
    app.get('/refund', async request => {
      await request.rateLimit?.refund()
      return 'ok'
    })
  })
  state.fails = true
  t.strictSame(await statuses(app, 4, '/refund'), [200, 200, 200, 200])
  t.equal(await remaining(app), 10, 'what was given back is there')
  t.strictSame(await statuses(app, 4, '/charge'), [200, 200, 200, 429], '4, 8 and 12 of 10')
  state.fails = false
  await counts(app, 0, 'Redis knows of the 12')
})

t.test("'local': what was used is known when Redis is lost, whatever windows have come and gone since", async t => {
  let windowMs = 3_600_000
  const { app, state } = await failing(t, { max: 3, timeWindow: () => windowMs, onStoreError: 'local' })
  t.strictSame(await statuses(app, 2), [200, 200])
  for (windowMs = 1; windowMs <= 1100; windowMs++) await ask(app)
  windowMs = 3_600_000
  state.fails = true
  t.strictSame(await statuses(app, 2), [200, 429])
})

t.test("'throw' and 'deny': no text of the store reaches a client, by whatever way", async t => {
  for (const onStoreError of ['throw', 'deny'] as const) {
    const { app, state } = await failing(t, { max: 10, onStoreError, concurrency: { max: 5 }, ban: 3 }, app => {
      app.get('/', async () => 'ok')
      app.get(
        '/by-hand',
        { config: { rateLimit: false }, preHandler: app.rateLimit({ name: 'hand' }) },
        async () => 'ok',
      )
      const asked = app.createRateLimit({ name: 'asked', concurrency: null })
      app.get('/asked', { config: { rateLimit: false } }, async request => asked(request))
      app.get('/status', { config: { rateLimit: false } }, async () => app.rateLimiter.status('lone'))
      app.get('/reset', { config: { rateLimit: false } }, async () => app.rateLimiter.reset('lone'))
    })
    state.fails = true
    for (const url of ['/', '/by-hand', '/asked', '/status', '/reset']) {
      const { statusCode, payload, headers } = await ask(app, url)
      t.ok(statusCode === 500 || statusCode === 503, `${onStoreError} ${url}: ${statusCode}`)
      t.notMatch(payload + JSON.stringify(headers), /secret|10\.1\.2\.3/, url)
    }
  }
})

t.test('places that are held when Redis is lost count for as long as they are held', async t => {
  const server = await startRedis(t)
  const redis = server.client()
  let open = () => {}
  const gate = new Promise<void>(resolve => {
    open = resolve
  })
  let running = 0
  const options: RateLimitPluginOptions = {
    redis,
    nameSpace: 'held:',
    max: 1000,
    storeTimeout: 300,
    onStoreError: 'local',
    concurrency: { max: 3 },
  }
  const app = await limited(t, options, app => {
    app.get('/', async () => {
      running++
      await gate
      return 'ok'
    })
  })
  await until('Redis is asked', async () => (await app.rateLimiter.status('lone')) !== null && redis.status === 'ready')
  const first = [ask(app), ask(app)]
  await until('two run', async () => running === 2)
  await server.kill()
  const second = [ask(app), ask(app), ask(app)]
  const answered: number[] = []
  for (const each of second) void each.then(({ statusCode }) => answered.push(statusCode))
  await until('a third runs, and the others are answered', async () => running === 3 && answered.length === 2)
  t.strictSame(answered, [429, 429])
  open()
  const all = (await Promise.all([...first, ...second])).map(({ statusCode }) => statusCode)
  t.strictSame(all.sort(), [200, 200, 200, 429, 429])
  t.equal(running, 3)
  await until('the places are free', async () => (await app.rateLimiter.status('lone'))?.policies[1]?.remaining === 3)
})

t.test('a reset is one call, however many limiters there are', async t => {
  const redis = redisClient(t)
  const app = await limited(
    t,
    { redis, nameSpace: `reset:${process.pid}:`, storeTimeout: 20_000, max: 3, ban: 2 },
    app => {
      for (let index = 0; index < 200; index++) {
        app.get(`/r${index}`, { config: { rateLimit: { max: 1, concurrency: { max: 4 } } } }, async () => 'ok')
      }
      app.get('/', async () => 'ok')
    },
  )
  await app.rateLimiter.reset('nobody')
  const urls = ['/', '/r0', '/r77', '/r199']
  for (const url of urls.slice(1)) t.strictSame(await statuses(app, 2, url), [200, 429])
  let sent = 0
  const send = redis.sendCommand.bind(redis)
  redis.sendCommand = ((...args: Parameters<typeof send>) => {
    sent++
    return send(...args)
  }) as typeof redis.sendCommand
  await app.rateLimiter.reset('lone')
  t.equal(sent, 1)
  for (const url of urls) t.equal((await ask(app, url)).statusCode, 200)
})
