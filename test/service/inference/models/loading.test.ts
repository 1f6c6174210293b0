import {
  closeSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { beginModels } from '../../../../service/src/inference/index.js'
import { ElementType, ExternalData, type Graph, model, node } from '../../../support/onnx-builder.js'
import { modelsFolder, openFolder, predict, until, writeModels } from '../../../support/onnx-folder.js'
import { endless, identity, perceptron, table } from '../../../support/onnx-models.js'

t.setTimeout(300_000)
// Much of it is waiting: for a trial that never ends, for the next look at the files.
t.jobs = 4

const log = { info() {}, warn() {}, error() {} }

t.test('a model with several open dimensions and another batch name serves unbatched, with the reason', async t => {
  const graph: Graph = {
    nodes: [node('Identity', ['x'], ['y']), node('Identity', ['n'], ['m'])],
    inputs: [
      { name: 'x', type: ElementType.FLOAT, shape: ['a', 'b', 'c', 'd', 'e'] },
      { name: 'n', type: ElementType.FLOAT, shape: ['other'] },
    ],
    outputs: [
      { name: 'y', type: ElementType.FLOAT, shape: ['a', 'b', 'c', 'd', 'e'] },
      { name: 'm', type: ElementType.FLOAT, shape: ['other'] },
    ],
  }
  // No size that is tried fits a first dimension of 3 to add to.
  const fussy = model({
    ...graph,
    nodes: [node('Reshape', ['x', 'shape'], ['y']), node('Identity', ['n'], ['m'])],
    initializers: [{ name: 'shape', type: ElementType.INT64, dims: [5], data: BigInt64Array.of(3n, 5n, 7n, 11n, 13n) }],
  })
  const { models } = await openFolder(t, { 'open/1/model.onnx': model(graph), 'fussy/1/model.onnx': fussy })
  t.strictSame(models.broken, [])
  for (const { info } of models.list()) t.match(info.batching, { enabled: false, reason: /batch dimension|made up/ })
})

t.test('a trial that never ends is ended, and holds up no other model', async t => {
  const dir = modelsFolder(t, { 'endless/1/model.onnx': endless(0), 'copy/1/model.onnx': identity() })
  const models = beginModels({ dir, workers: 1, trialTimeoutMs: 6000, log })
  t.teardown(() => models.close())
  await models.scanned
  t.strictSame(models.loading, ['copy', 'endless'])
  t.notOk(models.ready)
  t.throws(() => models.get('endless'), { code: 'INFERENCE_MODEL_LOADING' })
  t.throws(() => models.get(), { code: 'INFERENCE_MODEL_LOADING' })
  t.throws(() => models.get('unheard'), { code: 'INFERENCE_UNKNOWN_MODEL' })
  await until(() => models.list().length === 1, 'the other serves')
  t.strictSame(models.loading, ['endless'])
  t.strictSame(await predict(models.get('copy'), [1, 2, 3]), [{ outputs: { y: [1, 2, 3] } }])
  await models.opened
  t.ok(models.ready)
  t.match(models.broken, [{ name: 'endless', reason: 'its trial took longer than 6000 ms (TRIAL_TIMEOUT_MS)' }])
})

t.test('closing during a load does not wait for its trials', async t => {
  const dir = modelsFolder(t, { 'endless/1/model.onnx': endless(0) })
  const models = beginModels({ dir, workers: 1, trialTimeoutMs: 3_600_000, log })
  await models.scanned
  await models.close()
  await t.rejects(models.opened)
})

t.test('the log says which model is being tried', async t => {
  const { logged } = await openFolder(t, { 'copy/1/model.onnx': identity() })
  const ofModels = logged.filter(({ details }) => details.model !== undefined)
  t.match(
    ofModels.map(({ message, details }) => [message, details.model]),
    [
      ['a model is being tried', 'copy'],
      ['model loaded', 'copy'],
    ],
  )
})

t.test('what cannot be read is an error with its path, and what serves goes on', async t => {
  const { models, dir } = await openFolder(t, {
    'a/1/model.onnx': identity(),
    'b/1/model.onnx': identity(),
    'c/1/model.onnx': identity(),
  })
  // A link to itself fails as a network volume does, also for a superuser.
  const loop = (path: string) => {
    rmSync(join(dir, path), { recursive: true })
    symlinkSync(join(dir, path), join(dir, path))
  }
  loop('a')
  loop('b/1')
  loop('c/1/model.onnx')
  const report = await models.reload()
  t.strictSame(report.removed, [])
  t.match(report.broken, [
    { name: 'a', reason: `${join(dir, 'a')} cannot be read: its links lead in a circle` },
    { name: 'b', version: '1', reason: `${join(dir, 'b/1')} cannot be read: its links lead in a circle` },
    { name: 'c', version: '1', reason: `${join(dir, 'c/1/model.onnx')} cannot be read: its links lead in a circle` },
  ])
  for (const name of ['a', 'b', 'c']) t.equal((await predict(models.get(name), [1, 2, 3])).length, 1)
  rmSync(join(dir, 'a'))
  symlinkSync('/nowhere', join(dir, 'a'))
  t.match((await models.reload()).broken[0], { name: 'a', reason: /cannot be read: a link to nothing/ })
  renameSync(dir, `${dir}-away`)
  await t.rejects(models.reload(), { message: /does not exist/ })
  t.match(models.faults, [/folder of models could not be read/])
  t.equal((await predict(models.get('a'), [1, 2, 3])).length, 1)
  renameSync(`${dir}-away`, dir)
  rmSync(join(dir, 'a'))
  t.strictSame((await models.reload()).removed, ['a/1'])
  t.strictSame(models.faults, [])
})

t.test('what looks like a model in the wrong place is named in a warning, once', async t => {
  const { models, dir, logged } = await openFolder(t, {
    'good/1/model.onnx': identity(),
    'named/v1/model.onnx': identity(),
    'zero/01/model.onnx': identity(),
    'flat/model.onnx': identity(),
    'ort/1/model.ort': 'ORTM',
    'other/1/net.onnx': identity(),
    'loose.onnx': identity(),
    'notes/readme.txt': 'nothing of ours',
    '.cache/1/model.onnx': identity(),
  })
  await models.reload()
  t.strictSame(
    logged.filter(({ level }) => level === 'warn').map(({ message }) => message.replace(`${dir}/`, '')),
    [
      'flat/model.onnx does not serve: it has no folder of its version, such as 1',
      'loose.onnx does not serve: a model is in <name>/<version>/model.onnx',
      'named/v1 does not serve: a version is a whole number from 1, without zeros before it',
      'ort/1/model.ort does not serve: models in the ORT format are not served, ONNX is',
      'other/1/net.onnx does not serve: its name must be model.onnx',
      'zero/01 does not serve: a version is a whole number from 1, without zeros before it',
    ],
  )
  t.strictSame(models.broken, [])
})

t.test('a row that no request can carry is said when its model is loaded', async t => {
  const files = { 'wide/1/model.onnx': identity(ElementType.FLOAT, ['batch', 5000]) }
  const { logged } = await openFolder(t, files, { bodyLimit: 8000 })
  t.match(
    logged.find(({ level }) => level === 'warn'),
    { message: /at least 10000 bytes as JSON and 20000 as a binary tensor, and BODY_LIMIT is 8000/ },
  )
})

t.test('a large model, and one with weights beside it, are loaded by their path', async t => {
  const weights = new ExternalData('model.onnx.data')
  const beside = table(1000, 0, weights)
  const { models, dir, logged } = await openFolder(t, {
    'large/1/model.onnx': table(1_100_000),
    'beside/1/model.onnx': beside,
    'beside/1/model.onnx.data': weights.bytes(),
  })
  for (const name of ['large', 'beside']) {
    t.strictSame(await predict(models.get(name), [2]), [{ outputs: { y: [8, 9, 10, 11] } }])
  }
  t.strictSame(models.faults, [])
  const changed = new ExternalData('model.onnx.data')
  table(1000, 100, changed)
  // In place: the same file, as `cp` leaves it.
  writeFileSync(join(dir, 'beside/1/model.onnx.data'), changed.bytes())
  await until(() => models.faults.length > 0, 'the change is noticed')
  t.match(models.faults, ["a file of model 'beside' was changed in place while it serves"])
  t.match(
    logged.find(({ level }) => level === 'error'),
    { message: /replace files by rename/ },
  )
  t.match(await models.reload(), { loaded: ['beside/1'], unchanged: ['large/1'] })
  t.strictSame(models.faults, [])
  t.strictSame(await predict(models.get('beside'), [2]), [{ outputs: { y: [108, 109, 110, 111] } }])
})

t.test('weights that change between their reading and their loading never serve, not even as an old file', async t => {
  const weightsOf = (add: number) => {
    const weights = new ExternalData('weights')
    return { graph: table(1000, add, weights), bytes: weights.bytes() }
  }
  const before = weightsOf(0)
  const after = weightsOf(100)
  const dir = modelsFolder(t, { 'm/1/model.onnx': before.graph, 'm/1/weights': before.bytes })
  const path = join(dir, 'm/1/weights')
  const { atime, mtime } = statSync(path)
  // What a writer does that keeps the time of the file, as copies do.
  const write = (bytes: Uint8Array) => {
    const file = openSync(path, 'r+')
    writeSync(file, bytes)
    closeSync(file)
    utimesSync(path, atime, mtime)
  }
  let tries = 0
  const info = (_: object, message: string) => {
    if (message !== 'a model is being tried') return
    tries++
    if (tries === 1) write(after.bytes.subarray(0, after.bytes.length / 2))
    if (tries === 2) write(after.bytes)
  }
  const models = beginModels({ dir, workers: 1, log: { ...log, info } })
  t.teardown(() => models.close())
  await models.opened
  t.strictSame(models.broken, [])
  t.equal(tries, 3)
  for (const row of [0, 999]) {
    const outputs = { y: [0, 1, 2, 3].map(each => row * 4 + each + 100) }
    t.strictSame(await predict(models.get('m'), [row]), [{ outputs }])
  }
})

t.test('a reload loads what has changed, and sessions that did not change stay', async t => {
  const { models, dir } = await openFolder(
    t,
    { 'a/1/model.onnx': table(500_000), 'b/1/model.onnx': perceptron(4, 8) },
    { isolation: 'process' },
  )
  const [first] = models.workerPids
  for (const round of [1, 2, 3]) {
    writeModels(dir, { 'a/1/model.onnx': table(500_000, round) })
    t.strictSame((await models.reload()).loaded, ['a/1'])
    t.strictSame(await predict(models.get('a'), [0]), [{ outputs: { y: [round, round + 1, round + 2, round + 3] } }])
  }
  t.ok(models.workerPids.includes(first as number), 'the worker that has the other model goes on')
  t.ok(models.workerPids.length <= 2, 'and those of the models that are gone have ended')
  mkdirSync(join(dir, 'c/1'), { recursive: true })
  t.equal((await predict(models.get('b'), [1, 2, 3, 4])).length, 1)
})
