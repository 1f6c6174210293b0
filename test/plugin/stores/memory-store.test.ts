import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import type { Policy } from '../../../plugin/src/policy.js'
import { MemoryStore } from '../../../plugin/src/stores/memory/memory-store.js'
import type { Answer, Check, PolicyAnswer, Refund } from '../../../plugin/src/stores/store.js'
import { type CheckSpec, checkOf, namesOf, type PolicySpec } from '../../support/stores.js'

const WINDOW = 1000

/** A store at the time 10,000. */
function opened(capacity = 100) {
  const clock = { now: 10_000 }
  const store = new MemoryStore(capacity, () => clock.now)
  return { store, clock }
}
const one = (spec: Partial<PolicySpec> = {}, rest: CheckSpec = {}) =>
  checkOf([{ limit: 3, windowMs: WINDOW, ...spec }], rest)
const two = (cost: number, other: number, rest: CheckSpec = {}) =>
  checkOf(
    [
      { name: 'a', limit: 3, windowMs: WINDOW, cost },
      { name: 'b', limit: 9, windowMs: 2 * WINDOW, cost: other },
    ],
    rest,
  )
const first = ({ policies }: Answer) => policies[0] as PolicyAnswer
/** How many units of each policy are used. */
const usedOf = ({ policies }: Answer) => policies.map(({ used }) => used)

t.test('a check charges all policies or none, and a peek changes nothing', async t => {
  const { store, clock } = opened()
  t.strictSame(store.peek(two(1, 4)), {
    allowed: true,
    policies: [
      { used: 0, resetMs: 0, retryMs: 0, denials: 0 },
      { used: 0, resetMs: 0, retryMs: 0, denials: 0 },
    ],
  })
  const answer = store.check(two(2, 4))
  t.match(answer, {
    allowed: true,
    policies: [
      { used: 2, resetMs: 1000 },
      { used: 4, resetMs: 2000 },
    ],
  })
  t.match(first(answer).admission, { time: 10_000 })
  clock.now += 100
  const denied = store.check(two(2, 4))
  t.match(denied, {
    allowed: false,
    policies: [
      { used: 2, retryMs: 900 },
      { used: 4, retryMs: 0 },
    ],
  })
  t.equal(denied.concurrency, undefined)
  t.strictSame(usedOf(store.peek(two(0, 0))), [2, 4])
  const free = store.check(two(0, 1))
  t.match(free, { allowed: true, policies: [{ used: 2 }, { used: 5, resetMs: 1900 }] })
  t.equal(first(free).admission, undefined, 'what costs nothing is not charged')
  t.strictSame(store.check(one({ name: 'large', cost: 4 })).policies, [
    { used: 0, resetMs: 0, retryMs: 1000, denials: 0 },
  ])
  t.equal(store.check(one({ name: 'exact', cost: 3 })).allowed, true)
})

t.test('a denial that is known is that of a check, and nothing is known of one that may pass', async t => {
  const { store } = opened()
  t.equal(store.knownDenial(one()), undefined)
  store.check(one({ cost: 3 }))
  t.match(store.knownDenial(one()), { allowed: false, policies: [{ used: 3, retryMs: 1000 }] })
})

t.test('a charge may overdraw the quota, and is counted', async t => {
  const { store, clock } = opened()
  const answer = store.charge(two(7, 0))
  t.match(answer, {
    allowed: true,
    policies: [
      { used: 7, resetMs: 1000, retryMs: 0, denials: 0 },
      { used: 0, retryMs: 0 },
    ],
  })
  t.match(first(answer).admission, { time: 10_000 })
  t.equal(answer.policies[1]?.admission, undefined)
  t.match(store.check(two(1, 0)), { allowed: false, policies: [{ used: 7 }] })
  const most = Number.MAX_SAFE_INTEGER - 63
  t.throws(() => store.charge(two(1, most + 1)), { code: /./ })
  t.strictSame(usedOf(store.peek(two(0, 0))), [7, 0], 'all or nothing')
  clock.now += 10
  store.block('client', { limiters: [], logs: [{ log: 'log.a', windowMs: WINDOW }] }, 500)
  const blocked = store.charge(two(1, 1))
  t.match(blocked, { allowed: true, policies: [{ used: 8, retryMs: 0, blockedMs: 500, resetMs: 990 }, { used: 1 }] })
  t.equal(blocked.policies[1]?.blockedMs, undefined)
})

