import { randomUUID } from 'node:crypto'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit, { type RateLimitPluginOptions } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'

const stores: Record<string, (t: Test) => RateLimitPluginOptions> = {
  'in process': () => ({}),
  'in Redis': t => {
    const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
    t.teardown(() => redis.quit())
    return { redis, storeTimeout: 5000, nameSpace: `peek:${randomUUID()}:` }
  },
}

for (const [where, options] of Object.entries(stores)) {
  t.test(`asked without counting, a limiter says what would become of the request, ${where}`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(rateLimit, { global: false, ...options(t) })
    const attempts = app.createRateLimit({ max: 2, timeWindow: '1 minute' })
    app.post('/login', async (request, reply) => {
      const { isExceeded } = (await attempts(request, { increment: false })) as { isExceeded: boolean }
      if (isExceeded) return reply.code(429).send()
      await attempts(request)
      return reply.code(401).send()
    })
    const statuses: number[] = []
    for (let attempt = 0; attempt < 4; attempt++) {
      statuses.push((await app.inject({ method: 'POST', url: '/login' })).statusCode)
    }
    t.strictSame(statuses, [401, 401, 429, 429], 'two failed logins, and no third')
  })

  t.test(`asked without counting, a limiter goes by the cost of the request, ${where}`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(rateLimit, { global: false, ...options(t) })
    const quota = app.createRateLimit({ max: 5, timeWindow: '1 minute', cost: request => Number(request.headers.cost) })
    app.get('/peek', async request => quota(request, { increment: false }))
    app.get('/', async request => quota(request))
    await app.inject({ url: '/', headers: { cost: '3' } })
    const fits = (await app.inject({ url: '/peek', headers: { cost: '2' } })).json()
    const doesNot = (await app.inject({ url: '/peek', headers: { cost: '3' } })).json()
    t.match(fits, { isExceeded: false, remaining: 2 })
    t.match(doesNot, { isExceeded: true })
    t.match((await app.inject({ url: '/', headers: { cost: '2' } })).json(), { isExceeded: false, remaining: 0 })
  })

  t.test(`a key alone is enough to ask where it stands and to reset it, ${where}`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    const cost = ({ headers }: { headers: Record<string, unknown> }) => Number(headers.cost)
    await app.register(rateLimit, { global: false, ...options(t) })
    const hold = app.rateLimit({ max: 5, timeWindow: '1 minute', cost, keyGenerator: () => 'somebody' })
    app.get('/', { onRequest: hold }, async () => 'ok')
    await app.inject({ url: '/', headers: { cost: '3' } })
    t.match(await hold.status('somebody'), { key: 'somebody', policies: [{ remaining: 2 }] })
    t.match(await hold.status('somebody else'), { policies: [{ remaining: 5 }] })
    await app.rateLimiter.reset('somebody')
    t.match(await hold.status('somebody'), { policies: [{ remaining: 5 }] })
  })

  t.test(`the request itself is enough as well, with its own key and quota, ${where}`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(rateLimit, { global: false, ...options(t) })
    const hold = app.rateLimit({
      ...{ max: ({ headers }) => Number(headers.max), timeWindow: '1 minute' },
      keyGenerator: ({ headers }) => String(headers.who),
    })
    app.get('/', { onRequest: hold }, async request => hold.status(request))
    app.get('/standing', async request => hold.status(request))
    const headers = { who: 'somebody', max: '5' }
    t.match((await app.inject({ url: '/', headers })).json(), { key: 'somebody', policies: [{ remaining: 4 }] })
    t.match((await app.inject({ url: '/standing', headers })).json(), { key: 'somebody', policies: [{ remaining: 4 }] })
    const other = { who: 'another', max: '7' }
    t.match((await app.inject({ url: '/standing', headers: other })).json(), { policies: [{ limit: 7, remaining: 7 }] })
  })

  t.test(`a hook in the callback style gets the denial itself, and waits only for Redis, ${where}`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(rateLimit, { global: false, ...options(t) })
    const hold = app.rateLimit({ max: 1, timeWindow: '1 minute', keyGenerator: () => 'somebody' })
    let waited = false
    app.addHook('onRequest', (request, reply, done) => {
      const denial = hold.check(request, reply)
      waited = denial instanceof Promise
      Promise.resolve(denial).then(settled => done(settled as Error | undefined), done)
    })
    app.get('/', async () => 'ok')
    const first = await app.inject('/')
    t.equal(first.statusCode, 200)
    t.equal(waited, where === 'in Redis')
    t.equal(first.headers['x-ratelimit-remaining'], '0')
    const second = await app.inject('/')
    t.equal(second.statusCode, 429)
    t.match(second.json(), { message: 'Rate limit exceeded, retry in 1 minute' })
    t.equal(second.headers['retry-after'], '60')
  })
}
