/** Traces as a collector gets them, of a service with the usual variables set. */
import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Models } from '../../../service/src/inference/types.js'
import { buildService, clientOf, IRIS, inRedis, startService } from '../../support/build.js'
import { modelsFolder, openFolder } from '../../support/onnx-folder.js'
import { identity, slow } from '../../support/onnx-models.js'
import { type OtlpReceiver, type ReceivedSpan, startOtlpReceiver } from '../../support/otlp-receiver.js'
import { until } from '../../support/redis-fleet.js'
import { startV2Server } from '../../support/v2-server.js'

t.setTimeout(240_000)

/** A model that starts quickly, for where it matters little which. */
const small = (t: Test) => modelsFolder(t, { 'small/1/model.onnx': identity() })

const sendingTo = ({ url }: { readonly url: string }) => ({
  OTEL_EXPORTER_OTLP_ENDPOINT: url,
  OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json',
  OTEL_BSP_SCHEDULE_DELAY: 50,
})

type Settings = Parameters<typeof buildService>[1]

/** In this process; what the service does not read itself, OpenTelemetry reads from its environment. */
async function tracedService(t: Test, receiver: OtlpReceiver, settings: Settings, models?: Models) {
  const variables = sendingTo(receiver)
  for (const [name, value] of Object.entries(variables)) process.env[name] = `${value}`
  const service = await buildService(t, { ...variables, ...settings }, models)
  await service.app.listen({ host: '127.0.0.1', port: 0 })
  return { ...service, ...clientOf(`http://127.0.0.1:${(service.app.server.address() as AddressInfo).port}`) }
}

const TRACE = '0af7651916cd43dd8448eb211c80319c'
const CALLER = 'b7ad6b7169203331'
const traceparent = `00-${TRACE}-${CALLER}-01`

const isServer = ({ kind }: ReceivedSpan) => kind === 2
const childrenOf = ({ spans }: OtlpReceiver, parent: ReceivedSpan) =>
  spans
    .filter(({ parentSpanId }) => parentSpanId === parent.spanId)
    .sort((a, b) => Number(a.startedAt - b.startedAt) || Number(a.endedAt - b.endedAt))

t.test('without the variables no SDK of OpenTelemetry is loaded', async t => {
  const { predict } = await buildService(t)
  t.equal((await predict(IRIS)).statusCode, 200)
  const loaded = Object.keys(createRequire(import.meta.url).cache).filter(file =>
    /@opentelemetry\/(?!api\/)/.test(file),
  )
  t.strictSame(loaded, [])
})

