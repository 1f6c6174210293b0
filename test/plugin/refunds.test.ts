/** What a request gives back by itself: `request.rateLimit.refund`. */
import type { RequestRateLimit } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { type App, ask, limited, STORES, statuses } from '../support/plugin.js'

const used = async (app: App) =>
  Object.fromEntries(
    ((await app.rateLimiter.status('lone'))?.policies ?? []).map(({ name, limit, remaining }) => [
      name,
      limit - remaining,
    ]),
  )

for (const { name, options } of STORES) {
  /** Two policies, charged 5 each by a request, which then does what the test says. */
  const withPolicies = async (test: Test, act: (rateLimit: RequestRateLimit) => Promise<unknown>) => {
    const app = await limited(
      test,
      {
        ...options(test),
        policies: [
          { name: 'a', max: 100, timeWindow: '1 hour', cost: 5 },
          { name: 'b', max: 200, timeWindow: '1 hour', cost: 5 },
        ],
      },
      app => {
        app.get('/plain', async () => 'ok')
        app.get('/', async request => {
          await act(request.rateLimit as RequestRateLimit)
          return 'ok'
        })
      },
    )
    test.strictSame(await statuses(app, 2, '/plain'), [200, 200])
    test.strictSame(await statuses(app, 1), [200])
    return used(app)
  }

  t.test(`${name}: a part can be given back, again and again, and never more than was charged`, async t => {
    const steps: [number | undefined, number][] = [
      [2, 13],
      [2, 11],
      [9, 10],
      [1, 10],
      [undefined, 10],
    ]
    const app = await limited(t, { ...options(t), max: 100, timeWindow: '1 hour', cost: 5 }, app => {
      app.get('/plain', async () => 'ok')
      app.get('/', async request => {
        const seen: unknown[] = []
        for (const [cost] of steps) {
          await request.rateLimit?.refund(cost)
          seen.push((await used(app)).default)
        }
        return seen
      })
    })
    t.strictSame(await statuses(app, 2, '/plain'), [200, 200])
    t.strictSame(
      (await ask(app)).json(),
      steps.map(([, left]) => left),
    )
  })

  t.test(`${name}: refunds at the same time give back what one of them would`, async t => {
    const all = await withPolicies(t, rateLimit => Promise.all([1, 2, 3, 4].map(() => rateLimit.refund())))
    t.strictSame(all, { a: 10, b: 10 })
    const parts = await withPolicies(t, rateLimit => Promise.all([1, 2, 3, 4].map(() => rateLimit.refund(2))))
    t.strictSame(parts, { a: 10, b: 10 })
  })

  t.test(`${name}: by name, only those policies get something back`, async t => {
    t.strictSame(await withPolicies(t, rateLimit => rateLimit.refund({ a: 3 })), { a: 12, b: 15 })
    t.strictSame(await withPolicies(t, rateLimit => rateLimit.refund({ a: 99, b: 1 })), { a: 10, b: 14 })
  })

  t.test(`${name}: a cost of a policy that there is not is refused by name, and nothing changes`, async t => {
    const result = await withPolicies(t, async rateLimit => {
      const unknown = { code: 'ML_RATE_INVALID_OPTION', message: /'cost' is for 'c'; allowed: .* any of a, b/ }
      await t.rejects(rateLimit.charge({ c: 7 }), unknown)
      await t.rejects(rateLimit.charge({ a: 7, c: 7 }), unknown)
      await t.rejects(rateLimit.refund({ a: 1, c: 7 }), unknown)
    })
    t.strictSame(result, { a: 15, b: 15 })
  })

  t.test(`${name}: a cost of the permits is refused: they have none`, async t => {
    const app = await limited(t, { ...options(t), max: 5, concurrency: { max: 3 } }, app => {
      app.get('/', async request => request.rateLimit?.charge({ concurrency: 1 }))
    })
    t.match((await ask(app)).json(), { message: /'cost' is for 'concurrency'; allowed: .* any of default/ })
    await t.rejects(app.rateLimiter.refund('lone', { concurrency: 1 }), { code: 'ML_RATE_INVALID_OPTION' })
  })

  t.test(`${name}: what was charged later is given back only where a cost is named`, async t => {
    const charged = async (rateLimit: RequestRateLimit, ...costs: (number | undefined)[]) => {
      await rateLimit.charge(7)
      for (const cost of costs) await rateLimit.refund(cost)
    }
    t.strictSame(await withPolicies(t, rateLimit => charged(rateLimit)), { a: 22, b: 22 })
    t.strictSame(await withPolicies(t, rateLimit => charged(rateLimit, undefined)), { a: 17, b: 17 })
    t.strictSame(await withPolicies(t, rateLimit => charged(rateLimit, 4)), { a: 18, b: 18 })
    t.strictSame(await withPolicies(t, rateLimit => charged(rateLimit, 4, undefined)), { a: 13, b: 13 })
    t.strictSame(await withPolicies(t, rateLimit => charged(rateLimit, 99, 99)), { a: 10, b: 10 })
  })

  t.test(`${name}: a charge of one policy is given back to that policy`, async t => {
    const result = await withPolicies(t, async rateLimit => {
      await rateLimit.charge({ b: 20 })
      await rateLimit.refund(8)
    })
    t.strictSame(result, { a: 10, b: 27 })
  })

  t.test(`${name}: a cost that is none is refused, and nothing is given back`, async t => {
    const result = await withPolicies(t, async rateLimit => {
      for (const cost of [-1, Number.NaN, Number.POSITIVE_INFINITY, 1.5, '3' as never, { a: -1 }]) {
        await t.rejects(rateLimit.refund(cost), { code: 'ML_RATE_INVALID_ANSWER' }, `${JSON.stringify(cost)}`)
      }
      await rateLimit.refund(0)
    })
    t.strictSame(result, { a: 15, b: 15 })
  })

  t.test(`${name}: a request of a group gives back to every window of the group`, async t => {
    const of = (max: number, timeWindow: string) => ({ config: { rateLimit: { groupId: 'g', max, timeWindow } } })
    const app = await limited(t, { ...options(t), global: false }, app => {
      app.get('/hour', of(5, '1 hour'), async () => 'ok')
      app.get('/day', of(200, '1 day'), async () => 'ok')
      app.get('/refund', of(9, '1 minute'), async request => {
        await request.rateLimit?.refund()
        return 'ok'
      })
    })
    t.strictSame(await statuses(app, 2, '/hour'), [200, 200])
    t.strictSame(await statuses(app, 6, '/refund'), Array(6).fill(200))
    t.equal((await ask(app, '/hour')).headers['x-ratelimit-remaining'], '2')
    t.equal((await ask(app, '/day')).headers['x-ratelimit-remaining'], '196')
    t.equal((await ask(app, '/refund')).headers['x-ratelimit-remaining'], '4')
  })
}
