import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import rateLimit from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import type { MemoryStore } from '../../plugin/src/stores/memory/memory-store.js'
import type { Connection } from '../../plugin/src/stores/redis/client.js'
import { Replicas, shareOf } from '../../plugin/src/stores/redis/presence.js'
import { type RedisProcess, startRedis, until } from '../support/redis-fleet.js'
import { checkOf, memoryStore } from '../support/stores.js'

t.test('the parts of all replicas add up to the limit, whatever it is', async t => {
  for (let count = 1; count <= 40; count++) {
    for (const limit of [0, 1, 7, 8, 39, 40, 1000, 1001]) {
      const shares = Array.from({ length: count }, (_, place) => shareOf(limit, { count, place }))
      const sum = shares.reduce((total, share) => total + share, 0)
      if (sum !== limit) t.fail(`${count} replicas of a limit of ${limit} give ${sum}`)
      if (Math.max(...shares) - Math.min(...shares) > 1) t.fail(`${shares} are not even`)
    }
  }
})

t.test('an announcement that fails changes nothing of the replicas that are known', async t => {
  const replyOf = (time: number, ...ids: string[]) => [time, 0, time, 'marker', ...ids.flatMap(id => [id, '0'])]
  const replies = [replyOf(1, 'a', 'me', 'z'), undefined, replyOf(3, 'a', 'b', 'me', 'z')]
  let asked = 0
  const connection = {
    status: 'ready',
    onReady: () => () => {},
    evalsha: async () => {
      const reply = replies[Math.min(asked++, replies.length - 1)]
      if (reply === undefined) throw new Error('on purpose')
      return reply
    },
  } as unknown as Connection
  const replicas = new Replicas(connection, 'announced:', 'me', () => [])
  t.teardown(() => replicas.close(false))
  await until('the first announcement is answered', async () => replicas.seen.count === 3)
  await until('the second one has failed', async () => asked === 2)
  t.strictSame(replicas.seen, { count: 3, place: 1 })
  await until('the third one is answered', async () => asked > 2 && replicas.seen.count === 4)
})

t.test('what is learnt of a shared log counts until the log itself would have let it go, and no less', async t => {
  const { store, set } = memoryStore()
  const learner = store as MemoryStore
  const check = checkOf([{ limit: 1000, windowMs: 10_000, cost: 0 }])
  const hear = (used: number, resetMs: number) =>
    learner.learn(check, { allowed: true, policies: [{ used, resetMs, retryMs: 0, denials: 0 }] })
  const known = () => learner.peek(check).policies[0]?.used
  const start = 2_000_000
  set(start)
  hear(0, 0)
  t.equal(known(), 0)
  hear(400, 10_000)
  set(start + 500)
  hear(1000, 9500)
  t.equal(known(), 1000)
  set(start + 10_100)
  t.equal(known(), 600, 'the first are gone')
  // All were used at once again, 100 ms ago.
  hear(1000, 9900)
  set(start + 10_900)
  t.equal(known(), 1000, 'what had gone there without notice makes room for what came')
  hear(300, 9200)
  t.equal(known(), 300, 'less, after a refund, is what is used')
  set(start + 20_200)
  t.equal(known(), 0)
})

t.test('what was admitted just now counts for a whole window, however old the rest of the known usage is', async t => {
  const { store, set } = memoryStore()
  const learner = store as MemoryStore
  const check = checkOf([{ limit: 1000, windowMs: 10_000, cost: 4 }])
  const hear = (used: number, resetMs: number, isAdmitted: boolean) => {
    const admission = isAdmitted ? { generation: 1, time: 1 } : undefined
    learner.learn(check, { allowed: isAdmitted, policies: [{ used, resetMs, retryMs: 0, denials: 0, admission }] })
  }
  const known = () => learner.peek(check).policies[0]?.used
  const start = 3_000_000
  set(start)
  hear(30, 10_000, false)
  // Meanwhile 4 of them have left the window there, and 4 were admitted.
  set(start + 6000)
  hear(30, 3900, true)
  t.equal(known(), 30)
  set(start + 10_100)
  t.equal(known(), 4)
  set(start + 16_100)
  t.equal(known(), 0)
})

t.setTimeout(240_000)

const limits = [10, 2, 7] as const

/** A replica with one route for each of the limits. */
async function replica(t: Test, redis: RedisProcess): Promise<FastifyInstance> {
  const client = new Redis(redis.port, '127.0.0.1', { enableOfflineQueue: false, lazyConnect: true })
  client.on('error', () => {})
  await client.connect()
  const app = Fastify()
  t.teardown(async () => {
    client.disconnect()
    await app.close()
  })
  await app.register(rateLimit, {
    redis: client,
    nameSpace: 'shared:',
    max: 10,
    timeWindow: '1 hour',
    onStoreError: 'local',
    storeTimeout: 1500,
    keyGenerator: () => 'lone',
  })
  for (const max of limits) app.get(`/${max}`, { config: { rateLimit: { max } } }, async () => 'ok')
  await app.ready()
  return app
}

