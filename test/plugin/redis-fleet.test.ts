import Fastify, { type FastifyInstance } from 'fastify'
import { Cluster, Redis } from 'ioredis'
import rateLimit, { type RateLimitPluginOptions } from 'ml-api-rate-limiter'
import { createLimiter, type Limiter } from 'ml-api-rate-limiter/limiter'
import t, { type Test } from 'tap'
import { startCluster, startSentinels, until } from '../support/redis-fleet.js'

const TUNED = {
  maxRetriesPerRequest: 0,
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  connectTimeout: 500,
  retryStrategy: () => 50,
} as const

async function replica(t: Test, options: RateLimitPluginOptions): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, {
    nameSpace: 'fleet:',
    keyGenerator: request => String(request.headers['x-key'] ?? 'lone'),
    ...options,
  })
  app.get('/', async () => 'ok')
  return app
}

async function statuses(app: FastifyInstance, times: number, key: (index: number) => string): Promise<number[]> {
  const answers = await Promise.all(
    Array.from({ length: times }, (_, index) => app.inject({ url: '/', headers: { 'x-key': key(index) } })),
  )
  return answers.map(answer => answer.statusCode)
}

const count = (list: readonly number[], status: number) => list.filter(value => value === status).length

t.test('on a cluster of three masters', async t => {
  const { nodes } = await startCluster(t)
  const connect = () => {
    const cluster = new Cluster(
      nodes.map(({ port }) => ({ host: '127.0.0.1', port })),
      { redisOptions: TUNED, enableOfflineQueue: false, clusterRetryStrategy: () => 50, slotsRefreshTimeout: 2000 },
    )
    cluster.on('error', () => {})
    t.teardown(() => cluster.disconnect())
    return cluster
  }
  const one = connect()
  const two = connect()
  await until('both clients are ready', async () => one.status === 'ready' && two.status === 'ready')
  // Nothing here is about time, so a busy machine may take its own.
  const patient = { storeTimeout: 20_000 }

  await t.test('a key of a policy is blocked in every replica, wherever its slot is', async t => {
    const policies = [
      { name: 'user', max: 10, timeWindow: '1 minute' },
      { name: 'tenant', max: 10, timeWindow: '1 minute' },
    ]
    const limiters = [one, two].map(redis => createLimiter({ ...patient, redis, nameSpace: 'block:', policies }))
    for (const limiter of limiters) t.teardown(() => limiter.close())
    const [here, there] = limiters as [Limiter, Limiter]
    t.ok((await there.check({ user: 'ann', tenant: 'acme' })).allowed)
    await here.block({ tenant: 'acme' }, '1 hour')
    for (const limiter of limiters) {
      const { allowed, violated, retryAfterMs } = await limiter.check({ user: 'bob', tenant: 'acme' })
      t.strictSame([allowed, violated], [false, ['tenant']])
      t.ok(retryAfterMs > 3_000_000 && retryAfterMs <= 3_600_000)
    }
    t.equal((await there.status({ user: 'bob' }))?.policies[0]?.remaining, 10, 'a denial costs nothing')
    await here.reset({ tenant: 'acme' })
    t.ok((await here.check({ user: 'bob', tenant: 'acme' })).allowed)
  })

  await t.test('two replicas share every key, wherever its slot is', async t => {
    const options = { max: 3, timeWindow: '1 minute', ...patient }
    const apps = [await replica(t, { ...options, redis: one }), await replica(t, { ...options, redis: two })]
    const lists = await Promise.all(apps.map(app => statuses(app, 400, index => `k${index % 100}`)))
    t.equal(count(lists.flat(), 200), 300, 'one hundred keys, three requests each')
    t.equal(count(lists.flat(), 429), 500)
  })

  await t.test('several policies of one key are one decision, all or none', async t => {
    const app = await replica(t, {
      ...patient,
      redis: one,
      nameSpace: 'several:',
      policies: [
        { name: 'short', max: 2, timeWindow: '1 minute' },
        { name: 'long', max: 100, timeWindow: '1 hour' },
      ],
      concurrency: { max: 50 },
    })
    t.equal(count(await statuses(app, 10, () => 'one key'), 200), 2)
    const { policies = [] } = (await app.rateLimiter.status('one key')) ?? {}
    t.strictSame(
      policies.map(({ name, remaining }) => [name, remaining]),
      [
        ['short', 0],
        ['long', 98],
        ['concurrency', 50],
      ],
    )
    await app.rateLimiter.refund('one key', { short: 1 })
    await app.rateLimiter.reset('another key')
    t.equal(count(await statuses(app, 2, () => 'one key'), 200), 1)
  })

  await t.test('slots move to another node under load, and no request fails', async t => {
    const app = await replica(t, { ...patient, redis: one, nameSpace: 'moving:', max: 5, timeWindow: '1 hour' })
    const seen: number[] = []
    let moving = true
    const load = (async () => {
      while (moving) {
        seen.push(...(await statuses(app, 40, index => `m${index}`)))
        await new Promise(resolve => setTimeout(resolve, 5))
      }
    })()
    await until('the keys are there', async () => seen.length > 0)
    const [from, to] = [nodes[0]?.client() as Redis, nodes[1]?.client() as Redis]
    const ids = [await from.call('CLUSTER', 'MYID'), await to.call('CLUSTER', 'MYID')] as [string, string]
    const slots = new Set<number>()
    for (const key of await from.keys('moving:*')) slots.add((await from.call('CLUSTER', 'KEYSLOT', key)) as number)
    t.ok(slots.size > 3, 'the first master holds some of the keys')
    for (const slot of slots) {
      await to.call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', ids[0])
      await from.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', ids[1])
      await new Promise(resolve => setTimeout(resolve, 20)) // requests meet the slot half way: ASK
      for (const key of (await from.call('CLUSTER', 'GETKEYSINSLOT', slot, 100)) as string[]) {
        await from.call('MIGRATE', '127.0.0.1', nodes[1]?.port as number, key, 0, 5000)
      }
      for (const node of [to, from]) await node.call('CLUSTER', 'SETSLOT', slot, 'NODE', ids[1])
    }
    moving = false
    await load
    t.equal(seen.length - count(seen, 200) - count(seen, 429), 0, 'nothing but 200 and 429')
    t.equal(count(seen, 200), 200, 'forty keys, five requests each: no history was lost on the way')
  })

  await t.test('scripts that the nodes forget are sent again, and no request fails', async t => {
    const app = await replica(t, { ...patient, redis: one, nameSpace: 'flushed:', max: 1000, timeWindow: '1 hour' })
    const seen: number[] = []
    for (let round = 0; round < 5; round++) {
      const load = statuses(app, 60, index => `f${index}`)
      await Promise.all(nodes.slice(0, 3).map(node => node.client().script('FLUSH')))
      seen.push(...(await load))
    }
    t.equal(count(seen, 200), 300)
  })

  await t.test('a master dies: its replica takes over, and what it knew still counts', async t => {
    const app = await replica(t, {
      redis: two,
      nameSpace: 'failover:',
      max: 2,
      timeWindow: '1 hour',
      storeTimeout: 1000,
      onStoreError: 'deny',
      denyMemory: false,
    })
    const keys = 30
    t.equal(count(await statuses(app, keys, index => `d${index}`), 200), keys)
    const victim = nodes[2] as (typeof nodes)[number]
    await victim.client().call('WAIT', 1, 2000)
    await victim.kill()
    const heir = nodes[5]?.client() as Redis
    await until('the replica is a master', async () => (await heir.info('replication')).includes('role:master'))
    await until('every key is answered again', async () => {
      const answers = await Promise.all(Array.from({ length: keys }, (_, index) => app.rateLimiter.status(`d${index}`)))
      return answers.every(status => (status?.policies[0]?.remaining as number) <= 1)
    })
    await until('the second request of every key was answered', async () => {
      const list = await statuses(app, keys, index => `d${index}`)
      return count(list, 503) === 0
    })
    t.equal(count(await statuses(app, keys, index => `d${index}`), 429), keys, 'nobody got more than two')
  })
})

