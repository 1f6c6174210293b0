/** Requests as nobody should send them: each part drawn from what is right, what is odd, and what is hostile. */
import { gzipSync } from 'node:zlib'
import fc, { type Arbitrary } from 'fast-check'
import { LAST } from './wire.js'

/** Stands in everything that is secret, so that it can be looked for where it must not be. */
export const CANARY = 'zqcanaryqz'

/** Models of open, unknown and empty shapes, and of text: what they take hangs on what they are sent. */
const SHAPED = ['tokens', 'image', 'words', 'any', 'empty', 'pair', 'sums', 'flat'] as const

/** Every URL of the service that answers; one value for each parameter, then wrong ones. */
export const URLS: readonly string[] = [
  ...['/', '/metrics', '/openapi.json', '/docs', '/docs/', '/docs/json', '/docs/static/index.html', '/docs/static/*'],
  ...['/playground/main.js', '/playground/uPlot.esm.js', '/health/live', '/health/ready', '/v1/limits', '/v1/models'],
  ...['/v1/models/iris', '/v1/models/rose', '/v1/predict', '/v1/models/iris/predict', '/v1/models/rose/predict'],
  ...['/v1/admin/reload', '/v2', '/v2/', '/v2/health/live', '/v2/health/ready', '/v2/models', '/v2/repository/index'],
  ...['/v2/models/iris', '/v2/models/iris/ready', '/v2/models/iris/infer', '/v2/models/iris/versions/1'],
  ...['/v2/models/iris/versions/1/ready', '/v2/models/iris/versions/1/infer', '/v2/models/rose/infer'],
  ...['/v1/models/iris/sample', '/v1/usage', '/console', '/v2/models/iris/stats', '/v2/models/iris/versions/1/stats'],
  ...['/v2/repository/models/iris/load', '/v2/repository/models/iris/unload'],
  ...SHAPED.flatMap(name => [`/v1/models/${name}/predict`, `/v2/models/${name}/infer`]),
  ...['/v1', '/nothing', '/v1/models/', '/v2/models/iris/versions/0', '*'],
]

/** The routes that run a model, which is what is limited. */
const PREDICTING = URLS.filter(url => /(?:predict|infer)$/.test(url))

const METHODS = [
  'POST',
  'POST',
  'POST',
  'POST',
  'POST',
  'POST',
  'POST',
  'GET',
  'GET',
  'GET',
  'HEAD',
  'OPTIONS',
  'PUT',
  'DELETE',
  'PATCH',
  'QUERY',
  'TRACE',
]

export interface FuzzRequest {
  readonly method: string
  readonly target: string
  readonly version: string
  /** Names and values as they go out, in Latin-1. */
  readonly headers: readonly (readonly [string, string])[]
  readonly body: Buffer
  readonly framing: 'length' | 'chunked'
}

/** What goes over one connection: requests one behind the other, in one piece or several. */
export interface FuzzConnection {
  readonly requests: readonly FuzzRequest[]
  /** Where the bytes are cut into pieces. */
  readonly cuts: readonly number[]
  /** Bytes that take the place of others. None: HTTP as it should be. */
  readonly damage: readonly { readonly at: number; readonly gone: number; readonly bytes: Uint8Array }[]
}

const percent = (character: string) => `%${character.charCodeAt(0).toString(16).padStart(2, '0')}`

/** Other ways to write the same URL, and ways that only look like it. */
const spelling: Arbitrary<(url: string) => string> = fc.oneof(
  { weight: 6, arbitrary: fc.constant((url: string) => url) },
  fc
    .nat(30)
    .map(
      at => (url: string) =>
        url.replace(/[a-z]/g, (character, offset: number) => (offset % 31 === at ? percent(character) : character)),
    ),
  fc.constantFrom<((url: string) => string)[]>(
    url => `${url}/`,
    url => url.replaceAll('/', '//'),
    url => url.toUpperCase(),
    url => `http://elsewhere.example${url}`,
    url => `/.${url}`,
    url => `/nothing/..${url}`,
    url => url.replace(/^\/v1/, '/v1/..%2fv1'),
    url => url.replaceAll('/', '%2f'),
    url => url.replaceAll('/', '\\'),
    url => `${url};a=b`,
    url => `${url}%00`,
    url => `${url}%zz`,
    url => `${url}%c0%af`,
    url => `${url}${'a'.repeat(300)}`,
    url => `${url}/..%2f..%2f..%2fetc%2fpasswd`,
    url => `${url}#fragment`,
  ),
  fc
    .oneof(
      fc.webQueryParameters(),
      fc.constantFrom('__proto__[a]=1', 'constructor.prototype=1', '%', '&&==', `a=${'b'.repeat(3000)}`),
    )
    .map(query => (url: string) => `${url}?${query}`),
)