t.test('a refund gives back what its admission took, while that counts', async t => {
  const { store, clock } = opened()
  const check = one()
  const refund = (cost: number, answer?: Answer, key?: string): number[] => {
    const refunds: Refund[] = check.policies.map(policy => ({
      policy,
      cost,
      admission: answer && first(answer).admission,
      key,
    }))
    return store.refund(check, refunds)
  }
  t.strictSame(refund(1), [0], 'nothing is known of the log')
  store.check(one({}, { key: 'another' }))
  t.strictSame(refund(1), [0], 'nothing is known of the key')
  const admitted = store.check(check)
  store.check(check)
  t.strictSame(refund(1, admitted), [1])
  t.strictSame(refund(5), [1], 'an operator takes what there is')
  const later = store.check(check)
  t.strictSame(refund(1, admitted), [0], 'the log was empty in between')
  clock.now += 999
  store.check(check)
  t.strictSame(refund(1, later), [1])
  clock.now += 1
  t.strictSame(refund(1, later), [0], 'its window is over')
  store.check(one({}, { key: 'other' }))
  t.strictSame(refund(1, undefined, 'other'), [1], 'of another key')
  t.strictSame(usedOf(store.peek(one({ cost: 0 }))), [1])
  clock.now += 2000
  t.strictSame(refund(1), [0], 'nothing counts any more')
})

t.test('requests in flight are limited, and a permit that is given back is free', async t => {
  const { store } = opened()
  const check = one({ limit: 5 }, { concurrency: { max: 2 } })
  t.match(store.peek(check), { allowed: true, concurrency: { inFlight: 0, violated: false } })
  const answers = [store.check(check), store.check(check)]
  t.match(answers[0]?.concurrency, { inFlight: 1, violated: false })
  t.match(answers[1]?.concurrency, { inFlight: 2, violated: false })
  t.equal(store.held('client', 'permits'), 2)
  t.match(store.peek(check), { allowed: false, concurrency: { inFlight: 2, violated: true } })
  const denied = store.check(check)
  t.strictSame(denied.concurrency, { inFlight: 2, violated: true })
  t.match(denied, { allowed: false, policies: [{ used: 2, retryMs: 0 }] })
  answers[0]?.concurrency?.lease?.release()
  answers[0]?.concurrency?.lease?.release()
  t.equal(store.held('client', 'permits'), 1, 'once is as good as twice')
  t.equal(store.held('other', 'permits'), 0)
  t.equal(store.held('client', 'other'), 0)
  store.reset('client', { limiters: [], logs: [], permits: ['permits'] })
  t.equal(store.held('client', 'permits'), 0)
  const again = store.check(check)
  answers[1]?.concurrency?.lease?.release()
  t.equal(store.held('client', 'permits'), 1, 'a permit of before the reset frees none of after')
  again.concurrency?.lease?.release()
  t.equal(store.held('client', 'permits'), 0)
  const full = one({ limit: 0 }, { concurrency: { max: 2 } })
  t.match(store.check(full), { allowed: false, concurrency: { inFlight: 0, violated: false } })
  t.match(store.peek(full), { allowed: false, concurrency: { violated: false } })
})

t.test('denials inside the window are counted', async t => {
  const { store, clock } = opened()
  const check = one({ limit: 1 }, { penalty: 'count' })
  t.match(store.check(check), { allowed: true, policies: [{ denials: 0 }] })
  t.match(store.check(check), { allowed: false, policies: [{ used: 1, denials: 1, retryMs: 1000 }] })
  clock.now += 500
  t.match(store.check(check), { policies: [{ denials: 2, retryMs: 500 }] })
  t.match(store.peek(check), { policies: [{ denials: 2 }] })
  t.match(store.peek(one({ limit: 1 })), { policies: [{ denials: 0 }] }, 'not asked about')
  clock.now += 500
  t.match(store.peek(check), { allowed: true, policies: [{ denials: 1 }] })
})

