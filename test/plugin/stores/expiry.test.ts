import fc from 'fast-check'
import { Redis } from 'ioredis'
import t from 'tap'
import { connectionOf } from '../../../plugin/src/clients/index.js'
import { RedisStore } from '../../../plugin/src/stores/redis/redis-store.js'
import type { Penalty } from '../../../plugin/src/stores/store.js'
import { longestLife } from '../../support/log.js'
import { checkOf, refundsOf } from '../../support/stores.js'

const RUNS = Number(process.env.FC_RUNS ?? 60)
const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
t.teardown(() => redis.disconnect())
let spaces = 0

/** Everything under a name space: bytes and what is left of its life. */
async function contents(nameSpace: string): Promise<Map<string, { bytes: Buffer; ttl: number }>> {
  const found = new Map<string, { bytes: Buffer; ttl: number }>()
  for (const key of await redis.keys(`${nameSpace}*`)) {
    found.set(key, { bytes: await redis.dumpBuffer(key), ttl: await redis.pttl(key) })
  }
  return found
}

const LONGEST_MS = 3_600_000
const steps = fc.array(
  fc.record({
    do: fc.constantFrom('check', 'check', 'check', 'peek', 'charge', 'refund'),
    key: fc.constantFrom('a', 'b'),
    limit: fc.constantFrom(0, 1, 3, 200),
    windowMs: fc.constantFrom(60_000, 600_000, LONGEST_MS),
    cost: fc.integer({ min: 1, max: 3 }),
  }),
  { minLength: 1, maxLength: 25 },
)

t.test('every key ends with its window, and what charges nothing changes no byte and prolongs no life', async t => {
  await fc.assert(
    fc.asyncProperty(
      steps,
      fc.constantFrom<Penalty>('none', 'count', 'renew'),
      fc.boolean(),
      async (list, penalty, places) => {
        const nameSpace = `expiry${process.pid}.${spaces++}:`
        const store = new RedisStore(connectionOf(redis), { nameSpace, timeoutMs: 10_000 })
        try {
          for (const [index, { do: operation, key, limit, windowMs, cost }] of list.entries()) {
            const check = checkOf([{ limit, windowMs, cost }], {
              key,
              penalty,
              precision: 0.01,
              ...(places && { concurrency: { max: 2, ttlMs: 60_000 } }),
            })
            const before = await contents(nameSpace)
            const answer =
              operation === 'refund'
                ? void (await store.refund(check, refundsOf(check)))
                : await store[operation](check)
            const after = await contents(nameSpace)
            const where = `step ${index}, ${operation}`
            for (const [name, { bytes, ttl }] of after) {
              if (!(ttl > 0 && ttl <= longestLife(LONGEST_MS)))
                throw new Error(`${name} lives for ${ttl} ms after ${where}`)
              const then = before.get(name)
              const isPenalty = /\}\d\.[-!]/.test(name)
              const charged =
                operation === 'charge' || operation === 'refund' || (operation === 'check' && answer?.allowed)
              if (charged || (isPenalty && operation === 'check')) continue
              if (then === undefined) throw new Error(`${name} was made by ${where}`)
              if (!then.bytes.equals(bytes)) throw new Error(`${name} was changed by ${where}`)
              if (ttl > then.ttl) throw new Error(`the life of ${name} was prolonged by ${where}`)
            }
            const others = [...after].filter(([name]) => !name.includes(`{${key}}`))
            for (const [name, { bytes }] of others) {
              if (before.get(name)?.bytes.equals(bytes) !== true) throw new Error(`${name} was touched by ${where}`)
            }
          }
        } finally {
          store.close()
          const left = await redis.keys(`${nameSpace}*`)
          if (left.length > 0) await redis.del(...left)
        }
      },
    ),
    { numRuns: RUNS },
  )
  t.pass(`${RUNS} histories`)
})
