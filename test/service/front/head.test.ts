/** Agreement with Node's parser: whoever reads a connection first must see the same requests as the one behind. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { Duplex } from 'node:stream'
import fc from 'fast-check'
import t from 'tap'
import { readHead } from '../../../service/src/front/head.js'

const bytesOf = (text: string) => Buffer.from(text, 'latin1')

interface Seen {
  readonly method: string
  readonly url: string
  readonly headers: IncomingMessage['headers']
  readonly fields: number
  readonly body: number
}

/** What Node's parser makes of a connection. */
async function parsedBy(bytes: Buffer): Promise<Seen[]> {
  const seen: Seen[] = []
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    let body = 0
    request.on('data', (chunk: Buffer) => (body += chunk.length))
    request.on('end', () => {
      const { method = '', url = '', headers, rawHeaders } = request
      seen.push({ method, url, headers, fields: rawHeaders.length / 2, body })
      response.end()
    })
  })
  server.on('clientError', (_error, socket) => socket.destroy())
  const closed = new Promise<void>(resolve => {
    const socket = new Duplex({
      read() {},
      write(_chunk, _encoding, done) {
        done()
      },
      destroy(error, done) {
        resolve()
        done(error)
      },
    })
    server.emit('connection', socket)
    socket.push(bytes)
    socket.push(null)
    socket.on('end', () => setImmediate(() => setImmediate(() => socket.destroy())))
  })
  await closed
  return seen
}

const MARKER = 'GET /marker HTTP/1.1\r\nhost: marker\r\n\r\n'

const NAMES = [
  ...['host', 'Host', 'content-length', 'Content-Length', 'CONTENT-LENGTH', 'transfer-encoding', 'connection'],
  ...['x-api-key', 'authorization', 'x-forwarded-for', 'x-request-timeout-ms', 'origin', 'expect', 'upgrade'],
  ...['accept', 'content-type', 'te', 'trailer', 'proxy-connection', 'cookie', 'content_length', 'x-a'],
]
const VALUES = ['localhost', '0', '1', '5', '05', '+5', '5 ', '5,5', '0x5', '1e1', '', ' ', 'keep-alive', 'close']
const MORE_VALUES = ['chunked', 'identity', '100-continue', 'h2c', 'a b', 'a\tb', 'é', '\x00', '99999999999999999999']

const name = fc.oneof({ weight: 8, arbitrary: fc.constantFrom(...NAMES) }, { weight: 1, arbitrary: fc.string() })
const value = fc.oneof(fc.constantFrom(...VALUES), fc.constantFrom(...MORE_VALUES), fc.string())
const colon = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(': ', ':', ':  ') },
  fc.constantFrom(' : ', ':\t', ' ', ''),
)
const end = fc.oneof({ weight: 12, arbitrary: fc.constant('\r\n') }, fc.constantFrom('\n', '\r', '\r\r\n', '\r\n ', ''))
const line = fc.tuple(name, colon, value, end).map(parts => parts.join(''))
const method = fc.oneof({ weight: 6, arbitrary: fc.constant('POST') }, fc.constantFrom('GET', 'HEAD', 'PUT', 'post'))
const url = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom('/v1/predict', '/', '/v1/models/a/predict', '/v2/models/a-b.c/infer') },
  fc.constantFrom('//', '/a?b=c', '/%2e', '*', 'http://a/b', '/a b', '/a#b', '/é'),
)
const version = fc.oneof(
  { weight: 10, arbitrary: fc.constant(' HTTP/1.1\r\n') },
  fc.constantFrom(' HTTP/1.0\r\n', ' HTTP/1.1\n', '  HTTP/1.1\r\n', ' HTTP/2.0\r\n', ' http/1.1\r\n', '\r\n'),
)
/** Mostly what clients send, with something odd in it. */
const request = fc
  .tuple(method, url, version, fc.array(line, { maxLength: 4 }), fc.nat({ max: 6 }), fc.boolean())
  .map(([method, url, version, lines, length, isSound]) => {
    const sound = isSound ? `host: a\r\n${method === 'POST' ? `content-length: ${length}\r\n` : ''}` : ''
    return `${method} ${url}${version}${sound}${lines.join('')}\r\n`
  })

