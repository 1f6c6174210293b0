/** An admission has an identity: what is given back is what was charged, once, and only while it counts. */
import { Redis } from 'ioredis'
import t from 'tap'
import { connectionOf, type RedisClient } from '../../../plugin/src/clients/index.js'
import { LARGEST_TOTAL } from '../../../plugin/src/policy.js'
import { RedisStore } from '../../../plugin/src/stores/redis/redis-store.js'
import type { Answer, Check, Refund, Store } from '../../../plugin/src/stores/store.js'
import { longestLife } from '../../support/log.js'
import { startRedis, until } from '../../support/redis-fleet.js'
import {
  checkOf,
  memoryStore,
  namesOf,
  redisStore,
  refundsOf,
  sharedStore,
  type TimedStore,
} from '../../support/stores.js'

const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
t.teardown(() => redis.disconnect())

const WINDOW_MS = 600_000
const check = checkOf([{ limit: 2, windowMs: WINDOW_MS }])

/** What gives an admission back. */
function refundOf({ policies }: Answer, of: Check = check): Refund[] {
  return of.policies.map((policy, index) => ({
    policy,
    cost: policy.cost,
    admission: policies[index]?.admission,
  }))
}

const usedOf = async (store: Store, of: Check = check) => (await store.peek(of)).policies[0]?.used

const STORES: readonly (() => TimedStore)[] = [() => memoryStore(), () => redisStore(redis), () => sharedStore()]
for (const open of STORES) {
  const { name } = open()

  t.test(`${name}: an admission that has left its window gives nothing back`, async t => {
    const timed = open()
    t.teardown(() => timed.close())
    const first = await timed.store.check(check)
    await timed.pass(WINDOW_MS + 1000)
    await timed.store.check(check)
    await timed.store.check(check)
    t.strictSame([...(await timed.store.refund(check, refundOf(first)))], [0])
    t.match(await timed.store.check(check), { allowed: false }, 'two are in the window, and two are allowed')
  })

  t.test(`${name}: after a reset, earlier admissions take nothing of what came later`, async t => {
    const timed = open()
    t.teardown(() => timed.close())
    const first = await timed.store.check(check)
    await timed.store.reset(check.key, namesOf(check))
    await timed.store.check(check)
    t.strictSame([...(await timed.store.refund(check, refundOf(first)))], [0])
    t.equal(await usedOf(timed.store), 1)
  })

  t.test(
    `${name}: after a refund that has emptied the log, earlier admissions take nothing of what came later`,
    async t => {
      const timed = open()
      t.teardown(() => timed.close())
      const first = await timed.store.check(check)
      await timed.store.refund(check, refundsOf(check))
      await timed.store.check(check)
      t.strictSame([...(await timed.store.refund(check, refundOf(first)))], [0])
      t.equal(await usedOf(timed.store), 1)
    },
  )

  t.test(`${name}: what is given back comes off the oldest, also where entries share a slice`, async t => {
    const timed = open()
    t.teardown(() => timed.close())
    const wide = checkOf([{ limit: 1000, windowMs: WINDOW_MS, cost: 100 }], { precision: 0.01 })
    const answers: Answer[] = []
    for (let step = 0; step < 8; step++) {
      answers.push(await timed.store.check(wide))
      await timed.pass(2000)
    }
    for (const answer of answers.slice(4)) await timed.store.refund(wide, refundOf(answer, wide))
    t.equal(await usedOf(timed.store, wide), 400)
    await timed.pass(WINDOW_MS - 8 * 2000 + 5000)
    t.equal(await usedOf(timed.store, wide), 400, 'what stays is as new as it can be')
  })

  t.test(`${name}: totals beyond 2^53 go on counting, and a charge that cannot be counted is refused`, async t => {
    const timed = open()
    t.teardown(() => timed.close())
    const most = LARGEST_TOTAL
    const large = (cost: number) => checkOf([{ limit: Number.MAX_SAFE_INTEGER, windowMs: WINDOW_MS, cost }])
    for (let round = 0; round < 3; round++) {
      t.match(await timed.store.check(large(most - 5)), { allowed: true })
      t.match(await timed.store.check(large(5)), { allowed: true, policies: [{ used: most }] })
      t.match(await timed.store.check(large(1)), { allowed: false })
      await t.rejects(async () => timed.store.charge(large(1)), { code: 'ML_RATE_CHARGE_TOO_LARGE' })
      t.equal(await usedOf(timed.store, large(0)), most, 'and changes nothing')
      await timed.pass(WINDOW_MS + 1000)
    }
    const half = await timed.store.check(large(2 ** 52))
    await timed.pass(WINDOW_MS / 2)
    await timed.store.charge(large(2 ** 52 - 65))
    await timed.store.refund(large(1), refundOf(half, large(2 ** 52)))
    t.match(await timed.store.check(large(2 ** 51)), { allowed: true, policies: [{ used: 2 ** 52 + 2 ** 51 - 65 }] })
  })
}

