import { setTimeout as delay } from 'node:timers/promises'
import { type CountsLink, SharedCounts } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { SharedStore } from '../../plugin/src/stores/processes/shared-store.js'
import { limited, linkTo, statuses } from '../support/plugin.js'
import { checkOf, namesOf } from '../support/stores.js'

const HOUR = 3_600_000
const check = checkOf([{ limit: 3, windowMs: HOUR }])

/** Stores of processes that share counts, each told of quota that came back. */
function processes(t: Test, names: readonly string[], denyMemory = 100, timeoutMs = 5000) {
  const listeners = new Map<string, (notice: unknown) => void>()
  const counts = new SharedCounts({
    onFreed: (notice, from) => {
      for (const [name, listener] of listeners) if (name !== from) listener(structuredClone(notice))
    },
  })
  const batches: unknown[] = []
  const stores = names.map(name => {
    const link = linkTo(counts, name)
    const ask: CountsLink['ask'] = batch => {
      batches.push(batch)
      return link.ask(batch)
    }
    const listen = (listener: (notice: unknown) => void) => listeners.set(name, listener)
    return new SharedStore({ ask, listen }, { timeoutMs, denyMemory })
  })
  t.teardown(() => {
    for (const store of stores) store.close()
    counts.close()
  })
  return { counts, stores: stores as [SharedStore, SharedStore], batches }
}

t.test('apps that share counts share one quota, and name its remainder alike', async t => {
  const counts = new SharedCounts()
  const options = { max: 5, timeWindow: '1 hour', storeTimeout: 5000 }
  const one = await limited(t, { ...options, counts: linkTo(counts, 1) })
  const two = await limited(t, { ...options, counts: linkTo(counts, 2) })
  t.strictSame(await statuses(one, 3), [200, 200, 200])
  const { headers } = await two.inject('/')
  t.equal(headers['x-ratelimit-remaining'], '1')
  t.strictSame(await statuses(two, 2), [200, 429])
  t.strictSame(await statuses(one, 1), [429])
})

t.test('checks raised in one turn are one message, and policies are not sent again', async t => {
  const { stores, batches } = processes(t, ['one'])
  await Promise.all([1, 2, 3].map(index => stores[0].check({ ...check, key: `${index}` })))
  t.equal(batches.length, 1)
  await stores[0].check({ ...check, key: '4' })
  t.ok(JSON.stringify(batches[1]).length < JSON.stringify(['check', '4', null, 1, null]).length + 10)
})

t.test('a store that is closed asks no more', async t => {
  const { stores, batches } = processes(t, ['one'])
  stores[0].close()
  await t.rejects(async () => await stores[0].check(check), { name: 'StoreClosed' })
  t.equal(batches.length, 0)
})

t.test('quota that comes back in one process is seen in the others at once, though they remember a denial', async t => {
  const { stores } = processes(t, ['one', 'two'])
  const [one, two] = stores
  const answers = [await one.check(check), await one.check(check), await two.check(check)]
  t.notOk((await two.check(check)).allowed)
  t.ok(two.knownDenial(check), 'it is remembered')
  const [policy] = check.policies
  const refund = { policy: policy as never, cost: 1, admission: answers[0]?.policies[0]?.admission }
  t.strictSame(await one.refund(check, [refund]), [1])
  t.ok((await two.check(check)).allowed)
  t.notOk((await two.check(check)).allowed)
  await one.reset(check.key, namesOf(check))
  t.ok((await two.check(check)).allowed, 'as is a reset')
})

t.test('the permits of a process that ends are free, and those of others are not', async t => {
  const { counts, stores } = processes(t, ['one', 'two'])
  const [one, two] = stores
  const limitedTo2 = checkOf([{ limit: 100, windowMs: HOUR }], { concurrency: { max: 2 } })
  t.ok((await one.check(limitedTo2)).allowed)
  const held = await two.check(limitedTo2)
  t.match(await two.check(limitedTo2), { allowed: false, concurrency: { inFlight: 2, violated: true } })
  counts.leave('one')
  t.match(await two.peek(limitedTo2), { allowed: true, concurrency: { inFlight: 1 } })
  held.concurrency?.lease?.release()
  held.concurrency?.lease?.release()
  t.match(await two.peek(limitedTo2), { concurrency: { inFlight: 0 } }, 'twice is as good as once')
})