t.test('each denial renews a block of one window', async t => {
  const { store, clock } = opened()
  const check = one({ limit: 1 }, { penalty: 'renew' })
  store.check(check)
  clock.now += 900
  t.strictSame(store.check(check).policies, [{ used: 1, resetMs: 1000, retryMs: 1000, denials: 1 }])
  clock.now += 900
  t.strictSame(store.peek(check).policies, [{ used: 1, resetMs: 100, retryMs: 100, denials: 1 }])
  t.strictSame(store.check(check).policies, [{ used: 1, resetMs: 1000, retryMs: 1000, denials: 2 }])
  clock.now += 999
  t.match(store.peek(check), { allowed: false })
  clock.now += 1
  t.strictSame(store.peek(check), { allowed: true, policies: [{ used: 0, resetMs: 0, retryMs: 0, denials: 0 }] })
  t.match(store.check(check), { allowed: true })
  t.match(store.check(check), { policies: [{ denials: 1 }] }, 'counted from the first again')
})

t.test('each denial doubles the block, and a peek counts one window from the last', async t => {
  const { store, clock } = opened()
  const check = one({ limit: 1 }, { penalty: 'backoff' })
  store.check(check)
  for (const [index, blockMs] of [1000, 2000, 4000, 8000].entries())
    t.strictSame(store.check(check).policies, [{ used: 1, resetMs: blockMs, retryMs: blockMs, denials: index + 1 }])
  t.match(store.peek(check), { allowed: false, policies: [{ retryMs: 1000, denials: 4 }] })
  clock.now += 1000
  t.match(store.peek(check), { allowed: true, policies: [{ denials: 0 }] })
  t.match(store.check(check), { allowed: false, policies: [{ retryMs: 16_000 }] })
  for (let index = 0; index < 100; index++) store.check(check)
  t.equal(first(store.check(check)).retryMs, Number.MAX_SAFE_INTEGER)
})

t.test('a blocked key is denied by its logs until the block ends, or is reset', async t => {
  const { store, clock } = opened()
  const places = { limiters: [], logs: [{ log: 'log.a', windowMs: WINDOW }] }
  store.check(two(1, 1))
  store.block('client', places, 500)
  t.match(store.check(two(1, 1)), {
    allowed: false,
    policies: [
      { used: 1, resetMs: 500, retryMs: 500, blockedMs: 500 },
      { used: 1, retryMs: 0 },
    ],
  })
  t.equal(store.check(two(1, 1, { key: 'other' })).allowed, true)
  clock.now += 500
  t.equal(store.check(two(2, 1)).allowed, true)
  store.block('client', places, 100)
  t.match(store.peek(two(1, 1)), {
    allowed: false,
    policies: [{ used: 3, resetMs: 500, retryMs: 500, blockedMs: 100 }],
  })
  store.reset('client', namesOf(two(1, 1)))
  t.strictSame(usedOf(store.peek(two(1, 1))), [0, 0])
  t.equal(store.peek(two(1, 1)).allowed, true)
  const renewing = two(1, 1, { penalty: 'renew' })
  store.block('client', places, 5000)
  t.match(store.check(renewing), { policies: [{ retryMs: 5000, resetMs: 5000, blockedMs: 5000, denials: 1 }] })
  store.close()
  t.equal(store.peek(renewing).allowed, true)
})

t.test('policies with keys of their own share quotas, and penalties go by the key of the check', async t => {
  const { store } = opened()
  const of = (key: string, penalty: CheckSpec['penalty'] = 'none'): Check => ({
    ...two(1, 1, { key, penalty }),
    keys: [key, 'tenant'],
  })
  store.check(of('x'))
  t.strictSame(usedOf(store.check(of('y'))), [1, 2])
  t.strictSame(usedOf(store.charge(of('x'))), [2, 3])
  for (let index = 0; index < 2; index++) store.check(of('x', 'count'))
  t.match(store.check(of('x', 'count')), { allowed: false, policies: [{ denials: 2 }, { denials: 0 }] })
  t.match(store.peek(of('x', 'count')), { policies: [{ denials: 2 }] })
  t.match(store.peek(of('y', 'count')), { policies: [{ denials: 0 }] })
  store.reset('x', namesOf(of('x')))
  t.match(store.peek(of('x', 'count')), { policies: [{ used: 0, denials: 0 }, { used: 4 }] })
})

