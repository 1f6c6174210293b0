import { rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ModelRequired, NoModels, openModels, UnknownModel } from '../../../../service/src/inference/index.js'
import { ElementType, ExternalData, floats, model, node } from '../../../support/onnx-builder.js'
import { modelsFolder, openFolder, predict, until, writeModels } from '../../../support/onnx-folder.js'
import { identity, perceptron, sequenceOutput, twoInputs } from '../../../support/onnx-models.js'

// Each worker compiles the TypeScript that it runs: seconds on a busy machine, nothing in the built service.
t.setTimeout(300_000)

t.test('a folder with a model is all it takes', async t => {
  const { models } = await openFolder(t, { 'copy/1/model.onnx': identity() })
  t.ok(models.ready)
  const model = models.get()
  t.match(model.info, {
    name: 'copy',
    version: '1',
    inputs: [{ name: 'x', datatype: 'FP32', shape: ['batch', 3] }],
    outputs: [{ name: 'y', datatype: 'FP32', shape: ['batch', 3] }],
    sample: { model: 'copy', features: [0.5, 0.5, 0.5] },
    batching: { enabled: true },
  })
  t.strictSame(await predict(model, [0.1, 2, -3]), [{ outputs: { y: [0.1, 2, -3] } }])
  t.strictSame(
    await predict(model, [
      [1, 2, 3],
      [4, 5, 6],
    ]),
    [{ outputs: { y: [1, 2, 3] } }, { outputs: { y: [4, 5, 6] } }],
  )
})

t.test('model.json adds what people know of a model', async t => {
  const json = {
    description: 'Ten classes.',
    labels: [...'abcdefghij'],
    testAccuracy: 0.9,
    testRows: 10,
    sample: [1, 2, 3, 4],
    license: 'MIT',
    source: 'here',
    maxBatchRows: 7,
    threads: 2,
    trainedBy: 'me',
  }
  const { models, logged } = await openFolder(t, { 'm/model.json': json, 'm/1/model.onnx': perceptron(4, 8) })
  const { info } = models.get('m')
  const { sample: _, maxBatchRows, threads, trainedBy, ...told } = json
  t.match(info, told)
  t.strictSame(info.sample, { model: 'm', features: [1, 2, 3, 4] })
  t.strictSame(info.batching, { enabled: true, maxRows: 7 })
  const [prediction] = await predict(models.get('m'), info.sample.features)
  t.ok(json.labels.includes(prediction?.label ?? ''))
  t.match(
    logged.find(({ level }) => level === 'warn'),
    { details: { keys: ['trainedBy'] } },
  )
})

t.test('the highest number is the default version, and every version may be asked for', async t => {
  const { models } = await openFolder(t, {
    'm/9/model.onnx': identity(ElementType.FLOAT, ['batch', 9]),
    'm/10/model.onnx': identity(ElementType.FLOAT, ['batch', 10]),
    'm/02/model.onnx': identity(),
    'm/notes/model.onnx': identity(),
    'train/readme.txt': 'not a model',
  })
  t.strictSame(
    models.versions('m').map(({ info }) => info.version),
    ['10', '9'],
  )
  t.equal(models.get('m').info.version, '10')
  t.equal(models.get('m', '9').info.inputs[0]?.shape[1], 9)
  t.strictSame(models.broken, [])
  t.throws(() => models.get('m', '2'), { code: 'INFERENCE_UNKNOWN_MODEL', available: ['10', '9'] })
  t.throws(() => models.get('x'), { message: "no model 'x'; there is: m" })
  t.strictSame(models.versions('x'), [])
})

t.test('a request that names no model gets the default one, or is asked which', async t => {
  const files = { 'a/1/model.onnx': identity(), 'b/1/model.onnx': identity() }
  const { models } = await openFolder(t, files)
  t.throws(() => models.get(), ModelRequired)
  t.throws(() => models.get('constructor'), UnknownModel)
  t.strictSame(
    models.list().map(({ info }) => info.name),
    ['a', 'b'],
  )
  const { models: defaulted } = await openFolder(t, files, { defaultModel: 'b' })
  t.equal(defaulted.get().info.name, 'b')
  await t.rejects(openFolder(t, files, { defaultModel: 'c' }), UnknownModel)
})

