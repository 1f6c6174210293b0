import { writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { Overloaded } from '../../service/src/inference/errors.js'
import { buildService, IRIS, inRedis, STORES } from '../support/build.js'
import { openFolder, until } from '../support/onnx-folder.js'
import { identity, slow } from '../support/onnx-models.js'

t.test('an answer tells how long it waited and how long it ran', async t => {
  const { predict } = await buildService(t)
  t.match((await predict(IRIS)).headers['server-timing'], /^queue;dur=\d+\.\d\d, compute;dur=\d+\.\d\d$/)
})

t.test('a caller may ask for less time, and a deadline that passes is a 503 or a 504', async t => {
  const files = { 'slow/model.json': { maxBatchRows: 1 }, 'slow/1/model.onnx': slow(512, 16) }
  const { models } = await openFolder(t, files)
  const { predict } = await buildService(t, { RATE_LIMIT_MAX: 1000 }, models)
  const ask = (ms: string) => predict({ features: [1] }, { headers: { 'x-request-timeout-ms': ms } })
  const late = await ask('1')
  t.equal(late.statusCode, 504)
  t.match(late.json(), { code: 'INFERENCE_DEADLINE_EXCEEDED' })
  t.equal((await ask('60000')).statusCode, 200, 'never more than the service gives')
  for (const wrong of ['0', '-1', 'soon', '1.5', '9999999999']) {
    const refused = await ask(wrong)
    t.equal(refused.statusCode, 400, wrong)
    t.match(refused.json().errors, [{ path: 'headers.x-request-timeout-ms' }])
  }
  const crowd = await Promise.all(Array.from({ length: 30 }, () => ask('150')))
  const refusals = crowd.filter(({ statusCode }) => statusCode !== 200)
  t.ok(refusals.length > 0)
  for (const { statusCode, headers, json } of refusals) {
    t.ok(statusCode === 503 || statusCode === 504, `${statusCode}`)
    if (statusCode !== 503) continue
    t.ok(Number(headers['retry-after']) >= 1)
    t.equal(json().type, 'https://iana.org/assignments/http-problem-types#temporary-reduced-capacity')
  }
})

for (const { name, settings } of STORES) {
  t.test(`what was not served is not charged, neither the request nor its rows, ${name}`, async t => {
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
    t.ok(answers.every(({ statusCode }) => [200, 503, 504].includes(statusCode)))
    t.match((await ask('/v1/limits')).json().policies, [
      { name: 'requests', remaining: 1000 - served },
      { name: 'rows', remaining: 1000 - 2 * served },
    ])
  })
}

t.test('overload is answered with 429 where balancers would eject on 503, and says that it is no quota', async t => {
  const { models } = await openFolder(t, { 'copy/1/model.onnx': identity() })
  const full = () => Promise.reject(new Overloaded('queue-full', 'the queue is full', 1200))
  Object.assign(models.get(), { run: full })
  const { ask, predict } = await buildService(t, { OVERLOAD_STATUS: 429 }, models)
  const { info } = models.get()
  const refused = await predict(info.sample)
  t.equal(refused.statusCode, 429)
  t.equal(refused.headers['retry-after'], '2')
  t.match(refused.json(), { code: 'INFERENCE_OVERLOADED', status: 429, type: /#temporary-reduced-capacity$/ })
  const [input] = info.inputs
  const shape = input?.shape.map(dimension => (typeof dimension === 'number' ? dimension : 1)) ?? []
  const data = Array.from({ length: shape.reduce((count, dimension) => count * dimension, 1) }, () => 1)
  const payload = { inputs: [{ name: input?.name, datatype: input?.datatype, shape, data }] }
  const infer = await ask({ method: 'POST', url: '/v2/models/copy/infer', payload })
  t.equal(infer.statusCode, 429)
  t.equal(infer.headers['retry-after'], '2')
})

t.test('a caller that goes frees its place in the queue', async t => {
  const files = { 'slow/model.json': { maxBatchRows: 1 }, 'slow/1/model.onnx': slow(512, 16) }
  const { models } = await openFolder(t, files)
  const { app } = await buildService(t, { RATE_LIMIT_MAX: 1000, REQUEST_TIMEOUT_MS: 60_000 }, models)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as { port: number }
  const body = JSON.stringify({ features: [1] })
  const request = `POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`
  const sockets = Array.from({ length: 40 }, () => connect(port, '127.0.0.1').on('error', () => {}))
  for (const socket of sockets) socket.write(request)
  await until(() => models.queueRows > 20, 'they wait')
  for (const socket of sockets) socket.destroy()
  const since = performance.now()
  await until(() => models.queueRows === 0, 'none waits')
  t.ok(performance.now() - since < 1000, 'long before they could have been run')
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

t.test('the admin token reloads, and guesses of it are limited', async t => {
  const { models } = await openFolder(t, { 'copy/1/model.onnx': identity() })
  const { ask } = await buildService(t, { ADMIN_TOKEN: 'tok-en', RATE_LIMIT_MAX: 0 }, models)
  const reload = (token: string) =>
    ask({ method: 'POST', url: '/v1/admin/reload', headers: { authorization: `Bearer ${token}` } })
  t.match((await reload('tok-en')).json(), { loaded: [], unchanged: ['copy/1'], removed: [], broken: [] })
  const statuses = []
  for (let i = 0; i < 40; i++) statuses.push((await reload(`guess-${i}`)).statusCode)
  t.equal(statuses.filter(status => status === 401).length, 29)
  t.equal(statuses.at(-1), 429)
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
    const since = performance.now()
    const answer = await predict(IRIS)
    t.equal(answer.statusCode, status, mode)
    t.ok(performance.now() - since < 2000, mode)
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
