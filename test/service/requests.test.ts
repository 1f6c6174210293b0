import { writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { Overloaded } from '../../service/src/inference/errors.js'
import { buildService, IRIS, inRedis, STORES } from '../support/build.js'
import { v2RowsOf } from '../support/limits-file.js'
import { openFolder, until } from '../support/onnx-folder.js'
import { identity, slow } from '../support/onnx-models.js'

t.test('an answer tells how long it waited and how long it ran', async t => {
  const { predict } = await buildService(t)
  t.match((await predict(IRIS)).headers['server-timing'], /^queue;dur=\d+\.\d\d, compute;dur=\d+\.\d\d$/)
})

t.test('a caller may ask for less time, and a deadline that passes is a 429 or a 504', async t => {
  const files = { 'slow/model.json': { maxBatchRows: 1 }, 'slow/1/model.onnx': slow(512, 16) }
  const { models } = await openFolder(t, files)
  const { predict } = await buildService(t, { RATE_LIMIT_MAX: 1000 }, models)
  const ask = (ms: string) => predict({ features: [1] }, { headers: { 'x-request-timeout-ms': ms } })
  const late = await ask('1')
  t.equal(late.statusCode, 504)
  t.match(late.json(), { code: 'INFERENCE_DEADLINE_EXCEEDED' })
  for (const long of ['60000', '9999999999', '9'.repeat(400), '007000']) {
    t.equal((await ask(long)).statusCode, 200, 'never more than the service gives')
  }
  const crowd = await Promise.all(Array.from({ length: 30 }, () => ask('150')))
  const refusals = crowd.filter(({ statusCode }) => statusCode !== 200)
  t.ok(refusals.length > 0)
  for (const { statusCode, headers, json } of refusals) {
    t.ok(statusCode === 429 || statusCode === 504, `${statusCode}`)
    if (statusCode !== 429) continue
    t.ok(Number(headers['retry-after']) >= 1)
    t.equal(json().type, 'https://iana.org/assignments/http-problem-types#temporary-reduced-capacity')
  }
})

for (const { name, settings } of STORES) {
  t.test(`what did not run is not charged, neither the request nor its rows, ${name}`, async t => {
    const files = { 'slow/model.json': { maxBatchRows: 1 }, 'slow/1/model.onnx': slow(512, 16) }
    const { models } = await openFolder(t, files)
    const policies = [
      { name: 'requests', limit: 1000, window: '10 minutes' },
      { name: 'rows', unit: 'rows', limit: 1000, window: '10 minutes' },
    ]
    const LIMITS_FILE = join(t.testdir(), 'limits.json')
    writeFileSync(LIMITS_FILE, JSON.stringify({ anonymous: 'free', plans: { free: { policies } } }))
    const { ask, predict } = await buildService(t, { ...settings(), LIMITS_FILE }, models)
    const answers = await Promise.all(
      Array.from({ length: 40 }, () =>
        predict({ features: [[1], [2]] }, { headers: { 'x-request-timeout-ms': '100' } }),
      ),
    )
    const served = answers.filter(({ statusCode }) => statusCode === 200).length
    t.ok(served < 40, 'some are refused')
    t.ok(answers.every(({ statusCode }) => [200, 429, 504].includes(statusCode)))
    // Late, but the model ran for them.
    const late = answers.filter(({ payload }) => payload.includes('while the model was running')).length
    t.match((await ask('/v1/limits')).json().policies, [
      { name: 'requests', remaining: 1000 - served - late },
      { name: 'rows', remaining: 1000 - 2 * (served + late) },
    ])
  })
}

t.test('a time that is no integer of 1 or more is refused before the body is read, and charged nothing', async t => {
  const { app, ask } = await buildService(t)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  for (const wrong of ['0', '000', '-1', '+5', 'soon', '1.5', '1e3', '0x10', '5, 6', '5 6', '', '١']) {
    for (const url of ['/v1/predict', '/v1/models/iris/predict', '/v2/models/iris/infer']) {
      const socket = connect(port, '127.0.0.1')
      socket.end(
        `POST ${url} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n` +
          `x-request-timeout-ms: ${wrong}\r\n\r\n`,
      )
      const answer = await text(socket)
      t.match(answer, /^HTTP\/1\.1 400 /, `${url} ${wrong}`)
      t.match(answer, /headers\.x-request-timeout-ms takes milliseconds, an integer of 1 or more/)
      if (url.startsWith('/v1')) t.match(answer, /"code":"INVALID_REQUEST"/)
      else t.match(answer, /\r\nx-error-code: INVALID_REQUEST\r\n/)
    }
  }
  t.match((await ask('/v1/limits')).json().policies, [{ limit: 100, remaining: 100 }])
})

t.test(
  'overload is a 429 that says that it is no quota; 503 where a setting says so, or nobody could serve',
  async t => {
    for (const [why, settings, status] of [
      ['queue-full', {}, 429],
      ['queue-full', { OVERLOAD_STATUS: 503 }, 503],
      ['unserved', {}, 503],
    ] as const) {
      const { models } = await openFolder(t, { 'copy/1/model.onnx': identity() })
      const full = () => Promise.reject(new Overloaded(why, 'there is no room', 1200.5))
      Object.assign(models.get(), { run: full })
      const { ask, predict } = await buildService(t, settings, models)
      const { info } = models.get()
      const refused = await predict(info.sample)
      t.equal(refused.statusCode, status)
      t.match(refused.headers, { 'retry-after': '2', 'retry-after-ms': '1201' })
      const type = /#temporary-reduced-capacity$/
      t.match(refused.json(), { code: 'INFERENCE_OVERLOADED', status, type, retryAfter: 2 })
      const [input] = info.inputs
      const shape = input?.shape.map(dimension => (typeof dimension === 'number' ? dimension : 1)) ?? []
      const data = Array.from({ length: shape.reduce((count, dimension) => count * dimension, 1) }, () => 1)
      const payload = { inputs: [{ name: input?.name, datatype: input?.datatype, shape, data }] }
      const infer = await ask({ method: 'POST', url: '/v2/models/copy/infer', payload })
      t.equal(infer.statusCode, status)
      t.match(infer.headers, { 'retry-after': '2', 'retry-after-ms': '1201', 'x-error-code': 'INFERENCE_OVERLOADED' })
    }
  },
)

t.test('a denial tells the wait in milliseconds beside the seconds, in both protocols', async t => {
  const { ask, predict } = await buildService(t, { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '10s' })
  t.equal((await predict(IRIS)).statusCode, 200)
  const denials = [
    await predict(IRIS),
    await ask({ method: 'POST', url: '/v2/models/iris/infer', payload: v2RowsOf(1) }),
  ]
  for (const { statusCode, headers } of denials) {
    t.equal(statusCode, 429)
    const ms = Number(headers['retry-after-ms'])
    t.ok(Number.isInteger(ms) && ms > 0 && ms <= 10_000, `${ms}`)
    t.equal(headers['retry-after'], `${Math.ceil(ms / 1000)}`)
  }
  t.equal(denials[1]?.headers['x-error-code'], 'ML_RATE_QUOTA_EXCEEDED')
})

t.test('every error of /v2 has its code in a header', async t => {
  const { ask } = await buildService(t)
  const infer = (payload: string | object, headers = {}) =>
    ask({ method: 'POST', url: '/v2/models/iris/infer', payload, headers })
  for (const [answer, status, code] of [
    [await ask('/v2/nothing'), 404, 'NOT_FOUND'],
    [await ask('/v2/models/none'), 404, 'INFERENCE_UNKNOWN_MODEL'],
    [await ask({ method: 'DELETE', url: '/v2' }), 405, 'METHOD_NOT_ALLOWED'],
    [await infer({}), 400, 'INFERENCE_INVALID_INPUT'],
    [await infer('text', { 'content-type': 'text/plain' }), 415, 'UNSUPPORTED_MEDIA_TYPE'],
  ] as const) {
    t.equal(answer.statusCode, status)
    t.equal(answer.headers['x-error-code'], code)
  }
})

t.test('a caller that goes frees its place in the queue', async t => {
  const files = { 'slow/model.json': { maxBatchRows: 1 }, 'slow/1/model.onnx': slow(512, 16) }
  let runs = 0
  const { models } = await openFolder(t, files, { onEvent: ({ type }) => void (type === 'batch' && runs++) })
  const { app } = await buildService(t, { RATE_LIMIT_MAX: 1000, REQUEST_TIMEOUT_MS: 60_000 }, models)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as { port: number }
  const body = JSON.stringify({ features: [1] })
  const request = `POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`
  const sockets = Array.from({ length: 40 }, () => connect(port, '127.0.0.1').on('error', () => {}))
  for (const socket of sockets) socket.write(request)
  await until(() => models.queueRows > 20, 'they wait')
  for (const socket of sockets) socket.destroy()
  await until(() => models.queueRows === 0, 'none waits')
  t.ok(runs < 40, `after ${runs} of 40 runs`)
})

t.test('admin routes need the token, and are not there without one', async t => {
  const { ask } = await buildService(t)
  t.equal((await ask({ method: 'POST', url: '/v1/admin/reload' })).statusCode, 404)

  const { models } = await openFolder(t, { 'copy/1/model.onnx': identity() })
  const guarded = await buildService(t, { ADMIN_TOKEN: 'tok-en' }, models)
  const reload = (headers: Record<string, string>) => guarded.ask({ method: 'POST', url: '/v1/admin/reload', headers })
  for (const headers of [{}, { authorization: 'Bearer wrong' }, { authorization: 'Basic tok-en' }]) {
    const refused = await reload(headers as Record<string, string>)
    t.equal(refused.statusCode, 401)
    t.equal(refused.headers['www-authenticate'], 'Bearer')
    t.equal(refused.json().code, 'UNAUTHORIZED')
  }
  t.equal((await reload({ authorization: 'bearer  tok-en' })).statusCode, 200)
  t.notMatch((await guarded.ask('/nothing')).payload, /admin/, 'a stranger is not told of them')
})

t.test('wrong admin tokens are limited by address, and the right one never is', async t => {
  const { models } = await openFolder(t, { 'copy/1/model.onnx': identity() })
  const { ask } = await buildService(t, { ADMIN_TOKEN: 'tok-en', RATE_LIMIT_MAX: 0 }, models)
  const reload = (token: string) =>
    ask({ method: 'POST', url: '/v1/admin/reload', headers: { authorization: `Bearer ${token}` } })
  t.match((await reload('tok-en')).json(), { loaded: [], unchanged: ['copy/1'], removed: [], broken: [] })
  const statuses = []
  for (let i = 0; i < 20; i++) statuses.push((await reload(`guess-${i}`)).statusCode)
  t.equal(statuses.filter(status => status === 401).length, 10)
  const denied = await reload('tok-enn')
  t.equal(denied.statusCode, 429)
  t.match(denied.json(), { 'violated-policies': ['admin-guesses'] })
  for (let i = 0; i < 40; i++) t.equal((await reload('tok-en')).statusCode, 200)
})

t.test('what is refused for its URL, its method or its token is refused without its body', async t => {
  const { app } = await buildService(t, { ADMIN_TOKEN: 'tok-en' })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  for (const [line, status] of [
    ['POST /nothing', 404],
    ['PUT /v1/nothing', 404],
    ['POST /v2/nothing', 404],
    ['DELETE /v2/models/iris/nothing', 404],
    ['PUT /v1/predict', 405],
    ['PATCH /v2/models/iris/infer', 405],
    ['POST /v1/admin/reload', 401],
  ] as const) {
    const socket = connect(port, '127.0.0.1')
    t.teardown(() => socket.destroy())
    // Of the body nothing ever comes, and what it is said to be nobody takes.
    socket.write(`${line} HTTP/1.1\r\nhost: a\r\ncontent-type: text/x-any\r\ncontent-length: 1000\r\n\r\n`)
    const answer = await new Promise(resolve => socket.once('data', data => resolve(String(data))))
    t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), line)
  }
})

