import { request as httpRequest } from 'node:http'
import { connect } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import rateLimit, { type RateLimitPluginOptions } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { until } from '../support/redis-fleet.js'

/** A server whose requests stop before or in the limiter until `open` is called. */
async function held(t: Test, options: RateLimitPluginOptions, at: 'hook' | 'key', server: FastifyServerOptions = {}) {
  const app = Fastify(server) as unknown as FastifyInstance
  t.teardown(() => app.close())
  let open = () => {}
  const gate = new Promise<void>(resolve => {
    open = resolve
  })
  const state = { waiting: 0, gone: 0, limited: 0, open, app, port: 0 }
  const wait = async () => {
    state.waiting++
    await gate
  }
  if (at === 'hook') app.addHook('onRequest', wait)
  await app.register(rateLimit, {
    ...options,
    onExceeding: () => state.limited++,
    ...(at === 'key' && {
      keyGenerator: async () => {
        await wait()
        return 'lone'
      },
    }),
  })
  app.get('/', async () => 'ok')
  app.addHook('onRequestAbort', async _request => {
    state.gone++
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  state.port = (app.server.address() as AddressInfo).port
  return state
}

const places = async (app: FastifyInstance) =>
  (await app.rateLimiter.status('lone'))?.policies.find(({ name }) => name === 'concurrency')?.remaining

t.test('a client that left before it was decided about keeps no place among the requests in flight', async t => {
  const server = await held(t, { concurrency: { max: 1 } }, 'key')
  const client = httpRequest({ port: server.port, path: '/' })
  client.on('error', () => {})
  client.end()
  await until('the request is held', async () => server.waiting === 1)
  client.destroy()
  await until('the server knows that it has gone', async () => server.gone === 1)
  server.open()
  await until('it was decided about', async () => server.limited === 1)
  t.equal(await places(server.app), 1)
})

t.test('nor does one that spoke HTTP/2', async t => {
  const server = await held(t, { concurrency: { max: 1 } }, 'key', { http2: true } as FastifyServerOptions)
  const session = connect(`http://127.0.0.1:${server.port}`)
  session.on('error', () => {})
  const stream = session.request({ ':path': '/' })
  stream.on('error', () => {})
  await until('the request is held', async () => server.waiting === 1)
  session.destroy()
  await until('the server has closed the session', async () => (await connections(server.app)) === 0)
  server.open()
  await until('it was decided about', async () => server.limited === 1)
  t.equal(await places(server.app), 1)
})

t.test('an HTTP/2 request holds its place while it runs, and gives it back', async t => {
  const app = Fastify({ http2: true } as FastifyServerOptions) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(rateLimit, { concurrency: { max: 1 }, keyGenerator: () => 'lone' })
  const running: (() => void)[] = []
  app.get('/', async () => {
    await new Promise<void>(resolve => running.push(resolve))
    return 'ok'
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const session = connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  t.teardown(() => session.destroy())
  const status = () =>
    new Promise<number>(resolve => {
      const stream = session.request({ ':path': '/' })
      stream.on('response', headers => resolve(Number(headers[':status'])))
      stream.resume()
    })
  const first = status()
  await until('it runs', async () => running.length === 1)
  t.equal(await status(), 429)
  running.pop()?.()
  t.equal(await first, 200)
  await until('the place is free', async () => (await places(app)) === 1)
})

t.test('a client that has no address any more is no error', async t => {
  const lines: string[] = []
  const logger = { level: 'error', stream: { write: (line: string) => void lines.push(line) } }
  const server = await held(t, { max: 5 }, 'hook', { logger })
  const client = httpRequest({ port: server.port, path: '/' })
  client.on('error', () => {})
  client.end()
  await until('the request is held', async () => server.waiting === 1)
  client.destroy()
  await until('the server knows that it has gone', async () => server.gone === 1)
  server.open()
  await until('it was decided about', async () => server.limited === 1)
  t.strictSame(lines, [])
})

t.test(
  'clients of a Unix socket, which have no address, share one quota',
  { skip: process.platform === 'win32' },
  async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(rateLimit, { max: 2 })
    app.get('/', async () => 'ok')
    const socketPath = join(tmpdir(), `ml-api-rate-limiter-${process.pid}.sock`)
    await app.listen({ path: socketPath })
    const codes: (number | undefined)[] = []
    for (let index = 0; index < 3; index++) {
      codes.push(
        await new Promise((resolve, reject) => {
          httpRequest({ socketPath, path: '/', agent: false }, response => {
            response.resume()
            response.on('end', () => resolve(response.statusCode))
          })
            .on('error', reject)
            .end()
        }),
      )
    }
    t.strictSame(codes, [200, 200, 429])
  },
)

function connections(app: FastifyInstance): Promise<number> {
  return new Promise((resolve, reject) => {
    app.server.getConnections((error, count) => (error ? reject(error) : resolve(count)))
  })
}
