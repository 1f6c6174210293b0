/** From a request to a decision: what the store is asked, and what becomes of its answer. The stores are made up. */
import type { FastifyRequest } from 'fastify'
import t from 'tap'
import {
  ChargeTooLarge,
  StoreCannot,
  StoreCannotRead,
  StoreClosed,
  StoreFailed,
  StoreForeignKey,
  StoreTimeout,
  StoreUnavailable,
} from '../../plugin/src/errors.js'
import { Group } from '../../plugin/src/group.js'
import { Ledger } from '../../plugin/src/ledger.js'
import { type Decided, Limiter, limiterId, orUnavailable } from '../../plugin/src/limiter.js'
import { parseLimiter } from '../../plugin/src/options/parse.js'
import type { LimiterOptions } from '../../plugin/src/options/table.js'
import { UNLIMITED } from '../../plugin/src/policy.js'
import type { Outage } from '../../plugin/src/stores/redis/outage.js'
import { type Answer, type Check, OtherPeriod, type Refund, type Store } from '../../plugin/src/stores/store.js'

const MINUTE = 60_000

/** A store that says what it was asked. It admits everything and uses what it costs, unless `answers` says something else. */
class MadeUp {
  readonly asked: { readonly what: string; readonly check: Check; readonly refunds?: readonly Refund[] }[] = []
  /** In the place of the next answers: what is returned, or an error that is thrown. */
  readonly answers: unknown[] = []
  timeMs: number | undefined
  readonly released: string[] = []

  #answer(what: string, check: Check, otherwise: unknown, refunds?: readonly Refund[]): never {
    this.asked.push(refunds === undefined ? { what, check } : { what, check, refunds })
    const answer = this.answers.length > 0 ? this.answers.shift() : otherwise
    if (answer instanceof Error) throw answer
    return answer as never
  }

  #admission(check: Check): Answer {
    return allowing(check, this.asked.length + 1)
  }

  check(check: Check): Answer {
    return this.#answer('check', check, this.#admission(check))
  }

  peek(check: Check): Answer {
    return this.#answer('peek', check, allowing(check, undefined))
  }

  charge(check: Check): Answer {
    return this.#answer('charge', check, this.#admission(check))
  }

  refund(check: Check, refunds: readonly Refund[]): number[] {
    return this.#answer(
      'refund',
      check,
      refunds.map(({ cost }) => cost),
      refunds,
    )
  }

  knownDenial(check: Check): Answer | undefined {
    return this.#answer('knownDenial', check, undefined)
  }

  now(_key: string): number | undefined {
    return this.timeMs
  }

  lease(name: string) {
    return { inFlight: 1, violated: false, lease: { release: () => void this.released.push(name) } }
  }

  /** What it was asked since this was called last, as texts. */
  said(): string[] {
    return this.asked.splice(0).map(({ what, check, refunds }) => {
      const costs = (refunds ?? check.policies).map(({ cost }) => cost)
      return `${what} ${check.key}: ${costs.join(' ')}`
    })
  }
}

function allowing({ policies }: Check, time: number | undefined): Answer {
  const admission = time === undefined ? undefined : { generation: 1, time }
  return {
    allowed: true,
    policies: policies.map(({ cost }) => ({ used: cost, resetMs: 10, retryMs: 0, denials: 0, admission })),
  }
}

const denying = ({ policies }: Pick<Check, 'policies'>, retryMs = 700): Answer => ({
  allowed: false,
  policies: policies.map(({ limit }) => ({ used: limit, resetMs: 10, retryMs, denials: 0 })),
})

const later = <T>(value: T) => new Promise<T>(resolve => setImmediate(resolve, value))
const failing = (error: unknown) => later(undefined).then(() => Promise.reject(error))

interface Parts {
  readonly group?: Group
  readonly id?: string
  readonly share?: (check: Check) => Check
  readonly outage?: Partial<Outage>
}

function limiter(options: LimiterOptions = {}, { group, id = 'ID', share, outage }: Parts = {}) {
  const [store, local] = [new MadeUp(), new MadeUp()]
  const warned: string[] = []
  const made = new Limiter({
    config: parseLimiter(options),
    id,
    group,
    store: store as unknown as Store,
    local: local as unknown as Store,
    share,
    outage: outage && (() => outage as Outage),
    warn: message => warned.push(message),
  })
  const decide = (given: Partial<FastifyRequest> = {}, peek = false) => made.decide(request(given), peek)
  return { made, store, local, warned, decide }
}

const request = (given: Partial<FastifyRequest> = {}): FastifyRequest =>
  ({ ip: '192.0.2.1', headers: {}, ...given }) as FastifyRequest

const plain = {
  name: 'default',
  limit: 1000,
  windowMs: MINUTE,
  cost: 1,
  log: 'ID:default',
  blockLog: undefined,
  sliceMs: 600,
  sliced: true,
}
const check: Check = {
  key: '192.0.2.1',
  keys: undefined,
  limiter: 'ID',
  policies: [plain],
  decisive: 1,
  penalty: 'none',
  concurrency: undefined,
  prefetch: Number.POSITIVE_INFINITY,
}

// What the store is asked ------------------------------------------------------------------------------------------------

t.test('a request is checked under its address, and decided at once where the store answers at once', async t => {
  const { store, decide } = limiter()
  const outcome = decide() as Decided
  t.notOk(outcome instanceof Promise)
  t.strictSame(store.asked, [{ what: 'check', check }])
  t.equal(outcome.store, store)
  t.equal(outcome.check, store.asked[0]?.check)
  t.match(outcome, { listed: false, key: '192.0.2.1', lease: undefined, answer: { allowed: true } })
  t.match(outcome.decision, {
    key: '192.0.2.1',
    allowed: true,
    known: true,
    policies: [{ name: 'default', unit: 'requests', limit: 1000, remaining: 999 }],
  })
  decide({ ip: '192.0.2.2' })
  t.equal(store.asked[1]?.check.key, '192.0.2.2')
  t.equal(store.asked[1]?.check.policies, outcome.check.policies, 'the same policies each time')
  decide({}, true)
  t.equal(store.asked[2]?.what, 'peek')
})

t.test('a store that needs time is waited for, and so is a key', async t => {
  const { store, decide } = limiter()
  store.answers.push(later(allowing(check, 5)))
  const waits = decide()
  t.ok(waits instanceof Promise)
  t.match(await waits, { listed: false, decision: { allowed: true }, store })
  for (const [key, name] of [
    ['one', 'one'],
    [7, '7'],
    [Promise.resolve('later'), 'later'],
  ] as const) {
    const byKey = limiter({ keyGenerator: () => key as string })
    const outcome = byKey.decide()
    t.equal(outcome instanceof Promise, key instanceof Promise)
    t.equal(((await outcome) as Decided).key, await key, 'as it was given')
    t.equal(byKey.store.asked[0]?.check.key, name)
  }
  const wrong = limiter({ keyGenerator: () => ({}) as string })
  t.throws(() => wrong.decide(), { code: 'ML_RATE_INVALID_ANSWER' })
  t.equal(limiter({ ipv6Subnet: 32 }).made.key(request({ ip: '2001:db8:1::1' })), '2001:db8::')
})

