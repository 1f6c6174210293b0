/** What stands in a call of a script, and what its reply says. */
import t from 'tap'
import type { Policy } from '../../../plugin/src/policy.js'
import {
  encodeChecks,
  encodeRefunds,
  listIn,
  numberIn,
  type Pending,
  Reply,
} from '../../../plugin/src/stores/redis/codec.js'
import type { Check, Penalty } from '../../../plugin/src/stores/store.js'
import { checkOf } from '../../support/stores.js'

const SPACE = 'space:'

function pendingOf(operation: Pending['operation'], check: Check, more: object = {}): Pending {
  const rest = { refunds: [], since: 0, deadline: 100, settled: false, resolve: () => {}, reject: () => {} }
  return { operation, check, key: 'k', ...rest, ...more }
}

/** Keys without the name space, and arguments. */
function callOf(pending: readonly Pending[], releases: readonly { key: string; number: number }[] = [], latest = 9) {
  const { keys, args } = encodeChecks(SPACE, pending, releases, latest)
  return { keys, args: args.map(String).join(' ') }
}

const plain = checkOf([{ limit: 5, windowMs: 1000 }])
/** A check whose policies say more than limit and window. */
const saying = (check: Check, ...more: Partial<Policy>[]): Check => ({
  ...check,
  policies: check.policies.map((policy, index) => ({ ...policy, ...more[index] })),
})

t.test('numbers of a reply may be text, and what is no reply is none', async t => {
  const message = 'the Redis client gave something else than the reply of the script'
  for (const seven of [7, '7', 7n, Buffer.from('7')]) t.equal(numberIn(seven), 7)
  for (const other of [undefined, null, '', 'OK', false, true, {}, [], [7], new Uint8Array([55]), Number.prototype])
    t.throws(() => numberIn(other), { message })
  const list = [1]
  t.equal(listIn(list), list)
  for (const other of [undefined, null, 7, '[7]', { result: [7] }, { length: 1, 0: 7 }]) {
    t.throws(() => listIn(other), { message })
    t.throws(() => new Reply(other), { message })
  }
  t.throws(() => new Reply([]), { message })
  const whole = [123, 3, 4000, 0]
  t.doesNotThrow(() => new Reply(whole).next(pendingOf('check', plain)))
  for (let length = 1; length < whole.length; length++)
    t.throws(() => new Reply(whole.slice(0, length)).next(pendingOf('check', plain)), { message })
})

t.test('a check is its logs, its shape and its costs', async t => {
  t.strictSame(callOf([pendingOf('check', plain)]), {
    keys: ['space:{k}2.log.p'],
    args: '9 0 1 1 0 -1 0 0 0 1 5 1000000 0 0 1 1 0 1',
  })
  const two = checkOf(
    [
      { name: 'a', limit: 5, windowMs: 1000, cost: 3 },
      { name: 'b', limit: 500, windowMs: 2000, cost: 7 },
    ],
    { precision: 0.01 },
  )
  t.strictSame(callOf([pendingOf('peek', two, { key: 'other' })]), {
    keys: ['space:{other}2.log.a', 'space:{other}2.log.b'],
    args: '9 0 1 0 0 -1 0 0 0 2 5 1000000 10000 0 500 2000000 20000 1 1 1 0 3 7',
  })
  t.match(callOf([pendingOf('charge', plain)]), { args: '9 0 1 2 0 -1 0 0 0 1 5 1000000 0 0 1 1 0 1' })
})

t.test('penalties, permits and blocks have keys of their own', async t => {
  const kinds: Record<Penalty, [string, number]> = {
    none: ['', 0],
    count: ['-', 1],
    renew: ['!', 2],
    backoff: ['!', 3],
  }
  for (const [penalty, [kind, number]] of Object.entries(kinds)) {
    const check = checkOf([{ limit: 5, windowMs: 1000 }], { penalty: penalty as Penalty })
    t.strictSame(callOf([pendingOf('check', check)]), {
      keys: ['space:{k}2.log.p', ...(penalty === 'none' ? [] : [`space:{k}2.${kind}log.p`])],
      args: `9 0 1 1 ${number} -1 0 0 0 1 5 1000000 0 0 1 1 0 1`,
    })
  }
  const all = saying(
    checkOf(
      [
        { name: 'a', limit: 5, windowMs: 1000 },
        { name: 'b', limit: 5, windowMs: 1000 },
        { name: 'c', limit: 500, windowMs: 1000 },
      ],
      { precision: 0.01, penalty: 'count', concurrency: { max: 3, ttlMs: 400 } },
    ),
    { blockLog: 'block.a' },
    { penaltyLog: 'log.other', decides: false },
    { blockLog: 'block.c', decides: false },
  )
  t.strictSame(callOf([pendingOf('check', all)]), {
    keys: [
      ...['space:{k}2.log.a', 'space:{k}2.-log.a', 'space:{k}2.log.b', 'space:{k}2.-log.other'],
      ...['space:{k}2.log.c', 'space:{k}2.-log.c', 'space:{k}2.permits', 'space:{k}2.block.a', 'space:{k}2.block.c'],
    ],
    args: '9 0 1 1 1 3 400000 0 0 3 5 1000000 10000 2 5 1000000 10000 4 500 1000000 10000 7 1 1 0 1 1 1',
  })
  t.strictSame(callOf([pendingOf('check', all, { keys: ['x', 'y', 'z'] })]).keys, [
    ...['space:{x}2.log.a', 'space:{k}2.-log.a', 'space:{y}2.log.b', 'space:{k}2.-log.other'],
    ...['space:{z}2.log.c', 'space:{k}2.-log.c', 'space:{k}2.permits', 'space:{x}2.block.a', 'space:{z}2.block.c'],
  ])
})

