/** What a replica has admitted by itself is written to Redis: all of it, and once. */
import t, { type Test } from 'tap'
import { Owed } from '../../../plugin/src/stores/redis/owed.js'
import type { Answer, Check, Store } from '../../../plugin/src/stores/store.js'
import { checkOf } from '../../support/stores.js'

const WINDOW_MS = 1000
const check = checkOf([{ limit: 100, windowMs: WINDOW_MS }])
const { key } = check

/** Debts at a time that the test moves, and a store that answers a charge when the test says so. */
function debts(t: Test) {
  const { now } = Date
  let time = 1_000_000
  Date.now = () => time
  t.teardown(() => {
    Date.now = now
  })
  const owed = new Owed(10)
  const written: number[] = []
  let answer = () => {}
  const store = {
    charge: ({ policies }: Check) => {
      written.push(policies[0]?.cost ?? 0)
      return new Promise<Answer>(resolve => {
        answer = () => resolve({ allowed: true, policies: [] })
      })
    },
  } as unknown as Store
  const pay = () => owed.pay(key, store, () => {})
  return {
    owed,
    written,
    pass: (ms: number) => {
      time += ms
    },
    /** Admits so many requests; returns the answer of the local store. */
    admit: (count = 1): Answer => {
      const admission = { generation: 1, time }
      const local = { allowed: true, policies: [{ used: 1, resetMs: 1, retryMs: 0, denials: 0, admission }] } as const
      for (let index = 0; index < count; index++) owed.add(check, local)
      return local
    },
    pay,
    answer: () => answer(),
    /** Pays, and has the charge answered at once. */
    payAll: () => {
      const paid = pay()
      answer()
      return paid
    },
  }
}

t.test('what is admitted while a charge is on its way is written by the next one', async t => {
  const { owed, written, admit, pay, answer, payAll } = debts(t)
  admit(3)
  const paid = pay()
  admit(2)
  answer()
  await paid
  await payAll()
  t.strictSame(written, [3, 2])
  t.strictSame(owed.keys(), [])
})

t.test('what was written leaves its window while the charge is on its way: what came since is still owed', async t => {
  const { owed, written, pass, admit, pay, answer, payAll } = debts(t)
  admit(3)
  pass(WINDOW_MS - 10)
  const paid = pay()
  pass(20)
  admit(2)
  answer()
  await paid
  t.strictSame(owed.keys(), [key])
  await payAll()
  t.strictSame(written, [3, 2])
})

t.test('a refund of what was written takes nothing off what came since', async t => {
  const { owed, written, pass, admit, pay, answer, payAll } = debts(t)
  const first = admit()
  const paid = pay()
  pass(10)
  const second = admit(2)
  answer()
  await paid
  const refundOf = (local: Answer) =>
    check.policies.map(policy => ({ policy, cost: 1, admission: local.policies[0]?.admission }))
  owed.takeBack(check, refundOf(first))
  owed.takeBack(check, refundOf(second))
  await payAll()
  t.strictSame(written, [1, 1], 'two came since, and one of them was given back')
})

t.test('a debt that was forgotten while its charge was on its way takes nothing off a new one', async t => {
  const { owed, written, admit, pay, answer, payAll } = debts(t)
  admit(3)
  const paid = pay()
  owed.forget(key)
  admit(2)
  answer()
  await paid
  await payAll()
  t.strictSame(written, [3, 2])
})

t.test('a key that was reset while its charge was on its way owes what came since', async t => {
  const { owed, written, admit, pay, answer, payAll } = debts(t)
  admit(3)
  const paid = pay()
  owed.reset(key, { limiters: [], logs: check.policies.map(({ log }) => log), permits: [] })
  admit(2)
  answer()
  await paid
  await payAll()
  t.strictSame(written, [3, 2])
})
