/** A check whose policies have keys in several slots of a cluster: what each slot is asked, and what comes of it. */
import slotOf from 'cluster-key-slot'
import t from 'tap'
import { UNLIMITED } from '../../../plugin/src/policy.js'
import { AcrossSlots, isAcrossSlots } from '../../../plugin/src/stores/redis/across-slots.js'
import type { Answer, Check, PolicyAnswer, Refund } from '../../../plugin/src/stores/store.js'
import { checkOf } from '../../support/stores.js'

const admission = { generation: 7, time: 8 }
const plain: PolicyAnswer = { used: 0, resetMs: 10, retryMs: 0, denials: 0 }

/** Policies a, b and c, with these keys. */
const checkFor = (keys: readonly string[], rest: Partial<Check> = {}): Check => ({
  ...checkOf(keys.map((_key, index) => ({ name: 'abc'[index] as string, limit: 5, windowMs: 1000, cost: index + 1 }))),
  keys,
  ...rest,
})

type Asked = { readonly operation: string; readonly check: Check; readonly refunds?: readonly Refund[] }
type Reply = Answer | Error | readonly number[]

/** Slots that answer in turn what the test says; else they admit. */
function across(...replies: readonly (Reply | undefined)[]) {
  const asked: Asked[] = []
  const left = [...replies]
  const ask = async (operation: string, check: Check, refunds?: readonly Refund[]) => {
    asked.push(refunds === undefined ? { operation, check } : { operation, check, refunds })
    const reply = left.shift()
    if (reply instanceof Error) throw reply
    if (reply !== undefined) return reply
    return operation === 'refund' ? (refunds ?? []).map(({ cost }) => cost) : admitting(check)
  }
  /** What was asked, in short: the policies with their costs, by key. */
  const said = () =>
    asked.splice(0).map(({ operation, check, refunds }) => {
      const units = (refunds ?? check.policies).map((one, index) => {
        const name = 'policy' in one ? one.policy.log : one.log
        const key = 'policy' in one ? one.key : check.keys?.[index]
        return `${name.replace('log.', '')}${one.cost}@${key}`
      })
      return `${operation} ${check.key}: ${units.join(' ')}`
    })
  return { slots: new AcrossSlots(ask as never, key => key), asked, said }
}

const admitting = (check: Check): Answer => ({
  allowed: true,
  policies: check.policies.map(({ cost }) => ({ ...plain, used: cost, admission })),
})
const answering = (allowed: boolean, ...policies: Partial<PolicyAnswer>[]): Answer => ({
  allowed,
  policies: policies.map(policy => ({ ...plain, ...policy })),
})
const denying = (retryMs = 500): Answer => answering(false, { used: 5, retryMs })

t.test('keys of one slot need one call; those of policies, refunds, penalties and permits count', async t => {
  const stored = (key: string) => key
  const is = (check: Check, refunds: readonly Refund[] = []) => isAcrossSlots(check, refunds, stored)
  const refundOf = (key?: string): Refund => ({ policy: {} as never, cost: 1, admission: undefined, key })
  t.not(slotOf('{x}'), slotOf('{y}'))
  t.equal(is(checkFor(['x', 'x'])), false)
  t.equal(is(checkFor(['x', 'y'])), true)
  t.equal(is(checkFor(['x', 'x'], { key: 'y' })), false)
  t.equal(is(checkFor(['x', 'x'], { key: 'y', penalty: 'count' })), true)
  const concurrency = { name: 'c', max: 1, ttlMs: 1, log: 'c' }
  t.equal(is(checkFor(['x', 'x'], { key: 'y', concurrency })), true)
  t.equal(is(checkFor(['x', 'x'], { key: 'x', concurrency, penalty: 'renew' })), false)
  const one: Check = { ...checkFor(['x']), key: 'x', keys: undefined }
  t.equal(is(one), false)
  t.equal(is(one, [refundOf(), refundOf('y')]), true)
  t.equal(is(one, [refundOf(), refundOf('x')]), false)
  t.equal(
    isAcrossSlots(checkFor(['x', 'y']), [], () => 'same'),
    false,
    'as they stand in Redis',
  )
})