t.test('units, penalties, permits and a limit on what is taken ahead are part of a check', async t => {
  const { store, decide, made } = limiter({
    ban: 2,
    prefetch: { max: 7 },
    concurrency: { max: 3, ttl: 400 },
    policies: [
      { name: 'a', max: 5, timeWindow: 1000, unit: 'content-bytes' },
      { name: 'b', max: 200, timeWindow: 2000, cost: 3 },
    ],
  })
  const outcome = decide() as Decided
  t.strictSame(store.asked[0]?.check, {
    ...check,
    policies: [
      { ...plain, name: 'a', limit: 5, windowMs: 1000, log: 'ID:a', sliceMs: 10, sliced: false },
      { ...plain, name: 'b', limit: 200, windowMs: 2000, cost: 3, log: 'ID:b', sliceMs: 20 },
    ],
    decisive: 2,
    penalty: 'count',
    concurrency: { name: 'concurrency', max: 3, ttlMs: 400, log: 'ID/permits' },
    prefetch: 7,
  })
  t.match(outcome.decision.policies, [{ unit: 'content-bytes' }, { unit: 'requests' }])
  const lease = store.lease('a').lease
  store.answers.push({ ...allowing(outcome.check, 9), concurrency: { inFlight: 1, violated: false, lease } })
  t.equal((decide() as Decided).lease, lease)
  t.strictSame(made.policyNames, ['a', 'b', 'concurrency'])
  t.strictSame(limiter().made.policyNames, ['default'])
  t.equal(made.id, 'ID')
  t.strictSame(made.alone, [made])
  const off = limiter({ prefetch: false })
  off.decide()
  t.equal(off.store.asked[0]?.check.prefetch, undefined)
})

t.test('what depends on the request is asked at each, at once or later', async t => {
  for (const wait of [false, true]) {
    const give = <T>(value: T) => (wait ? later(value) : value) as T
    const seen: unknown[] = []
    const { store, decide, made } = limiter({
      max: (request, key) => {
        seen.push([request.ip, key])
        return give(500.7)
      },
      timeWindow: () => give(1000.9),
      cost: () => give(4),
    })
    t.equal(made.isFixed, false)
    const outcome = decide()
    t.equal(outcome instanceof Promise, wait)
    await outcome
    t.strictSame(seen, [['192.0.2.1', '192.0.2.1']])
    t.strictSame(store.asked[0]?.check, {
      ...check,
      policies: [
        {
          ...{ ...plain, limit: 500, windowMs: 1000, cost: 4, sliceMs: 10 },
          ...{ log: 'ID@1000:default', blockLog: 'ID=default' },
        },
      ],
    })
    await decide()
    t.equal(seen.length, 2)
  }
  const mixed = limiter({
    policies: [
      { name: 'a', max: 5, timeWindow: 1000 },
      { name: 'b', max: 5, timeWindow: 1000, cost: request => Number(request.headers.cost) },
    ],
  })
  for (const cost of ['3', '5']) mixed.decide({ headers: { cost } })
  t.strictSame(mixed.store.said(), ['check 192.0.2.1: 1 3', 'check 192.0.2.1: 1 5'])
  t.equal(limiter().made.isFixed, true)
  t.equal(limiter({ cost: () => 2 }).made.isFixed, true)
  t.equal(limiter({ timeWindow: () => 1000 }).made.isFixed, false)
  t.equal(limiter({ max: () => 1000 }).made.isFixed, false)
  const byCost = limiter({ cost: request => Number(request.headers.cost) })
  byCost.decide({ headers: { cost: '3' } })
  byCost.decide({ headers: { cost: '5' } })
  t.strictSame(byCost.store.said(), ['check 192.0.2.1: 3', 'check 192.0.2.1: 5'])
  const huge = limiter({ max: 2 ** 60 })
  huge.decide()
  t.equal(huge.store.asked[0]?.check.policies[0]?.limit, UNLIMITED)
  for (const [name, value] of [
    ['max', -1],
    ['timeWindow', Number.NaN],
    ['cost', 0.5],
  ] as const) {
    t.throws(() => limiter({ [name]: () => value }).decide(), { code: 'ML_RATE_INVALID_ANSWER' })
  }
})

t.test('requests of an allow list are not counted', async t => {
  const byList = limiter({ allowList: ['192.0.2.1'] })
  t.strictSame(byList.decide(), { listed: true, key: '192.0.2.1' })
  t.match(byList.decide({ ip: '192.0.2.2' }), { listed: false })
  t.strictSame(byList.store.said(), ['check 192.0.2.2: 1'])
  for (const wait of [false, true]) {
    const isListed = (value: unknown) => (wait ? later(value) : value) as boolean
    const { store, decide } = limiter({ allowList: (request, key) => isListed(request.headers.list && key) })
    t.strictSame(await decide({ headers: { list: 'yes' } }), { listed: true, key: '192.0.2.1' })
    t.match(await decide(), { listed: false })
    t.equal(store.asked.length, 1)
  }
})

t.test('policies may have keys of their own', async t => {
  for (const wait of [false, true]) {
    const { store, decide, made } = limiter({
      policies: [
        { name: 'a', max: 5, timeWindow: 1000 },
        {
          name: 'b',
          max: (_request, key) => (key === 'team' ? 9 : 0),
          timeWindow: 1000,
          keyGenerator: request => (wait ? later(request.headers.team) : request.headers.team) as string,
        },
      ],
    })
    const outcome = decide({ headers: { team: 'team' } })
    t.equal(outcome instanceof Promise, wait)
    t.match(await outcome, { key: '192.0.2.1', decision: { policies: [{ key: '192.0.2.1' }, { key: 'team' }] } })
    t.match(store.asked[0]?.check, { key: '192.0.2.1', keys: ['192.0.2.1', 'team'], policies: [{}, { limit: 9 }] })
    await made.statusOf(request({ headers: { team: 'team' } }))
    t.match(store.asked[1], { what: 'peek', check: { keys: ['192.0.2.1', 'team'], policies: [{ cost: 0 }, {}] } })
  }
  const fixed = limiter({
    policies: [
      { name: 'a', max: 5, timeWindow: 1000 },
      { name: 'b', max: 5, timeWindow: 1000, keyGenerator: request => request.headers.team as unknown as number },
    ],
  })
  fixed.decide({ headers: { team: 7 as unknown as string } })
  fixed.decide({ headers: { team: 'other' } })
  t.strictSame(
    fixed.store.asked.map(({ check }) => check.keys),
    [
      ['192.0.2.1', '7'],
      ['192.0.2.1', 'other'],
    ],
  )
  t.equal(fixed.store.asked[0]?.check.policies, fixed.store.asked[1]?.check.policies)
  t.throws(() => fixed.decide(), { code: 'ML_RATE_INVALID_ANSWER' })
})

// Groups -----------------------------------------------------------------------------------------------------------------

