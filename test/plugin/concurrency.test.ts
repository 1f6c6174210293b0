import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { childEnv } from '../support/child-env.js'
import { type App, ask, inRedis, limited, redisClient, STORES, statuses } from '../support/plugin.js'
import { until } from '../support/redis-fleet.js'

/** A route that answers when it is told to. */
function gate() {
  const waiting: (() => void)[] = []
  return {
    handler: async () => {
      await new Promise<void>(resolve => waiting.push(resolve))
      return 'ok'
    },
    get running() {
      return waiting.length
    },
    open: () => {
      for (const resolve of waiting.splice(0)) resolve()
    },
  }
}

async function inFlight(app: App): Promise<number> {
  const { policies = [] } = (await app.rateLimiter.status('lone')) ?? {}
  const state = policies.find(({ name }) => name === 'concurrency')
  return (state?.limit as number) - (state?.remaining as number)
}

for (const { name, options } of STORES) {
  t.test(`${name}: of ten slow requests at once three run, and when they end the next do`, async t => {
    const held = gate()
    const app = await limited(t, { ...options(t), concurrency: { max: 3 } }, app => app.get('/', held.handler))
    const all = Array.from({ length: 10 }, () => ask(app))
    await until('seven were answered and three run', async () => held.running === 3)
    held.open()
    const answers = await Promise.all(all)
    t.equal(answers.filter(({ statusCode }) => statusCode === 200).length, 3)
    const denied = answers.filter(({ statusCode }) => statusCode === 429)
    t.equal(denied.length, 7)
    t.match(denied[0]?.headers, {
      'x-ratelimit-limit': '3',
      'x-ratelimit-remaining': '0',
      'retry-after': '1',
      'ratelimit-policy': '"default";q=1000;w=60, "concurrency";q=3;qu="concurrent-requests"',
      ratelimit: /, "concurrency";r=0;t=1$/,
    })
    t.match((await app.rateLimiter.status('lone'))?.policies[0], { remaining: 997 }, 'the denied were not charged')
    await until('the places are free', async () => (await inFlight(app)) === 0)
    const next = ask(app)
    await until('it runs', async () => held.running === 1)
    held.open()
    t.equal((await next).statusCode, 200)
  })

  t.test(`${name}: a place is free again when the handler fails, and when the client goes away`, async t => {
    const held = gate()
    const app = await limited(t, { ...options(t), concurrency: { max: 1 } }, app => {
      app.get('/', held.handler)
      app.get('/fails', async () => {
        throw new Error('on purpose')
      })
    })
    t.strictSame(await statuses(app, 3, '/fails'), [500, 500, 500])
    await until('its place is free', async () => (await inFlight(app)) === 0)
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = app.server.address() as AddressInfo
    const client = httpRequest({ port, path: '/' })
    client.on('error', () => {})
    client.end()
    await until('the request runs', async () => held.running === 1)
    t.equal((await ask(app)).statusCode, 429)
    client.destroy()
    await until('its place is free', async () => (await inFlight(app)) === 0)
    held.open()
  })

  t.test(`${name}: quota and places are one decision`, async t => {
    const held = gate()
    const app = await limited(t, { ...options(t), max: 2, timeWindow: '1 minute', concurrency: { max: 5 } }, app =>
      app.get('/', held.handler),
    )
    const first = [ask(app), ask(app)]
    await until('both run', async () => held.running === 2)
    const denied = await ask(app)
    t.match(denied.headers, { 'x-ratelimit-limit': '2', 'retry-after': /^(?:60|5\d)$/ })
    t.equal(await inFlight(app), 2, 'who has no quota takes no place')
    held.open()
    await Promise.all(first)
  })
}

t.test('in Redis: a request that runs longer than a place lives keeps its place', async t => {
  const held = gate()
  const shared = inRedis(t)
  const options = { ...shared, concurrency: { max: 1, ttl: 300 } }
  const app = await limited(t, options, app => app.get('/', held.handler))
  const running = ask(app)
  await until('it runs', async () => held.running === 1)
  await new Promise(resolve => setTimeout(resolve, 1000))
  t.equal((await ask(app)).statusCode, 429, 'three lives later')
  held.open()
  t.equal((await running).statusCode, 200)
})

t.test('in Redis: a place lost with the store is taken again by its holder', async t => {
  const held = gate()
  const shared = inRedis(t)
  const app = await limited(t, { ...shared, concurrency: { max: 1, ttl: 300 } }, app => app.get('/', held.handler))
  const running = ask(app)
  await until('it runs', async () => held.running === 1)
  const redis = redisClient(t)
  await until('it is lost', async () => (await redis.del(...(await redis.keys(`${shared.nameSpace}*permits`)))) === 1)
  await until('the place is taken again', async () => (await inFlight(app)) === 1)
  held.open()
  t.equal((await running).statusCode, 200)
})

t.test('in Redis: the places of a replica that was killed are free when their life ends', async t => {
  const shared = inRedis(t)
  const script = fileURLToPath(new URL('../support/holder.mjs', import.meta.url))
  const app = await limited(t, { ...shared, concurrency: { max: 2, ttl: 2000 } })
  const child = spawn(process.execPath, [script, shared.nameSpace as string], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: childEnv(),
  })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
  t.equal(await inFlight(app), 2)
  t.equal((await ask(app)).statusCode, 429)
  child.kill('SIGKILL')
  await once(child, 'exit')
  t.equal((await ask(app)).statusCode, 429, 'nobody knows yet')
  await until('the places are free', async () => (await inFlight(app)) === 0, 20_000)
  t.equal((await ask(app)).statusCode, 200)
})

t.test('in Redis: a request that ends while its app closes gives its place back', async t => {
  const held = gate()
  const shared = inRedis(t)
  const app = await limited(t, { ...shared, concurrency: { max: 1 } }, app => app.get('/', held.handler))
  const other = await limited(t, { ...shared, redis: redisClient(t), concurrency: { max: 1 } })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const answered = new Promise(resolve => {
    httpRequest({ port, path: '/', agent: false }, response => resolve(response.resume().statusCode)).end()
  })
  await until('the request runs', async () => held.running === 1)
  const closed = app.close()
  t.equal(await inFlight(other), 1)
  held.open()
  t.equal(await answered, 200)
  await closed
  await until('its place is free', async () => (await inFlight(other)) === 0, 5000)
})

t.test('a place given twice to the same request is given back with the response', async t => {
  const app = await limited(t, { concurrency: { max: 1 } }, app => {
    const hijacked = app.rateLimit({ concurrency: { max: 1 } })
    app.get('/', async (request, reply) => {
      reply.hijack()
      reply.raw.end('gone')
      await new Promise(resolve => reply.raw.once('close', resolve))
      await hijacked(request, reply)
      await hijacked(request, reply)
    })
  })
  t.strictSame(await statuses(app, 3), [200, 200, 200])
})
