/** The end of an outage with `onStoreError: 'local'`: what replicas admitted by themselves is not admitted again. */
import { Cluster } from 'ioredis'
import t from 'tap'
import { freeze, type RedisProcess, startCluster, startRedis, until } from '../support/redis-fleet.js'
import { admitted, allKnow, back, fleet, limitedBy, type Replica, sum, useUp } from '../support/returning.js'

t.test(
  'a Redis that comes back without its data is told what it had counted, what it missed, and who admitted it',
  async t => {
    const redis = await startRedis(t)
    const { port } = redis
    const replicas = await fleet(t, redis, 3)
    let total = 0
    for (let turn = 0; turn < 15; turn++) for (const { app } of replicas) total += await admitted(app, 1)
    t.equal(total, 45)
    await redis.kill()
    const during = await Promise.all(replicas.map(({ app }) => admitted(app, 6)))
    total += sum(during)
    const empty = await startRedis(t, { port })
    total += await useUp(replicas)
    t.ok(total <= 100, `${total} of 100`)
    t.ok(total >= 95, `${total} of 100`)
    t.ok(replicas.every(back))
    await allKnow(empty, 3)
  },
)

t.test('a replica that closes as soon as Redis is back has written what it admitted', async t => {
  const redis = await startRedis(t)
  const [one, two] = (await fleet(t, redis, 2)) as [Replica, Replica]
  await freeze(redis)
  t.teardown(() => redis.signal('SIGCONT'))
  t.equal(await admitted(one.app, 10), 10)
  redis.signal('SIGCONT')
  await until('its circuit is closed', async () => back(one))
  await one.app.close()
  const remaining = async () => (await two.app.rateLimiter.status('lone'))?.policies[0]?.remaining
  t.equal(await remaining(), 90)
  t.equal(await redis.client().zcard('return:{replicas}2.~alive'), 1, 'and it is no longer announced')
})

t.test(
  'a master of a cluster that was frozen is told what was admitted without it, and so is one that was emptied',
  async t => {
    const { nodes } = await startCluster(t, { replicas: false, nodeTimeoutMs: 60_000 })
    const [first] = nodes as [RedisProcess]
    const replicas = await Promise.all(
      [1, 2].map(async () => {
        const client = new Cluster(
          nodes.map(({ port }) => ({ host: '127.0.0.1', port })),
          { clusterRetryStrategy: () => 50, slotsRefreshTimeout: 2000 },
        )
        client.on('error', () => {})
        await until('the client is ready', async () => client.status === 'ready')
        return limitedBy(t, client, { max: 30 })
      }),
    )
    const keys = Array.from({ length: 8 }, (_, index) => `client-${index}`)
    const total = new Map(keys.map(key => [key, 0]))
    const askAll = (times: number) =>
      Promise.all(
        keys.map(async key => {
          for (const { app } of replicas) {
            total.set(key, (total.get(key) ?? 0) + (await admitted(app, times, { 'x-key': key })))
          }
        }),
      )
    await askAll(2)
    await allKnow(nodes, 2)
    for (const fault of ['frozen', 'emptied'] as const) {
      const client = first.client()
      await freeze(first)
      t.teardown(() => first.signal('SIGCONT'))
      await askAll(3)
      const flushed = fault === 'emptied' ? client.flushall() : undefined
      first.signal('SIGCONT')
      await flushed
      await until('every node is asked again', async () => replicas.every(back))
    }
    await Promise.all(
      keys.map(async key => total.set(key, (total.get(key) ?? 0) + (await useUp(replicas, { 'x-key': key })))),
    )
    t.strictSame(
      [...total.values()],
      keys.map(() => 30),
    )
  },
)