t.test('limiters of a group are charged for the windows of all, and deny by their own', async t => {
  const group = new Group(0.1)
  const hour = limiter({ max: 50, timeWindow: '1 hour', precision: 0.1 }, { group })
  t.strictSame(group.logs, [{ log: 'ID@3600000:default', name: 'default', windowMs: 3_600_000, sliced: true }])
  hour.decide()
  hour.decide()
  t.equal(hour.store.asked[0]?.check.policies, hour.store.asked[1]?.check.policies, 'the same policies each time')
  t.equal(hour.store.asked.shift()?.check.policies.length, 1)
  const minute = limiter({ max: 5, timeWindow: MINUTE, cost: 2, precision: 0.1 }, { group })
  hour.decide()
  minute.decide()
  const ofHour = { name: 'default', windowMs: 3_600_000, log: 'ID@3600000:default', sliceMs: 360_000, sliced: true }
  const ofMinute = { name: 'default', windowMs: MINUTE, log: 'ID@60000:default', sliceMs: 6000, sliced: false }
  const blockLog = 'ID=default'
  t.strictSame(hour.store.asked[1]?.check, {
    ...check,
    policies: [
      { ...ofHour, limit: 50, cost: 1, blockLog },
      { ...ofMinute, limit: UNLIMITED, cost: 1, decides: false },
    ],
  })
  t.strictSame(minute.store.asked[0]?.check.policies, [
    { ...ofMinute, limit: 5, cost: 2, blockLog },
    { ...ofHour, limit: UNLIMITED, cost: 2, decides: false },
  ])
  t.equal(minute.store.asked[0]?.check.decisive, 1)
  minute.decide()
  t.equal(minute.store.asked[1]?.check.policies, minute.store.asked[0]?.check.policies)
  limiter({ max: 11, timeWindow: MINUTE, precision: 0.1 }, { group })
  minute.decide()
  t.equal(minute.store.asked[2]?.check.policies[0]?.sliced, true, 'another quota on the same window shares slices')

  const other = limiter({ policies: [{ name: 'other', max: 5, timeWindow: 1000 }], precision: 0.1 }, { group })
  other.decide()
  t.strictSame(
    other.store.asked[0]?.check.policies.map(({ log }) => log),
    ['ID@1000:other'],
    'policies of other names are not charged',
  )
})

t.test('while a limiter of a group has penalties, none of them takes quota ahead', async t => {
  const group = new Group(0.01)
  const one = limiter({}, { group })
  one.decide()
  t.equal(one.store.asked[0]?.check.prefetch, Number.POSITIVE_INFINITY)
  t.equal(group.hasPenalty, false)
  limiter({ continueExceeding: true }, { group })
  t.equal(group.hasPenalty, true)
  one.decide()
  t.equal(one.store.asked[1]?.check.prefetch, undefined)
  const alone = limiter({ ban: 3 })
  alone.decide()
  t.match(alone.store.asked[0]?.check, { penalty: 'count', prefetch: Number.POSITIVE_INFINITY })
})

t.test('in a group a quota or a window that depends on the request has its part as far as it is known', async t => {
  const group = new Group(0.01)
  limiter({ max: () => 5000, timeWindow: 1000 }, { group })
  t.match(group.logs, [{ log: 'ID@1000:default', sliced: false }])
  const byWindow = limiter({ max: 5000, timeWindow: () => 2000 }, { group })
  t.equal(group.logs.length, 1)
  byWindow.decide()
  t.match(byWindow.store.asked[0]?.check.policies, [
    { log: 'ID@2000:default', limit: 5000 },
    { log: 'ID@1000:default', decides: false },
  ])
  limiter({ policies: [{ name: 'b', max: 5, timeWindow: 'calendar day' }] }, { group })
  t.equal(group.logs.length, 1, 'budgets have logs of their own')
  const keyed = new Group(0.01)
  limiter({ policies: [{ name: 'a', max: 5, timeWindow: 9000 }] }, { group: keyed })
  const own = limiter(
    { policies: [{ name: 'a', max: 5, timeWindow: 1000, keyGenerator: () => 'team' }] },
    { group: keyed },
  )
  own.decide()
  t.match(own.store.asked[0]?.check, { key: '192.0.2.1', keys: ['team', 'team'] })
})

t.test('what is kept about a key is named: logs, the ends of blocks, and permits', async t => {
  const { made } = limiter({
    concurrency: { max: 3 },
    policies: [
      { name: 'a', max: 5, timeWindow: 1000 },
      { name: 'b', max: 5, timeWindow: () => 2000 },
    ],
  })
  t.strictSame(made.names('k'), { limiters: ['ID'], logs: ['ID:a', 'ID=b'], permits: ['ID/permits'] })
  made.decide(request(), false)
  t.strictSame(made.names('k').logs, ['ID:a', 'ID=b', 'ID@2000:b'])
  t.strictSame(made.names('k', 'a'), { limiters: ['ID'], logs: ['ID:a'], permits: [] })
  t.strictSame(made.names('k', 'b').logs, ['ID=b', 'ID@2000:b'])
  t.strictSame(made.names('k', 'concurrency'), { limiters: ['ID'], logs: [], permits: ['ID/permits'] })
  t.strictSame(made.blockLogs(), [
    { log: 'ID:a', windowMs: 1000 },
    { log: 'ID=b', windowMs: 1000 },
  ])
  t.strictSame(made.blockLogs('a'), [{ log: 'ID:a', windowMs: 1000 }])

  const group = new Group(0.01)
  const one = limiter({ max: 5, timeWindow: 1000 }, { group }).made
  limiter({ policies: [{ name: 'other', max: 5, timeWindow: 1000 }] }, { group })
  limiter({ max: 5, timeWindow: 5000 }, { group })
  t.strictSame(one.names('k').logs, ['ID=default', 'ID@1000:default', 'ID@1000:other', 'ID@5000:default'])
  t.strictSame(one.names('k', 'default').logs, ['ID=default', 'ID@1000:default', 'ID@5000:default'])
  t.strictSame(one.names('k').permits, [])
  t.strictSame(one.blockLogs(), [{ log: 'ID=default', windowMs: 1000 }])
  const { made: made2, store, local } = limiter()
  t.strictSame(made2.stores, [store, local])
})

t.test(
  'of the windows that a function has given a thousand are remembered, and a hundred are warned of, once',
  async t => {
    let windowMs = 0
    const silent = new Limiter({
      ...{ config: parseLimiter({ timeWindow: () => ++windowMs }), id: 'ID', group: undefined, share: undefined },
      ...{ store: new MadeUp() as unknown as Store, local: new MadeUp() as unknown as Store, outage: undefined },
    })
    for (let count = 0; count < 100; count++) silent.decide(request(), false)
    windowMs = 0
    const { made, decide, warned } = limiter({ timeWindow: () => ++windowMs })
    for (let count = 0; count < 99; count++) decide()
    windowMs = 0
    for (let count = 0; count < 99; count++) decide()
    t.strictSame(warned, [], 'the same windows again')
    decide()
    t.equal(warned.length, 1)
    t.match(warned[0], /^option 'timeWindow' has returned 100 different windows\. .*'calendar day'$/)
    for (let count = 0; count < 900; count++) decide()
    t.equal(warned.length, 1)
    const logs = () => new Set(made.names('k').logs)
    t.ok(logs().has('ID@1:default'))
    decide()
    t.equal(logs().size, 1001, 'these, and the end of a block')
    t.notOk(logs().has('ID@1:default'), 'the first one is forgotten')
    t.ok(logs().has('ID@1001:default'))
  },
)

