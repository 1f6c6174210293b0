/** What fails in one place of a cluster, or in one call, touches nothing else. */
import { Cluster, Redis } from 'ioredis'
import type { StoreEvent } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { type App, ask, limited, redisClient } from '../support/plugin.js'
import { freeze, type RedisProcess, startCluster, until } from '../support/redis-fleet.js'

t.setTimeout(240_000)

const statusOf = async (app: App, key: string) => (await ask(app, { url: '/', headers: { 'x-key': key } })).statusCode
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

t.test('one of three masters is frozen for six seconds: the keys of the others count on, and none is lost', async t => {
  const MAX = 12
  const { nodes } = await startCluster(t, { replicas: false, nodeTimeoutMs: 60_000 })
  const [frozen] = nodes as [RedisProcess]
  const redis = new Cluster(
    nodes.map(({ port }) => ({ host: '127.0.0.1', port })),
    { clusterRetryStrategy: () => 50, slotsRefreshTimeout: 2000 },
  )
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  await until('the client is ready', async () => redis.status === 'ready')
  const events: StoreEvent[] = []
  const app = await limited(t, {
    redis,
    nameSpace: 'frozen:',
    max: MAX,
    timeWindow: '1 hour',
    storeTimeout: 1500,
    onStoreError: 'deny',
    denyMemory: false,
    onStoreEvent: event => void events.push(event),
  })
  const there: string[] = []
  const elsewhere: string[] = []
  const admin = frozen.client()
  for (let index = 0; index < 60; index++) {
    const key = `k${index}`
    const slot = (await admin.call('CLUSTER', 'KEYSLOT', key)) as number
    ;(slot < 5461 ? there : elsewhere).push(key)
  }
  t.ok(there.length > 5 && elsewhere.length > 20)
  const admitted = new Map<string, number>()
  const wave = async (keys: readonly string[]) =>
    Promise.all(
      keys.map(async key => {
        const status = await statusOf(app, key)
        if (status === 200) admitted.set(key, (admitted.get(key) ?? 0) + 1)
        return status
      }),
    )
  await until('all keys are answered', async () => (await wave([...there, ...elsewhere])).every(one => one === 200))

  await freeze(frozen)
  const since = performance.now()
  const lost: Promise<number[]>[] = []
  const others: number[] = []
  while (performance.now() - since < 6000) {
    lost.push(wave(there))
    others.push(...(await wave(elsewhere)))
    await pause(300)
  }
  t.strictSame(
    (await Promise.all(lost)).flat().filter(status => status !== 503),
    [],
    'the keys of the frozen master are refused, as onStoreError says',
  )
  t.strictSame(
    others.filter(status => status !== 200 && status !== 429),
    [],
    'all others are answered as ever',
  )
  const told = () => events.filter(({ type }) => type === 'lost' || type === 'back')
  t.strictSame(
    told().map(event => [event.type, 'node' in event && event.node]),
    [['lost', `127.0.0.1:${frozen.port}`]],
    'one circuit has opened',
  )
  frozen.signal('SIGCONT')
  await until('it counts with the master again', async () => told().at(-1)?.type === 'back')
  await until('every quota is used up', async () => (await wave([...there, ...elsewhere])).every(one => one === 429))
  t.strictSame(
    [...admitted].filter(([, times]) => times !== MAX),
    [],
    'each was given its quota, no more and no less',
  )
})

/** A client for single servers, on a server in cluster mode that holds all slots. */
async function plainOnCluster(t: Test) {
  const { nodes } = await startCluster(t, { masters: 1, replicas: false })
  const [node] = nodes as [RedisProcess]
  const redis = new Redis(node.port, '127.0.0.1')
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  await redis.ping()
  return { node, redis }
}

