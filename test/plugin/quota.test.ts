import { QuotaExceeded } from 'ml-api-rate-limiter'
import t from 'tap'
import { ask, limited, STOPPED, STORES, statuses } from '../support/plugin.js'

for (const { name, options } of STORES) {
  t.test(`${name}: cost known only after the work is charged then, and may overdraw`, async t => {
    const app = await limited(
      t,
      {
        ...options(t),
        policies: [
          { name: 'requests', max: 10, timeWindow: '1 minute' },
          { name: 'compute', max: 100, timeWindow: '1 minute', cost: 0 },
        ],
      },
      app => {
        app.get('/', async request => {
          await request.rateLimit?.charge({ compute: 70 })
          return request.rateLimit
        })
        app.get('/both', async request => {
          await request.rateLimit?.charge(2)
          return 'ok'
        })
      },
    )
    const first = await ask(app)
    t.match(first.json(), {
      key: 'lone',
      allowed: true,
      policies: [
        { name: 'requests', limit: 10, remaining: 9 },
        { name: 'compute', limit: 100, remaining: 100, reset: 0 },
      ],
    })
    t.strictSame(await statuses(app, 2), [200, 429], '140 of 100 are used')
    const { policies = [] } = (await app.rateLimiter.status('lone')) ?? {}
    t.strictSame(
      policies.map(({ remaining }) => remaining),
      [8, 0],
    )
    await app.rateLimiter.refund('lone', { compute: 100 })
    t.strictSame(await statuses(app, 1, '/both'), [200])
    t.strictSame(
      (await app.rateLimiter.status('lone'))?.policies.map(({ remaining }) => remaining),
      [5, 58],
      'a number is charged to every policy',
    )
  })

  t.test(`${name}: a request that was not served gets back what it was charged, once`, async t => {
    const app = await limited(
      t,
      {
        ...options(t),
        policies: [
          { name: 'requests', max: 3, timeWindow: '1 minute' },
          { name: 'rows', max: 10, timeWindow: '1 minute', cost: 4 },
        ],
      },
      app => {
        app.get('/', async () => 'ok')
        app.get('/shed', async (request, reply) => {
          await request.rateLimit?.refund()
          await request.rateLimit?.refund()
          return reply.code(503).send()
        })
        app.setErrorHandler(async (error, request, reply) => {
          await request.rateLimit?.refund()
          return reply.code((error as { statusCode?: number }).statusCode ?? 500).send()
        })
      },
    )
    const left = async () => (await app.rateLimiter.status('lone'))?.policies.map(({ remaining }) => remaining)
    t.strictSame(await statuses(app, 1), [200])
    t.strictSame(await statuses(app, 5, '/shed'), [503, 503, 503, 503, 503])
    t.strictSame(await left(), [2, 6])
    t.strictSame(await statuses(app, 3), [200, 429, 429])
    t.strictSame(await left(), [1, 2], 'a denied request was charged nothing and gets nothing back')
  })

  t.test(`${name}: a key can be asked about, given quota back and set free`, async t => {
    const app = await limited(t, { ...options(t), max: 3, timeWindow: '1 minute' }, app => {
      app.get('/', async () => 'ok')
      app.get('/own', { config: { rateLimit: { max: 1 } } }, async () => 'ok')
    })
    t.match(await app.rateLimiter.status('lone'), { key: 'lone', policies: [{ remaining: 3, reset: 0 }] })
    t.strictSame(await statuses(app, 4), [200, 200, 200, 429])
    t.match(await app.rateLimiter.status('lone'), { policies: [{ remaining: 0, limit: 3 }] })
    await app.rateLimiter.refund('lone', 1)
    t.strictSame(await statuses(app, 2), [200, 429])
    await app.rateLimiter.refund('lone', 100)
    t.match(await app.rateLimiter.status('lone'), { policies: [{ remaining: 3 }] }, 'never more than was used')
    await app.rateLimiter.refund('stranger', 5)
    t.strictSame(await statuses(app, 4), [200, 200, 200, 429])
    t.strictSame(await statuses(app, 2, '/own'), [200, 429])
    await app.rateLimiter.reset('lone')
    t.strictSame([...(await statuses(app, 1)), ...(await statuses(app, 1, '/own'))], [200, 200])
  })

  t.test(`${name}: report mode counts, tells and lets pass`, async t => {
    const lines: string[] = []
    const logger = { level: 'warn', stream: { write: (line: string) => void lines.push(line) } }
    let exceeded = 0
    const app = await limited(
      t,
      { ...options(t), max: 1, mode: 'report', onExceeded: () => exceeded++ },
      app =>
        app.get('/', async request => ({ allowed: request.rateLimit?.allowed, violated: request.rateLimit?.violated })),
      { logger },
    )
    t.strictSame((await ask(app)).json(), { allowed: true, violated: [] })
    const second = await ask(app)
    t.equal(second.statusCode, 200)
    t.strictSame(second.json(), { allowed: false, violated: ['default'] })
    t.match(second.headers, { 'x-ratelimit-remaining': '0', ratelimit: /"default";r=0;t=\d+/ })
    t.equal(second.headers['retry-after'], undefined)
    t.equal(exceeded, 1)
    t.equal(lines.filter(line => line.includes('rate limit exceeded, let through in report mode')).length, 1)
  })
}

