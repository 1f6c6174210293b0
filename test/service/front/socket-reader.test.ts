/** A connection that is read in front of the parser: nothing is lost, nothing is taken for something else. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { ReadingControl } from '../../../service/src/front/reading.js'
import { SocketReader } from '../../../service/src/front/socket-reader.js'

const REFUSAL = 'HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n'
const refuse = ({ url }: { readonly url: string }) => (url.startsWith('/no') ? REFUSAL : undefined)

/** Bytes of a client come in exactly these chunks; `answers` are the statuses it gets, in their order. */
class Client {
  readonly socket: Duplex
  #received = ''

  constructor() {
    this.socket = new Duplex({
      read() {},
      write: (chunk: Buffer, _encoding, done) => {
        this.#received += chunk.toString('latin1')
        done()
      },
    })
  }

  get answers(): number[] {
    return [...this.#received.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status))
  }

  async send(chunk: string | Buffer): Promise<void> {
    this.socket.push(typeof chunk === 'string' ? Buffer.from(chunk, 'latin1') : chunk)
    for (let i = 0; i < 4; i++) await turn()
  }
}

/** A server that notes what reaches it: URL and length of the body. */
function serverOf(t: Test) {
  const reached: string[] = []
  const newest = new WeakMap<object, { request: IncomingMessage; response: ServerResponse }>()
  const server: Server = createServer((request, response) => {
    newest.set(request.socket, { request, response })
    let body = 0
    request.on('data', (chunk: Buffer) => (body += chunk.length))
    request.on('end', () => {
      reached.push(`${request.url} ${body}`)
      response.end()
    })
  })
  server.on('clientError', (_error, socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
  t.teardown(() => server.close())
  const connect = () => {
    const client = new Client()
    server.emit('connection', client.socket)
    return client
  }
  const parsed = {
    newest: (socket: Socket) => newest.get(socket)?.request,
    isBusy: (socket: Socket) => newest.get(socket)?.response.writableFinished === false,
  }
  const control = new ReadingControl(() => false)
  const read = (client: Client) => SocketReader.open(client.socket as Socket, refuse, parsed, control) as SocketReader
  let parsers = 0
  /** A connection that gets its parser when it needs one; `follows`: whether it is read in front of that. */
  const hold = (follows: boolean) => {
    const client = new Client()
    const parse = (socket: Socket) => {
      parsers++
      server.emit('connection', socket)
    }
    const reader = SocketReader.hold(client.socket as Socket, refuse, parsed, control, { parse, parsed: () => follows })
    return { client, reader }
  }
  return { connect, read, hold, reached, parsers: () => parsers }
}

const post = (url: string, body = 'abc') =>
  `POST ${url} HTTP/1.1\r\nhost: a\r\ncontent-length: ${body.length}\r\n\r\n${body}`

t.test('a request that is refused reaches nobody, and the connection goes on', async t => {
  const { connect, read, reached } = serverOf(t)
  const client = connect()
  read(client)
  await client.send(post('/no/1'))
  t.strictSame(reached, ['/no/1 3'], 'the first goes to the parser: nobody knows yet where a request begins')
  await client.send(post('/no/2'))
  await client.send(post('/yes'))
  await client.send(post('/no/3'))
  t.strictSame(reached, ['/no/1 3', '/yes 3'])
  t.strictSame(client.answers, [200, 429, 200, 429])
})

t.test('a new connection has no parser before a request that passes', async t => {
  for (const follows of [true, false]) {
    const { hold, reached, parsers } = serverOf(t)
    const { client, reader } = hold(follows)
    await client.send(post('/no/1'))
    await client.send(post('/no/2'))
    t.strictSame([client.answers, parsers(), reader.isHeld], [[429, 429], 0, true])
    const [head = '', body = ''] = post('/yes').split(/(?<=\r\n\r\n)/)
    await client.send(head)
    await client.send(body)
    t.strictSame([client.answers, parsers(), reader.isHeld], [[429, 429, 200], 1, false])
    await client.send(post('/no/3'))
    t.strictSame(reached, follows ? ['/yes 3'] : ['/yes 3', '/no/3 3'])
    t.equal(parsers(), 1)
  }
})

t.test('a client that ends a new connection has its answer, and one that fails is closed', async t => {
  const { hold } = serverOf(t)
  const { client } = hold(true)
  await client.send(post('/no'))
  client.socket.push(null)
  await client.send('')
  t.strictSame([client.answers, client.socket.writableFinished], [[429], true])
  const failing = hold(true).client
  failing.socket.destroy(new Error('reset'))
  await turn()
  t.equal(failing.socket.destroyed, true)
})

t.test('at the end a new connection is closed, after what was refused over it has come', async t => {
  const { hold } = serverOf(t)
  const idle = hold(true)
  idle.reader.end(60_000)
  await turn()
  t.equal(idle.client.socket.destroyed, true)
  const { client, reader } = hold(true)
  ;(client.socket as Socket).setTimeout = () => client.socket as Socket
  const [head = '', body = ''] = post('/no').split(/(?<=\r\n\r\n)/)
  await client.send(head)
  reader.end(60_000)
  await turn()
  t.equal(client.socket.destroyed, false)
  await client.send(body)
  t.equal(client.socket.destroyed, true)
})

t.test('the body of a refused request is skipped, in however many pieces it comes', async t => {
  const { connect, read, reached } = serverOf(t)
  const client = connect()
  read(client)
  await client.send(post('/yes/1'))
  const body = post('/smuggled')
  const [head = '', rest = ''] = post('/no', body + body).split(/(?<=\r\n\r\n)(?=POST)/s)
  await client.send(head)
  t.strictSame(client.answers, [200, 429], 'the answer does not wait for the body')
  for (const byte of rest.slice(0, 40)) await client.send(byte)
  await client.send(post('/no', body + body).slice(head.length + 40) + post('/yes/2'))
  t.strictSame(reached, ['/yes/1 3', '/yes/2 3'])
  t.strictSame(client.answers, [200, 429, 200])
})

t.test('requests that come together, or in pieces, are for the parser', async t => {
  const { connect, read, reached } = serverOf(t)
  const client = connect()
  read(client)
  await client.send(post('/yes'))
  await client.send(post('/no/1') + post('/no/2'))
  t.strictSame(client.answers, [200, 200, 200])
  t.strictSame(reached, ['/yes 3', '/no/1 3', '/no/2 3'])
  await client.send(post('/no/3'))
  t.equal(reached.length, 4, 'from then on it is left alone')
})

t.test('a request that the parser has begun is not mistaken for another', async t => {
  const { connect, read, reached } = serverOf(t)
  const client = connect()
  await client.send('POST /yes HTTP/1.1\r\nx: ')
  read(client)
  await client.send(post('/no/1'))
  await client.send(post('/no/2'))
  t.strictSame(reached, ['/yes 3', '/no/2 3'], 'its first line is a header of the one that was begun')
  await client.send(post('/no/3'))
  t.equal(reached.length, 2, 'the second was read by both alike')

  const other = connect()
  const inner = post('/no/1')
  await other.send(`POST /yes HTTP/1.1\r\nhost: a\r\ncontent-length: ${inner.length * 2}\r\n\r\n`)
  read(other)
  await other.send(inner)
  await other.send(inner)
  t.strictSame(other.answers, [200], 'both were its body')
})

/** What clients do, and what somebody does who wants to be misread. */
const piece = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(post('/no'), post('/yes'), post('/no', ''), post('/yes', post('/no'))) },
  fc.constantFrom(
    'GET /yes HTTP/1.1\r\nhost: a\r\n\r\n',
    'POST /no HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n',
    'POST /no HTTP/1.1\r\nhost: a\r\ncontent-length: 60\r\n\r\n',
    'POST /yes HTTP/1.1\r\nhost: a\r\ncontent-length: 49\r\n\r\n',
    '\r\n',
    post('/no', post('/no')),
    'x: ',
  ),
)
const isRefused = (line: string) => line.startsWith('/no')

t.test('whatever comes, in whatever chunks, the same requests reach the server but for those refused', async t => {
  let refused = 0
  await fc.assert(
    fc.asyncProperty(
      fc.array(piece, { minLength: 1, maxLength: 8 }),
      fc.array(fc.nat({ max: 400 }), { maxLength: 8 }),
      fc.nat({ max: 4 }),
      fc.boolean(),
      fc.boolean(),
      fc.boolean(),
      async (pieces, cuts, readFrom, isWhole, isHeld, isRead) => {
        const bytes = Buffer.from(pieces.join(''), 'latin1')
        const ends = isWhole
          ? pieces.map((_, index) => pieces.slice(0, index + 1).join('').length)
          : [...new Set([...cuts.filter(cut => cut < bytes.length), bytes.length])].sort((a, b) => a - b)
        const { connect, read, hold, reached } = serverOf(t)
        const plain = connect()
        const from = async (client: Client, act: (index: number) => void) => {
          let at = 0
          for (const [index, end] of ends.entries()) {
            act(index)
            if (client.socket.destroyed) break
            if (end > at) await client.send(bytes.subarray(at, end))
            at = end
          }
          return reached.splice(0)
        }
        const expected = await from(plain, () => {})
        // From the first byte, or where somebody begins to read a connection that the parser has.
        const held = isHeld ? hold(isRead) : undefined
        const watched = held?.client ?? connect()
        let reader = held?.reader
        const actual = await from(watched, index => {
          if (reader === undefined && index === readFrom) reader = read(watched)
          reader?.begin()
        })
        // What is missing are refused ones, and nothing is new.
        const missing = [...expected]
        for (const line of actual) {
          const at = missing.indexOf(line)
          t.ok(at >= 0, `${line} is one of them`)
          missing.splice(at, 1)
        }
        t.ok(missing.every(isRefused), missing.join())
        const kept = expected.filter(line => !isRefused(line))
        t.strictSame(
          actual.filter(line => !isRefused(line)),
          kept,
          'in their order',
        )
        const ofRefusals = watched.answers.filter(status => status === 429).length
        // One whose body has not come is answered at once; the server still waits for it.
        t.ok(ofRefusals >= missing.length && ofRefusals <= missing.length + 1)
        refused += missing.length
      },
    ),
    { numRuns: 1500 },
  )
  t.ok(refused > 200, `${refused} were refused in front`)
})
