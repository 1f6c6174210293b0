/**
 * What processes that share counts say to each other: messages, what the process with the counts makes of them, and what
 * the others do when there is no answer. The clock is moved by hand.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t, { type Test } from 'tap'
import type { Call, Decoded } from '../../../plugin/src/stores/processes/messages.js'
import type { StoreEvent } from '../../../plugin/src/stores/redis/events.js'
import type { Answer, Check } from '../../../plugin/src/stores/store.js'
import { atTimeByHand } from '../../support/time-by-hand.js'

const { time, modules } = await atTimeByHand(async () => ({
  ...(await import('../../../plugin/src/stores/processes/messages.js')),
  ...(await import('../../../plugin/src/stores/processes/shared-counts.js')),
  ...(await import('../../../plugin/src/stores/processes/shared-store.js')),
  ...(await import('../../support/stores.js')),
}))
const { decodeAnswer, decodeRefund, encodeAnswer, encodeRefund, shapeOf, SharedCounts, SharedStore, checkOf, namesOf } =
  modules

const HOUR = 3_600_000
const WALL_MS = 1_700_000_000_000
const turn = () => time.pass(0)

/** The wall clock, which all processes of a machine share, goes with the one that is moved by hand. */
function wall(t: Test) {
  const { now } = Date
  Date.now = () => WALL_MS + time.now
  t.teardown(() => {
    Date.now = now
  })
}

const check = checkOf([{ limit: 2, windowMs: HOUR }])
const held = checkOf([{ limit: 9, windowMs: HOUR }], { concurrency: { max: 1 } })
const keyed = (key: string, of: Check = check): Check => ({ ...of, key })

// Messages ---------------------------------------------------------------------------------------------------------------

t.test('an answer says the same on the other side', async t => {
  const answers: Answer[] = [
    {
      allowed: true,
      policies: [
        { used: 1, resetMs: 2, retryMs: 0, denials: 0, admission: { generation: 5, time: 6.5 }, blockedMs: undefined },
        { used: 7, resetMs: 8, retryMs: 0, denials: 1, admission: undefined, blockedMs: 30 },
      ],
      concurrency: { inFlight: 3, violated: false },
    },
    {
      allowed: false,
      policies: [{ used: 1, resetMs: 2, retryMs: 9, denials: 4, admission: undefined, blockedMs: undefined }],
      concurrency: { inFlight: 0, violated: true },
    },
    { allowed: false, policies: [], concurrency: undefined },
  ]
  for (const answer of answers) {
    const sent = encodeAnswer(answer, 44)
    t.ok(sent.every(value => typeof value === 'number'))
    t.strictSame(decodeAnswer(sent, answer.policies.length), { answer, permit: 44 })
  }
})

t.test('a refund says the same on the other side, as far as it concerns a log', async t => {
  const [policy] = check.policies as [Check['policies'][number]]
  for (const key of [undefined, 'own']) {
    for (const admission of [undefined, { generation: 5, time: 6 }]) {
      t.match(decodeRefund(encodeRefund({ policy, cost: 3, admission, key })), {
        policy: { log: policy.log, windowMs: HOUR },
        cost: 3,
        admission,
        key,
      })
    }
  }
  t.strictSame(encodeRefund({ policy, cost: 3, admission: undefined }), ['log.p', HOUR, 3, -1, -1, null])
})

t.test('what all checks of a limiter have in common can be sent as JSON', async t => {
  const { key: _key, ...rest } = check
  t.strictSame(shapeOf(check), { ...rest, concurrency: null })
  t.match(shapeOf(held), { concurrency: { max: 1 } })
  t.strictSame(JSON.parse(JSON.stringify(shapeOf(held))), shapeOf(held))
})

// The process with the counts --------------------------------------------------------------------------------------------

/** Asks counts as a process of this name does. */
function counting(options: ConstructorParameters<typeof SharedCounts>[0] = {}) {
  const counts = new SharedCounts(options, () => time.now)
  const ask = (...calls: readonly unknown[]) => counts.answer(calls, 'me') as unknown[]
  const answerOf = (result: unknown) => decodeAnswer(result, ((result as number[]).length - 4) / 7) as Decoded
  const of = (operation: 'check' | 'peek' | 'charge', given: Check = check) =>
    answerOf(ask([operation, given.key, given.keys ?? null, 0, shapeOf(given)])[0])
  return { counts, ask, of, answerOf }
}