/** The tests' Redis, through a client whose script calls can be watched and changed. */
function watched(t: Test, options: { timeoutMs?: number } = {}) {
  const client = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379', { lazyConnect: false })
  const calls: (string | number)[][] = []
  const state = { after: async (_reply: unknown) => {}, before: async () => {} }
  const send = client.evalsha.bind(client) as (...args: (string | number)[]) => Promise<unknown>
  const evalsha = async (...args: (string | number)[]) => {
    calls.push(args)
    await state.before()
    const reply = await send(...args)
    await state.after(reply)
    return reply
  }
  const nameSpace = `identity${process.pid}.${Math.random()}:`
  const proxy = new Proxy(client, { get: (of, key) => (key === 'evalsha' ? evalsha : Reflect.get(of, key)) })
  const store = new RedisStore(connectionOf(proxy as unknown as RedisClient), {
    nameSpace,
    timeoutMs: options.timeoutMs ?? 5000,
  })
  t.teardown(async () => {
    store.close()
    const left = await client.keys(`${nameSpace}*`)
    if (left.length > 0) await client.del(...left)
    client.disconnect()
  })
  return { store, client, calls, send, state, nameSpace }
}
type Test = { teardown(act: () => unknown): void }

t.test('a refund that is sent twice, as clients do after a reconnect, gives back once', async t => {
  const { store, calls, send } = watched(t)
  const many = checkOf([{ limit: 9, windowMs: WINDOW_MS, cost: 2 }])
  const [first] = [await store.check(many), await store.check(many), await store.check(many)]
  t.strictSame([...(await store.refund(many, refundOf(first, many)))], [2])
  await send(...(calls.at(-1) as (string | number)[]))
  await send(...(calls.at(-1) as (string | number)[]))
  t.equal(await usedOf(store, many), 4)
})

t.test('a refund that was given up changes nothing when it runs later', async t => {
  const { store, calls, send, state } = watched(t, { timeoutMs: 200 })
  const first = await store.check(check)
  // The call leaves the process, and Redis comes to it when its time is over.
  state.before = () => new Promise(() => {})
  await t.rejects(store.refund(check, refundOf(first)), { code: 'ML_RATE_STORE_TIMEOUT' })
  state.before = async () => {}
  t.equal(((await send(...(calls.at(-1) as (string | number)[]))) as unknown[]).length, 1, 'too late')
  t.equal(await usedOf(store), 1)
})

t.test('a refund as the first call of all learns the clock before, so that it has a deadline too', async t => {
  const { store, calls } = watched(t)
  t.strictSame([...(await store.refund(check, refundsOf(check)))], [0])
  t.equal(calls.length, 2)
})

t.test('a clock that has gone back a little lets no refund take units of others', async t => {
  const { store, pass, close } = redisStore(redis)
  t.teardown(close)
  const sliced = checkOf([{ limit: 200, windowMs: WINDOW_MS }], { precision: 0.01 })
  const first = await store.check(sliced)
  await pass(WINDOW_MS + 5)
  for (let index = 0; index < 3; index++) await store.check(sliced)
  // As little as passes for entries that are dated ahead.
  await pass(-1000)
  t.strictSame([...(await store.refund(sliced, refundOf(first, sliced)))], [0])
  t.equal(await usedOf(store, sliced), 3)
})

t.test('a permit is given back in the call that the turn makes anyway, and before its checks', async t => {
  const { store, calls } = watched(t)
  const one = checkOf([{ limit: 100, windowMs: WINDOW_MS }], { concurrency: { max: 1 } })
  const other = checkOf([{ limit: 100, windowMs: WINDOW_MS }], { key: 'other' })
  const { concurrency } = await store.check(one)
  const before = calls.length
  concurrency?.lease?.release()
  const [again] = await Promise.all([store.check(one), store.check(other)])
  t.match(again, { allowed: true }, 'the place is free for this turn')
  t.equal(calls.length, before + 1, 'one call for all of it')
  again.concurrency?.lease?.release()
  await store.peek(other)
  t.equal(calls.length, before + 2)
  const alone = await store.check(one)
  alone.concurrency?.lease?.release()
  await new Promise(resolve => setImmediate(resolve))
  t.equal(calls.length, before + 4, 'where there is no check, a call of its own')
})

