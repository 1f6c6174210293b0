/** Logs of periods and windows that are over: the process does not keep them, and forgets no other. */
import t from 'tap'
import type { MemoryStore } from '../../../plugin/src/stores/memory/memory-store.js'
import type { Check } from '../../../plugin/src/stores/store.js'
import { checkOf, memoryStore } from '../../support/stores.js'

const MINUTE = 60_000
const open = () => {
  const { store, set } = memoryStore()
  return { store: store as MemoryStore, set }
}
const named = (name: string, windowMs: number, penalty: Check['penalty'] = 'none') =>
  checkOf([{ name, limit: 1, windowMs }], { penalty })

t.test('logs that nothing counts in are dropped when many come', async t => {
  const { store, set } = open()
  let now = 1_000_000
  for (let index = 0; index < 20_000; index++) {
    store.check(named(`of ${index}`, MINUTE))
    now += MINUTE / 100
    set(now)
  }
  t.ok(store.logs <= 1000, `${store.logs} logs`)
})

t.test('logs that something counts in are kept, and so are denials and what they cost', async t => {
  const { store, set } = open()
  const kept = [
    named('long', 100 * MINUTE),
    named('count', 100 * MINUTE, 'count'),
    named('backoff', MINUTE, 'backoff'),
    { ...named('own', 100 * MINUTE, 'renew'), keys: ['other'] },
  ]
  for (const check of kept) {
    t.ok(store.check(check).allowed)
    for (let denials = 1; denials <= 6; denials++) t.notOk(store.check(check).allowed)
  }
  let now = 1_000_000
  for (let index = 0; index < 20_000; index++) {
    store.check(named(`of ${index}`, 100))
    now += 50
    set(now)
  }
  t.ok(store.logs <= 1010, `${store.logs} logs`)
  for (const check of kept) t.notOk(store.check(check).allowed, `${check.policies[0]?.name}`)
  t.equal(store.check(kept[1] as Check).policies[0]?.denials, 8)
})

t.test('a window that has become longer counts for as long as it is now', async t => {
  const { store, set } = open()
  const changed = (windowMs: number) => checkOf([{ name: 'changed', limit: 2, windowMs }])
  t.ok(store.check(changed(100)).allowed)
  t.ok(store.check(changed(100 * MINUTE)).allowed)
  set(1_000_000 + 10 * MINUTE)
  for (let index = 0; index < 3000; index++) store.check(named(`of ${index}`, 100))
  t.notOk(store.check(changed(100 * MINUTE)).allowed)
})

t.test('ever new windows take no more memory than a bound, and forget nobody who is denied', async t => {
  const { store } = open()
  const denied = named('denied', 100 * MINUTE)
  store.check(denied)
  store.check(denied)
  for (let index = 0; index < 70_000; index++) store.check(named(`of ${index}`, 90 * MINUTE + index))
  t.ok(store.logs < 60_000, `${store.logs} logs`)
  t.notOk(store.check(denied).allowed)
})
