import t from 'tap'
import { DenyMemory } from '../../plugin/src/stores/deny-memory.js'
import { MemoryStore } from '../../plugin/src/stores/memory.js'
import type { Answer, Check, Store } from '../../plugin/src/stores/store.js'
import { ask, inRedis, limited, statuses } from '../support/plugin.js'
import { checkOf } from '../support/stores.js'

/** A store that answers later, as Redis does, and counts how often it is asked. */
class Remote implements Store {
  asked = 0
  readonly #store = new MemoryStore(100)
  async check(check: Check): Promise<Answer> {
    this.asked++
    return this.#store.check(check)
  }
  async peek(check: Check): Promise<Answer> {
    return this.#store.peek(check)
  }
  async charge(check: Check): Promise<void> {
    this.#store.charge(check)
  }
  async refund(check: Check): Promise<void> {
    this.#store.refund(check)
  }
  async reset(check: Check): Promise<void> {
    this.#store.reset(check)
  }
  close(): void {
    this.#store.close()
  }
}

const hour = 3_600_000

t.test('a client known to be over its quota is denied without the store, with a wait that falls', async t => {
  const remote = new Remote()
  const memory = new DenyMemory(remote, 10)
  const check = checkOf([{ limit: 1, windowMs: hour }])
  await memory.check(check)
  const denied = await memory.check(check)
  t.match(denied, { allowed: false })
  await new Promise(resolve => setTimeout(resolve, 20))
  const again = await memory.check(check)
  t.equal(remote.asked, 2)
  t.match(again, { allowed: false, policies: [{ used: 1 }] })
  const [first, second] = [denied.policies[0]?.retryMs as number, again.policies[0]?.retryMs as number]
  t.ok(second < first && second > first - 1000)
  t.match(await memory.check(checkOf([{ limit: 1, windowMs: hour }], { key: 'other' })), { allowed: true })
})

t.test('a smaller cost, a larger quota, a penalty and a reset are asked of the store', async t => {
  const remote = new Remote()
  const memory = new DenyMemory(remote, 10)
  const check = (cost: number, limit = 10) => checkOf([{ limit, windowMs: hour, cost }])
  await memory.check(check(8))
  t.match(await memory.check(check(5)), { allowed: false })
  t.match(await memory.check(check(5)), { allowed: false })
  t.equal(remote.asked, 2, 'the same again is known')
  t.match(await memory.check(check(1)), { allowed: true })
  t.match(await memory.check(check(5, 20)), { allowed: true })
  t.match(await memory.check(check(9)), { allowed: false })
  t.equal((await memory.peek(check(1))).policies[0]?.used, 14)
  await memory.charge(check(1))
  await memory.reset(check(1))
  t.match(await memory.check(check(9)), { allowed: true })
  t.match(await memory.check(check(9)), { allowed: false })
  await memory.refund(check(9))
  t.match(await memory.check(check(9)), { allowed: true })
  const asked = remote.asked
  const penalised = checkOf([{ limit: 0, windowMs: hour }], { penalty: 'count' })
  await memory.check(penalised)
  await memory.check(penalised)
  t.equal(remote.asked, asked + 2, 'denials that count are counted by the store')
})

t.test('with several policies the one that frees last is remembered', async t => {
  const remote = new Remote()
  const memory = new DenyMemory(remote, 10)
  const check = checkOf([
    { name: 'short', limit: 1, windowMs: 50 },
    { name: 'long', limit: 1, windowMs: hour },
    { name: 'free', limit: 9, windowMs: hour },
  ])
  await memory.check(check)
  await memory.check(check)
  await new Promise(resolve => setTimeout(resolve, 60))
  const answer = await memory.check(check)
  t.equal(remote.asked, 2)
  t.match(answer, { allowed: false, policies: [{ retryMs: 1 }, {}, { retryMs: 0 }] })
})

t.test('what stands in the way for a moment only is not remembered, nor is it for longer than a second', async t => {
  const remote = new Remote()
  const memory = new DenyMemory(remote, 10)
  const crowded = checkOf([{ limit: 100, windowMs: hour }], { concurrency: { max: 0 } })
  await memory.check(crowded)
  await memory.check(crowded)
  t.equal(remote.asked, 2)
  const full = checkOf([{ limit: 1, windowMs: hour }], { key: 'full', concurrency: { max: 5 } })
  await memory.check(full)
  await memory.check(full)
  t.match(await memory.check(full), { allowed: false, concurrency: { violated: false } })
  t.equal(remote.asked, 4)
  await new Promise(resolve => setTimeout(resolve, 1010))
  await memory.check(full)
  t.equal(remote.asked, 5)
})

t.test('the memory is bounded, and a denial in force is not forgotten for a newer one', async t => {
  const remote = new Remote()
  const memory = new DenyMemory(remote, 2)
  const check = (key: string, windowMs = hour) => checkOf([{ limit: 0, windowMs }], { key })
  await memory.check(check('brief', 20))
  await memory.check(check('long'))
  await memory.check(check('third'))
  await memory.check(check('third'))
  t.equal(remote.asked, 4, 'no room for the third')
  await memory.check(check('long'))
  t.equal(remote.asked, 4)
  await new Promise(resolve => setTimeout(resolve, 30))
  await memory.check(check('third'))
  await memory.check(check('third'))
  t.equal(remote.asked, 5, 'the brief one made room')
  memory.close()
  t.match(new DenyMemory(new MemoryStore(5), 5).check(check('x')), { allowed: false }, 'a store that answers at once')
})

t.test('a quota given back while a check is on its way is not denied from memory afterwards', async t => {
  for (const free of ['refund', 'reset'] as const) {
    const remote = new Remote()
    const memory = new DenyMemory(remote, 10)
    const check = checkOf([{ limit: 1, windowMs: hour }])
    await memory.check(check)
    const [denied] = await Promise.all([memory.check(check), memory[free](check)])
    t.match(denied, { allowed: false }, 'asked before')
    t.match(await memory.check(check), { allowed: true }, free)
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
  const remote = new Remote()
  const memory = new DenyMemory(remote, 10)
  const check = (windowMs: number) => checkOf([{ limit: 1, windowMs, keepMs: hour }])
  await memory.check(check(hour))
  t.match(await memory.check(check(hour)), { allowed: false })
  await new Promise(resolve => setTimeout(resolve, 30))
  t.match(await memory.check(check(10)), { allowed: true })
})

t.test('over HTTP the wait falls from answer to answer', async t => {
  const app = await limited(t, { ...inRedis(t), max: 1, timeWindow: 2400 })
  await ask(app)
  t.equal((await ask(app)).headers['retry-after'], '3')
  await new Promise(resolve => setTimeout(resolve, 600))
  t.equal((await ask(app)).headers['retry-after'], '2')
})
