import t from 'tap'
import type { Connection } from '../../../plugin/src/stores/redis/client.js'
import { type Permit, Permits } from '../../../plugin/src/stores/redis/permits.js'
import { until } from '../../support/redis-fleet.js'

/** Notes what it is asked. What scripts do is shown on a real Redis; here it is which keys go together. */
function recorder() {
  const renewed: string[][] = []
  const released: Permit[] = []
  const connection = {
    status: 'ready' as Connection['status'],
    evalsha: async (_sha: string, keys: readonly string[]) => renewed.push([...keys]),
  }
  const permits = new Permits(connection as unknown as Connection, permit => released.push(permit))
  return { connection, permits, renewed, released }
}

t.test('permits are renewed together where they share a slot, and not without a connection', async t => {
  const { connection, permits, renewed } = recorder()
  permits.hold('n{a}l', 1, 150)
  permits.hold('n{a}l', 2, 150)
  permits.hold('n{b}l', 3, 150)
  t.equal(permits.count('n{a}l'), 2)
  await until('they were renewed', async () => renewed.length >= 2)
  t.strictSame(
    renewed.slice(0, 2).map(keys => keys.length),
    [2, 1],
  )
  connection.status = 'connecting'
  await new Promise(resolve => setTimeout(resolve, 60))
  const before = renewed.length
  await new Promise(resolve => setTimeout(resolve, 120))
  t.equal(renewed.length, before)
  permits.close()
})

t.test(
  'a permit is given back once, one of a set that was reset not at all, and the timer ends with the last',
  async t => {
    const { permits, released, renewed } = recorder()
    const [one, two] = [permits.hold('k', 1, 90), permits.hold('k', 2, 90)]
    one.release()
    one.release()
    t.match(released, [{ key: 'k', number: 1 }])
    permits.forget('k')
    two.release()
    t.equal(released.length, 1)
    await new Promise(resolve => setTimeout(resolve, 80))
    t.equal(renewed.length, 0)
    permits.hold('k', 3, 90)
    await until('a new one is renewed again', async () => renewed.length > 0)
    permits.close()
  },
)