t.test('counts answer checks, looks and charges in their order', async t => {
  const { counts, ask, answerOf, of } = counting()
  const results = ask(
    ['check', 'k', null, 0, shapeOf(check)],
    ['charge', 'k', null, 0, shapeOf(check)],
    ['check', 'k', null, 0, shapeOf(check)],
    ['peek', 'k', null, 0, shapeOf(check)],
  ).map(answerOf)
  t.match(results, [
    { answer: { allowed: true, policies: [{ used: 1 }], concurrency: undefined }, permit: 0 },
    { answer: { allowed: true, policies: [{ used: 2 }] }, permit: 0 },
    { answer: { allowed: false, policies: [{ used: 2 }] }, permit: 0 },
    { answer: { policies: [{ used: 2 }] }, permit: 0 },
  ])
  t.match(of('check', keyed('other')).answer, { policies: [{ used: 1 }] })
  t.match(of('peek', { ...check, keys: ['k'] }).answer, { policies: [{ used: 2 }] }, 'the key of the policy')
  counts.close()
  t.match(of('peek', keyed('k')).answer, { policies: [{ used: 0 }] })
})

t.test('what all checks have in common is sent once, and known by its number to the process that sent it', async t => {
  const { counts, ask, answerOf } = counting()
  t.strictSame(ask(['check', 'k', null, 1, null], ['peek', 'k', null, 1, null], ['charge', 'k', null, 1, null]), [
    'unknown',
    'unknown',
    'unknown',
  ])
  ask(['check', 'k', null, 1, shapeOf(check)])
  t.match(answerOf(ask(['check', 'k', null, 1, null])[0]), { answer: { policies: [{ used: 2 }] } })
  ask(['check', 'k', null, 0, shapeOf(check)])
  t.strictSame(ask(['check', 'k', null, 0, null]), ['unknown'], '0 stands for nothing')
  t.strictSame(counts.answer([['check', 'k', null, 1, null]], 'another'), ['unknown'])
  counts.leave('me')
  t.strictSame(ask(['check', 'k', null, 1, null]), ['unknown'])
})

t.test('permits go back when they are released, and when their process ends', async t => {
  const { counts, ask, of } = counting()
  const first = of('check', held)
  t.match(first, { answer: { allowed: true, concurrency: { inFlight: 1, violated: false } } })
  t.ok(first.permit > 0)
  t.match(of('check', held), { answer: { allowed: false, concurrency: { violated: true } }, permit: 0 })
  t.strictSame(ask(['release', first.permit], ['release', first.permit], ['release', 99]), [null, null, null])
  const second = of('check', held)
  t.not(second.permit, first.permit)
  t.equal(second.answer.allowed, true)
  counts.leave('nobody')
  t.equal(of('check', held).answer.allowed, false)
  counts.leave('me')
  t.equal(of('check', held).answer.allowed, true)
})

t.test('a refund, a reset or a block that nobody waits for any more does not happen', async t => {
  wall(t)
  const { ask, of } = counting()
  const { admission } = of('check').answer.policies[0] ?? {}
  const now = WALL_MS + time.now
  const refund = ['log.p', HOUR, 1, admission?.generation, admission?.time, null]
  const names = namesOf(check)
  const places = { limiters: ['limiter'], logs: [{ log: 'log.p', windowMs: HOUR }] }
  const calls = (latest: number) => [
    ['refund', 'client', 'limiter', [refund], latest],
    ['reset', 'client', names, latest],
    ['block', 'client', places, 5000, latest],
  ]
  t.strictSame(ask(...calls(now - 1)), ['late', 'late', 'late'])
  t.match(of('peek').answer, { policies: [{ used: 1, blockedMs: undefined }] })
  t.strictSame(ask(...calls(now)), [[1], null, null])
  t.match(of('peek').answer, { policies: [{ used: 0, blockedMs: 5000 }] })
  t.strictSame(ask(...calls(0)), [[0], null, null])
})