t.test('a broken model is reported and leaves the rest serving', async t => {
  const { models, logged } = await openFolder(t, {
    'good/1/model.onnx': identity(),
    'not-onnx/1/model.onnx': 'hello',
    'empty/1/model.onnx': '',
    'sequence/1/model.onnx': sequenceOutput(),
    'bfloat/1/model.onnx': identity(ElementType.BFLOAT16),
    'bad-json/model.json': '{ "labels": 3 }',
    'bad-json/1/model.onnx': identity(),
    'bad-labels/model.json': { labels: ['only', 'two'] },
    'bad-labels/1/model.onnx': perceptron(4, 8),
    'bad-sample/model.json': { sample: [1, 2] },
    'bad-sample/1/model.onnx': identity(),
    'bad-default/model.json': { features: ['a', { name: 'b', default: 'high' }, 'c'] },
    'bad-default/1/model.onnx': identity(),
    'bad-category/model.json': { features: ['a', 'b', { name: 'c', categories: ['x', 'y'], default: 'z' }] },
    'bad-category/1/model.onnx': identity(),
    'bad-label-output/model.json': { labelOutput: 'y' },
    'bad-label-output/1/model.onnx': identity(),
    'bad-score-output/model.json': { labels: ['a', 'b'], scoreOutput: 'y' },
    'bad-score-output/1/model.onnx': identity(),
    'text-scores/model.json': { labels: ['a', 'b', 'c'], scoreOutput: 'y' },
    'text-scores/1/model.onnx': identity(ElementType.STRING),
    'bad-image/model.json': { image: { width: 5 } },
    'bad-image/1/model.onnx': identity(ElementType.FLOAT, ['n', 3, 2, 2]),
    'bad-sample-of-two/model.json': { sample: { a: [1, 2], b: [1] } },
    'bad-sample-of-two/1/model.onnx': twoInputs(),
    'no-version/model.json': {},
    'bad name!/1/model.onnx': identity(),
    'unknown-op/1/model.onnx': model({
      nodes: [node('NoSuchOperator', ['x'], ['y'])],
      inputs: [{ name: 'x', type: 1, shape: ['n'] }],
      outputs: [{ name: 'y', type: 1, shape: ['n'] }],
    }),
  })
  t.strictSame(
    models.list().map(({ info }) => info.name),
    ['good'],
  )
  const reasons = Object.fromEntries(models.broken.map(({ name, reason }) => [name, reason]))
  t.match(reasons, {
    'not-onnx': /is not an ONNX model/,
    empty: /the file is empty/,
    sequence: /output 'y' is a sequence/,
    bfloat: /bfloat16/,
    'bad-json': /'labels' is 3; it takes a list of strings/,
    'bad-labels': /'labels' has 2 entries, and no output has as many/,
    'bad-sample': /^model.json: 'sample' does not fit: it has 2 values; a row is 3 numbers$/,
    'bad-sample-of-two': /^model.json: 'sample' does not fit: inputs.b has 1 values; a row is 2 numbers$/,
    'bad-default': /^model.json: the default of 'b' in 'features' is "high"; the model takes a number/,
    'bad-category': /^model.json: the default of 'c' in 'features' is "z"; it takes x, y$/,
    'bad-label-output': /^model.json: 'labelOutput' is y FP32 \[batch, 3\]; it takes an output of texts or integers$/,
    'bad-score-output': /^model.json: 'labels' has 2 entries, and 'scoreOutput' is y FP32 \[batch, 3\]$/,
    'text-scores': /^model.json: 'scoreOutput' is y BYTES \[batch, 3\]; it takes an output of numbers$/,
    'bad-image': /rows of the shape \[3, 2, 2\]: it says 5 × 2$/,
    'no-version': /put the model into no-version\/1\/model.onnx/,
    'bad name!': /letters, digits/,
    'unknown-op': /NoSuchOperator/,
  })
  t.equal(logged.filter(({ level }) => level === 'error').length, Object.keys(reasons).length)
  t.strictSame(await predict(models.get(), [1, 2, 3]), [{ outputs: { y: [1, 2, 3] } }])
})

t.test('answers have the label and the score of the outputs that model.json names', async t => {
  const named = (json: object) => ({ labels: ['cat', 'dog', 'cow'], ...json })
  const graph = model({
    nodes: [
      node('Identity', ['x'], ['first']),
      node('Neg', ['x'], ['second']),
      node('ArgMax', ['x'], ['kind'], { axis: { int: 1 }, keepdims: { int: 0 } }),
    ],
    inputs: [{ name: 'x', type: ElementType.FLOAT, shape: ['n', 3] }],
    outputs: [
      { name: 'first', type: ElementType.FLOAT, shape: ['n', 3] },
      { name: 'second', type: ElementType.FLOAT, shape: ['n', 3] },
      { name: 'kind', type: ElementType.INT64, shape: ['n'] },
    ],
  })
  const { models } = await openFolder(t, {
    'by-default/1/model.onnx': graph,
    'by-default/model.json': named({}),
    'by-label/1/model.onnx': graph,
    'by-label/model.json': named({ labelOutput: 'kind', scoreOutput: 'second' }),
    'by-score/1/model.onnx': graph,
    'by-score/model.json': named({ scoreOutput: 'second' }),
  })
  const ask = async (name: string) => (await predict(models.get(name), [1, 5, 3]))[0]
  t.match(await ask('by-default'), { label: 'dog', score: 5 })
  t.match(await ask('by-label'), { label: 'dog', score: -5 })
  t.match(await ask('by-score'), { label: 'cat', score: -1 })
})

