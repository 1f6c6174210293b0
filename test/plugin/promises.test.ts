import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import Fastify, { type FastifyPluginAsync } from 'fastify'
import rateLimit from 'ml-api-rate-limiter'
import t from 'tap'
import { childEnv } from '../support/child-env.js'
import {
  type App,
  ask,
  frozenDate,
  inRedis,
  limited,
  redisClient,
  STOPPED,
  STORES,
  statuses,
} from '../support/plugin.js'

/** Its types would claim the same decorators as ours, so it is loaded without them. */
const peer = (await import('@fastify/rate-limit' as string)).default as FastifyPluginAsync<{
  max: number
  timeWindow: number
}>

for (const { name, options } of STORES) {
  t.test(`${name}: two routes of one group share one count`, async t => {
    const config = { rateLimit: { max: 3, timeWindow: '1 minute', groupId: 'otp' } }
    const app = await limited(t, { ...options(t), global: false }, app => {
      app.get('/send', { config }, async () => 'sent')
      app.get('/resend', { config: { rateLimit: { ...config.rateLimit } } }, async () => 'sent')
    })
    const both = [...(await statuses(app, 3, '/send')), ...(await statuses(app, 3, '/resend'))]
    t.strictSame(both, [200, 200, 200, 429, 429, 429])
  })

  t.test(`${name}: GET and its HEAD share one count`, async t => {
    const config = { rateLimit: { max: 2, timeWindow: '1 minute' } }
    const app = await limited(t, { ...options(t), global: false }, app => app.get('/', { config }, async () => 'ok'))
    const codes = [
      ...(await statuses(app, 2, { method: 'GET', url: '/' })),
      ...(await statuses(app, 2, { method: 'HEAD', url: '/' })),
    ]
    t.strictSame(codes, [200, 200, 429, 429])
  })

  t.test(`${name}: a denied request costs nothing, so a smaller one still fits`, async t => {
    const app = await limited(t, {
      ...options(t),
      max: 10,
      timeWindow: '1 minute',
      cost: request => Number(request.headers['x-cost']),
    })
    const codes: number[] = []
    for (const cost of ['8', '5', '1', '1', '1']) {
      codes.push((await ask(app, { url: '/', headers: { 'x-cost': cost } })).statusCode)
    }
    t.strictSame(codes, [200, 429, 200, 200, 429])
  })

  t.test(`${name}: what one policy denies is not charged to the other`, async t => {
    const app = await limited(t, {
      ...options(t),
      policies: [
        { name: 'minute', max: 1, timeWindow: '1 minute' },
        { name: 'hour', max: 10, timeWindow: '1 hour' },
      ],
    })
    t.strictSame(await statuses(app, 10), [200, 429, 429, 429, 429, 429, 429, 429, 429, 429])
    const { policies = [] } = (await app.rateLimiter.status('lone')) ?? {}
    t.strictSame(
      policies.map(({ name, limit, remaining }) => ({ name, limit, remaining })),
      [
        { name: 'minute', limit: 1, remaining: 0 },
        { name: 'hour', limit: 10, remaining: 9 },
      ],
    )
  })

  t.test(`${name}: a quota that changes is held against what was admitted before`, async t => {
    const shared = options(t)
    let max = 100
    const app = await limited(t, { ...shared, max: () => max, timeWindow: '1 minute' })
    t.strictSame(await statuses(app, 5), [200, 200, 200, 200, 200])
    max = 3
    t.equal((await ask(app)).statusCode, 429)
    max = 6
    t.strictSame(await statuses(app, 2), [200, 429])
  })

  t.test(`${name}: every limiter of createRateLimit counts for itself`, async t => {
    const app = await limited(t, { ...options(t), global: false, max: 1, timeWindow: '1 minute' }, app => {
      const [one, two] = [app.createRateLimit(), app.createRateLimit()]
      app.get('/one', async request => one(request))
      app.get('/two', async request => two(request))
    })
    t.match((await ask(app, '/one')).json(), { isExceeded: false })
    t.match((await ask(app, '/two')).json(), { isExceeded: false })
    t.match((await ask(app, '/one')).json(), { isExceeded: true })
  })

  t.test(`${name}: a limiter attached by hand runs after the global one, and each charges once`, async t => {
    const app = await limited(t, { ...options(t), max: 5, timeWindow: '1 minute' }, app => {
      app.get('/', { preHandler: app.rateLimit({ max: 2, timeWindow: '1 minute' }) }, async () => 'ok')
      app.get('/other', async () => 'ok')
    })
    t.strictSame(await statuses(app, 3), [200, 200, 429])
    t.strictSame(await statuses(app, 3, '/other'), [200, 200, 429], 'the global one was charged three times')
  })

  t.test(`${name}: the same limiter met twice by one request charges it once`, async t => {
    const app = await limited(t, { ...options(t), max: 2, timeWindow: '1 minute' }, app => {
      app.get('/', { preHandler: [app.rateLimit(), app.rateLimit()] }, async () => 'ok')
    })
    t.strictSame(await statuses(app, 3), [200, 200, 429])
  })
}

