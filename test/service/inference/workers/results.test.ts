/** Results of runs go before anything else that the event loop has to do. */
import t from 'tap'
import { openFolder } from '../../../support/onnx-folder.js'
import { slow } from '../../../support/onnx-models.js'

t.test('a result that has come is taken before the turn of the event loop ends', async t => {
  const { models } = await openFolder(t, { 'slow/1/model.onnx': slow(256, 8) })
  const inputs = { x: { datatype: 'FP32' as const, shape: [1, 1], data: new Float32Array([1]) } }
  await models.get('slow').run(inputs, { rows: 1 })

  let turns = 0
  const count = () => {
    turns++
    immediate = setImmediate(count)
  }
  let immediate = setImmediate(count)
  t.teardown(() => clearImmediate(immediate))

  // Dispatched at the end of this turn.
  const running = models.get('slow').run(inputs, { rows: 1 })
  await new Promise(resolve => setImmediate(resolve))
  let endedIn: number | undefined
  const ended = running.then(() => {
    endedIn = turns
  })
  const before = turns
  for (const until = performance.now() + 30_000; endedIn === undefined && performance.now() < until; ) {
    models.takeResults()
    // Promises only: no turn of the event loop passes.
    for (let i = 0; i < 20; i++) await undefined
  }
  t.equal(endedIn, before, 'no turn has passed meanwhile')
  await ended
})
