/** The second listener, and the cap of connections. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { readConfig } from '../../service/src/config.js'
import { buildService, startService } from '../support/build.js'

t.test('health, metrics and admin have a listener of their own, and are answered on the main one too', async t => {
  const { ops, app } = await buildService(t, { ADMIN_TOKEN: 'secret' })
  const own = await ops.listen(['127.0.0.1'], 0)
  const main = await app.listen({ host: '127.0.0.1', port: 0 })
  const admin = { method: 'POST', headers: { authorization: 'Bearer secret' } }
  const asked: Record<string, RequestInit> = {
    '/health/live': {},
    '/health/ready': {},
    '/v2/health/live': {},
    '/metrics': {},
    '/v1/admin/reload': admin,
  }
  for (const url of [own, main]) {
    for (const [path, init] of Object.entries(asked)) {
      const answer = await fetch(url + path, init)
      t.equal(answer.status, 200, `${url}${path}`)
      await answer.arrayBuffer()
    }
  }
  for (const path of ['/v1/predict', '/v2/models/iris/infer', '/', '/docs', '/healthy', '/metricsx']) {
    const answer = await fetch(own + path, { method: 'POST' })
    t.equal(answer.status, 404, path)
    t.match(await answer.json(), { status: 404, code: 'NOT_FOUND', instance: /^urn:uuid:/ })
  }
  const wrong = await fetch(`${own}/v1/admin/reload`, { method: 'POST' })
  t.equal(wrong.status, 401)
  await app.close()
  await t.rejects(fetch(`${own}/health/live`), 'it ends with the app')
})

t.test('what is no request is answered on it as on the main one', async t => {
  const { ops } = await buildService(t)
  const { port } = new URL(await ops.listen(['127.0.0.1'], 0))
  const socket = connect(Number(port), '127.0.0.1')
  let text = ''
  socket.on('data', chunk => (text += chunk))
  socket.write('nonsense\r\n\r\n')
  await once(socket, 'end')
  t.match(text, /^HTTP\/1\.1 400 .*"code":"MALFORMED_REQUEST"/s)
  socket.destroy()
})

t.test('a process with OPS_PORT says that it stops on both', async t => {
  const { child, output, ended } = await startService(t, { OPS_PORT: 0, STOP_DELAY_MS: 3000 })
  const [, own] = /health, metrics and admin on (http:[^"]+)/.exec(output()) ?? []
  t.equal((await fetch(`${own}/health/ready`)).status, 200)
  child.kill('SIGTERM')
  while ((await fetch(`${own}/health/ready`)).status !== 503);
  t.match(await ended, { code: 0 })
})

t.test('OPS_PORT cannot be PORT', async t => {
  t.throws(() => readConfig({ PORT: '4000', OPS_PORT: '4000' }), /OPS_PORT is '4000'; it takes .*not the one of PORT/)
  t.throws(() => readConfig({ OPS_PORT: '3000' }), /OPS_PORT/)
  t.throws(() => readConfig({ OPS_PORT: '70000' }), /OPS_PORT is '70000'/)
  t.match(readConfig({ PORT: '0', OPS_PORT: '0' }), { opsPort: 0 })
  t.throws(() => readConfig({ MAX_CONNECTIONS: '0' }), /MAX_CONNECTIONS is '0'; it takes an integer, 1 or more/)
})

t.test('connections beyond MAX_CONNECTIONS are closed as they come, and those of OPS_PORT are not counted', async t => {
  const { ops, app } = await buildService(t, { MAX_CONNECTIONS: 2 })
  const own = await ops.listen(['127.0.0.1'], 0)
  const { port } = new URL(await app.listen({ host: '127.0.0.1', port: 0 }))
  const opened: Socket[] = []
  for (let i = 0; i < 3; i++) {
    const socket = connect(Number(port), '127.0.0.1')
    socket.on('error', () => {})
    opened.push(socket)
    t.teardown(() => socket.destroy())
    await once(socket, 'connect')
  }
  const [first, , third] = opened as [Socket, Socket, Socket]
  third.resume()
  if (!third.destroyed) await once(third, 'close')
  first.write('GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n')
  const [answer] = await once(first, 'data')
  t.match(`${answer}`, /^HTTP\/1\.1 200/)
  t.equal((await fetch(`${own}/health/live`)).status, 200)
})