t.test('a call that is answered too late charges nothing and holds no permit', async t => {
  const counts = new SharedCounts()
  let answer = () => {}
  let isSlow = true
  const ask = async (batch: unknown) => {
    if (isSlow)
      await new Promise<void>(resolve => {
        answer = resolve
      })
    return counts.answer(batch, 1)
  }
  const events: string[] = []
  const store = new SharedStore({ ask }, { timeoutMs: 20, denyMemory: 0, onEvent: ({ type }) => events.push(type) })
  const both = checkOf([{ limit: 3, windowMs: HOUR }], { concurrency: { max: 1 } })
  await t.rejects(store.check(both) as Promise<unknown>, { code: 'ML_RATE_STORE_TIMEOUT' })
  isSlow = false
  answer()
  while ((await store.peek(both)).policies[0]?.used !== 0) await delay(5)
  t.match(await store.peek(both), { allowed: true, concurrency: { inFlight: 0 } })
  t.match(events.slice(0, 2), ['lost', 'failed'])
  t.ok(events.includes('back'))
  t.equal(((await store.check(both)) as { allowed: boolean }).allowed, true)
})

t.test('a refund, a reset and a block that are answered too late do not happen', async t => {
  const counts = new SharedCounts()
  const waiting: (() => void)[] = []
  let isSlow = false
  const ask = async (batch: unknown) => {
    if (isSlow) await new Promise<void>(resolve => waiting.push(resolve))
    return counts.answer(batch, 1)
  }
  const store = new SharedStore({ ask }, { timeoutMs: 20, denyMemory: 0 })
  await store.check(check)
  await store.check(check)
  isSlow = true
  const late = { code: 'ML_RATE_STORE_TIMEOUT' }
  const [policy] = check.policies
  await t.rejects(store.refund(check, [{ policy: policy as never, cost: 1, admission: undefined }]), late)
  await t.rejects(store.reset(check.key, namesOf(check)), late)
  await t.rejects(store.block(check.key, { limiters: [check.limiter], logs: [] }, HOUR), late)
  await delay(5)
  isSlow = false
  for (const answer of waiting) answer()
  await delay(5)
  t.match(await store.peek(check), { allowed: true, policies: [{ used: 2 }] })
})

t.test('a permit goes back also when its process has closed the store: work may outlast its limiter', async t => {
  const { stores } = processes(t, ['one', 'two'])
  const [one, two] = stores
  const limitedTo1 = checkOf([{ limit: 100, windowMs: HOUR }], { concurrency: { max: 1 } })
  const held = await one.check(limitedTo1)
  one.close()
  t.notOk((await two.check(limitedTo1)).allowed)
  held.concurrency?.lease?.release()
  t.ok((await two.check(limitedTo1)).allowed)
})

t.test('counts that replace others are told again what they were told', async t => {
  let counts = new SharedCounts()
  const ask = async (batch: unknown) => counts.answer(structuredClone(batch), 1)
  const store = new SharedStore({ ask }, { timeoutMs: 5000, denyMemory: 0 })
  for (let index = 0; index < 3; index++) t.ok((await store.check(check)).allowed)
  t.notOk((await store.check(check)).allowed)
  counts = new SharedCounts()
  const asked = await Promise.all([store.check(check), store.peek(check), store.check(check), store.charge(check)])
  t.strictSame(
    asked.map(({ allowed, policies }) => [allowed, policies[0]?.used]),
    [
      [true, 1],
      [true, 1],
      [true, 2],
      [true, 3],
    ],
  )
  t.notOk((await store.check(check)).allowed)
})

t.test('a process that cannot be asked is a store that fails: onStoreError decides', async t => {
  const counts = { ask: () => Promise.reject(new Error('gone')) }
  for (const [onStoreError, status] of [
    ['deny', 503],
    ['allow', 200],
    ['throw', 500],
    ['local', 200],
  ] as const) {
    t.strictSame(await statuses(await limited(t, { max: 1, counts, onStoreError }), 1), [status], onStoreError)
  }
})

t.test('what is no batch is refused, and so are wrong options', async t => {
  const counts = new SharedCounts()
  for (const batch of [undefined, 'check', [1], [['shout']]]) {
    t.throws(() => counts.answer(batch, 1), { code: 'ML_RATE_INVALID_OPTION', message: /'batch' is / })
  }
  t.throws(() => new SharedCounts({ cache: 0 }), { message: /'cache' is 0; allowed: an integer ≥ 1/ })
  const link = linkTo(counts, 1)
  await t.rejects(limited(t, { counts: {} as never }), { message: /'counts' is an object; allowed: an object { ask/ })
  await t.rejects(limited(t, { counts: link, redis: { evalsha() {} } as never }), {
    message: /'counts' is combined with 'redis'/,
  })
})