const target = fc
  .tuple(
    fc.oneof({ weight: 2, arbitrary: fc.constantFrom(...URLS) }, fc.constantFrom(...PREDICTING)),
    fc.array(spelling, { minLength: 1, maxLength: 2 }),
  )
  // No control character, no space: those are for damaged requests.
  .map(([url, spellings]) => spellings.reduce((before, spell) => spell(before), url).replace(/[^\x21-\x7e]/g, ''))

/** Text that a field may have, any byte of Latin-1 but control characters. */
const fieldText = fc.uint8Array({ maxLength: 40 }).map(bytes =>
  Buffer.from(bytes.filter(byte => byte >= 0x20 && byte !== 0x7f))
    .toString('latin1')
    .trim(),
)

const address = fc.oneof(
  fc.ipV4(),
  fc.ipV6(),
  fc.constantFrom('::ffff:203.0.113.7', 'fe80::1%eth0', 'unknown', '_hidden', '203.0.113.7:80', '[::1]:80', '', 'x'),
)

const key = fc.oneof(
  fieldText.map(text => `${CANARY}${text}`),
  fc.constantFrom(CANARY, `{${CANARY}}`, CANARY.repeat(500), `${CANARY}\t${CANARY}`, '__proto__', '0'),
)

const names = (name: string, value: Arbitrary<string>) => value.map(text => [name, text] as const)
const oneOf = (name: string, ...values: string[]) => names(name, fc.constantFrom(...values))

const MEDIA = [
  'application/json',
  'Application/JSON;',
  'application/json; charset=utf-8',
  'application/json;charset=utf-16',
]

/** What people and programs send besides, well and badly. Nothing here changes where the body ends. */
const header: Arbitrary<readonly [string, string]> = fc.oneof(
  oneOf(
    'content-type',
    ...MEDIA,
    'application/octet-stream',
    'text/plain',
    ' ',
    'a',
    'application/json, text/html',
    '\t',
  ),
  names(
    'x-forwarded-for',
    fc.array(address, { maxLength: 100 }).map(list => list.join(', ')),
  ),
  names(
    'forwarded',
    address.map(text => `for="${text}";proto=http`),
  ),
  names('x-real-ip', address),
  oneOf('x-forwarded-host', '', 'a,b', CANARY),
  oneOf('x-forwarded-proto', 'https', 'javascript', ','),
  // Times to answer that nothing could keep would be answered with 504, and rightly so.
  oneOf('x-request-timeout-ms', '60000', '0', '-1', '1e3', 'NaN', '9'.repeat(30), '60000, 60000'),
  names(
    'inference-header-content-length',
    fc.oneof(fc.integer().map(String), fc.constantFrom('', 'x', '9'.repeat(40))),
  ),
  oneOf('expect', '100-continue', 'the-unexpected'),
  oneOf('upgrade', 'websocket', 'h2c'),
  oneOf('connection', 'keep-alive', 'x-api-key', ''),
  oneOf('range', 'bytes=0-0', 'bytes=9999999-', 'bytes=-0', 'x', 'bytes=0-1,0-1,0-1,0-1'),
  oneOf('if-none-match', '*', '"x"', ''),
  oneOf('if-match', '"x"', ''),
  oneOf('if-modified-since', 'Tue, 24 Nov 2099 00:00:00 GMT', 'x'),
  oneOf('accept', 'text/html', '*/*', 'application/problem+xml', ','),
  oneOf('accept-encoding', 'gzip', 'br;q=1.0, *;q=0', ''),
  oneOf('content-encoding', 'gzip', 'identity', 'deflate, gzip', ''),
  oneOf('x-http-method-override', 'GET', 'DELETE'),
  oneOf('x-original-url', '/v1/admin/reload'),
  oneOf('cookie', 'a=b', '__proto__=1', ';;;'),
  oneOf('traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', 'x'),
  oneOf('__proto__', 'x'),
  oneOf('constructor', 'x'),
  oneOf('x-many', 'y'.repeat(7000)),
  names('x-text', fieldText),
)

/** A caller that says who it is. Few do: after ten wrong keys, more of that address are denied. */
const credentials: Arbitrary<readonly (readonly [string, string])[]> = fc.oneof(
  { weight: 12, arbitrary: fc.constant<readonly (readonly [string, string])[]>([]) },
  names('x-api-key', key).map(each => [each]),
  names(
    'authorization',
    key.map(text => `Bearer ${text}`),
  ).map(each => [each]),
  fc.tuple(names('x-api-key', key), names('x-api-key', key)),
  oneOf('authorization', `Basic ${CANARY}`).map(each => [each]),
)

const IRIS = { model: 'iris', features: [5.1, 3.5, 1.4, 0.2] }
const V2 = { inputs: [{ name: 'measurements', shape: [1, 4], datatype: 'FP32', data: [5.1, 3.5, 1.4, 0.2] }] }