t.test('each slot is asked for its policies, and their answers stand in the order of the check', async t => {
  const { slots, asked, said } = across()
  const check = checkFor(['x', 'y', 'x'])
  const answer = await slots.check(check)
  const [a, b, c] = check.policies
  t.strictSame(asked, [
    { operation: 'check', check: { ...check, key: 'x', keys: ['x', 'x'], policies: [a, c], decisive: 2 } },
    { operation: 'check', check: { ...check, key: 'y', keys: ['y'], policies: [b], decisive: 1 } },
  ])
  said()
  t.strictSame(answer, {
    allowed: true,
    policies: [1, 2, 3].map(used => ({ ...plain, used, admission })),
    concurrency: undefined,
  })
  for (const operation of ['peek', 'charge'] as const) {
    t.match(await slots[operation](check), { allowed: true, policies: [{ used: 1 }, { used: 2 }, { used: 3 }] })
    t.strictSame(said(), [`${operation} x: a1@x c3@x`, `${operation} y: b2@y`])
  }
  const denied = across(denying(), undefined)
  t.match(await denied.slots.peek(checkFor(['x', 'y'])), { allowed: false, policies: [{ retryMs: 500 }, { used: 2 }] })
})

t.test('where one slot denies, the others get back what they were charged, and it does not count', async t => {
  const { slots, said, asked } = across(
    undefined,
    denying(),
    answering(true, { used: 9, admission }, { used: 4, admission: undefined }),
  )
  const check = checkFor(['x', 'y', 'z'])
  const keys = { ...check, keys: ['x', 'y', 'z'] }
  const answer = await slots.check(keys)
  t.match(answer, { allowed: false, policies: [{ used: 0 }, { used: 5, retryMs: 500 }, { used: 6 }] })
  for (const policy of answer.policies) t.equal(policy.admission, undefined)
  t.strictSame(asked[3]?.refunds, [{ policy: check.policies[0], cost: 1, admission, key: 'x' }])
  t.strictSame(said().slice(3), ['refund x: a1@x', 'refund z: c3@z'])

  const free = across(denying(), answering(true, { used: 4 }))
  await free.slots.check(checkFor(['x', 'y']))
  t.equal(free.asked.length, 2, 'nothing was charged')
})

t.test('where one slot fails, the others get back what they were charged, and the failure is told', async t => {
  const gone = new Error('gone')
  const { slots, said } = across(undefined, gone, denying())
  await t.rejects(slots.check(checkFor(['x', 'y', 'z'])), gone)
  t.strictSame(said().slice(3), ['refund x: a1@x'])
  const lost = across(undefined, denying(), gone)
  t.match(await lost.slots.check(checkFor(['x', 'y'])), { allowed: false }, 'whatever becomes of the refund')
})

t.test('permits are in the slot of the key of the check', async t => {
  let released = 0
  const lease = { release: () => void released++ }
  const held = (allowed: boolean, violated: boolean): Answer => ({
    ...answering(allowed),
    concurrency: { inFlight: 3, violated, ...(violated ? {} : { lease }) },
  })
  const concurrency = { name: 'c', max: 3, ttlMs: 1, log: 'c' }
  const check = checkFor(['x', 'y'], { key: 'k', concurrency })
  const { slots, asked } = across(held(true, false))
  const answer = await slots.check(check)
  t.match(asked, [
    { check: { key: 'k', keys: [], policies: [], decisive: 0, concurrency, penalty: 'none' } },
    { check: { key: 'x', keys: ['x'], concurrency: undefined } },
    { check: { key: 'y', keys: ['y'], concurrency: undefined } },
  ])
  t.equal(asked.length, 3)
  t.equal(answer.concurrency?.lease, lease)

  const own = across()
  await own.slots.check(checkFor(['k', 'y'], { key: 'k', concurrency }))
  t.match(own.asked, [{ check: { key: 'k', keys: ['k'], concurrency } }, { check: { key: 'y' } }])

  const denied = across(held(true, false), denying())
  t.strictSame((await denied.slots.check(check)).concurrency, { inFlight: 2, violated: false })
  t.equal(released, 1, 'the permit goes back')
  const none = across(held(false, true))
  t.strictSame((await none.slots.check(check)).concurrency, { inFlight: 3, violated: true })
  t.equal(released, 1)
})

