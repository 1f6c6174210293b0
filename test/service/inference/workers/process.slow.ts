import t from 'tap'
import { openFolder, predict, until } from '../../../support/onnx-folder.js'
import { identity, slow } from '../../../support/onnx-models.js'

// Each worker compiles the TypeScript that it runs: seconds on a busy machine, nothing in the built service.
t.setTimeout(300_000)

t.test('models in processes answer as they do in threads', async t => {
  const { models } = await openFolder(t, { 'copy/1/model.onnx': identity() }, { isolation: 'process', workers: 2 })
  t.equal(models.workerPids.length, 2)
  t.not(models.workerPids[0], process.pid)
  const answers = await Promise.all(Array.from({ length: 500 }, (_, i) => predict(models.get(), [i, -i, i / 2])))
  t.strictSame(
    answers,
    Array.from({ length: 500 }, (_, i) => [{ outputs: { y: [i, -i, i / 2] } }]),
  )
})

t.test('a killed worker costs its own batch, and is replaced', async t => {
  const events: { type: string }[] = []
  const files = { 'slow/model.json': { maxBatchRows: 4 }, 'slow/1/model.onnx': slow(256, 8) }
  const { models, logged } = await openFolder(t, files, {
    isolation: 'process',
    workers: 2,
    onEvent: event => void events.push(event),
  })
  let answered = 0
  const results = Promise.allSettled(
    Array.from({ length: 200 }, (_, i) => predict(models.get(), [i]).finally(() => answered++)),
  )
  await until(() => answered > 0, 'both work')
  const [victim] = models.workerPids
  process.kill(victim as number, 'SIGKILL')
  const lost = (await results).flatMap((result, i) =>
    result.status === 'rejected' ? [{ i, reason: result.reason }] : [],
  )
  t.ok(lost.length <= 4, `at most one batch was lost: ${lost.length} requests`)
  for (const { reason } of lost) t.match(reason, { code: 'INFERENCE_WORKER_LOST' })
  const right = (await results).filter(
    (result, i) => result.status === 'fulfilled' && JSON.stringify(result.value) === `[{"outputs":{"y":[${i}]}}]`,
  )
  t.equal(right.length + lost.length, 200, 'all others got their own answers')
  await until(() => models.workerPids.length === 2, 'a new worker is up')
  t.notOk(models.workerPids.includes(victim as number))
  t.ok(events.some(({ type }) => type === 'worker-lost'))
  t.ok(logged.some(({ message }) => message.includes('worker was lost')))
  t.strictSame(await predict(models.get(), [5]), [{ outputs: { y: [5] } }])
})

t.test('with its only worker gone the engine is not ready, and what waits is answered by the next', async t => {
  const { models } = await openFolder(t, { 'copy/1/model.onnx': identity() }, { isolation: 'process', workers: 1 })
  const [pid] = models.workerPids
  process.kill(pid as number, 'SIGKILL')
  await until(() => !models.ready, 'the loss is noticed')
  const waiting = predict(models.get(), [1, 2, 3])
  t.strictSame(await waiting, [{ outputs: { y: [1, 2, 3] } }])
  t.ok(models.ready)
})

t.test('closing while a worker is being replaced still answers what waits', async t => {
  const { models } = await openFolder(t, { 'copy/1/model.onnx': identity() }, { isolation: 'process', workers: 1 })
  process.kill(models.workerPids[0] as number, 'SIGKILL')
  await until(() => !models.ready, 'the loss is noticed')
  const waiting = predict(models.get(), [1, 2, 3])
  await models.close()
  t.strictSame(await waiting, [{ outputs: { y: [1, 2, 3] } }])
})

t.test('a run that does not end is ended with its process, and the others go on', async t => {
  const files = {
    'endless/model.json': { batching: false },
    'endless/1/model.onnx': slow(512, 200),
    'copy/1/model.onnx': identity(),
  }
  const { models } = await openFolder(t, files, { isolation: 'process', workers: 1, stuckAfterMs: 100 })
  await t.rejects(predict(models.get('endless'), [1]), { code: 'INFERENCE_WORKER_LOST' })
  t.strictSame(await predict(models.get('copy'), [1, 2, 3]), [{ outputs: { y: [1, 2, 3] } }])
})
