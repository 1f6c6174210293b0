import t from 'tap'
import { openFolder, predict, until } from '../../../support/onnx-folder.js'
import { identity, slow } from '../../../support/onnx-models.js'

// Each worker compiles the TypeScript that it runs: seconds on a busy machine, nothing in the built service.
t.setTimeout(300_000)

for (const isolation of ['thread', 'process'] as const) {
  t.test(`closing with every ${isolation} busy answers all that was taken, and no more`, async t => {
    const files = {
      'slow/model.json': { batching: false },
      'slow/1/model.onnx': slow(),
      'copy/1/model.onnx': identity(),
    }
    const { models } = await openFolder(t, files, { workers: 2, isolation })
    let ended = 0
    const slowly = Array.from({ length: 8 }, (_, i) => predict(models.get('slow'), [i + 1]).finally(() => ended++))
    const quickly = Array.from({ length: 40 }, (_, i) => predict(models.get('copy'), [i, i, i]))
    await until(() => ended > 0, 'the workers are busy')
    const closing = models.close()
    t.notOk(models.ready)
    await t.rejects(predict(models.get('copy'), [1, 2, 3]), { code: 'INFERENCE_STOPPING' })
    await closing
    t.strictSame(
      (await Promise.all(slowly)).map(([prediction]) => prediction?.outputs.y),
      Array.from({ length: 8 }, (_, i) => [i + 1]),
    )
    t.equal((await Promise.all(quickly)).length, 40)
    await models.close()
  })
}

t.test('deadlines are kept while a slow run goes on', async t => {
  const files = { 'slow/model.json': { batching: false }, 'slow/1/model.onnx': slow(512, 40) }
  const { models } = await openFolder(t, files)
  const model = models.get()
  const running = predict(model, [1], { deadline: performance.now() + 20 })
  const gone = new AbortController()
  const waiting = predict(model, [2], { signal: gone.signal })
  const patient = predict(model, [3])
  gone.abort()
  // All at once: either may be refused first.
  await Promise.all([
    t.rejects(running, { code: /^INFERENCE_(DEADLINE_EXCEEDED|OVERLOADED)$/ }),
    t.rejects(waiting, { code: 'INFERENCE_CANCELLED' }),
  ])
  t.strictSame(await patient, [{ outputs: { y: [3] } }])
})

t.test('a full queue refuses at once, saying when to come again', async t => {
  const files = { 'slow/model.json': { batching: false }, 'slow/1/model.onnx': slow() }
  const { models } = await openFolder(t, files, { queueMaxRows: 3 })
  const results = await Promise.allSettled(Array.from({ length: 10 }, (_, i) => predict(models.get(), [i])))
  const refused = results.filter(result => result.status === 'rejected')
  t.equal(results.length - refused.length, 3, 'what may wait is answered')
  for (const { reason } of refused) {
    t.match(reason, { code: 'INFERENCE_OVERLOADED' })
    t.ok(reason.retryAfterMs > 0)
  }
})
