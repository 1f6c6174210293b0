import Fastify from 'fastify'
import rateLimit from 'ml-api-rate-limiter'
import t from 'tap'
import { ask, limited, STORES, statuses } from '../support/plugin.js'

for (const { name, options } of STORES) {
  t.test(`${name}: requests for what is not there are limited where the not-found handler is`, async t => {
    const app = await limited(t, { ...options(t), max: 2, timeWindow: '1 minute' }, app => {
      app.get('/', async () => 'ok')
      app.setNotFoundHandler({ preHandler: app.rateLimit({ max: 3 }) }, (_request, reply) => {
        reply.code(404).send('nothing here')
      })
    })
    t.strictSame(
      [...(await statuses(app, 2, '/a')), ...(await statuses(app, 1, '/b')), ...(await statuses(app, 1, '/c'))],
      [404, 404, 404, 429],
    )
    t.strictSame(await statuses(app, 3), [200, 200, 429], 'with a quota of their own')
  })

  t.test(`${name}: however a URL is spelled, a route has one quota`, async t => {
    const app = Fastify({
      routerOptions: { ignoreTrailingSlash: true, ignoreDuplicateSlashes: true, caseSensitive: false },
    })
    t.teardown(() => app.close())
    await app.register(rateLimit, { global: false, timeWindow: '1 minute', keyGenerator: () => 'lone', ...options(t) })
    app.get('/some/path', { config: { rateLimit: { max: 4 } } }, async () => 'ok')
    app.get('/items/:id', { config: { rateLimit: { max: 2 } } }, async () => 'ok')
    const codes: number[] = []
    for (const url of ['/some/path', '/some/path/', '//some//path', '/SOME/Path', '/some/p%61th?x=1']) {
      codes.push((await app.inject(url)).statusCode)
    }
    t.strictSame(codes, [200, 200, 200, 200, 429])
    t.strictSame(
      [
        (await app.inject('/items/1')).statusCode,
        (await app.inject('/items/2')).statusCode,
        (await app.inject('/items/3')).statusCode,
      ],
      [200, 200, 429],
    )
  })

  t.test(
    `${name}: GET and HEAD of a route with several methods have one quota, declared together or apart`,
    async t => {
      const config = { rateLimit: { max: 2 } }
      const app = await limited(t, options(t), app => {
        app.route({ method: ['GET', 'POST'], url: '/together', config, handler: async () => 'ok' })
        app.route({ method: ['GET', 'PUT'], url: '/apart', exposeHeadRoute: false, config, handler: async () => 'ok' })
        app.head('/apart', { config: { rateLimit: { max: 2 } } }, async (_request, reply) => reply.send())
      })
      for (const url of ['/together', '/apart']) {
        t.strictSame(await statuses(app, 1, { method: 'HEAD', url }), [200])
        t.strictSame(await statuses(app, 1, url), [200])
        t.strictSame(await statuses(app, 1, { method: 'HEAD', url }), [429])
        t.strictSame(await statuses(app, 1, url), [429])
        const { headers } = await ask(app, { method: 'HEAD', url })
        t.equal(headers['ratelimit-policy'], '"default";q=2;w=60', 'and one limiter has checked it')
      }
    },
  )

  t.test(`${name}: the root of a prefix has one quota, with and without its slash, by GET and by HEAD`, async t => {
    const app = await limited(t, { ...options(t), global: false }, app => {
      const config = { rateLimit: { max: 4, timeWindow: '1 minute' } }
      app.register(async child => void child.get('/', { config }, async () => 'ok'), { prefix: '/v1' })
    })
    const codes: number[] = []
    for (const url of ['/v1', '/v1/']) {
      for (const method of ['GET', 'HEAD'] as const) codes.push(...(await statuses(app, 1, { method, url })))
    }
    t.strictSame([...codes, ...(await statuses(app, 1, { method: 'HEAD', url: '/v1/' }))], [200, 200, 200, 200, 429])
  })

  t.test(`${name}: routes with quotas of their own do not count together, whatever they have in common`, async t => {
    const config = { rateLimit: { max: 1, timeWindow: '1 minute' } }
    const app = await limited(t, { ...options(t), global: false }, app => {
      app.get('/', { config }, async () => 'get')
      app.post('/', { config }, async () => 'post')
      app.get('/', { config, constraints: { host: 'other.example' } }, async () => 'other host')
      app.register(async child => void child.get('/', { config }, async () => 'prefixed'), { prefix: '/v1' })
      app.route({ method: ['PUT', 'PATCH'], url: '/', config, handler: async () => 'two methods' })
    })
    const requests = [
      { method: 'GET', url: '/' },
      { method: 'POST', url: '/' },
      { method: 'GET', url: '/', headers: { host: 'other.example' } },
      { method: 'GET', url: '/v1' },
      { method: 'PUT', url: '/' },
    ] as const
    for (const request of requests) t.equal((await ask(app, request)).statusCode, 200)
    for (const request of requests) t.equal((await ask(app, request)).statusCode, 429)
    t.equal((await ask(app, { method: 'PATCH', url: '/' })).statusCode, 429, 'two methods of one route share its quota')
  })
}

t.test('a route that is not limited stays so, and all others share the quota of the registration', async t => {
  const app = await limited(t, { max: 2, timeWindow: '1 minute' }, app => {
    app.get('/a', async () => 'ok')
    app.get('/b', async () => 'ok')
    app.get('/free', { config: { rateLimit: false } }, async () => 'ok')
    app.options('/a', async () => 'ok')
  })
  t.strictSame(await statuses(app, 3, '/free'), [200, 200, 200])
  t.strictSame([...(await statuses(app, 1, '/a')), ...(await statuses(app, 1, '/b'))], [200, 200])
  t.strictSame([...(await statuses(app, 1, '/a')), ...(await statuses(app, 1, '/b'))], [429, 429])
  t.strictSame(await statuses(app, 1, { method: 'OPTIONS', url: '/a' }), [429])
})