t.test('what another store reports is taken over, and no more', async t => {
  const { store, clock } = opened()
  const report = (policy: Partial<PolicyAnswer>): Answer => ({
    allowed: true,
    policies: [{ used: 0, resetMs: 0, retryMs: 0, denials: 0, ...policy }],
  })
  const used = (check = one({ cost: 0, limit: 99 })) => usedOf(store.peek(check))[0]
  store.learn(one(), report({}))
  t.equal(store.size('log.p'), 0, 'nothing is used, and nothing kept')
  store.learn(one(), report({ used: 4, resetMs: 1000 }))
  t.equal(used(), 4)
  clock.now += 100
  store.learn(one(), report({ used: 5, resetMs: 900 }))
  store.learn(one(), report({ used: 2, resetMs: 900 }))
  t.equal(used(), 2, 'no more than it says')
  clock.now += 900
  t.equal(used(), 1, 'the oldest of them are gone')
  store.learn(one(), report({}))
  t.strictSame([used(), store.size('log.p')], [0, 0])
  store.learn(one(), report({ used: 3, resetMs: 1000 }))
  store.learn(one(), report({ used: 3, prefetched: 3, resetMs: 1000 }))
  t.equal(used(), 6, 'what was taken ahead counts')
  const admission = { generation: 1, time: 10_000 }
  store.learn(one({ cost: 2 }), report({ used: 6, resetMs: 1000, admission }))
  t.equal(used(), 6, 'the oldest units make room for the new ones')
  clock.now += 999
  t.equal(used(), 6)
  clock.now += 1
  t.equal(used(), 0)
  store.learn(one({ cost: 9 }), report({ used: 2, resetMs: 1000, admission }))
  t.equal(used(), 2, 'no more than is used')
  clock.now += 500
  store.learn(one(), report({ used: 1, resetMs: 1000 }))
  t.strictSame([...store.usage('log.p', WINDOW)], [['client', 1]], 'what is older than the oldest there is dropped')
  clock.now += 1000
  t.strictSame([...store.usage('log.p', WINDOW)], [])
  t.strictSame([...store.usage('log.none', WINDOW)], [])
})

t.test('blocks that another store reports are taken over, and so is their end', async t => {
  const { store } = opened()
  const report = (blockedMs?: number): Answer => ({
    allowed: true,
    policies: [{ used: 0, resetMs: 0, retryMs: 0, denials: 0, blockedMs }],
  })
  store.learnBlocks(one(), report())
  t.equal(store.peek(one()).allowed, true)
  store.learnBlocks(one(), report(300))
  t.match(store.peek(one()), { allowed: false, policies: [{ blockedMs: 300 }] })
  store.learnBlocks(one(), report())
  t.equal(store.peek(one()).allowed, true)
})

t.test('where the clock steps back, time goes on from where it was, each time', async t => {
  const { store, clock } = opened()
  const check = one({ limit: 1 })
  store.check(check)
  clock.now = 9000
  t.match(store.check(check), { policies: [{ retryMs: 1000 }] })
  clock.now = 9400
  t.match(store.check(check), { policies: [{ retryMs: 600 }] })
  t.match(store.check(check), { policies: [{ retryMs: 600 }] }, 'time that stands still')
  clock.now = 100
  t.match(store.check(check), { policies: [{ retryMs: 600 }] })
  clock.now = 699
  t.equal(store.check(check).allowed, false)
  clock.now = 700
  t.equal(store.check(check).allowed, true)
})

t.test('charges of one slice share an entry, also where admissions do not', async t => {
  const of = (act: (store: MemoryStore) => void) => {
    const { store, clock } = opened()
    act(store)
    clock.now += 9
    act(store)
    clock.now += 1
    act(store)
    return first(store.peek(one({ cost: 0 }))).resetMs
  }
  const sliced = (limit: number) => one({ limit }, { precision: 0.01 })
  t.equal(
    of(store => store.charge(sliced(3))),
    999,
    'two in the first slice, one in the second',
  )
  t.equal(
    of(store => store.check(sliced(101))),
    999,
  )
  t.equal(
    of(store => store.check(sliced(3))),
    990,
  )
})

