/** A reload that comes between the look-up of a model and its run: there rows are charged, which may take a while. */
import t, { type Test } from 'tap'
import { Charges } from '../../service/src/protection/charges.js'
import { buildService } from '../support/build.js'
import { openFolder, writeModels } from '../support/onnx-folder.js'
import { type Call, doubling, sendJson, startV2Server } from '../support/v2-server.js'

t.setTimeout(240_000)

/** A model of so many numbers a row, with one output of that name, that gives its input back. */
async function backendOf(t: Test, version: string, output: string, width = 2) {
  const tensor = (name: string) => ({ name, datatype: 'FP32', shape: [-1, width] })
  const { url } = await startV2Server(t, {
    metadata: { ...doubling, versions: [version], inputs: [tensor('x')], outputs: [tensor(output)] },
    infer: ({ json }: Call, response) => {
      const [{ shape, data }] = json.inputs
      sendJson(response, 200, { model_name: 'm', outputs: [{ name: output, datatype: 'FP32', shape, data }] })
    },
  })
  return { 'm/model.json': { backend: { urls: [url], model: 'double' } } }
}

/** A service in which version 1 gives way to another while the rows of the first request are charged. */
async function swapping(t: Test, version: string, output: string, width?: number) {
  const after = await backendOf(t, version, output, width)
  const { models, dir } = await openFolder(t, await backendOf(t, '1', 'first'))
  const service = await buildService(t, { RATE_LIMIT_MAX: 1000, REQUEST_TIMEOUT_MS: 120_000 }, models)
  Charges.prototype.reserve = async () => {
    writeModels(dir, after)
    await models.reload()
  }
  const features = [
    [1, 2],
    [3, 4],
  ]
  const predict = (more: object = {}) => service.predict({ model: 'm', features, ...more })
  const infer = (more: object = {}, version = '') =>
    service.ask({
      method: 'POST',
      url: `/v2/models/m${version}/infer`,
      payload: { inputs: [{ name: 'x', datatype: 'FP32', shape: [1, 2], data: [1, 2] }], ...more },
    })
  return { predict, infer }
}

t.test('the answer names the version that ran, and has its outputs', async t => {
  const v1 = await (await swapping(t, '2', 'second')).predict()
  t.strictSame(v1.json(), {
    model: 'm',
    version: '2',
    predictions: [{ outputs: { second: [1, 2] } }, { outputs: { second: [3, 4] } }],
  })
  const v2 = await (await swapping(t, '2', 'second')).infer()
  t.match(v2.json(), { model_version: '2', outputs: [{ name: 'second', data: [1, 2] }] })
})

t.test('who asked for a version by name gets no other', async t => {
  t.match((await (await swapping(t, '2', 'second')).predict({ version: '1' })).json(), {
    status: 404,
    detail: /has no version '1'; there is: 2/,
  })
  t.equal((await (await swapping(t, '2', 'second')).infer({}, '/versions/1')).statusCode, 404)
  t.match((await (await swapping(t, '1', 'again')).predict({ version: '1' })).json(), { version: '1' }, 'or that one')
})

t.test('what the version that is there now does not take is told so, with 400', async t => {
  const predicted = await (await swapping(t, '2', 'second', 3)).predict()
  t.match(predicted.json(), { status: 400, code: 'INVALID_INPUT' })
  t.equal((await (await swapping(t, '2', 'second', 3)).infer()).statusCode, 400)
  const named = await (await swapping(t, '2', 'second')).infer({ outputs: [{ name: 'first' }] })
  t.equal(named.statusCode, 400)
  t.match(named.json().error, /first/)
})