t.test('in report mode a store that fails lets requests pass as well', async t => {
  const counts = { ask: () => Promise.reject(new Error('gone')) }
  for (const onStoreError of [undefined, 'throw', 'deny', 'allow'] as const) {
    const app = await limited(t, { counts, onStoreError, max: 0, mode: 'report' }, app => {
      app.get('/', async request => {
        await request.rateLimit?.charge(5)
        await request.rateLimit?.refund()
        return request.rateLimit?.known
      })
      app.get('/enforced', { config: { rateLimit: { mode: 'enforce' } } }, async () => 'ok')
    })
    t.match(await ask(app), { statusCode: 200, body: 'false' }, `${onStoreError}`)
    t.equal(await app.rateLimiter.status('lone'), null)
    const enforced = { deny: 503, allow: 200 } as Record<string, number>
    t.strictSame(await statuses(app, 1, '/enforced'), [enforced[onStoreError ?? 'throw'] ?? 500])
  }
  const local = await limited(t, { counts, onStoreError: 'local', max: 1, mode: 'report' }, app => {
    app.get('/', async request => [request.rateLimit?.known, request.rateLimit?.allowed])
  })
  t.strictSame((await ask(local)).json(), [true, true])
  t.strictSame((await ask(local)).json(), [true, false], 'counted in the process')
})

for (const { name, open } of STOPPED) {
  t.test(`${name}: who goes on although denied waits a whole window from then, with continueExceeding`, async t => {
    const { options, pass } = open(t)
    const app = await limited(t, { ...options, max: 1, timeWindow: '1 minute', continueExceeding: true })
    t.equal((await ask(app)).statusCode, 200)
    for (let denials = 0; denials < 9; denials++) {
      pass(10_000)
      t.equal((await ask(app)).statusCode, 429)
    }
    t.match(await app.rateLimiter.status('lone'), { policies: [{ remaining: 0 }] })
    pass(60_001)
    t.equal((await ask(app)).statusCode, 200)
  })

  t.test(`${name}: the block doubles with every denial in a row, with exponentialBackoff`, async t => {
    const { options } = open(t)
    const app = await limited(t, { ...options, max: 1, timeWindow: '1 minute', exponentialBackoff: true, ban: 2 })
    const waits: unknown[] = []
    for (let attempt = 0; attempt < 4; attempt++) {
      const { statusCode, headers } = await ask(app)
      waits.push([statusCode, headers['retry-after']])
    }
    t.strictSame(waits, [
      [200, undefined],
      [429, '60'],
      [429, '120'],
      [403, '240'],
    ])
    await app.rateLimiter.reset('lone')
    t.equal((await ask(app)).statusCode, 200)
  })

  t.test(`${name}: denials in a window are counted for the ban, and forgotten with it`, async t => {
    const { options, pass } = open(t)
    const app = await limited(t, { ...options, max: 1, timeWindow: '1 minute', ban: 1 })
    t.strictSame(await statuses(app, 4), [200, 429, 403, 403])
    pass(60_001)
    t.strictSame(await statuses(app, 3), [200, 429, 403])
  })
}

t.test('a denial is an error without a stack, with the decision and a code of its class', async t => {
  const seen: unknown[] = []
  const app = await limited(t, { max: 0 }, app => {
    app.setErrorHandler((error, _request, reply) => {
      seen.push(error)
      reply.code(429).send({ handled: (error as QuotaExceeded).decision.violated })
    })
    app.get('/', async () => 'ok')
  })
  t.strictSame((await ask(app)).json(), { handled: ['default'] })
  const [error] = seen as [QuotaExceeded]
  t.ok(error instanceof QuotaExceeded)
  t.equal(QuotaExceeded.code, 'ML_RATE_QUOTA_EXCEEDED')
  t.equal(error.name, 'QuotaExceeded')
  t.match(error, { status: 429, expose: true }, 'as the errors of http-errors, which frameworks answer with')
  t.equal(error.stack?.split('\n').length, 1)
})
