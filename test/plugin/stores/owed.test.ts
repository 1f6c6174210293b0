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

const two = checkOf([
  { name: 'a', limit: 100, windowMs: WINDOW_MS, cost: 2 },
  { name: 'b', limit: 100, windowMs: 5 * WINDOW_MS, cost: 3 },
])

/** The answer of a local store: the time at which each policy was charged, undefined where it was not. */
const answerOf = (...times: readonly (number | undefined)[]): Answer => ({
  allowed: true,
  policies: times.map(time => ({
    ...{ used: 1, resetMs: 1, retryMs: 0, denials: 0 },
    admission: time === undefined ? undefined : { generation: 1, time },
  })),
})

/** Debts of several policies, and what is written of them at a time that the test moves. */
function ledger(t: Test, capacity = 10) {
  const { now } = Date
  const clock = { ms: 1_000_000 }
  Date.now = () => clock.ms
  t.teardown(() => {
    Date.now = now
  })
  const owed = new Owed(capacity)
  const charges: Check[] = []
  const failures: Error[] = []
  const store = {
    charge: async (check: Check) => {
      charges.push(check)
      const failure = failures.shift()
      if (failure !== undefined) throw failure
      return answerOf(clock.ms)
    },
  } as unknown as Store
  const paid: unknown[] = []
  return {
    owed,
    clock,
    charges,
    failures,
    paid,
    pay: (key = two.key) => owed.pay(key, store, (...what) => paid.push(what)),
    /** Pays; returns what is written, by log. */
    written: async (key = two.key) => {
      await owed.pay(key, store, () => {})
      return Object.fromEntries(
        charges.splice(0).flatMap(({ policies }) => policies.map(({ log, cost }) => [log, cost])),
      )
    },
  }
}

t.test('one charge for all policies of a key writes what each of them is owed', async t => {
  const { owed, clock, charges, paid, pay } = ledger(t)
  t.equal(owed.add(two, answerOf(clock.ms, clock.ms)), true)
  t.equal(owed.add(two, answerOf(undefined, clock.ms)), true)
  t.strictSame(owed.keys(), ['client'])
  await pay()
  const [a, b] = two.policies
  t.strictSame(charges, [
    {
      ...{ key: 'client', limiter: '', decisive: 2, penalty: 'none' },
      policies: [
        { ...a, cost: 2 },
        { ...b, cost: 6 },
      ],
    },
  ])
  t.strictSame(paid, [[charges[0], answerOf(clock.ms)]])
  t.strictSame(owed.keys(), [])
  await pay()
  t.equal(charges.length, 1, 'nothing is owed any more')
})

t.test('what was charged nowhere is not owed', async t => {
  const { owed } = ledger(t)
  t.equal(owed.add(two, answerOf(undefined, undefined)), false)
  t.strictSame(owed.keys(), [])
})

t.test('what has left its window is not written, and is owed no more', async t => {
  const { owed, clock, written } = ledger(t)
  owed.add(two, answerOf(clock.ms, clock.ms))
  clock.ms += WINDOW_MS
  t.strictSame(await written(), { 'log.b': 3 })
  owed.add(two, answerOf(clock.ms, clock.ms))
  clock.ms += 5 * WINDOW_MS
  t.strictSame(owed.keys(), ['client'])
  t.strictSame(await written(), {})
  t.strictSame(owed.keys(), [])
})

t.test('what could not be written is owed as before', async t => {
  const { owed, clock, failures, written, pay } = ledger(t)
  owed.add(two, answerOf(clock.ms, clock.ms))
  failures.push(new Error('gone'))
  await t.rejects(pay(), { message: 'gone' })
  t.strictSame(owed.keys(), ['client'])
  t.strictSame((await written())['log.b'], 3)
})

t.test('while a charge is on its way there is no second one', async t => {
  const { owed, clock, charges, pay } = ledger(t)
  owed.add(two, answerOf(clock.ms, clock.ms))
  const first = pay()
  t.equal(pay(), first)
  await first
  t.equal(charges.length, 1)
})

t.test('of more keys than it has room for the oldest is forgotten', async t => {
  const { owed, clock, written } = ledger(t, 2)
  for (const key of ['a', 'b', 'b', 'c']) owed.add({ ...two, key }, answerOf(clock.ms, clock.ms))
  t.strictSame(owed.keys(), ['b', 'c'])
  t.strictSame(await written('a'), {})
  t.strictSame(await written('b'), { 'log.a': 4, 'log.b': 6 })
  owed.forget('a')
  t.strictSame(owed.keys(), ['c'])
  owed.forget('c')
  owed.add({ ...two, key: 'c' }, answerOf(clock.ms, clock.ms))
  t.strictSame(await written('c'), { 'log.a': 2, 'log.b': 3 }, 'what was forgotten is not written later')
})

t.test('a reset concerns the logs that it names', async t => {
  const { owed, clock, written } = ledger(t)
  owed.add(two, answerOf(clock.ms, clock.ms))
  owed.reset('client', { limiters: [], logs: ['log.a'], permits: [] })
  t.strictSame(await written(), { 'log.b': 3 })
})

t.test(
  'what is given back is not written, unless it was before the debt began, or is nobody in particular',
  async t => {
    const { owed, clock, written } = ledger(t)
    const back = (time: number | undefined, costs = [1, 1]) => {
      const admission = time === undefined ? undefined : { generation: 1, time }
      owed.takeBack(
        two,
        two.policies.map((policy, index) => ({ policy, cost: costs[index] as number, admission })),
      )
    }
    back(clock.ms)
    const began = clock.ms
    owed.add(two, answerOf(began + 5, began))
    owed.add(two, answerOf(began + 9, began + 9))
    back(began - 1)
    back(undefined)
    t.strictSame(await written(), { 'log.a': 4, 'log.b': 6 })
    owed.add(two, answerOf(began + 5, began))
    owed.add(two, answerOf(began + 9, began + 9))
    back(began)
    back(began + 9, [0, 2])
    t.strictSame(await written(), { 'log.a': 3, 'log.b': 3 })
  },
)

t.test('of what came while a charge was on its way each policy has its own part', async t => {
  const { owed, clock, written, pay } = ledger(t)
  owed.add(two, answerOf(clock.ms, clock.ms))
  const paid = pay()
  owed.add(two, answerOf(undefined, clock.ms + 7))
  owed.add(two, answerOf(undefined, clock.ms + 5))
  owed.add(two, answerOf(clock.ms + 9, undefined))
  await paid
  t.strictSame(owed.keys(), ['client'])
  const refund = (time: number) =>
    owed.takeBack(two, [{ policy: two.policies[1] as never, cost: 1, admission: { generation: 1, time } }])
  refund(clock.ms + 4)
  refund(clock.ms + 5)
  const [charge] = [await written()]
  t.strictSame(charge, { 'log.a': 2, 'log.b': 5 })
})