t.test('with Sentinel, the limiter goes on with the new master', async t => {
  const { master, replica: heir, sentinels, name } = await startSentinels(t)
  const redis = new Redis({
    sentinels: sentinels.map(({ port }) => ({ host: '127.0.0.1', port })),
    name,
    ...TUNED,
    sentinelRetryStrategy: () => 50,
    reconnectOnError: error => error.message.startsWith('READONLY'),
  })
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  await until('the client is ready', async () => redis.status === 'ready')
  const options = { max: 5, timeWindow: '1 hour', storeTimeout: 1000, denyMemory: false } as const
  const app = await replica(t, { redis, onStoreError: 'deny', ...options })
  t.equal(count(await statuses(app, 3, () => 'lone'), 200), 3)
  await master.client().call('WAIT', 1, 2000)

  const seen: number[] = []
  let failing = true
  const load = (async () => {
    while (failing) {
      seen.push(...(await statuses(app, 5, index => `load${index}`)))
      await new Promise(resolve => setTimeout(resolve, 10))
    }
  })()
  await master.kill()
  const promoted = heir.client()
  await until('the replica is the master', async () => (await promoted.info('replication')).includes('role:master'))
  await until('the limiter counts again', async () => {
    const answer = await app.inject({ url: '/', headers: { 'x-key': 'lone' } })
    return answer.statusCode === 200
  })
  failing = false
  await load
  t.equal(
    seen.length - count(seen, 200) - count(seen, 429) - count(seen, 503),
    0,
    'allowed, denied or 503, nothing else',
  )
  t.equal(count(await statuses(app, 5, () => 'lone'), 200), 1, 'three before, one since: one of five is left')
})
