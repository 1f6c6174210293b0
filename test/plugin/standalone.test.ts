/** `ml-api-rate-limiter/limiter`: the limiter without requests. */
import { randomUUID } from 'node:crypto'
import { createLimiter, type LimiterOptions } from 'ml-api-rate-limiter/limiter'
import t, { type Test } from 'tap'
import { redisClient } from '../support/plugin.js'
import { until } from '../support/redis-fleet.js'

const STORES: readonly { name: string; options: (t: Test) => LimiterOptions }[] = [
  { name: 'in process', options: () => ({}) },
  {
    name: 'in Redis',
    options: t => ({ redis: redisClient(t), nameSpace: `standalone:${randomUUID()}:`, storeTimeout: 20_000 }),
  },
]

function made(t: Test, options: LimiterOptions) {
  const limiter = createLimiter(options)
  t.teardown(() => limiter.close())
  return limiter
}

for (const { name, options } of STORES) {
  t.test(`${name}: a key is charged what a check says, and denied beyond its quota`, async t => {
    const limiter = made(t, { ...options(t), max: 10, timeWindow: '1 hour' })
    const left = async () => (await limiter.status('ann'))?.policies[0]?.remaining
    const first = await limiter.check('ann')
    t.ok(first.allowed)
    t.equal(first.binding.remaining, 9)
    t.ok((await limiter.check('ann', 6)).allowed)
    const denied = await limiter.check('ann', 4)
    t.notOk(denied.allowed)
    t.strictSame(denied.violated, ['default'])
    t.ok(denied.retryAfterMs > 0 && denied.retryAfterMs <= 3_600_000)
    t.equal(await left(), 3, 'a denial costs nothing')
    await first.charge(2)
    t.equal(await left(), 1)
    await first.refund()
    await first.refund()
    t.equal(await left(), 2, 'given back once')
    await limiter.charge('ann', 5)
    t.equal(await left(), 0, 'a charge may overdraw')
    await limiter.refund('ann', 5)
    t.equal(await left(), 2)
    await limiter.reset('ann')
    t.equal(await left(), 10)
    t.equal((await limiter.status('bob'))?.policies[0]?.remaining, 10)
  })

  t.test(`${name}: policies have keys and costs of their own`, async t => {
    const limiter = made(t, {
      ...options(t),
      policies: [
        { name: 'jobs', max: 2, timeWindow: '1 hour' },
        { name: 'rows', max: 100, timeWindow: '1 hour', cost: 10 },
      ],
    })
    const key = { jobs: 'ann', rows: 'acme' }
    t.ok((await limiter.check(key)).allowed)
    t.ok((await limiter.check(key, { jobs: 1, rows: 80 })).allowed)
    const { allowed, violated } = await limiter.check({ jobs: 'bob', rows: 'acme' }, { jobs: 1, rows: 20 })
    t.notOk(allowed)
    t.strictSame(violated, ['rows'])
    t.strictSame(
      (await limiter.status(key))?.policies.map(({ key, remaining }) => [key, remaining]),
      [
        ['ann', 0],
        ['acme', 10],
      ],
    )
    await t.rejects(limiter.check({ user: 'ann' }), { code: 'ML_RATE_INVALID_OPTION', message: /jobs, rows/ })
    await t.rejects(limiter.check('ann', { row: 1 }), { message: /'cost' is for 'row'; allowed: .*jobs, rows/ })
    await t.rejects(limiter.check('ann', -1), { code: 'ML_RATE_INVALID_ANSWER' })
  })

  t.test(`${name}: what is no key or no cost is refused, and nothing is counted`, async t => {
    const limiter = made(t, { ...options(t), max: 3, timeWindow: '1 hour' })
    const { check, charge, refund } = limiter
    const decision = await check('ann')
    for (const key of [undefined, null, true, {}, [], { default: null }, Symbol('ann'), () => 'ann', 5n] as never[]) {
      const refused = { code: 'ML_RATE_INVALID_OPTION', message: /^option 'key' is .*; allowed: a string/ }
      await t.rejects(check(key), refused)
      await t.rejects(limiter.status(key), refused)
      await t.rejects(charge(key, 1), refused)
      await t.rejects(refund(key, 1), refused)
      await t.rejects(limiter.reset(key), refused)
      await t.rejects(limiter.block(key, 1000), refused)
    }
    for (const cost of ['2', null, true, Number.NaN, 1.5, -1, [1], 2n, { default: '2' }, () => 1] as never[]) {
      const refused = { code: 'ML_RATE_INVALID_ANSWER', message: /^option 'cost' returned .*; allowed: an integer ≥ 0/ }
      await t.rejects(check('ann', cost), refused)
      await t.rejects(charge('ann', cost), refused)
      await t.rejects(refund('ann', cost), refused)
      await t.rejects(decision.charge(cost), refused)
      await t.rejects(decision.refund(cost), refused)
    }
    const unknown = { code: 'ML_RATE_INVALID_OPTION', message: /'cost' is for 'row'; allowed: .*default/ }
    await t.rejects(charge('ann', { row: 1 }), unknown)
    await t.rejects(refund('ann', { row: 1 }), unknown)
    t.equal((await limiter.status('ann'))?.policies[0]?.remaining, 2)
  })

  t.test(`${name}: a number is a key as its text is`, async t => {
    const limiter = made(t, { ...options(t), max: 1, timeWindow: '1 hour' })
    const seven = 7 as unknown as string
    t.ok((await limiter.check(seven)).allowed)
    t.notOk((await limiter.check('7')).allowed)
    await limiter.reset(seven)
    t.ok((await limiter.check('7')).allowed)
    await limiter.refund(seven, 1)
    await limiter.block(seven, '1 hour')
    t.notOk((await limiter.check('7')).allowed)
  })

  t.test(`${name}: policies may have the names that every object has`, async t => {
    const policies = ['constructor', 'toString'].map(name => ({ name, max: 9, timeWindow: '1 hour' }))
    const limiter = made(t, { ...options(t), policies })
    await limiter.charge('ann', { toString: 2 } as never)
    const decision = await limiter.check({ constructor: 'ann' } as never, 3)
    await decision.refund({ constructor: 1 } as never)
    t.strictSame(
      (await limiter.status('ann'))?.policies.map(({ remaining }) => remaining),
      [7, 7],
    )
  })

  t.test(`${name}: work in flight is limited until it is released`, async t => {
    const limiter = made(t, { ...options(t), max: 10, timeWindow: '1 hour', concurrency: { max: 1 } })
    const running = await limiter.check('ann')
    t.ok(running.allowed)
    t.notOk((await limiter.check('ann')).allowed)
    running.release()
    running.release()
    for (;;) if ((await limiter.check('ann')).allowed) break
    t.notOk((await limiter.check('ann')).allowed)
  })
}