t.test('identities of limiters are short, and tell what they are made of apart', async t => {
  t.match(limiterId('a', 1), /^[\w-]{8,}$/)
  t.equal(limiterId('a', 1), limiterId('a', 1))
  t.not(limiterId('a', 1), limiterId('a1'))
})

// Budgets ----------------------------------------------------------------------------------------------------------------

const BUDGET = { policies: [{ name: 'b', max: 5000, timeWindow: 'calendar day' as const }] }
const [JANUARY, FEBRUARY] = [Date.UTC(2026, 0, 31, 12), Date.UTC(2026, 1, 1, 1)]

t.test('each period of a budget has a log, by the clock of the store', async t => {
  const { made, store, decide } = limiter(BUDGET)
  store.timeMs = JANUARY
  decide()
  t.match(store.asked[0]?.check.policies[0], {
    ...{ name: 'b', limit: 5000, windowMs: 86_400_000, log: 'ID#2026-01-31:b', blockLog: 'ID=b' },
    span: { period: 'day', fromMs: Date.UTC(2026, 0, 31), untilMs: Date.UTC(2026, 1, 1), leftMs: 43_200_000 },
  })
  t.equal(store.asked[0]?.check.prefetch, undefined, 'nothing is taken ahead of a budget')
  t.strictSame(made.names('k').logs, ['ID=b', 'ID#2026-01-31:b'])
  store.timeMs = FEBRUARY
  decide()
  t.equal(store.asked[1]?.check.policies[0]?.log, 'ID#2026-02-01:b')
  t.strictSame(made.blockLogs(), [{ log: 'ID=b', windowMs: 1000 }])
  const timeless = limiter(BUDGET)
  Object.assign(timeless.store, { now: undefined })
  t.match(timeless.decide(), { decision: { allowed: true } })
  const keyed = limiter({
    policies: [{ name: 'b', max: 5, timeWindow: 'calendar day', keyGenerator: () => 'team' }],
  })
  const keys: string[] = []
  keyed.store.now = key => {
    keys.push(key)
    return JANUARY
  }
  keyed.decide()
  t.strictSame(keys, ['team'])
  store.timeMs = undefined
  const day = () => new Date().toISOString().slice(0, 10)
  const before = day()
  decide()
  t.ok([`ID#${before}:b`, `ID#${day()}:b`].includes(String(store.asked[2]?.check.policies[0]?.log)))
})

t.test('a check for a period that is over is asked again for the present one, three times at most', async t => {
  const { store, decide } = limiter({
    policies: [...BUDGET.policies, { name: 'plain', max: 7, timeWindow: 1000 }],
  })
  const over = () => {
    store.timeMs = FEBRUARY
    return failing(new OtherPeriod())
  }
  store.timeMs = JANUARY
  store.answers.push(over())
  store.timeMs = JANUARY
  const first = decide()
  store.timeMs = FEBRUARY
  t.match(await first, { decision: { allowed: true } })
  const logs = () => store.asked.splice(0).map(({ check }) => check.policies.map(({ log }) => log))
  t.strictSame(logs(), [
    ['ID#2026-01-31:b', 'ID:plain'],
    ['ID#2026-02-01:b', 'ID:plain'],
  ])
  store.answers.push(over(), over(), over())
  t.match(await decide({}, true), { decision: { allowed: true } })
  t.strictSame(
    store.asked.splice(0).map(({ what }) => what),
    ['peek', 'peek', 'peek', 'peek'],
  )
  store.answers.push(over(), over(), over(), over())
  await t.rejects(Promise.resolve(decide()), { code: 'ML_RATE_STORE_FAILED', cause: { name: 'OtherPeriod' } })
  t.equal(store.asked.length, 4)
})

t.test(
  'before a charge, a refund or a reset the store is asked for its time, where that says which period it is',
  async t => {
    const { made, store } = limiter({
      policies: [...BUDGET.policies, { name: 'plain', max: 7, timeWindow: 1000 }],
    })
    await made.learnTime('key')
    t.match(store.asked, [
      {
        what: 'peek',
        check: { key: 'key', limiter: 'ID', decisive: 1, penalty: 'none', policies: [{ name: 'b', cost: 0 }] },
      },
    ])
    t.equal(store.asked[0]?.check.policies.length, 1)
    t.equal(store.asked.splice(0)[0]?.check.policies[0]?.limit, 5000)
    await made.learnTime({ b: 'one', plain: 'two' })
    t.strictSame(store.said(), ['peek one: 0', 'peek two: 0'])
    store.answers.push(new Error('gone'))
    await made.learnTime('key')
    t.strictSame(store.said(), ['peek key: 0'])
    await made.learnTime(null as never)
    t.strictSame(store.said(), [])
    store.timeMs = JANUARY
    await made.learnTime('key')
    t.strictSame(store.said(), [], 'it is known')
    store.timeMs = undefined
    await made.chargeByHand('key', 3)
    await made.refund('key', 2, undefined)
    t.strictSame(store.said(), ['peek key: 0', 'charge key: 3 3', 'peek key: 0', 'refund key: 2 2'])

    const unknown = limiter({ policies: [{ name: 'b', max: () => 5, timeWindow: 'calendar month' }] })
    await unknown.made.learnTime('key')
    t.equal(unknown.store.asked[0]?.check.policies[0]?.limit, 0)
    const windows = limiter()
    await windows.made.learnTime('key')
    t.strictSame(windows.store.asked, [])
    const timeless = limiter(BUDGET)
    Object.assign(timeless.store, { now: undefined })
    await timeless.made.learnTime('key')
    t.strictSame(timeless.store.asked, [])
  },
)

// By hand ----------------------------------------------------------------------------------------------------------------

const TWO = {
  policies: [
    { name: 'a', max: 5000, timeWindow: 1000, cost: 2 },
    { name: 'b', max: 9000, timeWindow: 2000 },
  ],
}

