import fc from 'fast-check'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { connectionOf } from '../../../plugin/src/clients/index.js'
import type { Connection } from '../../../plugin/src/stores/redis/client.js'
import { RedisStore, type RedisStoreOptions } from '../../../plugin/src/stores/redis/redis-store.js'
import type { Answer, Check, Refund } from '../../../plugin/src/stores/store.js'
import { readLog, shiftLog } from '../../support/log.js'
import { ask, fullest, redisOrigin, type Served } from '../../support/served.js'
import { checkOf, namesOf, type PolicySpec, refundsOf } from '../../support/stores.js'

/** Quota taken ahead by a replica: `prefetch`. */
const REDIS_URL = process.env.REDIS_URL ?? 'redis://127.0.0.1:6379'
const RUNS = Number(process.env.FC_RUNS ?? 6)
const admin = new Redis(REDIS_URL)
t.teardown(() => admin.disconnect())

let spaces = 0
const newSpace = () => `prefetch${process.pid}.${spaces++}:`
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

function newStore(t: Test, options: Partial<RedisStoreOptions> = {}) {
  const client = new Redis(REDIS_URL)
  const nameSpace = newSpace()
  const store = new RedisStore(connectionOf(client), { nameSpace, timeoutMs: 10_000, denyMemory: 100, ...options })
  t.teardown(async () => {
    store.close()
    await client.quit()
  })
  let calls = 0
  const send = client.evalsha.bind(client)
  client.evalsha = ((...args: never[]) => {
    calls++
    return (send as (...args: never[]) => unknown)(...args)
  }) as never
  return { store, client, calls: () => calls, nameSpace: String(options.nameSpace ?? nameSpace) }
}

const ahead = (policies: readonly PolicySpec[], rest: Partial<Check> = {}): Check => ({
  ...checkOf(policies, { precision: 0.01, ...(rest.key !== undefined && { key: rest.key }) }),
  prefetch: Number.POSITIVE_INFINITY,
  ...rest,
})

const HOUR = 3_600_000
const MINUTE = 60_000

async function until(condition: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await condition())) await pause(5)
}

/** Until what was taken ahead and not spent is back, so that just so many units count. */
const counting = (store: RedisStore, check: Check, units: number) =>
  until(async () => {
    const [policy] = (await store.peek(check)).policies
    return policy?.prefetched === undefined && policy?.used === units
  })

/** Makes a key busy, so that quota is out when it returns. */
async function warm(store: RedisStore, check: Check): Promise<number> {
  let admitted = 0
  for (;;) {
    const answer = store.check(check)
    const isHere = !(answer instanceof Promise)
    if ((await answer).allowed) admitted++
    if (isHere && ((await store.peek(check)).policies[0]?.prefetched ?? 0) > 2) return admitted
  }
}

t.test('most requests of a busy key are answered without Redis, and each is counted once', async t => {
  const { store, calls } = newStore(t)
  const check = ahead([{ limit: 1_000_000, windowMs: MINUTE }])
  for (let index = 0; index < 5000; index++) {
    if (!(await store.check(check)).allowed) t.fail('denied')
  }
  t.ok(calls() < 500, `${calls()} calls`)
  await counting(store, check, 5000)
})

t.test('a key that is seen once takes nothing ahead', async t => {
  const { store } = newStore(t)
  for (let index = 0; index < 50; index++) {
    const check = ahead([{ limit: 1000, windowMs: MINUTE }], { key: `key ${index}` })
    await store.check(check)
    const [policy] = (await store.peek(check)).policies
    t.match(policy, { used: 1, ahead: 0, prefetched: undefined })
  }
})

t.test('the busiest keys are followed among any number of others', async t => {
  const { store } = newStore(t)
  const check = ahead([{ limit: 1_000_000, windowMs: MINUTE }])
  await warm(store, check)
  for (let from = 0; from < 12_000; from += 1000) {
    const others = Array.from({ length: 1000 }, (_, index) => ({ ...check, key: `other ${from + index}` }))
    await Promise.all(others.map(other => store.check(other)))
    await store.check(check)
  }
  await warm(store, check)
  t.pass('quota of it is still taken ahead')
})

t.test('what was taken ahead and not spent goes back at its end, without traffic', async t => {
  const { store } = newStore(t)
  const check = ahead([{ limit: 100_000, windowMs: MINUTE }])
  const admitted = await warm(store, check)
  await counting(store, check, admitted)
})

