import Fastify, { type FastifyInstance } from 'fastify'
import rateLimit, { type RateLimitPluginOptions } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { frozenDate, STORES, statuses } from '../support/plugin.js'

/** An app whose warnings are kept. */
function logged(t: Test): { app: FastifyInstance; warnings: string[] } {
  const warnings: string[] = []
  const stream = {
    write: (line: string) => {
      const { level, msg } = JSON.parse(line)
      if (level === 40) warnings.push(msg)
    },
  }
  const app = Fastify({ logger: { level: 'warn', stream } }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  return { app, warnings }
}

const LIMIT: RateLimitPluginOptions = { max: 2, timeWindow: '1 minute', keyGenerator: () => 'lone' }

for (const { name, options } of STORES) {
  t.test(`${name}: routes declared before the plugin has loaded are limited, and one warning names them`, async t => {
    const { app, warnings } = logged(t)
    app.get('/before', async () => 'ok')
    app.register(rateLimit, { ...LIMIT, ...options(t) }) // not awaited
    app.post('/meanwhile', async () => 'ok')
    app.get('/free', { config: { rateLimit: false } }, async () => 'ok')
    app.get('/own', { config: { rateLimit: { max: 1 } } }, async () => 'ok')
    await app.after()
    app.get('/after', async () => 'ok')
    t.strictSame(await statuses(app, 1, '/before'), [200])
    t.strictSame(await statuses(app, 1, { method: 'POST', url: '/meanwhile' }), [200])
    for (const request of ['/before', '/after', { method: 'HEAD', url: '/before' } as const]) {
      t.strictSame(await statuses(app, 1, request), [429], 'all share one count, each charged once')
    }
    t.strictSame(await statuses(app, 3, '/own'), [200, 429, 429])
    t.strictSame(await statuses(app, 1, { method: 'HEAD', url: '/own' }), [429])
    t.strictSame(await statuses(app, 4, '/free'), [200, 200, 200, 200])
    t.strictSame(await statuses(app, 4, '/nowhere'), [404, 404, 404, 404])
    t.equal(warnings.length, 1, warnings.join('\n'))
    t.match(warnings[0], /GET \/before, POST \/meanwhile, GET \/own\. /)
    t.notMatch(warnings[0], /free|after,|HEAD/)
  })
}

t.test('routes declared before the plugin has loaded are limited after their own handlers of the hook', async t => {
  for (const hook of ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const) {
    const { app } = logged(t)
    const order: string[] = []
    app.register(rateLimit, {
      ...LIMIT,
      hook,
      keyGenerator: request => {
        order.push('limiter')
        return String(request.headers['x-user'])
      },
    })
    app.addHook(hook, async () => void order.push('scope'))
    const own = async (request: { headers: Record<string, unknown> }) => {
      order.push('route')
      request.headers['x-user'] = 'ann'
    }
    app.post('/', { [hook]: own }, async request => request.rateLimit?.key)
    const { body } = await app.inject({ method: 'POST', url: '/', payload: { name: 'ann' } })
    t.equal(body, 'ann', hook)
    t.strictSame(order, ['scope', 'route', 'limiter'], hook)
  }
})

t.test('with `global: false`, of earlier routes only those with options are limited', async t => {
  const { app, warnings } = logged(t)
  app.get('/a', async () => 'ok')
  app.get('/null', { config: { rateLimit: null as never } }, async () => 'ok')
  app.get('/own', { config: { rateLimit: { max: 1, hook: 'preHandler' } } }, async () => 'ok')
  await app.register(rateLimit, { ...LIMIT, global: false })
  t.strictSame(await statuses(app, 3, '/a'), [200, 200, 200])
  t.strictSame(await statuses(app, 3, '/null'), [200, 200, 200])
  t.strictSame(await statuses(app, 2, '/own'), [200, 429])
  t.match(warnings, [/too: GET \/own\. /])
})

t.test('earlier routes of the scope and of scopes inside it are limited, those of other scopes are not', async t => {
  const { app, warnings } = logged(t)
  app.get('/root', async () => 'ok')
  await app.register(async scope => void scope.get('/', async () => 'ok'), { prefix: '/beside' })
  await app.register(
    async scope => {
      scope.get('/', async () => 'ok')
      const config = { rateLimit: { max: 1 } }
      await scope.register(async own => void own.get('/', { config }, async () => 'ok'), { prefix: '/own' })
      await scope.register(async inner => void inner.get('/deep', async () => 'ok'), { prefix: '/inner' })
      await scope.register(rateLimit, LIMIT)
    },
    { prefix: '/scope' },
  )
  t.strictSame(await statuses(app, 3, '/root'), [200, 200, 200])
  t.strictSame(await statuses(app, 3, '/beside'), [200, 200, 200])
  t.strictSame(await statuses(app, 1, '/scope'), [200])
  t.strictSame(await statuses(app, 1, '/scope/'), [200])
  t.strictSame(await statuses(app, 2, '/scope/own'), [200, 429])
  t.strictSame(await statuses(app, 1, '/scope/own/'), [429])
  t.strictSame(await statuses(app, 1, { method: 'HEAD', url: '/scope/own' }), [429])
  t.strictSame(await statuses(app, 1, '/scope/inner/deep'), [429])
  t.match(warnings, [/too: GET \/scope, GET \/scope\/own, GET \/scope\/inner\/deep\. /])
})

t.test('an earlier route of two registrations is charged once by each', async t => {
  frozenDate(t)
  const { app } = logged(t)
  app.get('/', async request => request.rateLimit?.policies.length)
  await app.register(rateLimit, { ...LIMIT, max: 5 })
  await app.register(async scope => void scope.get('/inside', async () => 'ok'))
  await app.register(rateLimit, { ...LIMIT, max: 3 })
  t.strictSame(await statuses(app, 2), [200, 200])
  t.equal((await app.inject('/')).headers.ratelimit, '"default";r=2;t=60, "default";r=0;t=60')
  t.strictSame(await statuses(app, 1, '/inside'), [429])
})

t.test('wrong options of an earlier route are refused when the plugin is registered', async t => {
  const wrong = logged(t).app
  wrong.get('/', { config: { rateLimit: { max: -1 } } }, async () => 'ok')
  await t.rejects(async () => wrong.register(rateLimit), { code: 'ML_RATE_INVALID_OPTION' })
  const strange = logged(t).app
  strange.get('/', { config: { rateLimit: 5 as never } }, async () => 'ok')
  await t.rejects(async () => strange.register(rateLimit), { code: 'ML_RATE_INVALID_ROUTE_CONFIG' })
})

t.test('no warning where every earlier route is kept from being limited, or there is none', async t => {
  const { app, warnings } = logged(t)
  app.get('/health', { config: { rateLimit: false } }, async () => 'ok')
  await app.register(rateLimit, LIMIT)
  app.get('/', async () => 'ok')
  t.strictSame(await statuses(app, 3, '/health'), [200, 200, 200])
  t.strictSame(await statuses(app, 3), [200, 200, 429])
  t.strictSame(warnings, [])
})