t.test('a folder that holds nothing to serve is said to, and why', async t => {
  const open = (dir: string) => openFolder(t, {}, { dir })
  const dir = modelsFolder(t, { 'a/1/model.onnx': 'no', 'file.txt': '' })
  await t.rejects(open(join(dir, 'missing')), { message: /folder of models '.*missing' does not exist/ })
  await t.rejects(open(join(dir, 'file.txt')), { message: /is not a folder/ })
  await t.rejects(open(dir), { message: /no model of '.*' can be served; a\/1: is not an ONNX model/ })
  await t.rejects(open(modelsFolder(t, { 'x.txt': '' })), NoModels)
})

t.test('weights in files beside the model are loaded with it, and only from there', async t => {
  const withWeights = (location: string) => {
    const external = new ExternalData(location)
    const bytes = model(
      {
        nodes: [node('Add', ['x', 'w'], ['y'])],
        inputs: [{ name: 'x', type: ElementType.FLOAT, shape: ['batch', 2] }],
        outputs: [{ name: 'y', type: ElementType.FLOAT, shape: ['batch', 2] }],
        initializers: [floats('w', [10, 20])],
      },
      { external },
    )
    return { bytes, data: external.bytes() }
  }
  const good = withWeights('model.onnx.data')
  const { models } = await openFolder(t, {
    'm/1/model.onnx': good.bytes,
    'm/1/model.onnx.data': good.data,
    'missing/1/model.onnx': good.bytes,
    'escapes/1/model.onnx': withWeights('../../m/1/model.onnx.data').bytes,
  })
  t.strictSame(await predict(models.get('m'), [1, 2]), [{ outputs: { y: [11, 22] } }])
  t.match(models.broken, [
    { name: 'escapes', reason: /outside of its folder/ },
    { name: 'missing', reason: /^its weights: .*model.onnx.data does not exist$/ },
  ])
})

t.test('what a run took is told, and events tell of every batch', async t => {
  const events: object[] = []
  const { models } = await openFolder(t, { 'copy/1/model.onnx': identity() }, { onEvent: e => events.push(e) })
  const x = { datatype: 'FP32' as const, shape: [2, 3], data: new Float32Array(6) }
  const { queueMs, computeMs, batchRows } = await models.get().run({ x }, { rows: 2 })
  t.ok(queueMs >= 0 && computeMs > 0)
  t.equal(batchRows, 2)
  await until(() => events.some(e => 'rows' in e), 'a batch was told')
  t.match(events, [
    { type: 'worker-started', slot: 0 },
    { type: 'reloaded', report: { loaded: ['copy/1'] } },
    { type: 'batch', model: 'copy', version: '1', rows: 2, requests: 1, failed: false },
  ])
})

t.test('a model may be kept on fewer workers than there are', async t => {
  const files = { 'one/model.json': { workers: 1 }, 'one/1/model.onnx': identity(), 'all/1/model.onnx': identity() }
  const { models } = await openFolder(t, files, { workers: 2 })
  for (const name of ['one', 'all']) {
    const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => predict(models.get(name), [i, i, i])))
    t.strictSame(
      answers,
      Array.from({ length: 50 }, (_, i) => [{ outputs: { y: [i, i, i] } }]),
    )
  }
})

t.test('a model that is half written is waited for', async t => {
  const dir = modelsFolder(t, { 'whole/1/model.onnx': identity() })
  const bytes = perceptron(4, 8)
  writeModels(dir, { 'slow/1/model.onnx': bytes.subarray(0, 100) })
  const { utimesSync, writeFileSync } = await import('node:fs')
  const path = join(dir, 'slow/1/model.onnx')
  utimesSync(path, new Date(), new Date())
  const { models: opened } = { models: openModels({ dir, workers: 1, log: { info() {}, warn() {}, error() {} } }) }
  writeFileSync(path, bytes)
  const models = await opened
  t.teardown(() => models.close())
  t.strictSame(models.broken, [])
  t.equal((await predict(models.get('slow'), [1, 2, 3, 4])).length, 1)
  rmSync(path)
})