t.test('what goes back leaves older units their time, and its own entry only what was used', async t => {
  for (const othersAfter of [0, 10]) {
    const { store, client, nameSpace } = newStore(t)
    const policies = [{ limit: 100_000, windowMs: MINUTE }]
    const check = ahead(policies)
    await store.check(ahead([{ ...policies[0], cost: 500 } as PolicySpec], { prefetch: undefined }))
    const [key] = (await client.keys(`${nameSpace}*`)) as [string]
    await shiftLog(client, key, -50_000)
    let admitted = await warm(store, check)
    // Another replica, that takes nothing ahead.
    const other = newStore(t, { nameSpace }).store
    for (; admitted > 0 && othersAfter > 0 && admitted % othersAfter !== 0; admitted++) {
      t.equal((await other.check({ ...check, prefetch: undefined })).allowed, true)
    }
    await counting(store, check, 500 + admitted)
    const [first] = (await readLog(client, key)).entries
    t.equal(first?.total, 500, 'the old ones are still there')
    await shiftLog(client, key, -15_000)
    t.equal((await store.peek(check)).policies[0]?.used, admitted, 'and leave at their time')
  }
})

t.test('what was not used comes off its own entry, and off the oldest units where many entries are newer', async t => {
  for (const newer of [0, 3, 40]) {
    for (const cost of [3, 4]) {
      const { store, client, nameSpace } = newStore(t)
      const admit = async (cost: number) => {
        const check = ahead([{ limit: 1000, windowMs: MINUTE, cost }], { prefetch: undefined })
        const [policy] = (await store.check(check)).policies
        const [key] = (await client.keys(`${nameSpace}*`)).filter(key => !key.includes('~'))
        // Each in a slice of its own.
        await shiftLog(client, key as string, -1200)
        return { check, key: key as string, admission: policy?.admission }
      }
      const { key } = await admit(5)
      const { check, admission } = await admit(4)
      for (let index = 0; index < newer; index++) await admit(1)
      const policy = check.policies[0] as (typeof check.policies)[number]
      t.strictSame(await store.refund(check, [{ policy, cost, admission, isAhead: true }]), [cost])
      t.equal((await store.peek(check)).policies[0]?.used, 9 - cost + newer)
      // The first one leaves the window, and the second does not.
      const [first, second] = (await readLog(client, key)).entries
      const [seconds, micros] = (await client.time()).map(Number) as [number, number]
      const { shift = 0 } = (await readLog(client, key)).summary ?? {}
      const passedMs = (seconds * 1e6 + micros + shift - (first?.time ?? 0)) / 1000
      t.ok((second?.time ?? 0) - (first?.time ?? 0) > 1_000_000 || newer === 0)
      await shiftLog(client, key, passedMs - 60_000)
      const left = newer > 32 ? 4 : 4 - cost
      t.equal((await store.peek(check)).policies[0]?.used, left + newer, `${newer} newer entries`)
    }
  }
})

t.test('of what was not used nothing comes back that has left the window, or of another generation', async t => {
  const { store, client, nameSpace } = newStore(t)
  const check = ahead([{ limit: 1000, windowMs: MINUTE, cost: 5 }], { prefetch: undefined })
  const policy = check.policies[0] as (typeof check.policies)[number]
  const admission = (await store.check(check)).policies[0]?.admission
  const [key] = (await client.keys(`${nameSpace}*`)) as [string]
  await shiftLog(client, key, -60_001)
  await store.check(check)
  t.strictSame(await store.refund(check, [{ policy, cost: 2, admission, isAhead: true }]), [0])
  await store.reset('client', namesOf(check))
  await store.check(check)
  t.strictSame(await store.refund(check, [{ policy, cost: 2, admission, isAhead: true }]), [0])
  t.equal((await store.peek(check)).policies[0]?.used, 5)
})

t.test('status tells what this replica has taken ahead, and what all have', async t => {
  const nameSpace = newSpace()
  const [one, two] = [newStore(t, { nameSpace }).store, newStore(t, { nameSpace }).store]
  const check = ahead([{ limit: 100_000, windowMs: MINUTE }])
  const admitted = await warm(one, check)
  const [mine, theirs] = [(await one.peek(check)).policies[0], (await two.peek(check)).policies[0]]
  t.equal(mine?.used, admitted)
  t.ok((mine?.prefetched ?? 0) > 0)
  t.equal(theirs?.used, admitted + (mine?.prefetched ?? 0), 'for others it counts')
  t.equal(theirs?.prefetched, undefined)
  t.ok((theirs?.ahead ?? 0) >= (mine?.prefetched ?? 0))
})

