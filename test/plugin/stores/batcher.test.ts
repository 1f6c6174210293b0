/** Which checks, refunds and permits go in which call, and when they are given up. The clock is moved by hand. */
import slotOf from 'cluster-key-slot'
import t from 'tap'
import type { Connection } from '../../../plugin/src/stores/redis/client.js'
import type { Pending, Release } from '../../../plugin/src/stores/redis/codec.js'
import { atTimeByHand } from '../../support/time-by-hand.js'

const { time, modules } = await atTimeByHand(() => import('../../../plugin/src/stores/redis/batcher.js'))

/** As many checks as one call may hold. */
const FULL = 16

const LATE = 'The rate limit store did not answer within 500 ms'
const CLOSED = 'Connection is closed.'

/** A batcher; tells what it has sent, as texts. */
function batcher(given: { status?: Connection['status']; isCluster?: boolean } = {}) {
  time.clearAll()
  const connection = { status: given.status ?? 'ready', isCluster: given.isCluster ?? false, connects: 0, ready: 0 }
  let onReady = () => {}
  const said: string[] = []
  const permitsOf = (releases: readonly Release[]) => releases.map(({ number }) => ` permit ${number}`).join('')
  const made = new modules.Batcher({
    connection: Object.assign(connection, {
      connect: () => {
        connection.connects++
      },
      onReady: (listener: () => void) => {
        onReady = listener
        connection.ready++
        return () => {
          connection.ready--
        }
      },
    }) as unknown as Connection,
    timeoutMs: 500,
    send: (pending, releases) => {
      said.push(pending.map(({ operation, key }) => `${operation} ${key}`).join(', ') + permitsOf(releases))
    },
    release: releases => said.push(`release${permitsOf(releases)}`),
    giveUp: (pending, error) => {
      said.push(`${error.message}: ${pending.map(({ key }) => key).join(', ')}`)
    },
  })
  const pending = (key: string, operation: Pending['operation'] = 'check', forMs = 500): Pending =>
    ({ operation, key, deadline: time.now + forMs }) as Pending
  return {
    made,
    connection,
    pending,
    add: (key: string, operation?: Pending['operation'], forMs?: number) => made.add(pending(key, operation, forMs)),
    release: (number: number, key = 'k') => made.release({ key: `{${key}}permits`, number }),
    ready: () => {
      connection.status = 'ready'
      onReady()
    },
    /** What was said since it was asked last. */
    said: () => said.splice(0),
    /** The end of a turn of the event loop. */
    turn: () => {
      time.advance(0)
      return said.splice(0)
    },
  }
}

const list = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, index) => `check ${from + index}`).join(', ')

t.test('what is asked in one turn goes in one call, at the end of the turn', async t => {
  const { add, said, turn } = batcher()
  add('a')
  add('b', 'peek')
  t.strictSame(said(), [])
  t.equal(time.waiting, 1)
  t.strictSame(turn(), ['check a, peek b'])
  t.strictSame(turn(), [])
  add('c')
  t.strictSame(turn(), ['check c'])
})

t.test('a full call goes at once, and what comes after it in the same turn goes in the next one', async t => {
  const { add, said, turn } = batcher()
  for (let key = 1; key < FULL; key++) add(`${key}`)
  t.strictSame(said(), [])
  add(`${FULL}`)
  t.strictSame(said(), [list(1, FULL)])
  add('17')
  t.strictSame(turn(), ['check 17'])
})

t.test('permits go back with the first checks', async t => {
  const { add, release, said, turn } = batcher()
  release(7)
  release(8)
  for (let key = 1; key <= 2 * FULL + 1; key++) add(`${key}`)
  t.strictSame(said(), [], 'at the end of the turn')
  t.strictSame(turn(), [`${list(1, FULL)} permit 7 permit 8`, list(FULL + 1, 2 * FULL), 'check 33'])
  add('a')
  t.strictSame(turn(), ['check a'], 'once')
  release(9)
  t.strictSame(turn(), ['release permit 9'], 'or alone')
  t.strictSame(turn(), [])
})

t.test('refunds have calls of their own, which go first', async t => {
  const { add, release, turn } = batcher()
  release(7)
  add('a')
  for (let key = 1; key <= FULL + 1; key++) add(`${key}`, 'refund')
  add('b')
  const refunds = Array.from({ length: FULL }, (_, index) => `refund ${index + 1}`).join(', ')
  t.strictSame(turn(), [refunds, 'refund 17', 'check a, check b permit 7'])
  for (let key = 1; key <= FULL; key++) add(`${key}`, 'refund')
  t.strictSame(turn(), [refunds])
  add('c', 'refund')
  release(8)
  t.strictSame(turn(), ['refund c', 'release permit 8'])
})

