import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'

// The plugin is imported after the apps were created, as by `app.register(import('ml-api-rate-limiter'))`: it does not
// know the options of their earlier routes.
const created = Array.from({ length: 8 }, () => {
  const warnings: string[] = []
  const stream = { write: (line: string) => void warnings.push(JSON.parse(line).msg) }
  const app = Fastify({ logger: { level: 'warn', stream } }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  return { app, warnings }
})
const { default: rateLimit } = await import('ml-api-rate-limiter')

const take = () => created.pop() as (typeof created)[number]
const LIMIT = { max: 2, timeWindow: '1 minute', keyGenerator: () => 'lone' }

async function statuses(app: FastifyInstance, times: number, url = '/'): Promise<number[]> {
  const list: number[] = []
  for (let index = 0; index < times; index++) list.push((await app.inject(url)).statusCode)
  return list
}

t.test('routes of an app that is older than the import are limited, each request once', async t => {
  const { app, warnings } = take()
  app.register(rateLimit, LIMIT)
  app.get('/', async () => 'ok')
  app.get('/a/b', async () => 'ok')
  app.post('/a/bc', async () => 'ok')
  app.get('/free', { config: { rateLimit: false } }, async () => 'ok')
  app.get('/own', { config: { rateLimit: { max: 1 } } }, async () => 'ok')
  await app.register(async scope => void scope.get('/deep', async () => 'ok'), { prefix: '/scope' })
  await app.after()
  app.get('/later', async () => 'ok')
  app.get('/later/own', { config: { rateLimit: { max: 3 } } }, async () => 'ok')
  t.strictSame(await statuses(app, 1), [200])
  t.strictSame([...(await statuses(app, 1, '/a/b')), ...(await statuses(app, 2, '/later'))], [200, 429, 429])
  t.strictSame(await statuses(app, 1, '/scope/deep'), [429])
  t.strictSame(await statuses(app, 2, '/own'), [200, 429])
  t.equal((await app.inject({ method: 'HEAD', url: '/own' })).statusCode, 429)
  t.strictSame(await statuses(app, 4, '/later/own'), [200, 200, 200, 429])
  t.strictSame(await statuses(app, 3, '/free'), [200, 200, 200])
  t.strictSame(await statuses(app, 3, '/nowhere'), [404, 404, 404])
  t.equal(warnings.length, 1)
  for (const name of ['GET /,', 'GET /a/b,', 'POST /a/bc', 'GET /own']) t.ok(warnings[0]?.includes(name), name)
  t.notMatch(warnings[0], /later|HEAD/)
})

t.test('their limiters run in the hook that the options name', async t => {
  for (const hook of ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const) {
    const { app } = take()
    const seen: unknown[] = []
    app.get('/', { onRequest: async () => void seen.push('route') }, async () => 'ok')
    app.post('/own', { config: { rateLimit: { max: 5 } } }, async request => request.rateLimit?.policies[0]?.limit)
    await app.register(rateLimit, {
      ...LIMIT,
      hook,
      keyGenerator: request => {
        seen.push(request.body)
        return 'lone'
      },
    })
    t.strictSame(await statuses(app, 3), [200, 200, 429], hook)
    t.strictSame(seen.slice(0, 2), ['route', undefined], hook)
    t.equal((await app.inject({ method: 'POST', url: '/own', payload: { a: 1 } })).body, '5')
    t.strictSame(seen.at(-1), hook === 'preValidation' || hook === 'preHandler' ? { a: 1 } : undefined, hook)
  }
})

t.test('with `global: false` only those with options are limited, and wrong ones answer with their error', async t => {
  const { app, warnings } = take()
  app.get('/', async () => 'ok')
  app.get('/own', { config: { rateLimit: { max: 1 } } }, async () => 'ok')
  app.get('/wrong', { config: { rateLimit: { max: -1 } } }, async () => 'ok')
  await app.register(rateLimit, { ...LIMIT, global: false })
  t.strictSame(await statuses(app, 3), [200, 200, 200])
  t.strictSame(await statuses(app, 2, '/own'), [200, 429])
  t.match((await app.inject('/wrong')).json(), { statusCode: 500, code: 'ML_RATE_INVALID_OPTION' })
  t.strictSame(
    warnings.filter(message => message.startsWith('routes were')),
    [],
  )
})

t.test('an app without earlier routes has no hooks of the scope and no warning', async t => {
  const { app, warnings } = take()
  await app.register(rateLimit, LIMIT)
  app.get('/', async () => 'ok')
  await app.ready()
  t.notMatch(app.printRoutes({ includeHooks: true }), /preParsing/)
  t.strictSame(await statuses(app, 3), [200, 200, 429])
  t.strictSame(warnings, [])
})