t.test('what is taken over is dated when it was learnt, and what was known before keeps its time', async t => {
  const { store, clock } = opened()
  const report = (policy: Partial<PolicyAnswer>): Answer => ({
    allowed: true,
    policies: [{ used: 0, resetMs: 0, retryMs: 0, denials: 0, ...policy }],
  })
  const used = () => usedOf(store.peek(one({ cost: 0, limit: 99 })))[0]
  store.learn(one(), report({ used: 2, resetMs: 1000 }))
  clock.now += 500
  store.learn(one(), report({ used: 2, resetMs: 500 }))
  t.equal(used(), 2, 'both are known')
  store.learn(one(), report({ used: 3, resetMs: 500 }))
  t.equal(used(), 3)
  clock.now += 499
  t.equal(used(), 3)
  clock.now += 1
  t.equal(used(), 1, 'the third one is half a window younger')
  clock.now += 500
  t.equal(used(), 0)
  store.learn(one(), report({ used: 6, resetMs: 1000 }))
  clock.now += 500
  const admission = { generation: 1, time: clock.now }
  store.learn(one({ cost: 2 }), report({ used: 6, resetMs: 500, admission }))
  clock.now += 500
  t.equal(used(), 2, 'what was admitted just now is new, though no more is used')
  const newer = opened()
  for (const passed of [500, 999]) {
    newer.store.learn(one(), report({ used: 3, resetMs: 1000 }))
    newer.clock.now += passed
  }
  t.strictSame(usedOf(newer.store.peek(one())), [3], 'what counts there is newer than what was known')
  const other = opened()
  other.store.learn(one(), report({ used: 6, resetMs: 1000 }))
  other.clock.now += 500
  other.store.learn(one({ cost: 2 }), report({ used: 6, resetMs: 500 }))
  other.clock.now += 500
  t.strictSame(usedOf(other.store.peek(one())), [0], 'a denial adds nothing')
})

t.test('a denied client is shown its quota as used up, or what it has overdrawn', async t => {
  for (const penalty of ['renew', 'backoff'] as const) {
    const { store } = opened()
    store.check(one({ cost: 2 }))
    t.match(store.check(one({ cost: 2 }, { penalty })), { allowed: false, policies: [{ used: 3 }] })
    store.charge(one({ cost: 7 }))
    t.match(store.check(one({ cost: 2 }, { penalty })), { allowed: false, policies: [{ used: 9 }] })
  }
})

t.test('a check without a penalty does not see the penalties of others', async t => {
  const { store, clock } = opened()
  const renewing = one({ limit: 1 }, { penalty: 'renew' })
  store.check(renewing)
  clock.now += 900
  store.check(renewing)
  clock.now += 100
  t.equal(store.peek(renewing).allowed, false)
  t.match(store.peek(one({ limit: 1 })), { allowed: true, policies: [{ used: 0, denials: 0 }] })
})

t.test('a key that is denied is not forgotten before that is over, however many others come', async t => {
  const others = (store: MemoryStore) => {
    for (let index = 0; index < 5; index++) store.check(one({ limit: 1 }, { key: `other ${index}` }))
  }
  const plain = opened(1)
  plain.store.check(one({ limit: 1 }))
  others(plain.store)
  t.equal(plain.store.check(one({ limit: 1 })).allowed, true, 'it was admitted, so it may be forgotten')
  t.equal(plain.store.check(one({ limit: 1 })).allowed, false)
  plain.clock.now += 999
  others(plain.store)
  t.equal(plain.store.peek(one({ limit: 1 })).allowed, false)

  for (const penalty of ['count', 'backoff'] as const) {
    const { store, clock } = opened(1)
    const check = one({ limit: 1 }, { penalty })
    for (let index = 0; index < 3; index++) store.check(check)
    clock.now += penalty === 'count' ? 999 : 1999
    others(store)
    t.match(store.check(check), { allowed: false, policies: [{ denials: 3 }] }, penalty)
  }
})

t.test('with keys of their own, the penalty of a key is kept as long as it denies', async t => {
  const { store, clock } = opened(1)
  const of = (key: string): Check => ({ ...one({ limit: 1 }, { key, penalty: 'backoff' }), keys: ['tenant'] })
  for (const key of ['x', 'x', 'x']) store.check(of(key))
  clock.now += 999
  for (let index = 0; index < 5; index++) store.check(of(`other ${index}`))
  clock.now += 1
  t.match(store.check(of('x')), { allowed: false, policies: [{ denials: 3, retryMs: 4000 }] })
})

t.test('a reset of what is not known changes nothing', async t => {
  const { store } = opened()
  store.reset('client', { limiters: ['none'], logs: ['log.none'], permits: ['none'] })
  store.check(one())
  store.reset('client', { limiters: [], logs: ['log.none', 'log.p'], permits: [] })
  t.strictSame(usedOf(store.peek(one({ cost: 0 }))), [0])
})

