import t from 'tap'
import { decide, pass, seconds } from '../../plugin/src/decision.js'
import { spanAt } from '../../plugin/src/period.js'
import type { Answer, Check, PolicyAnswer } from '../../plugin/src/stores/store.js'
import { checkOf } from '../support/stores.js'

const UNITS = { short: 'requests', long: 'content-bytes', p: 'requests' } as const
const POLICIES = [
  { name: 'short', limit: 5, windowMs: 1000 },
  { name: 'long', limit: 9, windowMs: 60_000 },
]
const unused: PolicyAnswer = { used: 0, resetMs: 0, retryMs: 0, denials: 0 }
const answerOf = (allowed: boolean, ...policies: Partial<PolicyAnswer>[]): Answer => ({
  allowed,
  policies: policies.map(policy => ({ ...unused, ...policy })),
})
const short = { name: 'short', key: 'client', unit: 'requests', limit: 5, windowMs: 1000 }
const long = { name: 'long', key: 'client', unit: 'content-bytes', limit: 9, windowMs: 60_000 }

t.test('of an admitted request, the policy with the least left binds, and the first of equals', async t => {
  const admitted = { key: 'client', allowed: true, retryAfterMs: 0, violated: [], banned: false, known: true }
  const states = (one: object, two: object) => [
    { ...short, ...one },
    { ...long, ...two },
  ]
  const lessShort = decide(
    checkOf(POLICIES),
    answerOf(true, { used: 2, resetMs: 100 }, { used: 1, resetMs: 200 }),
    -1,
    UNITS,
  )
  const [first, second] = states({ remaining: 3, reset: 100 }, { remaining: 8, reset: 200 })
  t.strictSame(lessShort, { ...admitted, policies: [first, second], binding: first })
  const lessLong = decide(checkOf(POLICIES), answerOf(true, { used: 1 }, { used: 8, resetMs: 7 }), -1, UNITS)
  t.strictSame(lessLong.binding, { ...long, remaining: 1, reset: 7 })
  t.equal(decide(checkOf(POLICIES), answerOf(true, { used: 1 }, { used: 5 }), -1, UNITS).binding.name, 'short')
  const over = decide(checkOf(POLICIES), answerOf(true, { used: 7 }, {}), -1, UNITS)
  t.equal(over.binding.remaining, 0, 'no less than nothing remains')
})

t.test('of a denied request, the policy that frees last binds, and all that denied are named', async t => {
  const both = answerOf(false, { used: 5, resetMs: 10, retryMs: 300 }, { used: 9, resetMs: 20, retryMs: 5000 })
  t.strictSame(decide(checkOf(POLICIES), both, -1, UNITS), {
    key: 'client',
    allowed: false,
    policies: [
      { ...short, remaining: 0, reset: 10 },
      { ...long, remaining: 0, reset: 20 },
    ],
    binding: { ...long, remaining: 0, reset: 20 },
    retryAfterMs: 5000,
    violated: ['short', 'long'],
    banned: false,
    known: true,
  })
  const one = decide(checkOf(POLICIES), answerOf(false, { used: 5, retryMs: 300 }, { used: 8 }), -1, UNITS)
  t.match(one, { retryAfterMs: 300, violated: ['short'], binding: { name: 'short' } })
  t.equal(one.violated.length, 1)
  const equals = decide(checkOf(POLICIES), answerOf(false, { retryMs: 300 }, { retryMs: 300 }), -1, UNITS)
  t.equal(equals.binding.name, 'short', 'the first of equals')
  const second = decide(checkOf(POLICIES), answerOf(false, { used: 5 }, { used: 9, retryMs: 1 }), -1, UNITS)
  t.match(second, { retryAfterMs: 1, binding: { name: 'long' } })
  const nobody = decide(checkOf(POLICIES), answerOf(false, {}, {}), -1, UNITS)
  t.equal(nobody.binding.name, 'short', 'the first, where a store denies and tells no wait')
})

