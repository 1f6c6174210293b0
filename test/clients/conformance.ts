/** What holds with every Redis client: one suite, for each client that the plugin takes. */
import { randomUUID } from 'node:crypto'
import { Redis } from 'ioredis'
import type { RedisClient } from 'ml-api-rate-limiter'
import type { Test } from 'tap'
import { type App, ask, limited, statuses } from '../support/plugin.js'
import { startCluster, startRedis, startSentinels, until } from '../support/redis-fleet.js'

export interface Open {
  readonly client: RedisClient
  close(): unknown
}

/** A client under test: how it is connected to each kind of Redis that it can use. */
export interface Candidate {
  readonly name: string
  /** Connected, or connecting. */
  single?(port: number): Promise<Open>
  cluster?(ports: readonly number[]): Promise<Open>
  sentinel?(ports: readonly number[], name: string): Promise<Open>
  /** Whether a client can exist before its server does. */
  readonly waits: boolean
}

/** Nothing here is about time, so a busy machine may take its own. */
const PATIENT = { storeTimeout: 20_000, timeWindow: '1 hour', startTimeout: 30_000 } as const

const count = (list: readonly number[], status: number) => list.filter(value => value === status).length

async function burst(app: App, times: number, key: (index: number) => string): Promise<number[]> {
  const answers = await Promise.all(
    Array.from({ length: times }, (_, index) => ask(app, { url: '/', headers: { 'x-key': key(index) } })),
  )
  return answers.map(({ statusCode }) => statusCode)
}

function signal(): readonly [Promise<void>, () => void] {
  let give = () => {}
  const given = new Promise<void>(resolve => {
    give = resolve
  })
  return [given, give]
}

const opened = (t: Test, open: Open): RedisClient => {
  t.teardown(() => open.close())
  return open.client
}

function reference(t: Test, port: number): Redis {
  const redis = new Redis(port, '127.0.0.1')
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  return redis
}

