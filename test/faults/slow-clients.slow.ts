import { connect } from 'node:net'
import t from 'tap'
import { buildService, IRIS } from '../support/build.js'

t.setTimeout(240_000)

t.test('clients that never finish their headers or their body are sent away, and others are served', async t => {
  const { app, predict } = await buildService(t, { RATE_LIMIT_MAX: 1000, UPLOAD_TIMEOUT_MS: 2500 })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as { port: number }
  /** A byte now and then; resolves with what the server said once it has closed. */
  const drip = (head: string) =>
    new Promise<string>(resolve => {
      const socket = connect(port, '127.0.0.1')
      let said = ''
      socket.on('error', () => {})
      socket.on('data', data => (said += data))
      socket.write(head)
      const timer = setInterval(() => socket.write('a'), 300)
      socket.on('close', () => {
        clearInterval(timer)
        resolve(said)
      })
    })
  const open = 'POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n'
  const slow = [
    ...Array.from({ length: 30 }, () => drip(`${open}x-slow: `)),
    ...Array.from({ length: 30 }, () => drip(`${open}content-length: 1000\r\n\r\n{`)),
  ]
  t.equal((await predict(IRIS)).statusCode, 200)
  // Whoever writes just when the server closes may lose what it said.
  const answers = (await Promise.all(slow)).filter(answer => answer !== '')
  t.ok(answers.length > 0)
  for (const answer of new Set(answers.map(answer => answer.split('\r\n', 1)[0]))) t.match(answer, 'HTTP/1.1 408 ')
  t.ok(answers.every(answer => answer.includes('"code":"REQUEST_TIMEOUT"')))
  t.equal((await predict(IRIS)).statusCode, 200)
})
