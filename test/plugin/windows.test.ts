/** One log serves one window: in groups, and where the window depends on the request. */
import t from 'tap'
import { ask, inRedis, limited, redisClient, STOPPED, STORES, statuses } from '../support/plugin.js'

const group = (max: number, timeWindow: number | string) => ({
  config: { rateLimit: { groupId: 'g', max, timeWindow } },
})

for (const { name, open } of STOPPED) {
  t.test(`${name}: a refund on a group's short window leaves its long window as it is`, async t => {
    const { options, pass } = open(t)
    const app = await limited(t, { ...options, global: false }, app => {
      app.get('/long', group(2, '1 hour'), async () => 'ok')
      app.get('/short', group(5, '1 minute'), async request => {
        await request.rateLimit?.refund()
        return 'given back'
      })
    })
    t.strictSame(await statuses(app, 3, '/long'), [200, 200, 429])
    pass(60_001)
    t.strictSame(await statuses(app, 1, '/short'), [200])
    t.strictSame(await statuses(app, 2, '/long'), [429, 429])
  })

  t.test(`${name}: an admission on any route of a group is charged to each window of the group`, async t => {
    const { options, pass } = open(t)
    const app = await limited(t, { ...options, global: false }, app => {
      app.get('/long', group(4, '1 hour'), async () => 'ok')
      app.get('/short', group(3, '1 minute'), async () => 'ok')
      app.get('/other', group(9, '2 minutes'), async () => 'ok')
    })
    t.strictSame(await statuses(app, 1, '/other'), [200])
    t.strictSame(await statuses(app, 1, '/long'), [200])
    t.equal((await ask(app, '/short')).headers['x-ratelimit-remaining'], '0', 'the third within the minute')
    t.equal((await ask(app, '/short')).statusCode, 429)
    pass(60_001)
    t.equal((await ask(app, '/short')).statusCode, 200, 'the short window is over')
    t.strictSame(await statuses(app, 2, '/long'), [429, 429], 'four in the hour, whatever route they came by')
    t.equal((await ask(app, '/other')).headers['x-ratelimit-remaining'], '4', 'four in two minutes before this one')
  })

  t.test(`${name}: a route with a window for each request counts each window apart`, async t => {
    const windows: Record<string, number> = { long: 3_600_000, short: 60_000 }
    const { options, pass } = open(t)
    const app = await limited(t, {
      ...options,
      max: 2,
      timeWindow: request => windows[request.headers['x-window'] as string] as number,
    })
    const of = (window: string) => ({ url: '/', headers: { 'x-window': window } })
    t.strictSame(await statuses(app, 3, of('long')), [200, 200, 429])
    t.strictSame(await statuses(app, 3, of('short')), [200, 200, 429])
    pass(60_001)
    t.strictSame(await statuses(app, 1, of('short')), [200])
    t.strictSame(await statuses(app, 1, of('long')), [429], 'the short window has dropped nothing of the long one')
    await app.rateLimiter.reset('lone')
    t.strictSame(await statuses(app, 2, of('long')), [200, 200], 'a reset forgets all windows')
  })

  t.test(
    `${name}: a short route is denied by what was admitted in its own window, though the long one is sliced`,
    async t => {
      const { options, pass } = open(t)
      const app = await limited(t, { ...options, global: false }, app => {
        app.get('/long', group(1000, '10 hours'), async () => 'ok')
        app.get('/short', group(5, '1 minute'), async () => 'ok')
      })
      for (let step = 0; step < 8; step++) {
        await ask(app, '/long')
        pass(20_000)
      }
      pass(60_001)
      t.equal((await ask(app, '/short')).headers['x-ratelimit-remaining'], '4')
    },
  )
}

for (const { name, options } of STORES) {
  for (const penalty of [{ continueExceeding: true }, { exponentialBackoff: true }]) {
    t.test(
      `${name}: what denials cost on one window of a group denies nothing on another, ${Object.keys(penalty)}`,
      async t => {
        const app = await limited(t, { ...options(t), ...penalty, global: false }, app => {
          app.get('/long', group(1, '1 hour'), async () => 'ok')
          app.get('/short', group(9, '1 minute'), async () => 'ok')
        })
        t.strictSame(await statuses(app, 3, '/long'), [200, 429, 429])
        t.strictSame(await statuses(app, 2, '/short'), [200, 200])
        t.strictSame(await statuses(app, 1, '/long'), [429])
      },
    )
  }

  t.test(`${name}: policies called a and a:block, with a penalty, count apart`, async t => {
    const app = await limited(t, {
      ...options(t),
      continueExceeding: true,
      policies: [
        { name: 'a', max: 1, timeWindow: '1 hour', cost: 1 },
        { name: 'a:block', max: 3, timeWindow: '1 hour', cost: 1 },
        { name: 'a:count', max: 3, timeWindow: '1 hour', cost: 1 },
      ],
    })
    t.strictSame(await statuses(app, 3), [200, 429, 429])
    const { policies = [] } = (await app.rateLimiter.status('lone')) ?? {}
    t.strictSame(
      policies.map(({ name, remaining }) => `${name} ${remaining}`),
      ['a 0', 'a:block 2', 'a:count 2'],
    )
  })
}

t.test('a client of a short route alone does not make the log of the long window grow', async t => {
  const shared = inRedis(t)
  const app = await limited(t, { ...shared, global: false }, app => {
    app.get('/long', group(1_000_000, '1 hour'), async () => 'ok')
    app.get('/short', group(90, 20), async () => 'ok')
  })
  for (let round = 0; round < 60; round++) await Promise.all(Array.from({ length: 40 }, () => ask(app, '/short')))
  const redis = redisClient(t)
  const keys = await redis.keys(`${shared.nameSpace}*`)
  t.ok(keys.length >= 1)
  for (const key of keys) t.ok((await redis.zcard(key)) <= 128, `${await redis.zcard(key)} entries`)
})

t.test('a function that gives ever new windows, and so limits nobody, is warned of once', async t => {
  const warnings: string[] = []
  const stream = { write: (line: string) => void warnings.push(JSON.parse(line).msg) }
  let windowMs = 60_000
  const app = await limited(t, { max: 1, timeWindow: () => windowMs++ }, undefined, {
    logger: { level: 'warn', stream },
  })
  await statuses(app, 99)
  t.strictSame(warnings, [])
  await statuses(app, 50)
  t.match(warnings, [/'timeWindow' has returned 100 different windows.* 'calendar day'/])
  t.equal(warnings.length, 1)
})
