import fc from 'fast-check'
import { Redis } from 'ioredis'
import t from 'tap'
import type { Answer } from '../../../plugin/src/stores/store.js'
import { checkOf, memoryStore, redisStore, type TimedStore } from '../../support/stores.js'

const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
t.teardown(() => redis.disconnect())

/** `beforeMs`: how long before its time a request is still known to be denied; Redis has a clock of its own. */
const STORES: readonly { open: () => TimedStore; beforeMs: number; runs: number }[] = [
  { open: () => memoryStore(), beforeMs: 1, runs: Number(process.env.FC_RUNS ?? 500) },
  { open: () => redisStore(redis), beforeMs: 1500, runs: Number(process.env.FC_RUNS ?? 100) },
]

const filling = fc.record({
  precision: fc.constantFrom(0, 0.01),
  limits: fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 3 }),
  steps: fc.array(
    fc.record({ cost: fc.integer({ min: 1, max: 60 }), share: fc.double({ min: 0, max: 0.2, noNaN: true }) }),
    { minLength: 1, maxLength: 25 },
  ),
  cost: fc.integer({ min: 1, max: 300 }),
})

for (const { open, beforeMs, runs } of STORES) {
  t.test(`${open().name}: a denied request is admitted when its wait is over, and not before`, async t => {
    let denials = 0
    await fc.assert(
      fc.asyncProperty(filling, async ({ precision, limits, steps, cost }) => {
        const timed = open()
        const at = (units: number) =>
          checkOf(
            limits.map((limit, index) => ({
              name: `p${index}`,
              limit,
              windowMs: (index + 1) * 600_000,
              cost: Math.min(units, limit),
            })),
            { precision },
          )
        try {
          for (const step of steps) {
            await timed.pass(Math.round(step.share * 600_000))
            await timed.store.check(at(step.cost))
          }
          const first = await timed.store.check(at(cost))
          const wait = Math.max(...first.policies.map(({ retryMs }) => retryMs))
          if (first.allowed || wait <= 2 * beforeMs) return
          denials++
          const asked = async (): Promise<Answer> => timed.store.peek(at(cost))
          await timed.pass(Math.ceil(wait) - beforeMs)
          if ((await asked()).allowed) throw new Error(`admitted ${beforeMs} ms before the ${wait} ms were over`)
          await timed.pass(beforeMs)
          const { allowed } = await timed.store.check(at(cost))
          if (!allowed) throw new Error(`denied after ${wait} ms`)
        } finally {
          await timed.close()
        }
      }),
      { numRuns: runs },
    )
    t.ok(denials > runs / 10, `${denials} denials in ${runs} histories`)
  })
}

t.test('the clock of Redis steps back: nobody gets more, and nobody waits longer than step and window', async t => {
  const timed = redisStore(redis)
  t.teardown(() => timed.close())
  const check = checkOf([{ limit: 3, windowMs: 60_000 }])
  const ask = async () => timed.store.check(check)
  await ask()
  await ask()
  await timed.pass(-30_000)
  t.match(await ask(), { allowed: true }, 'there was room')
  const denied = await ask()
  t.match(denied, { allowed: false })
  const [{ retryMs }] = denied.policies as [Answer['policies'][number]]
  t.ok(retryMs > 0 && retryMs <= 60_000, `${retryMs} ms: the wait is never longer than the window`)
  await timed.pass(30_000)
  t.match(await ask(), { allowed: false })
  await timed.pass(60_001)
  t.match(await ask(), { allowed: true })
})

t.test('the clock of Redis steps forward: one window later all is as if it had not', async t => {
  const timed = redisStore(redis)
  t.teardown(() => timed.close())
  const check = checkOf([{ limit: 2, windowMs: 60_000 }])
  const answers: boolean[] = []
  for (const step of [0, 0, 0, 30_000, 30_001, 0, 0]) {
    await timed.pass(step)
    answers.push((await timed.store.check(check)).allowed)
  }
  t.strictSame(answers, [true, true, false, false, true, true, false])
})
