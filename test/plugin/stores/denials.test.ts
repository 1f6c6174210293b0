import t from 'tap'
import { Denials } from '../../../plugin/src/stores/denials.js'
import type { Answer, Check, PolicyAnswer } from '../../../plugin/src/stores/store.js'
import { checkOf, type PolicySpec } from '../../support/stores.js'

const HOUR = 3_600_000
const full: PolicyAnswer = { used: 5, resetMs: HOUR, retryMs: HOUR, denials: 0 }
const free: PolicyAnswer = { used: 1, resetMs: HOUR, retryMs: 0, denials: 0 }
const denialOf = (...policies: PolicyAnswer[]): Answer => ({ allowed: false, policies })
const one = (spec: Partial<PolicySpec> = {}, key = 'client') =>
  checkOf([{ limit: 5, windowMs: HOUR, cost: 2, ...spec }], { key })

let now = 5000
const opened = (capacity: number) => new Denials(capacity, () => now)

/** Remembers the denial of a check that was asked `agoMs` ago. */
function remembering(check: Check, answer: Answer, agoMs = 0, denials = opened(10)): Denials {
  denials.remember(check, answer, now - agoMs)
  return denials
}

t.test('a denial answers the same check again, with a wait that is shorter and never 0', async t => {
  const denials = remembering(one(), denialOf({ ...full, resetMs: 5000, retryMs: 4000, denials: 7 }))
  now += 3
  const answer = denials.find(one()) as Answer
  t.equal(answer.allowed, false)
  const [policy] = answer.policies as [PolicyAnswer]
  t.strictSame(policy, { used: 5, resetMs: 4997, retryMs: 3997, denials: 0 })
  const brief = remembering(one(), denialOf({ ...full, resetMs: 0.001, retryMs: 900 }))
  t.equal(brief.find(one())?.policies[0]?.resetMs, 1)
  const both = checkOf([
    { name: 'a', limit: 5, windowMs: HOUR },
    { name: 'b', limit: 5, windowMs: HOUR },
  ])
  const two = remembering(both, denialOf({ ...full, retryMs: 0.001 }, full))
  t.equal(two.find(both)?.policies[0]?.retryMs, 1, 'one that is over while the other denies')
  t.equal(remembering(both, denialOf(free, full)).find(both)?.policies[0]?.retryMs, 0)
})

t.test('it holds for its wait from when it was asked for, and for a second at most', async t => {
  const holdsFor = (retryMs: number, agoMs: number) => {
    const denials = remembering(one(), denialOf({ ...full, retryMs }), agoMs)
    const began = now
    while (denials.find(one()) !== undefined && now < began + 5000) now++
    return now - began
  }
  t.equal(holdsFor(HOUR, 0), 1000)
  t.equal(holdsFor(HOUR, 400), 600)
  t.equal(holdsFor(700, 0), 700)
  t.equal(holdsFor(700, 699), 1)
  t.equal(holdsFor(700, 700), 0)
  t.equal(holdsFor(700, 900), 0)
  const denials = opened(1)
  remembering(one(), denialOf({ ...full, retryMs: 700 }), 700, denials)
  t.ok(
    remembering(one({}, 'another'), denialOf(full), 0, denials).find(one({}, 'another')),
    'what is over takes no room',
  )
  for (const agoMs of [700, 800]) {
    const two = opened(2)
    remembering(one({}, 'long'), denialOf(full), 0, two)
    remembering(one({}, 'over'), denialOf({ ...full, retryMs: 700 }), agoMs, two)
    remembering(one({}, 'third'), denialOf(full), 0, two)
    t.ok(two.find(one({}, 'third')), 'nor behind one in force')
  }
  const next = remembering(one(), denialOf({ ...full, retryMs: 700 }), 0, opened(1))
  now += 700
  remembering(one({}, 'next'), denialOf(full), 0, next)
  t.ok(next.find(one({}, 'next')), 'it makes room in the moment that it ends')
})

t.test('it answers costs that are no smaller and quotas that are no larger, of the same logs and windows', async t => {
  const denials = remembering(one(), denialOf(full))
  t.ok(denials.find(one({ cost: 2 })))
  t.ok(denials.find(one({ cost: 3 })))
  t.notOk(denials.find(one({ cost: 1 })))
  t.ok(denials.find(one({ limit: 4 })))
  t.notOk(denials.find(one({ limit: 6 })))
  t.notOk(denials.find(one({ windowMs: HOUR + 1 })))
  t.notOk(denials.find(one({ name: 'other' })))
  t.notOk(denials.find({ ...one(), limiter: 'another' }))
  t.notOk(denials.find(one({}, 'another')))
  t.notOk(denials.find({ ...one(), penalty: 'count' }), 'a denial that counts is counted')
  t.notOk(denials.find({ ...one(), policies: [] }))
})

t.test('with several policies all logs and windows must be the same', async t => {
  const specs = [
    { name: 'a', limit: 5, windowMs: HOUR },
    { name: 'b', limit: 5, windowMs: HOUR },
  ]
  const [a, b] = specs as [PolicySpec, PolicySpec]
  const denials = remembering(checkOf(specs), denialOf(full, free))
  t.ok(denials.find(checkOf(specs)))
  t.ok(denials.find(checkOf([a, { ...b, limit: 99 }])), 'the other one did not deny')
  t.notOk(denials.find(checkOf([{ ...a, limit: 99 }, b])))
  t.notOk(denials.find(checkOf([a])))
  t.notOk(denials.find(checkOf([a, b, { ...b, name: 'c' }])))
  t.notOk(denials.find(checkOf([a, { ...b, name: 'c' }])))
  t.notOk(denials.find(checkOf([a, { ...b, windowMs: 1000 }])))
  const second = remembering(checkOf(specs), denialOf({ ...full, retryMs: 500 }, full))
  t.notOk(second.find(checkOf([a, { ...b, limit: 99 }])), 'the one that frees last is remembered')
  t.ok(second.find(checkOf([{ ...a, limit: 99 }, b])))
  const equal = remembering(checkOf(specs), denialOf(full, full))
  t.ok(equal.find(checkOf([a, { ...b, limit: 99 }])), 'the first of equals')
})

