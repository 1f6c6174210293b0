/** Which urls of a remote model are used, which are left out and why, and when the model is opened again. */
import t, { type Test } from 'tap'
import type { RunOptions } from '../../../../service/src/inference/types.js'
import { openFolder, predict, until, writeModels } from '../../../support/onnx-folder.js'
import { fixedBatch, identity } from '../../../support/onnx-models.js'
import { answerDouble, doubling, startV2Server, type V2Behaviour } from '../../../support/v2-server.js'

t.setTimeout(240_000)

const backend = (urls: readonly string[], more: object = {}) => ({
  maxBatchRows: 1,
  backend: { urls, healthIntervalMs: 50, ...more },
})

async function open(t: Test, behaviour: V2Behaviour, more: object = {}) {
  const server = await startV2Server(t, behaviour)
  const opened = await openFolder(t, { 'double/model.json': backend([server.url], more) })
  const leftOut = () => opened.logged.filter(({ message }) => message === 'a backend is left out')
  const run = (value: number, options: Partial<RunOptions> = {}) =>
    predict(opened.models.get('double'), [value, value], options)
  return { ...opened, server, leftOut, run }
}

const wide = (width: number) => ({
  ...doubling,
  inputs: [{ name: 'x', datatype: 'FP32', shape: [-1, width] }],
  outputs: [{ name: 'y', datatype: 'FP32', shape: [-1, width] }],
})

const answerOf = (value: number) => [{ outputs: { y: [2 * value, 2 * value] } }]

for (const retry of ['unsent', 'safe'] as const) {
  const fails = retry === 'safe' ? 'nothing' : 'only what was on it'
  t.test(`one connection that is reset fails ${fails}, with a single url and retry '${retry}'`, async t => {
    let armed = false
    const { run, leftOut } = await open(
      t,
      {
        infer: (call, response) => {
          if (!armed) return answerDouble(call, response)
          armed = false
          response.destroy()
        },
      },
      { retry, lanes: 2 },
    )
    armed = true
    const outcomes = await Promise.allSettled(Array.from({ length: 60 }, (_, i) => run(i)))
    const failed = outcomes.filter(({ status }) => status === 'rejected')
    t.equal(failed.length, retry === 'safe' ? 0 : 1)
    for (const [i, outcome] of outcomes.entries()) {
      if (outcome.status === 'fulfilled') t.strictSame(outcome.value, answerOf(i))
    }
    t.strictSame(leftOut(), [])
  })
}

t.test('while a url is asked how it is, requests wait, and those whose deadline passes are told', async t => {
  let lose = false
  let questions = 0
  const { run, leftOut, models } = await open(t, {
    infer: (call, response) => (lose ? void response.destroy() : answerDouble(call, response)),
    // Not at the first question after the loss.
    ready: () => !lose || ++questions > 1,
  })
  lose = true
  await t.rejects(run(1), { code: 'INFERENCE_BACKEND_UNAVAILABLE' })
  const waiting = run(2, { deadline: performance.now() + 60_000 })
  t.ok(models.get('double').ready, 'nothing is decided yet')
  lose = false
  t.strictSame(await waiting, answerOf(2))
  t.strictSame(leftOut(), [])
})

t.test('a url that says that it is well and loses every call is left out, for longer each time', async t => {
  let sick = false
  const bad = await startV2Server(t, {
    infer: (call, response) => (sick ? void response.destroy() : answerDouble(call, response)),
  })
  const good = await startV2Server(t)
  const { models, logged } = await openFolder(t, {
    'double/model.json': backend([bad.url, good.url], { retry: 'safe', lanes: 1 }),
  })
  sick = true
  const leftOut = () => logged.filter(({ details }) => /calls in a row were lost/.test(String(details.reason)))
  const ask = async () => {
    const values = Array.from({ length: 4 }, (_, i) => i)
    const answers = await Promise.all(values.map(i => predict(models.get('double'), [i, i])))
    for (const i of values) t.strictSame(answers[i], answerOf(i))
  }
  while (leftOut().length < 2) await ask()
  t.match(leftOut()[0], { level: 'warn', details: { url: bad.url } })
  sick = false
  await until(() => logged.some(({ message }) => message === 'a backend is back'), 'it is tried again')
  await ask()
})

t.test('the last url is not left out for the calls that it loses', async t => {
  let lose = false
  const { run, leftOut } = await open(t, {
    infer: (call, response) => (lose ? void response.destroy() : answerDouble(call, response)),
  })
  lose = true
  for (let i = 0; i < 8; i++) await t.rejects(run(1), { code: 'INFERENCE_BACKEND_UNAVAILABLE' })
  lose = false
  t.strictSame(await run(1), answerOf(1))
  t.strictSame(leftOut(), [])
})

t.test('a model without a backend is not ready, and is again once it has one', async t => {
  const { models, server, leftOut, run } = await open(t, {})
  t.ok(models.get('double').ready)
  t.ok(models.ready)
  await server.stop()
  await until(() => leftOut().length > 0, 'that is seen')
  t.notOk(models.get('double').ready)
  t.notOk(models.ready, 'there is no other')
  await t.rejects(run(1), { code: 'INFERENCE_BACKEND_UNAVAILABLE' })
  await startV2Server(t, { port: server.port })
  await until(() => models.get('double').ready === true, 'it is back')
  t.ok(models.ready)
  t.strictSame(await run(1), answerOf(1))
})