t.test('each check has its own time, though one call holds several', async t => {
  const { store, state } = watched(t, { timeoutMs: 1000 })
  await until('Redis has the script', async () => (await store.check(check)).allowed)
  const first = Promise.resolve(store.check(check))
  // Redis is asked once the first has been given up.
  state.before = () => first.then(undefined, () => {})
  const since = performance.now()
  // The turn goes on for most of a second before the second check is raised; both are sent when it ends.
  while (performance.now() - since < 900);
  const second = Promise.resolve(store.check(checkOf([{ limit: 2, windowMs: WINDOW_MS }], { key: 'second' })))
  await t.rejects(first, { code: 'ML_RATE_STORE_TIMEOUT' })
  t.match(await second, { allowed: true }, 'asked later, and answered within its own second of waiting')
})

t.test('replies are read as numbers whatever the client makes of them', async t => {
  const client = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379', { stringNumbers: true })
  const nameSpace = `strings${process.pid}:`
  const store = new RedisStore(connectionOf(client as unknown as RedisClient), { nameSpace, timeoutMs: 5000 })
  t.teardown(async () => {
    store.close()
    await client.del(...(await client.keys(`${nameSpace}*`)))
    client.disconnect()
  })
  const held = checkOf([{ limit: 5, windowMs: WINDOW_MS }], { concurrency: { max: 1 }, penalty: 'count' })
  const answer = await store.check(held)
  t.match(answer, { allowed: true, policies: [{ used: 1, denials: 0 }], concurrency: { inFlight: 1, violated: false } })
  t.match(await store.check(held), { allowed: false, concurrency: { inFlight: 1, violated: true } })
  t.strictSame([...(await store.refund(held, refundOf(answer, held)))], [1])
})

t.test(
  'a log of 200,000 entries: neither refunds nor a step of the clock nor other slices hold Redis for long',
  async t => {
    const server = await startRedis(t)
    const client = server.client()
    const store = new RedisStore(connectionOf(client as unknown as RedisClient), {
      nameSpace: 'many:',
      timeoutMs: 60_000,
    })
    t.teardown(() => store.close())
    const many = checkOf([{ limit: 1_000_000, windowMs: WINDOW_MS }], { precision: 0 })
    const key = 'many:{client}2.log.p'
    // Dated an hour ahead, as a log is whose clock has gone back by an hour.
    await client.eval(
      `local from = (redis.call('TIME')[1] + 3600) * 1000000
    for i = 1, 200000 do redis.call('ZADD', KEYS[1], from + i, string.format('%d', i)) end
    redis.call('ZADD', KEYS[1], '+inf', struct.pack('>ddddd', from, ${WINDOW_MS * 1000}, from + 1, 0, 0))
    redis.call('PEXPIRE', KEYS[1], 7200000)`,
      1,
      key,
    )
    const cpu = async () => Number(/used_cpu_user:([\d.]+)/.exec(await client.info('cpu'))?.[1])
    const before = await cpu()
    const answer = await store.check(many)
    t.match(answer, { allowed: true, policies: [{ used: 200_001 }] })
    t.ok((await client.pttl(key)) <= longestLife(WINDOW_MS), 'it ends with its window by the clock as it is now')
    t.strictSame([...(await store.refund(many, refundOf(answer, many)))], [1])
    const policy = many.policies[0] as Check['policies'][number]
    t.strictSame([...(await store.refund(many, [{ policy, cost: 50_000, admission: undefined }]))], [50_000])
    const earlier = {
      generation: (answer.policies[0]?.admission?.generation as number) - 200_001,
      time: Number.MAX_SAFE_INTEGER,
    }
    t.strictSame([...(await store.refund(many, [{ policy, cost: 1, admission: earlier }]))], [0], 'another generation')
    for (let round = 0; round < 20; round++) {
      await store.check(checkOf([{ limit: 1_000_000, windowMs: WINDOW_MS, cost: 8 }], { precision: 0.01 }))
    }
    t.ok((await client.zcard(key)) < 197_000, 'entries of a slice are merged, some at a time')
    await store.reset('client', namesOf(many))
    t.equal(await client.exists(key), 0)
    // About thirty calls. Each would take about a second if it read all of the log.
    const used = (await cpu()) - before
    t.ok(used < 2, `${used} s of Redis`)
  },
)