t.test('a client is banned by more denials than allowed, of a policy that denies it', async t => {
  const banned = (ban: number, answer: Answer) => decide(checkOf(POLICIES), answer, ban, UNITS).banned
  const denied = (denials: number) => answerOf(false, { retryMs: 10, denials }, {})
  t.equal(banned(2, denied(3)), true)
  t.equal(banned(2, denied(2)), false)
  t.equal(banned(0, denied(1)), true)
  t.equal(banned(-1, denied(99)), false, 'without a ban')
  t.equal(banned(2, answerOf(false, { denials: 9 }, { retryMs: 10 })), false, 'another policy denied')
  t.equal(banned(2, answerOf(true, { retryMs: 10, denials: 9 }, {})), false, 'it was admitted')
})

t.test('only policies that decide are shown', async t => {
  const check: Check = { ...checkOf(POLICIES), decisive: 1 }
  const decision = decide(check, answerOf(false, { used: 5, retryMs: 3 }, { used: 9, retryMs: 900 }), -1, UNITS)
  t.match(decision, { retryAfterMs: 3, violated: ['short'] })
  t.equal(decision.policies.length, 1)
  t.equal(pass(check, UNITS).policies.length, 1)
})

t.test('each policy is shown with its own key, and with what was taken ahead where that is known', async t => {
  const check: Check = { ...checkOf(POLICIES), keys: ['client', 'tenant'] }
  const { policies } = decide(check, answerOf(true, { ahead: 3 }, { ahead: 4, prefetched: 2 }), -1, UNITS)
  t.strictSame(policies, [
    { ...short, remaining: 5, reset: 0, prefetched: 0, ahead: 3 },
    { ...long, key: 'tenant', remaining: 9, reset: 0, prefetched: 2, ahead: 4 },
  ])
  t.strictSame(
    pass(check, UNITS).policies.map(({ key }) => key),
    ['client', 'tenant'],
  )
})

t.test('a budget frees everything at the end of its period, and is shown with it', async t => {
  const base = checkOf([{ limit: 5, windowMs: 86_400_000 }])
  const span = spanAt('day', Date.UTC(2026, 0, 31, 20))
  const check: Check = { ...base, policies: base.policies.map(policy => ({ ...policy, span })) }
  const state = { name: 'p', key: 'client', unit: 'requests', limit: 5, windowMs: 86_400_000 }
  const of = (allowed: boolean, policy: Partial<PolicyAnswer>) => decide(check, answerOf(allowed, policy), -1, UNITS)
  const denied = of(false, { used: 5, resetMs: 10, retryMs: 20 })
  t.strictSame(denied.policies, [{ ...state, remaining: 0, reset: span.leftMs, period: 'day' }])
  t.equal(denied.retryAfterMs, span.leftMs)
  t.strictSame(of(true, {}).policies, [{ ...state, remaining: 5, reset: 0, period: 'day' }], 'nothing is used')
  t.equal(of(true, {}).retryAfterMs, 0)
  t.match(of(true, { used: 1, resetMs: 10 }), { policies: [{ reset: span.leftMs }], violated: [] })
  const blockedMs = 60_000
  const blocked = of(false, { used: 1, resetMs: blockedMs, retryMs: blockedMs, blockedMs })
  t.equal(blocked.retryAfterMs, blockedMs, 'a block alone denies')
  const both = of(false, { used: 5, resetMs: 70_000, retryMs: 70_000, blockedMs })
  t.equal(both.retryAfterMs, span.leftMs, 'the budget is used up as well')
  const longBlock = 10 * span.leftMs
  t.equal(of(false, { used: 5, retryMs: longBlock + 1, blockedMs: longBlock }).retryAfterMs, longBlock)
  t.strictSame(pass(check, UNITS).policies, [{ ...state, remaining: 5, reset: 0, period: 'day' }])
})

