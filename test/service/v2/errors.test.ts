/** Every answer under /v2 that is no success is `{ "error": text }`, whoever gives it. */
import { connect } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import rateLimit from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import {
  Cancelled,
  DeadlineExceeded,
  Overloaded,
  RunFailed,
  Stopping,
  WorkerLost,
} from '../../../service/src/inference/errors.js'
import type { Caller, RunOptions } from '../../../service/src/inference/types.js'
import { sendV2Error, v2Routes } from '../../../service/src/routes/v2.js'
import { isV2 } from '../../../service/src/routes/v2-error.js'
import { until } from '../../support/onnx-folder.js'
import { type Answer, ask, echo, type FakeModel, fakeModels, infer, input, v2App } from './v2-app.js'

const row = input('FP32', [1, 3], [1, 2, 3])

/** The answer is an error of the protocol, and nothing else. */
function isError(t: Test, answer: Answer, status: number, error: RegExp, name: string): void {
  t.equal(answer.status, status, `${name}: ${answer.text.slice(0, 200)}`)
  t.match(answer.headers['content-type'], /^application\/json/, name)
  t.strictSame(Object.keys(answer.body ?? {}), ['error'], name)
  t.match(answer.body?.error, error, name)
}

const failing = (name: string, error: () => Error): FakeModel => ({
  ...echo('FP32', ['batch', 3], name),
  run: () => {
    throw error()
  },
})

t.test('what the engine refuses has its status, and says when to come back', async t => {
  const app = await v2App(
    t,
    fakeModels([
      failing('overloaded', () => new Overloaded('limit', '200 rows wait', 2300)),
      failing('stopping', () => new Stopping()),
      failing('lost', () => new WorkerLost('exit code 134 at /srv/models')),
      failing('late', () => new DeadlineExceeded(false)),
      failing('failed', () => new RunFailed('node /graph/MatMul_3: bad')),
      failing('bug', () => new TypeError('secret of the house')),
      failing('gone', () => new Cancelled()),
    ]),
  )
  const cases: readonly (readonly [string, number, RegExp, string | undefined])[] = [
    ['overloaded', 429, /overloaded: 200 rows wait/, '3'],
    ['stopping', 503, /stopping/, '1'],
    ['lost', 503, /send it again$/, '1'],
    ['late', 504, /deadline passed while the request waited/, undefined],
    ['failed', 500, /the model failed while it ran/, undefined],
    ['bug', 500, /^the service failed; its log tells more under this instance: \S+$/, undefined],
    ['gone', 499, /gone/, undefined],
  ]
  for (const [name, status, error, retryAfter] of cases) {
    const answer = await infer(app, name, row)
    isError(t, answer, status, error, name)
    t.equal(answer.headers['retry-after'], retryAfter, name)
    t.notMatch(answer.text, /srv|MatMul|secret|stack/)
  }
})

t.test('unknown URLs and models, and methods that a URL does not have', async t => {
  const app = await v2App(t, fakeModels([echo('FP32')]))
  for (const url of [
    '/v2/nothing',
    '/v2/models/FP32/nothing',
    '/v2/models/FP32/versions',
    '/v2/health',
    '/v2/models/a/b/c',
  ]) {
    for (const method of ['GET', 'POST', 'DELETE'] as const) {
      isError(t, await ask(app, method, url), 404, /no such URL under \/v2/, `${method} ${url}`)
    }
  }
  isError(t, await infer(app, 'none', row), 404, /no model 'none'; there is: FP32/, 'unknown model')
  isError(t, await infer(app, 'n%2F%3F', row), 404, /no model 'n\/\?'/, 'encoded name')
  isError(t, await infer(app, 'FP32/versions/9', row), 404, /no version '9'; there is: 1/, 'unknown version')
  for (const [url, has, allow] of [
    ['/v2', 'GET', 'GET, HEAD, OPTIONS'],
    ['/v2/', 'GET', 'GET, HEAD, OPTIONS'],
    ['/v2/health/live', 'GET', 'GET, HEAD, OPTIONS'],
    ['/v2/health/ready', 'GET', 'GET, HEAD, OPTIONS'],
    ['/v2/models', 'GET', 'GET, HEAD, OPTIONS'],
    ['/v2/models/FP32', 'GET', 'GET, HEAD, OPTIONS'],
    ['/v2/models/FP32/versions/1/ready', 'GET', 'GET, HEAD, OPTIONS'],
    ['/v2/models/FP32/infer', 'POST', 'OPTIONS, POST'],
    ['/v2/models/FP32/versions/1/infer', 'POST', 'OPTIONS, POST'],
    ['/v2/repository/index', 'POST', 'OPTIONS, POST'],
  ] as const) {
    for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const) {
      if (method === has) continue
      const answer = await ask(app, method, url, method === 'GET' ? undefined : 'not even JSON')
      isError(t, answer, 405, /^this URL takes /, `${method} ${url}`)
      t.equal(answer.headers.allow, allow)
    }
    t.match(await ask(app, 'OPTIONS', url), { status: 204, headers: { allow } })
  }
})

