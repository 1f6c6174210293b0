/** A remote model against a server that behaves as the documents of Triton and KServe say, and misbehaves on demand. */
import type { ServerResponse } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { encodeRows } from '../../../../service/src/inference/tensors/rows.js'
import type { RunOptions } from '../../../../service/src/inference/types.js'
import { openFolder, predict, until } from '../../../support/onnx-folder.js'
import { identity } from '../../../support/onnx-models.js'
import {
  answerDouble,
  type Call,
  doubling,
  outputOf,
  sendBinary,
  sendJson,
  startV2Server,
  type V2Behaviour,
} from '../../../support/v2-server.js'

t.setTimeout(120_000)

const folder = (urls: readonly string[], more: object = {}, json: object = {}) => ({
  'double/model.json': { ...json, backend: { urls, healthIntervalMs: 50, ...more } },
})

async function open(t: Test, behaviour: V2Behaviour = {}, more: object = {}, json: object = {}) {
  const server = await startV2Server(t, behaviour)
  const opened = await openFolder(t, folder([server.url], more, json))
  const model = opened.models.get('double')
  server.calls.length = 0
  const run = (features: unknown, options: Partial<RunOptions> = {}) => predict(model, features, options)
  return { ...opened, server, model, run }
}

t.test('the signature, platform and newest version come from the metadata of the server', async t => {
  const { models, model } = await open(t)
  t.ok(models.ready)
  t.match(model.info, {
    name: 'double',
    version: '3',
    platform: 'tensorflow_savedmodel',
    inputs: [{ name: 'x', datatype: 'FP32', shape: ['batch', 2] }],
    outputs: [{ name: 'y', datatype: 'FP32', shape: ['batch', 2] }],
    batching: { enabled: true },
  })
})

for (const extensions of [
  [],
  ['binary_tensor_data'],
  ['binary_data'],
  ['classification', 'binary_tensor_data_extension'],
]) {
  t.test(`a server with the extensions [${extensions}] is spoken to in what it understands`, async t => {
    const { server, run } = await open(t, { extensions, health: extensions.length > 1 ? 'told' : 'empty' })
    t.strictSame(
      await run([
        [1, 2.5],
        [3, -4],
      ]),
      [{ outputs: { y: [2, 5] } }, { outputs: { y: [6, -8] } }],
    )
    const binary = extensions.length > 0
    t.equal(server.calls[0]?.binary.length, binary ? 16 : 0)
    t.equal(server.calls[0]?.headers['content-type'], binary ? 'application/octet-stream' : 'application/json')
  })
}

t.test('a version that is set stands in every url', async t => {
  const { server, model, run } = await open(t, {}, { version: '2' })
  await run([1, 1])
  t.equal(model.info.version, '2')
  t.equal(server.calls[0]?.url, '/v2/models/double/versions/2/infer')
})

for (const extensions of [[], ['binary_tensor_data']]) {
  const binary = extensions.length > 0
  t.test(`64-bit integers, halves and strings go and come back whole, as ${binary ? 'bytes' : 'JSON'}`, async t => {
    const tensor = (datatype: string, name: string) => ({ name, datatype, shape: [-1, 1] })
    const spec = (suffix: string) => ['INT64', 'FP16', 'BYTES'].map(each => tensor(each, `${each}${suffix}`))
    const metadata = { ...doubling, inputs: spec(''), outputs: spec('_out') }
    const echo = ({ text, binary: bytes }: Call, response: ServerResponse) => {
      // As text, so that this server does not lose the digits itself.
      const outputs = text.slice(text.indexOf('"inputs":') + 9, -1).replaceAll(/"name":"(\w+)"/g, '"name":"$1_out"')
      const json = `{"model_name":"double","outputs":${outputs}}`
      if (binary) sendBinary(response, json, bytes)
      else sendJson(response, 200, json)
    }
    const { server, model } = await open(t, { metadata, extensions, infer: echo })
    const given = {
      INT64: [['9007199254740993'], ['-9223372036854775808']],
      FP16: [[0.1], [-65504]],
      BYTES: [['dobrý "den"'], ['']],
    }
    const { inputs, rows } = encodeRows(model.info, { inputs: given })
    const { outputs } = await model.run(inputs, { rows })
    t.strictSame(outputs.INT64_out?.data, new BigInt64Array([9007199254740993n, -9223372036854775808n]))
    t.strictSame(outputs.FP16_out?.data, inputs.FP16?.data)
    t.strictSame(outputs.BYTES_out?.data, ['dobrý "den"', ''])
    // 64-bit and 16-bit numbers, and strings with their length before them.
    t.equal(server.calls[0]?.binary.length, binary ? 2 * 8 + 2 * 2 + 2 * 4 + Buffer.byteLength('dobrý "den"') : 0)
  })
}