t.test('a blocked key has nothing left until its block ends', async t => {
  const of = (allowed: boolean, policy: Partial<PolicyAnswer>) =>
    decide(checkOf([POLICIES[0] as (typeof POLICIES)[0]]), answerOf(allowed, policy), -1, UNITS)
  const free = of(false, { used: 1, resetMs: 900, retryMs: 500, blockedMs: 500 })
  t.strictSame(free.policies, [{ ...short, remaining: 0, reset: 500, blocked: 500 }])
  t.equal(free.retryAfterMs, 500)
  const full = of(false, { used: 5, resetMs: 900, retryMs: 900, blockedMs: 500 })
  t.strictSame(full.policies, [{ ...short, remaining: 0, reset: 900, blocked: 500 }])
  t.equal(full.retryAfterMs, 900)
  const longer = of(false, { used: 5, resetMs: 200, retryMs: 200, blockedMs: 500 })
  t.match(longer, { retryAfterMs: 500, policies: [{ reset: 500 }] })
  const charged = of(true, { used: 1, resetMs: 900, blockedMs: 500 })
  t.match(charged, { retryAfterMs: 0, violated: [], policies: [{ remaining: 0, blocked: 500 }] }, 'it denied nothing')
  t.equal(charged.violated.length, 0)
})

t.test('requests in flight are shown last, and bind where they free last', async t => {
  const check = checkOf(POLICIES, { concurrency: { max: 3 } })
  const of = (violated: boolean, inFlight: number, retryMs: number) =>
    decide(
      check,
      { ...answerOf(!violated && retryMs === 0, { retryMs }, {}), concurrency: { inFlight, violated } },
      -1,
      UNITS,
    )
  const places = { name: 'concurrency', key: 'client', unit: 'concurrent-requests', limit: 3, windowMs: 0 }
  const free = of(false, 1, 0)
  t.strictSame(free.policies.at(-1), { ...places, remaining: 2, reset: 0 })
  t.match(free, { binding: { name: 'short' }, retryAfterMs: 0 })
  t.strictSame(free.violated, [])
  const full = of(true, 4, 0)
  t.strictSame(full.binding, { ...places, remaining: 0, reset: 1000 })
  t.match(full, { retryAfterMs: 1000 })
  t.strictSame(full.violated, ['concurrency'])
  t.match(of(true, 3, 999), { retryAfterMs: 1000, binding: { name: 'concurrency' } })
  t.match(of(true, 3, 1000), { retryAfterMs: 1000, binding: { name: 'short' } })
  t.strictSame(of(true, 3, 1000).violated, ['short', 'concurrency'])
  t.match(of(false, 3, 10), { retryAfterMs: 10, binding: { name: 'short' } })
  t.equal(decide(check, answerOf(true, {}, {}), -1, UNITS).policies.length, 2, 'a store that does not count them')
  const odd = { ...answerOf(true, {}, {}), concurrency: { inFlight: 1, violated: false } }
  t.equal(decide(checkOf(POLICIES), odd, -1, UNITS).policies.length, 2, 'nobody asked about them')
})

t.test('a request that passes without the store shows its quotas, and the smallest binds', async t => {
  const first = { ...short, remaining: 5, reset: 0 }
  const second = { ...long, remaining: 9, reset: 0 }
  const unknown = { key: 'client', allowed: true, retryAfterMs: 0, violated: [], banned: false, known: false }
  t.strictSame(pass(checkOf(POLICIES), UNITS), { ...unknown, policies: [first, second], binding: first })
  t.strictSame(pass(checkOf([...POLICIES].reverse()), UNITS).binding, first)
  const equals = [POLICIES[0], { name: 'p', limit: 5, windowMs: 1 }] as typeof POLICIES
  t.equal(pass(checkOf(equals), UNITS).binding.name, 'short', 'the first of equals')
  t.strictSame(pass(checkOf(POLICIES, { concurrency: { max: 3 } }), UNITS).policies.at(-1), {
    name: 'concurrency',
    key: 'client',
    unit: 'concurrent-requests',
    limit: 3,
    windowMs: 0,
    remaining: 3,
    reset: 0,
  })
})

t.test('seconds are rounded up', async t => {
  t.strictSame([0, 1, 1000, 1001].map(seconds), [0, 1, 1, 2])
})