t.test('with keys of their own, the key of the policy that denied is remembered', async t => {
  const specs = [
    { name: 'a', limit: 5, windowMs: HOUR },
    { name: 'b', limit: 5, windowMs: HOUR },
  ]
  const of = (...keys: string[]): Check => ({ ...checkOf(specs), keys })
  const denials = remembering(of('client', 'tenant'), denialOf(free, full))
  t.match(denials.find(of('client', 'tenant')), { policies: [{ used: 1 }, { used: 5 }] })
  const other = denials.find(of('other', 'tenant')) as Answer
  t.strictSame(other.policies[0], { used: 0, resetMs: 0, retryMs: 0, denials: 0 }, 'nothing is known of the other key')
  t.match(other.policies[1], { used: 5 })
  t.notOk(denials.find(of('client', 'other')))
  t.notOk(denials.find(of('tenant', 'other')), 'the key stands for another policy')
  t.notOk(denials.find({ ...checkOf(specs), key: 'client' }), 'that key was not denied')
  const lone = remembering(of('x', 'y'), denialOf(full, free))
  t.ok(lone.find(of('x', 'z')), 'the first key is looked at, too')
})

t.test('what may change at any moment, or costs a penalty, is not remembered', async t => {
  t.notOk(remembering(one(), denialOf(free)).find(one()), 'no permit was left')
  const counting: Check = { ...one(), penalty: 'count' }
  t.notOk(remembering(counting, denialOf(full)).find(one()))
  const crowded = remembering(one(), { ...denialOf(full), concurrency: { inFlight: 3, violated: true } })
  t.strictSame(crowded.find(one())?.concurrency, { inFlight: 3, violated: false })
  t.equal(remembering(one(), denialOf(full)).find(one())?.concurrency, undefined)
})

t.test('the memory is bounded: what is over makes room, and nothing else does', async t => {
  const none = remembering(one(), denialOf(full), 0, opened(0))
  t.notOk(none.find(one()))
  const two = opened(2)
  remembering(one({}, 'brief'), denialOf({ ...full, retryMs: 30 }), 0, two)
  remembering(one({}, 'long'), denialOf(full), 0, two)
  remembering(one({}, 'third'), denialOf(full), 0, two)
  t.notOk(two.find(one({}, 'third')), 'no room')
  t.ok(two.find(one({}, 'long')))
  now += 35
  remembering(one({}, 'third'), denialOf(full), 0, two)
  t.ok(two.find(one({}, 'third')), 'the brief one made room')
  t.ok(two.find(one({}, 'long')))
  two.clear()
  t.notOk(two.find(one({}, 'third')))
  t.notOk(two.find(one({}, 'long')))
})

t.test('a denial that is remembered again is the newest: older ones make room first', async t => {
  const two = opened(2)
  remembering(one({}, 'a'), denialOf({ ...full, retryMs: 30 }), 0, two)
  remembering(one({}, 'b'), denialOf({ ...full, retryMs: 30 }), 0, two)
  two.forget('limiter', 'b')
  remembering(one({}, 'a'), denialOf(full), 0, two)
  remembering(one({}, 'b'), denialOf(full), 0, two)
  t.ok(two.find(one({}, 'a')))
  t.ok(two.find(one({}, 'b')))
  const wider = opened(3)
  remembering(one({}, 'a'), denialOf({ ...full, retryMs: 30 }), 0, wider)
  remembering(one({}, 'b'), denialOf({ ...full, retryMs: 30 }), 0, wider)
  remembering(one({}, 'a'), denialOf(full), 0, wider)
  remembering(one({}, 'c'), denialOf(full), 0, wider)
  now += 35
  remembering(one({}, 'd'), denialOf(full), 0, wider)
  t.ok(wider.find(one({}, 'd')), 'b, the oldest, made room')
})

t.test('what frees quota forgets the keys of its limiters, before and after', async t => {
  const denials = opened(10)
  for (const key of ['a', 'b', 'c']) remembering(one({}, key), denialOf(full), 0, denials)
  const result = await denials.freeing(['limiter'], ['a', 'b'], async () => {
    t.notOk(denials.find(one({}, 'a')))
    t.notOk(denials.find(one({}, 'b')))
    remembering(one({}, 'a'), denialOf(full), 0, denials)
    return 'done'
  })
  t.equal(result, 'done')
  t.notOk(denials.find(one({}, 'a')), 'a check on its way was denied before')
  t.ok(denials.find(one({}, 'c')))
})

t.test('a block that a denial told of is over earlier by as much, and never tells 0', async t => {
  const denials = remembering(one(), denialOf({ ...full, retryMs: 900, blockedMs: 700 }))
  now += 3
  t.equal(denials.find(one())?.policies[0]?.blockedMs, 697)
  const brief = remembering(one(), denialOf({ ...full, retryMs: 900, blockedMs: 2 }))
  now += 3
  t.equal(brief.find(one())?.policies[0]?.blockedMs, 1)
  const none = remembering(one(), denialOf({ ...full, retryMs: 900 })).find(one())?.policies[0]
  t.notOk(none !== undefined && 'blockedMs' in none)
})