t.test('bodies that are not JSON', async t => {
  const app = await v2App(t, fakeModels([echo('FP32')]))
  const cases: readonly (readonly [string, string | Buffer, RegExp])[] = [
    ['nothing', '', /empty where a JSON object is needed/],
    ['words', 'hello', /not valid JSON/],
    ['cut off', '{"inputs":[{"name":"x"', /not valid JSON/],
    ['NaN', JSON.stringify(row).replace('1,2,3', '1,NaN,3'), /not valid JSON/],
    ['a comment', '{/**/}', /not valid JSON/],
    ['a comma too many', '{"id":"1",}', /not valid JSON/],
    ['bytes', Buffer.from([0x1f, 0x8b, 0x08, 0x00]), /not UTF-8/],
    ['a half character', Buffer.concat([Buffer.from('{"id":"'), Buffer.from([0xc3]), Buffer.from('"}')]), /not UTF-8/],
    ['UTF-16', Buffer.from('{}', 'utf16le'), /not valid JSON/],
    ['depth', `{"inputs":${'['.repeat(100_000)}${']'.repeat(100_000)}}`, /nests deeper than 64 levels/],
    ['depth of objects', '{"a":'.repeat(10_000), /nests deeper than 64 levels/],
  ]
  for (const [name, body, error] of cases) {
    isError(t, await infer(app, 'FP32', body, { 'content-type': 'application/json' }), 400, error, name)
  }
  const marked = Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), Buffer.from(JSON.stringify(row))])
  t.equal((await infer(app, 'FP32', marked)).status, 200, 'a byte order mark is no fault')
})

t.test('content types: JSON, bytes, or none', async t => {
  const app = await v2App(t, fakeModels([echo('FP32')]))
  const send = (type: string, body: unknown = row, more = {}) =>
    infer(app, 'FP32', body, { 'content-type': type, ...more })
  for (const type of [
    'application/json',
    'Application/JSON ; charset=UTF-8',
    'application/json;charset="utf-8"',
    'application/octet-stream',
    '',
  ]) {
    t.equal((await send(type)).status, 200, type)
  }
  for (const [type, body] of [
    ['application/x-www-form-urlencoded', 'inputs=1&x={}'],
    ['application/x-www-form-urlencoded', row],
    ['text/plain', row],
    ['application/xml', '<a/>'],
    ['application/vnd.api+json', row],
    ['multipart/form-data; boundary=x', row],
    ['json', row],
    ['application/json, text/plain', row],
  ] as const) {
    isError(t, await send(type, body), 415, /must be sent as application\/json/, type)
  }
  isError(t, await send('application/json; charset=utf-16'), 415, /UTF-8/, 'charset')
  isError(t, await send('application/json; charset=utf-8; charset=latin1'), 415, /UTF-8/, 'two charsets')
  const packed = await send('application/json', row, { 'content-encoding': 'br' })
  isError(t, packed, 415, /must not be compressed, or compressed by gzip/, 'brotli')
  t.equal(packed.headers['accept-encoding'], 'gzip, identity')
})

t.test('the content types of /v2 are nobody else’s, and neither are its errors', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.post('/v1', async request => request.body)
  await app.register(v2Routes, { models: fakeModels([echo('FP32')]), requestTimeoutMs: 1000 })
  const form = { 'content-type': 'application/x-www-form-urlencoded' }
  t.equal((await ask(app, 'POST', '/v1', '{}', form)).status, 415)
  t.strictSame((await ask(app, 'POST', '/v1', { a: 1 })).body, { a: 1 })
  t.match((await ask(app, 'GET', '/nothing')).body, { statusCode: 404 })
})

t.test('a body that is too long says how long it may be', async t => {
  const app = Fastify({ bodyLimit: 2000 })
  t.teardown(() => app.close())
  await app.register(v2Routes, { models: fakeModels([echo('FP32')]), requestTimeoutMs: 1000 })
  isError(t, await infer(app, 'FP32', 'x'.repeat(2001)), 413, /at most 2000 bytes/, 'long')
})

t.test('a quota that is used up is told in the protocol’s form, with the limiter’s headers', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, { max: 2, timeWindow: 60_000 })
  await app.register(v2Routes, { models: fakeModels([echo('FP32')]), requestTimeoutMs: 1000 })
  for (let i = 0; i < 2; i++) t.equal((await infer(app, 'FP32', row)).status, 200)
  const answer = await infer(app, 'FP32', row)
  isError(t, answer, 429, /Rate limit exceeded/, 'quota')
  t.match(answer.headers['retry-after'], /^\d+$/)
  t.equal(answer.headers['x-ratelimit-remaining'], '0')
  for (const url of ['/v2', '/v2/health/live', '/v2/health/ready', '/v2/models', '/v2/models/FP32']) {
    t.equal((await ask(app, 'GET', url)).status, 200, `${url} is not limited`)
  }
})