for (const { name, open } of STOPPED) {
  t.test(`${name}: a group is held to the longest of its windows, whichever route asks`, async t => {
    const group = (max: number, timeWindow: string) => ({ config: { rateLimit: { max, timeWindow, groupId: 'g' } } })
    const { options, pass } = open(t)
    const app = await limited(t, { ...options, global: false }, app => {
      app.get('/long', group(2, '1 hour'), async () => 'ok')
      app.get('/short', group(5, '1 minute'), async () => 'ok')
    })
    t.strictSame(await statuses(app, 2, '/long'), [200, 200])
    pass(60_001)
    t.strictSame(await statuses(app, 1, '/short'), [200], 'the short window is empty again')
    t.strictSame(await statuses(app, 1, '/long'), [429], 'and has not emptied the long one')
  })

  t.test(`${name}: a window is exact to the millisecond`, async t => {
    const { options, pass } = open(t)
    const app = await limited(t, { ...options, max: 1, timeWindow: 1_234_567 })
    t.equal((await ask(app)).statusCode, 200)
    pass(1_234_566)
    t.equal((await ask(app)).statusCode, 429)
    t.equal((await app.rateLimiter.status('lone'))?.policies[0]?.reset, 1)
    pass(1)
    t.equal((await ask(app)).statusCode, 200, 'and not longer')
  })

  t.test(`${name}: a window shortened from an hour to a minute keeps no one waiting for an hour`, async t => {
    const { options, pass } = open(t)
    const first = await limited(t, { ...options, max: 1, timeWindow: '1 hour' })
    t.strictSame(await statuses(first, 2), [200, 429])
    await first.close()
    const second = await limited(t, { ...options, max: 1, timeWindow: '1 minute' })
    pass(60_001)
    t.equal((await ask(second)).statusCode, 200)
  })

  t.test(`${name}: a lone client that waits retry-after is always allowed, and waits no second too long`, async t => {
    const windowMs = 61_500
    const { options, pass } = open(t)
    const app = await limited(t, { ...options, max: 3, timeWindow: windowMs })
    const admitted: number[] = []
    let now = 0
    const wait = (ms: number) => {
      now += ms
      pass(ms)
    }
    for (let attempt = 0; attempt < 9; attempt++) {
      const response = await ask(app)
      if (response.statusCode !== 200) {
        const seconds = Number(response.headers['retry-after'])
        t.equal(seconds, Math.ceil(((admitted.at(-3) as number) + windowMs - now) / 1000))
        wait(seconds * 1000)
        t.equal((await ask(app)).statusCode, 200)
      }
      admitted.push(now)
      wait(1 + Math.round(Math.random() * 9000))
    }
  })
}

t.test('a window of thirty days is exact to the millisecond', async t => {
  const clock = frozenDate(t)
  const app = await limited(t, { max: 1, timeWindow: '30 days' })
  t.equal((await ask(app)).statusCode, 200)
  clock.advance(30 * 86_400_000 - 1)
  t.equal((await ask(app)).statusCode, 429)
  clock.advance(1)
  t.equal((await ask(app)).statusCode, 200)
})

t.test('a clock that goes back: nobody gets more, and nobody waits longer than the window', async t => {
  const clock = frozenDate(t)
  const app = await limited(t, { max: 1, timeWindow: 1000 })
  t.equal((await ask(app)).statusCode, 200)
  clock.advance(-30_000)
  t.equal((await ask(app)).statusCode, 429)
  clock.advance(999)
  t.equal((await ask(app)).statusCode, 429)
  clock.advance(1)
  t.equal((await ask(app)).statusCode, 200)
})