t.test('one trace goes from the caller over limiter and queue to the run, and holds no key', async t => {
  const key = 'a-key-that-nobody-may-read'
  const sha256 = createHash('sha256').update(key).digest('hex')
  const policies = [
    { name: 'burst', limit: 2, window: '1 hour' },
    { name: 'rows', unit: 'rows', limit: 100, window: '1 hour' },
  ]
  const limits = join(modelsFolder(t, {}), 'limits.json')
  writeFileSync(
    limits,
    JSON.stringify({ anonymous: 'pro', plans: { pro: { policies } }, keys: [{ sha256, plan: 'pro' }] }),
  )
  const receiver = await startOtlpReceiver(t)
  process.env.OTEL_SERVICE_NAME = 'digits-api'
  process.env.OTEL_RESOURCE_ATTRIBUTES = 'deployment.environment.name=test'
  const { predict, url } = await tracedService(t, receiver, {
    ...inRedis(),
    LIMITS_FILE: limits,
    REQUEST_TIMEOUT_MS: 60_000,
  })
  const headers = { 'x-api-key': key, traceparent }
  t.equal((await predict(IRIS, { headers })).status, 200)
  const server = await receiver.find('the span of the request', isServer)
  t.match(server, {
    name: 'POST /v1/predict',
    traceId: TRACE,
    parentSpanId: CALLER,
    isError: false,
    attributes: {
      'http.request.method': 'POST',
      'http.route': '/v1/predict',
      'http.response.status_code': 200,
      'url.path': '/v1/predict',
      'url.scheme': 'http',
      'server.address': '127.0.0.1',
      'server.port': Number(new URL(url).port),
      'network.protocol.version': '1.1',
    },
  })
  t.match(receiver.resource, {
    'service.name': 'digits-api',
    'service.version': /^\d/,
    'service.instance.id': /./,
    'deployment.environment.name': 'test',
  })
  const children = childrenOf(receiver, server)
  t.strictSame(
    children.map(({ name }) => name),
    ['rate limit', 'rate limit', 'queue iris', 'run iris'],
  )
  const [requests, rows, queue, run] = children as [ReceivedSpan, ReceivedSpan, ReceivedSpan, ReceivedSpan]
  const allowed = { 'rate_limit.plan': 'pro', 'rate_limit.outcome': 'allowed' }
  t.match(requests.attributes, { ...allowed, 'rate_limit.policies': ['burst'], 'rate_limit.remaining': 1 })
  t.match(rows.attributes, { ...allowed, 'rate_limit.policies': ['rows'], 'rate_limit.remaining': 99 })
  const inference = { 'inference.model': 'iris', 'inference.version': '1', 'inference.rows': 1 }
  t.match(queue.attributes, inference)
  t.match(run.attributes, { ...inference, 'inference.batch.rows': 1, 'inference.compute_ms': Number })
  t.ok(server.startedAt <= requests.startedAt && run.endedAt <= server.endedAt, 'all within the request')
  t.ok(requests.endedAt <= rows.startedAt && rows.endedAt <= queue.startedAt, 'one after the other')
  t.equal(queue.endedAt, run.startedAt)

  // Of version 2 of the protocol, and denied.
  const infer = (name: string) =>
    fetch(`${url}/v2/models/iris/infer?secret=${key}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-api-key': name },
      body: JSON.stringify({ inputs: [{ name: 'measurements', datatype: 'FP32', shape: [1, 4], data: [1, 2, 3, 4] }] }),
    })
  const taken = await infer(key)
  t.equal(taken.status, 200, await taken.text())
  t.equal((await infer(key)).status, 429)
  const denied = await receiver.find('the denial', each => each.attributes['http.response.status_code'] === 429)
  t.match(denied, { name: 'POST /v2/models/:model/infer', isError: false, parentSpanId: undefined })
  t.not(denied.traceId, TRACE)
  const [decision, ...more] = childrenOf(receiver, denied)
  t.match(decision?.attributes, { 'rate_limit.outcome': 'denied', 'rate_limit.violated_policies': ['burst'] })
  t.strictSame(more, [], 'what is denied neither waits nor runs')
  t.equal((await infer('no-key-of-ours')).status, 401)
  await receiver.find('the wrong key', each => each.attributes['http.response.status_code'] === 401)

  const sent = Buffer.concat(receiver.bodies).toString()
  for (const secret of [key, sha256, 'no-key-of-ours']) t.notMatch(sent, secret)
})

t.test('requests that share a batch say so, and clients that go are told of', async t => {
  const receiver = await startOtlpReceiver(t)
  const { models } = await openFolder(t, { 'slow/1/model.onnx': slow(512, 8) }, { batchMaxRows: 8 })
  const settings = { RATE_LIMIT_MAX: 1_000_000, REQUEST_TIMEOUT_MS: 60_000 }
  const { predict, url } = await tracedService(t, receiver, settings, models)
  const isFollower = ({ name, links }: ReceivedSpan) => name === 'run slow' && links.length === 1
  await until('requests share a batch', async () => {
    await Promise.all(Array.from({ length: 8 }, (_, i) => predict({ features: [i] })))
    return receiver.spans.some(isFollower)
  })
  const follower = receiver.spans.find(isFollower) as ReceivedSpan
  t.ok(follower.attributes['inference.batch.rows'] > 1)
  const first = await receiver.find('the first', ({ spanId }) => spanId === follower.links[0]?.spanId)
  t.match(first, {
    name: 'run slow',
    attributes: { 'inference.batch.rows': follower.attributes['inference.batch.rows'] },
  })
  t.not(first.traceId, follower.traceId)

  const headers = { 'content-type': 'application/json', 'content-length': 100, expect: '100-continue' }
  const leaving = request(`${url}/v1/predict`, { method: 'POST', headers }).on('error', () => {})
  leaving.once('continue', () => leaving.destroy()).flushHeaders()
  const gone = await receiver.find('who went', ({ attributes }) => attributes['error.type'] === 'client_gone')
  t.match(gone, { name: 'POST /v1/predict', isError: false })
})

t.test(
  'a model that runs elsewhere goes on with the trace, as child of the call, or with its not being sampled',
  async t => {
    const receiver = await startOtlpReceiver(t)
    const backend = await startV2Server(t)
    const { predict } = await startService(t, {
      ...sendingTo(receiver),
      MODELS_DIR: modelsFolder(t, { 'double/model.json': { backend: { urls: [backend.url] } } }),
    })
    backend.calls.length = 0
    const goesWith = async (headers: Record<string, string>) => {
      t.equal((await predict({ features: [1, 2] }, { headers })).status, 200)
      return backend.calls.pop()?.headers
    }
    const unsampled = `00-${CALLER}${CALLER}-${CALLER}-00`
    t.match(
      (await goesWith({ traceparent: unsampled }))?.traceparent,
      new RegExp(`^00-${CALLER}${CALLER}-[0-9a-f]{16}-00$`),
    )
    const ownTrace = await goesWith({ traceparent: 'not-a-traceparent' })
    t.match(ownTrace?.traceparent, /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/)
    const sent = await goesWith({ traceparent, tracestate: 'vendor=1' })

    const call = await receiver.find('the call', ({ kind, traceId }) => kind === 3 && traceId === TRACE)
    t.match(call, { name: 'POST', attributes: { 'server.address': '127.0.0.1', 'server.port': backend.port } })
    const run = await receiver.find('the run', ({ name, traceId }) => name === 'run double' && traceId === TRACE)
    t.equal(call.parentSpanId, run.spanId)
    t.match(sent, { traceparent: `00-${TRACE}-${call.spanId}-01`, tracestate: 'vendor=1' })
    t.notOk(receiver.spans.some(({ traceId }) => traceId === CALLER + CALLER))
  },
)

t.test('what failed says why; what the caller did wrong is no error of the server', async t => {
  const receiver = await startOtlpReceiver(t)
  const { predict, url } = await tracedService(t, receiver, {
    REDIS_URL: 'redis://127.0.0.1:1',
    ON_STORE_ERROR: 'deny',
  })
  t.equal((await predict()).status, 503)
  const shed = await receiver.find('the refusal', ({ kind, isError }) => kind === 2 && isError)
  t.equal(shed.attributes['error.type'], 'ML_RATE_STORE_UNAVAILABLE')
  t.match(childrenOf(receiver, shed), [{ name: 'rate limit', isError: true }])
  await fetch(`${url}/no/such/url?key=1`)
  await fetch(`${url}/health/live`)
  await fetch(`${url}/metrics`)
  const unknown = await receiver.find('the unknown URL', ({ name }) => name === 'GET')
  t.match(unknown, { isError: false, attributes: { 'url.path': '/no/such/url', 'http.response.status_code': 404 } })
  t.equal(unknown.attributes['http.route'], undefined)
  t.notOk(receiver.spans.some(({ name }) => /health|metrics/.test(name)))
})

t.test('a stop sends what has not been sent; protobuf is what is spoken when nothing is said', async t => {
  const receiver = await startOtlpReceiver(t)
  const { predict, child, ended } = await startService(t, {
    OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url,
    OTEL_BSP_SCHEDULE_DELAY: 600_000,
    MODELS_DIR: small(t),
  })
  t.equal((await predict({ features: [1, 2, 3] })).status, 200)
  t.equal(receiver.bodies.length, 0)
  child.kill('SIGTERM')
  t.equal((await ended).code, 0)
  t.strictSame(receiver.types, ['application/x-protobuf'])
  for (const name of ['ml-api-rate-limiter', 'POST /v1/predict', 'rate limit', 'queue small', 'run small']) {
    t.ok(receiver.bodies[0]?.includes(name), name)
  }
})

t.test('a collector that refuses is told of once, and disturbs nobody', async t => {
  const receiver = await startOtlpReceiver(t, response => response.writeHead(400).end())
  const { predict, child, ended, output } = await startService(t, {
    ...sendingTo(receiver),
    MODELS_DIR: small(t),
  })
  const answered = async () => t.equal((await predict({ features: [1, 2, 3] })).status, 200)
  await answered()
  await until('it is told', async () => output().includes('traces cannot be sent'))
  await answered()
  await until('more is refused', async () => receiver.bodies.length > 1)
  child.kill('SIGTERM')
  t.equal((await ended).code, 0)
  t.equal(output().split('traces cannot be sent').length, 2)
})

t.test('a collector that hangs holds up neither requests nor, beyond its time, the stop', async t => {
  const receiver = await startOtlpReceiver(t, () => {})
  const { predict, child, ended, output } = await startService(t, {
    ...sendingTo(receiver),
    MODELS_DIR: small(t),
    OTEL_EXPORTER_OTLP_TIMEOUT: 600_000,
    STOP_TIMEOUT_MS: 12_000,
  })
  const answered = async () => t.equal((await predict({ features: [1, 2, 3] })).status, 200)
  await answered()
  await until('it hangs', async () => receiver.bodies.length > 0)
  await answered()
  child.kill('SIGTERM')
  t.equal((await ended).code, 0)
  t.match(output(), 'stopped')
})

t.test('a protocol that is not spoken keeps nobody from being answered', async t => {
  const { predict } = await buildService(t, { OTEL_TRACES_EXPORTER: 'otlp', OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' })
  t.equal((await predict(IRIS)).statusCode, 200)
})