for (const [name, policies] of [
  ['one policy', [{ limit: 1000, windowMs: HOUR }]],
  ['a cost of 3', [{ limit: 1000, windowMs: HOUR, cost: 3 }]],
  [
    'two policies',
    [
      { name: 'a', limit: 700, windowMs: HOUR },
      { name: 'b', limit: 1500, windowMs: 2 * HOUR, cost: 2 },
    ],
  ],
] as [string, PolicySpec[]][]) {
  for (const atOnce of [1, 20]) {
    t.test(`a lone client gets its whole quota, to the unit: ${name}, ${atOnce} at once`, async t => {
      const { store, calls } = newStore(t)
      const check = ahead(policies)
      let admitted = 0
      let denial: Answer | undefined
      while (denial === undefined) {
        const answers = await Promise.all(Array.from({ length: atOnce }, () => store.check(check)))
        admitted += answers.filter(({ allowed }) => allowed).length
        denial = answers.find(({ allowed }) => !allowed)
      }
      const whole = Math.min(...policies.map(({ limit, cost = 1 }) => Math.floor(limit / cost)))
      t.equal(admitted, whole)
      t.ok(calls() < whole / 2, `${calls()} calls`)
      const peek = await store.peek(check)
      t.equal(peek.policies[0]?.used, whole * (policies[0]?.cost ?? 1))
    })
  }
}

t.test('what this replica charges, admits otherwise and gives back shows in what it answers ahead at once', async t => {
  const { store } = newStore(t)
  const policies = [{ limit: 1_000_000, windowMs: HOUR }]
  const check = ahead(policies)
  const ofCost = (cost: number) => ahead([{ ...policies[0], cost } as PolicySpec], { prefetch: undefined })
  let used = await warm(store, check)
  /** What the next answer says that is given without Redis. */
  const answeredAhead = async () => {
    for (;;) {
      const answer = store.check(check)
      used++
      if (!(answer instanceof Promise)) return answer.policies[0]?.used
      await answer
    }
  }
  for (let times = 0; times < 20; times++) {
    t.equal(await answeredAhead(), used)
    await store.charge(ofCost(40))
    used += 40
    t.equal(await answeredAhead(), used, 'charged')
    const { policies: charged } = await store.check(ofCost(7))
    used += 7
    t.equal(await answeredAhead(), used, 'admitted without a grant')
    const [refund] = refundsOf(ofCost(7)) as [Refund]
    await store.refund(ofCost(7), [{ ...refund, admission: charged[0]?.admission }])
    used -= 7
    t.equal(await answeredAhead(), used, 'refunded')
    await store.refund(check, refundsOf(ofCost(11)))
    used -= 11
    t.equal(await answeredAhead(), used, 'given back by an operator')
  }
  await counting(store, check, used)
})

t.test('units that are out come back before the replica denies another request of the key', async t => {
  const { store } = newStore(t)
  const small = ahead([{ limit: 1000, windowMs: HOUR }])
  const large = ahead([{ limit: 1000, windowMs: HOUR, cost: 300 }], { prefetch: undefined })
  let isShort = false
  while (!isShort) {
    await store.check(small)
    const { used = 0, prefetched = 0 } = (await store.peek(small)).policies[0] ?? {}
    if (used > 700) t.fail('nothing was out when it was needed')
    isShort = used + prefetched > 700
  }
  t.equal((await store.check(large)).allowed, true)
})

t.test('reset forgets what was taken ahead', async t => {
  const { store } = newStore(t)
  const check = ahead([{ limit: 1000, windowMs: HOUR }])
  await warm(store, check)
  await store.reset(check.key, namesOf(check))
  t.match((await store.peek(check)).policies[0], { used: 0, prefetched: undefined })
  let admitted = 0
  while ((await store.check(check)).allowed) admitted++
  t.equal(admitted, 1000)
})

