import t from 'tap'
import { StoreForeignKey } from '../../../plugin/src/errors.js'
import { Breaker } from '../../../plugin/src/stores/breaker.js'
import { MemoryStore } from '../../../plugin/src/stores/memory.js'
import type { Store } from '../../../plugin/src/stores/store.js'
import { until } from '../../support/redis-fleet.js'
import { checkOf } from '../../support/stores.js'

/** A store that fails as long as it is told to, and counts how often it is asked. */
function fragile() {
  const inner = new MemoryStore(10)
  const state = { asked: 0, fault: undefined as unknown }
  const answer = async <T>(value: () => T): Promise<T> => {
    state.asked++
    if (state.fault !== undefined) throw state.fault
    return value()
  }
  const store: Store = {
    check: check => answer(() => inner.check(check)),
    peek: check => answer(() => inner.peek(check)),
    charge: check => answer(() => inner.charge(check)),
    refund: check => answer(() => inner.refund(check)),
    reset: check => answer(() => inner.reset(check)),
    close: () => inner.close(),
  }
  return { store, state }
}

const check = checkOf([{ limit: 100, windowMs: 60_000 }])

t.test(
  'after five failures in a row the store is left alone, tried once a second, and asked again once it answers',
  async t => {
    const { store, state } = fragile()
    const told: (string | undefined)[] = []
    const breaker = new Breaker(store, lost => told.push(lost?.message))
    t.match(await breaker.check(check), { allowed: true })
    state.fault = 'no error object'
    for (const method of ['check', 'peek', 'charge', 'refund'] as const)
      await t.rejects(async () => breaker[method](check))
    t.strictSame(told, [])
    await t.rejects(async () => breaker.reset(check), { message: 'no error object' })
    t.strictSame(told, ['no error object'])
    const asked = state.asked
    const since = performance.now()
    const triedTwice = until('it was tried twice', async () => state.asked >= asked + 2)
    for (let index = 0; index < 20; index++) await t.rejects(async () => breaker.check(check))
    await triedTwice
    t.ok(performance.now() - since > 1900, 'not more often than once a second')
    t.equal(told.length, 1)
    state.fault = undefined
    await until('it is back, though nobody asked', async () => told.length === 2)
    t.match(await breaker.check(check), { allowed: true, policies: [{ used: 2 }] }, 'trying it charges nobody')
    t.strictSame(told, ['no error object', undefined])
    breaker.close()
  },
)

t.test('a breaker that is closed tries no more', async t => {
  const { store, state } = fragile()
  const breaker = new Breaker(store, () => {})
  state.fault = new Error('gone')
  for (let index = 0; index < 5; index++) await t.rejects(async () => breaker.check(check))
  breaker.close()
  await new Promise(resolve => setTimeout(resolve, 1500))
  t.equal(state.asked, 5)
})

t.test('single failures and foreign values are no reason to leave a store alone', async t => {
  const { store, state } = fragile()
  const breaker = new Breaker(store, () => t.fail('it is not lost'))
  for (let round = 0; round < 3; round++) {
    state.fault = new Error('brief')
    for (let index = 0; index < 4; index++) await t.rejects(async () => breaker.check(check))
    state.fault = undefined
    await breaker.check(check)
  }
  state.fault = new StoreForeignKey()
  for (let index = 0; index < 10; index++)
    await t.rejects(async () => breaker.check(check), { code: 'ML_RATE_STORE_FOREIGN_KEY' })
})
