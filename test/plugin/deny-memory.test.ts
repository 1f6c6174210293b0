import { Redis } from 'ioredis'
import t from 'tap'
import { Denials } from '../../plugin/src/stores/denials.js'
import { MemoryStore } from '../../plugin/src/stores/memory/memory-store.js'
import type { Answer, Check } from '../../plugin/src/stores/store.js'
import { ask, inRedis, limited, redisClient, statuses } from '../support/plugin.js'
import { until } from '../support/redis-fleet.js'
import { startProxy } from '../support/redis-proxy.js'
import { checkOf, namesOf, redisStore, refundsOf } from '../support/stores.js'

/** Asks what is remembered first and a store then, as the Redis store does, and counts how often the store is asked. */
class Remembering {
  asked = 0
  readonly denials: Denials
  /** Milliseconds. */
  #now = 1_000_000
  readonly #store = new MemoryStore(100, () => this.#now)

  constructor(capacity: number) {
    this.denials = new Denials(capacity, () => this.#now)
  }

  pass(ms: number): void {
    this.#now += ms
  }

  check(check: Check): Answer {
    const denial = this.denials.find(check)
    if (denial !== undefined) return denial
    this.asked++
    const answer = this.#store.check(check)
    if (!answer.allowed) this.denials.remember(check, answer, this.#now)
    return answer
  }
}

const hour = 3_600_000

t.test('a client known to be over its quota is denied without the store, with a wait that falls', async t => {
  const memory = new Remembering(10)
  const check = checkOf([{ limit: 1, windowMs: hour }])
  memory.check(check)
  const denied = memory.check(check)
  t.match(denied, { allowed: false })
  memory.pass(20)
  const again = memory.check(check)
  t.equal(memory.asked, 2)
  t.match(again, { allowed: false, policies: [{ used: 1 }] })
  const [first, second] = [denied.policies[0]?.retryMs as number, again.policies[0]?.retryMs as number]
  t.equal(second, first - 20)
  t.match(memory.check(checkOf([{ limit: 1, windowMs: hour }], { key: 'other' })), { allowed: true })
})

t.test('when everything remembered is over, the memory is free for new denials', async t => {
  const memory = new Remembering(2)
  const denied = (key: string, windowMs: number) => {
    const check = checkOf([{ limit: 1, windowMs }], { key })
    memory.check(check)
    memory.check(check)
    return check
  }
  denied('a', 20)
  denied('b', 20)
  memory.pass(20)
  const check = denied('c', hour)
  const { asked } = memory
  t.match(memory.check(check), { allowed: false })
  t.equal(memory.asked, asked, 'the new one is remembered')
})

t.test('a smaller cost, a larger quota, a penalty and a reset are asked of the store', async t => {
  const memory = new Remembering(10)
  const check = (cost: number, limit = 10) => checkOf([{ limit, windowMs: hour, cost }])
  memory.check(check(8))
  t.match(memory.check(check(5)), { allowed: false })
  t.match(memory.check(check(5)), { allowed: false })
  t.equal(memory.asked, 2, 'the same again is known')
  t.match(memory.check(check(1)), { allowed: true })
  t.match(memory.check(check(5, 20)), { allowed: true })
  t.match(memory.check(check(9)), { allowed: false })
  memory.denials.forget('limiter', 'client')
  memory.check(check(9))
  t.equal(memory.asked, 5, 'not the larger one')
  memory.check(check(9))
  t.equal(memory.asked, 5)
  const asked = memory.asked
  const penalised = checkOf([{ limit: 0, windowMs: hour }], { penalty: 'count' })
  memory.check(penalised)
  memory.check(penalised)
  t.equal(memory.asked, asked + 2, 'denials that count are counted by the store')
})

t.test('with several policies the one that frees last is remembered', async t => {
  const memory = new Remembering(10)
  const check = checkOf([
    { name: 'short', limit: 1, windowMs: 50 },
    { name: 'long', limit: 1, windowMs: hour },
    { name: 'free', limit: 9, windowMs: hour },
  ])
  memory.check(check)
  memory.check(check)
  memory.pass(50)
  const answer = memory.check(check)
  t.equal(memory.asked, 2)
  t.match(answer, { allowed: false, policies: [{ retryMs: 1 }, {}, { retryMs: 0 }] })
})

t.test('what stands in the way for a moment only is not remembered, nor is it for longer than a second', async t => {
  const memory = new Remembering(10)
  const crowded = checkOf([{ limit: 100, windowMs: hour }], { concurrency: { max: 0 } })
  memory.check(crowded)
  memory.check(crowded)
  t.equal(memory.asked, 2)
  const full = checkOf([{ limit: 1, windowMs: hour }], { key: 'full', concurrency: { max: 5 } })
  memory.check(full)
  memory.check(full)
  t.match(memory.check(full), { allowed: false, concurrency: { violated: false } })
  t.equal(memory.asked, 4)
  memory.pass(999)
  memory.check(full)
  t.equal(memory.asked, 4)
  memory.pass(1)
  memory.check(full)
  t.equal(memory.asked, 5)
})

t.test('the memory is bounded, and a denial in force is not forgotten for a newer one', async t => {
  const memory = new Remembering(2)
  const check = (key: string, windowMs = hour) => checkOf([{ limit: 0, windowMs }], { key })
  memory.check(check('brief', 20))
  memory.check(check('long'))
  memory.check(check('third'))
  memory.check(check('third'))
  t.equal(memory.asked, 4, 'no room for the third')
  memory.check(check('long'))
  t.equal(memory.asked, 4)
  memory.pass(20)
  memory.check(check('third'))
  memory.check(check('third'))
  t.equal(memory.asked, 5, 'the brief one made room')
  memory.denials.clear()
  memory.check(check('third'))
  t.equal(memory.asked, 6)
  const none = new Remembering(0)
  none.check(check('x'))
  none.check(check('x'))
  t.equal(none.asked, 2, 'none is remembered')
})

t.test('a denial that was long on its way is remembered no longer than it holds', async t => {
  const proxy = await startProxy(t, Number(new URL(process.env.REDIS_URL as string).port))
  const client = new Redis(proxy.port, '127.0.0.1')
  t.teardown(() => client.disconnect())
  const app = await limited(t, { ...inRedis(t), redis: client, storeTimeout: 10_000, max: 1, timeWindow: 1500 })
  t.equal((await ask(app)).statusCode, 200)
  const since = performance.now()
  proxy.delayMs = 1200
  t.equal((await ask(app)).statusCode, 429)
  proxy.delayMs = 0
  const leftMs = since + 1520 - performance.now()
  if (leftMs > 0) await new Promise(resolve => setTimeout(resolve, leftMs))
  t.equal((await ask(app)).statusCode, 200, 'the window is over')
})

t.test('a quota given back while a check is on its way is not denied from memory afterwards', async t => {
  for (const free of ['refund', 'reset'] as const) {
    const timed = redisStore(redisClient(t), 5000, 10)
    t.teardown(() => timed.close())
    const check = checkOf([{ limit: 1, windowMs: hour }])
    await timed.store.check(check)
    const give = () =>
      free === 'refund' ? timed.store.refund(check, refundsOf(check)) : timed.store.reset(check.key, namesOf(check))
    const asked = timed.store.check(check)
    // The check leaves at the end of this turn, in front of what is given back.
    await new Promise(resolve => setImmediate(() => setImmediate(resolve)))
    await give()
    t.match(await asked, { allowed: false }, 'asked before')
    t.match(await timed.store.check(check), { allowed: true }, free)
  }
})

t.test('a denial says nothing of other windows, though they be of the same group', async t => {
  const policy = (name: string, max: number, timeWindow: number) => ({ name, max, timeWindow })
  const group = (...policies: ReturnType<typeof policy>[]) => ({ config: { rateLimit: { groupId: 'g', policies } } })
  const app = await limited(t, { ...inRedis(t), global: false }, app => {
    app.get('/both', group(policy('wide', 9, 60_000), policy('narrow', 1, 60_000)), async () => 'ok')
    app.get('/wide', group(policy('wide', 9, 60_000)), async () => 'ok')
    app.get('/other', group(policy('wide', 9, 60_000), policy('third', 1, 60_000)), async () => 'ok')
  })
  t.strictSame(await statuses(app, 2, '/both'), [200, 429])
  t.strictSame(await statuses(app, 1, '/wide'), [200])
  t.strictSame(await statuses(app, 1, '/other'), [200])
  t.strictSame(await statuses(app, 1, '/both'), [429])
  t.match((await ask(app, '/wide')).headers, { 'x-ratelimit-remaining': '5' }, 'three before, and this one')
})

t.test('a denial by a long window says nothing of a short one', async t => {
  const memory = new Remembering(10)
  const check = (windowMs: number) => checkOf([{ name: `${windowMs}`, limit: 1, windowMs }])
  memory.check(check(hour))
  t.match(memory.check(check(hour)), { allowed: false })
  memory.pass(10)
  t.match(memory.check(check(10)), { allowed: true })
})

t.test('over HTTP the wait falls from answer to answer', async t => {
  const app = await limited(t, { ...inRedis(t), max: 1, timeWindow: '1 minute' })
  await ask(app)
  const wait = async () => Number((await ask(app)).headers['retry-after'])
  const first = await wait()
  t.ok(first <= 60)
  await until('it is a second less', async () => (await wait()) < first)
})
