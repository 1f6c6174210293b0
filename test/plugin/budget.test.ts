/** Budgets: policies of a calendar period, which does not slide. */
import t from 'tap'
import { LONGEST_PERIOD_MS, spanAt } from '../../plugin/src/period.js'
import { ask, limited, redisClient, STORES, statuses } from '../support/plugin.js'

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
  t.strictSame(spanAt('month', Date.UTC(2028, 1, 29)), { period: 'month', label: '2028-02', leftMs: 86_400_000 })
})

for (const { name, options } of STORES) {
  t.test(`${name}: a budget and windows are one decision: charged to all, or to none`, async t => {
    const app = await limited(t, {
      ...options(t),
      policies: [{ name: 'burst', max: 3, timeWindow: 300 }, budget],
    })
    t.strictSame(await statuses(app, 4), [200, 200, 200, 429])
    const left = async () => (await app.rateLimiter.status('lone'))?.policies.map(({ remaining }) => remaining)
    t.strictSame(await left(), [0, 1], 'a denial by the window cost the budget nothing')
    await new Promise(resolve => setTimeout(resolve, 350))
    t.strictSame(await statuses(app, 2), [200, 429])
    t.strictSame(await left(), [2, 0], 'a denial by the budget cost the window nothing')
    await app.rateLimiter.reset('lone')
    t.strictSame(await left(), [3, 4])
  })

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
  t.notOk(
    keys.some(key => key.includes(':take')),
    'nothing is taken ahead',
  )
})
