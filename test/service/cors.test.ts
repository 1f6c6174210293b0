import t from 'tap'
import { buildService, IRIS } from '../support/build.js'
import { v2RowsOf } from '../support/limits-file.js'

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