t.test('the time that is left is passed on, and as a parameter to a server that knows it', async t => {
  const { server, run } = await open(t, { extensions: ['schedule_policy'] })
  await run([1, 1], { deadline: performance.now() + 5000 })
  const header = Number(server.calls[0]?.headers['x-request-timeout-ms'])
  t.ok(header > 0 && header <= 5000)
  t.ok(server.calls[0]?.json.parameters.timeout <= 5_000_000)
})

t.test('a caller that goes, and a deadline that passes, cancel the call', async t => {
  let slow = false
  const hang = (...[call, response]: Parameters<typeof answerDouble>) =>
    slow ? undefined : answerDouble(call, response)
  const { server, run } = await open(t, { infer: hang })
  slow = true
  const gone = new AbortController()
  const cancelled = t.rejects(run([1, 1], { signal: gone.signal }), { code: 'INFERENCE_CANCELLED' })
  await until(() => server.calls.length === 1, 'the call came')
  gone.abort()
  await cancelled
  await until(() => server.aborted === 1, 'its connection was closed')
  await t.rejects(run([1, 1], { deadline: performance.now() + 50 }), { code: 'INFERENCE_DEADLINE_EXCEEDED' })
  await until(() => server.aborted === 2, 'so was this one')
  slow = false
  t.strictSame(await run([2, 2]), [{ outputs: { y: [4, 4] } }], 'the url is still in use')
})

/** What a server may answer, and what the caller gets to hear. */
const faults: Readonly<Record<string, [(response: ServerResponse) => void, object]>> = {
  'too few values': [r => sendJson(r, 200, outputOf({ shape: [1, 2], data: [1] })), failed()],
  'another shape': [r => sendJson(r, 200, outputOf({ shape: [1, 3], data: [1, 2, 3] })), failed()],
  'another number of rows': [r => sendJson(r, 200, outputOf({ shape: [2, 2], data: [1, 2, 3, 4] })), failed()],
  'another rank': [r => sendJson(r, 200, outputOf({ shape: [2], data: [1, 2] })), failed()],
  'another datatype': [r => sendJson(r, 200, outputOf({ datatype: 'FP64', shape: [1, 2], data: [1, 2] })), failed()],
  'a word for a number': [r => sendJson(r, 200, outputOf({ shape: [1, 2], data: [1, 'x'] })), failed()],
  'null for a number': [r => sendJson(r, 200, outputOf({ shape: [1, 2], data: [1, null] })), failed()],
  'a negative dimension': [r => sendJson(r, 200, outputOf({ shape: [-1, 2], data: [1, 2] })), failed()],
  'no such output': [r => sendJson(r, 200, outputOf({ name: 'z', shape: [1, 2], data: [1, 2] })), failed()],
  'no outputs': [r => sendJson(r, 200, { model_name: 'double' }), failed()],
  'JSON that ends early': [r => sendJson(r, 200, '{"outputs":[{"name"'), failed()],
  'a web page': [r => sendJson(r, 200, '<html>'), failed()],
  'an empty body': [r => sendJson(r, 200, ''), failed()],
  'too few bytes': [
    r => sendBinary(r, outputOf({ shape: [1, 2], parameters: { binary_data_size: 8 } }), Buffer.alloc(4)),
    failed(),
  ],
  'bytes left over': [
    r => sendBinary(r, outputOf({ shape: [1, 2], parameters: { binary_data_size: 8 } }), Buffer.alloc(12)),
    failed(),
  ],
  'a header length beyond the body': [
    r => sendJson(r, 200, '{}', { 'inference-header-content-length': '99' }),
    failed(),
  ],
  'a compressed body': [
    r => sendJson(r, 200, outputOf({ shape: [1, 2], data: [1, 2] }), { 'content-encoding': 'gzip' }),
    failed(),
  ],
  'an error of the server': [r => sendJson(r, 500, { error: 'secret path /opt/models' }), failed()],
  'an unknown model': [r => sendJson(r, 404, { error: 'secret' }), failed()],
  'a redirect': [r => sendJson(r, 302, '', { location: 'http://127.0.0.1:1/' }), failed()],
  'input it does not take': [r => sendJson(r, 400, { error: 'secret' }), { code: 'INFERENCE_INPUT_REFUSED' }],
  'a deadline that passed there': [r => sendJson(r, 504, { error: 'secret' }), { code: 'INFERENCE_DEADLINE_EXCEEDED' }],
  'that it is busy': [
    r => sendJson(r, 503, { error: 'secret' }, { 'retry-after': '7' }),
    unavailable({ retryAfterMs: 7000 }),
  ],
  'that the quota is used up': [
    r => sendJson(r, 429, { error: 'secret' }, { 'retry-after': 'Wed' }),
    unavailable({ retryAfterMs: 1000 }),
  ],
  'half of it, then cuts the connection': [cut, unavailable()],
  'nothing, and closes the connection': [r => void r.destroy(), unavailable()],
}