t.test('a policy that decides nothing is not denied for the penalties of its log', async t => {
  const { store } = opened()
  const renewing = one({ limit: 1 }, { penalty: 'renew' })
  store.check(renewing)
  store.check(renewing)
  const [policy] = renewing.policies
  const along: Check = { ...renewing, policies: [{ ...(policy as Policy), limit: 99, decides: false }] }
  t.match(store.peek({ ...along, policies: [{ ...(policy as Policy), limit: 99 }] }), { allowed: false })
  t.match(store.check(along), { allowed: true, policies: [{ used: 2, retryMs: 0, denials: 0 }] })
})

/** Checks so many logs of their own, in which nothing is known yet. */
function fill(store: MemoryStore, count: number, windowMs: number) {
  for (let index = 0; index < count; index++) store.check(one({ name: `${windowMs} ${store.logs}`, windowMs }))
}

t.test('logs in which nothing counts any more are dropped when there are a thousand, and as many again', async t => {
  const { store, clock } = opened()
  fill(store, 999, WINDOW)
  clock.now += WINDOW
  store.peek(one())
  t.equal(store.logs, 999, 'not yet')
  store.check(one())
  t.equal(store.logs, 1000)
  store.peek(one())
  t.equal(store.logs, 1, 'one of them is in use')
  fill(store, 1, WINDOW)
  clock.now += WINDOW
  store.peek(one())
  t.equal(store.logs, 2, 'a few are not worth a look')
  store.close()

  fill(store, 1000, 9 * WINDOW)
  clock.now += 1
  store.peek(one())
  t.equal(store.logs, 1000, 'all are in use')
  fill(store, 999, WINDOW)
  clock.now += WINDOW
  store.peek(one())
  t.equal(store.logs, 1999, 'not yet')
  store.check(one())
  store.peek(one())
  t.equal(store.logs, 1001)
})

t.test('a log is kept for the longest window in which it was asked for', async t => {
  const { store, clock } = opened()
  const long = { windowMs: 5 * WINDOW }
  const begin = () => {
    store.close()
    fill(store, 998, 1)
  }
  const usedAfter = (ms: number) => {
    clock.now += ms
    store.check(one({ name: 'the thousandth' }))
    store.peek(one({ name: 'other' }))
    return [...store.usage('log.p', 5 * WINDOW)]
  }
  begin()
  store.check(one())
  store.peek(one(long))
  t.strictSame(usedAfter(2 * WINDOW), [['client', 1]], 'the window has become longer')
  begin()
  store.check(one(long))
  store.peek(one())
  t.strictSame(usedAfter(2 * WINDOW), [['client', 1]], 'a shorter one takes nothing from it')
  begin()
  store.check(one(long, { key: 'first' }))
  store.check(one())
  t.strictSame(usedAfter(2 * WINDOW).length, 2, 'nor does a charge')
  const answer: Answer = { allowed: true, policies: [{ used: 2, resetMs: WINDOW, retryMs: 0, denials: 0 }] }
  begin()
  store.learn(one(), answer)
  t.strictSame(usedAfter(WINDOW - 1), [['client', 2]])
  begin()
  store.learn(one(), answer, () => 500)
  t.strictSame(usedAfter(WINDOW + 499), [['client', 2]], 'it is to be known for longer')
})

t.test('permits that are given back and blocks that have ended take no memory', async t => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const heapBytes = () => {
    collect()
    return process.memoryUsage().heapUsed
  }
  const { store } = opened(1)
  const report = (blockedMs?: number): Answer => ({
    allowed: true,
    policies: [{ used: 0, resetMs: 0, retryMs: 0, denials: 0, blockedMs }],
  })
  const before = heapBytes()
  const last = one({}, { key: 'last' })
  store.learnBlocks(last, report(300))
  for (let index = 0; index < 30_000; index++) {
    const check = one({}, { key: `key ${index}`, concurrency: { max: 1 } })
    store.check(check).concurrency?.lease?.release()
    store.learnBlocks(check, report())
  }
  const grown = heapBytes() - before
  t.ok(grown < 1_000_000, `${grown} bytes more after 30,000 keys`)
  t.equal(store.peek(last).allowed, false)
})

t.test('of more than 50,000 logs the oldest are given up that deny nobody', async t => {
  const { store } = opened()
  const denied = one({ limit: 1 })
  store.check(denied)
  store.check(denied)
  fill(store, 63_999, WINDOW)
  t.equal(store.logs, 64_000)
  t.equal(store.check(denied).allowed, false)
  t.equal(store.logs, 50_000)
  t.equal(store.size(`log.${WINDOW} 13999`), 0)
  t.equal(store.size(`log.${WINDOW} 14001`), 1)
})
