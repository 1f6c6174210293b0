/** When a node is not asked any more, and when it is asked again. The clock is moved by hand. */
import t from 'tap'
import type { Circuit } from '../../../plugin/src/stores/redis/circuit.js'
import { atTimeByHand } from '../../support/time-by-hand.js'

const { time, modules } = await atTimeByHand(() => import('../../../plugin/src/stores/redis/circuit.js'))

const gone = new Error('gone')
const turn = () => new Promise(resolve => setImmediate(resolve))

/** A circuit whose probes end as the test says. */
function circuit(onChange: () => void = () => {}) {
  time.clearAll()
  const began = time.now
  const state = { answers: false, told: [] as (string | undefined)[] }
  const probes: { readonly at: number; answers(): Promise<unknown>; fails(): Promise<unknown> }[] = []
  const made = new modules.Circuit({
    probe: () =>
      new Promise<void>((resolve, reject) => {
        const end = (act: () => void) => () => {
          act()
          return turn()
        }
        probes.push({ at: time.now - began, answers: end(resolve), fails: end(() => reject(gone)) })
      }),
    onChange: error => {
      state.told.push(error?.message)
      onChange()
    },
  })
  return { made, state, probes }
}

function failing(made: Circuit, ...times: number[]): void {
  for (const now of times) made.failed(made.epoch, gone, now)
}

t.test('three failed calls in a row that span 100 ms open it; fewer, or at once, do not', async t => {
  const { made, state } = circuit()
  failing(made, 0, 1, 2, 3, 4, 5, 6, 7)
  t.equal(made.error, undefined, 'eight at once')
  failing(made, 99)
  t.equal(made.error, undefined, '99 ms')
  failing(made, 100)
  t.equal(made.error, gone)
  t.strictSame(state.told, ['gone'])

  const other = circuit().made
  failing(other, 0, 500)
  t.equal(other.error, undefined, 'two')
  other.succeeded(other.epoch)
  failing(other, 600, 650, 699)
  t.equal(other.error, undefined, 'a success in between')
  failing(other, 700)
  t.equal(other.error, gone)
})

t.test('while it is open further failures change nothing', async t => {
  const { made, state, probes } = circuit()
  failing(made, 0, 50, 100, 200, 300, 400, 500)
  t.strictSame(state.told, ['gone'])
  time.advance(50)
  t.equal(probes.length, 1)
})

t.test(
  'probes come after 50, 100, 200 ms and so on, each second at the end, and the first that succeeds closes it',
  async t => {
    const { made, state, probes } = circuit()
    failing(made, 0, 50, 100)
    const waits = [50, 100, 200, 400, 800, 1000, 1000]
    for (const [index, waitMs] of waits.entries()) {
      time.advance(waitMs - 1)
      t.equal(probes.length, index, `not after ${waitMs - 1} ms`)
      time.advance(1)
      t.equal(probes.length, index + 1, `after ${waitMs} ms`)
      t.equal(made.error, gone)
      if (index < waits.length - 1) await probes[index]?.fails()
    }
    t.equal(time.waiting, 0, 'a probe is waited for')
    await probes.at(-1)?.answers()
    t.equal(made.error, undefined)
    t.strictSame(state.told, ['gone', undefined])
    failing(made, 2000, 2100)
    t.equal(made.error, undefined, 'counted from the start')
    failing(made, 2101)
    t.equal(made.error, gone)
    time.advance(50)
    t.equal(probes.length, waits.length + 1, 'and probes begin anew')
  },
)

t.test('a client that has connected again closes it, without a probe', async t => {
  const { made, state, probes } = circuit()
  made.connected()
  t.strictSame(state.told, [], 'it was closed')
  failing(made, 0, 50, 100)
  made.connected()
  t.equal(made.error, undefined)
  time.advance(5000)
  t.strictSame(probes, [])
  t.strictSame(state.told, ['gone', undefined])
})

t.test('an error of the connection may name a code of the system', async t => {
  const { made } = circuit()
  const refused = new Error('connect ECONNREFUSED 127.0.0.1:6379')
  for (const now of [0, 50, 100]) made.failed(made.epoch, refused, now)
  made.connected()
  t.equal(made.error, undefined)
})

t.test('after errors that Redis answered with, a connection proves nothing, and a probe does', async t => {
  const { made, state, probes } = circuit()
  const readonly = new Error("READONLY You can't write against a read only replica.")
  for (const now of [0, 50, 100]) {
    made.failed(made.epoch, readonly, now)
    if (now < 100) made.connected()
  }
  t.equal(made.error, readonly, 'the client has connected again after each of them')
  made.connected()
  t.equal(made.error, readonly)
  time.advance(50)
  await probes[0]?.answers()
  t.equal(made.error, undefined)
  t.strictSame(state.told, [readonly.message, undefined])
})

t.test('what was sent before it opened or closed changes nothing when it comes late', async t => {
  const { made, state } = circuit()
  const before = made.epoch
  failing(made, 0, 50, 100)
  made.succeeded(before)
  t.equal(made.error, gone, 'a late success')
  const open = made.epoch
  made.connected()
  for (const epoch of [before, open]) for (const now of [200, 300, 400, 500]) made.failed(epoch, gone, now)
  t.equal(made.error, undefined, 'late failures')
  t.strictSame(state.told, ['gone', undefined])
  failing(made, 600, 650)
  made.succeeded(before)
  made.succeeded(open)
  failing(made, 700)
  t.equal(made.error, gone, 'and late successes, among failures')
})

t.test('a probe that was sent before it closed changes nothing when it ends late', async t => {
  for (const how of ['answers', 'fails'] as const) {
    const { made, state, probes } = circuit()
    failing(made, 0, 50, 100)
    time.advance(50)
    made.connected()
    failing(made, 200, 250, 300)
    await probes[0]?.[how]()
    t.equal(made.error, gone)
    t.strictSame(state.told, ['gone', undefined, 'gone'])
    t.equal(time.waiting, 1, 'the next probe')
  }
})

t.test('a listener that throws, and the end, leave neither an open circuit nor a probe', async t => {
  const { made, state, probes } = circuit(() => {
    throw new Error('listener')
  })
  failing(made, 0, 50, 100)
  t.equal(made.error, gone)
  time.advance(50)
  await probes[0]?.answers()
  t.equal(made.error, undefined)
  failing(made, 200, 300, 400)
  made.dispose()
  t.equal(made.error, undefined)
  t.equal(time.waiting, 0)
  failing(made, 500, 600, 700)
  t.equal(made.error, undefined, 'it stays closed')
  t.strictSame(state.told, ['gone', undefined, 'gone'], 'and nobody is told')

  for (const how of ['answers', 'fails'] as const) {
    const late = circuit()
    failing(late.made, 0, 50, 100)
    time.advance(50)
    late.made.dispose()
    await late.probes[0]?.[how]()
    t.equal(time.waiting, 0)
    t.strictSame(late.state.told, ['gone'])
  }
})
