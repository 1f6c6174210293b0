import { request as httpRequest } from 'node:http'
import { connect } from 'node:http2'
import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import rateLimit, { type RateLimitPluginOptions, type RefundOn } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { limited, STORES } from '../support/plugin.js'
import { startRedis, until } from '../support/redis-fleet.js'

const LIMIT = { max: 10, timeWindow: '1 minute', keyGenerator: () => 'lone' }

/** Routes that answer with the status in their URL. */
function byStatus(app: FastifyInstance): void {
  app.get('/:code', async (request, reply) =>
    reply.code(Number((request.params as { code: string }).code)).send('done'),
  )
}

const used = async (app: FastifyInstance) => {
  const policy = (await app.rateLimiter.status('lone'))?.policies[0]
  return (policy?.limit ?? 0) - (policy?.remaining ?? 0)
}

/** Waits until so much is used: what is given back is given back after the response. */
async function settles(t: Test, app: FastifyInstance, cost: number, message = ''): Promise<void> {
  await until(`${cost} are used: ${message}`, async () => (await used(app)) === cost)
  t.pass(message)
}

for (const { name, options } of STORES) {
  t.test(`${name}: requests count by their outcome where refundOn says so`, async t => {
    const refundOn: RefundOn = (_request, reply) => reply.statusCode < 400
    const app = await limited(t, { ...options(t), ...LIMIT, refundOn }, byStatus)
    for (const [index, code] of [401, 401, 500].entries()) {
      await app.inject(`/${code}`)
      t.equal(await used(app), index + 1)
    }
    for (const code of [200, 204, 302]) {
      await app.inject(`/${code}`)
      await settles(t, app, 3, `${code} is given back`)
    }
  })

  t.test(`${name}: with several policies and costs, all that was charged at the door is given back`, async t => {
    const policies = [
      { name: 'requests', max: 10, timeWindow: '1 minute' },
      { name: 'rows', max: 100, timeWindow: '1 hour', cost: 7 },
    ]
    const app = await limited(
      t,
      { ...options(t), policies, keyGenerator: () => 'lone', refundOn: (_request, reply) => reply.statusCode === 503 },
      byStatus,
    )
    const left = async () => (await app.rateLimiter.status('lone'))?.policies.map(({ remaining }) => remaining)
    await app.inject('/200')
    t.strictSame(await left(), [9, 93])
    await app.inject('/503')
    await until('it is given back', async () => `${await left()}` === '9,93')
    await app.inject('/200')
    t.strictSame(await left(), [8, 86])
  })
}

t.test('refundOn may be async, or give any thenable', async t => {
  // biome-ignore lint/suspicious/noThenProperty: that is what it is about
  const thenable = { then: (done: (answer: boolean) => void) => done(true) }
  for (const refundOn of [async () => true, () => thenable as PromiseLike<boolean>]) {
    const app = await limited(t, { ...LIMIT, refundOn }, byStatus)
    await app.inject('/200')
    await settles(t, app, 0)
  }
})

t.test('where refundOn throws or rejects the request counts, and the log says so', async t => {
  for (const refundOn of [
    () => {
      throw new Error('no idea')
    },
    async () => {
      throw new Error('no idea')
    },
  ]) {
    const lines: string[] = []
    const logger = { level: 'error', stream: { write: (line: string) => void lines.push(line) } }
    const app = await limited(t, { ...LIMIT, refundOn }, byStatus, { logger })
    t.equal((await app.inject('/200')).statusCode, 200)
    await until('it is logged', async () => lines.length === 1)
    t.match(JSON.parse(lines[0] as string), { msg: /'refundOn'/, err: { message: 'no idea' } })
    t.equal(await used(app), 1)
  }
})

t.test('a refund that the store does not take is logged, and the response was sent', async t => {
  const server = await startRedis(t)
  const lines: string[] = []
  const logger = { level: 'error', stream: { write: (line: string) => void lines.push(line) } }
  const options: RateLimitPluginOptions = { ...LIMIT, redis: server.client(), storeTimeout: 3000 }
  const refundOn = async () => {
    await server.kill()
    return true
  }
  const app = await limited(t, { ...options, refundOn }, byStatus, { logger })
  t.equal((await app.inject('/200')).statusCode, 200)
  await until('it is logged', async () =>
    lines.some(line => line.includes('the cost of a request could not be given back')),
  )
})

t.test('refundOn is not asked about denied requests and clients on the allow list', async t => {
  let asked = 0
  const refundOn = () => {
    asked++
    return false
  }
  const app = await limited(
    t,
    { ...LIMIT, max: 1, refundOn, allowList: request => request.headers['x-free'] !== undefined },
    byStatus,
  )
  await app.inject('/200')
  await app.inject('/200')
  await app.inject({ url: '/200', headers: { 'x-free': 'yes' } })
  await until('the first was asked about', async () => asked === 1)
  t.equal((await app.inject('/200')).statusCode, 429)
  t.equal(asked, 1)
})

t.test('each limiter of a request gives back by its own refundOn', async t => {
  const app = await limited(t, { ...LIMIT, refundOn: () => true }, app => {
    const own = app.rateLimit({ max: 5, refundOn: null })
    app.get('/', { preHandler: own }, async () => 'ok')
    app.get('/own', { config: { rateLimit: false } }, async () => (await own.status('lone'))?.policies[0]?.remaining)
  })
  await app.inject('/')
  await settles(t, app, 0)
  t.equal((await app.inject('/own')).body, '4')
})

/** A server whose responses begin and end when a test says so; it gives everything back that is done. */
async function slow(t: Test, server: FastifyServerOptions = {}) {
  const app = Fastify(server) as unknown as FastifyInstance
  t.teardown(() => app.close())
  const state = { asked: 0, gone: 0, end: () => {}, app, url: '' }
  await app.register(rateLimit, {
    ...LIMIT,
    refundOn: () => {
      state.asked++
      return true
    },
  })
  app.get('/', (_request, reply) => {
    reply.raw.on('close', () => state.gone++)
    reply.hijack()
    reply.raw.write('begun')
    state.end = () => void reply.raw.end()
  })
  await app.listen({ host: '127.0.0.1', port: 0 })
  state.url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
  return state
}

t.test(
  'a request whose client goes away before the response is complete counts, and refundOn is not asked',
  async t => {
    const server = await slow(t)
    const client = httpRequest(server.url, response => {
      response.on('error', () => {})
      client.destroy()
    })
    client.on('error', () => {})
    client.end()
    await until('the server knows that it has gone', async () => server.gone === 1)
    t.equal(server.asked, 0)
    t.equal(await used(server.app), 1)

    const patient = httpRequest(server.url, response => {
      response.resume()
      server.end()
    })
    patient.end()
    await until('the whole response was sent', async () => server.asked === 1)
    await settles(t, server.app, 1)
  },
)

t.test('the same holds for HTTP/2', async t => {
  const server = await slow(t, { http2: true } as FastifyServerOptions)
  const session = connect(server.url)
  t.teardown(() => session.destroy())
  const stream = session.request({ ':path': '/' })
  stream.on('data', () => stream.close(8))
  stream.on('error', () => {})
  await until('the server knows that it has gone', async () => server.gone === 1)
  t.equal(server.asked, 0)
  t.equal(await used(server.app), 1)

  const patient = session.request({ ':path': '/' })
  patient.once('data', () => server.end())
  await until('the whole response was sent', async () => server.asked === 1)
  await settles(t, server.app, 1)
})