t.test('budgets are for the time in which all of them are for the present period', async t => {
  const span = (fromMs: number, untilMs: number) =>
    ({ span: { period: 'day', label: '', fromMs, untilMs, leftMs: 1 } }) as const
  const three = checkOf(['a', 'b', 'c'].map(name => ({ name, limit: 5, windowMs: 1000 })))
  for (const [spans, period] of [
    [[{}, {}, {}], '0 0'],
    [[{}, span(10, 20), {}], '10000 20000'],
    [[span(10, 90), {}, span(30, 70)], '30000 70000'],
    [[span(30, 70), {}, span(10, 90)], '30000 70000'],
  ] as const) {
    const { args } = callOf([pendingOf('check', saying(three, ...spans))])
    t.equal(args.split(' ').slice(7, 9).join(' '), period)
  }
})

t.test('equal checks are told in one run, and equal shapes once', async t => {
  const dear = { ...plain, policies: plain.policies.map(policy => ({ ...policy, cost: 4 })) }
  const shape = '0 -1 0 0 0 1 5 1000000 0 0'
  t.match(callOf([pendingOf('check', plain), pendingOf('check', plain, { key: 'l' })]), {
    keys: ['space:{k}2.log.p', 'space:{l}2.log.p'],
    args: `9 0 1 1 ${shape} 2 1 0 1`,
  })
  t.equal(
    callOf([plain, dear, plain, plain].map(check => pendingOf('check', check)).concat(pendingOf('peek', plain))).args,
    `9 0 2 1 ${shape} 0 ${shape} 1 1 0 1 1 1 0 4 2 1 0 1 1 2 0 1`,
  )
  for (const other of [
    { ...plain, penalty: 'count' as const },
    { ...plain, concurrency: { name: 'c', max: 3, ttlMs: 1, log: 'c' } },
  ]) {
    const { args } = callOf([pendingOf('check', plain), pendingOf('check', other)])
    t.match(args, /^9 0 2 /)
  }
})

t.test('deadlines are told in steps of 5 ms after the first one', async t => {
  const { args } = callOf([110, 100, 104.9, 105, 109, 121].map(deadline => pendingOf('check', plain, { deadline })))
  t.equal(args.slice(args.indexOf('1000000 0 0 ') + 12), '1 1 10000 1 2 1 0 1 2 1 5000 1 1 1 20000 1')
})

t.test('permits go back in front of the checks', async t => {
  const releases = [
    { key: 'space:{x}2.permits', number: 7 },
    { key: 'space:{y}2.permits', number: 8 },
  ]
  t.strictSame(callOf([pendingOf('check', plain)], releases), {
    keys: ['space:{x}2.permits', 'space:{y}2.permits', 'space:{k}2.log.p'],
    args: '9 2 7 8 1 1 0 -1 0 0 0 1 5 1000000 0 0 1 1 0 1',
  })
})

t.test('a call for a grant says how many wait, and how much more is wanted for how long', async t => {
  const take = () => pendingOf('take', plain, { riders: [1, 2], wanted: 6, share: 4, lifeMs: 50, waiting: 0 })
  const [one, two] = [take(), take()]
  t.equal(callOf([one, two]).args, '9 0 1 3 0 -1 0 0 0 1 5 1000000 0 0 1 1 0 1 2 6 4 50000 1 1 0 1 2 6 4 50000')
  t.match([one, two], [{ waiting: 2 }, { waiting: 2 }])
})

t.test('a reply has the time, and an answer for each check', async t => {
  const two = checkOf(['a', 'b'].map(name => ({ name, limit: 5, windowMs: 1000 })))
  const reply = new Reply([123, 3, 4000, 0, 5, 6000, -77, 88, '2', '1500', '2500'])
  t.equal(reply.time, 123)
  t.strictSame(reply.next(pendingOf('check', two)), {
    answer: {
      allowed: true,
      policies: [
        { used: 3, resetMs: 4, retryMs: 0, denials: 0, admission: undefined, blockedMs: undefined },
        { used: 5, resetMs: 6, retryMs: 0, denials: 0, admission: { generation: 77, time: 88 }, blockedMs: undefined },
      ],
    },
    permit: 0,
  })
  t.strictSame(
    reply.next(pendingOf('check', plain)),
    {
      answer: {
        allowed: false,
        policies: [{ used: 2, resetMs: 1.5, retryMs: 2.5, denials: 0, admission: undefined, blockedMs: undefined }],
      },
      permit: 0,
    },
    'numbers may be text',
  )
})

