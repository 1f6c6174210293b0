/** The end of an outage with `onStoreError: 'local'`: what replicas admitted by themselves is not admitted again. */
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit from 'ml-api-rate-limiter'
import t from 'tap'
import { freePort, freeze, startRedis, until } from '../support/redis-fleet.js'
import { startProxy } from '../support/redis-proxy.js'
import { admitted, allKnow, back, fleet, type Replica, replica, sum, useUp } from '../support/returning.js'

t.setTimeout(240_000)

t.test(
  'what replicas admitted while Redis was frozen counts when it is back: the window across the end holds the limit, and no more',
  async t => {
    const redis = await startRedis(t)
    const replicas = await fleet(t, redis, 4)
    let total = await admitted((replicas[0] as Replica).app, 20)
    for (const { app } of replicas) total += await admitted(app, 1)
    // All of them know the same usage, so that their shares add up.
    for (const { app } of replicas) await app.rateLimiter.status('lone')
    await freeze(redis)
    t.teardown(() => redis.signal('SIGCONT'))
    const during = await Promise.all(replicas.map(({ app }) => admitted(app, 8)))
    t.equal(sum(during), 32, 'within the shares')
    total += sum(during)
    redis.signal('SIGCONT')
    total += await useUp(replicas)
    t.equal(total, 100)
  },
)

t.test('a replica that asked nothing while Redis was frozen does not admit what the others did', async t => {
  const redis = await startRedis(t)
  const [idle, ...busy] = (await fleet(t, redis, 3)) as [Replica, Replica, Replica]
  await freeze(redis)
  t.teardown(() => redis.signal('SIGCONT'))
  let total = sum(await Promise.all(busy.map(({ app }) => admitted(app, 60))))
  t.ok(total === 66 || total === 67, `two shares of three: ${total}`)
  // Longer than the time between two announcements.
  await new Promise(resolve => setTimeout(resolve, 2500))
  redis.signal('SIGCONT')
  const first = await admitted(idle.app, 200)
  t.ok(first <= 34, `${first} at once`)
  total += first + (await useUp([idle, ...busy]))
  t.equal(total, 100)
})

t.test('a Redis that was emptied on purpose stays empty', async t => {
  const redis = await startRedis(t)
  const replicas = await fleet(t, redis, 2)
  t.equal(await useUp(replicas), 100)
  await redis.client().flushall()
  // Each has announced itself since.
  await allKnow(redis, 2)
  await redis.client().call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  t.equal(await useUp(replicas), 100)
})

t.test(
  'a replica that dies before it could report holds the others up for no longer than its announcement',
  async t => {
    const redis = await startRedis(t)
    const replicas = await fleet(t, redis, 3)
    await freeze(redis)
    t.teardown(() => redis.signal('SIGCONT'))
    const during = await Promise.all(replicas.map(({ app }) => admitted(app, 10)))
    t.strictSame(during, [10, 10, 10])
    const dead = replicas.pop() as Replica
    dead.client.disconnect()
    redis.signal('SIGCONT')
    await until('Redis is asked again', async () => replicas.every(back))
    let total = await useUp(replicas)
    t.ok(total <= 67 - 20, `${total}: the shares of two, until the third is given up`)
    await until('the third is given up', async () => {
      total += await useUp(replicas)
      return total > 66
    })
    t.equal(total, 80, 'all but what is known to be used')
  },
)

t.test('requests that were given up one by one are written once Redis answers', async t => {
  const redis = await startRedis(t)
  const [one, two] = (await fleet(t, redis, 2)) as [Replica, Replica]
  await freeze(redis)
  t.teardown(() => redis.signal('SIGCONT'))
  // One check is one failure: the circuit stays closed.
  const first = one.app.inject('/')
  t.equal((await first).statusCode, 200)
  redis.signal('SIGCONT')
  t.strictSame(
    one.events.filter(type => type !== 'answered'),
    ['failed'],
  )
  const remaining = async () => (await two.app.rateLimiter.status('lone'))?.policies[0]?.remaining
  await until('it is written', async () => (await remaining()) === 99)
  t.equal(await useUp([one, two]), 99)
})