function failed() {
  return { code: 'INFERENCE_BACKEND_FAILED' }
}

function unavailable(more: object = {}) {
  return { code: 'INFERENCE_BACKEND_UNAVAILABLE', ...more }
}

function cut(response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': 200 })
  response.write('{"outputs":[', () => response.destroy())
}

t.test('whatever a server answers wrongly, the caller hears of it in our words, and the next call works', async t => {
  let fault: ((response: ServerResponse) => void) | undefined
  const infer = (...[call, response]: Parameters<typeof answerDouble>) =>
    fault === undefined ? answerDouble(call, response) : fault(response)
  const { server, model, run } = await open(t, { infer })
  for (const [what, [answer, expected]] of Object.entries(faults)) {
    fault = answer
    const error = await run([1, 2], { deadline: performance.now() + 10_000 }).then(
      () => t.fail(`${what} was taken for an answer`),
      (error: Error) => error,
    )
    t.match(error, expected, what)
    t.notMatch(
      (error as Error).message,
      new RegExp(`secret|127\\.0\\.0\\.1|${server.port}`),
      `${what}: nothing of the server's own`,
    )
    fault = undefined
    const works = () =>
      run([1, 2]).then(
        () => true,
        () => false,
      )
    while (!(await works())) await delay(10)
  }
  t.strictSame(await run([1, 2]), [{ outputs: { y: [2, 4] } }])
  t.equal(model.info.name, 'double')
})

t.test('an answer that drips in is given up at the deadline', async t => {
  let slow = false
  const drip = (...[call, response]: Parameters<typeof answerDouble>) => {
    if (!slow) return answerDouble(call, response)
    response.writeHead(200, { 'content-type': 'application/json' })
    const timer = setInterval(() => response.write(' '), 20)
    response.once('close', () => clearInterval(timer))
  }
  const { run } = await open(t, { infer: drip })
  slow = true
  await t.rejects(run([1, 1], { deadline: performance.now() + 200 }), { code: 'INFERENCE_DEADLINE_EXCEEDED' })
})

t.test('no more calls are on their way to a url than it has lanes, however many wait', async t => {
  const late = async (...[call, response]: Parameters<typeof answerDouble>) => {
    await delay(5)
    answerDouble(call, response)
  }
  const { server, run } = await open(t, { infer: late }, { lanes: 3 }, { maxBatchRows: 1 })
  const answers = await Promise.all(Array.from({ length: 60 }, (_, i) => run([i, i])))
  for (const [i, answer] of answers.entries()) t.strictSame(answer, [{ outputs: { y: [2 * i, 2 * i] } }])
  t.equal(server.peak, 3)
})

