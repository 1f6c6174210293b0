/** A host with several addresses: whatever holds for connections to one holds for those to the others. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { addressesOf, urlOf } from '../../../service/src/http/listeners.js'
import { buildService, IRIS } from '../../support/build.js'

/** Two addresses that every Linux has, and that of IPv6 where there is one. */
const ADDRESSES = ['127.0.0.1', '127.0.0.2', '::1']

const body = JSON.stringify(IRIS)
const head = `POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`

async function listening(t: Test, settings: Readonly<Record<string, string | number>> = {}) {
  const service = await buildService(t, settings)
  const said: string[] = []
  const url = await service.listen(ADDRESSES, 0, each => {
    said.push(each)
    return each
  })
  return { ...service, said, port: Number(new URL(url).port) }
}

/** A connection, what has come over it so far, and all that came once it has ended. */
async function open(t: Test, port: number, host: string, sent = '') {
  const socket = connect(port, host)
  t.teardown(() => socket.destroy())
  socket.on('error', () => {})
  let text = ''
  socket.on('data', data => (text += data))
  const ended = new Promise<string>(resolve => socket.on('close', () => resolve(text)))
  await once(socket, 'connect')
  socket.write(sent)
  const until = async (pattern: RegExp) => {
    while (!pattern.test(text)) {
      if (socket.destroyed) throw new Error(`closed after ${text}`)
      await delay(2)
    }
  }
  return { socket, ended, until }
}

const portOf = (url: string): number => Number(new URL(url).port)

t.test('localhost is each of its addresses, and any other host is left to the system', async t => {
  const addresses = await addressesOf('localhost')
  t.equal(addresses[0], '127.0.0.1')
  t.equal(new Set(addresses).size, addresses.length)
  t.strictSame(await addressesOf('::'), ['::'])
  t.strictSame(await addressesOf('service.example'), ['service.example'])
  t.equal(urlOf('::1', 3000), 'http://[::1]:3000')
})

t.test('the service and its second listener answer on all addresses, and the log names each', async t => {
  const { said, port, ops, app } = await listening(t)
  t.ok(said.length >= 2)
  t.strictSame(
    said.map(portOf),
    said.map(() => port),
  )
  const own = portOf(await ops.listen(ADDRESSES, 0))
  for (const url of said) {
    t.equal((await fetch(`${url}/health/live`)).status, 200, url)
    const watched = new URL(url)
    watched.port = `${own}`
    t.equal((await fetch(new URL('/health/live', watched))).status, 200, `${watched}`)
  }
  await app.close()
  for (const url of said) await t.rejects(fetch(`${url}/health/live`), url)
})

t.test('refusals are made in front of the framework on each of them', async t => {
  const { app, port } = await listening(t, { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '1h' })
  for (const host of ['127.0.0.1', '127.0.0.2']) {
    const first = await open(t, port, host, (head + body).repeat(2))
    await first.until(/ 429 /)
    let reached = 0
    app.server.on('request', () => reached++)
    const other = await open(t, port, host, head + body)
    await other.until(/ 429 .*ML_RATE_QUOTA_EXCEEDED/s)
    t.equal(reached, 0, `the framework sees no request over ${host}`)
  }
})

t.test('MAX_CONNECTIONS counts the connections to all of them', async t => {
  const { port } = await listening(t, { MAX_CONNECTIONS: 2 })
  const [first] = [await open(t, port, '127.0.0.1'), await open(t, port, '127.0.0.2')]
  const third = await open(t, port, '127.0.0.2')
  t.equal(await third.ended, '')
  first?.socket.write('GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n')
  await first?.until(/^HTTP\/1\.1 200/)
})

t.test('a stop answers what was taken over any of them, and gives up what does not arrive', async t => {
  const { app, port, announceStop } = await listening(t, { UPLOAD_TIMEOUT_MS: 1500 })
  const taken = await open(t, port, '127.0.0.2', head + body.slice(0, 9))
  const stuck = await open(t, port, '127.0.0.2', head + body.slice(0, 9))
  // Both have been read once a later request is answered.
  t.equal((await fetch(`http://127.0.0.2:${port}/health/live`, { headers: { connection: 'close' } })).status, 200)
  announceStop()
  const closed = app.close()
  taken.socket.write(body.slice(9))
  t.match(await taken.ended, /^HTTP\/1\.1 200 /)
  t.match(await stuck.ended, /^HTTP\/1\.1 408 .*"code":"REQUEST_TIMEOUT"/s)
  await closed
})