t.test('without a connection nothing is sent, and permits end by themselves', async t => {
  for (const status of ['connecting', 'idle'] as const) {
    const { add, release, ready, turn, connection } = batcher({ status })
    for (let key = 1; key <= FULL; key++) add(`${key}`)
    release(7)
    t.strictSame(turn(), [])
    t.equal(connection.connects, status === 'idle' ? 1 : 0)
    ready()
    t.strictSame(turn(), [list(1, FULL)])
    t.equal(time.waiting, 0, 'nobody waits any more')
    connection.status = 'connecting'
    add('a')
    turn()
    ready()
    t.strictSame(turn(), ['check a'])
  }
})

t.test('a permit that is given back without a connection is not sent later', async t => {
  const { add, release, ready, turn } = batcher({ status: 'connecting' })
  release(7)
  ready()
  add('a')
  t.strictSame(turn(), ['check a'])
})

t.test('permits that were given back before the connection was lost are not sent later', async t => {
  const { add, release, ready, turn, connection } = batcher()
  release(7)
  connection.status = 'connecting'
  t.strictSame(turn(), [])
  t.equal(time.waiting, 0, 'nothing waits')
  ready()
  add('a')
  t.strictSame(turn(), ['check a'])
})

t.test('what waits for a connection is given up when its own time is over', async t => {
  const { add, ready, turn, said, connection } = batcher({ status: 'connecting' })
  add('a', 'check', 500)
  add('b', 'check', 300.5)
  t.strictSame(turn(), [])
  add('c', 'check', 310)
  t.strictSame(turn(), [])
  t.equal(time.waiting, 1, 'with one timer')
  time.advance(300)
  t.strictSame(said(), [])
  time.advance(1)
  t.strictSame(said(), [`${LATE}: b`])
  time.advance(9)
  t.strictSame(said(), [`${LATE}: c`])
  time.advance(189)
  t.strictSame(said(), [])
  time.advance(1)
  t.strictSame(said(), [`${LATE}: a`])
  t.equal(time.waiting, 0)

  add('late', 'check', -5)
  turn()
  time.advance(0.9)
  t.strictSame(said(), [])
  time.advance(0.1)
  t.strictSame(said(), [`${LATE}: late`])
  add('d', 'check', 50)
  turn()
  ready()
  t.strictSame(turn(), ['check d'])
  time.advance(100)
  t.strictSame(said(), [])
  connection.status = 'connecting'
  add('e', 'check', 70)
  turn()
  time.advance(70)
  t.strictSame(said(), [`${LATE}: e`])
})

t.test('what waits is given up with the reason, and what comes later waits as before', async t => {
  const { made, add, turn, said } = batcher({ status: 'connecting' })
  made.giveUp(new Error('gone'))
  t.strictSame(said(), [], 'nothing waits')
  add('a')
  turn()
  made.giveUp(new Error('gone'))
  t.strictSame(said(), ['gone: a'])
  t.equal(time.waiting, 0)
  add('b', 'check', 20)
  turn()
  time.advance(20)
  t.strictSame(said(), [`${LATE}: b`])
})

t.test('a client that is closed for good is waited for by nobody', async t => {
  const { add, turn, connection } = batcher({ status: 'closed' })
  add('a')
  t.strictSame(turn(), [`${CLOSED}: a`])
  t.equal(connection.connects, 0)
  t.equal(time.waiting, 0)
})

t.test('at the end permits and refunds are sent, and all else is given up', async t => {
  const open = batcher()
  open.add('a')
  open.add('b', 'refund')
  open.release(7)
  open.made.close()
  t.strictSame(open.said(), ['release permit 7', 'refund b', `${CLOSED}: a`])
  t.equal(open.connection.ready, 0)
  t.strictSame(open.turn(), [])

  const none = batcher()
  none.made.close()
  t.strictSame(none.said(), [])

  const lost = batcher()
  lost.add('b', 'refund')
  lost.release(7)
  lost.connection.status = 'connecting'
  lost.made.close()
  t.strictSame(lost.said(), [`${CLOSED}: b`])
  lost.ready()
  t.strictSame(lost.turn(), [])
})

t.test('in a cluster a call has keys of one slot', async t => {
  const { add, release, turn } = batcher({ isCluster: true })
  t.not(slotOf('{a}'), slotOf('{b}'))
  add('a')
  add('b', 'refund')
  add('a', 'peek')
  add('b')
  release(7, 'b')
  release(8, 'c')
  t.strictSame(turn(), ['check a, peek a', 'refund b', 'check b permit 7', 'release permit 8'])
})

t.test('what a cluster refused is sent again by slot, as all else from then on', async t => {
  const { made, pending, add, said, turn } = batcher()
  const releases = [{ key: '{b}permits', number: 7 }]
  t.equal(made.split([pending('a'), pending('a')], []), false)
  t.equal(made.split([pending('b')], releases), false, 'of one slot')
  t.strictSame(said(), [])
  add('a')
  add('b')
  t.strictSame(turn(), ['check a, check b'])
  t.equal(made.split([pending('a'), pending('b')], releases), true)
  t.strictSame(said(), ['check a', 'check b permit 7'])
  t.equal(made.split([pending('a')], releases), true)
  t.strictSame(said(), ['check a', 'release permit 7'])
  add('a')
  add('b')
  t.strictSame(turn(), ['check a', 'check b'])
})