t.test('each new reason why a url is left out is logged, and no reason twice', async t => {
  let metadata: object = doubling
  const up = await startV2Server(t)
  const first = await startV2Server(t, { metadata: () => metadata })
  const { logged } = await openFolder(t, { 'double/model.json': backend([up.url, first.url]) })
  const reasons = () =>
    logged.flatMap(({ message, details }) => (message === 'a backend is left out' ? [String(details.reason)] : []))
  metadata = wide(3)
  await until(() => reasons().length === 1, 'it is left out')
  t.match(reasons()[0], /other tensors than the one that serves/)
  await first.stop()
  await until(() => reasons().length === 2, 'for another reason now')
  t.match(reasons()[1], /ECONNREFUSED/)
  let asked = 0
  await startV2Server(t, { port: first.port, metadata: wide(3), ready: () => ++asked > 0 })
  await until(() => asked > 3, 'it has been asked again and again')
  t.equal(reasons().length, 3)
})

for (const how of ['comes back', 'goes on']) {
  t.test(`a backend that ${how} with another signature is opened again`, async t => {
    let metadata: object = doubling
    const { models, server, run, logged } = await open(t, { metadata: () => metadata })
    const before = models.get('double')
    const { model_name, ...rest } = { model_name: 'double', ...wide(3) }
    if (how === 'comes back') {
      await server.stop()
      await startV2Server(t, { port: server.port, metadata: rest })
    } else metadata = rest
    await until(() => models.get('double') !== before, 'it is there')
    const model = models.get('double')
    t.match(model.info.inputs, [{ shape: ['batch', 3] }])
    t.ok(model.ready)
    t.strictSame(await predict(model, [1, 2, 3]), [{ outputs: { y: [2, 4, 6] } }])
    await t.rejects(run(1), /3/, 'what no longer fits is told so')
    await t.rejects(before.run({}, { rows: 1 }), { code: 'INFERENCE_INVALID_INPUT' }, 'also to who has the old one')
    t.ok(logged.some(({ details }) => /other tensors/.test(String(details.reason))))
    t.strictSame(models.broken, [])
  })
}

t.test('a server that goes on to a newer version has that version told, and no call fails', async t => {
  let versions = ['1', '3']
  const { models, run } = await open(t, { metadata: () => ({ ...doubling, versions }) })
  const pinned = await open(t, { metadata: () => ({ ...doubling, versions }) }, { version: '3' })
  const before = pinned.models.get('double')
  t.equal(models.get('double').info.version, '3')
  versions = ['3', '4']
  while (models.get('double').info.version !== '4') t.strictSame(await run(1), answerOf(1))
  t.strictSame(await run(2), answerOf(2))
  t.equal(pinned.models.get('double'), before, 'one whose version is set stays')
})

t.test('a signature that changed is not taken while another url has the one that serves', async t => {
  let metadata: object = doubling
  const changing = await startV2Server(t, { metadata: () => metadata })
  const other = await startV2Server(t)
  const { models, logged } = await openFolder(t, { 'double/model.json': backend([changing.url, other.url]) })
  const before = models.get('double')
  metadata = wide(3)
  await until(() => logged.some(({ message }) => message === 'a backend is left out'), 'one has changed')
  t.strictSame(await predict(models.get('double'), [1, 1]), answerOf(1))
  t.equal(models.get('double'), before)
  await other.stop()
  await until(() => models.get('double') !== before, 'now nobody has the old one')
  t.strictSame(await predict(models.get('double'), [1, 2, 3]), [{ outputs: { y: [2, 4, 6] } }])
})

t.test('a backend that is down at first is tried again; nothing else of the folder is read meanwhile', async t => {
  let well = false
  let asked = 0
  const server = await startV2Server(t, {
    ready: () => {
      asked++
      return well
    },
  })
  const { models, dir, logged } = await openFolder(t, {
    'good/1/model.onnx': identity(),
    'forgotten/model.json': { description: 'no version yet' },
    'typo/model.json': '{ "backend": ',
    'double/model.json': backend([server.url]),
  })
  const errors = () => logged.filter(({ level }) => level === 'error').length
  t.equal(errors(), 3)
  const before = models.get('good')
  t.notOk(models.versions('double')[0]?.ready)
  // Somebody copies files into place, and has not asked for a reload.
  writeModels(dir, { 'good/1/model.onnx': fixedBatch(1), 'new/1/model.onnx': identity() })
  await until(() => asked >= 3, 'it is asked again')
  t.equal(errors(), 3, 'nothing is said twice')
  t.match(models.broken.map(({ name }) => name).sort(), ['double', 'forgotten', 'typo'])
  well = true
  await until(() => models.versions('double').length > 0, 'it is there')
  t.strictSame(await predict(models.get('double'), [1, 1]), answerOf(1))
  t.equal(models.get('good'), before)
  t.strictSame(
    models.list().map(({ info }) => info.name),
    ['double', 'good'],
  )
  t.match(models.broken.map(({ name }) => name).sort(), ['forgotten', 'typo'])
  const report = await models.reload()
  t.match(report, { loaded: ['good/1', 'new/1'], unchanged: ['double/3'] })
})

t.test('a reload takes over what was tried again, whatever it finds', async t => {
  const { models, dir, server } = await open(t, {})
  writeModels(dir, {
    'copy/1/model.onnx': identity(),
    'double/model.json': backend(['http://127.0.0.1:1']),
  })
  t.match(await models.reload(), { broken: [{ name: 'double', reason: /no backend serves it/ }] })
  t.strictSame(await predict(models.get('double'), [1, 1]), answerOf(1), 'the one before goes on')
  writeModels(dir, { 'double/model.json': backend([server.url]) })
  t.match(await models.reload(), { broken: [], unchanged: ['copy/1', 'double/3'] })
  t.strictSame(models.broken, [])
})