t.test('where a key stands is told without cost', async t => {
  const { made, store } = limiter({ ...TWO, concurrency: { max: 3 } })
  t.match(made.status('k', undefined), { key: 'k', policies: [{ remaining: 5000 }, { remaining: 9000 }] })
  t.match(made.statusOf(request()), { key: '192.0.2.1', policies: [{ name: 'a' }, { name: 'b' }] })
  t.strictSame(store.said(), ['peek k: 0 0', 'peek 192.0.2.1: 0 0'])
  made.status({ b: 'k' }, undefined)
  t.match(store.asked[0]?.check, {
    key: 'k',
    keys: ['k'],
    policies: [{ name: 'b' }],
    decisive: 1,
    concurrency: undefined,
  })
  t.equal(store.asked[0]?.check.policies.length, 1)
  made.status({ a: 'x', concurrency: 'k' }, undefined)
  t.match(store.asked[1]?.check, { key: 'k', keys: ['x'], decisive: 1, concurrency: { max: 3 } })
  t.throws(() => made.status({ c: 'k' }, undefined), { code: 'ML_RATE_INVALID_OPTION' })
  t.throws(() => made.status({}, undefined), { code: 'ML_RATE_INVALID_OPTION' })
  const max = (request: FastifyRequest, key: string) => (request.headers.plan === key ? 77 : 0)
  const byRequest = limiter({ max, cost: () => t.fail('nobody asks for the cost') as never })
  t.match(byRequest.made.status('p', request({ headers: { plan: 'p' } })), { policies: [{ limit: 77 }] })

  t.strictSame(
    store.asked.map(({ check }) => [check.keys, check.policies.map(({ cost }) => cost)]),
    [
      [['k'], [0]],
      [['x'], [0]],
    ],
  )

  const passing = limiter({ onStoreError: 'allow' })
  passing.store.answers.push(failing(new Error('gone')))
  t.equal(await passing.made.status('k', undefined), null)
})

t.test('where policies have keys of their own, one key stands for all, or each is named', async t => {
  const { made, store } = limiter({
    concurrency: { max: 2 },
    policies: [
      { name: 'a', max: 5, timeWindow: 1000, keyGenerator: () => 'x' },
      { name: 'b', max: 5, timeWindow: 1000 },
      { name: 'c', max: 5, timeWindow: 1000 },
    ],
  })
  made.status('k', undefined)
  t.match(store.asked[0]?.check, { key: 'k', keys: ['k', 'k', 'k'], decisive: 3 })
  made.status({ a: 'one', b: 'two', c: 'three' }, undefined)
  t.match(store.asked[1]?.check, { key: 'two', keys: ['one', 'two', 'three'] })
  made.status({ a: 'one', c: 'three' }, undefined)
  t.match(store.asked[2]?.check, { key: 'three', keys: ['one', 'three'], policies: [{ name: 'a' }, { name: 'c' }] })
  made.status({ a: 'one' }, undefined)
  t.match(store.asked[3]?.check, { key: 'one', keys: ['one'] })
  made.status({ a: 'one', b: 'two', concurrency: 'four' }, undefined)
  t.match(store.asked[4]?.check, { key: 'four', keys: ['one', 'two'] })
})

t.test('in a group the windows of others belong to the policy that is named', async t => {
  const group = new Group(0.01)
  limiter({ policies: [{ name: 'b', max: 5, timeWindow: 9000 }] }, { group })
  const { made, store } = limiter(TWO, { group })
  made.status({ b: 'k' }, undefined)
  t.match(store.asked[0]?.check, {
    decisive: 1,
    policies: [{ log: 'ID@2000:b' }, { log: 'ID@9000:b' }],
    keys: ['k', 'k'],
  })
  made.status({ a: 'k' }, undefined)
  t.equal(store.asked[1]?.check.policies.length, 1)
})

t.test('a check without a request costs what is configured, or what it says', async t => {
  const { made, store } = limiter(TWO)
  t.match(made.decideByHand('k', undefined), { key: 'k', decision: { allowed: true } })
  made.decideByHand('k', undefined)
  t.equal(store.asked[0]?.check.policies, store.asked[1]?.check.policies, 'the same policies each time')
  t.strictSame(store.said(), ['check k: 2 1', 'check k: 2 1'])
  made.decideByHand('k', 7)
  made.decideByHand('k', { b: 4 })
  made.decideByHand({ a: 'k' }, undefined)
  made.decideByHand({ a: 'k' }, { a: 9 })
  t.strictSame(store.said(), ['check k: 7 7', 'check k: 0 4', 'check k: 2', 'check k: 9'])
  t.throws(() => made.decideByHand('k', -1), { code: 'ML_RATE_INVALID_ANSWER' })
  t.throws(() => made.decideByHand('k', { c: 1 }), { code: 'ML_RATE_INVALID_OPTION' })
  const keyed = limiter({ policies: [{ name: 'a', max: 5, timeWindow: 1000, keyGenerator: () => 'x' }] })
  keyed.made.decideByHand('k', undefined)
  t.match(keyed.store.asked[0]?.check, { key: 'k', keys: ['k'], policies: [{ cost: 1 }] })
})

t.test('a denial is known where nothing of it depends on the request, and the store knows it', async t => {
  const { made, store } = limiter(TWO)
  t.equal(made.knownDenial('k'), undefined)
  store.answers.push(denying({ policies: [plain, plain] as never }, 300))
  t.match(made.knownDenial('k'), { key: 'k', allowed: false, retryAfterMs: 300, violated: ['a', 'b'] })
  t.equal(made.knownDenial({ a: 'x', b: 'y' }), undefined)
  t.match(store.asked.at(-1), {
    what: 'knownDenial',
    check: { key: 'x', keys: undefined, policies: [{ cost: 2 }, {}] },
  })
  const asked = store.asked.length
  t.equal(made.knownDenial({ a: 'x' }), undefined)
  t.equal(store.asked.length, asked, 'keys are missing')
  for (const options of [
    { allowList: () => false },
    { mode: 'report' as const },
    { continueExceeding: true },
    { errorResponseBuilder: () => new Error('no') },
    { cost: () => 1 },
    { max: () => 1 },
    BUDGET,
  ]) {
    const one = limiter(options)
    t.equal(one.made.knownDenial('k'), undefined)
    t.strictSame(one.store.asked, [], Object.keys(options).join())
  }
  const keyed = limiter({
    policies: [
      { name: 'a', max: 5, timeWindow: 1000, keyGenerator: () => 'x' },
      { name: 'b', max: 5, timeWindow: 1000 },
    ],
  })
  t.equal(keyed.made.knownDenial('k'), undefined)
  t.strictSame(keyed.store.asked, [])
  keyed.made.knownDenial({ a: 'one', b: 'two' })
  t.match(keyed.store.asked[0]?.check, { key: 'two', keys: ['one', 'two'] })
  const cannot = limiter()
  Object.assign(cannot.store, { knownDenial: undefined })
  t.equal(cannot.made.knownDenial('k'), undefined)
})