const NUMBERS = [
  '1e999',
  '-1e999',
  '9'.repeat(400),
  '0'.repeat(400),
  '-0',
  '1E400',
  '18446744073709551616',
  '0x10',
  'NaN',
]

/** JSON that a client may mean, with one value changed for anything at all. */
const almostRight = fc
  .tuple(
    fc.constantFrom<object>(IRIS, { features: IRIS.features }, { ...IRIS, version: '1' }, V2),
    fc.jsonValue(),
    fc.nat(9),
  )
  .map(([message, value, at]) => {
    let left = at
    return JSON.stringify(message, (_name, inner) => (left-- === 0 ? value : inner)) ?? 'null'
  })

const bodyText: Arbitrary<string> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.constantFrom(JSON.stringify(IRIS), JSON.stringify({ features: IRIS.features }), JSON.stringify(V2)),
  },
  { weight: 4, arbitrary: almostRight },
  { weight: 2, arbitrary: fc.json() },
  fc.constantFrom(...NUMBERS).map(number => `{"model":"iris","features":[${number},1,1,1]}`),
  fc.constantFrom('', ' ', '{', 'null', '[]', '"', '\ufeff{}', '{"model":"iris","model":"rose"}'),
  fc.constantFrom(
    '{"__proto__":{"status":500}}',
    '{"constructor":{"prototype":{"status":500}}}',
    '{"model":"__proto__","features":[1]}',
    '{"model":"iris","inputs":{"__proto__":[1,2,3,4]}}',
    '{"model":"iris","inputs":{"constructor":[1,2,3,4]}}',
    '{"\\u005f_proto__":1}',
  ),
  fc.nat(3000).map(depth => '['.repeat(depth)),
  fc.nat(3000).map(depth => `{"model":"iris","features":${'['.repeat(depth)}1${']'.repeat(depth)}}`),
  fc.nat(20_000).map(length => `{"model":"iris","features":[${Array.from({ length }, () => 1)}]}`),
  fc.nat(2000).map(length => JSON.stringify({ features: Array.from({ length }, () => IRIS.features), model: 'iris' })),
)

/** Nested lists: of one shape, ragged, and such as promise in their first lists what the others do not have. */
const nested: Arbitrary<unknown> = fc.letrec<{ any: unknown }>(tie => ({
  any: fc.oneof(
    { maxDepth: 5 },
    fc.constantFrom<unknown>(1, 0.5, 'a', 'NaN', '-Infinity', null, true, -1),
    fc.array(tie('any'), { maxLength: 6 }),
    fc
      .tuple(fc.array(fc.nat(4), { maxLength: 5 }), fc.constantFrom<unknown>(1, 'a', true))
      .map(([shape, value]) => shape.reduceRight<unknown>((inner, length) => Array(length).fill(inner), value)),
    fc
      .array(fc.constantFrom(1, 2, 30, 3000), { minLength: 1, maxLength: 4 })
      .map(shape =>
        shape.reduceRight<unknown>((inner, length) => [inner, ...Array.from({ length: length - 1 }, () => [])], 1),
      ),
  ),
})).any

const dimension = fc.oneof(fc.nat(4), fc.constantFrom(3000, 2 ** 31, 2 ** 53 - 1, 2 ** 53, -1, 0.5, null, '1'))

/** For the models of `SHAPED`, by either protocol. */
const shapedText: Arbitrary<string> = fc.oneof(
  fc.tuple(fc.constantFrom(...SHAPED), nested).map(([model, features]) => JSON.stringify({ model, features })),
  nested.map(features => JSON.stringify({ features })),
  fc.tuple(nested, nested).map(([a, b]) => JSON.stringify({ inputs: { a, b } })),
  fc
    .array(
      fc.record({
        name: fc.constantFrom('x', 'x', 'a', 'b'),
        datatype: fc.constantFrom('FP32', 'INT64', 'BYTES'),
        shape: fc.array(dimension, { maxLength: 5 }),
        data: nested,
      }),
      { maxLength: 3 },
    )
    .map(inputs => JSON.stringify({ inputs })),
)

const body: Arbitrary<Buffer> = fc.oneof(
  { weight: 8, arbitrary: bodyText.map(text => Buffer.from(text)) },
  { weight: 4, arbitrary: shapedText.map(text => Buffer.from(text)) },

  fc.uint8Array({ maxLength: 64 }).map(bytes => Buffer.from(bytes)),
  // Text cut inside of a character, and one that is none.
  fc.constantFrom(Buffer.from([0x22, 0xc3]), Buffer.from([0x22, 0xff, 0xfe, 0x22]), Buffer.from([0xed, 0xa0, 0x80])),
)

