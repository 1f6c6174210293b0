import type { Redis } from 'ioredis'
import t from 'tap'
import { ask, inRedis, limited, redisClient, statuses } from '../support/plugin.js'

const other = { url: '/', headers: { 'x-key': 'other' } }
const FOREIGN = { statusCode: 500, code: 'ML_RATE_STORE_FOREIGN_KEY' }

/** The time in µs, some milliseconds off. */
const us = (ms: number) => (Date.now() + ms) * 1000

/** What others may have put under a key of ours. */
const VALUES: Readonly<Record<string, (redis: Redis, key: string) => Promise<unknown>>> = {
  'a string': (redis, key) => redis.set(key, 'mine'),
  'a hash': (redis, key) => redis.hset(key, 'a', 1),
  'a list': (redis, key) => redis.rpush(key, 'a'),
  'a sorted set of other members': (redis, key) => redis.zadd(key, 1, 'ann', 2, 'bob', 3, 'cat'),
  'a sorted set of one other member': (redis, key) => redis.zadd(key, 5, 'ann'),
  'a sorted set with names before numbers': (redis, key) => redis.zadd(key, us(-2), 'ann', us(-1), '4', us(0), '5'),
}

for (const [what, put] of Object.entries(VALUES)) {
  for (const penalty of ['none', 'count', 'renew'] as const) {
    t.test(`${what} under a key (penalty: ${penalty}) is left alone, and others are answered`, async t => {
      const shared = inRedis(t)
      const app = await limited(t, {
        ...shared,
        max: 1,
        timeWindow: '1 minute',
        denyMemory: false,
        concurrency: { max: 100 },
        ...(penalty === 'count' && { ban: 9 }),
        ...(penalty === 'renew' && { continueExceeding: true }),
      })
      t.strictSame(await statuses(app, 2), [200, 429], 'now every key of this client is there')
      const redis = redisClient(t)
      const keys = (await redis.keys(`${shared.nameSpace}*`)).filter(key => !key.endsWith('/permits'))
      t.equal(keys.length, penalty === 'none' ? 1 : 2)
      for (const key of keys) {
        const ours = await redis.dumpBuffer(key)
        await redis.del(key)
        await put(redis, key)
        const theirs = await redis.dumpBuffer(key)
        const [one, two] = await Promise.all([ask(app), ask(app, { ...other, headers: { 'x-key': key } })])
        t.match(one.json(), FOREIGN)
        t.equal(two.statusCode, 200, 'asked in the same call')
        t.ok((await redis.dumpBuffer(key)).equals(theirs))
        await redis.restore(key, 60_000, ours, 'REPLACE')
      }
    })
  }
}

t.test('a string under the key of the requests in flight is left alone, too', async t => {
  const shared = inRedis(t)
  const app = await limited(t, { ...shared, concurrency: { max: 2 } })
  await ask(app)
  const redis = redisClient(t)
  const [log] = await redis.keys(`${shared.nameSpace}{lone}*`)
  const permits = `${log?.slice(0, log.lastIndexOf(':'))}/permits`
  await redis.set(permits, 'mine')
  const [one, two] = await Promise.all([ask(app), ask(app, other)])
  t.match(one.json(), FOREIGN)
  t.equal(two.statusCode, 200)
  t.equal(await redis.get(permits), 'mine')
})
