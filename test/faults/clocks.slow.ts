/**
 * Clocks that step. The clock of a Redis cannot be set; instead all that it keeps is made older or newer, expiry
 * included, which is what a Redis finds whose clock has stepped, or which takes over from one with another clock.
 */
import fc from 'fast-check'
import { Redis } from 'ioredis'
import t from 'tap'
import { connectionOf } from '../../plugin/src/clients/index.js'
import { RedisStore } from '../../plugin/src/stores/redis/redis-store.js'
import type { Answer } from '../../plugin/src/stores/store.js'
import { longestLife, shiftLog } from '../support/log.js'
import { checkOf, memoryStore, redisStore, type TimedStore } from '../support/stores.js'
import { WindowOracle } from '../support/window-oracle.js'

const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
t.teardown(() => redis.disconnect())

const WINDOW_MS = 600_000
const HOUR_MS = 3_600_000
/** What a test may take of the real time of Redis, at most. */
const SLACK_MS = 60_000
const waitOf = ({ policies }: Answer) => Math.max(...policies.map(({ retryMs }) => retryMs))

const STORES: readonly { open: () => TimedStore; runs: number }[] = [
  { open: () => memoryStore(), runs: Number(process.env.FC_RUNS ?? 300) },
  { open: () => redisStore(redis), runs: Number(process.env.FC_RUNS ?? 60) },
]

const history = fc.record({
  precision: fc.constantFrom(0, 0.01),
  limit: fc.integer({ min: 1, max: 200 }),
  steps: fc.array(
    fc.record({
      cost: fc.integer({ min: 1, max: 80 }),
      share: fc.double({ min: 0, max: 0.4, noNaN: true }),
      back: fc.constantFrom(0, 0, 0, 200, 30_000, WINDOW_MS, HOUR_MS, 24 * HOUR_MS),
    }),
    { minLength: 3, maxLength: 15 },
  ),
})

for (const { open, runs } of STORES) {
  const { name } = open()
  t.test(
    `${name}: the clock steps back: never more than the quota, and nobody waits longer than the window`,
    async t => {
      let stuck = 0
      await fc.assert(
        fc.asyncProperty(history, async ({ precision, limit, steps }) => {
          const timed = open()
          const truth = new WindowOracle()
          let time = 0
          const pass = (ms: number) => {
            time += ms
            return timed.pass(ms)
          }
          const ask = async (cost: number) => {
            const answer = await timed.store.check(checkOf([{ limit, windowMs: WINDOW_MS, cost }], { precision }))
            if (answer.allowed) truth.charge(time, cost)
            return answer
          }
          try {
            for (const { cost, share, back } of steps) {
              await pass(Math.round(share * WINDOW_MS))
              // Only the clock: no time has gone by.
              if (back > 0) await timed.pass(-back)
              const answer = await ask(cost)
              if (answer.allowed || cost > limit) continue
              stuck++
              const wait = waitOf(answer)
              // Where entries share slices, the newest may be a slice ahead of the clock, a second at most.
              if (wait > WINDOW_MS + 1100) throw new Error(`a wait of ${wait} ms`)
              await pass(Math.ceil(wait))
              if (!(await ask(cost)).allowed) throw new Error(`denied after a wait of ${wait} ms`)
            }
            const most = truth.fullest(WINDOW_MS - SLACK_MS)
            if (most > limit) throw new Error(`${most} admitted in one window, the limit is ${limit}`)
          } finally {
            await timed.close()
          }
        }),
        { numRuns: runs },
      )
      t.ok(stuck > runs / 10, `${stuck} waits in ${runs} histories`)
    },
  )

  t.test(`${name}: the clock steps forward: one more quota at most, and then all is as before`, async t => {
    const timed = open()
    t.teardown(() => timed.close())
    const answers = async (times: number) => {
      const list: boolean[] = []
      for (let i = 0; i < times; i++) {
        list.push((await timed.store.check(checkOf([{ limit: 3, windowMs: WINDOW_MS }]))).allowed)
      }
      return list
    }
    t.strictSame(await answers(4), [true, true, true, false])
    await timed.pass(HOUR_MS)
    t.strictSame(await answers(4), [true, true, true, false])
    await timed.pass(WINDOW_MS - SLACK_MS)
    t.strictSame(await answers(1), [false])
    await timed.pass(SLACK_MS)
    t.strictSame(await answers(4), [true, true, true, false])
    await timed.pass(-HOUR_MS)
    t.strictSame(await answers(1), [false], 'and back: nobody gets more')
    await timed.pass(WINDOW_MS)
    t.strictSame(await answers(4), [true, true, true, false], 'a window later all is as before')
  })

  for (const penalty of ['count', 'renew', 'backoff'] as const) {
    t.test(
      `${name}: the clock steps back while a client pays a penalty (${penalty}): it is over in its time`,
      async t => {
        const timed = open()
        t.teardown(() => timed.close())
        const ask = async () => timed.store.check(checkOf([{ limit: 1, windowMs: WINDOW_MS }], { penalty }))
        await ask()
        t.match(await ask(), { allowed: false, policies: [{ denials: 1 }] })
        await timed.pass(-HOUR_MS)
        const denied = await ask()
        t.match(denied, { allowed: false, policies: [{ denials: 2 }] }, 'nor is it forgotten')
        const longest = penalty === 'backoff' ? 2 * WINDOW_MS : WINDOW_MS
        t.ok(waitOf(denied) <= longest, `${waitOf(denied)} ms`)
        await timed.pass(longest)
        t.match(await ask(), { allowed: true })
      },
    )
  }
}

