import { connect } from 'node:net'
import t, { type Test } from 'tap'
import { buildService, IRIS } from '../support/build.js'

const row = (length: number, value: unknown = 0.5) => Array.from({ length }, () => value)
const digits = (features: unknown) => ({ model: 'digits', features })
const text = (body: string) => body
const json = 'application/json'

interface Bad {
  readonly what: string
  readonly body: unknown
  readonly status?: number
  readonly code: string
  /** What the caller is told: in `detail`, and as `errors` by path where given. */
  readonly detail?: RegExp
  readonly path?: string
  readonly type?: string
}

const invalid = { status: 400, code: 'INFERENCE_INVALID_INPUT' }
const notJson = { status: 400, code: 'INVALID_JSON' }

const BAD: readonly Bad[] = [
  { what: 'no JSON', body: text('{"model":'), ...notJson },
  { what: 'no body', body: text(''), ...notJson },
  { what: 'NaN written as in JavaScript', body: text('{"model":"iris","features":[NaN,1,1,1]}'), ...notJson },
  { what: 'a poisoned object', body: text('{"model":"iris","__proto__":{"x":1}}'), ...notJson },
  { what: 'a poisoned constructor', body: text('{"constructor":{"prototype":{"x":1}}}'), ...notJson },
  { what: '100,000 nested lists', body: text('['.repeat(100_000)), ...notJson, detail: /nests deeper/ },
  {
    what: 'a number beyond all',
    body: text('{"model":"iris","features":[1e999,1,1,1]}'),
    ...invalid,
    path: 'features[0]',
  },
  { what: 'a list', body: [], code: 'INVALID_REQUEST' },
  { what: 'null', body: text('null'), code: 'INVALID_REQUEST' },
  { what: 'a name that is a number', body: { ...IRIS, model: 7 }, code: 'INVALID_REQUEST', path: 'model' },
  { what: 'a field that nobody knows', body: { ...IRIS, feature: 1 }, code: 'INVALID_REQUEST', path: 'feature' },
  { what: 'no features', body: { model: 'iris' }, ...invalid, path: 'features', detail: /4 numbers/ },
  { what: 'features of null', body: digits(null), ...invalid, path: 'features' },
  { what: 'a word for features', body: digits('many'), ...invalid, path: 'features' },
  { what: '63 features', body: digits(row(63)), ...invalid, path: 'features', detail: /63.*64 numbers/ },
  { what: '65 features', body: digits(row(65)), ...invalid, path: 'features', detail: /65.*64 numbers/ },
  { what: 'a word among the numbers', body: digits([...row(63), 'nan']), ...invalid, path: 'features[63]' },
  { what: 'a number written as a word', body: digits(row(64, '0.5')), ...invalid, path: 'features[0]' },
  { what: 'null among the numbers', body: digits([...row(63), null]), ...invalid, path: 'features[63]' },
  { what: 'true among the numbers', body: digits([...row(63), true]), ...invalid, path: 'features[63]' },
  { what: 'an empty list', body: digits([]), ...invalid, path: 'features', detail: /64 numbers/ },
  { what: 'an empty row', body: digits([[]]), ...invalid },
  { what: 'ragged rows', body: digits([row(64), row(63)]), ...invalid, path: 'features[1]' },
  { what: 'a row too deep', body: digits([[row(64)]]), ...invalid },
  { what: 'an input of another name', body: { model: 'digits', inputs: { pixels: row(64) } }, ...invalid },
  { what: 'features and inputs', body: { ...IRIS, inputs: {} }, ...invalid },
  {
    what: 'an unknown model',
    body: { ...IRIS, model: 'rose' },
    status: 404,
    code: 'INFERENCE_UNKNOWN_MODEL',
    detail: /iris/,
  },
  {
    what: 'an unknown version',
    body: { ...IRIS, version: '9' },
    status: 404,
    code: 'INFERENCE_UNKNOWN_MODEL',
    detail: /1/,
  },
  {
    what: 'no model',
    body: { features: row(4) },
    code: 'INFERENCE_MODEL_REQUIRED',
    detail: /digits, digits-picture, digits-wide, iris/,
  },
  {
    what: '10 MB',
    body: text(`{"features":[${'1,'.repeat(5_000_000)}1]}`),
    status: 413,
    code: 'BODY_TOO_LARGE',
    detail: /1048576/,
  },
  {
    what: 'text/plain',
    body: IRIS,
    type: 'text/plain',
    status: 415,
    code: 'UNSUPPORTED_MEDIA_TYPE',
    detail: /application\/json/,
  },
  { what: 'XML', body: text('<a/>'), type: 'application/xml', status: 415, code: 'UNSUPPORTED_MEDIA_TYPE' },
  {
    what: 'a form',
    body: text('a=1'),
    type: 'application/x-www-form-urlencoded',
    status: 415,
    code: 'UNSUPPORTED_MEDIA_TYPE',
  },
  { what: 'UTF-16', body: IRIS, type: `${json}; charset=utf-16`, status: 415, code: 'UNSUPPORTED_CHARSET' },
  {
    what: 'a second charset',
    body: IRIS,
    type: `${json};charset=utf-8;charset=latin1`,
    status: 415,
    code: 'UNSUPPORTED_CHARSET',
  },
]