t.test('no more rows are on their way to a url than its lanes take, each with as many as a batch may have', async t => {
  let rows = 0
  let most = 0
  const late = async (...[call, response]: Parameters<typeof answerDouble>) => {
    rows += call.json.inputs[0].shape[0]
    most = Math.max(most, rows)
    await delay(5)
    rows -= call.json.inputs[0].shape[0]
    answerDouble(call, response)
  }
  const { run } = await open(t, { infer: late }, { lanes: 2 }, { maxBatchRows: 4 })
  const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => run([i, i])))
  for (const [i, answer] of answers.entries()) t.strictSame(answer, [{ outputs: { y: [2 * i, 2 * i] } }])
  t.equal(most, 8)
})

t.test('a url that fails is left out and tried again; with none left the answer is 503', async t => {
  const first = await startV2Server(t)
  const second = await startV2Server(t)
  const { models, logged } = await openFolder(t, folder([first.url, second.url]))
  const model = models.get()
  const works = async () => t.strictSame(await predict(model, [1, 1]), [{ outputs: { y: [2, 2] } }])
  await first.stop()
  for (let i = 0; i < 20; i++) await works()
  await until(() => logged.some(({ message }) => message === 'a backend is left out'), 'that was told')
  await second.stop()
  await until(() => logged.filter(({ message }) => message === 'a backend is left out').length === 2, 'both are out')
  await t.rejects(predict(model, [1, 1]), {
    code: 'INFERENCE_BACKEND_UNAVAILABLE',
    retryAfterMs: 1000,
  })
  const again = await startV2Server(t, { port: first.port })
  await until(() => logged.some(({ message }) => message === 'a backend is back'), 'it is back')
  await works()
  t.ok(again.calls.length > 0)
})

for (const retry of ['unsent', 'safe'] as const) {
  t.test(
    `a call that was lost on its way is ${retry === 'safe' ? 'sent to another url' : 'not sent twice'} with retry '${retry}'`,
    async t => {
      let broken = false
      const sick = await startV2Server(t, {
        infer: (call, response) => (broken ? void response.destroy() : answerDouble(call, response)),
      })
      const well = await startV2Server(t)
      const { models } = await openFolder(t, folder([sick.url, well.url], { retry }))
      broken = true
      well.calls.length = 0
      const outcome = predict(models.get(), [1, 1])
      if (retry === 'safe') t.strictSame(await outcome, [{ outputs: { y: [2, 2] } }])
      else await t.rejects(outcome, unavailable())
      t.equal(well.calls.length, retry === 'safe' ? 1 : 0)
    },
  )
}

t.test('a backend with other tensors than the first is not used', async t => {
  const first = await startV2Server(t)
  const other = await startV2Server(t, {
    metadata: { ...doubling, inputs: [{ name: 'x', datatype: 'FP64', shape: [-1, 2] }] },
  })
  const { models } = await openFolder(t, folder([first.url, other.url]))
  await Promise.all(Array.from({ length: 20 }, () => predict(models.get(), [1, 1])))
  // Whichever answered first decides; the other gets nothing.
  t.ok(first.calls.length === 0 || other.calls.length === 0)
})

