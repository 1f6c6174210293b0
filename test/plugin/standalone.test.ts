/** `ml-api-rate-limiter/limiter`: the limiter without requests. */
import { randomUUID } from 'node:crypto'
import { createLimiter, type LimiterOptions } from 'ml-api-rate-limiter/limiter'
import t, { type Test } from 'tap'
import { redisClient } from '../support/plugin.js'

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
  refused({ redis: redisClient(t) }, /'nameSpace' is undefined; allowed: a string that names the limiter/)
})

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
