import t from 'tap'
import { Blocks } from '../../../plugin/src/stores/memory/blocks.js'
import { ask, limited, statuses } from '../../support/plugin.js'
import { checkOf, memoryStore } from '../../support/stores.js'

const LOG = 'log.p'
const hour = 3_600_000

t.test('the keys used last are remembered, and never more than twice as many as asked for', async t => {
  const { store, close } = memoryStore(10)
  for (let index = 0; index < 1000; index++) store.check(checkOf([{ limit: 5, windowMs: hour }], { key: `k${index}` }))
  t.ok(sizeOf(store) >= 10 && sizeOf(store) <= 20)
  for (let index = 990; index < 1000; index++) {
    const { policies } = store.peek(checkOf([{ limit: 5, windowMs: hour, cost: 0 }], { key: `k${index}` })) as Awaited<
      ReturnType<typeof store.peek>
    >
    t.equal(policies[0]?.used, 1, `k${index}`)
  }
  await close()
  t.equal(sizeOf(store), 0)
})

t.test('a key that is being denied is not forgotten because others came', async t => {
  const { store, pass } = memoryStore(10)
  const greedy = checkOf([{ limit: 1, windowMs: hour }], { key: 'greedy' })
  await store.check(greedy)
  t.match(await store.check(greedy), { allowed: false })
  for (let index = 0; index < 500; index++)
    await store.check(checkOf([{ limit: 5, windowMs: hour }], { key: `k${index}` }))
  t.match(await store.check(greedy), { allowed: false })
  await pass(hour + 1)
  for (let index = 0; index < 50; index++)
    await store.check(checkOf([{ limit: 5, windowMs: hour }], { key: `l${index}` }))
  t.ok(sizeOf(store) <= 20, 'once its denial is over it is forgotten like any other')
})

t.test('a crowd of denied keys is bounded, too', async t => {
  const { store } = memoryStore(10)
  for (let index = 0; index < 2000; index++) {
    const check = checkOf([{ limit: 1, windowMs: hour }], { key: `k${index}` })
    await store.check(check)
    await store.check(check)
  }
  t.ok(sizeOf(store) <= 120, `${sizeOf(store)} rows`)
})

t.test('a clock that goes back keeps nobody waiting for it: time goes on from where it was', async t => {
  const timed = memoryStore()
  const check = checkOf([{ limit: 1, windowMs: 1000 }])
  timed.set(10_000)
  t.match(await timed.store.check(check), { allowed: true })
  timed.set(5000)
  t.match(await timed.store.check(check), { allowed: false, policies: [{ retryMs: 1000 }] })
  timed.set(5999)
  t.match(await timed.store.check(check), { allowed: false, policies: [{ retryMs: 1 }] })
  timed.set(6000)
  t.match(await timed.store.check(check), { allowed: true })
})

t.test('a route with a cache size of its own has a store of its own', async t => {
  const app = await limited(t, { max: 1, cache: 2 }, app => {
    app.get('/', { config: { rateLimit: { cache: 50 } } }, async () => 'ok')
  })
  for (let index = 0; index < 30; index++) {
    await ask(app, { url: '/', headers: { 'x-key': `k${index}` } })
  }
  t.strictSame(await statuses(app, 1, { url: '/', headers: { 'x-key': 'k0' } }), [429])
})

function sizeOf(store: ReturnType<typeof memoryStore>['store']): number {
  return (store as unknown as { size(log: string): number }).size(LOG)
}

t.test('blocks that are over are dropped when many come, and all others are kept', t => {
  const blocks = new Blocks()
  for (let index = 0; index < 5000; index++) blocks.set('a', `over ${index}`, 10, 0)
  for (let index = 0; index < 5000; index++) blocks.set('a', `on ${index}`, 1000, 100)
  for (let index = 0; index < 5000; index++) {
    if (blocks.left('a', `on ${index}`, 200) !== 900) t.fail(`${index} has ${blocks.left('a', `on ${index}`, 200)}`)
  }
  t.equal(blocks.left('a', 'over 0', 5), 0, 'it was dropped')
  t.end()
})
