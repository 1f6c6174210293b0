/** Budgets: policies of a calendar period, which does not slide. */
import type { FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { Limiter } from '../../plugin/src/limiter.js'
import { overlay, parseLimiter } from '../../plugin/src/options/parse.js'
import { LONGEST_PERIOD_MS, spanAt } from '../../plugin/src/period.js'
import { MemoryStore } from '../../plugin/src/stores/memory/memory-store.js'
import type { Outage } from '../../plugin/src/stores/redis/outage.js'
import { type Check, OtherPeriod, type Store } from '../../plugin/src/stores/store.js'
import { type App, ask, inRedis, limited, redisClient, STOPPED, STORES, statuses } from '../support/plugin.js'
import { storeClock } from '../support/store-clock.js'

const budget = { name: 'monthly', max: 4, timeWindow: 'calendar month' }

t.test('a period ends where the next one begins, at 00:00 UTC, in every month of four years', async t => {
  for (const period of ['day', 'month'] as const) {
    for (let now = Date.UTC(2027, 0, 1); now < Date.UTC(2031, 0, 1); now += 7_776_543) {
      const { label, leftMs } = spanAt(period, now)
      const end = now + leftMs
      t.ok(leftMs > 0 && leftMs <= LONGEST_PERIOD_MS[period])
      if (spanAt(period, end - 1).label !== label) t.fail(`the last moment of ${label}`)
      if (spanAt(period, end).label === label) t.fail(`the first moment after ${label}`)
      if (new Date(end).toISOString().slice(10) !== 'T00:00:00.000Z') t.fail(`${label} ends at ${end}`)
    }
  }
  t.strictSame(spanAt('month', Date.UTC(2028, 1, 29)), {
    ...{ period: 'month', label: '2028-02', leftMs: 86_400_000 },
    ...{ fromMs: Date.UTC(2028, 1, 1), untilMs: Date.UTC(2028, 2, 1) },
  })
})

for (const { name, open } of STOPPED) {
  t.test(`${name}: a budget and windows are one decision: charged to all, or to none`, async t => {
    const { options, pass } = open(t)
    const app = await limited(t, {
      ...options,
      policies: [{ name: 'burst', max: 3, timeWindow: '1 minute' }, budget],
    })
    t.strictSame(await statuses(app, 4), [200, 200, 200, 429])
    const left = async () => (await app.rateLimiter.status('lone'))?.policies.map(({ remaining }) => remaining)
    t.strictSame(await left(), [0, 1], 'a denial by the window cost the budget nothing')
    pass(60_001)
    t.strictSame(await statuses(app, 2), [200, 429])
    t.strictSame(await left(), [2, 0], 'a denial by the budget cost the window nothing')
    await app.rateLimiter.reset('lone')
    t.strictSame(await left(), [3, 4])
  })
}

for (const { name, options } of STORES) {
  t.test(`${name}: headers and decisions tell a budget from a window, and when its period ends`, async t => {
    const app = await limited(
      t,
      { ...options(t), policies: [{ name: 'burst', max: 30, timeWindow: '1 second' }, budget] },
      app => app.get('/', async request => request.rateLimit?.policies),
    )
    const first = await ask(app)
    const { leftMs } = spanAt('month', Date.now())
    t.equal(first.headers['ratelimit-policy'], '"burst";q=30;w=1, "monthly";q=4;period="month"')
    const [burst, monthly] = first.json()
    t.notOk('period' in burst)
    t.match(monthly, { name: 'monthly', limit: 4, remaining: 3, period: 'month' })
    t.ok(Math.abs(monthly.reset - leftMs) < 60_000 || leftMs < 60_000, `${monthly.reset} of ${leftMs}`)
    await statuses(app, 3)
    const denied = await ask(app)
    t.equal(denied.statusCode, 429)
    t.ok(Math.abs(Number(denied.headers['retry-after']) * 1000 - leftMs) < 60_000 || leftMs < 60_000)
  })

  t.test(`${name}: a refund goes back to the budget, and cost known later is charged to it`, async t => {
    const app = await limited(t, { ...options(t), policies: [budget] }, app => {
      app.get('/', async request => {
        await request.rateLimit?.charge(2)
        return 'ok'
      })
      app.get('/back', async request => {
        await request.rateLimit?.refund()
        return 'ok'
      })
    })
    t.strictSame(await statuses(app, 3, '/back'), [200, 200, 200])
    t.strictSame(await statuses(app, 3), [200, 200, 429], '6 of 4 are used')
  })
}

t.test('in the process a budget begins anew with its period, whatever was used at the end of the last', async t => {
  const { now } = Date
  let time = Date.UTC(2027, 10, 30, 23, 59, 59)
  Date.now = () => time
  t.teardown(() => {
    Date.now = now
  })
  const daily = { name: 'daily', max: 3, timeWindow: 'calendar day' }
  const app = await limited(t, { policies: [budget, daily] })
  t.strictSame(await statuses(app, 4), [200, 200, 200, 429])
  time += 999
  t.equal((await ask(app)).statusCode, 429, 'the last moment')
  time += 1
  t.strictSame(await statuses(app, 4), [200, 200, 200, 429], 'the first of the next day and month')
  time += 86_400_000
  t.strictSame(await statuses(app, 2), [200, 429], 'of the month one is left')
  time = Date.UTC(2028, 0, 1)
  t.strictSame(await statuses(app, 4), [200, 200, 200, 429])
})

t.test('in Redis a budget is one log of the period that the clock of Redis is in', async t => {
  const [, inRedis] = STORES
  const options = inRedis?.options(t) ?? {}
  const app = await limited(t, { ...options, policies: [budget] })
  await statuses(app, 6)
  const redis = redisClient(t)
  const [seconds] = await redis.time()
  const label = spanAt('month', Number(seconds) * 1000).label
  const keys = await redis.keys(`${options.nameSpace}*`)
  t.equal(keys.filter(key => key.includes(`#${label}:monthly`)).length, 1)
})

t.test('nothing of a budget is taken ahead, nor of the windows beside it', async t => {
  const { redis, ...options } = inRedis(t)
  const client = redis as ReturnType<typeof redisClient>
  const large = [
    { ...budget, max: 100_000 },
    { name: 'burst', max: 100_000, timeWindow: '1 minute' },
  ]
  const app = await limited(t, { ...options, redis, policies: large })
  let calls = 0
  const send = client.evalsha.bind(client) as (...args: unknown[]) => Promise<unknown>
  client.evalsha = ((...args: unknown[]) => {
    calls++
    return send(...args)
  }) as never
  await statuses(app, 60)
  t.equal(calls, 60)
  for (const policy of (await app.rateLimiter.status('lone'))?.policies ?? []) {
    t.match(policy, { remaining: 99_940, ahead: 0, prefetched: 0 })
  }
})

/** A moment before the end of January, when the month and the day are over at once. */
const EVE = Date.UTC(2028, 1, 1) - 60_000

/** Replicas on one Redis whose clock is set, with one name space. */
async function replicasAt(t: Test, count: number, policies: readonly object[], more: object = {}) {
  const { nameSpace } = inRedis(t)
  const replicas = await Promise.all(
    Array.from({ length: count }, async () => {
      const { redis, ...options } = inRedis(t)
      const clock = storeClock(redis as ReturnType<typeof redisClient>)
      const app = await limited(t, { ...options, redis, nameSpace, policies, denyMemory: false, ...more } as never)
      return { app, clock }
    }),
  )
  const set = (ms: number) => Promise.all(replicas.map(({ clock }) => clock.set(ms)))
  return { apps: replicas.map(({ app }) => app), set }
}

t.test('in Redis a budget begins anew at 00:00 UTC by its clock, in that very moment', async t => {
  const daily = { name: 'daily', max: 3, timeWindow: 'calendar day' }
  const { apps, set } = await replicasAt(t, 2, [budget, daily])
  const [one, two] = apps as [App, App]
  const left = async (app: App) => (await app.rateLimiter.status('lone'))?.policies.map(({ remaining }) => remaining)
  await set(EVE)
  t.strictSame([...(await statuses(one, 2)), ...(await statuses(two, 2))], [200, 200, 200, 429])
  t.strictSame(await left(two), [1, 0])
  const denied = await ask(one)
  t.equal(denied.statusCode, 429)
  t.ok(Number(denied.headers['retry-after']) <= 60, `${denied.headers['retry-after']} s to the end of the day`)

  // The replicas know the time from their last call alone, and that is the other month's.
  await set(Date.UTC(2028, 1, 1))
  t.equal((await ask(one)).statusCode, 200, 'the first of February')
  t.strictSame(await left(two), [3, 2], 'a look by the other, of both periods')
  t.strictSame(await statuses(two, 3), [200, 200, 429])
  await set(Date.UTC(2028, 1, 2))
  t.strictSame(await statuses(one, 2), [200, 429], 'of the month one was left')
  const month = await ask(two)
  t.ok(Number(month.headers['retry-after']) > 27 * 86_400, 'until the first of March')
})

t.test('the clock of Redis says which period it is, also to a replica that has asked it nothing yet', async t => {
  const { now } = Date
  const { apps, set } = await replicasAt(t, 2, [budget])
  const [one, two] = apps as [App, App]
  await set(EVE)
  t.strictSame(await statuses(one, 3), [200, 200, 200])
  Date.now = () => Date.UTC(2031, 5, 15)
  t.teardown(() => {
    Date.now = now
  })
  t.strictSame(await statuses(two, 2), [200, 429], 'its own clock counts for nothing')
})

t.test('a denial by a window as the period ends costs the new period nothing', async t => {
  const { apps, set } = await replicasAt(t, 1, [budget, { name: 'burst', max: 2, timeWindow: '1 hour' }])
  const [app] = apps as [App]
  await set(EVE)
  t.strictSame(await statuses(app, 3), [200, 200, 429])
  await set(EVE + 61_000)
  t.equal((await ask(app)).statusCode, 429, 'the window goes on')
  t.equal((await app.rateLimiter.status('lone'))?.policies[0]?.remaining, 4)
})

t.test('what is charged after the end of a period, and given back, belongs to the period of its request', async t => {
  let act: () => Promise<void> = async () => {}
  const { nameSpace, redis, ...options } = inRedis(t)
  const clock = storeClock(redis as ReturnType<typeof redisClient>)
  const app = await limited(t, { ...options, redis, nameSpace, policies: [budget] } as never, app => {
    app.get('/', async request => {
      await act()
      await request.rateLimit?.charge(2)
      await request.rateLimit?.refund(1)
      return 'ok'
    })
  })
  await clock.set(EVE)
  await ask(app)
  t.equal((await app.rateLimiter.status('lone'))?.policies[0]?.remaining, 2)
  act = () => clock.set(EVE + 61_000)
  await ask(app)
  t.equal((await app.rateLimiter.status('lone'))?.policies[0]?.remaining, 4, 'of February nothing is used')
})

t.test('it begins anew in the same way where replicas share the quota while Redis is away', async t => {
  const { apps, set } = await replicasAt(t, 1, [budget], { onStoreError: 'local' })
  const [app] = apps as [App]
  await set(EVE)
  t.strictSame(await statuses(app, 4), [200, 200, 200, 200])
  await set(EVE + 61_000)
  t.strictSame(await statuses(app, 5), [200, 200, 200, 200, 429])
})

t.test(
  'a period that ends while an outage does is asked for again, and the share of the old one is given back',
  async t => {
    const local = new MemoryStore(10)
    const asked: string[] = []
    let now = EVE
    const store = {
      now: () => now,
      check: async ({ policies }: Check) => {
        asked.push(policies[0]?.log as string)
        now = EVE + 61_000
        if (asked.length === 1) throw new OtherPeriod()
        return { allowed: true, policies: [{ used: 1, resetMs: 1, retryMs: 0, denials: 0 }] }
      },
    }
    const outage = { guards: 0, isGuarded: () => true, isAway: () => false, share: (check: Check) => check }
    const limiter = new Limiter({
      config: parseLimiter(
        overlay(
          { keyGenerator: () => 'client', onStoreError: 'local' },
          { policies: [budget], concurrency: { max: 2 } },
        ),
      ),
      id: 'id',
      group: undefined,
      store: store as unknown as Store,
      local,
      share: undefined,
      outage: () => outage as unknown as Outage,
    })
    t.match(await limiter.decide({} as FastifyRequest, false), { decision: { allowed: true } })
    t.strictSame(
      asked.map(log => [...local.usage(log, LONGEST_PERIOD_MS.month)]),
      [[], [['client', 1]]],
    )
    t.equal(local.held('client', 'id/permits'), 0)
  },
)