t.test('infer takes a limiter configuration of its own', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, { global: false })
  const limited = { rateLimit: { max: 1, timeWindow: 60_000 } }
  await app.register(v2Routes, { models: fakeModels([echo('FP32')]), requestTimeoutMs: 1000, limited })
  t.equal((await infer(app, 'FP32', row)).status, 200)
  t.equal((await infer(app, 'FP32', row)).status, 429)
})

t.test('URLs that no route can be looked up for are answered in the same form', async t => {
  const app = Fastify({
    frameworkErrors: (error, request, reply) => {
      if (isV2(request.url)) sendV2Error(error, request, reply)
      else throw error
    },
  })
  t.teardown(() => app.close())
  await app.register(v2Routes, { models: fakeModels([]), requestTimeoutMs: 1000 })
  isError(t, await ask(app, 'GET', '/v2/models/%zz'), 400, /percent-encoded/, 'bad URL')
  isError(t, await infer(app, 'x'.repeat(300), row), 414, /too long/, 'long name')
  t.strictSame(['/v2', '/v2/', '//v2/x', '/v2?x', '/v22', '/v1/v2', '/V2'].map(isV2), [
    true,
    true,
    true,
    true,
    false,
    false,
    false,
  ])
})

t.test('the deadline is the least of what the service, the header and the message say', async t => {
  const left: number[] = []
  const model: FakeModel = {
    ...echo('FP32'),
    run: ({ x }, { deadline = 0 }: RunOptions) => {
      left.push(deadline - performance.now())
      return { y: x as NonNullable<typeof x> }
    },
  }
  const app = await v2App(t, fakeModels([model]), { requestTimeoutMs: 60_000 })
  const within = async (most: number, timeout?: unknown, header?: string) => {
    const body = timeout === undefined ? row : { ...row, parameters: { timeout } }
    const answer = await infer(app, 'FP32', body, header === undefined ? {} : { 'x-request-timeout-ms': header })
    t.equal(answer.status, 200, answer.text)
    const ms = left.pop() ?? 0
    t.ok(ms <= most && ms > most - 10_000, `${ms} of ${most} ms`)
  }
  await within(60_000)
  await within(60_000, 0)
  await within(30_000, 30_000_000)
  await within(60_000, 90_000_000)
  await within(20_000, undefined, '20000')
  await within(20_000, 30_000_000, '20000')
  await within(30_000, 30_000_000, '40000')
  for (const timeout of ['1', -1, 1.5, null, true, 2 ** 60]) {
    isError(
      t,
      await infer(app, 'FP32', { ...row, parameters: { timeout } }),
      400,
      /parameters\.timeout is/,
      `${timeout}`,
    )
  }
  for (const header of ['0', '-1', 'soon', '1.5', '1e3', '']) {
    // light-my-request drops nothing: an empty header is one.
    const answer = await app.inject({
      method: 'POST',
      url: '/v2/models/FP32/infer',
      headers: { 'content-type': 'application/json', 'x-request-timeout-ms': header },
      payload: row,
    })
    t.equal(answer.statusCode, 400, header)
  }
})

async function listening(app: FastifyInstance): Promise<number> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  return (app.server.address() as { port: number }).port
}

t.test('a caller that goes away cancels its request', async t => {
  let heard: (caller: Caller) => void = () => {}
  const model: FakeModel = {
    ...echo('FP32'),
    run: async ({ x }, { signal }) => {
      const caller = signal as Caller
      if (x?.data[0] === 1) return { y: x }
      heard(caller)
      await until(() => caller.aborted, 'the caller has gone')
      throw new Cancelled()
    },
  }
  const app = await v2App(t, fakeModels([model]))
  const port = await listening(app)
  const url = `http://127.0.0.1:${port}/v2/models/FP32/infer`
  const headers = { 'content-type': 'application/json' }
  t.equal((await fetch(url, { method: 'POST', headers, body: JSON.stringify(row) })).status, 200)
  const running = new Promise<Caller>(resolve => {
    heard = resolve
  })
  const body = JSON.stringify(input('FP32', [1, 3], [2, 2, 2]))
  const socket = connect(port, '127.0.0.1')
  socket.write(
    `POST /v2/models/FP32/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  )
  const caller = await running
  t.notOk(caller.aborted)
  socket.destroy()
  await until(() => caller.aborted, 'the caller has gone')
})
