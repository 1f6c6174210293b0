import { deflateSync, gzipSync } from 'node:zlib'
import sharp from 'sharp'
import t from 'tap'
import { buildService, IRIS } from '../../support/build.js'

const V2 = { inputs: [{ name: 'measurements', shape: [1, 4], datatype: 'FP32', data: IRIS.features }] }

/** Every route that takes a body, with one that it takes. */
const ROUTES: readonly (readonly [url: string, body: object, headers?: Readonly<Record<string, string>>])[] = [
  ['/v1/predict', IRIS],
  ['/v1/models/iris/predict', { features: IRIS.features }],
  ['/v1/admin/reload', {}, { authorization: 'Bearer token' }],
  ['/v2/models/iris/infer', V2],
  ['/v2/models/iris/versions/1/infer', V2],
  ['/v2/repository/index', { ready: true }],
]

/** Routes that take a body and change what is there: what they do with a good one is tested apart. */
const CHANGING = [
  '/v2/repository/models/iris/load',
  '/v2/repository/models/iris/unload',
  '/v1/admin/keys',
  '/v1/admin/keys/x/rotate',
]

const OTHERS = [
  'application/x-www-form-urlencoded',
  'application/x-www-form-urlencoded; charset=utf-8',
  'multipart/form-data; boundary=x',
  'text/plain',
  'text/json',
  'application/xml',
  'application/vnd.api+json',
  'application/json-seq',
  'application/jsonx',
  'application/json/x',
  'xapplication/json',
  'application/json, text/html',
  'json',
  '*/*',
  '; charset=utf-8',
]

t.test('every route takes its own content types and no other', async t => {
  const { app, ask } = await buildService(t, { RATE_LIMIT_MAX: 10_000, ADMIN_TOKEN: 'token' })
  const posts = app.knownRoutes.filter(route => route.startsWith('POST '))
  t.equal(posts.length, ROUTES.length + CHANGING.length, `these are all that take bodies: ${posts.join(', ')}`)
  for (const [url, body, more = {}] of ROUTES) {
    const send = (type: string) =>
      ask({ method: 'POST', url, payload: JSON.stringify(body), headers: { ...more, 'content-type': type } })
    for (const type of [
      'application/json',
      'APPLICATION/JSON',
      'application/json; charset="UTF-8"',
      'application/json;',
    ]) {
      t.equal((await send(type)).statusCode, 200, `${url} takes ${type}`)
    }
    const binary = url.endsWith('/infer') ? 200 : 415
    t.equal((await send('application/octet-stream')).statusCode, binary, `${url}: application/octet-stream`)
    for (const type of OTHERS) {
      const { statusCode, payload } = await send(type)
      t.equal(statusCode, 415, `${url} does not take ${type}`)
      t.match(payload, 'application/json', 'and says what it takes')
    }
    for (const type of ['application/json; charset=utf-16', 'application/json;charset=utf-8;charset=latin1']) {
      t.equal((await send(type)).statusCode, 415, `${url} does not take ${type}`)
    }
  }
  for (const url of CHANGING) {
    for (const type of OTHERS) {
      const headers = { authorization: 'Bearer token', 'content-type': type }
      const { statusCode } = await ask({ method: 'POST', url, payload: '{}', headers })
      t.equal(statusCode, 415, `${url} does not take ${type}`)
    }
  }
})