t.test(
  'a burst around the end of a window: never more than the quota, where a fixed window lets twice as much through',
  async t => {
    const clock = frozenDate(t)
    const burst = async (app: App) => (await statuses(app, 10)).filter(status => status === 200).length
    const ours = await limited(t, { max: 10, timeWindow: 1000 })
    const theirs = Fastify() as unknown as App
    t.teardown(() => theirs.close())
    await theirs.register(peer, { max: 10, timeWindow: 1000 })
    theirs.get('/', async () => 'ok')
    await theirs.ready()

    // One request opens the fixed window; the first burst comes just before it ends, the second just after.
    await ask(ours)
    await ask(theirs)
    clock.advance(999)
    const before = { ours: await burst(ours), theirs: await burst(theirs) }
    clock.advance(2)
    const after = { ours: await burst(ours), theirs: await burst(theirs) }
    t.comment(
      `within 2 ms: ml-api-rate-limiter ${before.ours + after.ours}, @fastify/rate-limit ${before.theirs + after.theirs}`,
    )
    t.equal(before.ours + after.ours, 10)
    t.equal(before.theirs + after.theirs, 19)
  },
)

t.test('two apps with default settings on one Redis do not count together', async t => {
  const redis = redisClient(t)
  const options = {
    redis,
    max: 2,
    timeWindow: '1 minute',
    storeTimeout: 5000,
    keyGenerator: () => `apps${process.pid}`,
  }
  const [one, two] = [await limited(t, options), await limited(t, options)]
  t.strictSame(await statuses(one, 3), [200, 200, 429])
  t.strictSame(await statuses(two, 3), [200, 200, 429])
})

t.test('two replicas with one name space count together', async t => {
  const shared = inRedis(t)
  const options = { ...shared, max: 2, timeWindow: '1 minute' }
  const [one, two] = [await limited(t, options), await limited(t, { ...options, redis: redisClient(t) })]
  t.strictSame(
    [...(await statuses(one, 1)), ...(await statuses(two, 2)), ...(await statuses(one, 1))],
    [200, 200, 429, 429],
  )
})

t.test('two processes of one program count together without being told', async t => {
  const script = fileURLToPath(new URL('../support/replica.mjs', import.meta.url))
  const key = `replica-${process.pid}-${Date.now()}`
  const run = async () => {
    const child = spawn(process.execPath, [script, key], { stdio: ['ignore', 'pipe', 'inherit'], env: childEnv() })
    const [line] = (await once(child.stdout, 'data')) as [Buffer]
    await once(child, 'exit')
    return JSON.parse(String(line)) as number[]
  }
  const codes = [...(await run()), ...(await run())]
  t.strictSame(codes, [200, 200, 429, 429])
})

t.test('two replicas share one quota while their clocks differ by an hour', async t => {
  const shared = inRedis(t)
  const one = await limited(t, { ...shared, max: 3, timeWindow: '1 minute' })
  const two = await limited(t, { ...shared, max: 3, timeWindow: '1 minute' })
  const clock = frozenDate(t)
  const codes = await statuses(one, 2)
  clock.advance(3_600_000)
  codes.push(...(await statuses(two, 2)))
  t.strictSame(codes, [200, 200, 200, 429])
})

t.test('nested and neighbouring registrations each hold a request to their own quota', async t => {
  const app = Fastify() as unknown as App
  t.teardown(() => app.close())
  await app.register(rateLimit, { max: 5, timeWindow: '1 minute' })
  await app.register(rateLimit, { max: 4, timeWindow: '1 minute' })
  await app.register(
    async child => {
      await child.register(rateLimit, { max: 2, timeWindow: '1 minute' })
      child.get('/', async () => 'child')
      child.get('/mine', { config: { rateLimit: false }, preHandler: child.rateLimit() }, async () => 'child')
    },
    { prefix: '/child' },
  )
  app.get('/', async () => 'ok')
  await app.ready()
  t.strictSame(await statuses(app, 3, '/child'), [200, 200, 429])
  t.equal((await ask(app, '/child/mine')).statusCode, 429, 'the decorator of the scope is its own')
  t.strictSame(await statuses(app, 2), [200, 429], 'three of four were used')
})

t.test('a request that no limiter has met has no decision', async t => {
  const app = await limited(t, { global: false }, app =>
    app.get('/', async request => ({ decision: request.rateLimit })),
  )
  t.strictSame((await ask(app)).json(), { decision: null })
})
