import { rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Model, ReloadReport } from '../../../../service/src/inference/types.js'
import { floats, model, node } from '../../../support/onnx-builder.js'
import { openFolder, predict, writeModels } from '../../../support/onnx-folder.js'
import { identity, perceptron, slow } from '../../../support/onnx-models.js'

// Each worker compiles the TypeScript that it runs: seconds on a busy machine, nothing in the built service.
t.setTimeout(300_000)

/** y = x + n. */
const add = (n: number) =>
  model({
    nodes: [node('Add', ['x', 'n'], ['y'])],
    inputs: [{ name: 'x', type: 1, shape: ['batch', 1] }],
    outputs: [{ name: 'y', type: 1, shape: ['batch', 1] }],
    initializers: [floats('n', [n])],
  })

const answer = async (model: Model, value: number): Promise<unknown> => {
  const predictions = await predict(model, [value])
  return predictions.flatMap(({ outputs }) => outputs.y)[0]
}

const nothing: ReloadReport = { loaded: [], unchanged: [], removed: [], broken: [] }

t.test('a new version takes over, the old one can still be asked for', async t => {
  const { models, dir } = await openFolder(t, { 'm/1/model.onnx': add(1) })
  writeModels(dir, { 'm/2/model.onnx': add(2) })
  t.strictSame(await models.reload(), { ...nothing, loaded: ['m/2'], unchanged: ['m/1'] })
  t.equal(await answer(models.get('m'), 0), 2)
  t.equal(await answer(models.get('m', '1'), 0), 1)
})

t.test('a changed file is swapped in, an unchanged one is kept as it is', async t => {
  const { models, dir } = await openFolder(t, { 'a/1/model.onnx': add(1), 'b/1/model.onnx': add(1) })
  const [a, b] = [models.get('a'), models.get('b')]
  t.strictSame(await models.reload(), { ...nothing, unchanged: ['a/1', 'b/1'] })
  t.equal(models.get('a'), a)
  writeModels(dir, { 'b/1/model.onnx': add(1) })
  t.strictSame(await models.reload(), { ...nothing, unchanged: ['a/1', 'b/1'] }, 'the same bytes, written again')
  writeModels(dir, { 'b/1/model.onnx': add(7) })
  t.strictSame(await models.reload(), { ...nothing, loaded: ['b/1'], unchanged: ['a/1'] })
  t.equal(models.get('a'), a)
  t.equal(await answer(models.get('b'), 0), 7)
  t.equal(await answer(b, 0), 7, 'whoever still holds the old one gets the new one’s answers')
  writeModels(dir, { 'a/model.json': { description: 'now described' } })
  t.strictSame(await models.reload(), { ...nothing, loaded: ['a/1'], unchanged: ['b/1'] })
  t.equal(models.get('a').info.description, 'now described')
})

t.test('what breaks is reported, and what served goes on serving', async t => {
  const { models, dir } = await openFolder(t, { 'm/1/model.onnx': add(1), 'n/1/model.onnx': add(5) })
  writeModels(dir, { 'm/1/model.onnx': 'garbage', 'm/2/model.onnx': 'garbage too' })
  const report = await models.reload()
  t.match(report, { loaded: [], unchanged: ['n/1'], removed: [] })
  const broken = [
    { name: 'm', version: '2', reason: /not an ONNX model/ },
    { name: 'm', version: '1', reason: /not an ONNX model/ },
  ]
  t.match(report.broken, broken)
  t.match(models.broken, broken)
  t.equal(await answer(models.get('m'), 0), 1)
  t.ok(models.ready)
  // Loads, and then fails on its own sample: as bad as not loading.
  writeModels(dir, { 'm/model.json': { sample: [1, 2, 3] }, 'm/1/model.onnx': add(2), 'n/1/model.onnx': add(6) })
  t.match(await models.reload(), { loaded: ['n/1'], broken: [{ version: '2' }, { version: '1', reason: /3 values/ }] })
  t.equal(await answer(models.get('m'), 0), 1)
  t.equal(await answer(models.get('n'), 0), 6)
  rmSync(join(dir, 'm/2'), { recursive: true })
  rmSync(join(dir, 'm/model.json'))
  t.match(await models.reload(), { loaded: ['m/1'], broken: [] })
  t.strictSame(models.broken, [])
  t.equal(await answer(models.get('m'), 0), 2)
})