t.test('a refund of a request that was answered ahead gives its units back, and no more', async t => {
  const { store } = newStore(t)
  const check = ahead([{ limit: 100_000, windowMs: HOUR }])
  const admitted = await warm(store, check)
  const answer = await store.check(check)
  t.notOk(answer instanceof Promise)
  const [policy] = check.policies
  const refunds = [{ policy: policy as never, cost: 1, admission: answer.policies[0]?.admission }]
  t.strictSame(await store.refund(check, refunds), [1])
  t.equal((await store.peek(check)).policies[0]?.used, admitted)
})

t.test('a store that closes gives back what is out', async t => {
  const nameSpace = newSpace()
  const { store, client } = newStore(t, { nameSpace })
  const check = ahead([{ limit: 100_000, windowMs: HOUR }])
  const admitted = await warm(store, check)
  store.close()
  await client.ping()
  t.match((await newStore(t, { nameSpace }).store.peek(check)).policies[0], { used: admitted })
})

for (const [name, check] of Object.entries({
  'with permits': ahead([{ limit: 1000, windowMs: HOUR }], {
    concurrency: { name: 'c', max: 50, ttlMs: 1000, log: 'permits' },
  }),
  'with a penalty': ahead([{ limit: 1000, windowMs: HOUR }], { penalty: 'count' }),
  'with precision 0': { ...checkOf([{ limit: 1000, windowMs: HOUR }]), prefetch: 1000 },
  'with a quota below the number of slices': ahead([{ limit: 100, windowMs: HOUR }]),
  'where one policy of two is not sliced': ahead([
    { name: 'a', limit: 1000, windowMs: HOUR },
    { name: 'b', limit: 90, windowMs: HOUR },
  ]),
  'where a request is free': ahead([{ limit: 1000, windowMs: HOUR, cost: 0 }]),
  'where it is off': ahead([{ limit: 1000, windowMs: HOUR }], { prefetch: undefined }),
})) {
  t.test(`nothing is taken ahead ${name}`, async t => {
    const { store } = newStore(t)
    for (let index = 0; index < 40; index++) {
      const answer = await store.check(check)
      answer.concurrency?.lease?.release()
      for (const policy of (await store.peek(check)).policies) t.match(policy, { ahead: 0, prefetched: undefined })
    }
  })
}

t.test('no more is taken ahead than prefetch.max', async t => {
  const { store } = newStore(t)
  const check = ahead([{ limit: 1_000_000, windowMs: MINUTE }], { prefetch: 5 })
  for (let index = 0; index < 500; index++) {
    await store.check(check)
    const out = (await store.peek(check)).policies[0]?.prefetched ?? 0
    // One grant is spent while the next is there.
    if (out > 10) t.fail(`${out} are out`)
  }
})

t.test('near the limit nothing is taken ahead, so that no replica starves another', async t => {
  const { store } = newStore(t, { replicas: () => 4 })
  const check = ahead([{ limit: 1000, windowMs: HOUR }])
  for (let used = 0; used < 1000; ) {
    used = (await store.check(check)).policies[0]?.used ?? 0
    const { prefetched: out = 0 } = (await store.peek(check)).policies[0] ?? {}
    if (out > (1000 - used) / 8 + 1) t.fail(`${out} are out where ${1000 - used} are left for four replicas`)
  }
})

t.test('entries dated ahead do not make others leave the window early', async t => {
  const { store, client, nameSpace } = newStore(t)
  const check = ahead([{ limit: 100_000, windowMs: 10_000 }])
  await store.check(ahead([{ limit: 100_000, windowMs: 10_000, cost: 600 }], { prefetch: undefined }))
  const [key] = (await client.keys(`${nameSpace}*`)) as [string]
  await shiftLog(client, key, -9000)
  const { summary, entries } = await readLog(client, key)
  const leaves = (entries[0]?.time ?? 0) + 10_000_000 - (summary?.shift ?? 0)
  let looks = 0
  for (let counts = true; counts; ) {
    await store.check(check)
    const [policy] = (await store.peek(check)).policies
    const [seconds, micros] = (await client.time()).map(Number) as [number, number]
    counts = seconds * 1e6 + micros < leaves
    if (!counts) break
    if ((policy?.used ?? 0) < 600) t.fail(`${policy?.used} are counted`)
    if ((policy?.ahead ?? 0) > 0) looks++
  }
  t.ok(looks > 0)
})

