import t from 'tap'
import type { RedisClient } from '../../../plugin/src/stores/redis-client.js'
import { Leases } from '../../../plugin/src/stores/redis-leases.js'
import { until } from '../../support/redis-fleet.js'

/** Notes what it is asked. What scripts do is shown on a real Redis; here it is which keys go together. */
function recorder(isCluster: boolean) {
  const renewed: string[][] = []
  const removed: unknown[] = []
  const client = {
    status: 'ready',
    isCluster,
    zrem: async (...args: unknown[]) => removed.push(args),
  } as unknown as RedisClient & { status: string }
  const leases = new Leases(client, async (_script, keys) => renewed.push([...keys]))
  return { client, leases, renewed, removed }
}

t.test('leases are renewed together, in a cluster only those of one slot, and not without a connection', async t => {
  const { client, leases, renewed } = recorder(true)
  leases.hold('n{a}l', 1, 150)
  leases.hold('n{a}l', 2, 150)
  leases.hold('n{b}l', 3, 150)
  await until('they were renewed', async () => renewed.length >= 2)
  t.strictSame(
    renewed.slice(0, 2).map(keys => keys.length),
    [2, 1],
  )
  client.status = 'reconnecting'
  await new Promise(resolve => setTimeout(resolve, 60))
  const before = renewed.length
  await new Promise(resolve => setTimeout(resolve, 120))
  t.equal(renewed.length, before)
  leases.close()
})

t.test('a lease is given back once, and the timer ends with the last', async t => {
  const { client, leases, removed, renewed } = recorder(false)
  const [one, two] = [leases.hold('k', 1, 90), leases.hold('k', 2, 90)]
  one.release()
  one.release()
  t.strictSame(removed, [['k', 1]])
  client.status = 'end'
  two.release()
  t.equal(removed.length, 1, 'without a connection it ends by itself')
  client.status = 'ready'
  await new Promise(resolve => setTimeout(resolve, 80))
  t.equal(renewed.length, 0)
  leases.hold('k', 3, 90)
  await until('a new one is renewed again', async () => renewed.length > 0)
  leases.close()
})
