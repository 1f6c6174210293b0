import { rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { floats, model, node } from '../../../support/onnx-builder.js'
import { openFolder, predict, until, writeModels } from '../../../support/onnx-folder.js'

t.setTimeout(300_000)

/** y = [x + n, x - n]: a classifier of two classes, whose answer is the first where n > 0. */
const version = (n: number) =>
  model({
    nodes: [
      node('Add', ['x', 'n'], ['more']),
      node('Sub', ['x', 'n'], ['less']),
      node('Concat', ['more', 'less'], ['y'], { axis: { int: 1 } }),
    ],
    inputs: [{ name: 'x', type: 1, shape: ['batch', 1] }],
    outputs: [{ name: 'y', type: 1, shape: ['batch', 2] }],
    initializers: [floats('n', [n])],
  })

const files = { 'm/1/model.onnx': version(1), 'm/2/model.onnx': version(2), 'm/3/model.onnx': version(-1) }
const labels = ['up', 'down']

t.test('model.json pins the version that answers, and what is not there is a fault', async t => {
  const { models, dir } = await openFolder(t, { ...files, 'm/model.json': { defaultVersion: '2' } })
  t.equal(models.get('m').info.version, '2')
  t.equal(models.list()[0]?.info.version, '2')
  t.equal(models.get('m', '3').info.version, '3')
  t.strictSame(models.routing('m'), { defaultVersion: '2' })
  writeModels(dir, { 'm/model.json': { defaultVersion: '7' } })
  t.match(await models.reload(), { loaded: [], unchanged: ['m/3', 'm/2', 'm/1'] })
  t.equal(models.get('m').info.version, '3')
  t.match(models.faults, ["version 7 of model 'm' does not serve, and is its 'defaultVersion'"])
})

t.test('callers are split by weight, each keeps its version, and a change loads nothing and loses nothing', async t => {
  const { models, dir } = await openFolder(t, { ...files, 'm/model.json': { split: { '1': 75, '2': 25 } } })
  const callers = Array.from({ length: 2000 }, (_, i) => `address ${i}`)
  const versionOf = (caller: string) => models.get('m', undefined, caller).info.version
  const first = callers.map(versionOf)
  t.strictSame(callers.map(versionOf), first)
  const part = first.filter(each => each === '1').length / callers.length
  t.ok(part > 0.7 && part < 0.8, `${part}`)
  t.strictSame(models.routing('m'), { defaultVersion: '3', split: { '1': 0.75, '2': 0.25 } })
  const sessions = models.versions('m')
  const answers: unknown[] = []
  let done = false
  const asking = (async () => {
    while (!done) answers.push(await predict(models.get('m', undefined, 'someone'), [1]))
  })()
  writeModels(dir, { 'm/model.json': { split: { '1': 0, '3': 1 } } })
  t.match(await models.reload(), { loaded: [], broken: [] })
  done = true
  await asking
  t.strictSame(models.versions('m'), sessions, 'the same sessions')
  t.strictSame([...new Set(callers.map(versionOf))], ['3'])
  writeModels(dir, { 'm/model.json': { split: { '1': 1, '9': 1 } } })
  await models.reload()
  t.strictSame([...new Set(callers.map(versionOf))], ['1'], 'a version that is not there has no part')
  t.match(models.faults, [/version 9 of model 'm' does not serve/])
})

t.test('a shadow runs beside, is compared, and answers nobody', async t => {
  const json = { labels, defaultVersion: '1', shadow: { version: '2' } }
  const { models, dir } = await openFolder(t, { ...files, 'm/model.json': json })
  const ask = async () =>
    t.match(await predict(models.get('m'), [[10], [20]]), [{ label: 'up', outputs: { y: [11, 9] } }, { label: 'up' }])
  await ask()
  const shadow = () => models.routing('m')?.shadow
  await until(() => shadow()?.rows === 2, 'the shadow has answered')
  t.match(shadow(), { version: '2', share: 1, requests: 1, failed: 0, labelled: 2, agreed: 2, largestDifference: 1 })
  writeModels(dir, { 'm/model.json': { ...json, shadow: { version: '3' } } })
  await models.reload()
  await ask()
  await until(() => shadow()?.rows === 2, 'the other has answered')
  t.match(shadow(), { version: '3', labelled: 2, agreed: 0, largestDifference: 2 })
  writeModels(dir, { 'm/model.json': { ...json, shadow: { version: '2', share: 0 } } })
  await models.reload()
  await ask()
  t.match(shadow(), { requests: 1 }, 'a share of nothing')
  await predict(models.get('m', '2'), [1])
  t.match(shadow(), { requests: 1 }, 'the shadow has none of its own')
})

t.test('a shadow differs by Infinity where it has no number, and not where both have none', async t => {
  const json = { defaultVersion: '1', shadow: { version: '4' } }
  const none = { 'm/4/model.onnx': version(Number.NaN), 'm/5/model.onnx': version(Number.NaN) }
  const { models, dir } = await openFolder(t, { ...files, ...none, 'm/model.json': json })
  const shadow = () => models.routing('m')?.shadow
  await predict(models.get('m'), [[1]])
  await until(() => shadow()?.rows === 1, 'the shadow has answered')
  t.match(shadow(), { failed: 0, largestDifference: Number.POSITIVE_INFINITY })
  writeModels(dir, { 'm/model.json': { defaultVersion: '4', shadow: { version: '5' } } })
  await models.reload()
  await predict(models.get('m'), [[1]])
  await until(() => shadow()?.rows === 1, 'the other has answered')
  t.match(shadow(), { failed: 0, largestDifference: 0 })
})

t.test('what a version has run is counted, and a model can be taken out and put back', async t => {
  const { models, dir } = await openFolder(t, { ...files, 'other/1/model.onnx': version(1) })
  await predict(models.get('m'), [[1], [2], [3]])
  await until(() => models.stats('m')[0]?.batches === 1, 'the batch was counted')
  t.match(models.stats('m'), [
    { name: 'm', version: '3', rows: 3, batches: 1 },
    { version: '2', rows: 0 },
    { version: '1', rows: 0 },
  ])
  await models.setLoaded('m', false)
  t.throws(() => models.get('m'), { code: 'INFERENCE_UNKNOWN_MODEL' })
  await models.reload()
  t.strictSame(models.versions('m'), [], 'a reload leaves it out')
  await t.rejects(models.setLoaded('other', false), { code: 'INFERENCE_NO_MODELS' })
  t.equal((await predict(models.get('other'), [1])).length, 1)
  await models.setLoaded('m', true)
  t.equal((await predict(models.get('m'), [1])).length, 1)
  rmSync(join(dir, 'other'), { recursive: true })
  t.match(await models.reload(), { removed: ['other/1'] })
})

t.test('to load or unload one model leaves the files of all others for the next reload', async t => {
  const { models, dir } = await openFolder(t, { ...files, 'other/1/model.onnx': version(1) })
  writeModels(dir, { 'other/2/model.onnx': version(2), 'broken/1/model.onnx': Buffer.from('x') })
  rmSync(join(dir, 'm/3'), { recursive: true })
  const versionsOf = (name: string) => models.versions(name).map(({ info }) => info.version)
  await models.setLoaded('m', false)
  t.strictSame(versionsOf('other'), ['1'])
  t.strictSame(models.broken, [])
  await models.setLoaded('m', true)
  t.strictSame(versionsOf('m'), ['2', '1'], 'it is loaded as it is in the folder by now')
  t.strictSame(versionsOf('other'), ['1'])
  t.match(await models.reload(), { loaded: ['other/2'], broken: [{ name: 'broken' }] })
  await models.setLoaded('m', false)
  t.match(models.broken, [{ name: 'broken' }], 'what is known to be wrong stays known')
})