t.test('a key is kept until its newest entry has left the window, which may be a life later', async t => {
  const { store, client, nameSpace } = newStore(t)
  const check = ahead([{ limit: 100_000, windowMs: 10_000 }])
  await warm(store, check)
  const [key] = (await client.keys(`${nameSpace}*`)).filter(key => !key.includes('~'))
  const [, newest] = await client.zrange(key as string, '-2', '-2', 'WITHSCORES')
  const [seconds] = await client.time()
  t.ok(Number(seconds) * 1000 + (await client.pttl(key as string)) >= Number(newest) / 1000 + 10_000 - 1000)
})

t.test('waiting retry-after suffices, also where quota was taken ahead', async t => {
  const { store } = newStore(t)
  const check = ahead([{ limit: 300, windowMs: 1000 }])
  for (let round = 0; round < 3; round++) {
    for (let index = 0; index < 100; index++) await store.check(check)
    // More than the quota at once, so that it is used up however slow the machine is.
    const crowd = await Promise.all(Array.from({ length: 400 }, () => store.check(check)))
    const denied = crowd.filter(({ allowed }) => !allowed)
    t.ok(denied.length > 0)
    const waitMs = Math.max(...denied.flatMap(({ policies }) => policies.map(({ retryMs }) => retryMs)))
    t.ok(waitMs <= 1000 + 10 + 5, `${waitMs} ms: a window and a life at the most`)
    await pause(Math.ceil(waitMs) + 1)
    t.equal((await store.check(check)).allowed, true)
  }
})

t.test('requests that wait for a grant each have their own time', async t => {
  const { store, client } = newStore(t, { timeoutMs: 150 })
  const check = ahead([{ limit: 100_000, windowMs: HOUR }])
  await store.check(check)
  client.evalsha = (() => new Promise(() => {})) as never
  const waited = async () => {
    const since = performance.now()
    await t.rejects(Promise.resolve(store.check(check)), { code: 'ML_RATE_STORE_TIMEOUT' })
    return performance.now() - since
  }
  const waits: Promise<number>[] = []
  for (let index = 0; index < 3; index++) {
    waits.push(waited())
    await pause(40)
  }
  for (const ms of await Promise.all(waits)) t.ok(ms >= 149, `given up after ${Math.round(ms)} ms`)
})

t.test('requests that wait for a grant while the connection is lost each have their own time', async t => {
  const client = new Redis(REDIS_URL)
  let isReady = true
  const listeners: (() => void)[] = []
  const connection: Connection = Object.create(connectionOf(client), {
    status: { get: () => (isReady ? 'ready' : 'connecting') },
    onReady: {
      value: (listener: () => void) => {
        listeners.push(listener)
        return () => {}
      },
    },
  })
  const store = new RedisStore(connection, { nameSpace: newSpace(), timeoutMs: 1000 })
  t.teardown(() => {
    store.close()
    client.disconnect()
  })
  await client.ping()
  const check = ahead([{ limit: 100_000, windowMs: HOUR }])
  await store.check(check)
  const one = Promise.resolve(store.check(check))
  // It is lost before the turn is over in which the call is sent.
  isReady = false
  await pause(800)
  const two = Promise.resolve(store.check(check))
  await t.rejects(one, { code: 'ML_RATE_STORE_TIMEOUT' })
  isReady = true
  for (const listener of listeners) listener()
  t.match(await two, { allowed: true, policies: [{ used: 2 }] })
})

t.test('a key that was near its limit is answered ahead again once there is room', async t => {
  const { store, client, calls, nameSpace } = newStore(t, { denyMemory: 0 })
  const check = ahead([{ limit: 1000, windowMs: MINUTE }])
  while ((await store.check(check)).allowed);
  const [key] = (await client.keys(`${nameSpace}*`)).filter(key => !key.includes('~'))
  await shiftLog(client, key as string, -MINUTE - 1000)
  const before = calls()
  for (let index = 0; index < 400; index++) await store.check(check)
  t.ok(calls() - before < 200, `${calls() - before} calls`)
})

t.test('a reset forgets what a call takes ahead that is on its way', async t => {
  const { store, client } = newStore(t)
  const check = ahead([{ limit: 1000, windowMs: HOUR }])
  const send = client.evalsha.bind(client) as (...args: unknown[]) => Promise<unknown>
  let reset: Promise<void> | undefined
  // The first call for a grant comes back after the reset.
  client.evalsha = ((...args: unknown[]) => {
    const reply = send(...args)
    if (reset !== undefined || !args.includes('3')) return reply
    reset = store.reset(check.key, namesOf(check))
    return Promise.all([reply, reset]).then(([answer]) => answer)
  }) as never
  while (reset === undefined) await store.check(check)
  await reset
  client.evalsha = send as never
  let admitted = 0
  while ((await store.check(check)).allowed) admitted++
  t.equal(admitted, 1000)
})