t.test(
  'a later charge is for the policies that it names, goes to the store that admitted, and may be given back',
  async t => {
    const { made, store, decide } = limiter({ ...TWO, concurrency: { max: 3 }, ban: 1 })
    const decided = decide() as Decided
    store.said()
    const ledger = new Ledger()
    await made.charge(decided, { b: 5 }, ledger)
    t.match(store.asked[0], {
      what: 'charge',
      check: {
        ...{ key: '192.0.2.1', keys: undefined, decisive: 1, concurrency: undefined, penalty: 'none' },
        policies: [{ name: 'b', cost: 5 }],
      },
    })
    await made.charge(decided, 3, ledger)
    await made.charge(decided, {}, ledger)
    t.strictSame(store.said(), ['charge 192.0.2.1: 5', 'charge 192.0.2.1: 3 3'])
    await made.charge({ ...decided, store: undefined }, 3, ledger)
    t.strictSame(store.said(), [], 'the request passed uncounted')
    await t.rejects(made.charge(decided, -1, ledger), { code: 'ML_RATE_INVALID_ANSWER' })

    await made.refundDecision(decided, ledger, { b: 6 })
    const [refund] = store.asked
    t.equal(refund?.check, decided.check)
    t.match(refund?.refunds, [
      { policy: { name: 'b' }, cost: 3, admission: { time: 2 } },
      { policy: { name: 'b' }, cost: 3, admission: { time: 1 } },
    ])
    store.said()
    await made.refundDecision(decided, new Ledger(), undefined)
    await made.refundDecision({ ...decided, store: undefined }, ledger, 1)
    t.strictSame(store.said(), [], 'nothing is to be given back')
    await t.rejects(made.refundDecision(decided, ledger, -1), { code: 'ML_RATE_INVALID_ANSWER' })

    const keyed = limiter({
      policies: [
        { name: 'a', max: 5, timeWindow: 1000, keyGenerator: () => 'x' },
        { name: 'b', max: 5, timeWindow: 1000, keyGenerator: () => 'y' },
      ],
    })
    await keyed.made.charge(keyed.decide() as Decided, { b: 5 }, ledger)
    t.strictSame(keyed.store.asked[1]?.check.keys, ['y'])
  },
)

t.test('charges and refunds by hand name policies and keys', async t => {
  const { made, store } = limiter(TWO)
  await made.chargeByHand('k', { a: 3 })
  await made.chargeByHand({ b: 'x' }, 4)
  t.strictSame(store.said(), ['charge k: 3', 'charge x: 4'])
  await made.refund('k', { b: 3 }, undefined)
  t.match(store.asked[0], { what: 'refund', refunds: [{ policy: { name: 'b', cost: 0 }, cost: 3, key: 'k' }] })
  t.equal(store.asked[0]?.refunds?.length, 1)
  t.equal(store.asked[0]?.refunds?.[0]?.admission, undefined)
  await made.refund({ a: 'x', b: 'y' }, 2, undefined)
  t.strictSame(
    store.asked[1]?.refunds?.map(({ key, cost }) => [key, cost]),
    [
      ['x', 2],
      ['y', 2],
    ],
  )
  for (const act of [
    (cost: never) => made.chargeByHand('k', cost),
    (cost: never) => made.refund('k', cost, undefined),
  ]) {
    await t.rejects(act({ c: 1 } as never), { code: 'ML_RATE_INVALID_OPTION' })
    await t.rejects(act('1' as never), { code: 'ML_RATE_INVALID_ANSWER' })
  }
  store.answers.push(failing(new Error('gone')))
  await t.rejects(made.refund('k', 1, undefined), { code: 'ML_RATE_STORE_UNAVAILABLE', cause: { message: 'gone' } })
})

// Errors of the store ----------------------------------------------------------------------------------------------------

const gone = new Error('the words of the store')
/** How the store fails: at once, or later. */
const FAILURES = { 'at once': () => gone, later: () => failing(gone) }

for (const [when, failure] of Object.entries(FAILURES)) {
  t.test(`errors of the store do not reach the client, ${when}`, async t => {
    const { store, decide } = limiter()
    const outcome = async () => decide()
    store.answers.push(failure())
    const error = await outcome().catch(error => error)
    t.ok(error instanceof StoreFailed)
    t.match(error, { message: 'The rate limit store failed', cause: gone })
    for (const own of [new StoreTimeout(5), new StoreForeignKey(), new StoreClosed()]) {
      store.answers.push(when === 'later' ? failing(own) : own)
      t.equal(await outcome().catch(error => error), own, 'what says nothing of it does')
    }
    for (const odd of [undefined, { code: 7 }, { code: 'X_ML_RATE_' }]) {
      store.answers.push(failing(odd))
      t.ok((await outcome().catch(error => error)) instanceof StoreFailed)
    }
  })

  t.test(`with 'deny' requests are refused for one to five seconds while the store fails, ${when}`, async t => {
    const { store, decide } = limiter({ onStoreError: 'deny' })
    const { random } = Math
    t.teardown(() => {
      Math.random = random
    })
    for (const [chance, seconds] of [
      [0, '1'],
      [0.5, '3'],
      [0.999, '5'],
    ] as const) {
      Math.random = () => chance
      store.answers.push(failure())
      const error = await (async () => decide())().catch(error => error)
      t.ok(error instanceof StoreUnavailable)
      t.match(error, { statusCode: 503, cause: gone })
      t.strictSame(error.headers, { 'retry-after': seconds })
    }
  })

  t.test(`with 'allow' requests pass uncounted while the store fails, ${when}`, async t => {
    const { store, local, decide } = limiter({ ...TWO, onStoreError: 'allow' })
    store.answers.push(failure())
    const outcome = (await decide()) as Decided
    t.match(outcome, { listed: false, key: '192.0.2.1', check: { key: '192.0.2.1' } })
    t.strictSame([outcome.store, outcome.answer, outcome.lease], [undefined, undefined, undefined])
    t.match(outcome.decision, { allowed: true, known: false, policies: [{ unit: 'requests', remaining: 5000 }, {}] })
    t.strictSame(local.asked, [])
  })

  t.test(`with 'local' this replica's share decides while the store fails, ${when}`, async t => {
    const gave: unknown[] = []
    const outage = { isGuarded: () => false, gave: (...what: unknown[]) => void gave.push(what) } as never
    const share = (check: Check) => ({ ...check, key: `share of ${check.key}` })
    const { store, local, decide } = limiter({ onStoreError: 'local' }, { share, outage })
    store.answers.push(failure())
    const outcome = (await decide()) as Decided
    t.equal(outcome.store, local)
    t.match(outcome, { key: '192.0.2.1', check: { key: 'share of 192.0.2.1' }, decision: { known: true } })
    t.strictSame(gave.splice(0), [[outcome.check, outcome.answer, gone]])
    store.answers.push(failure())
    local.answers.push(denying(check))
    t.match(await decide(), { decision: { allowed: false }, store: local })
    store.answers.push(failure())
    await decide({}, true)
    t.strictSame(gave, [], 'neither a denial nor a look')
    t.strictSame(local.said(), [1, 1].map(() => 'check share of 192.0.2.1: 1').concat('peek share of 192.0.2.1: 1'))

    const alone = limiter({ onStoreError: 'local' })
    alone.store.answers.push(failure())
    alone.local.answers.push(later(allowing(check, 4)))
    t.match(await alone.decide(), { store: alone.local, check: { key: '192.0.2.1' } })
  })

  t.test(`what is wrong with the call is said, whatever becomes of errors of the store, ${when}`, async t => {
    for (const onStoreError of ['throw', 'deny', 'allow', 'local'] as const) {
      for (const error of [new StoreCannot('peek'), new StoreCannotRead(), new ChargeTooLarge()]) {
        const { made, store, decide } = limiter({ onStoreError })
        const fails = () => store.answers.push(when === 'later' ? failing(error) : error)
        const decided = decide() as Decided
        fails()
        t.equal(await (async () => decide())().catch(error => error), error)
        fails()
        t.equal(await made.charge(decided, 1, new Ledger()).catch(error => error), error)
        const ledger = new Ledger()
        ledger.admit(decided.check, decided.answer as Answer)
        fails()
        t.equal(await made.refundDecision(decided, ledger, undefined).catch(error => error), error)
        fails()
        t.equal(await orUnavailable(() => store.peek(check)).catch(error => error), error)
      }
    }
  })

  t.test(`a charge or a refund while the store fails is an error, or passes, ${when}`, async t => {
    for (const [onStoreError, charge, refund, isLocal] of [
      ['throw', 'ML_RATE_STORE_FAILED', 'ML_RATE_STORE_FAILED', false],
      ['deny', 'ML_RATE_STORE_UNAVAILABLE', 'ML_RATE_STORE_UNAVAILABLE', false],
      ['allow', undefined, undefined, false],
      ['local', undefined, undefined, true],
    ] as const) {
      const gave: unknown[] = []
      const outage = { isGuarded: () => false, gave: (...what: unknown[]) => void gave.push(what) } as never
      const { made, store, local, decide } = limiter({ onStoreError }, { outage })
      const decided = decide() as Decided
      const ledger = new Ledger()
      store.answers.push(failure())
      const error = await made.charge(decided, 4, ledger).catch(error => error)
      t.equal(error?.code, charge, onStoreError)
      t.strictSame(local.said(), isLocal ? ['charge 192.0.2.1: 4'] : [])
      t.equal(ledger.take(9).length, isLocal ? 1 : 0, 'what was charged can be given back')
      t.match(gave, isLocal ? [[{ policies: [{ cost: 4 }] }, { allowed: true }, gone]] : [])
      t.equal(gave.length, isLocal ? 1 : 0)
      ledger.admit(decided.check, decided.answer as Answer)
      store.answers.push(failure())
      t.equal((await made.refundDecision(decided, ledger, undefined).catch(error => error))?.code, refund)
    }
    t.equal(await orUnavailable(async () => 5), 5)
  })
}