t.test('a refund names the key of each log', async t => {
  const { ask, of } = counting()
  const two = { ...checkOf(['a', 'b'].map(name => ({ name, limit: 9, windowMs: HOUR, cost: 3 }))), keys: ['x', 'y'] }
  of('check', two)
  const refund = (log: string, key: string | null) => [log, HOUR, 2, -1, -1, key]
  t.strictSame(ask(['refund', 'x', 'limiter', [refund('log.a', null), refund('log.b', 'y')], 0]), [[2, 2]])
  t.match(of('peek', two).answer, { policies: [{ used: 1 }, { used: 1 }] })
})

t.test('a charge that cannot be counted is said, and all other errors are thrown', async t => {
  const { ask, counts } = counting()
  const dear = checkOf([{ limit: 9, windowMs: HOUR, cost: Number.MAX_SAFE_INTEGER }])
  t.strictSame(ask(['charge', 'k', null, 0, shapeOf(check)], ['charge', 'k', null, 0, shapeOf(dear)]).slice(1), [
    'too-large',
  ])
  t.throws(() => ask(['charge', 'k', null, 0, {}]), { name: 'TypeError' })
  for (const wrong of [{}, 'text', [1], null, [['check'], 5]])
    t.throws(() => counts.answer(wrong, 'me'), {
      code: 'ML_RATE_INVALID_OPTION',
      message: /^option 'batch' is .*'counts'$/,
    })
  t.throws(() => ask(['other']), {
    code: 'ML_RATE_INVALID_OPTION',
    message: "option 'batch' is 'other'; allowed: calls of the same release",
  })
  for (const cache of [0, 1.5, -1, '5']) {
    t.throws(() => new SharedCounts({ cache: cache as number }), {
      code: 'ML_RATE_INVALID_OPTION',
      message: /^option 'cache' is .*; allowed: an integer ≥ 1$/,
    })
  }
  t.ok(new SharedCounts({ cache: 1 }))
  t.ok(new SharedCounts())
})

t.test('of quota that came back the others are told, if it was denied within a second, once', async t => {
  const told: unknown[] = []
  const { ask, of } = counting({ onFreed: (notice, from) => told.push([notice, from]) })
  const names = { ...namesOf(check), limiters: ['limiter', 'other'] }
  const reset = (key = 'client') => ask(['reset', key, names, 0])
  const refund = (key: string | null, of = 'client') =>
    ask(['refund', of, 'limiter', [['log.p', HOUR, 1, -1, -1, key]], 0])
  const deny = (given: Check = check) => {
    while (of('check', given).answer.allowed);
  }
  of('check')
  reset()
  t.strictSame(told, [], 'nothing was denied')
  deny()
  reset('else')
  t.strictSame(told, [])
  reset()
  reset()
  t.strictSame(told.splice(0), [[{ limiter: 'limiter', key: 'client' }, 'me']])
  deny()
  refund(null)
  t.strictSame(told.splice(0), [[{ limiter: 'limiter', key: 'client' }, 'me']])
  refund(null)
  t.strictSame(told, [])
  deny({ ...check, key: 'x', keys: ['a', 'b', 'a'].slice(0, 1) })
  refund('a', 'x')
  t.strictSame(told.splice(0), [[{ limiter: 'limiter', key: 'a' }, 'me']])
  deny()
  time.advance(999)
  refund(null)
  t.equal(told.splice(0).length, 1)
  deny()
  time.advance(1000)
  refund(null)
  t.strictSame(told, [])
  deny()
  time.advance(600)
  deny(keyed('later'))
  time.advance(600)
  deny(keyed('third'))
  refund(null)
  refund(null, 'later')
  t.strictSame(told.splice(0), [[{ limiter: 'limiter', key: 'later' }, 'me']])

  const silent = counting()
  while (silent.of('check').answer.allowed);
  t.strictSame(silent.ask(['reset', 'client', names, 0]), [null])
})

t.test('denials that are over take no memory', async t => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const heapBytes = () => {
    collect()
    return process.memoryUsage().heapUsed
  }
  const { of } = counting({ cache: 1, onFreed: () => {} })
  const denied = checkOf([{ limit: 0, windowMs: 1 }])
  const before = heapBytes()
  for (let index = 0; index < 20_000; index++) {
    of('check', keyed(`${index} ${'long '.repeat(20)}`, denied))
    time.advance(1)
  }
  const grown = heapBytes() - before
  t.ok(grown < 1_000_000, `${grown} bytes more after 20,000 denials`)
  t.equal(of('check', keyed('last', denied)).answer.allowed, false)
})

