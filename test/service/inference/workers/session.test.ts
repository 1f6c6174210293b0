import { listSupportedBackends } from 'onnxruntime-node'
import t from 'tap'
import { openFolder, predict } from '../../../support/onnx-folder.js'
import { identity } from '../../../support/onnx-models.js'

t.setTimeout(300_000)

t.test('a provider that is not there falls back with a warning, or refuses the model', async t => {
  const missing = process.platform === 'win32' ? 'coreml' : 'dml'
  const { models, logged } = await openFolder(t, {
    'falls/model.json': { session: { executionProviders: [missing, 'cpu'] } },
    'falls/1/model.onnx': identity(),
    'refuses/model.json': { session: { executionProviders: [missing], onMissingProvider: 'refuse' } },
    'refuses/1/model.onnx': identity(),
  })
  t.strictSame(await predict(models.get('falls'), [1, 2, 3]), [{ outputs: { y: [1, 2, 3] } }])
  t.match(
    logged.find(({ level }) => level === 'warn'),
    { details: { model: 'falls', warning: new RegExp(`^execution provider '${missing}' cannot be used`) } },
  )
  t.match(models.broken, [{ name: 'refuses', reason: new RegExp(`^execution provider '${missing}' cannot be used`) }])
})

t.test('every provider that this machine has serves a model', async t => {
  const names = listSupportedBackends().map(({ name }) => name)
  t.ok(names.includes('cpu'))
  const known = names.filter(name => ['cuda', 'tensorrt', 'coreml', 'dml', 'openvino', 'webgpu', 'cpu'].includes(name))
  const files = Object.fromEntries(
    known.flatMap(name => [
      [`${name}/model.json`, { session: { executionProviders: [name], onMissingProvider: 'refuse' } }],
      [`${name}/1/model.onnx`, identity()],
    ]),
  )
  const { models } = await openFolder(t, files)
  for (const { info } of models.list()) {
    t.strictSame(await predict(models.get(info.name), [1, 2, 3]), [{ outputs: { y: [1, 2, 3] } }], info.name)
  }
  t.ok(models.list().some(({ info }) => info.name === 'cpu'))
  for (const { name, reason } of models.broken) t.match(reason, `execution provider '${name}' cannot be used`)
})

t.test('sessions are made as model.json says', async t => {
  const session = { graphOptimizationLevel: 'disabled', threads: 2, enableCpuMemArena: false, enableMemPattern: false }
  const { models } = await openFolder(t, {
    'm/model.json': { session, selfCheck: false, batching: true, maxBatchRows: 4 },
    'm/1/model.onnx': identity(),
    'unchecked/model.json': { selfCheck: false },
    'unchecked/1/model.onnx': identity(),
  })
  t.strictSame(models.get('m').info.batching, { enabled: true, maxRows: 4 })
  t.match(models.get('unchecked').info.batching, { enabled: false, reason: /not checked/ })
  for (const name of ['m', 'unchecked']) t.equal((await predict(models.get(name), [1, 2, 3])).length, 1)
})