t.test('limiters of one name space share a count, and those of different ones do not', async t => {
  const options = { redis: redisClient(t), nameSpace: `${randomUUID()}:`, max: 1, storeTimeout: 20_000 }
  const [one, two] = [made(t, options), made(t, options)]
  t.ok((await one.check('ann')).allowed)
  t.notOk((await two.check('ann')).allowed)
  t.ok((await made(t, { ...options, nameSpace: `${randomUUID()}:` }).check('ann')).allowed)
})

t.test('options that concern requests, or need a name, are refused', async t => {
  const refused = (options: object, message: RegExp) =>
    t.throws(() => createLimiter(options), { code: 'ML_RATE_INVALID_OPTION', message })
  refused({ hook: 'preHandler' }, /'hook' is unknown to a limiter without requests; allowed: one of precision, /)
  refused({ max: () => 1 }, /'max' is a function; allowed: a plain value/)
  refused(
    { policies: [{ name: 'a', max: 1, timeWindow: 1, keyGenerator: () => '' }] },
    /'policies\[0\].keyGenerator' is a/,
  )
  refused({ max: -1 }, /'max' is -1; allowed: a number ≥ 0/)
  refused({ max: Number(undefined) }, /'max' is NaN; allowed: a number ≥ 0/)
  refused({ timeWindow: Number(undefined) }, /'timeWindow' is NaN; allowed: milliseconds ≥ 1/)
  for (const log of [5, {}, null, { info() {}, warn() {} }]) refused({ log }, /'log' is .*; allowed: an object with/)
  refused([], /'options' is a list of 0; allowed: an object/)
  refused(undefined as never, /'options' is undefined; allowed: an object/)
  refused({ redis: redisClient(t) }, /'nameSpace' is undefined; allowed: a string that names the limiter/)
})

t.test('in Redis: work that outlasts its limiter gives its permit back when it ends', async t => {
  const concurrency = { max: 1, ttl: '1 hour' }
  const options = { redis: redisClient(t), nameSpace: `${randomUUID()}:`, concurrency, storeTimeout: 20_000 }
  const [old, fresh] = [made(t, options), made(t, options)]
  const running = await old.check('ann')
  await old.close()
  await old.close()
  t.notOk((await fresh.check('ann')).allowed)
  running.release()
  await until('the permit is free', async () => (await fresh.check('ann')).allowed)
})

t.test(
  'in Redis: charges, refunds and resets of a budget are about its present period, whatever time it is here',
  async t => {
    const { now } = Date
    t.teardown(() => {
      Date.now = now
    })
    Date.now = () => now() + 100 * 86_400_000
    const policies = [{ name: 'monthly', max: 10, timeWindow: 'calendar month' }]
    const options = { redis: redisClient(t), nameSpace: `${randomUUID()}:`, policies, storeTimeout: 20_000 }
    const left = async () => (await made(t, options).status('ann'))?.policies[0]?.remaining
    await made(t, options).charge('ann', 4)
    t.equal(await left(), 6)
    await made(t, options).refund({ monthly: 'ann' }, 1)
    t.equal(await left(), 7)
    await made(t, options).reset('ann')
    t.equal(await left(), 10)
  },
)

t.test('a store that is lost is an error, or local, as onStoreError says', async t => {
  const redis = redisClient(t)
  const options = { redis, nameSpace: `${randomUUID()}:`, max: 1 }
  const [thrown, local] = [made(t, options), made(t, { ...options, onStoreError: 'local' })]
  await redis.ping()
  redis.disconnect()
  await t.rejects(thrown.check('ann'), { message: 'Connection is closed.' })
  t.ok((await local.check('ann')).allowed)
  t.notOk((await local.check('ann')).allowed)
})

t.test('in Redis: quota of a busy key is taken ahead, so that most checks need no call', async t => {
  const redis = redisClient(t)
  const { evalsha } = redis
  let calls = 0
  redis.evalsha = ((...args: Parameters<typeof evalsha>) => {
    calls++
    return evalsha.apply(redis, args)
  }) as typeof evalsha
  const nameSpace = `standalone:${randomUUID()}:`
  const options = { redis, nameSpace, storeTimeout: 20_000, onStoreError: 'throw' as const, denyMemory: 0 }
  const limiter = made(t, { ...options, max: 1_000_000, timeWindow: '1 hour' })
  let checks = 0
  for (let round = 0; round < 100 && (checks < 100 || calls > checks / 2); round++) {
    for (let index = 0; index < 100; index++) if (!(await limiter.check('ann')).allowed) t.fail('denied')
    checks += 100
  }
  t.ok(calls <= checks / 2, `${calls} calls for ${checks} checks`)
})