// The process that asks --------------------------------------------------------------------------------------------------

/** A store, and a way to the counts on which the test answers. */
function asking(options: { denyMemory?: number } = {}) {
  time.clearAll()
  const counts = new SharedCounts({}, () => time.now)
  const batches: {
    readonly calls: readonly Call[]
    replies(results?: unknown): Promise<void>
    fails(error: unknown): Promise<void>
  }[] = []
  const events: string[] = []
  let notice: (notice: unknown) => void = () => {}
  const link = {
    ask: (batch: unknown) =>
      new Promise((resolve, reject) => {
        const calls = structuredClone(batch) as readonly Call[]
        batches.push({
          calls,
          replies: (results = counts.answer(calls, 'me')) => {
            resolve(structuredClone(results))
            return turn()
          },
          fails: error => {
            reject(error)
            return turn()
          },
        })
      }),
    listen: (listener: (notice: unknown) => void) => {
      notice = listener
    },
  }
  const onEvent = ({ type, ...rest }: StoreEvent) => {
    const { ms, error } = rest as { ms?: number; error?: Error }
    events.push([type, ms, error?.message].filter(part => part !== undefined).join(' '))
  }
  const store = new SharedStore(link, { timeoutMs: 500, denyMemory: options.denyMemory ?? 100, onEvent })
  const sent = () => batches.splice(0)
  /** Lets what was asked go there and back. */
  const reply = async (results?: unknown) => {
    await turn()
    const [batch, ...more] = sent()
    if (batch === undefined || more.length > 0) throw new Error(`${more.length + 1} batches`)
    await batch.replies(results)
    return batch.calls
  }
  return { store, counts, sent, reply, events, notice: (what: unknown) => notice(what) }
}

function watched<T>(value: T | Promise<T>): Promise<T> {
  const promise = Promise.resolve(value)
  promise.catch(() => {})
  return promise
}

t.test('what is not the answer to its call is a failure of the link, and of this call alone', async t => {
  const good = [1, -1, 0, 0, 1, 2, 0, 0, 5, 6, -1]
  const junk = [5, 'late', {}, [], good.slice(1), [...good, 1], good.map(String), [...good.slice(1), Number.NaN]]
  for (const result of junk) {
    const { store, reply } = asking()
    const [one, other] = [watched(store.check(check)), watched(store.check(keyed('other')))]
    await reply([result, good])
    await t.rejects(one, { message: 'the link gave something else than the answer to its call' })
    t.match(await other, { allowed: true, policies: [{ used: 1, resetMs: 2 }] })
  }
})

t.test('policies that are unknown after they were sent once more are a failure', async t => {
  const { store, reply } = asking()
  const one = watched(store.check(check))
  for (let times = 0; times < 2; times++)
    t.match(await reply(['unknown']), [['check', 'client', null, 0, shapeOf(check)]])
  await t.rejects(one, { message: 'the link gave something else than the answer to its call' })
})

t.test('what is asked in one turn is one message, with its policies twice and then by number', async t => {
  const { store, sent, reply, events } = asking()
  const all = [watched(store.check(check)), watched(store.peek(keyed('other'))), watched(store.charge(check))]
  t.strictSame(sent(), [])
  t.equal(time.waiting, 1, 'the end of the turn')
  time.advance(0)
  const [batch] = sent()
  time.advance(7)
  await batch?.replies()
  t.match(await Promise.all(all), [
    { allowed: true, policies: [{ used: 1 }] },
    { policies: [{ used: 0 }] },
    { policies: [{ used: 2 }] },
  ])
  t.strictSame(batch?.calls, [
    ['check', 'client', null, 0, shapeOf(check)],
    ['peek', 'other', null, 1, shapeOf(check)],
    ['charge', 'client', null, 1, null],
  ])
  t.strictSame(events, ['answered 7', 'answered 7', 'answered 7'])
  t.equal(time.waiting, 0)
  const own = { ...check, keys: ['x'] }
  watched(store.check(own))
  t.strictSame(await reply(), [['check', 'client', ['x'], 1, null]])
  await turn()
  t.strictSame(sent(), [], 'nothing more is sent')
})