t.test('bad input is refused with what is wrong and what the model takes', async t => {
  const { predict, ask } = await buildService(t, { RATE_LIMIT_MAX: 1000 })
  for (const { what, body, status = 400, code, detail, path, type } of BAD) {
    const payload = typeof body === 'string' ? body : JSON.stringify(body)
    const response = await predict(payload, { headers: { 'content-type': type ?? json } })
    t.equal(response.statusCode, status, what)
    t.equal(response.headers['content-type'], 'application/problem+json', what)
    const problem = response.json()
    t.match(problem, { type: String, title: String, status, detail: String, instance: /^urn:uuid:/, code }, what)
    if (detail !== undefined) t.match(problem.detail, detail, what)
    if (path !== undefined) t.match(problem.errors, [{ path, message: String }], what)
    if (status === 400 || status === 413) t.ok(problem.takes, `${what}: says what is taken`)
    t.notMatch(response.payload, /node_modules|\.ts:|\.js:|FST_/, `${what}: tells nothing of the inside`)
  }
  t.equal((await predict(IRIS)).statusCode, 200, 'the service lives')
  t.equal((await ask('/health/ready')).json().status, 'ready')
})

t.test('a refusal shows a body that the model takes', async t => {
  const { predict } = await buildService(t)
  const { takes } = (await predict({ model: 'iris', features: [1] })).json()
  t.match(takes, { model: 'iris', inputs: [{ name: 'measurements', datatype: 'FP32', shape: ['batch', 4] }] })
  t.equal((await predict(takes.sample)).statusCode, 200)
})

t.test('JSON is taken however its type is spelt', async t => {
  const { predict } = await buildService(t)
  for (const type of [json, 'Application/JSON', `${json}; charset=utf-8`, `${json};charset="UTF-8"`, `${json};`]) {
    t.equal((await predict(JSON.stringify(IRIS), { headers: { 'content-type': type } })).statusCode, 200, type)
  }
})

t.test('a body that is not UTF-8 is refused', async t => {
  const { predict } = await buildService(t)
  const broken = await predict(Buffer.from([0x22, 0xff, 0x22]), { headers: { 'content-type': json } })
  t.equal(broken.statusCode, 400)
  t.equal(broken.json().code, 'INVALID_JSON')
})

t.test('the model of the URL goes, and another one in the body is refused', async t => {
  const { ask } = await buildService(t)
  const post = (url: string, payload: object) => ask({ method: 'POST', url, payload })
  t.equal((await post('/v1/models/iris/predict', { features: IRIS.features })).statusCode, 200)
  const refused = await post('/v1/models/iris/predict', digits(row(64)))
  t.equal(refused.statusCode, 400)
  t.match(refused.json().errors, [{ path: 'model' }])
  t.equal((await post('/v1/models/rose/predict', { features: [1] })).statusCode, 404)
})

t.test(
  'the version of the URL goes, whatever the form of the rows, and another one in the body is refused',
  async t => {
    const { ask } = await buildService(t)
    const url = '/v1/models/iris/predict'
    const post = (query: string, payload: string | object, type = json) =>
      ask({ method: 'POST', url: url + query, payload, headers: { 'content-type': type } })
    const { features } = IRIS
    const table = 'sepal_length,sepal_width,petal_length,petal_width\n1,2,3,4\n'
    for (const [payload, type] of [
      [{ features }, json],
      [table, 'text/csv'],
    ] as const) {
      t.equal((await post('?version=1', payload, type)).statusCode, 200, type)
      t.match((await post('?version=9', payload, type)).json(), { status: 404, available: ['1'] }, type)
      t.match(
        (await post('?version=1&version=9', payload, type)).json(),
        { status: 400, code: 'INVALID_REQUEST' },
        type,
      )
    }
    t.equal((await post('?version=1', { features, version: '1' })).statusCode, 200)
    t.match((await post('?version=9', { features, version: '1' })).json().errors, [{ path: 'version' }])
  },
)