t.test('what a request gave back, and what it was charged later, is written as it stands', async t => {
  const redis = await startRedis(t)
  const [one] = (await fleet(t, redis, 1)) as [Replica]
  await freeze(redis)
  t.teardown(() => redis.signal('SIGCONT'))
  const key = { 'x-key': 'someone' }
  t.equal(await admitted(one.app, 5, key), 5)
  t.equal(await admitted(one.app, 5, key, '/refund'), 5)
  t.equal(await admitted(one.app, 5, key, '/charge'), 5)
  redis.signal('SIGCONT')
  const remaining = async () => (await one.app.rateLimiter.status('someone'))?.policies[0]?.remaining
  await until('all is written', async () => back(one) && (await remaining()) === 100 - 5 - 15)
  await one.app.rateLimiter.reset('someone')
  t.equal(await remaining(), 100)
})

t.test('a replica that started while Redis was away writes what it admitted as well', async t => {
  const port = await freePort()
  const client = new Redis(port, '127.0.0.1', { retryStrategy: () => 50 })
  client.on('error', () => {})
  const app = Fastify()
  t.teardown(async () => {
    await app.close()
    client.disconnect()
  })
  await app.register(rateLimit, {
    redis: client,
    max: 10,
    timeWindow: '1 hour',
    onStoreError: 'local',
    startTimeout: 100,
    keyGenerator: () => 'lone',
  })
  app.get('/', async () => 'ok')
  await app.ready()
  t.equal(await admitted(app, 6), 6)
  await startRedis(t, { port })
  await until('Redis is asked', async () => client.status === 'ready')
  t.equal(await useUp([{ app, client, events: [] }]), 4)
})

t.test('where only some replicas were cut off, their shares at most are admitted beside the limit', async t => {
  const redis = await startRedis(t)
  const proxy = await startProxy(t, redis.port)
  const [kept] = (await fleet(t, redis, 1)) as [Replica]
  const cut = await replica(t, proxy.port, { max: 100 })
  await admitted(cut.app, 1, { 'x-key': 'other' })
  await allKnow(redis, 2)
  proxy.dropsAnswers = true
  const alone = await admitted(cut.app, 60)
  t.equal(alone, 50)
  const used = await admitted(kept.app, 200)
  // Redis has counted some whose answers were lost.
  t.ok(used <= 100 && used >= 90, `${used}`)
  proxy.dropsAnswers = false
  proxy.cut()
  await until('it is counted with Redis again', async () => back(cut))
  t.equal(await useUp([kept, cut]), 0)
})

for (const fault of ['frozen', 'emptied'] as const) {
  t.test(
    `with quota taken ahead of requests, and a Redis that is ${fault} under load, the limit holds as well`,
    async t => {
      const redis = await startRedis(t)
      const { port } = redis
      const replicas = await fleet(t, redis, 3, { max: 2000 })
      let total = 0
      let isBusy = true
      const load = replicas.flatMap(({ app }) =>
        Array.from({ length: 8 }, async () => {
          while (isBusy) {
            total += await admitted(app, 1)
            await new Promise(resolve => setTimeout(resolve, 10))
          }
        }),
      )
      await until('a part of the quota is used', async () => total > 400)
      if (fault === 'frozen') redis.signal('SIGSTOP')
      else await redis.kill()
      t.teardown(() => redis.signal('SIGCONT'))
      await until('the replicas go on by themselves', async () =>
        replicas.every(({ events }) => events.includes('lost')),
      )
      const before = total
      await until('and admit', async () => total > before)
      if (fault === 'frozen') redis.signal('SIGCONT')
      else await startRedis(t, { port })
      await until('Redis is asked again', async () => replicas.every(back))
      isBusy = false
      await Promise.all(load)
      total += await useUp(replicas)
      t.ok(total <= 2000, `${total} of 2000`)
    },
  )
}