t.test('a full message goes at once', async t => {
  const { store, sent } = asking()
  for (let key = 0; key < 63; key++) watched(store.peek(keyed(`${key}`)))
  t.strictSame(sent(), [])
  watched(store.peek(keyed('63')))
  t.equal(sent()[0]?.calls.length, 64)
  watched(store.peek(keyed('64')))
  await turn()
  t.equal(sent()[0]?.calls.length, 1)
})

t.test('of a thousand limiters the policies are known by number', async t => {
  const { store, sent } = asking()
  const limiters = Array.from({ length: 1001 }, () => checkOf([{ limit: 2, windowMs: HOUR }]))
  for (let round = 0; round < 2; round++) for (const one of limiters) watched(store.peek(one))
  await turn()
  sent()
  for (const one of limiters.slice(998)) watched(store.peek(one))
  await turn()
  t.match(sent()[0]?.calls, [
    ['peek', 'client', null, 999, null],
    ['peek', 'client', null, 1000, null],
    ['peek', 'client', null, 0, Object],
  ])
})

t.test('counts that were started again are told the policies once more', async t => {
  const { store, reply } = asking()
  for (let count = 0; count < 3; count++) {
    const one = watched(store.check(keyed(`${count}`)))
    await reply(count === 2 ? ['unknown'] : undefined)
    if (count < 2) await one
    else {
      t.match(await reply(), [['check', '2', null, 0, Object]])
      t.match(await one, { allowed: true, policies: [{ used: 1 }] })
    }
  }
  watched(store.check({ ...check, keys: ['own'] }))
  await reply(['unknown'])
  t.match(await reply(), [['check', 'client', ['own'], 0, Object]])
})

t.test('a denial is known until its time is over, or until quota came back', async t => {
  const { store, reply, notice, sent } = asking()
  const deny = async () => {
    for (;;) {
      const one = watched(store.check(check))
      await reply()
      if (!(await one).allowed) return
    }
  }
  t.equal(store.knownDenial(check), undefined)
  await deny()
  t.match(store.knownDenial(check), { allowed: false })
  t.match(store.check(check), { allowed: false })
  const look = watched(store.peek(check))
  await reply()
  await look
  notice({ limiter: 'limiter', key: 'other' })
  t.ok(store.knownDenial(check))
  notice({ limiter: 'limiter', key: 'client' })
  t.equal(store.knownDenial(check), undefined)
  const [policy] = check.policies
  for (const act of [
    () => store.refund(keyed('x'), [{ policy: policy as never, cost: 1, admission: undefined, key: 'client' }]),
    () => store.reset('client', namesOf(check)),
    () => store.block('client', { limiters: ['limiter'], logs: [] }, 50),
  ]) {
    await deny()
    const done = watched(act() as Promise<unknown>)
    await reply()
    await done
    t.equal(store.knownDenial(check), undefined)
  }
  await deny()
  store.close()
  t.equal(store.knownDenial(check), undefined)
  t.strictSame(sent(), [])
  const looking = asking()
  for (let count = 0; count < 2; count++) {
    const one = watched(looking.store.charge(check))
    await looking.reply()
    await one
  }
  const one = watched(looking.store.peek(check))
  await looking.reply()
  t.equal((await one).allowed, false)
  t.equal(looking.store.knownDenial(check), undefined, 'a look says nothing')
})

t.test('refunds, resets and blocks say until when they may happen, and are given up by then', async t => {
  wall(t)
  const { store, reply } = asking()
  const [policy] = check.policies
  const latest = () => WALL_MS + time.now + 500
  const admitted = watched(store.check(check))
  await reply()
  const { admission } = (await admitted).policies[0] ?? {}
  const refund = watched(store.refund(check, [{ policy: policy as never, cost: 1, admission }]))
  t.strictSame(await reply(), [
    ['refund', 'client', 'limiter', [['log.p', HOUR, 1, admission?.generation, admission?.time, null]], latest()],
  ])
  t.strictSame(await refund, [1])
  const names = namesOf(check)
  const reset = watched(store.reset('client', names))
  t.strictSame(await reply(), [['reset', 'client', names, latest()]])
  t.equal(await reset, undefined)
  const places = { limiters: ['limiter'], logs: [{ log: 'log.p', windowMs: HOUR }] }
  const block = watched(store.block('client', places, 70))
  t.strictSame(await reply(), [['block', 'client', places, 70, latest()]])
  await block
  const late = watched(store.reset('client', names))
  await reply(['late'])
  await t.rejects(late, { code: 'ML_RATE_STORE_TIMEOUT', message: /within 500 ms/ })
})

