import t from 'tap'
import { Circuit } from '../../../plugin/src/stores/redis/circuit.js'
import { until } from '../../support/redis-fleet.js'

const gone = new Error('gone')

/** A circuit whose probes end as the test says. */
function circuit(t: Tap, onChange: (error: Error | undefined) => void = () => {}) {
  const state = { probes: [] as number[], answers: false, told: [] as (string | undefined)[] }
  const made = new Circuit({
    probe: async () => {
      state.probes.push(performance.now())
      if (!state.answers) throw gone
    },
    onChange: error => {
      state.told.push(error?.message)
      onChange(error)
    },
  })
  t.teardown(() => made.dispose())
  return { made, state }
}
type Tap = { teardown(act: () => void): void }

function failing(made: Circuit, ...times: number[]): void {
  for (const now of times) made.failed(made.epoch, gone, now)
}

t.test('three failed calls in a row that span 100 ms open it; fewer, or at once, do not', async t => {
  const { made, state } = circuit(t)
  failing(made, 0, 1, 2, 3, 4, 5, 6, 7)
  t.equal(made.error, undefined, 'eight at once')
  failing(made, 99)
  t.equal(made.error, undefined, '99 ms')
  failing(made, 100)
  t.equal(made.error, gone)
  t.strictSame(state.told, ['gone'])

  const other = circuit(t).made
  failing(other, 0, 500)
  t.equal(other.error, undefined, 'two')
  other.succeeded(other.epoch)
  failing(other, 600, 900)
  t.equal(other.error, undefined, 'a success in between')
  failing(other, 901)
  t.equal(other.error, gone)
})

t.test('probes come after 50, 100, 200 ms and so on, and the first that succeeds closes it', async t => {
  const { made, state } = circuit(t)
  const opened = performance.now()
  failing(made, 0, 50, 100)
  await until('three probes', async () => state.probes.length >= 3)
  const [first, second, third] = state.probes.map(at => at - opened) as [number, number, number]
  t.ok(first >= 45 && second - first >= 95 && third - second >= 195, `${first}, ${second}, ${third}`)
  t.equal(made.error, gone)
  state.answers = true
  await until('it is closed', async () => made.error === undefined)
  t.strictSame(state.told, ['gone', undefined])
  failing(made, 2000, 2100)
  t.equal(made.error, undefined, 'counted from the start')
})

t.test('a client that has connected again closes it, without a probe', async t => {
  const { made, state } = circuit(t)
  failing(made, 0, 50, 100)
  made.connected()
  t.equal(made.error, undefined)
  await new Promise(resolve => setTimeout(resolve, 80))
  t.strictSame(state.probes, [])
  t.strictSame(state.told, ['gone', undefined])
})

t.test('after errors that Redis answered with, a connection proves nothing, and a probe does', async t => {
  const { made, state } = circuit(t)
  const readonly = new Error("READONLY You can't write against a read only replica.")
  for (const now of [0, 50, 100]) {
    made.failed(made.epoch, readonly, now)
    if (now < 100) made.connected()
  }
  t.equal(made.error, readonly, 'the client has connected again after each of them')
  made.connected()
  t.equal(made.error, readonly)
  state.answers = true
  await until('a probe closed it', async () => made.error === undefined)
  t.strictSame(state.told, [readonly.message, undefined])
})

t.test('what was sent before it opened or closed changes nothing when it comes late', async t => {
  const { made, state } = circuit(t)
  const before = made.epoch
  failing(made, 0, 50, 100)
  made.succeeded(before)
  t.equal(made.error, gone, 'a late success')
  made.connected()
  for (const now of [200, 300, 400, 500]) made.failed(before, gone, now)
  t.equal(made.error, undefined, 'late failures')
  t.strictSame(state.told, ['gone', undefined])
})

t.test('a listener that throws, and the end, leave neither an open circuit nor a probe', async t => {
  const { made, state } = circuit(t, () => {
    throw new Error('listener')
  })
  failing(made, 0, 50, 100)
  t.equal(made.error, gone)
  state.answers = true
  await until('a probe closed it', async () => made.error === undefined)
  failing(made, 200, 300, 400)
  const probes = state.probes.length
  made.dispose()
  t.equal(made.error, undefined)
  await new Promise(resolve => setTimeout(resolve, 80))
  t.equal(state.probes.length, probes)
})