t.test('a reply tells blocks, denials, what is ahead, and permits', async t => {
  const policy = { resetMs: 0, retryMs: 0, denials: 0, admission: undefined, blockedMs: undefined }
  const blocked = new Reply([1, 2, -3000, 9000, 8000]).next(pendingOf('check', plain))
  t.match(blocked, { answer: { allowed: false, policies: [{ used: 2, resetMs: 3, blockedMs: 9, retryMs: 8 }] } })
  const counted = checkOf([{ limit: 5, windowMs: 1000 }], { penalty: 'count' })
  t.match(new Reply([1, 2, 0, 0, 6]).next(pendingOf('check', counted)), {
    answer: { policies: [{ ...policy, used: 2, denials: 6 }] },
  })
  t.strictSame(new Reply([1, 2, 0, 0, 7]).next(pendingOf('peek', plain)), {
    answer: { allowed: true, policies: [{ ...policy, used: 2, ahead: 7 }] },
    permit: 0,
  })
  const held = checkOf([{ limit: 5, windowMs: 1000 }], { concurrency: { max: 3 } })
  for (const [values, allowed, inFlight, permit, violated] of [
    [[0, 3, 44], true, 3, 44, false],
    [[0, 3, 0], true, 3, 0, false],
    [[0, 4, -1], false, 4, 0, true],
    [[5, 1, 0], false, 1, 0, false],
  ] as const) {
    t.match(new Reply([1, 2, 0, ...values]).next(pendingOf('check', held)), {
      answer: { allowed, concurrency: { inFlight, violated } },
      permit,
    })
  }
})

t.test('a reply tells why a check has no answer, and the next one has its own', async t => {
  const reply = new Reply([1, -1, '-2', -3, -4, -5, 0, 0])
  for (const refusal of ['foreign', 'late', 'too large', 'other period'])
    t.equal(reply.next(pendingOf('check', plain)), refusal)
  t.match(reply.next(pendingOf('check', plain)), { answer: { policies: [{ used: -5 }] } })
  const take = new Reply([1, -2, 3, 4, 5, 0, 0, 6, 7])
  t.equal(take.nextTake(plain), 'late')
  t.match(take.nextTake(plain), { admitted: 3 })
})

t.test('a reply to a call for a grant says what was admitted and granted', async t => {
  const two = checkOf(['a', 'b'].map(name => ({ name, limit: 5, windowMs: 1000 })))
  t.strictSame(new Reply([1, 2, 6, 30, 4000, 500, 77, 88, 31, -5000, 6000, 0, 0, 0]).nextTake(two), {
    admitted: 2,
    ahead: 6,
    policies: [
      { used: 30, resetMs: 4, blockedMs: undefined, retryMs: 0.5, admission: { generation: 77, time: 88 } },
      { used: 31, resetMs: 5, blockedMs: 6, retryMs: 0, admission: { generation: 0, time: 0 } },
    ],
  })
})

t.test('refunds name the log, the cost and whose it is', async t => {
  const two = checkOf(
    [
      { name: 'a', limit: 5, windowMs: 1000 },
      { name: 'b', limit: 500, windowMs: 2000 },
    ],
    { precision: 0.01 },
  )
  const [a, b] = two.policies as [Policy, Policy]
  const refunds = [
    { policy: a, cost: 3, admission: undefined },
    { policy: b, cost: 4, admission: { generation: 77, time: 88 }, isAhead: true },
  ]
  const pending = [
    pendingOf('refund', two, { refunds }),
    pendingOf('refund', two, { key: 'l', keys: ['x', 'y'], refunds: [...refunds].reverse() }),
    pendingOf('refund', two, {
      key: 'm',
      keys: [],
      refunds: [{ policy: a, cost: 1, admission: undefined, isAhead: true }],
    }),
  ]
  t.strictSame(encodeRefunds(SPACE, pending, 'mark', 9, 50), {
    keys: [
      ...['space:{k}2.~mark', 'space:{k}2.log.a', 'space:{k}2.log.b', 'space:{x}2.log.b', 'space:{y}2.log.a'],
      'space:{m}2.log.a',
    ],
    args: [
      ...[9, 50],
      ...[3, 1_000_000, 10_000, 0, 0, 0],
      ...[4, 2_000_000, 20_000, 3, 77, 88],
      ...[4, 2_000_000, 20_000, 3, 77, 88],
      ...[3, 1_000_000, 10_000, 0, 0, 0],
      ...[1, 1_000_000, 10_000, 2, 0, 0],
    ],
  })
})