export async function conform(t: Test, { name, single, cluster, sentinel, waits }: Candidate): Promise<void> {
  if (single !== undefined) {
    await t.test(`${name}: shares one quota with another client, and no request fails`, async t => {
      const { port } = await startRedis(t)
      const shared = { ...PATIENT, nameSpace: `${randomUUID()}:`, max: 30 }
      const apps = [
        await limited(t, { ...shared, redis: opened(t, await single(port)) }),
        await limited(t, { ...shared, redis: reference(t, port) }),
      ]
      const lists = await Promise.all(apps.map(app => burst(app, 60, index => `k${index % 2}`)))
      t.equal(count(lists.flat(), 200), 60, 'two keys, thirty requests each')
      t.equal(count(lists.flat(), 429), 60)
    })

    await t.test(`${name}: charges, refunds, permits, penalties, status, blocks and reset`, async t => {
      const { port } = await startRedis(t)
      const redis = opened(t, await single(port))
      const [entered, enter] = signal()
      const [running, end] = signal()
      const policies = [
        { name: 'short', max: 3, timeWindow: '1 minute' },
        { name: 'long', max: 100, timeWindow: '1 hour' },
      ]
      const { timeWindow: _, ...patient } = PATIENT
      const app = await limited(t, { ...patient, nameSpace: 'all:', redis, policies }, app => {
        app.get('/', async request => request.rateLimit?.charge({ long: 10 }))
        app.get('/back', async request => request.rateLimit?.refund())
        const slow = { policies: null, max: 10, timeWindow: '1 hour', concurrency: { max: 1 } }
        app.get('/slow', { config: { rateLimit: slow } }, () => {
          enter()
          return running
        })
        app.get(
          '/ban',
          { config: { rateLimit: { policies: null, max: 0, timeWindow: '1 hour', ban: 1 } } },
          async () => 1,
        )
      })
      const left = async () => (await app.rateLimiter.status('lone'))?.policies.map(({ remaining }) => remaining)
      t.equal((await ask(app)).statusCode, 200)
      t.strictSame(await left(), [2, 89])
      t.equal((await ask(app, '/back')).statusCode, 200)
      t.strictSame(await left(), [2, 89], 'a request that was given back has cost nothing')
      t.strictSame(await statuses(app, 3), [200, 200, 429])
      await app.rateLimiter.refund('lone', { short: 1 })
      t.strictSame(await left(), [1, 67])
      await app.rateLimiter.block('lone', '1 hour')
      t.strictSame(await left(), [0, 0])
      t.strictSame(await statuses(app, 1), [429])
      await app.rateLimiter.reset('lone')
      t.strictSame(await left(), [3, 100])

      const first = statuses(app, 1, '/slow')
      await entered
      t.strictSame(await statuses(app, 1, '/slow'), [429], 'a request in flight stands in the way')
      end()
      t.strictSame(await first, [200])
      await until('its permit is given back', async () => (await ask(app, '/slow')).statusCode === 200)
      t.strictSame(await statuses(app, 2, '/ban'), [429, 403])
    })

    await t.test(`${name}: a script that Redis has lost is sent again, and no request fails`, async t => {
      const { port } = await startRedis(t)
      const app = await limited(t, { ...PATIENT, redis: opened(t, await single(port)), max: 10 })
      const redis = reference(t, port)
      for (let round = 0; round < 2; round++) {
        await redis.script('FLUSH')
        t.strictSame(await statuses(app, 2), [200, 200])
      }
      t.equal((await app.rateLimiter.status('lone'))?.policies[0]?.remaining, 6)
    })

    await t.test(`${name}: a foreign value under a key fails the requests of that key alone`, async t => {
      const { port } = await startRedis(t)
      const redis = reference(t, port)
      const app = await limited(t, { ...PATIENT, nameSpace: 'foreign:', redis: opened(t, await single(port)), max: 10 })
      t.strictSame(await statuses(app, 1), [200])
      for (const key of await redis.keys('foreign:*')) await redis.pipeline().del(key).set(key, 'text').exec()
      const [one, two] = await burst(app, 2, index => (index === 0 ? 'lone' : 'other'))
      t.strictSame([one, two], [500, 200])
    })

    await t.test(`${name}: an outage is answered as onStoreError says, and ends with it`, async t => {
      const first = await startRedis(t)
      const redis = opened(t, await single(first.port))
      const app = await limited(t, { redis, max: 1000, onStoreError: 'deny', storeTimeout: 500 })
      await until('a request is admitted', async () => (await ask(app)).statusCode === 200)
      await first.kill()
      await until('a request is refused', async () => (await ask(app)).statusCode === 503)
      await startRedis(t, { port: first.port })
      await until('a request is admitted again', async () => (await ask(app)).statusCode === 200, 60_000)
    })

    await t.test(`${name}: the app leaves the client open, and a closed one fails at once`, async t => {
      const { port } = await startRedis(t)
      const open = await single(port)
      const one = await limited(t, { ...PATIENT, redis: open.client })
      t.equal((await ask(one)).statusCode, 200)
      await one.close()
      const two = await limited(t, { ...PATIENT, redis: open.client })
      t.equal((await ask(two)).statusCode, 200)
      await open.close()
      await until('requests are told so', async () => (await ask(two)).json().message === 'Connection is closed.')
    })
  }

  if (single !== undefined && waits) {
    await t.test(`${name}: requests wait for the first connection`, async t => {
      const server = await startRedis(t)
      const { port } = server
      await server.kill()
      const redis = opened(t, await single(port))
      const app = await limited(t, { ...PATIENT, redis, max: 2 })
      const asked = statuses(app, 3)
      await startRedis(t, { port })
      t.strictSame(await asked, [200, 200, 429])
    })
  }

  if (cluster !== undefined) {
    await t.test(`${name}: a cluster serves every key, wherever its slot is`, async t => {
      const { nodes } = await startCluster(t, { replicas: false })
      const redis = opened(t, await cluster(nodes.map(({ port }) => port)))
      const app = await limited(t, { ...PATIENT, redis, max: 3 }, app => {
        app.get('/', async () => 'ok')
        app.get('/back', async request => request.rateLimit?.refund())
      })
      const list = await burst(app, 200, index => `k${index % 50}`)
      t.equal(count(list, 200), 150, 'fifty keys, three requests each')
      t.equal(count(list, 429), 50)
      for (const key of ['a', 'b', 'c']) {
        t.strictSame(await statuses(app, 4, { url: '/back', headers: { 'x-key': key } }), [200, 200, 200, 200])
      }
      await app.rateLimiter.reset('k1')
      t.equal((await app.rateLimiter.status('k1'))?.policies[0]?.remaining, 3)
    })
  }

  if (sentinel !== undefined) {
    await t.test(`${name}: Sentinel's new master goes on counting`, async t => {
      const { master, sentinels, name: group } = await startSentinels(t)
      const ports = sentinels.map(({ port }) => port)
      const redis = opened(t, await sentinel(ports, group))
      const app = await limited(t, { ...PATIENT, redis, max: 2000, storeTimeout: 500 })
      await until('a request is admitted', async () => (await ask(app)).statusCode === 200)
      await master.kill()
      await until('a request fails', async () => (await ask(app)).statusCode === 500)
      await until('the new master answers', async () => (await ask(app)).statusCode === 200, 60_000)
    })
  }
}