t.test('the clock of Redis steps back: every key still ends with its window', async t => {
  const nameSpace = `ends${process.pid}:`
  const store = new RedisStore(connectionOf(redis), { nameSpace, timeoutMs: 30_000 })
  t.teardown(() => store.close())
  const policies = [{ limit: 2, windowMs: WINDOW_MS }]
  const checks = [
    checkOf(policies, { key: 'plain' }),
    checkOf(policies, { key: 'counted', penalty: 'count' }),
    checkOf(policies, { key: 'renewed', penalty: 'renew' }),
    checkOf(policies, { key: 'held', concurrency: { max: 1, ttlMs: WINDOW_MS } }),
  ]
  const askAll = async () => {
    for (let round = 0; round < 3; round++) for (const check of checks) await store.check(check)
  }
  await askAll()
  const keys = await redis.keys(`${nameSpace}*`)
  t.equal(keys.length, 7)
  for (const key of keys) {
    if ((await redis.type(key)) === 'string') {
      const [denials, ...stamps] = `${await redis.get(key)}`.split(':')
      await redis.set(key, [denials, ...stamps.map(stamp => Number(stamp) + HOUR_MS * 1000)].join(':'))
    } else {
      await shiftLog(redis, key, HOUR_MS)
      if (key.endsWith('permits')) {
        for (const lease of await redis.zrange(key, '0', '-1')) {
          await redis.zrem(key, lease)
          await redis.zadd(key, `${Number(lease) + (HOUR_MS + WINDOW_MS) * 1000}`, `${Number(lease) + HOUR_MS * 1000}`)
        }
      }
    }
    await redis.pexpire(key, WINDOW_MS + HOUR_MS)
  }
  await askAll()
  for (const key of keys) {
    const ttl = await redis.pttl(key)
    t.ok(ttl > WINDOW_MS - SLACK_MS && ttl <= longestLife(WINDOW_MS) + 1000, `${key}: ${ttl} ms`)
    if (!key.endsWith('permits')) continue
    const [, till] = await redis.zrange(key, '-1', '-1', 'WITHSCORES')
    const [seconds] = await redis.time()
    t.ok(Number(till) / 1e6 - Number(seconds) < (WINDOW_MS + SLACK_MS) / 1000, 'a place nobody holds is free then, too')
  }
})
