/** The servers behind a connection, each with its circuit and its clock. The clock is moved by hand. */
import slotOf from 'cluster-key-slot'
import t from 'tap'
import type { Connection } from '../../../plugin/src/stores/redis/client.js'
import { atTimeByHand } from '../../support/time-by-hand.js'

const { time, modules } = await atTimeByHand(() => import('../../../plugin/src/stores/redis/nodes.js'))
const { Nodes, firstSlotOf, tagOf } = modules

const gone = new Error('gone')

function nodes(isCluster: boolean, nodeOf: (slot: number) => string | undefined = () => undefined) {
  time.clearAll()
  const listeners = new Set<() => void>()
  const probes: string[] = []
  const changes: unknown[] = []
  const connection = {
    isCluster,
    nodeOf,
    onReady: (listener: () => void) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
  } as unknown as Connection
  const made = new Nodes({
    connection,
    probe: async key => void probes.push(key),
    onChange: (error, node) => changes.push([error?.message, node]),
  })
  const open = (key: string) => {
    const { circuit } = made.of(key)
    for (const now of [0, 50, 100]) circuit.failed(circuit.epoch, gone, now)
    return circuit
  }
  const ready = () => {
    for (const listener of listeners) listener()
  }
  return { made, connection, listeners, probes, changes, open, ready }
}

t.test('without a cluster there is one node, which has no name', async t => {
  const { made, changes, probes, open } = nodes(false)
  t.strictSame(made.names, [])
  t.equal(made.of('a'), made.of('b'))
  t.equal(made.nameOf('a'), undefined)
  t.strictSame(made.names, [undefined])
  t.equal(made.of('a').clock.isKnown, false)
  const circuit = open('c')
  t.strictSame(changes, [['gone', undefined]])
  time.advance(50)
  t.strictSame(probes, ['a'], 'by the first key that was asked for')
  await new Promise(resolve => setImmediate(resolve))
  t.equal(circuit.error, undefined)
})

t.test('in a cluster each master is a node', async t => {
  const { made, changes, open } = nodes(true, slot => (slot === slotOf('a') ? 'one' : 'two'))
  t.equal(made.nameOf('a'), 'one')
  t.equal(made.nameOf('b'), 'two')
  t.equal(made.of('b'), made.of('c'))
  t.not(made.of('a'), made.of('b'))
  t.strictSame(made.names, ['two', 'one'])
  const circuit = open('b')
  t.equal(made.of('a').circuit.error, undefined)
  t.equal(circuit.error, gone)
  t.strictSame(changes, [['gone', 'two']])
})

t.test('where the client does not know the masters, 64 ranges of slots stand for them', async t => {
  const { made, connection } = nodes(true)
  for (const key of ['a', 'b', 'key', '{x']) {
    t.equal(made.nameOf(key), `range ${Math.floor(slotOf(`{${key}}`) / 256)}`)
  }
  t.equal(firstSlotOf(connection, 'range 0'), 0)
  t.equal(firstSlotOf(connection, 'range 63'), 16_128)
})

t.test('a client that has connected again closes the circuits of all nodes', async t => {
  const { open, ready, made, listeners } = nodes(true, slot => (slot === slotOf('a') ? 'one' : 'two'))
  const [a, b] = [open('a'), open('b')]
  ready()
  t.strictSame([a.error, b.error], [undefined, undefined])
  open('a')
  made.dispose()
  t.equal(listeners.size, 0)
  t.equal(a.error, undefined)
  t.equal(time.waiting, 0)
  t.equal(open('a').error, undefined, 'it is over')
})

t.test('after the end a node that is asked for the first time has a circuit that stays closed', async t => {
  const { open, made } = nodes(false)
  made.dispose()
  t.equal(open('a').error, undefined)
})

t.test('the first slot of a node is known, and a key for any slot', async t => {
  const { connection } = nodes(true, slot => (slot < 100 ? 'one' : slot === 16_383 ? 'last' : 'two'))
  t.equal(firstSlotOf(connection, 'one'), 0)
  t.equal(firstSlotOf(connection, 'two'), 100)
  t.equal(firstSlotOf(connection, 'last'), 16_383)
  t.equal(firstSlotOf(connection, 'gone'), 0)
  for (const slot of [0, 100, 16_383]) {
    t.equal(slotOf(tagOf(slot)), slot)
    t.equal(tagOf(slot), tagOf(slot))
  }
  for (const number of ['0', '1', '77']) t.equal(tagOf(slotOf(number)), number, 'the first number that leads there')
})
