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