t.test('a removed model is gone, and the last one is not removed', async t => {
  const { models, dir } = await openFolder(t, { 'a/1/model.onnx': add(1), 'b/1/model.onnx': add(2) })
  const held = models.get('b')
  rmSync(join(dir, 'b'), { recursive: true })
  t.strictSame(await models.reload(), { ...nothing, unchanged: ['a/1'], removed: ['b/1'] })
  t.throws(() => models.get('b'), { code: 'INFERENCE_UNKNOWN_MODEL' })
  await t.rejects(answer(held, 0), { code: 'INFERENCE_UNKNOWN_MODEL' })
  rmSync(join(dir, 'a'), { recursive: true })
  await t.rejects(models.reload(), { code: 'INFERENCE_NO_MODELS' })
  t.equal(await answer(models.get('a'), 0), 1)
})

t.test('requests in flight end on the version they began with', async t => {
  const { models, dir } = await openFolder(t, { 'm/model.json': { batching: false }, 'm/1/model.onnx': slow() })
  const running = Array.from({ length: 5 }, (_, i) => answer(models.get('m'), i + 1))
  writeModels(dir, { 'm/1/model.onnx': add(100) })
  await models.reload()
  t.strictSame(await Promise.all(running), [1, 2, 3, 4, 5])
  t.equal(await answer(models.get('m'), 1), 101)
})

t.test('under load no request fails while models come and go', async t => {
  const { models, dir } = await openFolder(
    t,
    { 'm/1/model.onnx': add(0), 'other/1/model.onnx': identity() },
    { workers: 2 },
  )
  let done = false
  let answered = 0
  const wrong: unknown[] = []
  const client = async (id: number) => {
    for (let i = 0; !done; i++) {
      const value = (id * 1000 + i) % 4096
      const got = (await answer(models.get('m'), value).catch(error => error)) as number
      // Any of the versions may answer, but whole and with this caller's own row.
      if (![0, 0.25, 0.5, 0.75].includes(got - value)) wrong.push(got)
      answered++
      // A breath between requests: the new workers of this test are compiled on the same cores.
      await new Promise(resolve => setTimeout(resolve, 2))
    }
  }
  const clients = Array.from({ length: 16 }, (_, id) => client(id))
  for (let round = 1; round <= 3; round++) {
    writeModels(dir, { 'm/1/model.onnx': add((round % 4) * 0.25), ...(round === 2 && { 'm/2/model.onnx': 'broken' }) })
    const { loaded } = await models.reload()
    t.strictSame(loaded, ['m/1'])
  }
  done = true
  await Promise.all(clients)
  t.strictSame(wrong, [])
  t.ok(answered > 3)
})

t.test('reloads asked for at the same time run one after the other', async t => {
  const { models, dir } = await openFolder(t, { 'm/1/model.onnx': add(1) })
  writeModels(dir, { 'm/1/model.onnx': add(2) })
  const [first, second] = await Promise.all([models.reload(), models.reload()])
  t.strictSame([first?.loaded, second?.loaded, second?.unchanged], [['m/1'], [], ['m/1']])
  t.equal(await answer(models.get('m'), 0), 2)
})

t.test('a closed engine does not load', async t => {
  const { models } = await openFolder(t, { 'm/1/model.onnx': perceptron(4, 8) })
  await models.close()
  await t.rejects(models.reload(), { message: /being closed/ })
  t.notOk(models.ready)
})