t.test('what was admitted by the share is charged and given back there', async t => {
  const told: unknown[] = []
  const outage = {
    isGuarded: () => false,
    gave: (...what: unknown[]) => void told.push(['gave', ...what]),
    tookBack: (...what: unknown[]) => void told.push(['tookBack', ...what]),
  } as never
  const { made, store, local, decide } = limiter({ onStoreError: 'local' }, { outage })
  store.answers.push(gone)
  const decided = decide() as Decided
  told.splice(0)
  const ledger = new Ledger()
  await made.charge(decided, 4, ledger)
  t.match(told, [['gave', { policies: [{ cost: 4 }] }, { allowed: true }, undefined]])
  told.splice(0)
  await made.refundDecision(decided, ledger, 4)
  t.match(told, [['tookBack', decided.check, [{ cost: 4 }]]])
  t.strictSame(local.said(), ['check 192.0.2.1: 1', 'charge 192.0.2.1: 4', 'refund 192.0.2.1: 4'])
  const alone = limiter({ onStoreError: 'local' })
  alone.store.answers.push(gone)
  await alone.made.charge({ ...decided, store: alone.store as unknown as Store }, 4, new Ledger())
  t.strictSame([alone.store.said(), alone.local.said()], [['charge 192.0.2.1: 4'], ['charge 192.0.2.1: 4']])
  alone.store.answers.push(gone)
  const one = alone.decide() as Decided
  await alone.made.charge(one, 4, ledger)
  await alone.made.refundDecision(one, ledger, 4)
  t.strictSame(alone.local.said(), ['check 192.0.2.1: 1', 'charge 192.0.2.1: 4', 'refund 192.0.2.1: 4'])
  t.strictSame(alone.store.said(), ['check 192.0.2.1: 1'])

  told.splice(0)
  const shared = limiter({ onStoreError: 'local' }, { outage })
  const fromStore = shared.decide() as Decided
  await shared.made.charge(fromStore, 4, ledger)
  await shared.made.refundDecision(fromStore, ledger, 4)
  t.strictSame(told, [], 'what the store admitted is its own')
  t.strictSame(shared.local.asked, [])
})

// While the store may have missed something ------------------------------------------------------------------------------

/** A limiter whose requests have to fit this replica's share too. */
function guarded(options: LimiterOptions = {}) {
  const state = { isGuarded: true, isAway: false, guards: 1, wasLeft: [] as unknown[], isLeft: false }
  const gave: unknown[] = []
  const outage = {
    get guards() {
      return state.guards
    },
    isGuarded: () => state.isGuarded,
    isAway: () => state.isAway,
    share: (check: Check) => ({ ...check, key: `share of ${check.key}` }),
    gave: (...what: unknown[]) => void gave.push(what),
    wasLeft: (...what: unknown[]) => {
      state.wasLeft.push(what)
      return state.isLeft
    },
  }
  const one = limiter({ onStoreError: 'local', ...options }, { outage: outage as never })
  const holding = (from: MadeUp, name: string, answer: Answer) => ({ ...answer, concurrency: from.lease(name) })
  return { ...one, state, gave, holding }
}

t.test('while it is guarded, a request has to fit the share and the store, which keeps the permit', async t => {
  const { store, local, decide, gave, holding } = guarded()
  local.answers.push(holding(local, 'own', allowing(check, 3)))
  const outcome = (await decide()) as Decided
  t.equal(outcome.store, store)
  t.match(outcome, { key: '192.0.2.1', check: { key: '192.0.2.1' }, decision: { allowed: true } })
  t.strictSame(local.released, ['own'])
  t.strictSame(local.said(), ['check share of 192.0.2.1: 1'])
  t.strictSame(store.said(), ['check 192.0.2.1: 1'])

  store.answers.push(denying(check))
  t.match(await decide(), { decision: { allowed: false }, store, check: { key: '192.0.2.1' } })
  t.match(local.asked.at(-1), { what: 'refund', refunds: [{ cost: 1, key: 'share of 192.0.2.1', admission: {} }] })
  local.said()
  store.said()
  t.strictSame(gave, [])
  const two = guarded(TWO)
  two.local.answers.push({
    allowed: true,
    policies: [
      { used: 2, resetMs: 1, retryMs: 0, denials: 0, admission: { generation: 1, time: 2 } },
      { used: 0, resetMs: 1, retryMs: 0, denials: 0, admission: undefined },
    ],
  })
  two.store.answers.push(denying(check))
  await Promise.resolve(two.decide()).catch(() => {})
  t.strictSame(two.local.said().at(-1), 'refund share of 192.0.2.1: 2', 'what was charged, and no more')
  decide({}, true)
  t.strictSame([store.said(), local.said()], [['peek 192.0.2.1: 1'], []], 'a look concerns the store alone')
})