t.test('what is wrong with a backend or its setting is said where models are listed', async t => {
  const server = await startV2Server(t)
  const bf16 = await startV2Server(t, {
    metadata: { ...doubling, inputs: [{ name: 'x', datatype: 'BF16', shape: [-1] }] },
  })
  const backend = (value: unknown) => ({ backend: value })
  const { models } = await openFolder(t, {
    'double/model.json': backend({ urls: [server.url] }),
    'down/model.json': backend({ urls: ['http://127.0.0.1:1'] }),
    'missing/model.json': backend({ urls: [server.url] }),
    'bf16/model.json': backend({ urls: [bf16.url], model: 'double' }),
    'no-urls/model.json': backend({ model: 'x' }),
    'bad-url/model.json': backend({ urls: ['ftp://x'] }),
    'typo/model.json': backend({ urls: [server.url], retries: 3 }),
  })
  t.strictSame(
    models.list().map(({ info }) => info.name),
    ['double'],
  )
  t.match(Object.fromEntries(models.broken.map(({ name, reason }) => [name, reason])), {
    down: /no backend serves it/,
    missing: /no metadata of the model: 404/,
    bf16: /BF16/,
    'no-urls': /"urls"/,
    'bad-url': /http:\/\/ or https:\/\//,
    typo: /no 'retries', but urls, model/,
  })
})

t.test('a reload keeps a backend whose model.json is the same, and lets one go with its folder', async t => {
  const { models, dir, model } = await open(t)
  t.match(await models.reload(), { unchanged: ['double/3'], loaded: [] })
  t.equal(models.get(), model)
  const { rmSync } = await import('node:fs')
  const { writeModels } = await import('../../../support/onnx-folder.js')
  const { identity } = await import('../../../support/onnx-models.js')
  rmSync(`${dir}/double`, { recursive: true })
  writeModels(dir, { 'copy/1/model.onnx': identity() })
  t.match(await models.reload(), { loaded: ['copy/1'], removed: ['double/3'] })
  t.throws(() => models.get('double'), { code: 'INFERENCE_UNKNOWN_MODEL' })
})

t.test('a server that asks for a token gets it with every request, and nobody else sees it', async t => {
  const token = 'zq-token-of-the-backend'
  const admits = ({ authorization, 'x-tenant': tenant }: Call['headers']) =>
    authorization === `Bearer ${token}` && tenant === 'a'
  const more = { token, headers: { 'x-tenant': 'a' } }
  const { model, run, server, logged } = await open(t, { admits }, more)
  t.strictSame(await run([[1, 2]]), [{ outputs: { y: [2, 4] } }])
  t.match(server.calls[0]?.headers, { authorization: `Bearer ${token}`, 'content-type': 'application/json' })
  t.notMatch(JSON.stringify(model.info), token)

  const broken = { ...more, lanes: 'many' }
  const refused = await openFolder(t, { 'echo/1/model.onnx': identity(), ...folder([server.url], broken) })
  const wrong = await openFolder(t, { 'echo/1/model.onnx': identity(), ...folder([server.url], { token: 'wrong' }) })
  t.match(wrong.models.broken, [{ name: 'double', reason: /401/ }])
  t.match(refused.models.broken, [{ name: 'double', reason: /'backend' is not usable; it takes as 'lanes'/ }])
  t.notMatch(JSON.stringify([logged, refused.logged, refused.models.broken, wrong.logged]), token)
})

for (const [what, metadata] of [
  ['empty lists', { name: 'double', platform: 'mlserver', inputs: [], outputs: [] }],
  ['no lists', { name: 'double' }],
] as const) {
  t.test(`a signature in model.json stands in for metadata with ${what}`, async t => {
    const { inputs, outputs } = doubling
    const { model, run } = await open(t, { metadata }, { signature: { inputs, outputs } })
    t.match(model.info, { version: '1', inputs: [{ name: 'x', shape: ['batch', 2] }] })
    t.strictSame(await run([[1, 2]]), [{ outputs: { y: [2, 4] } }])
    const server = await startV2Server(t, { metadata })
    const without = await openFolder(t, { 'echo/1/model.onnx': identity(), ...folder([server.url]) })
    t.match(without.models.broken, [
      { name: 'double', reason: /lists no inputs or no outputs; model.json may say them/ },
    ])
  })
}

t.test('what the metadata lists counts before what model.json says', async t => {
  const wrong = [{ name: 'x', datatype: 'INT64', shape: [-1, 7] }]
  const { model } = await open(t, {}, { signature: { inputs: wrong, outputs: wrong } })
  t.match(model.info.inputs, [{ name: 'x', datatype: 'FP32', shape: ['batch', 2] }])
})
