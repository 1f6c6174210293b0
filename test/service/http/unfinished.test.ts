/** Stops, while clients have not finished what they send. */
import { once } from 'node:events'
import { connect } from 'node:net'
import t, { type Test } from 'tap'
import { buildService, IRIS } from '../../support/build.js'

const body = JSON.stringify(IRIS)
const head = `POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n`
const BEGUN = { nothing: '', 'half of the headers': head, 'half of the body': `${head}\r\n${body.slice(0, 10)}` }

/** A client that has sent this, and what the server says until it closes. */
async function client(t: Test, port: number, sent: string) {
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.on('error', () => {})
  const answer = new Promise<string>(resolve => {
    let said = ''
    socket.on('data', data => (said += data))
    socket.on('close', () => resolve(said))
  })
  await once(socket, 'connect')
  socket.write(sent)
  return { socket, answer }
}

t.test('clients that never finish a request hold up no stop, and get 408', async t => {
  const { app, ops } = await buildService(t, { UPLOAD_TIMEOUT_MS: 300 })
  const urls = [await app.listen({ host: '127.0.0.1', port: 0 }), await ops.listen(['127.0.0.1'], 0)]
  const clients: (readonly [string, Promise<string>])[] = []
  for (const url of urls) {
    for (const [what, sent] of Object.entries(BEGUN)) {
      const { answer } = await client(t, Number(new URL(url).port), sent)
      clients.push([`${what} over ${url}`, answer])
    }
  }
  // They are accepted in the order in which they came.
  for (const url of urls) await fetch(`${url}/health/live`, { headers: { connection: 'close' } })
  await app.close()
  for (const [what, answer] of clients) t.match(await answer, /HTTP\/1\.1 408 .*"code":"REQUEST_TIMEOUT"/s, what)
})

for (const [what, sent] of Object.entries(BEGUN)) {
  t.test(`a stop waits for a request of which ${what} has arrived`, async t => {
    const { app, announceStop } = await buildService(t)
    await app.listen({ host: '127.0.0.1', port: 0 })
    const opened = once(app.server, 'connection')
    const { socket, answer } = await client(t, (app.server.address() as { port: number }).port, sent)
    await opened
    announceStop()
    const closed = app.close()
    socket.write(`${head}\r\n${body}`.slice(sent.length))
    t.match(await answer, /^HTTP\/1\.1 200 /)
    await closed
  })
}
