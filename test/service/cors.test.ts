import { connect } from 'node:net'
import t from 'tap'
import { buildService, IRIS } from '../support/build.js'
import { onePlan, v2RowsOf } from '../support/limits-file.js'

const APP = 'https://app.example'
const STRANGER = 'https://stranger.example'

const preflight = (url: string, origin: string) =>
  ({
    method: 'OPTIONS',
    url,
    headers: {
      origin,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'content-type,x-api-key,x-request-timeout-ms',
    },
  }) as const

t.test('without the setting no script of another origin reads an answer', async t => {
  const { ask, predict } = await buildService(t)
  const answer = await predict(IRIS, { headers: { origin: APP } })
  t.equal(answer.headers['access-control-allow-origin'], undefined)
  const asked = await ask(preflight('/v1/predict', APP))
  t.equal(asked.statusCode, 204)
  t.equal(asked.headers.allow, 'OPTIONS, POST')
  t.equal(asked.headers['access-control-allow-origin'], undefined)
})

t.test('apps of the origins that are named read answers, and in every answer the headers of the limits', async t => {
  const { ask, predict } = await buildService(t, { CORS_ORIGINS: `${APP}, http://localhost:5173`, RATE_LIMIT_MAX: 1 })
  const headers = { origin: APP }
  const v2 = { method: 'POST', url: '/v2/models/iris/infer', payload: v2RowsOf(1), headers } as const
  for (const [answer, status] of [
    [await predict({ model: 'iris', features: 'x' }, { headers }), 400],
    [await predict(IRIS, { headers }), 429],
    [await ask(v2), 429],
    [await ask({ url: '/v1/limits', headers }), 200],
    [await ask({ url: '/nothing', headers }), 404],
    [await ask({ method: 'PUT', url: '/v1/predict', headers }), 405],
  ] as const) {
    t.equal(answer.statusCode, status)
    t.equal(answer.headers['access-control-allow-origin'], APP)
    t.match(answer.headers.vary, /Origin/i)
    const exposed = String(answer.headers['access-control-expose-headers']).split(', ')
    for (const name of Object.keys(answer.headers)) {
      const isOfLimits = /^x-ratelimit|^ratelimit|^retry-after|^x-error-code|^server-timing/.test(name)
      if (isOfLimits) t.ok(exposed.includes(name), name)
    }
  }
  const other = await predict(IRIS, { headers: { origin: 'http://localhost:5173' } })
  t.equal(other.headers['access-control-allow-origin'], 'http://localhost:5173')
  const stranger = await predict(IRIS, { headers: { origin: STRANGER } })
  t.equal(stranger.headers['access-control-allow-origin'], undefined)
  t.equal((await predict(IRIS)).headers['access-control-allow-origin'], undefined)
})

t.test('preflights are neither limited nor charged, and need no key', async t => {
  const { ask, predict } = await buildService(t, { CORS_ORIGINS: APP, RATE_LIMIT_MAX: 1 })
  for (const url of ['/v1/predict', '/v1/models/iris/predict', '/v2/models/iris/infer', '/v1/models', '/nothing']) {
    for (let i = 0; i < 3; i++) {
      const answer = await ask(preflight(url, APP))
      t.equal(answer.statusCode, 204)
      t.match(answer.headers, {
        'access-control-allow-origin': APP,
        'access-control-allow-methods': /POST/,
        'access-control-allow-headers': 'content-type,x-api-key,x-request-timeout-ms',
        'access-control-max-age': '600',
      })
      t.equal(answer.headers['ratelimit-policy'], undefined)
    }
    t.equal((await ask(preflight(url, STRANGER))).headers['access-control-allow-origin'], undefined)
  }
  t.equal((await predict(IRIS)).statusCode, 200, 'the one of the quota is still there')
  t.equal((await predict(IRIS)).statusCode, 429)
  t.equal((await ask(preflight('/v1/predict', APP))).statusCode, 204)
})

t.test('OPTIONS that is no preflight still says which methods a URL has', async t => {
  const { ask } = await buildService(t, { CORS_ORIGINS: '*' })
  const known = await ask({ method: 'OPTIONS', url: '/v1/predict' })
  t.equal(known.statusCode, 204)
  t.equal(known.headers.allow, 'OPTIONS, POST')
  for (const url of ['/nothing', '/v2/nothing']) {
    const unknown = await ask({ method: 'OPTIONS', url, payload: 'x', headers: { 'content-type': 'text/x-any' } })
    t.equal(unknown.statusCode, 404, url)
  }
})

t.test('an asterisk lets the apps of all origins read', async t => {
  const { predict } = await buildService(t, { CORS_ORIGINS: '*' })
  t.equal((await predict(IRIS, { headers: { origin: STRANGER } })).headers['access-control-allow-origin'], '*')
})

t.test('headers of SDK_HEADERS are exposed as the other limits are', async t => {
  const policies = [
    { name: 'requests', limit: 9, window: '1 minute' },
    { name: 'rows', unit: 'rows', limit: 9, window: '1 minute' },
    { name: 'compute', unit: 'compute-ms', limit: 9000, window: '1 minute' },
  ]
  const LIMITS_FILE = onePlan(t, policies)
  const { predict } = await buildService(t, { CORS_ORIGINS: '*', SDK_HEADERS: 'openai', LIMITS_FILE })
  const { headers } = await predict(IRIS, { headers: { origin: APP } })
  const exposed = String(headers['access-control-expose-headers']).split(', ')
  const names = Object.keys(headers).filter(name => name.startsWith('x-ratelimit-'))
  t.equal(names.length, 12)
  for (const name of names) t.ok(exposed.includes(name), name)
})

t.test('answers that are made before the routes can be read as well, and have the form of their URL', async t => {
  for (const [CORS_ORIGINS, allowed] of [
    ['*', '*'],
    [APP, APP],
  ] as const) {
    const { app } = await buildService(t, { CORS_ORIGINS, UPLOAD_TIMEOUT_MS: 300 })
    const { port } = new URL(await app.listen({ host: '127.0.0.1', port: 0 }))
    const ask = (line: string, fields: string) =>
      new Promise<string>(resolve => {
        const socket = connect(Number(port), '127.0.0.1')
        let text = ''
        socket.on('data', data => (text += data))
        socket.on('error', () => {})
        socket.on('close', () => resolve(text))
        socket.write(`${line} HTTP/1.1\r\nhost: a\r\norigin: ${APP}\r\nconnection: close\r\n${fields}\r\n`)
      })
    for (const [line, fields, status, code] of [
      ['GET /%zz', '', 400, 'INVALID_URL'],
      [`GET /v1/models/${'a'.repeat(200)}`, '', 414, 'URL_TOO_LONG'],
      ['POST /v1/predict', 'content-type: application/json\r\ncontent-length: 9\r\n', 408, 'REQUEST_TIMEOUT'],
      ['POST /v2/models/iris/infer', 'content-length: 9\r\n', 408, 'REQUEST_TIMEOUT'],
      ['POST /v2/models/iris/infer', 'expect: more\r\ncontent-length: 0\r\n', 417, 'EXPECTATION_FAILED'],
    ] as const) {
      const answer = await ask(line, fields)
      t.match(answer, new RegExp(`^HTTP/1.1 ${status} `), line.slice(0, 40))
      t.match(answer.toLowerCase(), `access-control-allow-origin: ${allowed}\r\n`)
      if (line.includes('/v2/')) t.match(answer, new RegExp(`x-error-code: ${code}\r\n.*\r\n\r\n\\{"error":"`, 's'))
      else t.match(answer, new RegExp(`"code":"${code}"`))
    }
  }
})