t.test('the page, the reference and the events are there unless a setting says no', async t => {
  const urls = { PLAYGROUND: ['/', '/playground/main.js'], DOCS: ['/docs', '/openapi.json'], EVENTS: ['/v1/events'] }
  const all = await buildService(t)
  t.equal((await all.ask('/')).statusCode, 200)
  for (const [off, gone] of Object.entries(urls)) {
    const { ask, predict } = await buildService(t, { [off]: 'off' })
    for (const url of gone) t.equal((await ask(url)).statusCode, 404, url)
    const left = Object.entries(urls).flatMap(([name, [url]]) => (name === off || name === 'EVENTS' ? [] : [url]))
    for (const url of left) t.equal((await ask(url as string)).statusCode, 200)
    t.equal((await predict(IRIS)).statusCode, 200)
  }
})

t.test('a broken model is told of, and the others serve', async t => {
  const { models } = await openFolder(t, { 'copy/1/model.onnx': identity(), 'bad/1/model.onnx': 'no model' })
  const { ask, predict } = await buildService(t, {}, models)
  const ready = await ask('/health/ready')
  t.equal(ready.statusCode, 200)
  t.match(ready.json(), { status: 'degraded', reasons: [/'bad'/], models: ['copy'] })
  t.equal((await predict({ features: [1, 2, 3] })).statusCode, 200)
})

