/** How a replica returns to a cluster whose nodes have changed meanwhile. The cluster is made up. */
import t, { type Test } from 'tap'
import { StoreForeignKey, StoreTimeout } from '../../../plugin/src/errors.js'
import { MemoryStore } from '../../../plugin/src/stores/memory/memory-store.js'
import { redisKey } from '../../../plugin/src/stores/redis/codec.js'
import { Outage, type OutageParts } from '../../../plugin/src/stores/redis/outage.js'
import { RESTORE } from '../../../plugin/src/stores/redis/scripts.js'
import type { Answer, Check } from '../../../plugin/src/stores/store.js'
import { until } from '../../support/redis-fleet.js'
import { checkOf } from '../../support/stores.js'

const check = checkOf([{ limit: 5, windowMs: 3_600_000 }])

const used = (units: number) => ({ used: units, resetMs: 60_000, retryMs: 0, denials: 0 })

/** A replica, and a cluster in which the node `holder` has all keys. */
function replica(t: Test, charge: () => Answer = () => ({ allowed: true, policies: [used(2)] })) {
  const cluster = {
    holder: 'one',
    marker: 'its data',
    charges: [] as { node: string; cost: number | undefined }[],
    restored: [] as { keys: readonly string[]; args: readonly unknown[] }[],
  }
  const local = new MemoryStore(10)
  const parts = {
    connection: {
      status: 'ready',
      isCluster: true,
      nodeOf: () => cluster.holder,
      evalsha: async (sha: string, keys: readonly string[], args: readonly unknown[]) => {
        if (sha === RESTORE.sha) cluster.restored.push({ keys, args })
        return cluster.marker
      },
    },
    store: {
      nodes: ['one'],
      nodeOf: () => cluster.holder,
      held: () => 0,
      charge: async ({ policies }: Check) => {
        cluster.charges.push({ node: cluster.holder, cost: policies[0]?.cost })
        return charge()
      },
    },
    replicas: { seen: { count: 1, place: 0 }, isAlone: true, watch() {}, unwatch() {}, allClean: async () => {} },
    local,
    nameSpace: 'made-up:',
    stored: (key: string) => key,
    timeoutMs: 1000,
    capacity: 10,
  }
  const outage = new Outage(parts as unknown as OutageParts)
  t.teardown(() => outage.close())
  const admit = () => outage.gave(check, local.check(check), new StoreTimeout(1000))
  return { outage, cluster, admit }
}

t.test('what was admitted for a node that is gone is written to the one that has its keys now', async t => {
  const { outage, cluster, admit } = replica(t)
  outage.circuit(true, 'one')
  admit()
  admit()
  t.equal(outage.isGuarded(check), true)
  cluster.holder = 'two'
  outage.circuit(false, 'one')
  await until('it is written', async () => cluster.charges.length > 0 && !outage.isGuarded(check))
  t.strictSame(cluster.charges, [{ node: 'two', cost: 2 }])
})

t.test('what can never be written, as the key holds a foreign value, is given up, and the replica returns', async t => {
  const { outage, cluster, admit } = replica(t, () => {
    throw new StoreForeignKey()
  })
  for (let outages = 0; outages < 2; outages++) {
    outage.circuit(true, 'one')
    if (outages === 0) admit()
    outage.circuit(false, 'one')
    await until('it has returned', async () => !outage.isGuarded(check))
  }
  t.strictSame(cluster.charges, [{ node: 'one', cost: 1 }], 'once')
})

t.test('a node that has lost its data is told what was known of each log of a key, in one call', async t => {
  const { outage, cluster } = replica(t)
  const both = checkOf([
    { name: 'a', limit: 5, windowMs: 3_600_000 },
    { name: 'b', limit: 9, windowMs: 60_000 },
  ])
  outage.answered(both, { allowed: true, policies: [used(3), used(4)] })
  outage.heard('')
  await new Promise(resolve => setImmediate(resolve))
  outage.circuit(true, 'one')
  cluster.marker = 'other data'
  outage.circuit(false, 'one')
  await until('it has returned', async () => !outage.isGuarded(both))
  const keys = ['log.a', '~log.a', 'log.b', '~log.b'].map(name => redisKey('made-up:', 'client', name))
  t.strictSame(cluster.restored, [{ keys, args: [3, 3_600_000_000, 0, 0, 4, 60_000_000, 0, 0] }])
})
