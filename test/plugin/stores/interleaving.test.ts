import fc from 'fast-check'
import { Redis } from 'ioredis'
import t from 'tap'
import { connectionOf } from '../../../plugin/src/clients/index.js'
import { RedisStore } from '../../../plugin/src/stores/redis/redis-store.js'
import type { Answer } from '../../../plugin/src/stores/store.js'
import { checkOf } from '../../support/stores.js'

const RUNS = Number(process.env.FC_RUNS ?? 60)
const clients = [0, 1, 2].map(() => new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379'))
t.teardown(() => clients.map(client => client.disconnect()))
let spaces = 0

const crowd = fc.record({
  limits: fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 2 }),
  asked: fc.array(
    fc.record({
      replica: fc.integer({ min: 0, max: 2 }),
      key: fc.constantFrom('a', 'b', 'c'),
      costs: fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 2, maxLength: 2 }),
      turn: fc.integer({ min: 0, max: 3 }),
    }),
    { minLength: 1, maxLength: 200 },
  ),
})

t.test(
  'replicas that ask at once, in any order: every quota is used up and none is overdrawn, all policies or none',
  async t => {
    await fc.assert(
      fc.asyncProperty(crowd, async ({ limits, asked }) => {
        const nameSpace = `interleaving${process.pid}.${spaces++}:`
        const stores = clients.map(client => new RedisStore(connectionOf(client), { nameSpace, timeoutMs: 10_000 }))
        const checkAt = ({ key, costs }: { key: string; costs: readonly number[] }) =>
          checkOf(
            limits.map((limit, at) => ({ name: `p${at}`, limit, windowMs: 3_600_000, cost: costs[at] as number })),
            { key },
          )
        try {
          const answers = await Promise.all(
            asked.map(async (one): Promise<Answer> => {
              for (let turn = 0; turn < one.turn; turn++) await new Promise(resolve => setImmediate(resolve))
              return (stores[one.replica] as RedisStore).check(checkAt(one))
            }),
          )
          for (const key of ['a', 'b', 'c']) {
            const of = asked
              .map((one, at) => ({ ...one, allowed: (answers[at] as Answer).allowed }))
              .filter(one => one.key === key)
            const admitted = of.filter(({ allowed }) => allowed)
            const charged = limits.map((_, at) =>
              admitted.reduce((total, { costs }) => total + (costs[at] as number), 0),
            )
            const { policies } = await (stores[0] as RedisStore).peek(checkAt({ key, costs: [0, 0] }))
            for (const [at, limit] of limits.entries()) {
              const used = charged[at] as number
              if (used > limit) throw new Error(`${used} of ${limit} were admitted`)
              if (policies[at]?.used !== used)
                throw new Error(`${used} were admitted, ${policies[at]?.used} are counted`)
            }
            const wrong = of.find(
              ({ allowed, costs }) =>
                !allowed && limits.every((limit, at) => (charged[at] as number) + (costs[at] as number) <= limit),
            )
            if (wrong) throw new Error(`denied although there was room: ${JSON.stringify(wrong)}`)
          }
        } finally {
          for (const store of stores) store.close()
          const [first] = clients as [Redis]
          const left = await first.keys(`${nameSpace}*`)
          if (left.length > 0) await first.del(...left)
        }
      }),
      { numRuns: RUNS },
    )
    t.pass(`${RUNS} crowds`)
  },
)