t.test('readiness goes off when a stop is announced, and connections are closed one by one', async t => {
  const { app, ask, announceStop } = await buildService(t)
  await app.listen({ host: '127.0.0.1', port: 0 })
  announceStop()
  const ready = await ask('/health/ready')
  t.equal(ready.statusCode, 503)
  t.match(ready.json(), { code: 'STOPPING' })
  t.equal(ready.headers.connection, 'close')
  t.equal((await ask('/health/live')).statusCode, 200)
})

t.test('while Redis is frozen, requests are answered in time by the way that was set', async t => {
  const { REDIS_URL: _, ...others } = inRedis()
  for (const [mode, status] of [
    ['local', 200],
    ['allow', 200],
    ['deny', 503],
  ] as const) {
    // A port that accepts and never answers: what a frozen server looks like.
    const frozen = createServer(() => {}).listen(0, '127.0.0.1')
    await new Promise(resolve => frozen.once('listening', resolve))
    const { port } = frozen.address() as { port: number }
    const settings = { ...others, REDIS_URL: `redis://127.0.0.1:${port}`, STORE_TIMEOUT_MS: 100, ON_STORE_ERROR: mode }
    const { predict, ask, app } = await buildService(t, settings)
    const answer = await predict(IRIS)
    t.equal(answer.statusCode, status, mode)
    if (status === 503) {
      t.match(answer.json(), { code: 'ML_RATE_STORE_UNAVAILABLE', retryAfter: Number })
      t.ok(Number(answer.headers['retry-after']) >= 1 && Number(answer.headers['retry-after']) <= 5)
    }
    t.match((await ask('/health/ready')).json(), { status: 'degraded', store: 'down' })
    await app.close()
    frozen.close()
  }
})

t.test('a saturated service says 200 to health within its turn', async t => {
  const { ask, predict } = await buildService(t, { RATE_LIMIT_MAX: 10_000 })
  const busy = Promise.all(Array.from({ length: 300 }, () => predict(IRIS)))
  await delay(1)
  t.equal((await ask('/health/live')).statusCode, 200)
  t.ok((await busy).every(({ statusCode }) => statusCode === 200))
})
