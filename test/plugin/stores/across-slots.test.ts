/** Keys in several slots of a cluster, on a Redis that a connection takes for one. */
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { connectionOf } from '../../../plugin/src/clients/index.js'
import type { Connection } from '../../../plugin/src/stores/redis/client.js'
import { RedisStore } from '../../../plugin/src/stores/redis/redis-store.js'
import type { Answer, Check } from '../../../plugin/src/stores/store.js'
import { until } from '../../support/redis-fleet.js'
import { checkOf } from '../../support/stores.js'

const HOUR = 3_600_000
let spaces = 0

/** `change`: what of the connection is another than that of the tests' Redis. */
function storeOn(t: Test, change: (real: Connection) => Partial<Connection>): RedisStore {
  const client = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
  const real = connectionOf(client)
  const connection: Connection = Object.assign(Object.create(real), change(real))
  const nameSpace = `across${process.pid}.${spaces++}:`
  const store = new RedisStore(connection, { nameSpace, timeoutMs: 10_000 })
  t.teardown(() => {
    store.close()
    client.disconnect()
  })
  return store
}

const usedOf = ({ policies }: Answer) => policies.map(({ used }) => used)

t.test('a charge is counted for the key of each policy, whichever slot it is in, also above its quota', async t => {
  const store = storeOn(t, () => ({ isCluster: true, nodeOf: () => 'one' }))
  const of = (own: number, team: number): Check => ({
    ...checkOf([
      { name: 'own', limit: 5, windowMs: HOUR, cost: own },
      { name: 'team', limit: 9, windowMs: HOUR, cost: team },
    ]),
    keys: ['a', 'b'],
  })
  t.match(await store.charge(of(2, 3)), { allowed: true, policies: [{ used: 2 }, { used: 3 }] })
  t.match(await store.charge(of(4, 1)), { allowed: true, policies: [{ used: 6, retryMs: 0 }, { used: 4 }] })
  t.strictSame(usedOf(await store.peek(of(0, 0))), [6, 4])
  t.match(await store.check(of(1, 1)), { allowed: false })
  t.strictSame(usedOf(await store.peek(of(0, 0))), [6, 4])
})

t.test(
  'permits of several slots that go back in one turn are free, where a plain client leads to a cluster',
  async t => {
    const slots = (keys: readonly string[]) => new Set(keys.map(key => /\{.*?\}/.exec(key)?.[0])).size
    let refused = 0
    const store = storeOn(t, real => ({
      evalsha: async (sha, keys, args) => {
        if (slots(keys) < 2) return real.evalsha(sha, keys, args)
        refused++
        throw new Error("CROSSSLOT Keys in request don't hash to the same slot")
      },
    }))
    const of = (key: string) => checkOf([{ limit: 9, windowMs: HOUR }], { key, concurrency: { max: 1, ttlMs: HOUR } })
    const held = [await store.check(of('a')), await store.check(of('b'))]
    for (const { concurrency } of held) concurrency?.lease?.release()
    // The turn ends with no check that they could go with.
    await new Promise(resolve => setImmediate(resolve))
    for (const key of ['a', 'b']) {
      await until('it is free', async () => (await store.peek(of(key))).concurrency?.inFlight === 0)
    }
    t.equal(refused, 1)
  },
)
