/** The permits that a process holds: renewed while it lives, and given back once. The clock is moved by hand. */
import t from 'tap'
import type { Connection } from '../../../plugin/src/stores/redis/client.js'
import type { Permit } from '../../../plugin/src/stores/redis/permits.js'
import { atTimeByHand } from '../../support/time-by-hand.js'

const { time, modules } = await atTimeByHand(() => import('../../../plugin/src/stores/redis/permits.js'))

/** Notes what it is asked. What scripts do is shown on a real Redis; here it is which keys go together. */
function recorder() {
  time.clearAll()
  const renewed: [keys: string, args: string][] = []
  const released: Permit[] = []
  const connection = {
    status: 'ready' as Connection['status'],
    evalsha: async (_sha: string, keys: readonly string[], args: readonly unknown[]) => {
      renewed.push([keys.join(' '), args.join(' ')])
      throw new Error('gone')
    },
  }
  const permits = new modules.Permits(connection as unknown as Connection, permit => released.push(permit))
  return { connection, permits, renewed, released }
}

t.test('permits are renewed three times in a life, together where they share a slot and a life', async t => {
  const { permits, renewed } = recorder()
  permits.hold('n{a}l', 1, 150)
  permits.hold('n{a}l', 2, 150)
  permits.hold('n{b}l', 3, 150)
  permits.hold('n{a}l', 4, 300)
  t.equal(time.waiting, 2, 'a timer for each life')
  time.advance(49)
  t.strictSame(renewed, [])
  time.advance(1)
  t.strictSame(renewed.splice(0), [
    ['n{a}l n{a}l', '150000 1 2'],
    ['n{b}l', '150000 3'],
  ])
  time.advance(50)
  t.strictSame(renewed.splice(2), [['n{a}l', '300000 4']])
  await new Promise(resolve => setImmediate(resolve))
  permits.close()
  t.equal(time.waiting, 0)
})

t.test('a life of less than three milliseconds is renewed each millisecond', async t => {
  const { permits, renewed } = recorder()
  permits.hold('k', 1, 2)
  time.advance(3)
  t.equal(renewed.length, 3)
})

t.test('64 permits are renewed in a call at most', async t => {
  const { permits, renewed } = recorder()
  for (let number = 0; number < 65; number++) permits.hold('k', number, 90)
  time.advance(30)
  t.strictSame(
    renewed.map(([keys]) => keys.split(' ').length),
    [64, 1],
  )
})

t.test('without a connection nothing is renewed', async t => {
  const { connection, permits, renewed } = recorder()
  permits.hold('k', 1, 90)
  connection.status = 'connecting'
  time.advance(30)
  t.strictSame(renewed, [])
  connection.status = 'ready'
  time.advance(30)
  t.equal(renewed.length, 1)
})

t.test(
  'a permit is given back once, one of a set that was reset not at all, and the timer ends with the last',
  async t => {
    const { permits, released, renewed } = recorder()
    const leases = [1, 2, 3].map(number => permits.hold('k', number, 90))
    const other = permits.hold('other', 9, 90)
    t.equal(permits.count('k'), 3)
    t.equal(permits.count('none'), 0)
    leases[0]?.release()
    leases[0]?.release()
    t.strictSame(released.splice(0), [{ key: 'k', number: 1, ttlMs: 90 }])
    t.equal(permits.count('k'), 2)
    time.advance(30)
    t.strictSame(renewed.splice(0), [
      ['k k', '90000 2 3'],
      ['other', '90000 9'],
    ])
    permits.forget('k')
    t.equal(permits.count('k'), 0)
    leases[1]?.release()
    t.strictSame(released, [])
    t.equal(permits.sets, 1)
    other.release()
    t.equal(permits.sets, 0)
    t.equal(released.length, 1)
    time.advance(30)
    t.strictSame(renewed, [])
    t.equal(time.waiting, 0)
    permits.hold('k', 4, 90)
    leases[2]?.release()
    t.equal(permits.count('k'), 1, 'a permit from before the reset is no longer one of the set')
    time.advance(30)
    t.strictSame(renewed, [['k', '90000 4']])
  },
)

t.test('after the end permits can be given back, and are not renewed', async t => {
  const { permits, released, renewed } = recorder()
  const lease = permits.hold('k', 1, 90)
  permits.close()
  time.advance(90)
  t.strictSame(renewed, [])
  lease.release()
  t.equal(released.length, 1)
})