t.test('what is read here, the parser of Node reads alike, up to the last byte', async t => {
  let taken = 0
  await fc.assert(
    fc.asyncProperty(request, async text => {
      const bytes = bytesOf(text)
      const head = readHead(bytes)
      if (head === undefined) return
      taken++
      // The rest of the text may be part of the body, and so may what is put behind it.
      const end = head.headBytes + head.bodyBytes
      if (end > 100_000) return
      const padded = Buffer.concat([bytes.subarray(0, head.headBytes), Buffer.alloc(head.bodyBytes, 'x')])
      const seen = await parsedBy(Buffer.concat([padded, bytesOf(MARKER)]))
      const [first, second] = seen
      const { headers } = first ?? {}
      t.match(first, { method: head.method, url: head.url, fields: head.fields, body: head.bodyBytes }, text)
      t.equal(second?.url, '/marker', text)
      t.equal(headers?.['x-api-key'], head.apiKey)
      t.equal(headers?.authorization, head.authorization)
      t.equal(headers?.['x-forwarded-for'], head.forwardedFor)
      t.equal(headers?.['x-request-timeout-ms'], head.timeout)
      t.equal(headers?.origin, head.origin)
    }),
    { numRuns: 4000 },
  )
  t.ok(taken > 200, `${taken} were plain`)
})

const PLAIN = 'POST /v1/predict HTTP/1.1\r\nHost: a\r\nX-Api-Key: secret\r\nContent-Length: 3\r\n'

t.test('a plain head is read, in whatever case its names are', async t => {
  t.strictSame(readHead(bytesOf(`${PLAIN}\r\nabcGET`)), {
    method: 'POST',
    url: '/v1/predict',
    headBytes: PLAIN.length + 2,
    bodyBytes: 3,
    fields: 3,
    apiKey: 'secret',
    authorization: undefined,
    forwardedFor: undefined,
    timeout: undefined,
    origin: undefined,
  })
  t.match(readHead(bytesOf('GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: Keep-Alive\r\n\r\n')), { bodyBytes: 0 })
})

t.test('what could be framed in another way, or is not there as a whole, is left to the parser', async t => {
  const odd = {
    'a second content-length': 'content-length: 3\r\n',
    'a transfer-encoding': 'Transfer-Encoding: chunked\r\n',
    'an expectation': 'expect: 100-continue\r\n',
    'an upgrade': 'upgrade: h2c\r\n',
    'a connection that is to close': 'connection: close\r\n',
    'a second host': 'host: b\r\n',
    'a second key': 'x-api-key: b\r\n',
    'an empty key': 'authorization:\r\n',
    'a folded line': 'x: a\r\n b\r\n',
    'a bare line feed': 'x: a\nb: c\r\n',
    'a space in front of the colon': 'x : a\r\n',
    'bytes beyond ASCII': 'x: é\r\n',
    'a NUL': 'x: \0\r\n',
  }
  t.ok(readHead(bytesOf(`${PLAIN}x: a\r\n\r\nabc`)))
  for (const [kind, more] of Object.entries(odd)) t.equal(readHead(bytesOf(`${PLAIN}${more}\r\nabc`)), undefined, kind)
  for (let length = 0; length < PLAIN.length + 2; length++)
    t.equal(readHead(bytesOf(`${PLAIN}\r\n`.slice(0, length))), undefined, `${length} bytes of it`)
  const without = (name: string) => `${PLAIN}\r\nabc`.replace(new RegExp(`${name}: .*\r\n`), '')
  t.equal(readHead(bytesOf(without('Host'))), undefined, 'no host')
  t.equal(readHead(bytesOf(without('Content-Length'))), undefined, 'no length')
  t.equal(readHead(bytesOf(`${PLAIN}${'x: a\r\n'.repeat(100)}\r\nabc`)), undefined, 'very many fields')
  t.equal(readHead(bytesOf(`${PLAIN}x: ${'a'.repeat(5000)}\r\n\r\nabc`)), undefined, 'a very long field')
})