t.test('what the share denies is denied; the store is asked only where it is not known whether it answers', async t => {
  const { store, local, decide, state, holding } = guarded()
  local.answers.push(denying(check))
  const outcome = (await decide()) as Decided
  t.match(outcome, { decision: { allowed: false }, check: { key: 'share of 192.0.2.1' } })
  t.equal(outcome.store, local)
  t.strictSame(store.said(), [])
  state.isAway = true
  local.answers.push(denying(check), denying(check), denying(check), denying(check))
  store.answers.push(holding(store, 'tried', allowing(check, 8)))
  t.match(await decide(), { decision: { allowed: false } })
  t.strictSame(store.said(), ['check 192.0.2.1: 1', 'refund 192.0.2.1: 1'])
  t.strictSame(store.released, ['tried'])
  store.answers.push(allowing(check, 8), failing(gone))
  t.match(await decide(), { decision: { allowed: false } }, 'what cannot be given back counts')
  t.strictSame(store.said(), ['check 192.0.2.1: 1', 'refund 192.0.2.1: 1'])
  store.answers.push(denying(check))
  await decide()
  t.strictSame(store.said(), ['check 192.0.2.1: 1'])
  store.answers.push(gone)
  t.match(await decide(), { decision: { allowed: false } })
})

t.test('while it is guarded, nothing is taken ahead', async t => {
  const { store, local, decide, state } = guarded()
  await decide()
  state.isAway = true
  local.answers.push(denying(check))
  await decide()
  const checks = store.asked.filter(({ what }) => what === 'check')
  t.strictSame(
    checks.map(({ check }) => check.prefetch),
    [undefined, undefined],
  )
  state.isGuarded = false
  decide()
  t.equal(store.asked.at(-1)?.check.prefetch, Number.POSITIVE_INFINITY)
})

t.test('where the store gives no answer the share decides, as long as it is guarded', async t => {
  const { store, local, decide, state, gave, holding } = guarded()
  store.answers.push(failing(gone))
  local.answers.push(holding(local, 'own', allowing(check, 3)))
  const outcome = (await decide()) as Decided
  t.equal(outcome.store, local)
  t.match(outcome, { check: { key: 'share of 192.0.2.1' }, decision: { allowed: true } })
  t.strictSame(gave.splice(0), [[outcome.check, outcome.answer, gone]])
  t.strictSame(local.released, [], 'and its permit is held')
  local.said()

  // Meanwhile the replica has returned.
  store.answers.push(
    later(undefined).then(() => {
      state.isGuarded = false
      throw gone
    }),
  )
  local.answers.push(holding(local, 'own', allowing(check, 3)))
  t.match(await decide(), { store: local, check: { key: '192.0.2.1' } })
  t.strictSame(local.said(), ['check share of 192.0.2.1: 1', 'refund share of 192.0.2.1: 1', 'check 192.0.2.1: 1'])
  t.strictSame(local.released.splice(0), ['own'])
  t.match(gave, [[{ key: '192.0.2.1' }, {}, gone]])

  state.isGuarded = true
  store.answers.push(
    later(undefined).then(() => {
      state.isGuarded = false
      throw gone
    }),
  )
  t.match(await decide(), { store: local }, 'without permits too')
  local.said()

  const wrong = guarded()
  const error = new ChargeTooLarge()
  wrong.store.answers.push(failing(error))
  wrong.local.answers.push(holding(wrong.local, 'own', allowing(check, 3)))
  t.equal(await Promise.resolve(wrong.decide()).catch(error => error), error)
  t.strictSame(wrong.local.said(), ['check share of 192.0.2.1: 1', 'refund share of 192.0.2.1: 1'])
  t.strictSame(wrong.local.released, ['own'])
})

t.test('while it is guarded, a check for a period that is over is asked again, three times at most', async t => {
  const { store, local, decide, holding } = guarded(BUDGET)
  store.timeMs = FEBRUARY
  const over = () => failing(new OtherPeriod())
  local.answers.push(holding(local, 'own', allowing(check, 3)))
  store.answers.push(over())
  t.match(await decide(), { decision: { allowed: true }, store })
  t.strictSame(local.released, ['own'])
  t.strictSame(
    local.said().map(said => said.split(' ')[0]),
    ['check', 'refund', 'check'],
  )
  store.said()
  store.answers.push(over(), over(), over(), over())
  t.match(await decide(), { store: local })
  t.equal(store.said().length, 4)
})

t.test('an admission that was on its way while the store was lost has to fit the share', async t => {
  const { store, local, decide, state, holding } = guarded()
  state.isGuarded = false
  const ask = async (answer: Answer, peek = false) => {
    state.guards = 1
    store.answers.push(
      later(answer).then(answer => {
        state.guards = 2
        return answer
      }),
    )
    return (await decide({}, peek)) as Decided
  }
  t.equal((await ask(allowing(check, 3))).store, store)
  state.isLeft = true
  t.equal((await ask(allowing(check, 3))).store, store, 'without permits too')
  local.answers.push(denying(check))
  t.equal((await ask(allowing(check, 3))).decision.allowed, false)
  state.isLeft = false
  local.said()
  store.said()
  state.wasLeft.splice(0)
  t.equal((await ask(allowing(check, 3))).store, store)
  t.match(state.wasLeft.splice(0), [[{ key: '192.0.2.1' }, 1]])
  t.strictSame(local.said(), [], 'another node was lost')
  state.isLeft = true
  local.answers.push(holding(local, 'own', allowing(check, 5)))
  t.match(await ask(allowing(check, 3)), { store, check: { key: '192.0.2.1' }, decision: { allowed: true } })
  t.strictSame(local.released, ['own'])
  t.strictSame(local.said(), ['check share of 192.0.2.1: 1'])
  store.said()
  local.answers.push(holding(local, 'second', denying(check)))
  const denied = await ask(holding(store, 'theirs', allowing(check, 3)))
  t.match(denied, { decision: { allowed: false }, check: { key: 'share of 192.0.2.1' } })
  t.equal(denied.store, local)
  t.strictSame(store.said(), ['check 192.0.2.1: 1', 'refund 192.0.2.1: 1'])
  t.strictSame([store.released, local.released], [['theirs'], ['own', 'second']])
  local.said()
  await ask(denying(check))
  await ask(allowing(check, undefined), true)
  t.strictSame(local.said(), [], 'neither a denial nor a look')
  state.wasLeft.splice(0)
  store.answers.push(later(allowing(check, 3)))
  await decide()
  t.strictSame(state.wasLeft, [], 'nothing was lost')
})

t.test('a later charge counts in the share too while it is guarded', async t => {
  const { made, store, local, decide, state } = guarded()
  const decided = (await decide()) as Decided
  t.equal(decided.store, store)
  local.said()
  await made.charge(decided, 4, new Ledger())
  t.strictSame(local.said(), ['charge 192.0.2.1: 4'])
  state.isGuarded = false
  await made.charge(decided, 4, new Ledger())
  t.strictSame(local.said(), [])
})