t.test('a plain client on a server in cluster mode: many keys in one turn, and no request fails', async t => {
  const { redis } = await plainOnCluster(t)
  const app = await limited(t, { redis, nameSpace: 'plain:', max: 5, timeWindow: '1 hour', storeTimeout: 10_000 })
  const seen: number[] = []
  for (let round = 0; round < 8; round++) {
    // More than one call of 16, so that several are on their way when the first is refused.
    seen.push(...(await Promise.all(Array.from({ length: 40 }, (_, index) => statusOf(app, `k${index}`)))))
  }
  t.equal(seen.filter(status => status === 200).length, 200, 'forty keys, five requests each')
  t.equal(seen.filter(status => status === 429).length, 120)
  await app.rateLimiter.reset('k1')
  await app.rateLimiter.refund('k2', 1)
  t.strictSame(await Promise.all(['k1', 'k2', 'k3'].map(key => statusOf(app, key))), [200, 200, 429])
})

t.test('a plain client on a server in cluster mode: refunds and places of many keys go back in one turn', async t => {
  const { node, redis } = await plainOnCluster(t)
  const options = { redis, nameSpace: 'places:', max: 5, timeWindow: '1 hour', storeTimeout: 10_000 } as const
  let open = () => {}
  const gate = new Promise<void>(resolve => {
    open = resolve
  })
  const app = await limited(t, { ...options, concurrency: { max: 1, ttl: '1 hour' } }, app => {
    app.get('/', async request => {
      await gate
      await request.rateLimit?.refund()
      return 'ok'
    })
  })
  // One at a time, so that the first call with several keys is the one that gives back.
  const answers: Promise<number>[] = []
  for (let index = 0; index < 20; index++) {
    answers.push(statusOf(app, `k${index}`))
    const admin = node.client()
    await until('it has its place', async () => (await admin.keys('*permits')).length === index + 1)
    admin.disconnect()
  }
  open()
  t.strictSame(await Promise.all(answers), Array(20).fill(200))
  const admin = node.client()
  await until('every place and every unit is free', async () =>
    (await admin.keys('places:*')).every(key => key.includes('}2.~')),
  )
})

t.test('one call that fails, with eight checks in it, opens no circuit', async t => {
  const redis = redisClient(t)
  await redis.ping()
  const events: string[] = []
  const app = await limited(t, {
    redis,
    nameSpace: `one-call:${process.pid}:`,
    max: 1000,
    storeTimeout: 10_000,
    prefetch: false,
    onStoreEvent: ({ type }) => void events.push(type),
  })
  t.equal(await statusOf(app, 'lone'), 200)
  const send = redis.evalsha.bind(redis) as (...args: unknown[]) => Promise<unknown>
  let faults = 1
  redis.evalsha = ((...args: unknown[]) =>
    faults-- > 0
      ? Promise.reject(new Error('TRYAGAIN Multiple keys request during rehashing of slot'))
      : send(...args)) as never
  t.strictSame(await Promise.all(Array.from({ length: 8 }, () => statusOf(app, 'lone'))), Array(8).fill(500))
  for (let index = 0; index < 10; index++) {
    t.equal(await statusOf(app, 'lone'), 200)
    await pause(15)
  }
  t.notOk(events.includes('lost'))
})

t.test('one call whose checks are given up one after the other is one failed call', async t => {
  const redis = redisClient(t)
  await redis.ping()
  const events: string[] = []
  const app = await limited(t, {
    redis,
    nameSpace: `staggered:${process.pid}:`,
    max: 1000,
    storeTimeout: 400,
    onStoreEvent: ({ type }) => void events.push(type),
  })
  await until('Redis has counted', async () => (await statusOf(app, 'lone')) === 200)
  const send = redis.evalsha.bind(redis)
  redis.evalsha = (() => new Promise(() => {})) as never
  const asked: Promise<unknown>[] = []
  for (let index = 0; index < 4; index++) {
    asked.push(
      app.rateLimiter.status('lone').then(
        () => 'answered',
        () => 'given up',
      ),
    )
    for (const end = performance.now() + 60; performance.now() < end; );
  }
  t.strictSame(await Promise.all(asked), Array(4).fill('given up'))
  redis.evalsha = send
  t.notOk(events.includes('lost'))
})