t.test('a permit is held until it is given back, once', async t => {
  const { store, reply, sent } = asking()
  const one = watched(store.check(held))
  await reply()
  const { concurrency } = await one
  t.match(concurrency, { inFlight: 1, violated: false })
  concurrency?.lease?.release()
  concurrency?.lease?.release()
  t.strictSame(await reply(), [['release', 1]])
  const two = watched(store.check(held))
  await reply()
  const { concurrency: second } = await two
  const three = watched(store.check(held))
  await reply()
  t.strictSame((await three).concurrency, { inFlight: 1, violated: true })
  store.close()
  await t.rejects(Promise.resolve(store.check(check)), { name: 'StoreClosed' })
  await t.rejects(store.reset('client', namesOf(check)), { name: 'StoreClosed' })
  t.strictSame(sent(), [])
  second?.lease?.release()
  t.match(await reply(), [['release', 2]], 'work may outlast its limiter')
})

t.test('what waits at the end is still sent', async t => {
  const { store, sent } = asking()
  const one = watched(store.check(check))
  store.close()
  const [batch] = sent()
  await batch?.replies()
  t.match(await one, { allowed: true })
})

t.test('a charge that cannot be counted is an error', async t => {
  const { store, reply } = asking()
  const one = watched(store.charge(check))
  await reply(['too-large'])
  await t.rejects(one, { code: 'ML_RATE_CHARGE_TOO_LARGE' })
})

t.test('without an answer calls are given up; one that comes later takes back what it was about', async t => {
  const two = {
    ...checkOf(
      ['a', 'b'].map(name => ({ name, limit: 9, windowMs: HOUR })),
      { concurrency: { max: 5 } },
    ),
    keys: ['x', 'y'],
  }
  const { store, sent, counts, events } = asking()
  const calls = [watched(store.check(two)), watched(store.charge(check)), watched(store.peek(check))]
  await turn()
  const [batch] = sent()
  await time.pass(499)
  t.strictSame(events, [])
  await time.pass(1)
  for (const call of calls) await t.rejects(call, { code: 'ML_RATE_STORE_TIMEOUT' })
  const said = 'The rate limit store did not answer within 500 ms'
  t.strictSame(events.splice(0), [`lost ${said}`, ...[1, 2, 3].map(() => `failed 500 ${said}`)])
  t.equal(time.waiting, 0)
  await batch?.replies()
  await turn()
  t.strictSame(events, [], 'nobody waits for it')
  const [back] = sent()
  t.match(back?.calls, [
    ['release', 1],
    [
      'refund',
      'client',
      'limiter',
      [
        ['log.a', HOUR, 1, Number, Number, 'x'],
        ['log.b', HOUR, 1, Number, Number, 'y'],
      ],
      0,
    ],
    ['refund', 'client', 'limiter', [['log.p', HOUR, 1, Number, Number, null]], 0],
  ])
  t.equal(back?.calls.length, 3)
  await back?.replies()
  const again = watched(store.peek(two))
  await turn()
  await sent()[0]?.replies(counts.answer([['peek', 'client', ['x', 'y'], 0, shapeOf(two)]], 'me'))
  t.match(await again, { policies: [{ used: 0 }, { used: 0 }], concurrency: { inFlight: 0 } })
  t.strictSame(events, ['back', 'answered 0'])
})