const request: Arbitrary<FuzzRequest> = fc
  .record({
    method: fc.constantFrom(...METHODS),
    target,
    version: fc.constant('HTTP/1.1'),
    host: fc.constantFrom<(readonly [string, string])[][]>(
      ...Array.from({ length: 8 }, () => [['host', 'a'] as const]),
      [],
      [['host', '']],
      [['host', 'a:b@c/d?e']],
      [
        ['host', 'a'],
        ['host', 'b'],
      ],
    ),
    type: fc.constantFrom<(readonly [string, string])[][]>(
      ...Array.from({ length: 4 }, () => [['content-type', 'application/json'] as const]),
      [],
    ),
    credentials,
    more: fc.array(header, { maxLength: 4 }),
    body,
    packed: fc.nat(11).map(odd => odd === 0),
    framing: fc.constantFrom('length', 'length', 'chunked'),
  })
  .map(({ host, type, credentials, more, packed, body, ...rest }) => ({
    ...rest,
    body: packed ? gzipSync(body) : body,
    headers: [...host, ...type, ...(packed ? [['content-encoding', 'gzip'] as const] : []), ...credentials, ...more],
  }))

const damage = fc.record({
  at: fc.nat(2000),
  gone: fc.nat(12),
  bytes: fc.oneof(
    fc.uint8Array({ maxLength: 8 }),
    fc
      .constantFrom(
        '\r\n',
        '\n',
        '\r',
        '\0',
        '\r\n\r\n',
        ' ',
        ':',
        '\r\n x: y',
        'content-length: 5\r\n',
        'x\r\nx-injected: 1',
      )
      .map(text => Buffer.from(text)),
    fc
      .constantFrom(
        'transfer-encoding: chunked\r\n',
        'upgrade: h2c\r\nconnection: upgrade\r\n',
        'GET / HTTP/1.1\r\n',
        'ffffffffff\r\n',
        '-1\r\n',
      )
      .map(text => Buffer.from(text)),
  ),
})

/** Requests on one connection: well-formed HTTP, whatever they ask for. */
export const whole: Arbitrary<FuzzConnection> = fc.record({
  requests: fc
    .tuple(fc.array(request, { minLength: 1, maxLength: 8 }), fc.nat(9))
    // HTTP/1.0 closes behind its answer.
    .map(([requests, odd]) =>
      requests.map((each, index) =>
        odd === 0 && index === requests.length - 1 ? { ...each, version: 'HTTP/1.0' } : each,
      ),
    ),
  cuts: fc.array(fc.nat(1500), { maxLength: 3 }),
  damage: fc.constant([]),
})

/** The same with some bytes changed, which may be no HTTP any more, or other requests. */
export const damaged: Arbitrary<FuzzConnection> = fc.record({
  requests: fc.array(request, { minLength: 1, maxLength: 6 }),
  cuts: fc.array(fc.nat(1500), { maxLength: 3 }),
  damage: fc.array(damage, { minLength: 1, maxLength: 3 }),
})

function bytesOf({ method, target, version, headers, body, framing }: FuzzRequest): Buffer {
  const chunked = framing === 'chunked' && version === 'HTTP/1.1'
  const fields = [...headers, chunked ? ['transfer-encoding', 'chunked'] : ['content-length', `${body.length}`]]
  const head = `${method} ${target} ${version}\r\n${fields.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`
  return Buffer.concat([Buffer.from(head, 'latin1'), chunked ? inChunks(body) : body])
}

/** In two chunks, the first with an extension, and with a trailer. */
function inChunks(body: Buffer): Buffer {
  const middle = body.length >> 1
  const chunks = [body.subarray(0, middle), body.subarray(middle)].filter(({ length }) => length > 0)
  return Buffer.concat([
    ...chunks.flatMap((chunk, index) => [
      Buffer.from(`${chunk.length.toString(16)}${index === 0 ? ';a=b' : ''}\r\n`),
      chunk,
      Buffer.from('\r\n'),
    ]),
    Buffer.from('0\r\nx-trailer: 1\r\n\r\n'),
  ])
}

/** The pieces that a connection sends; the last request closes it. */
export function piecesOf({ requests, cuts, damage }: FuzzConnection): Uint8Array[] {
  const closesItself = damage.length === 0 && requests.at(-1)?.version === 'HTTP/1.0'
  let bytes = Buffer.concat([...requests.map(bytesOf), Buffer.from(closesItself ? '' : LAST)])
  for (const { at, gone, bytes: put } of damage) {
    const from = at % bytes.length
    bytes = Buffer.concat([bytes.subarray(0, from), put, bytes.subarray(from + gone)])
  }
  const edges = [0, ...cuts.filter(cut => cut < bytes.length).sort((one, other) => one - other), bytes.length]
  return edges.slice(1).flatMap((edge, index) => {
    const from = edges[index] as number
    return edge > from ? [bytes.subarray(from, edge)] : []
  })
}
