import type { Redis } from 'ioredis'
import t from 'tap'
import { connectionOf } from '../../plugin/src/clients/index.js'
import { StoreForeignKey } from '../../plugin/src/errors.js'
import { RedisStore } from '../../plugin/src/stores/redis/redis-store.js'
import type { Check } from '../../plugin/src/stores/store.js'
import { longestLife, shiftLog } from '../support/log.js'
import { startRedis, until } from '../support/redis-fleet.js'
import { checkOf } from '../support/stores.js'

const DAY = 86_400_000

function check(limit: number, windowMs: number, cost = 1, key = 'key'): Check {
  return checkOf([{ name: `${limit}`, limit, windowMs, cost }], { key, precision: 0.01 })
}

t.test('what the logs cost Redis', async t => {
  const server = await startRedis(t)
  const redis = server.client()
  const store = new RedisStore(connectionOf(redis), { nameSpace: 'memory:', timeoutMs: 5000 })
  t.teardown(() => store.close())

  /** As if `ms` had passed. */
  const pass = (key: string, ms: number) => shiftLog(redis, key, -ms)

  for (const [limit, windowMs] of [
    [10, 10_000],
    [100, 60_000],
    [101, 60_000],
    [1000, 60_000],
    [1_000_000, DAY],
  ] as const) {
    await t.test(`a full quota of ${limit} in ${windowMs} ms stays within 128 entries and 2 KB`, async t => {
      const key = `memory:{key}2.log.${limit}`
      const steps = 400
      const cost = Math.max(1, Math.floor(limit / 200))
      let most = 0
      for (let step = 0; step < steps; step++) {
        await store.check(check(limit, windowMs, cost))
        if (step % 2 === 1) await pass(key, Math.ceil(windowMs / 95))
        most = Math.max(most, await redis.zcard(key))
      }
      t.ok(most > 5 && most <= 128, `${most} entries at the most`)
      t.equal(await redis.object('ENCODING', key), 'listpack')
      t.ok(((await redis.call('MEMORY', 'USAGE', key)) as number) <= 2048)
      const ttl = await redis.pttl(key)
      t.ok(ttl > 0 && ttl <= longestLife(windowMs), 'and expires with its window')
    })
  }

  await t.test('charges that overdraw a small quota stay within 128 entries, too', async t => {
    const key = 'memory:{key}2.log.100'
    await redis.del(key)
    await Promise.all(Array.from({ length: 100 }, () => store.check(check(100, 60_000))))
    let most = await redis.zcard(key)
    for (let step = 0; step < 120; step++) {
      await pass(key, 600)
      await store.charge(check(100, 60_000, 3))
      most = Math.max(most, await redis.zcard(key))
    }
    t.ok(most > 100 && most <= 128, `${most} entries at the most`)
  })

  await t.test('ten thousand keys are gone one window later', async t => {
    await redis.flushall()
    for (let from = 0; from < 10_000; from += 500) {
      const crowd = Array.from({ length: 500 }, (_, index) => check(5, 3000, 1, `crowd${from + index}`))
      await Promise.all(crowd.map(one => store.check(one)))
    }
    t.ok((await redis.dbsize()) > 0)
    const counted = await redis.keys('*')
    const ttls = await Promise.all(counted.map(key => redis.pttl(key)))
    t.ok(
      ttls.every(ttl => ttl === -2 || (ttl >= 0 && ttl <= longestLife(3000))),
      'no key without an end',
    )
    await until('Redis is empty', async () => (await redis.dbsize()) === 0)
  })
})

t.test('a full Redis refuses the check, keeps what it holds and its limit of memory', async t => {
  const server = await startRedis(t, { args: ['--maxmemory', '3mb', '--maxmemory-policy', 'noeviction'] })
  const redis: Redis = server.client()
  const store = new RedisStore(connectionOf(redis), { nameSpace: 'full:', timeoutMs: 5000 })
  t.teardown(() => store.close())
  t.match(await store.check(check(2, DAY, 1, 'early')), { allowed: true })
  let refused: unknown
  for (let index = 0; refused === undefined && index < 100_000; index += 200) {
    const crowd = Array.from({ length: 200 }, (_, at) => store.check(check(5, DAY, 1, `k${index + at}`)))
    const results = await Promise.allSettled(crowd)
    refused = results.find(result => result.status === 'rejected')?.reason
  }
  t.match(refused, { message: /OOM/ })
  await Promise.allSettled(Array.from({ length: 2000 }, (_, at) => store.check(check(5, DAY, 1, `late${at}`))))
  const used = Number(/used_memory:(\d+)/.exec(await redis.info('memory'))?.[1])
  t.ok(used < 3.3 * 1024 * 1024, `${used} bytes are used`)
  t.match(await store.peek(check(2, DAY, 0, 'early')), { policies: [{ used: 1 }] }, 'what was counted still counts')
})

t.test('a foreign value under the key of one client is left alone, and all others are answered', async t => {
  const server = await startRedis(t)
  const redis = server.client()
  const store = new RedisStore(connectionOf(redis), { nameSpace: 'foreign:', timeoutMs: 5000 })
  t.teardown(() => store.close())
  await redis.set('foreign:{taken}2.log.5', 'mine')
  const results = await Promise.allSettled([
    store.check(check(5, DAY, 1, 'before')),
    store.check(check(5, DAY, 1, 'taken')),
    store.check(check(5, DAY, 1, 'after')),
  ])
  t.strictSame(
    results.map(result => result.status),
    ['fulfilled', 'rejected', 'fulfilled'],
  )
  t.ok((results[1] as PromiseRejectedResult).reason instanceof StoreForeignKey)
  t.equal(await redis.get('foreign:{taken}2.log.5'), 'mine')
})