t.test('a late answer that charged nothing is left alone', async t => {
  for (const results of [
    ['too-large'],
    ['unknown'],
    [encodeAnswer({ allowed: false, policies: [{ used: 2, resetMs: 1, retryMs: 1, denials: 0 }] }, 0)],
    [encodeAnswer({ allowed: true, policies: [{ used: 2, resetMs: 1, retryMs: 0, denials: 0 }] }, 0)],
  ]) {
    const { store, sent } = asking()
    const one = watched(store.check(check))
    await turn()
    const [batch] = sent()
    await time.pass(500)
    await t.rejects(one, { code: 'ML_RATE_STORE_TIMEOUT' })
    await batch?.replies(results)
    await turn()
    t.strictSame(sent(), [])
    t.equal(store.knownDenial(check), undefined)
  }
})

t.test('of a late answer only the policies that were charged get something back', async t => {
  const names = ['a', 'b', 'c']
  const some = checkOf(names.map((name, index) => ({ name, limit: 9, windowMs: HOUR, cost: index === 1 ? 0 : 2 })))
  const { store, sent } = asking()
  const one = watched(store.check(some))
  await turn()
  const [batch] = sent()
  await time.pass(500)
  await t.rejects(one, { code: 'ML_RATE_STORE_TIMEOUT' })
  await batch?.replies()
  await turn()
  const [, , , refunds] = (sent()[0]?.calls[0] ?? []) as unknown as [string, string, string, unknown[][]]
  t.strictSame(
    refunds?.map(([log, , cost]) => [log, cost]),
    [
      ['log.a', 2],
      ['log.c', 2],
    ],
  )
})

t.test('where nobody waits for the first call of a message that fails, the others fail all the same', async t => {
  const { store, reply, sent, events } = asking()
  const one = watched(store.check(held))
  await reply()
  ;(await one).concurrency?.lease?.release()
  events.splice(0)
  const two = watched(store.check(check))
  await turn()
  await sent()[0]?.fails(new Error('gone'))
  await t.rejects(two, { message: 'gone' })
  t.strictSame(events, ['lost gone', 'failed 0 gone'])
})

t.test('an answer that has arrived when the time is over counts', async t => {
  const { store, sent, events } = asking()
  const one = watched(store.check(check))
  await turn()
  time.step(500)
  await sent()[0]?.replies()
  t.match(await one, { allowed: true })
  t.strictSame(events, ['answered 500'])
})

t.test('a way to the counts that fails, or gives no answer, is an error for all that wait', async t => {
  for (const [act, message] of [
    [(batch: ReturnType<ReturnType<typeof asking>['sent']>[number]) => batch.fails(new Error('gone')), 'gone'],
    [batch => batch.fails('a text'), 'a text'],
    [batch => batch.replies(5), 'the link gave no answer'],
    [batch => batch.replies([]), 'the link gave no answer'],
  ] as [(batch: ReturnType<ReturnType<typeof asking>['sent']>[number]) => Promise<void>, string][]) {
    const { store, sent, events, reply } = asking()
    const [one, two] = [watched(store.check(check)), watched(store.reset('client', namesOf(check)))]
    await turn()
    const [batch] = sent()
    if (batch !== undefined) await act(batch)
    for (const call of [one, two]) await t.rejects(call as Promise<unknown>, { message })
    t.strictSame(events.splice(0), [`lost ${message}`, `failed 0 ${message}`, `failed 0 ${message}`])
    t.equal(time.waiting, 0)
    const third = watched(store.check(check))
    await turn()
    await sent()[0]?.fails(new Error('still gone'))
    await t.rejects(third, { message: 'still gone' })
    t.strictSame(events.splice(0), ['failed 0 still gone'], 'it is lost once')
    // The counts have never heard of the number that the third one gave its policies.
    const fourth = watched(store.check(check))
    for (let round = 0; round < 2; round++) await reply()
    t.match(await fourth, { allowed: true })
    t.equal(events[0], 'back')
  }
})

t.test('without listeners nobody is told anything', async t => {
  const counts = new SharedCounts({}, () => time.now)
  const store = new SharedStore({ ask: async batch => counts.answer(batch, 'me') }, { timeoutMs: 500, denyMemory: 0 })
  const one = watched(store.check(check))
  await turn()
  t.match(await one, { allowed: true })
  const lost = new SharedStore({ ask: () => Promise.reject(new Error('gone')) }, { timeoutMs: 500, denyMemory: 0 })
  const two = watched(lost.check(check))
  await turn()
  await t.rejects(two, { message: 'gone' })
})