t.test('penalties are in the slot of the key of the check, which watches those of the others', async t => {
  const check = checkFor(['k', 'y', 'z'], { key: 'k', penalty: 'count' })
  const policies = check.policies.map((policy, index) =>
    index === 2 ? { ...policy, decides: false as const } : policy,
  )
  const { slots, asked } = across(
    answering(true, { used: 1, denials: 3, admission }, { denials: 4, retryMs: 0 }),
    undefined,
  )
  const answer = await slots.check({ ...check, policies })
  const [a, b] = policies as [Check['policies'][number], Check['policies'][number]]
  t.strictSame(asked[0]?.check, {
    ...check,
    keys: ['k', 'k'],
    policies: [a, { ...b, limit: UNLIMITED, cost: 0, log: '%log.b', penaltyLog: 'log.b', blockLog: undefined }],
    decisive: 1,
  })
  t.match(asked[1]?.check, { key: 'y', keys: ['y'], penalty: 'none' })
  t.match(answer, { allowed: true, policies: [{ denials: 3 }, { used: 2, denials: 4 }, { used: 3 }] })
  const none = across()
  await none.slots.check(checkFor(['x', 'y'], { key: 'k' }))
  t.strictSame(none.said(), ['check x: a1@x', 'check y: b2@y'], 'nothing goes by the key of the check')
})

t.test('a denial in another slot is recorded where the penalties are', async t => {
  const check = checkFor(['k', 'y'], {
    key: 'k',
    penalty: 'count',
    concurrency: { name: 'c', max: 3, ttlMs: 1, log: 'c' },
  })
  const { slots, asked, said } = across(
    answering(true, { used: 1, denials: 3, admission }, { denials: 4 }),
    denying(),
    undefined,
    answering(false, { denials: 5, retryMs: 900, used: 1 }),
  )
  const answer = await slots.check(check)
  t.match(asked[3]?.check, {
    ...{ key: 'k', keys: ['k'], concurrency: undefined, penalty: 'count' },
    policies: [{ limit: 0, cost: 1, log: '%log.b', penaltyLog: 'log.b' }],
  })
  t.strictSame(said().slice(2), ['refund k: a1@k', 'check k: %b1@k'])
  t.match(answer, {
    allowed: false,
    policies: [
      { used: 0, denials: 3 },
      { used: 5, denials: 5, retryMs: 500 },
    ],
  })

  const own = across(answering(false, { used: 5, retryMs: 300, denials: 6 }, {}), undefined)
  await own.slots.check(check)
  t.strictSame(
    own.said().map(said => said.split(' ')[0]),
    ['check', 'check', 'refund'],
    'that of its own slot is recorded there',
  )
})

t.test('a block that a denial has cost is told with the wait that is longer', async t => {
  for (const penalty of ['renew', 'backoff'] as const) {
    const check = checkFor(['k', 'y'], { key: 'k', penalty })
    for (const [blockMs, retryMs] of [
      [900, 900],
      [200, 500],
    ] as const) {
      const { slots } = across(
        answering(true, { admission }, {}),
        denying(),
        undefined,
        answering(false, { denials: 5, retryMs: blockMs, used: 8, resetMs: 1 }),
      )
      t.match(await slots.check(check), {
        allowed: false,
        policies: [{}, { used: 8, denials: 5, retryMs, resetMs: blockMs }],
      })
    }
    // A block that stands already denies in the slot of the penalties, and nothing else does.
    const blocked = across(
      answering(false, {}, { denials: 2, retryMs: 700, used: 3 }),
      undefined,
      undefined,
      answering(false, { denials: 3, retryMs: 900 }),
    )
    t.match(await blocked.slots.check(check), {
      allowed: false,
      policies: [{}, { used: 3, denials: 3, retryMs: 900, resetMs: 900 }],
    })
    const free = across(answering(true, { admission }, { denials: 2, retryMs: 0, used: 3, resetMs: 4 }), undefined)
    t.match(await free.slots.check(check), { policies: [{}, { used: 2, denials: 2, retryMs: 0, resetMs: 10 }] })
  }
})

t.test('refunds go to the slots of their keys, and what each has given back stands in their order', async t => {
  const { slots, asked } = across([1, 3], [2])
  const check = checkFor(['x', 'y'], { key: 'x' })
  const [a, b] = check.policies as [Check['policies'][number], Check['policies'][number]]
  const refunds: Refund[] = [
    { policy: a, cost: 1, admission },
    { policy: b, cost: 2, admission, key: 'y' },
    { policy: b, cost: 3, admission, key: 'x' },
  ]
  t.strictSame(await slots.refund(check, refunds), [1, 2, 3])
  t.strictSame(
    asked.map(({ operation, check, refunds }) => [operation, check.key, refunds]),
    [
      ['refund', 'x', [refunds[0], refunds[2]]],
      ['refund', 'y', [refunds[1]]],
    ],
  )
})