async function admittedBy(app: FastifyInstance, url: string): Promise<number> {
  let admitted = 0
  for (let i = 0; i < 12; i++) if ((await app.inject(url)).statusCode === 200) admitted++
  return admitted
}

/** The replicas that are announced, and when each announcement expires. */
function watch(redis: RedisProcess) {
  const client = redis.client()
  const announced = async () => {
    const [key] = await client.keys('*alive')
    const list = key === undefined ? [] : await client.zrange(key, '0', '-1', 'WITHSCORES')
    return new Map(list.flatMap((id, at) => (at % 2 === 0 ? [[id, Number(list[at + 1])] as const] : [])))
  }
  /** Each has announced itself once more since there were so many. */
  const allKnow = async (count: number) => {
    await until(`${count} replicas are announced`, async () => (await announced()).size === count)
    const before = await announced()
    await until('each has announced itself again', async () =>
      [...(await announced())].every(([id, expires]) => expires > (before.get(id) ?? 0)),
    )
  }
  return { announced, allKnow }
}

t.test('replicas that lose Redis go on with one quota between them, not one each', async t => {
  const redis = await startRedis(t)
  const { announced, allKnow } = watch(redis)
  const apps = await Promise.all([1, 2, 3, 4].map(() => replica(t, redis)))
  await allKnow(4)
  await apps.pop()?.close()
  await until('the one that closed has taken itself out', async () => (await announced()).size === 3)
  await allKnow(3)
  // One uses a quota up, and the others hear of it.
  t.equal(await admittedBy(apps[0] as FastifyInstance, '/7'), 7)
  for (const app of apps) t.equal((await app.inject('/7')).statusCode, 429)
  redis.signal('SIGSTOP')
  t.teardown(() => redis.signal('SIGCONT'))
  for (const app of apps) t.equal(await admittedBy(app, '/7'), 0, 'what Redis gave before is not given again')
  for (const max of [10, 2]) {
    const admitted = await Promise.all(apps.map(app => admittedBy(app, `/${max}`)))
    t.equal(
      admitted.reduce((sum, each) => sum + each, 0),
      max,
      `${admitted}`,
    )
    t.ok(Math.max(...admitted) - Math.min(...admitted) <= 1, 'evenly')
  }
  const headers = (await (apps[0] as FastifyInstance).inject('/10')).headers
  t.ok(Number(headers['x-ratelimit-limit']) <= 4, 'and say what each gives')
})

for (const [where, space] of [
  ['a name space of its own', { nameSpace: 'one-app:' }],
  ['the default name space', {}],
] as const) {
  t.test(
    `registrations of one app are one replica, in ${where}: each gives its whole limit when Redis is lost`,
    async t => {
      const redis = await startRedis(t)
      const { announced, allKnow } = watch(redis)
      const client = redis.client()
      const app = Fastify()
      t.teardown(() => app.close())
      for (const [prefix, max, own] of [
        ['/x', 10, client],
        ['/y', 1, client],
        ['/z', 1, redis.client()],
      ] as const) {
        await app.register(
          async scope => {
            await scope.register(rateLimit, {
              redis: own,
              ...space,
              max,
              timeWindow: '1 hour',
              onStoreError: 'local',
              keyGenerator: request => String(request.headers['x-key'] ?? 'lone'),
            })
            scope.get('/', async () => 'ok')
          },
          { prefix },
        )
      }
      await app.ready()
      for (const url of ['/x', '/y', '/z']) await app.inject({ url, headers: { 'x-key': 'somebody' } })
      await allKnow(1)
      redis.signal('SIGSTOP')
      t.teardown(() => redis.signal('SIGCONT'))
      t.equal(await admittedBy(app, '/x'), 10)
      t.equal(await admittedBy(app, '/y'), 1)
      t.equal(await admittedBy(app, '/z'), 1)
      redis.signal('SIGCONT')
      await until('Redis answers', async () => (await announced()).size === 1)
      await app.close()
      await until('the app has taken itself out', async () => (await announced()).size === 0)
    },
  )
}

t.test('registrations of one app that never reached Redis give their whole limits', async t => {
  const redis = await startRedis(t)
  const app = Fastify()
  t.teardown(() => app.close())
  const client = redis.client()
  await client.ping()
  for (const prefix of ['/x', '/y', '/z']) {
    await app.register(
      async scope => {
        const options = {
          redis: client,
          max: 2,
          timeWindow: '1 hour',
          onStoreError: 'local',
          storeTimeout: 300,
        } as const
        await scope.register(rateLimit, options)
        scope.get('/', async () => 'ok')
      },
      { prefix },
    )
  }
  await app.ready()
  await redis.kill()
  for (const url of ['/x', '/y', '/z']) t.equal(await admittedBy(app, url), 2, url)
})