t.test('another method gets 405 with what the URL takes, an unknown URL 404 with what there is', async t => {
  const { ask } = await buildService(t)
  const wrong = await ask({ method: 'GET', url: '/v1/predict' })
  t.equal(wrong.statusCode, 405)
  t.equal(wrong.headers.allow, 'OPTIONS, POST')
  t.match(wrong.json(), { status: 405, code: 'METHOD_NOT_ALLOWED', allow: ['OPTIONS', 'POST'] })
  t.equal((await ask({ method: 'DELETE', url: '/v1/models/iris' })).headers.allow, 'GET, HEAD, OPTIONS')
  t.equal(
    (await ask({ method: 'PUT', url: '/v1/predict', payload: text('x'), headers: { 'content-type': 'a/b' } }))
      .statusCode,
    405,
  )
  t.equal((await ask({ method: 'OPTIONS', url: '/v1/predict' })).statusCode, 204)
  t.equal((await ask({ method: 'HEAD', url: '/v1/models' })).statusCode, 200)

  const unknown = await ask('/v1/nothing')
  t.equal(unknown.statusCode, 404)
  t.match(unknown.json(), { code: 'NOT_FOUND', routes: ['POST /v1/predict'] })
  const model = await ask('/v1/models/rose')
  t.equal(model.statusCode, 404)
  t.strictSame(model.json().available, ['digits', 'digits-picture', 'digits-wide', 'iris'])
  t.match((await ask('/v1/models/%zz')).json(), { status: 400, code: 'INVALID_URL' })
  t.match((await ask(`/v1/models/${'a'.repeat(200)}`)).json(), { status: 414, code: 'URL_TOO_LONG' })
})

t.test('a refused request counts: the limiter runs before a body is read', async t => {
  const { predict } = await buildService(t, { RATE_LIMIT_MAX: 2 })
  t.equal((await predict(text('{'), { headers: { 'content-type': json } })).headers['x-ratelimit-remaining'], '1')
  t.equal((await predict(digits([]))).headers['x-ratelimit-remaining'], '0')
  t.equal((await predict(text('{'), { headers: { 'content-type': json } })).statusCode, 429)
})

/** What a server says to bytes that are no request. */
function say(t: Test, port: number, bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes))
    let answer = ''
    socket.on('data', data => (answer += data))
    socket.on('close', () => resolve(answer))
    socket.on('error', reject)
    t.teardown(() => socket.destroy())
  })
}

t.test('every answer says that it is data and no page', async t => {
  const { ask, predict } = await buildService(t, { RATE_LIMIT_MAX: 1 })
  for (const { headers } of [
    await predict(IRIS),
    await predict(IRIS),
    await ask('/nothing'),
    await ask('/health/live'),
  ]) {
    t.match(headers, {
      'x-content-type-options': 'nosniff',
      'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
      'referrer-policy': 'no-referrer',
    })
  }
})

t.test('what is not HTTP is answered with a problem document all the same', async t => {
  const { app } = await buildService(t)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as { port: number }
  const cases: readonly [string, number, string][] = [
    ['NONSENSE\r\n\r\n', 400, 'MALFORMED_REQUEST'],
    ['GET /health/live HTTP/1.1\r\nconnection: close\r\n\r\n', 400, 'INVALID_REQUEST'],
    [
      'POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n',
      400,
      'MALFORMED_REQUEST',
    ],
    [`GET /health/live HTTP/1.1\r\nhost: a\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`, 431, 'HEADERS_TOO_LARGE'],
    ['GET /health/live HTTP/1.1\r\nhost: a\r\nx', 408, 'REQUEST_TIMEOUT'],
  ]
  for (const [bytes, status, code] of cases) {
    const answer = await say(t, port, bytes)
    t.match(answer, new RegExp(`^HTTP/1.1 ${status} `), code)
    t.match(answer.toLowerCase(), 'content-type: application/problem+json')
    t.match(JSON.parse(answer.slice(answer.indexOf('\r\n\r\n'))), { status, code })
  }
})
