/** The front of the service: refusals before the framework, which nobody can tell from those behind it. */
import { once } from 'node:events'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import t, { type Test } from 'tap'
import { Overloaded } from '../../../service/src/inference/errors.js'
import type { Model, Models } from '../../../service/src/inference/types.js'
import { buildService, IRIS, STORES, startService } from '../../support/build.js'
import { limitsFile, sha256 } from '../../support/limits-file.js'

/** One connection, over which one request is sent after the other. */
class Connection {
  readonly socket: Socket
  #received = ''
  #changed = () => {}

  constructor(port: number) {
    this.socket = connect(port, '127.0.0.1')
    this.socket.setNoDelay(true)
    this.socket.on('error', () => {})
    this.socket.on('data', chunk => {
      this.#received += chunk.toString('latin1')
      this.#changed()
    })
    this.socket.on('close', () => this.#changed())
  }

  send(text: string): void {
    this.socket.write(text, 'latin1')
  }

  /** The next whole answer. */
  async answer(): Promise<Answer> {
    for (;;) {
      const [head = '', ...rest] = this.#received.split('\r\n\r\n')
      const length = Number(/content-length: (\d+)/i.exec(head)?.[1])
      const body = rest.join('\r\n\r\n').slice(0, length)
      if (rest.length > 0 && body.length === length) {
        this.#received = this.#received.slice(head.length + 4 + length)
        return new Answer(head, body)
      }
      if (this.socket.destroyed) throw new Error('the connection was closed')
      await new Promise<void>(resolve => (this.#changed = resolve))
    }
  }

  ask(text: string): Promise<Answer> {
    this.send(text)
    return this.answer()
  }
}

class Answer {
  readonly status: number
  readonly headers: Record<string, string>

  constructor(
    head: string,
    readonly body: string,
  ) {
    const [first = '', ...lines] = head.split('\r\n')
    this.status = Number(first.split(' ')[1])
    this.headers = Object.fromEntries(
      lines.map(line => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 2)]),
    )
  }

  /** Without what differs from one answer to the next. */
  get alike(): object {
    const { date, 'retry-after-ms': ms, ...headers } = this.headers
    return {
      status: this.status,
      headers,
      has: [typeof date, typeof ms],
      body: this.body.replace(/urn:uuid:[\w-]{36}/, 'id'),
    }
  }
}

interface Ask {
  readonly url?: string
  readonly body?: string
  readonly headers?: Readonly<Record<string, string>>
}

function post({ url = '/v1/predict', body = JSON.stringify(IRIS), headers = {} }: Ask = {}): string {
  const fields = {
    host: 'a',
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    ...headers,
  }
  const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`)
  return `POST ${url} HTTP/1.1\r\n${lines.join('')}\r\n${body}`
}

/** What has such a header goes to the framework. */
const NOT_PLAIN = { te: 'trailers' }

/** The service on a port. `seen`: URLs that reached the framework since the last look. */
async function listening(t: Test, settings: Readonly<Record<string, string | number | undefined>>, models?: Models) {
  const service = await buildService(t, settings, models)
  await service.app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = service.app.server.address() as AddressInfo
  let reached = 0
  service.app.server.on('request', () => reached++)
  const open = () => {
    const connection = new Connection(port)
    t.teardown(() => connection.socket.destroy())
    return connection
  }
  const takeReached = () => {
    const count = reached
    reached = 0
    return count
  }
  return { ...service, port, open, takeReached }
}

/** Asks until the front reads the connection. */
async function engaged(connection: Connection, request: string, until = 429): Promise<Answer> {
  let last = await connection.ask(request)
  while (last.status !== until) last = await connection.ask(request)
  await connection.ask(request)
  return connection.ask(request)
}

/**
 * What the front answers and what the framework answers to the same request. Both tell the seconds that are left: the front
 * is asked between two answers of the framework that tell the same.
 */
async function sideBySide(connection: Connection, open: () => Connection, ask: Ask) {
  const behind = () => open().ask(post({ ...ask, headers: { ...ask.headers, ...NOT_PLAIN } }))
  for (;;) {
    const [before, inFront, after] = [await behind(), await connection.ask(post(ask)), await behind()]
    if (isDeepStrictEqual(before.alike, after.alike)) return { inFront: inFront.alike, behind: before.alike }
  }
}

for (const { name, settings } of STORES) {
  t.test(`a caller over its quota is refused in front of the framework, with the same answer, ${name}`, async t => {
    const { open, takeReached, ask } = await listening(t, { ...settings(), RATE_LIMIT_MAX: 2, RATE_LIMIT_WINDOW: '1h' })
    for (const url of ['/v1/predict', '/v1/models/iris/predict', '/v2/models/iris/infer']) {
      const connection = open()
      const request = post({ url })
      await engaged(connection, request)
      takeReached()
      const began = performance.now()
      for (let i = 0; i < 20; i++) t.equal((await connection.ask(request)).status, 429)
      // A denial by Redis is remembered for a second, and then asked for again.
      const seconds = name === 'in Redis' ? Math.ceil((performance.now() - began) / 1000) : 0
      t.ok(takeReached() <= 1 + seconds, 'no more than a sample reaches it')
      await open().ask(post({ url, headers: NOT_PLAIN }))
      t.equal(takeReached(), 1)
      const { inFront, behind } = await sideBySide(connection, open, { url })
      t.strictSame(inFront, behind)
    }
    const { payload } = await ask('/v1/limits')
    t.match(JSON.parse(payload), { policies: [{ remaining: 0 }] }, 'and was charged nothing')
  })
}

t.test('of two callers over one connection only the one over its quota is refused', async t => {
  const limits = limitsFile(t, {
    anonymous: null,
    plans: {
      small: { policies: [{ name: 'requests', limit: 1, window: '1h' }] },
      large: { policies: [{ name: 'requests', limit: 1000, window: '1h' }] },
    },
    keys: [
      { sha256: sha256('greedy'), plan: 'small' },
      { sha256: sha256('polite'), plan: 'large' },
    ],
  })
  const { open, takeReached } = await listening(t, { LIMITS_FILE: limits.path })
  const connection = open()
  const of = (key: string) => post({ headers: { 'x-api-key': key } })
  await engaged(connection, of('greedy'))
  takeReached()
  for (let i = 0; i < 10; i++) {
    t.equal((await connection.ask(of('greedy'))).status, 429)
    t.equal((await connection.ask(of('polite'))).status, 200)
  }
  const reached = takeReached()
  t.ok(reached >= 10 && reached <= 11, `${reached} of 20`)
  t.equal((await connection.ask(of('unknown'))).status, 401)
  t.equal((await connection.ask(post())).status, 401)
  t.equal((await connection.ask(of('greedy'))).status, 429)
})

t.test('behind a proxy that is trusted, callers are those that it names', async t => {
  const { open, takeReached } = await listening(t, {
    RATE_LIMIT_MAX: 1,
    RATE_LIMIT_WINDOW: '1h',
    TRUST_PROXY: '127.0.0.1',
  })
  const connection = open()
  const from = (address: string) => post({ headers: { 'x-forwarded-for': address } })
  await engaged(connection, from('10.0.0.1'))
  for (const address of ['10.0.0.1', '10.9.9.9, 10.0.0.1', '10.0.0.1, 127.0.0.1', ' 10.0.0.1:80'.trim()]) {
    takeReached()
    t.equal((await connection.ask(from(address))).status, 429, address)
    t.equal(takeReached(), 0, address)
  }
  t.equal((await connection.ask(from('10.0.0.2'))).status, 200, 'another one')
})

t.test('what browsers may read of an answer does not depend on where it is made', async t => {
  for (const CORS_ORIGINS of ['*', 'https://a.example,https://b.example']) {
    const { open } = await listening(t, { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '1h', CORS_ORIGINS })
    const connection = open()
    await engaged(connection, post())
    for (const origin of [undefined, 'https://a.example', 'https://x.example']) {
      const headers = origin === undefined ? {} : { origin }
      const { inFront, behind } = await sideBySide(connection, open, { headers })
      t.strictSame(inFront, behind, `${CORS_ORIGINS}, ${origin}`)
    }
  }
})

t.test('a reset counts at once', async t => {
  const { open, limits } = await listening(t, { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '1h' })
  const connection = open()
  await engaged(connection, post())
  await limits.reset({ key: 'ip:127.0.0.1', ownerKey: 'ip:127.0.0.1' })
  t.equal((await connection.ask(post())).status, 200)
})

t.test(
  'bodies of refused requests are read and thrown away, whatever their size, and the connection goes on',
  async t => {
    const { open, limits } = await listening(t, { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '1h', BODY_LIMIT: 2048 })
    const connection = open()
    await engaged(connection, post())
    for (const bytes of [0, 1, 4000, 100_000]) {
      t.equal((await connection.ask(post({ body: 'x'.repeat(bytes) }))).status, 429, `${bytes} bytes`)
    }
    await limits.reset({ key: 'ip:127.0.0.1', ownerKey: 'ip:127.0.0.1' })
    t.equal((await connection.ask(post())).status, 200)
  },
)

t.test('a body that does not come ends the connection', async t => {
  const { open } = await listening(t, { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '1h', UPLOAD_TIMEOUT_MS: 300 })
  const connection = open()
  await engaged(connection, post())
  connection.send(post({ headers: { 'content-length': '5000' } }))
  t.equal((await connection.answer()).status, 429)
  await once(connection.socket, 'close')
})

t.test('a client that reads no answers is read no further', async t => {
  const { open, app, port } = await listening(t, { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '1h' })
  void open
  const sockets = new Set<Socket>()
  app.server.on('connection', socket => sockets.add(socket))
  const connection = new Connection(port)
  t.teardown(() => connection.socket.destroy())
  await engaged(connection, post())
  connection.socket.pause()
  const [served] = sockets as unknown as [Socket]
  for (let sent = 0; sent < 20_000 && !connection.socket.writableNeedDrain; sent++) {
    connection.send(post())
    if (sent % 50 === 0) await delay(1)
  }
  const held = served.writableLength
  t.ok(held < 1_000_000, `${held} bytes of answers are kept`)
})

/** A model that has no room while `full` says so. */
function crowded(): { readonly models: Models; full: boolean } {
  const room = { full: true }
  const model: Model = {
    info: { name: 'iris', version: '1', inputs: [], outputs: [], sample: {}, batching: { enabled: true, maxRows: 1 } },
    run: async () => {
      throw new Overloaded('limit', '7 rows wait already, and no more are taken at present', 1500)
    },
    refusalOf: () =>
      room.full ? new Overloaded('limit', '7 rows wait already, and no more are taken at present', 1500) : undefined,
  }
  const models: Models = {
    list: () => [model],
    versions: () => [model],
    get: () => model,
    broken: [],
    queueRows: 0,
    ready: true,
    reload: async () => ({ loaded: [], unchanged: [], removed: [], broken: [] }),
    close: async () => {},
  }
  return Object.assign(room, { models })
}

for (const status of [429, 503]) {
  t.test(`a request for which there is no room is refused there as well, with ${status}`, async t => {
    const room = crowded()
    const { open, takeReached } = await listening(t, { RATE_LIMIT_MAX: 1000, OVERLOAD_STATUS: status }, room.models)
    const connection = open()
    await engaged(connection, post(), status)
    takeReached()
    const answer = await connection.ask(post())
    t.equal(takeReached(), 0)
    const behind = await open().ask(post({ headers: NOT_PLAIN }))
    t.equal(takeReached(), 1)
    t.strictSame(answer.alike, behind.alike)
    t.match(JSON.parse(answer.body), { code: 'INFERENCE_OVERLOADED', status, retryAfter: 2 })
    room.full = false
    t.equal((await connection.ask(post())).status, 400, 'once there is, it goes on to its route')
  })
}

t.test('once there is no room, connections that were idle need one refusal behind the front, not two', async t => {
  const room = crowded()
  room.full = false
  const { open, takeReached } = await listening(t, { RATE_LIMIT_MAX: 1000 }, room.models)
  const idle = Array.from({ length: 120 }, () => open())
  const ask = () => Promise.all(idle.map(connection => connection.ask(post())))
  await ask()
  room.full = true
  await open().ask(post())
  // The idle ones are taken up in the turns that follow.
  await delay(200)
  await ask()
  takeReached()
  for (const { status } of await ask()) t.equal(status, 429)
  t.ok(takeReached() <= 2, 'all of them are read in front')
})

t.test('refusals in front are counted as the others are', async t => {
  const { open, ask } = await listening(t, { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '1h' })
  const connection = open()
  for (let i = 0; i < 300; i++) await connection.ask(post())
  const { payload } = await ask('/metrics')
  const countOf = (series: string) =>
    Number(
      payload
        .split('\n')
        .find(line => line.startsWith(series))
        ?.slice(series.length + 1),
    )
  const labels = 'route="/v1/predict",method="POST",status="4xx"'
  t.equal(countOf(`http_requests_total{${labels}}`), 299)
  t.equal(countOf(`http_request_duration_seconds_count{${labels}}`), 299)
  t.equal(countOf('rate_limit_decisions_total{plan="anonymous",policy="requests",outcome="denied"}'), 299)
  t.ok(countOf('front_refusals_total') > 250, 'most of them in front')
})

t.test('a sample of refusals goes through the framework, for logs and traces', async t => {
  const { open, takeReached } = await listening(t, { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '1h' })
  const connection = open()
  await engaged(connection, post())
  takeReached()
  for (let i = 0; i < 1000; i++) await connection.ask(post())
  const reached = takeReached()
  t.ok(reached > 0 && reached <= 50, `${reached} of 1000`)
})

t.test('where every request is logged, every request goes through the framework', async t => {
  const { url, output } = await startService(t, { RATE_LIMIT_MAX: 1, LOG_LEVEL: 'debug' })
  const connection = new Connection(Number(new URL(url).port))
  t.teardown(() => connection.socket.destroy())
  for (let i = 0; i < 20; i++) await connection.ask(post())
  const logged = () => output().match(/"msg":"request completed"/g)?.length
  while (logged() !== 20) await delay(10)
})

t.test('the first request of a new connection is refused in front as well', async t => {
  const room = crowded()
  const { open, takeReached } = await listening(t, { RATE_LIMIT_MAX: 1000 }, room.models)
  for (let i = 0; i < 20; i++) t.equal((await open().ask(post())).status, 429)
  t.equal(takeReached(), 0)
  room.full = false
  const served = open()
  t.equal((await served.ask(post())).status, 400, 'a request that may be served goes on to its route')
  t.equal((await served.ask(post())).status, 400)
})

t.test('a new connection that sends nothing gets 408 after the time that headers may take', async t => {
  const { open } = await listening(t, { UPLOAD_TIMEOUT_MS: 300 })
  const answer = await open().answer()
  t.equal(answer.status, 408)
  t.match(JSON.parse(answer.body), { code: 'REQUEST_TIMEOUT' })
})

t.test('a connection over which all was refused is closed after the time of an idle one', async t => {
  const { open, app } = await listening(t, {}, crowded().models)
  const idle = open()
  t.equal((await idle.ask(post())).status, 429)
  app.server.keepAliveTimeout = 300
  await once(idle.socket, 'close')
})

t.test('a stop answers the first request of a connection that was open before', async t => {
  const { open, app } = await listening(t, {})
  const silent = open()
  await once(app.server, 'connection')
  const closed = app.close()
  const answer = await silent.ask(post())
  t.equal(answer.status, 200)
  await closed
})

t.test('a connection that opens while requests are refused may stay idle as any other', async t => {
  const { open, app } = await listening(t, { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '1h' })
  await engaged(open(), post())
  const connection = open()
  for (let i = 0; i < 3; i++) t.equal((await connection.ask(post())).status, 429)
  // Longer than headers may take, and than it takes the server to look.
  await delay(app.server.headersTimeout + 1500)
  t.equal((await connection.ask(post())).status, 429)
})

t.test('a stop closes connections that the front reads', async t => {
  const { open, app, announceStop } = await listening(t, { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '1h' })
  const connection = open()
  await engaged(connection, post())
  announceStop()
  const answer = await connection.ask(post())
  t.equal(answer.headers.connection, 'close', 'from then on the framework answers')
  const idle = open()
  await idle.ask(post())
  const closed = Promise.all([connection, idle].map(({ socket }) => socket.destroyed || once(socket, 'close')))
  await app.close()
  await closed
})