for (const [what, fails] of [
  ['came to Redis too late for the first of them', false],
  ['failed after the first of them had given up', true],
] as const) {
  t.test(`requests that wait for a grant are answered where its call ${what}`, async t => {
    const { store, client } = newStore(t, { timeoutMs: 1000 })
    const check = ahead([{ limit: 100_000, windowMs: HOUR }])
    await store.check(check)
    const send = client.evalsha.bind(client) as (...args: unknown[]) => Promise<unknown>
    let first = true
    client.evalsha = (async (...args: unknown[]) => {
      if (first) {
        first = false
        await one.catch(() => {})
        if (fails) throw new Error('ERR of a test')
      }
      return send(...args)
    }) as never
    const one = Promise.resolve(store.check(check))
    await pause(900)
    const two = Promise.resolve(store.check(check))
    await t.rejects(one, { code: 'ML_RATE_STORE_TIMEOUT' })
    if (fails) await t.rejects(two, { message: 'ERR of a test' })
    else t.match(await two, { allowed: true })
  })
}

/** Several replicas at random rates; refunds, charges, other costs and replicas that do not take ahead. */
const fleet = fc.record({
  limit: fc.integer({ min: 120, max: 600 }),
  windowMs: fc.constantFrom(500, 1000),
  precision: fc.constantFrom(0.01, 0.02, 0.05),
  replicas: fc.array(
    fc.record({
      ahead: fc.boolean(),
      clients: fc.integer({ min: 1, max: 12 }),
      cost: fc.constantFrom(1, 1, 1, 3),
      thinkMs: fc.constantFrom(0, 0, 1, 7),
      refunds: fc.boolean(),
      delayMs: fc.constantFrom(0, 0, 4, 15),
    }),
    { minLength: 2, maxLength: 5 },
  ),
})

t.test('any number of replicas at any rate: no window holds more than the limit', async t => {
  const origin = await redisOrigin(admin)
  await fc.assert(
    fc.asyncProperty(fleet, async ({ limit, windowMs, precision, replicas }) => {
      const nameSpace = newSpace()
      const served: Served[] = []
      const clients = replicas.map(() => new Redis(REDIS_URL))
      let taken = 0
      const end = performance.now() + 4 * windowMs
      await Promise.all(
        replicas.map(async (replica, index) => {
          const client = clients[index] as Redis
          if (replica.delayMs > 0) {
            const send = client.evalsha.bind(client) as (...args: never[]) => Promise<unknown>
            client.evalsha = (async (...args: never[]) => {
              const reply = await send(...args)
              await pause(Math.random() * replica.delayMs)
              return reply
            }) as never
          }
          const store = new RedisStore(connectionOf(client), {
            nameSpace,
            timeoutMs: 5000,
            denyMemory: 100,
            replicas: () => replicas.length,
          })
          const check: Check = {
            ...checkOf([{ limit, windowMs, cost: replica.cost }], { precision }),
            prefetch: replica.ahead ? 1e9 : undefined,
          }
          const [policy] = check.policies
          await Promise.all(
            Array.from({ length: replica.clients }, async () => {
              while (performance.now() < end) {
                const answer = await ask(store, check, origin, served)
                const { admission } = answer.policies[0] ?? {}
                if (replica.refunds && answer.allowed && Math.random() < 0.1) {
                  const refunds = [{ policy: policy as never, cost: replica.cost, admission }]
                  const [given = 0] = await store.refund(check, refunds)
                  taken += given
                }
                await (replica.thinkMs > 0 ? pause(replica.thinkMs) : new Promise(resolve => setImmediate(resolve)))
              }
            }),
          )
          store.close()
        }),
      )
      const refunded = replicas.some(({ refunds }) => refunds)
      const most = fullest(served, windowMs)
      for (const client of clients) await client.quit()
      if (!refunded && most > limit) throw new Error(`${most} of ${limit} in a window`)
      // Each unit that came back may be served once more.
      if (most > limit + taken) throw new Error(`${most} of ${limit} in a window, ${taken} given back`)
    }),
    { numRuns: RUNS, endOnFailure: true },
  )
  t.pass(`${RUNS} fleets`)
})
