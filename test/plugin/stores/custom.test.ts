/** What a custom store is asked, and what its answers, errors and silence mean. The clock is moved by hand. */
import t from 'tap'
import type { CustomStoreCallback } from '../../../plugin/src/stores/custom.js'
import type { Answer } from '../../../plugin/src/stores/store.js'
import { atTimeByHand } from '../../support/time-by-hand.js'

const { time, modules } = await atTimeByHand(async () => ({
  ...(await import('../../../plugin/src/stores/custom.js')),
  ...(await import('../../support/stores.js')),
}))
const { CustomStoreAdapter, checkOf, childOf, newCustomStore } = modules

const check = checkOf([{ limit: 5, windowMs: 1000 }])

/** A store that does what the test says with the callback. */
function adapter(act: (callback: CustomStoreCallback) => unknown, canRead = true) {
  time.clearAll()
  const asked: unknown[] = []
  const ask =
    (what: string) =>
    (key: string, callback: CustomStoreCallback, ...rest: unknown[]) => {
      asked.push([what, key, ...rest])
      return act(callback) as never
    }
  const store = { incr: ask('incr'), ...(canRead ? { read: ask('read') } : {}), child: () => store }
  return { made: new CustomStoreAdapter(store as never, { suffix: '/group', timeoutMs: 500 }), asked }
}

const says = (current: unknown, ttl: unknown) =>
  adapter(callback => callback(null, { current, ttl } as never)).made.check(check)

t.test('a check counts, and a look reads, with the key of the group, the window and the quota', async t => {
  const { made, asked } = adapter(callback => callback(null, { current: 3, ttl: 400 }))
  const answer = { allowed: true, policies: [{ used: 3, resetMs: 400, retryMs: 0, denials: 0 }] }
  t.strictSame(await made.check(check), answer)
  t.strictSame(await made.peek(check), answer)
  t.strictSame(asked, [
    ['incr', 'client/group', 1000, 5],
    ['read', 'client/group', 1000, 5],
  ])
  t.equal(time.waiting, 0)
  t.throws(() => adapter(() => {}, false).made.peek(check), { code: 'ML_RATE_STORE_CANNOT_READ' })
})

t.test('what is above the quota is denied until the window ends, and each counts as a denial', async t => {
  for (const [current, ttl, allowed, resetMs, retryMs, denials] of [
    [5, 400, true, 400, 0, 0],
    [6, 400, false, 400, 400, 1],
    [8, 0.5, false, 0.5, 1, 3],
    [8, -7, false, 0, 1, 3],
    [1, -7, true, 0, 0, 0],
  ] as const) {
    t.strictSame(await says(current, ttl), { allowed, policies: [{ used: current, resetMs, retryMs, denials }] })
  }
})

t.test('counts may be text or bigints, and anything else is no answer', async t => {
  t.match(await says('3', 400n), { policies: [{ used: 3, resetMs: 400 }] })
  t.match(await says(-1, -1), { policies: [{ used: 0, resetMs: 0 }] })
  for (const [current, ttl, what] of [
    ['', 5, 'current string and ttl number'],
    [3, '', 'current number and ttl string'],
    [null, 5, 'current object and ttl number'],
    [3, undefined, 'current number and ttl undefined'],
    ['many', 5, 'current string and ttl number'],
    [[3], 5, 'current object and ttl number'],
    [Infinity, 5, 'current Infinity and ttl number'],
    [3, Number.NaN, 'current number and ttl NaN'],
  ] as const) {
    await t.rejects(says(current, ttl), {
      code: 'ML_RATE_INVALID_ANSWER',
      message: `option 'store' returned ${what}; allowed: { current, ttl }, two finite numbers`,
    })
  }
  await t.rejects(adapter(callback => callback(null)).made.check(check), { code: 'ML_RATE_INVALID_ANSWER' })
})

