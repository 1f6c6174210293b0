import Fastify, { type FastifyInstance } from 'fastify'
import rateLimit, { type CreateRateLimitOptions, type RateLimitPluginOptions } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { ask, inRedis, limited, redisClient, STORES, statuses } from '../support/plugin.js'

/** An app whose warnings are kept; `make` makes limiters by hand. */
async function logged(t: Test, options: RateLimitPluginOptions, make: (app: FastifyInstance) => void) {
  const warnings: string[] = []
  const stream = { write: (line: string) => void warnings.push(JSON.parse(line).msg) }
  const app = Fastify({ logger: { level: 'warn', stream } }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(rateLimit, {
    global: false,
    max: 1,
    timeWindow: '1 minute',
    keyGenerator: () => 'lone',
    ...options,
  })
  make(app)
  await app.ready()
  return { app, warnings }
}

for (const { name, options } of STORES) {
  t.test(
    `${name}: createRateLimit works where the registration limits requests in flight, and takes no permit`,
    async t => {
      const app = await limited(t, { ...options(t), max: 3, timeWindow: '1 minute', concurrency: { max: 1 } }, app => {
        const check = app.createRateLimit()
        const own = app.createRateLimit({ max: 5, concurrency: null })
        app.get('/', async request => {
          const counts = [await check(request), await check(request), await own(request), await own(request)]
          return counts.map(count => ('remaining' in count ? [count.isExceeded, count.remaining] : 'listed'))
        })
      })
      t.strictSame((await ask(app)).json(), [
        [false, 2],
        [false, 1],
        [false, 4],
        [false, 3],
      ])
      t.equal((await ask(app)).statusCode, 200, 'the permit of the route was given back')
    },
  )
}

t.test('options that need the response are refused where they are given to createRateLimit', async t => {
  const app = await limited(t, { concurrency: { max: 1 }, refundOn: () => false })
  for (const [option, value] of [
    ['concurrency', { max: 2 }],
    ['refundOn', () => true],
  ] as const) {
    t.throws(() => app.createRateLimit({ [option]: value }), {
      code: 'ML_RATE_INVALID_OPTION',
      message: `option '${option}' is given to createRateLimit(); allowed: only in rateLimit(), which sees the response end`,
    })
  }
  t.doesNotThrow(() => app.createRateLimit())
})

t.test('a limiter with a name finds its counts again, whatever else was made before', async t => {
  const shared = inRedis(t)
  const release = (before: number) =>
    logged(t, shared, app => {
      for (let index = 0; index < before; index++) app.createRateLimit({ name: `other ${index}`, max: 9 })
      const check = app.createRateLimit({ name: 'logins', max: 2 })
      app.get('/created', async request => (await check(request)) as object)
      app.get('/attached', { preHandler: app.rateLimit({ name: 'logins', max: 1 }) }, async () => 'ok')
      app.get('/group', { preHandler: app.rateLimit({ groupId: 'logins', max: 1 }) }, async () => 'ok')
      app.get('/logins', { config: { rateLimit: { max: 1 } } }, async () => 'ok')
    })
  const remaining = async (app: FastifyInstance) => (await ask(app, '/created')).json().remaining
  const first = (await release(0)).app
  t.equal(await remaining(first), 1)
  for (const url of ['/attached', '/group', '/logins'])
    t.strictSame(await statuses(first, 1, url), [200], 'each for itself')
  const second = (await release(3)).app
  t.equal(await remaining(second), 0)
  t.match((await ask(second, '/created')).json(), { isExceeded: true })
  for (const url of ['/attached', '/group', '/logins']) t.strictSame(await statuses(second, 1, url), [429])
})

t.test('a limiter that is made again with its name in the same app goes on with its count', async t => {
  const { app } = await logged(t, {}, app => {
    let check = app.createRateLimit({ name: 'a', max: 2 })
    app.get('/', async request => {
      const { isExceeded } = (await check(request)) as { isExceeded: boolean }
      check = app.createRateLimit({ name: 'a', max: 2 })
      return isExceeded
    })
  })
  t.strictSame([(await ask(app)).body, (await ask(app)).body, (await ask(app)).body], ['false', 'false', 'true'])
})

t.test(
  'in process, one name is one count also with a cache of its own, and so are GET and HEAD of a route',
  async t => {
    const app = await limited(t, { global: false }, app => {
      const make = () => app.createRateLimit({ name: 'a', max: 1, cache: 10 })
      const [one, other, nameless] = [make(), make(), app.createRateLimit({ max: 1, cache: 10 })]
      app.get('/by-hand', async request => {
        const answers = [await one(request), await other(request), await nameless(request)]
        return answers.map(answer => !answer.isAllowed && answer.isExceeded)
      })
      const own = () => ({ config: { rateLimit: { max: 1, cache: 10 } } })
      app.get('/', { ...own(), exposeHeadRoute: false }, async () => 'ok')
      app.head('/', own(), async (_request, reply) => reply.send())
      app.get('/other', own(), async () => 'ok')
    })
    t.strictSame((await ask(app, '/by-hand')).json(), [false, true, false])
    t.strictSame([...(await statuses(app, 1)), ...(await statuses(app, 1, { method: 'HEAD', url: '/' }))], [200, 429])
    t.strictSame(await statuses(app, 2, '/other'), [200, 429])
  },
)

t.test('names, groups, routes and the order of creation are never taken for one another', async t => {
  const made: CreateRateLimitOptions[] = [{}, {}, { name: '0' }, { name: '1' }, { name: 'created' }, { groupId: '0' }]
  for (const make of ['createRateLimit', 'rateLimit'] as const) {
    const keys = new Set<string>()
    const shared = inRedis(t)
    const { app } = await logged(t, shared, app => {
      for (const [index, options] of made.entries()) {
        const limiter = app[make]({ ...options, max: 1 })
        app.get(`/${index}`, async (request, reply) => {
          await (limiter as (...args: unknown[]) => Promise<unknown>)(request, reply)
          return 'ok'
        })
      }
      app.get('/created', { config: { rateLimit: { max: 1 } } }, async () => 'ok')
    })
    for (const index of made.keys()) t.strictSame(await statuses(app, 1, `/${index}`), [200])
    t.strictSame(await statuses(app, 1, '/created'), [200])
    for (const key of await redisClient(t).keys(`${shared.nameSpace}*`)) keys.add(key)
    t.equal(keys.size, made.length + 1, make)
  }
})

t.test('with Redis, limiters without name and group are warned of once', async t => {
  const make = (app: FastifyInstance) => {
    app.createRateLimit({ max: 5 })
    app.rateLimit({ max: 6 })
    app.createRateLimit()
  }
  const named = (app: FastifyInstance) => {
    app.createRateLimit({ name: 'one', max: 5 })
    app.rateLimit({ groupId: 'two', max: 6 })
    app.rateLimit()
  }
  class Own {
    incr() {}
    child() {
      return this
    }
  }
  t.match((await logged(t, inRedis(t), make)).warnings, [/order .* 'name'/])
  t.strictSame((await logged(t, inRedis(t), named)).warnings, [])
  t.strictSame((await logged(t, {}, make)).warnings, [], 'in process nothing is found again')
  t.strictSame((await logged(t, inRedis(t), app => void app.createRateLimit({ store: Own }))).warnings, [])
})

t.test('a name is refused where it names nothing', async t => {
  const app = await limited(t, {})
  t.throws(() => app.createRateLimit({ name: '' }), { message: /option 'name' is ''/ })
  t.throws(() => app.rateLimit({ name: 'a', groupId: 'b' }), { message: /'name' is combined with 'groupId'/ })
})
