/** Every row of 'What differs, and why' that can be tried, tried with both plugins. */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import Fastify, { type FastifyInstance, type InjectOptions } from 'fastify'
import { Redis } from 'ioredis'
import ours from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { readPage, root, tableRows } from './markdown.js'

// Its types would claim the same decorators as ours, so it is loaded without them.
const theirs = (await import('@fastify/rate-limit' as string)).default

type Options = Record<string, unknown>
type Registered = Omit<FastifyInstance, 'createRateLimit' | 'rateLimit'> & {
  createRateLimit(options?: object): (request: unknown, options?: object) => Promise<Created>
  rateLimit(options?: object): () => Promise<void>
}
interface Created {
  readonly isExceeded: boolean
  readonly remaining: number
}

/** Runs the same app with their plugin and with ours, and gives both answers. */
async function both<T>(
  t: Test,
  options: Options,
  use: (app: Registered) => Promise<T>,
): Promise<{ theirs: T; ours: T }> {
  const run = async (plugin: unknown) => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(plugin as typeof ours, options)
    return use(app as unknown as Registered)
  }
  return { theirs: await run(theirs), ours: await run(ours) }
}

async function statuses(
  app: Pick<FastifyInstance, 'inject'>,
  requests: readonly (string | InjectOptions)[],
): Promise<number[]> {
  const answers: number[] = []
  for (const request of requests) answers.push((await app.inject(request as string)).statusCode)
  return answers
}

const reply = async () => 'ok'
const minute = { max: 2, timeWindow: '1 minute' }

t.test('the window', async t => {
  const admitted = await both(t, { max: 4, timeWindow: '1 minute' }, async app => {
    let seconds = 0
    t.intercept(Date, 'now', { value: () => 1e12 + seconds * 1000, configurable: true })
    app.get('/', reply)
    await statuses(app, ['/']) // a fixed window begins here
    seconds = 59
    const before = await statuses(app, ['/', '/', '/'])
    seconds = 61 // and has ended
    const after = await statuses(app, ['/', '/', '/', '/'])
    return [...before, ...after].filter(status => status === 200).length
  })
  t.equal(admitted.theirs, 7, 'a fixed window lets nearly twice the quota through around its end')
  t.equal(admitted.ours, 4, 'ours never lets more than the quota through')
})

t.test('denied requests', async t => {
  const last = await both(t, { global: false }, async app => {
    let max = 2
    app.get('/', { config: { rateLimit: { max: () => max, timeWindow: '1 minute' } } }, reply)
    await statuses(app, ['/', '/', '/', '/', '/'])
    max = 3
    return statuses(app, ['/'])
  })
  t.strictSame(last, { theirs: [429], ours: [200] }, 'the quota grows from 2 to 3 after five requests')
})

t.test('groupId', async t => {
  const answers = await both(t, { global: false }, async app => {
    const otp = () => ({ config: { rateLimit: { ...minute, groupId: 'otp' } } })
    app.get('/send', otp(), reply)
    app.get('/resend', otp(), reply)
    return statuses(app, ['/send', '/send', '/resend', '/resend'])
  })
  t.strictSame(answers, { theirs: [200, 200, 200, 200], ours: [200, 200, 429, 429] })
})

t.test('GET and HEAD', async t => {
  const answers = await both(t, { global: false }, async app => {
    app.get('/', { config: { rateLimit: minute } }, reply)
    const head = { method: 'HEAD', url: '/' } as const
    return statuses(app, ['/', '/', head, head])
  })
  t.strictSame(answers, { theirs: [200, 200, 200, 200], ours: [200, 200, 429, 429] })
})

t.test('createRateLimit', async t => {
  const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
  t.teardown(() => redis.quit())
  const left = await both(
    t,
    { ...minute, global: false, redis, storeTimeout: 5000, nameSpace: `migration:${randomUUID()}:` },
    async app => {
      const first = app.createRateLimit({ max: 5 })
      const second = app.createRateLimit({ max: 5 })
      app.get('/', async request => [(await first(request)).remaining, (await second(request)).remaining])
      return (await app.inject('/')).json()
    },
  )
  t.strictSame(left, { theirs: [4, 3], ours: [4, 4] })
})

t.test('increment: false', async t => {
  const answers = await both(t, { global: false }, async app => {
    const failures = app.createRateLimit(minute)
    app.post('/login', async (request, reply) => {
      if ((await failures(request, { increment: false })).isExceeded) return reply.code(429).send()
      await failures(request)
      return reply.code(401).send()
    })
    const login = { method: 'POST', url: '/login' } as const
    return statuses(app, [login, login, login, login])
  })
  t.strictSame(answers, { theirs: [401, 401, 401, 429], ours: [401, 401, 429, 429] })
})