t.test(
  'a class is asked for a store with its options, and a store for those of routes; what is none is refused',
  async t => {
    const options = { max: 5 }
    class Made {
      constructor(readonly given: object) {}
      incr(): void {}
      child(given: object): Made {
        return new Made(given)
      }
    }
    const store = newCustomStore(Made, options)
    t.match(store, { given: options })
    t.match(childOf(store, { max: 6 }), { given: { max: 6 } })
    t.ok(newCustomStore(Made.bind(null) as never, options), 'what can be constructed is a class')
    const refused = (what: string) => ({
      code: 'ML_RATE_INVALID_OPTION',
      message: `option 'store' is ${what}; allowed: a class with incr(key, callback, timeWindow, max) and child(options)`,
    })
    t.throws(() => newCustomStore((() => store) as never, options), refused('a function that is no class'))
    t.throws(() => newCustomStore(Object as never, options), refused("a class whose objects have no method 'incr'"))
    t.throws(() => childOf({ incr() {} } as never, options), refused("a class whose objects have no method 'child'"))
    for (const [child, said] of [
      [undefined, 'undefined'],
      [null, 'null'],
      [{}, 'an object'],
    ]) {
      const childless = { incr() {}, child: () => child } as never
      t.throws(() => childOf(childless, options), refused(`a class whose child() returned ${said} without an incr()`))
    }
  },
)

t.test('an error, a throw and a rejection are failures', async t => {
  const error = new Error('gone')
  const failing: Record<string, (reason: unknown) => (callback: CustomStoreCallback) => unknown> = {
    'an error': reason => callback => callback(reason as Error),
    'a throw': reason => () => {
      throw reason
    },
    'a rejection': reason => () => Promise.reject(reason),
  }
  for (const [what, fail] of Object.entries(failing)) {
    t.equal(
      await adapter(fail(error))
        .made.check(check)
        .catch(error => error),
      error,
      what,
    )
    const object = { any: 'object' }
    t.equal(
      await adapter(fail(object))
        .made.check(check)
        .catch(error => error),
      object,
      what,
    )
    t.match(
      await adapter(fail('text'))
        .made.check(check)
        .catch(error => error),
      { message: 'the store failed: text' },
    )
    t.equal(time.waiting, 0)
  }
  t.match(
    await adapter(() => Promise.reject(null))
      .made.check(check)
      .catch(error => error),
    {
      message: 'the store failed: null',
    },
  )
})

t.test('a promise that is kept is no answer', async t => {
  let answer: CustomStoreCallback = () => {}
  const { made } = adapter(callback => {
    answer = callback
    return Promise.resolve('done')
  })
  const one = made.check(check)
  await time.pass(400)
  answer(null, { current: 1, ttl: 5 })
  t.match(await one, { allowed: true })
  t.equal(time.waiting, 0)
})

t.test('what is silent is given up; an answer that has arrived by then counts', async t => {
  let answer: CustomStoreCallback = () => {}
  const wait = () => {
    const one: Promise<Answer> = adapter(callback => {
      answer = callback
    }).made.check(check)
    one.catch(() => {})
    return one
  }
  const late = wait()
  await time.pass(499)
  let isOver = false
  late.catch(() => {
    isOver = true
  })
  await time.pass(0)
  t.equal(isOver, false)
  await time.pass(1)
  await t.rejects(late, {
    code: 'ML_RATE_STORE_TIMEOUT',
    message: 'The rate limit store did not answer within 500 ms',
  })
  const arrived = wait()
  time.step(500)
  answer(null, { current: 1, ttl: 5 })
  t.match(await arrived, { allowed: true })
})

t.test('a custom store can do nothing else', async t => {
  const { made } = adapter(() => {})
  for (const [what, act] of [
    ['charge a cost', () => made.charge()],
    ['refund a cost', () => made.refund()],
    ['reset a key', () => made.reset()],
    ['block a key', () => made.block()],
  ] as const) {
    t.throws(act, {
      code: 'ML_RATE_STORE_CANNOT',
      message: `A custom store cannot ${what}: it counts one per request and nothing else`,
    })
  }
  made.close()
})