t.test('a body packed by gzip is taken on every route', async t => {
  const { ask } = await buildService(t, { RATE_LIMIT_MAX: 10_000, ADMIN_TOKEN: 'token' })
  for (const [url, body, more = {}] of ROUTES) {
    const send = (payload: Buffer, coding: string) =>
      ask({
        method: 'POST',
        url,
        payload,
        headers: { ...more, 'content-type': 'application/json', 'content-encoding': coding },
      })
    const json = JSON.stringify(body)
    const plain = await send(Buffer.from(json), 'identity')
    t.equal(plain.statusCode, 200, url)
    for (const coding of ['gzip', 'x-gzip', 'GZIP']) {
      t.equal((await send(gzipSync(json), coding)).payload, plain.payload, `${url}: ${coding}`)
    }
    const split = Math.floor(json.length / 2)
    const members = Buffer.concat([gzipSync(json.slice(0, split)), gzipSync(json.slice(split))])
    t.equal((await send(members, 'gzip')).payload, plain.payload, 'in two members')
    for (const coding of ['deflate', 'br', 'gzip, gzip', 'zstd']) {
      const { statusCode, headers, payload } = await send(deflateSync(json), coding)
      t.equal(statusCode, 415, `${url}: ${coding}`)
      t.equal(headers['accept-encoding'], 'gzip, identity')
      t.match(payload, /gzip/)
    }
    for (const broken of [Buffer.from(json), gzipSync(json).subarray(0, -9), Buffer.from([0x1f, 0x8b])]) {
      const { statusCode, payload } = await send(broken, 'gzip')
      t.equal(statusCode, 400, `${url}: broken gzip`)
      t.match(payload, /not gzip from beginning to end/)
    }
  }
})

t.test('a packed picture is taken as one that is not', async t => {
  const { ask } = await buildService(t, { BODY_LIMIT: 4096 })
  const png = await sharp({ create: { width: 8, height: 8, channels: 3, background: '#fff' } })
    .png()
    .toBuffer()
  const send = (payload: Buffer, coding: string) =>
    ask({
      method: 'POST',
      url: '/v1/models/digits/predict',
      payload,
      headers: { 'content-type': 'image/png', 'content-encoding': coding },
    })
  const plain = await send(png, 'identity')
  t.equal(plain.statusCode, 200)
  t.equal((await send(gzipSync(png), 'gzip')).payload, plain.payload)
  t.equal((await send(png, 'br')).statusCode, 415)
  t.match((await send(png, 'gzip')).json(), { status: 400, code: 'INVALID_GZIP' })
  const bomb = await send(gzipSync(Buffer.alloc(2 ** 20)), 'gzip')
  t.match(bomb.json(), { status: 413, code: 'UNPACKED_BODY_TOO_LARGE' })
})

t.test('what a body unpacks to has a limit', async t => {
  const rows = (count: number) =>
    JSON.stringify({ model: 'iris', features: Array.from({ length: count }, () => IRIS.features) })
  const send = (ask: Awaited<ReturnType<typeof buildService>>['ask'], payload: Buffer, url = '/v1/predict') =>
    ask({ method: 'POST', url, payload, headers: { 'content-type': 'application/json', 'content-encoding': 'gzip' } })

  const { ask } = await buildService(t, { BODY_LIMIT: 4096 })
  t.equal((await send(ask, gzipSync(rows(100)))).statusCode, 200)
  const bomb = await send(ask, gzipSync(rows(1000)))
  t.match(bomb.json(), { status: 413, code: 'UNPACKED_BODY_TOO_LARGE', detail: /more than 4096 bytes/ })
  t.match((await send(ask, gzipSync(rows(1000)), '/v2/models/iris/infer')).json(), { error: /more than 4096 bytes/ })
  const large = gzipSync(Buffer.alloc(2 ** 21, ' '))
  const memory = process.memoryUsage().arrayBuffers
  t.ok(large.length < 4096, 'two mebibytes in a body that is short enough')
  t.equal((await send(ask, large)).statusCode, 413)
  t.ok(process.memoryUsage().arrayBuffers < memory + 2 ** 20, 'of which no more than the limit was unpacked')

  const roomy = await buildService(t, { BODY_LIMIT: 4096, UNPACKED_BODY_LIMIT: 100_000 })
  t.equal((await send(roomy.ask, gzipSync(rows(1000)))).statusCode, 200, 'a limit of its own')
  const packed = await send(roomy.ask, Buffer.concat([gzipSync(rows(1)), Buffer.alloc(5000)]))
  t.match(packed.json(), { status: 413, code: 'BODY_TOO_LARGE', detail: /4096/ }, 'as sent, it may be as long as any')
})