t.test('a limiter attached by hand', async t => {
  const answers = await both(t, { max: 100 }, async app => {
    app.get('/', { preHandler: app.rateLimit(minute) }, reply)
    return statuses(app, ['/', '/', '/'])
  })
  t.strictSame(answers, { theirs: [200, 200, 200], ours: [200, 200, 429] })
})

t.test('a function that answers wrongly', async t => {
  const answers = await both(t, { ...minute, max: () => undefined }, async app => {
    app.get('/', reply)
    return statuses(app, ['/', '/', '/'])
  })
  t.strictSame(answers, { theirs: [200, 200, 200], ours: [500, 500, 500] })
})

for (const wrong of [{ max: '100' }, { max: -1 }, { timeWindow: '10 parsecs' }, { timeWindo: 1000 }]) {
  t.test(`the wrong option ${JSON.stringify(wrong)}`, async t => {
    const theirApp = Fastify()
    const ourApp = Fastify()
    t.teardown(() => Promise.all([theirApp.close(), ourApp.close()]))
    await t.resolves(async () => theirApp.register(theirs, wrong as object))
    await t.rejects(async () => ourApp.register(ours, wrong as object), { code: 'ML_RATE_INVALID_OPTION' })
  })
}

t.test('addresses in the allow list', async t => {
  const allowList = ['2001:db8::1', '10.0.0.0/8']
  const answers = await both(t, { ...minute, allowList }, async app => {
    app.get('/', reply)
    const from = (remoteAddress: string) => ({ url: '/', remoteAddress })
    return statuses(app, [...Array(3).fill(from('2001:db8::1')), ...Array(3).fill(from('10.1.1.1'))])
  })
  t.strictSame(answers, { theirs: [200, 200, 429, 200, 200, 429], ours: [200, 200, 200, 200, 200, 200] })
})

t.test('a port behind the address in X-Forwarded-For, and no address at all', async t => {
  const run = async (plugin: unknown) => {
    const app = Fastify({ trustProxy: true })
    t.teardown(() => app.close())
    app.addHook('onRequest', async request => {
      if (request.headers['x-unix']) Object.defineProperty(request, 'ip', { value: undefined })
    })
    await app.register(plugin as typeof ours, minute)
    app.get('/', reply)
    const from = (port: number) => ({ url: '/', headers: { 'x-forwarded-for': `192.0.2.1:${port}` } })
    const unix = { url: '/', headers: { 'x-unix': '1' } }
    return statuses(app, [from(1), from(2), from(3), unix, unix, unix])
  }
  const answers = { theirs: await run(theirs), ours: await run(ours) }
  t.strictSame(answers, { theirs: [200, 200, 200, 500, 500, 500], ours: [200, 200, 429, 200, 200, 429] })
})

t.test('a response that is a string', async t => {
  const answers = await both(t, { max: 0, errorResponseBuilder: () => 'slow down' }, async app => {
    app.get('/', reply)
    const { statusCode, body } = await app.inject('/')
    return [statusCode, body.includes('errorResponseBuilder')]
  })
  t.strictSame(answers, { theirs: [500, false], ours: [500, true] })
})

t.test('a denied key among many, in process', async t => {
  const answers = await both(t, { ...minute, cache: 10 }, async app => {
    app.get('/', reply)
    const from = (remoteAddress: string) => ({ url: '/', remoteAddress })
    const crowd = Array.from({ length: 40 }, (_, n) => from(`10.0.0.${n}`))
    await statuses(app, [...Array(3).fill(from('10.1.1.1')), ...crowd])
    return statuses(app, [from('10.1.1.1')])
  })
  t.strictSame(answers, { theirs: [200], ours: [429] })
})

t.test('what stays the same: header names, but for the standard fields, and the body', async t => {
  const { theirs, ours } = await both(t, { ...minute, max: 0 }, async app => {
    app.get('/', reply)
    const { headers, body } = await app.inject('/')
    return { names: Object.keys(headers).sort(), body }
  })
  t.equal(ours.body, theirs.body)
  t.strictSame(
    ours.names.filter(name => !['ratelimit', 'ratelimit-policy'].includes(name)),
    theirs.names,
  )
})

t.test('the table for rate-limiter-flexible names every option of its Redis limiter', async t => {
  const types = readFileSync(new URL('node_modules/rate-limiter-flexible/types.d.ts', root), 'utf8')
  const mapped = tableRows(readPage('docs/migration.md'))
    .map(({ cells }) => cells['`rate-limiter-flexible`'] ?? '')
    .join(' ')
  for (const name of ['IRateLimiterOptions', 'IRateLimiterStoreOptions', 'IRateLimiterRedisOptions']) {
    const [, members = ''] = new RegExp(`interface ${name} [^{]*\\{([^}]*)\\}`).exec(types) ?? []
    const options = [...members.matchAll(/^\s*(\w+)\??:/gm)].map(([, option]) => option as string)
    t.ok(options.length > 0, name)
    for (const option of options) t.match(mapped, `\`${option}\``)
  }
})
