/**
 * What the store sends to Redis, and what it makes of replies, errors and silence. Redis is made up, and the clock is
 * moved by hand; what scripts do is shown elsewhere.
 */
import slotOf from 'cluster-key-slot'
import t from 'tap'
import type { RedisStoreOptions } from '../../../plugin/src/stores/redis/redis-store.js'
import type { Answer, Check, Refund } from '../../../plugin/src/stores/store.js'
import { OtherPeriod } from '../../../plugin/src/stores/store.js'
import { atTimeByHand } from '../../support/time-by-hand.js'

const { time, modules } = await atTimeByHand(async () => ({
  ...(await import('../../../plugin/src/stores/redis/redis-store.js')),
  ...(await import('../../support/stores.js')),
  scripts: await import('../../../plugin/src/stores/redis/scripts.js'),
}))
const { RedisStore, checkOf, namesOf, scripts } = modules

const TIMEOUT_MS = 500
const LATE = { code: 'ML_RATE_STORE_TIMEOUT' }
const names = new Map(Object.entries(scripts).flatMap(([name, one]) => ('sha' in one ? [[one.sha, name]] : [])))

interface Call {
  readonly script: string
  readonly keys: readonly string[]
  readonly args: readonly (string | number)[]
  replies(values: unknown): Promise<void>
  fails(error: unknown): Promise<void>
}

type Status = 'ready' | 'idle' | 'connecting' | 'closed'

/** The clock of Redis (µs) at a time of ours. */
const clockUs = () => 9_000_000_000 + time.now * 1000

function redis(
  options: Partial<RedisStoreOptions> = {},
  given: { status?: Status; slots?: Record<string, string> } = {},
) {
  time.clearAll()
  const calls: Call[] = []
  const listeners = new Set<() => void>()
  const connection = {
    status: given.status ?? ('ready' as Status),
    isCluster: given.slots !== undefined,
    connects: 0,
    connect: () => {
      connection.connects++
    },
    nodeOf: (slot: number) => Object.entries(given.slots ?? {}).find(([key]) => slotOf(key) === slot)?.[1],
    evalsha: (sha: string, keys: readonly string[], args: readonly (string | number)[]) =>
      new Promise((resolve, reject) => {
        const then = (act: () => void) => {
          act()
          return turn()
        }
        const replies = (values: unknown) => then(() => resolve(values))
        calls.push({ script: String(names.get(sha)), keys, args, replies, fails: error => then(() => reject(error)) })
      }),
    eval: async () => 'unused',
    onReady: (listener: () => void) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
  }
  const events: string[] = []
  const circuits: unknown[] = []
  const answers: [Check, Answer][] = []
  const store = new RedisStore(connection, {
    nameSpace: 'n:',
    timeoutMs: TIMEOUT_MS,
    denyMemory: 100,
    onEvent: event => {
      const { type, ms, node } = event as { type: string; ms?: number; node?: string }
      events.push([type, ms, node].filter(part => part !== undefined).join(' '))
    },
    onCircuit: (error, node) => circuits.push([error?.message, node]),
    onAnswer: (check, answer) => answers.push([check, answer]),
    ...options,
  })
  const ready = () => {
    connection.status = 'ready'
    for (const listener of [...listeners]) listener()
    return turn()
  }
  /** What was sent since this was called last. */
  const sent = () => calls.splice(0)
  /** Three calls that fail, so that the circuit opens. */
  const lose = async () => {
    for (let count = 0; count < 3; count++) {
      const lost = watched(store.check(check))
      await turn()
      await sent()[0]?.fails(new Error('gone'))
      await lost.catch(() => {})
      time.advance(50)
    }
  }
  return { store, connection, calls, sent, listeners, ready, events, circuits, answers, lose }
}

/** The end of a turn of the event loop, with all that comes of it. */
const turn = () => time.pass(0)

/** A promise that may be rejected before anybody looks. */
function watched<T>(value: T | Promise<T>): Promise<T> {
  const promise = Promise.resolve(value)
  promise.catch(() => {})
  return promise
}

const check = checkOf([{ limit: 5, windowMs: 60_000 }])
const keyed = (key: string, rest: Partial<Check> = {}): Check => ({ ...check, key, ...rest })
const admission = { generation: 77, time: 88 }

/** A reply: of each check so many units are used. */
const admits = (...used: readonly number[]) => [clockUs(), ...used.flatMap(used => [used, 4000, -77, 88])]
const denies = (retryMs: number) => [clockUs(), 5, 4000, retryMs * 1000]

// Checks ---------------------------------------------------------------------------------------------------------------

t.test('what is asked in one turn is one call, and each has its answer', async t => {
  const { store, sent, answers, events } = redis()
  const one = watched(store.check(check))
  const two = watched(store.peek(keyed('two')))
  t.strictSame(sent(), [], 'at the end of the turn')
  await turn()
  const [call] = sent() as [Call]
  t.equal(call.script, 'CHECK')
  t.strictSame(call.keys, ['n:{client}2.log.p', 'n:{two}2.log.p'])
  t.equal(call.args[0], 0, 'the clock of Redis is not known yet')
  time.advance(7)
  await call.replies([clockUs(), 1, 4000, -77, 88, 0, 0, 0, 3])
  t.match(await one, { allowed: true, policies: [{ used: 1, resetMs: 4, admission }] })
  t.match(await two, { allowed: true, policies: [{ used: 0, ahead: 3 }] })
  t.strictSame(answers, [
    [check, await one],
    [keyed('two'), await two],
  ])
  t.strictSame(events, ['answered 7', 'answered 7'])
  t.equal(time.waiting, 0)
  const three = watched(store.charge(check))
  await turn()
  const [next] = sent() as [Call]
  t.equal(next.args[0], clockUs() + TIMEOUT_MS * 1000, 'and from then on nothing is charged that was given up')
  t.equal(next.args[3], '2', 'a charge')
  await next.replies(admits(6))
  t.match(await three, { policies: [{ used: 6 }] })
  t.equal(store.now('client'), clockUs() / 1000)
})

t.test('a name space that is a function is asked once, when the first key is needed', async t => {
  let asked = 0
  const { store, sent } = redis({
    nameSpace: () => {
      asked++
      return 'later:'
    },
    stored: key => `stored ${key}`,
  })
  t.equal(asked, 0)
  for (let count = 0; count < 2; count++) {
    watched(store.check(check))
    await turn()
    t.strictSame(sent()[0]?.keys, ['later:{stored client}2.log.p'])
  }
  t.equal(asked, 1)
})

t.test('a denial is known for as long as it holds', async t => {
  const { store, sent, answers } = redis()
  t.equal(store.knownDenial(check), undefined)
  const first = watched(store.check(check))
  await turn()
  await sent()[0]?.replies(denies(300))
  t.match(await first, { allowed: false, policies: [{ retryMs: 300 }] })
  time.advance(100)
  t.match(store.check(check), { allowed: false, policies: [{ retryMs: 200 }] })
  t.match(store.knownDenial(check), { allowed: false, policies: [{ retryMs: 200 }] })
  await turn()
  t.strictSame(sent(), [])
  t.equal(answers.length, 1)
  time.advance(200)
  t.ok(store.check(check) instanceof Promise)

  const forgetful = redis({ denyMemory: undefined as never })
  watched(forgetful.store.check(check))
  await turn()
  await forgetful.sent()[0]?.replies(denies(300))
  t.equal(forgetful.store.knownDenial(check), undefined)
  const looking = redis()
  watched(looking.store.peek(check))
  await turn()
  await looking.sent()[0]?.replies([...denies(300), 0])
  t.equal(looking.store.knownDenial(check), undefined, 'a look says nothing')
})

t.test('a check that Redis refuses is rejected with the reason, and the others have their answers', async t => {
  const { store, sent, events } = redis()
  const all = ['a', 'b', 'c', 'd'].map(key => watched(store.check(keyed(key))))
  await turn()
  const [call] = sent() as [Call]
  await call.replies([clockUs(), -1, -3, -4, 2, 4000, -77, 88])
  await t.rejects(all[0] as Promise<Answer>, { code: 'ML_RATE_STORE_FOREIGN_KEY' })
  await t.rejects(all[1] as Promise<Answer>, { code: 'ML_RATE_CHARGE_TOO_LARGE' })
  t.ok((await (all[2] as Promise<Answer>).catch(error => error)) instanceof OtherPeriod)
  t.match(await all[3], { allowed: true, policies: [{ used: 2 }] })
  t.strictSame(events, ['failed 0', 'failed 0', 'answered 0'])
  t.equal(store.now('a'), clockUs() / 1000)
})

t.test('what came too late by what was known of the clock is asked again in time', async t => {
  const { store, sent } = redis()
  const one = watched(store.check(check))
  await turn()
  await sent()[0]?.replies(admits(1))
  await one
  const [a, b] = [watched(store.check(keyed('a'))), watched(store.check(keyed('b')))]
  await turn()
  const [call] = sent() as [Call]
  time.advance(10)
  // The clock of Redis has gone on by a minute, and the reply took longer than the last one.
  await call.replies([clockUs() + 60_000_000, -2, 2, 4000, -77, 88])
  const [again] = sent() as [Call]
  t.strictSame(again.keys, ['n:{a}2.log.p'])
  t.equal(again.args[0], clockUs() + 60_000_000 + (TIMEOUT_MS - 10) * 1000)
  await again.replies(admits(3))
  t.match(await a, { policies: [{ used: 3 }] })
  t.match(await b, { policies: [{ used: 2 }] })

  const c = watched(store.check(keyed('c')))
  await turn()
  const [last] = sent() as [Call]
  await time.pass(TIMEOUT_MS)
  await t.rejects(c, LATE)
  await last.replies([clockUs(), -2])
  t.strictSame(sent(), [], 'what was given up is not asked again')
})

t.test('of a call that came too late, those are asked again who still wait', async t => {
  const { store, sent, ready } = redis({}, { status: 'connecting' })
  const one = watched(store.check(keyed('one')))
  time.advance(200)
  const two = watched(store.check(keyed('two')))
  await ready()
  const [call] = sent() as [Call]
  await time.pass(300)
  await t.rejects(one, LATE)
  await call.replies([clockUs(), -2, -2])
  const [again] = sent() as [Call]
  t.strictSame(again.keys, ['n:{two}2.log.p'])
  await again.replies(admits(3))
  t.match(await two, { policies: [{ used: 3 }] })
})

t.test('of what is known of the clock the quickest answer counts, until an answer shows that it was wrong', async t => {
  const { store, sent } = redis()
  watched(store.check(check))
  await turn()
  await sent()[0]?.replies(admits(1))
  const answered = async (late: number, ...reply: readonly number[]) => {
    watched(store.check(keyed('other')))
    await turn()
    const [call] = sent() as [Call]
    const began = clockUs()
    time.advance(10)
    await call.replies([began + late, ...reply])
    return (store.now('client') as number) - clockUs() / 1000
  }
  t.equal(await answered(0, 1, 4000, -77, 88), 0, 'it took longer, and says less')
  t.equal(await answered(60_000_000, -4), 60_000 - 10)
})

t.test('what was answered is over, also where others of its call are asked again', async t => {
  for (const answer of [[1, 4000, -77, 88], [-4]]) {
    const { store, connection, sent, ready, events, circuits } = redis()
    for (let round = 0; round < 3; round++) {
      connection.status = 'connecting'
      const one = watched(store.check(keyed('one')))
      time.advance(200)
      const two = watched(store.check(keyed('two')))
      await ready()
      await sent()[0]?.replies([clockUs(), ...answer, -2])
      if (answer.length === 1) t.ok((await one.catch(error => error)) instanceof OtherPeriod)
      else t.match(await one, { allowed: true })
      const [again] = sent() as [Call]
      t.strictSame(again.keys, ['n:{two}2.log.p'])
      await time.pass(300)
      await again.replies(admits(1))
      t.match(await two, { allowed: true })
      t.strictSame(events.splice(0), answer.length === 1 ? ['answered 300'] : ['answered 200', 'answered 300'])
    }
    t.strictSame(circuits, [], 'it was no failure')
  }
})

t.test('a grant that came is over, also where others of its call are asked again', async t => {
  const { store, sent, circuits } = redis()
  watched(store.check(busy))
  await turn()
  await sent()[0]?.replies(admits(1))
  const one = watched(store.check(busy))
  time.now += 200
  const two = watched(store.check(check))
  await turn()
  const [call] = sent() as [Call]
  await call.replies([...grants(1, 0), -2])
  t.match(await one, { allowed: true })
  await time.pass(300)
  await sent()[0]?.replies(admits(1))
  t.match(await two, { allowed: true })
  for (let count = 0; count < 2; count++) {
    const lost = watched(store.check(check))
    await turn()
    await sent()[0]?.fails(new Error('gone'))
    await t.rejects(lost, { message: 'gone' })
    time.advance(200)
  }
  t.strictSame(circuits, [], 'there were two failures')
})

// Silence and errors -----------------------------------------------------------------------------------------------------

t.test('each check has its own time, and what Redis says after it changes nothing', async t => {
  const { store, sent, ready, events, answers } = redis({}, { status: 'connecting' })
  const one = watched(store.check(keyed('one')))
  time.advance(200)
  const two = watched(store.check(keyed('two')))
  time.advance(100)
  await ready()
  const [call] = sent() as [Call]
  t.equal(call.keys.length, 2)
  t.equal(time.next, time.now + 200, 'nothing is done before the time of the first is over')
  await time.pass(199)
  t.strictSame(events, [])
  await time.pass(1)
  await t.rejects(one, LATE)
  t.strictSame(events, ['failed 500'])
  await time.pass(199)
  t.equal(events.length, 1)
  await time.pass(1)
  await t.rejects(two, LATE)
  t.equal(time.waiting, 0)
  await call.replies(admits(1, 1))
  t.strictSame(events, ['failed 500', 'failed 500'])
  t.equal(answers.length, 2, 'but what is used is known')
})

t.test('a reply that has arrived when the time is over counts', async t => {
  const { store, sent } = redis()
  const one = watched(store.check(check))
  await turn()
  const [call] = sent() as [Call]
  time.step(TIMEOUT_MS)
  await call.replies(admits(1))
  t.match(await one, { allowed: true })
})

t.test(
  'three calls without an answer in a tenth of a second open the circuit: nothing is sent, until a probe',
  async t => {
    const { store, sent, circuits, events } = redis()
    const waits = []
    for (let count = 0; count < 3; count++) {
      waits.push(watched(store.check(keyed(`${count}`))), watched(store.check(keyed(`and ${count}`))))
      await turn()
      time.advance(50)
    }
    t.equal(sent().length, 3)
    await time.pass(TIMEOUT_MS - 51)
    t.strictSame(circuits, [], 'each call is one failure')
    await time.pass(1)
    t.strictSame(circuits, [[`The rate limit store did not answer within ${TIMEOUT_MS} ms`, undefined]])
    t.ok(events.includes('lost'))
    for (const wait of waits) await t.rejects(wait, LATE)
    const asked = [
      () => store.check(check),
      () => store.peek(check),
      () => store.charge(check),
      () => store.refund(check, []),
    ]
    for (const ask of asked) await t.rejects(Promise.resolve(ask()), LATE)
    await t.rejects(store.reset('client', namesOf(check)), LATE)
    await turn()
    t.strictSame(sent(), [])
    await time.pass(50)
    const [probe] = sent() as [Call]
    t.match(probe, { script: 'PROBE', keys: ['n:{0}2.~probe'] })
    t.strictSame(probe.args, [])
    await probe.replies(1)
    t.strictSame(circuits.slice(1), [[undefined, undefined]])
    t.equal(events.at(-1), 'back')
    watched(store.check(check))
    await turn()
    t.equal(sent().length, 1)
  },
)

t.test('a call without an answer is one failure, whatever comes of it later', async t => {
  const answered = redis()
  for (let count = 0; count < 3; count++) {
    const late = watched(answered.store.check(keyed(`${count}`)))
    await turn()
    const [call] = answered.sent() as [Call]
    await time.pass(TIMEOUT_MS)
    await t.rejects(late, LATE)
    await call.replies(admits(1))
  }
  t.equal(answered.circuits.length, 1, 'an answer after its time is none')
  const failed = redis()
  for (let count = 0; count < 2; count++) {
    const late = watched(failed.store.check(keyed(`${count}`)))
    await turn()
    const [call] = failed.sent() as [Call]
    await time.pass(TIMEOUT_MS)
    await t.rejects(late, LATE)
    await call.fails(new Error('gone'))
  }
  t.strictSame(failed.circuits, [])
  t.strictSame(failed.events, ['failed 500', 'failed 500'])
})

t.test('a probe without an answer is given up like any call', async t => {
  const { sent, lose } = redis()
  await lose()
  const probes = () => sent().filter(({ script }) => script === 'PROBE').length
  await time.pass(0)
  t.equal(probes(), 1)
  await time.pass(TIMEOUT_MS + 99)
  t.equal(probes(), 0)
  await time.pass(1)
  t.equal(probes(), 1)
})

t.test('an answer in between keeps the circuit closed', async t => {
  const { store, sent, circuits } = redis()
  for (let count = 0; count < 6; count++) {
    const one = watched(store.check(keyed(`${count}`)))
    await turn()
    const [call] = sent() as [Call]
    if (count % 3 === 2) await call.replies(admits(1))
    else await call.fails(new Error('gone'))
    await one.catch(() => {})
    time.advance(100)
  }
  t.strictSame(circuits, [])
})

t.test('an error of Redis is told to all that wait for the call', async t => {
  for (const [reason, wanted] of [
    [new Error('ERR of Redis'), { message: 'ERR of Redis' }],
    ['a text', { message: 'a text' }],
    [new Error('Connection is closed.'), { name: 'StoreClosed' }],
  ] as const) {
    const { store, sent, events } = redis()
    const all = [watched(store.check(keyed('a'))), watched(store.check(keyed('b')))]
    await turn()
    await sent()[0]?.fails(reason)
    for (const one of all) await t.rejects(one, wanted)
    t.strictSame(events, ['failed 0', 'failed 0'])
    t.equal(time.waiting, 0)
  }
})

t.test('listeners that throw change nothing', async t => {
  const { store, sent, lose } = redis({
    onEvent: () => {
      throw new Error('listener')
    },
  })
  const one = watched(store.check(check))
  await turn()
  await sent()[0]?.replies(admits(1))
  t.match(await one, { allowed: true })
  await lose()
  await t.rejects(Promise.resolve(store.check(check)), { message: 'gone' })
  const plain = redis({ onEvent: undefined, onCircuit: undefined as never, onAnswer: undefined as never })
  const two = watched(plain.store.check(check))
  await turn()
  await plain.sent()[0]?.replies(admits(1))
  t.match(await two, { allowed: true })
  const taking = await granted({ onAnswer: undefined as never })
  t.match(await taking.second, { allowed: true })
  const losing = redis({ onCircuit: undefined as never })
  await losing.lose()
  t.ok(losing.events.includes('lost'))
})

// Connections ------------------------------------------------------------------------------------------------------------

t.test('without a connection checks wait as long as their time lasts; a lazy client is told to connect', async t => {
  for (const status of ['connecting', 'idle'] as const) {
    const { store, connection, sent, ready, circuits } = redis({}, { status })
    const one = watched(store.check(check))
    await turn()
    t.equal(connection.connects, status === 'idle' ? 1 : 0)
    await ready()
    await sent()[0]?.replies(admits(1))
    t.match(await one, { allowed: true })
    connection.status = 'connecting'
    for (let count = 0; count < 3; count++) {
      const late = watched(store.check(check))
      await time.pass(TIMEOUT_MS)
      await t.rejects(late, LATE)
    }
    t.equal(circuits.length, 1)
  }
})

t.test('a client that was closed for good is an error at once', async t => {
  const { store } = redis({}, { status: 'closed' })
  const all = [store.check(check), store.peek(check), store.reset('client', namesOf(check))].map(one =>
    watched<unknown>(one),
  )
  await turn()
  for (const one of all) await t.rejects(one, { name: 'StoreClosed' })
})

t.test('the first connection has longer, and once it has not come nothing waits until it does', async t => {
  const { store, connection, sent, ready, circuits, events } = redis({ startTimeoutMs: 2000 }, { status: 'connecting' })
  const one = watched(store.check(check))
  await time.pass(1999)
  t.strictSame(events, [])
  await time.pass(1)
  await t.rejects(one, { message: 'The rate limit store did not answer within 2000 ms' })
  t.strictSame(circuits, [['The rate limit store did not answer within 2000 ms', undefined]])
  await t.rejects(Promise.resolve(store.check(check)), LATE)
  await t.rejects(store.block('client', { limiters: [], logs: [] }, 5), LATE)
  await ready()
  t.strictSame(circuits.slice(1), [[undefined, undefined]])
  const two = watched(store.check(check))
  await turn()
  await sent()[0]?.replies(admits(1))
  t.match(await two, { allowed: true })
  connection.status = 'connecting'
  const three = watched(store.check(check))
  await time.pass(TIMEOUT_MS)
  await t.rejects(three, LATE, 'later ones have the usual time')

  const inTime = redis({ startTimeoutMs: 2000 }, { status: 'connecting' })
  const waits = watched(inTime.store.check(check))
  await time.pass(1500)
  await inTime.ready()
  await inTime.sent()[0]?.replies(admits(1))
  t.match(await waits, { allowed: true })
  await time.pass(2000)
  t.strictSame(inTime.circuits, [], 'it came in time')

  const lazy = redis({ startTimeoutMs: 2000 }, { status: 'idle' })
  await time.pass(2000)
  t.strictSame(lazy.circuits, [], 'a lazy client connects with the first request')
  redis({ startTimeoutMs: 2000 })
  t.equal(time.waiting, 0, 'it is there')
  redis({}, { status: 'connecting' })
  t.equal(time.waiting, 0)
})

t.test('a client that connects again closes the circuit', async t => {
  const { ready, circuits, lose } = redis()
  await lose()
  t.equal(circuits.length, 1)
  await ready()
  t.equal(circuits.length, 2)
})

// Refunds, resets and blocks ---------------------------------------------------------------------------------------------

const refundsOf = (costs: readonly number[], rest: Partial<Refund> = {}): Refund[] =>
  costs.map(cost => ({ policy: check.policies[0] as Refund['policy'], cost, admission, ...rest }))

t.test('a refund happens once: its call has a marker, and a time after which it does nothing', async t => {
  const { store, sent } = redis()
  const one = watched(store.refund(check, refundsOf([3])))
  const two = watched(store.refund(keyed('two'), refundsOf([4, 5])))
  await turn()
  const [clock] = sent() as [Call]
  t.match(clock, { script: 'CHECK', keys: ['n:{client}2.~probe'], args: [0, 0, 0] }, 'the time of Redis comes first')
  time.advance(40)
  await clock.replies([clockUs()])
  const [call] = sent() as [Call]
  t.equal(call.script, 'REFUND')
  t.match(call.keys[0], /^n:\{client\}2\.~[\w-]{16}$/)
  t.strictSame(call.keys.slice(1), ['n:{client}2.log.p', 'n:{two}2.log.p', 'n:{two}2.log.p'])
  t.strictSame(call.args.slice(0, 2), [clockUs() + (TIMEOUT_MS - 40) * 1000, TIMEOUT_MS - 40 + 1000])
  await call.replies([clockUs(), 3, 4, 1])
  t.strictSame(await one, [3])
  t.strictSame(await two, [4, 1])

  const three = watched(store.refund(check, refundsOf([3])))
  await turn()
  const [next] = sent() as [Call]
  t.equal(next.script, 'REFUND', 'the time is known')
  t.not(next.keys[0], call.keys[0])
  await next.replies([clockUs(), 'resent'])
  t.strictSame(await three, [3], 'it has happened before')

  const nothing = watched(store.refund(check, refundsOf([3])))
  await turn()
  await sent()[0]?.replies([clockUs(), 0])
  t.strictSame(await nothing, [0], 'there was nothing to give back')
})

t.test('a refund of a foreign value is an error, and others of the call are answered', async t => {
  const { store, sent } = redis()
  watched(store.check(check))
  await turn()
  await sent()[0]?.replies(admits(1))
  const one = watched(store.refund(check, refundsOf([3, 2])))
  const two = watched(store.refund(check, refundsOf([4])))
  await turn()
  await sent()[0]?.replies([clockUs(), 3, -1, 4])
  await t.rejects(one, { code: 'ML_RATE_STORE_FOREIGN_KEY' })
  t.strictSame(await two, [4])
})

t.test('a refund that came too late by what was known of the clock is sent again in time', async t => {
  const { store, sent } = redis()
  watched(store.check(check))
  await turn()
  await sent()[0]?.replies(admits(1))
  const one = watched(store.refund(check, refundsOf([3])))
  await turn()
  time.advance(10)
  await sent()[0]?.replies([clockUs() + 60_000_000])
  const [again] = sent() as [Call]
  t.equal(again.args[0], clockUs() + 60_000_000 + (TIMEOUT_MS - 10) * 1000)
  await again.replies([clockUs() + 60_000_000, 3])
  t.strictSame(await one, [3])

  const late = watched(store.refund(check, refundsOf([3])))
  await turn()
  const [last] = sent() as [Call]
  await time.pass(TIMEOUT_MS)
  await t.rejects(late, LATE)
  await last.replies([clockUs() + 120_000_000])
  t.strictSame(sent(), [])
})

t.test('what frees quota of a key has its denials forgotten, before and after', async t => {
  const { store, sent } = redis()
  const deny = async () => {
    const one = watched(store.check(check))
    await turn()
    await sent()[0]?.replies(denies(900))
    await one
    t.ok(store.knownDenial(check))
  }
  for (const act of [
    () => store.refund(check, refundsOf([1])),
    () => store.refund(keyed('other'), refundsOf([1], { key: 'client' })),
    () => store.reset('client', { ...namesOf(check), limiters: ['limiter'] }),
    () => store.block('client', { limiters: ['limiter'], logs: [] }, 5),
  ]) {
    await deny()
    const done = watched(act() as Promise<unknown>)
    t.equal(store.knownDenial(check), undefined)
    await turn()
    const [call] = sent() as [Call]
    await deny()
    await call.replies(call.script === 'REFUND' ? [clockUs(), 1] : 1)
    await done
    t.equal(store.knownDenial(check), undefined)
  }
  await deny()
  watched(store.refund(keyed('other'), refundsOf([1])))
  t.ok(store.knownDenial(check), 'of another key')
})

t.test('a reset forgets logs, penalties and permits', async t => {
  const { store, sent } = redis()
  const done = watched(store.reset('client', { limiters: [], logs: ['l', 'm'], permits: ['p'] }))
  await turn()
  const [clock] = sent() as [Call]
  t.match(clock, { script: 'CHECK', keys: ['n:{client}2.~probe'] })
  await clock.replies([clockUs()])
  const [call] = sent() as [Call]
  t.equal(call.script, 'RESET')
  t.strictSame(call.args, [clockUs() + TIMEOUT_MS * 1000])
  t.strictSame(
    call.keys,
    ['l', '-l', '!l', 'm', '-m', '!m', 'p'].map(name => `n:{client}2.${name}`),
  )
  await call.replies(3)
  await done
  await store.reset('client', { limiters: [], logs: [], permits: [] })
  t.strictSame(sent(), [], 'there is nothing to forget')
})

t.test('a block is for the logs that hold its end', async t => {
  const { store, sent } = redis()
  const places = { limiters: [], logs: ['a', 'b'].map((log, index) => ({ log, windowMs: 1000 + index })) }
  const done = watched(store.block('client', places, 70))
  await turn()
  await sent()[0]?.replies([clockUs()])
  const [call] = sent() as [Call]
  t.match(call, {
    script: 'BLOCK',
    keys: ['n:{client}2.a', 'n:{client}2.b'],
    args: [clockUs() + TIMEOUT_MS * 1000, 70_000, 1_000_000, 1_001_000],
  })
  await call.replies('2')
  await done
  const foreign = watched(store.block('client', places, 70))
  await turn()
  await sent()[0]?.replies(-2)
  await t.rejects(foreign, { code: 'ML_RATE_STORE_FOREIGN_KEY' })
})

t.test('a block that came too late is sent once more, while there is time', async t => {
  const { store, sent } = redis()
  const places = { limiters: [], logs: [] }
  const begin = async () => {
    const done = watched(store.block('client', places, 70))
    await turn()
    return done
  }
  const settled = (done: Promise<void>) => ({ done })
  const first = settled(watched(store.block('client', places, 70)))
  await turn()
  await sent()[0]?.replies([clockUs()])
  await sent()[0]?.replies(-1)
  const [clock] = sent() as [Call]
  t.equal(clock.script, 'CHECK')
  time.advance(5)
  await clock.replies([clockUs() + 1_000_000])
  const [again] = sent() as [Call]
  t.match(again, { script: 'BLOCK', args: [clockUs() + 1_000_000 + (TIMEOUT_MS - 5) * 1000, 70_000] })
  await again.replies(0)
  await first.done

  const twice = watched(store.block('client', places, 70))
  await turn()
  await sent()[0]?.replies(-1)
  await sent()[0]?.replies([clockUs()])
  await sent()[0]?.replies(-1)
  await t.rejects(twice, LATE)
  t.strictSame(sent(), [])

  const late = watched(store.block('client', places, 70))
  await turn()
  const [call] = sent() as [Call]
  time.advance(TIMEOUT_MS - 1)
  const replied = call.replies(-1)
  time.now += 1
  await replied
  await t.rejects(late, LATE)
  t.strictSame(sent(), [], 'no time is left')

  const silent = watched(begin())
  await time.pass(TIMEOUT_MS)
  await t.rejects(silent, LATE)
})

t.test('a reset waits for a connection as a check does', async t => {
  const { store, connection, sent, ready, listeners } = redis({}, { status: 'idle' })
  const before = listeners.size
  const done = watched(store.reset('client', namesOf(check)))
  await turn()
  t.equal(connection.connects, 1)
  t.equal(listeners.size, before + 1)
  await ready()
  await sent()[0]?.replies([clockUs()])
  await sent()[0]?.replies(1)
  await done
  t.equal(listeners.size, before)
  connection.status = 'connecting'
  const late = watched(store.reset('client', namesOf(check)))
  await time.pass(TIMEOUT_MS)
  await t.rejects(late, LATE)
  t.equal(connection.connects, 1)
  t.equal(listeners.size, before)
  t.equal(time.waiting, 0)
})

// Permits ----------------------------------------------------------------------------------------------------------------

const held = checkOf([{ limit: 5, windowMs: 60_000 }], { concurrency: { max: 3, ttlMs: 900 } })

t.test('a permit is held until it is given back, with the next call', async t => {
  const { store, sent } = redis()
  const one = watched(store.check(held))
  await turn()
  await sent()[0]?.replies([...admits(1), 2, 44])
  const { concurrency } = await one
  t.match(concurrency, { inFlight: 2, violated: false })
  t.equal(store.held('client', 'permits'), 1)
  concurrency?.lease?.release()
  concurrency?.lease?.release()
  t.equal(store.held('client', 'permits'), 0)
  watched(store.check(check))
  await turn()
  const [call] = sent() as [Call]
  t.match(call, { script: 'CHECK', keys: ['n:{client}2.permits', 'n:{client}2.log.p'] })
  t.strictSame(call.args.slice(1, 3), [1, 44])
  const denied = watched(store.check(held))
  await turn()
  await sent()[0]?.replies([...admits(1), 3, -1])
  t.match(await denied, { allowed: false, concurrency: { inFlight: 3, violated: true, lease: undefined } })
})

t.test('permits that are given back alone have a call for it, also where the call that had them failed', async t => {
  const { store, sent } = redis()
  const hold = async (number: number) => {
    const one = watched(store.check(held))
    await turn()
    await sent()[0]?.replies([...admits(1), 2, number])
    return (await one).concurrency?.lease
  }
  const [first, second] = [await hold(44), await hold(45)]
  first?.release()
  await turn()
  const [alone] = sent() as [Call]
  t.match(alone, { script: 'RELEASE', keys: ['n:{client}2.permits'], args: [44] })
  await alone.fails(new Error('gone'))
  t.strictSame(sent(), [], 'else a permit ends by itself')
  second?.release()
  watched(store.check(check))
  await turn()
  await sent()[0]?.fails(new Error('gone'))
  t.match(sent(), [{ script: 'RELEASE', args: [45] }])
})

t.test('a permit for which nobody waits any more is given back at once', async t => {
  const { store, sent } = redis()
  const late = watched(store.check(held))
  await turn()
  const [call] = sent() as [Call]
  await time.pass(TIMEOUT_MS)
  await t.rejects(late, LATE)
  await call.replies([...admits(1), 2, 44])
  await turn()
  t.match(sent(), [{ script: 'RELEASE', args: [44] }])
  t.equal(store.held('client', 'permits'), 0)
})

t.test('a reset forgets the permits that are held', async t => {
  const { store, sent } = redis()
  const one = watched(store.check(held))
  await turn()
  await sent()[0]?.replies([...admits(1), 2, 44])
  await one
  const done = watched(store.reset('client', namesOf(held)))
  await turn()
  t.equal(store.held('client', 'permits'), 1)
  await sent()[0]?.replies(1)
  await done
  t.equal(store.held('client', 'permits'), 0)
})

// Quota taken ahead ------------------------------------------------------------------------------------------------------

const busy: Check = {
  ...checkOf([{ limit: 1_000_000, windowMs: 100_000 }], { precision: 0.01 }),
  prefetch: Number.POSITIVE_INFINITY,
}
const grants = (admitted: number, ahead: number, used = admitted + ahead, retryUs = 0) => [
  ...[clockUs(), admitted, ahead, used, 4000, retryUs],
  ...(admitted + ahead > 0 ? [77, 88] : [0, 0]),
]

const counted = (used: number) => ({ used, resetMs: 4, retryMs: 0, denials: 0, blockedMs: undefined })

/** A store with a grant of six requests. */
async function granted(options: Partial<RedisStoreOptions> = {}) {
  const one = redis(options)
  watched(one.store.check(busy))
  await turn()
  await one.sent()[0]?.replies(admits(1))
  const second = watched(one.store.check(busy))
  await turn()
  const [call] = one.sent() as [Call]
  await call.replies(grants(1, 6, 8))
  await second
  return { ...one, call, second }
}

t.test('quota is taken ahead for a key that is busy, and its requests are answered at once', async t => {
  const { store, call, second, sent, answers } = await granted({ replicas: () => 5 })
  t.strictSame(call.args.slice(-4), [1, 6, 20, 1_000_000])
  t.match(await second, { allowed: true, policies: [{ used: 2, prefetched: 6 }] })
  t.match(store.check(busy), { allowed: true, policies: [{ used: 3 }] })
  await turn()
  t.strictSame(sent(), [])
  const all = { ...busy, policies: [{ ...busy.policies[0], cost: 7 }] }
  t.strictSame(answers.slice(1), [
    [all, { allowed: true, policies: [{ ...counted(8), admission: { generation: 77, time: 88 } }] }],
  ])
  const look = watched(store.peek(busy))
  await turn()
  await sent()[0]?.replies([clockUs(), 8, 4000, 0, 6])
  t.match(await look, { policies: [{ used: 3, prefetched: 5, ahead: 6 }] })
  const plain = redis()
  for (let count = 0; count < 3; count++) watched(plain.store.check({ ...busy, prefetch: undefined }))
  await turn()
  t.equal(plain.sent()[0]?.args.at(-4), 3, 'three checks')
})

t.test('what Redis gives back shows in what is answered ahead, for the keys that it was given to', async t => {
  const { store, sent } = await granted()
  const [policy] = busy.policies as [Refund['policy']]
  const refund = async (refunds: readonly Refund[], ...given: number[]) => {
    const done = watched(store.refund(busy, refunds))
    await turn()
    await sent()[0]?.replies([clockUs(), ...given])
    return done
  }
  const usedNext = () => (store.check(busy) as Answer).policies[0]?.used
  const back = (cost: number, key?: string) => ({ policy, cost, admission: undefined, key })
  t.equal(usedNext(), 3)
  t.strictSame(await refund([back(2)], 1), [1])
  t.equal(usedNext(), 3, 'one unit less, one more')
  t.strictSame(await refund([back(5, 'another'), back(3, 'client')], 5, 2), [5, 2])
  t.equal(usedNext(), 2)
  await t.rejects(refund([back(3)], -1), { code: 'ML_RATE_STORE_FOREIGN_KEY' })
  t.equal(usedNext(), 3)
})

t.test('a grant tells what is used as one charge, and nothing where nothing was granted', async t => {
  const { store, sent, answers } = await granted()
  answers.splice(0)
  for (let left = 5; left >= 1; left--) store.check(busy)
  await time.pass(2)
  const [call] = sent() as [Call]
  await call.replies(grants(0, 9, 17))
  t.match(answers.splice(0), [
    [
      { key: 'client', policies: [{ cost: 9 }] },
      { allowed: true, policies: [{ ...counted(17), admission: { time: 88 } }] },
    ],
  ])
  for (let left = 10; left >= 1; left--) store.check(busy)
  await time.pass(2)
  const [next] = sent() as [Call]
  await next.replies(grants(0, 0, 17))
  t.match(answers, [
    [{ policies: [{ cost: 0 }] }, { allowed: false, policies: [{ ...counted(17), admission: undefined }] }],
  ])
})

const large: Check = { ...busy, prefetch: undefined }

/** A check that was denied, while this replica had quota of its key. `back`: the call that gives it back. */
async function calledBack(tookMs = 0) {
  const one = await granted()
  const answer = watched(one.store.check(large))
  await turn()
  time.advance(tookMs)
  await one.sent()[0]?.replies(denies(900))
  const [back, ...others] = one.sent() as [Call]
  one.events.splice(0)
  return { ...one, answer: () => answer, back, others }
}

t.test('before a denial what is out is called back, and the check is asked again once that is back', async t => {
  const { sent, answer, back, others } = await calledBack()
  t.match(back, { script: 'REFUND', keys: { 1: 'n:{client}2.log.p' } })
  t.equal(back.args[2], 6)
  t.strictSame(others, [], 'a call might overtake it')
  await back.replies([clockUs(), 6])
  const [again] = sent() as [Call]
  t.equal(again.script, 'CHECK')
  await again.replies(denies(900))
  t.strictSame(sent(), [], 'nothing is out any more')
  t.match(await answer(), { allowed: false })
  t.equal(time.waiting, 0)
})

t.test('a check is asked again three times at most', async t => {
  const { store, sent, answer, ...one } = await calledBack()
  let { back } = one
  for (let count = 1; count <= 3; count++) {
    // Meanwhile another request takes more ahead.
    watched(store.check(busy))
    await turn()
    await sent()[0]?.replies(grants(1, 6, 8))
    await back.replies([clockUs(), 6])
    const [again] = sent() as [Call]
    t.equal(again.script, 'CHECK')
    await again.replies(denies(900))
    const [next, ...others] = sent() as [Call]
    t.equal(next.script, 'REFUND')
    t.strictSame(others, [])
    back = next
  }
  t.match(await answer(), { allowed: false })
  await back.replies([clockUs(), 6])
  t.strictSame(sent(), [])
})

t.test('a check that was on its way when units came back is asked again at once, and once', async t => {
  const { store, sent, back } = await calledBack()
  const second = watched(store.check(large))
  await turn()
  const [call] = sent() as [Call]
  time.advance(1)
  await back.replies([clockUs(), 6])
  t.match(sent(), [{ script: 'CHECK' }], 'the first')
  time.advance(1)
  await call.replies(denies(900))
  const [again, ...others] = sent() as [Call]
  t.equal(again.script, 'CHECK', 'it may have run before the units were there')
  t.strictSame(others, [])
  await again.replies(denies(900))
  t.match(await second, { allowed: false })
  t.strictSame(sent(), [])
})

t.test('a check is asked again also where what was called back will not come', async t => {
  const { sent, answer, back } = await calledBack()
  await back.fails(new Error('gone'))
  const [again] = sent() as [Call]
  t.equal(again.script, 'CHECK')
  await again.replies(admits(9))
  t.match(await answer(), { allowed: true })
  t.equal(time.waiting, 0)
})

t.test('a check that waits for what was called back has its own time, and is denied then', async t => {
  const { sent, events, answer, back } = await calledBack(200)
  await time.pass(TIMEOUT_MS - 201)
  t.strictSame(events, [])
  await time.pass(1)
  t.match(await answer(), { allowed: false, policies: [{ retryMs: 900 }] })
  t.strictSame(events, [`answered ${TIMEOUT_MS}`])
  await back.replies([clockUs(), 6])
  t.strictSame(sent(), [], 'nobody waits for it any more')
  t.equal(time.waiting, 0)
})

t.test('a call without an answer is one failure, however many wait for what it brings back', async t => {
  const { store, sent, answer, circuits } = await calledBack()
  const all = [answer()]
  for (let count = 0; count < 3; count++) {
    time.advance(100)
    all.push(watched(store.check(large)))
    await turn()
    await sent()[0]?.replies(denies(900))
    t.strictSame(sent(), [])
  }
  await time.pass(TIMEOUT_MS)
  for (const one of all) t.match(await one, { allowed: false })
  t.strictSame(circuits, [])
})

t.test('a check that was denied is denied where the call that asks again fails', async t => {
  const { sent, answer, back } = await calledBack()
  await back.replies([clockUs(), 6])
  await sent()[0]?.fails(new Error('gone'))
  t.match(await answer(), { allowed: false })
})

t.test('a check that waits while its store closes has its answer, or is denied in time', async t => {
  for (const isAnswered of [true, false]) {
    const { store, sent, answer, back } = await calledBack()
    const drained = store.drain()
    await turn()
    await drained
    store.close()
    if (isAnswered) {
      await back.replies([clockUs(), 6])
      await sent()[0]?.replies(admits(9))
      t.match(await answer(), { allowed: true })
    } else {
      await time.pass(TIMEOUT_MS)
      t.match(await answer(), { allowed: false })
    }
    t.equal(time.waiting, 0)
  }
})

t.test('requests that wait for a grant have their own time, and share its errors', async t => {
  const { store, sent } = redis()
  watched(store.check(busy))
  await turn()
  await sent()[0]?.replies(admits(1))
  const one = watched(store.check(busy))
  await turn()
  const [call] = sent() as [Call]
  time.advance(200)
  const two = watched(store.check(busy))
  await turn()
  t.strictSame(sent(), [])
  await time.pass(300)
  await t.rejects(one, LATE)
  await call.replies([clockUs(), -2])
  const [again] = sent() as [Call]
  t.match(again, { script: 'CHECK' }, 'the second is asked by itself')
  await again.replies(admits(3))
  t.match(await two, { allowed: true, policies: [{ used: 3 }] })

  for (const [reply, wanted] of [
    [[clockUs(), -1], { code: 'ML_RATE_STORE_FOREIGN_KEY' }],
    [new Error('gone'), { message: 'gone' }],
  ] as const) {
    const other = redis()
    watched(other.store.check(busy))
    await turn()
    await other.sent()[0]?.replies(admits(1))
    other.events.splice(0)
    const riders = [watched(other.store.check(busy)), watched(other.store.check(busy))]
    await turn()
    const [call] = other.sent() as [Call]
    if (reply instanceof Error) await call.fails(reply)
    else await call.replies(reply)
    for (const rider of riders) await t.rejects(rider, wanted)
    t.strictSame(other.events, ['failed 0', 'failed 0'], 'the call itself is no request')
  }
})

t.test('who joins a call for a grant that has no more to give is asked for alone, at once', async t => {
  const { store, sent } = redis()
  watched(store.check(busy))
  await turn()
  await sent()[0]?.replies(admits(1))
  const one = watched(store.check(busy))
  await turn()
  const [call] = sent() as [Call]
  const two = watched(store.check(busy))
  await turn()
  t.strictSame(sent(), [])
  await call.replies(grants(1, 0))
  t.match(await one, { allowed: true })
  const [again] = sent() as [Call]
  t.equal(again.args[3], '1', 'a check')
  await again.replies(admits(3))
  t.match(await two, { allowed: true, policies: [{ used: 3 }] })
})

t.test('a call for a grant that came too late by what was known of the clock is sent again', async t => {
  const { store, sent } = redis()
  watched(store.check(busy))
  await turn()
  await sent()[0]?.replies(admits(1))
  const rider = watched(store.check(busy))
  await turn()
  await sent()[0]?.replies([clockUs(), -2])
  const [again] = sent() as [Call]
  t.equal(again.args[3], '3', 'as a call for a grant')
  await again.replies(grants(1, 6, 8))
  t.match(await rider, { allowed: true, policies: [{ used: 2, prefetched: 6 }] })
})

t.test('where a call fails, so do its checks, and all that wait for a grant of it', async t => {
  const { store, sent } = redis()
  watched(store.check(busy))
  await turn()
  await sent()[0]?.replies(admits(1))
  const all = [store.check(check), store.check(busy), store.check(busy)].map(watched)
  await turn()
  const [call, ...others] = sent() as [Call]
  t.strictSame(others, [])
  await call.fails(new Error('gone'))
  for (const one of all) await t.rejects(one, { message: 'gone' })
  t.equal(time.waiting, 0)
})

t.test('no call for a grant is sent without a connection, or while the circuit is open', async t => {
  const { store, connection, sent, ready, lose } = redis()
  watched(store.check(busy))
  await turn()
  await sent()[0]?.replies(admits(1))
  connection.status = 'connecting'
  watched(store.check(busy))
  await ready()
  t.equal(sent()[0]?.args[3], '1', 'a check')
  const other = redis()
  watched(other.store.check(busy))
  await turn()
  await other.sent()[0]?.replies(admits(1))
  await other.lose()
  await t.rejects(Promise.resolve(other.store.check(busy)), { message: 'gone' })
  t.ok(lose)
})

t.test('riders of a call that waits for a connection in vain have their own time', async t => {
  const { store, connection, sent, ready } = redis()
  watched(store.check(busy))
  await turn()
  await sent()[0]?.replies(admits(1))
  const one = watched(store.check(busy))
  connection.status = 'connecting'
  await turn()
  time.advance(200)
  const two = watched(store.check(busy))
  await time.pass(300)
  await t.rejects(one, LATE)
  await ready()
  await sent()[0]?.replies(admits(2))
  t.match(await two, { allowed: true })

  const closing = redis()
  watched(closing.store.check(busy))
  await turn()
  await closing.sent()[0]?.replies(admits(1))
  const three = watched(closing.store.check(busy))
  closing.connection.status = 'connecting'
  await turn()
  closing.store.close()
  await t.rejects(three, { name: 'StoreClosed' })
})

t.test('a reset or a block calls back what is out', async t => {
  for (const act of ['reset', 'block'] as const) {
    const { store, sent } = await granted()
    const done = watched(
      act === 'reset' ? store.reset('client', namesOf(busy)) : store.block('client', { limiters: [], logs: [] }, 70),
    )
    await turn()
    const [first, second] = sent() as [Call, Call]
    t.strictSame([first.script, second.script].sort(), ['REFUND', act.toUpperCase()].sort())
    for (const call of [first, second]) await call.replies(call.script === 'REFUND' ? [clockUs(), 6] : 1)
    await done
  }
})

t.test('what is out of other keys stays out', async t => {
  const { store, sent } = await granted()
  const next = async () => {
    await turn()
    return sent().map(({ script }) => script)
  }
  watched(store.reset('other', namesOf(busy)))
  t.strictSame(await next(), ['RESET'])
  watched(store.block('other', { limiters: [], logs: [] }, 70))
  t.strictSame(await next(), ['BLOCK'])
  store.recall(key => key === 'other')
  t.strictSame(await next(), [])
  store.recall(key => key === 'client')
  t.strictSame(await next(), ['REFUND'])
})

t.test('a grant that came while a key was blocked goes back as well', async t => {
  const { store, sent } = await granted()
  for (let left = 5; left >= 1; left--) store.check(busy)
  await time.pass(2)
  const [take] = sent() as [Call]
  const done = watched(store.block('client', { limiters: [], logs: [] }, 70))
  await turn()
  const block = sent().find(({ script }) => script === 'BLOCK')
  await take.replies(grants(0, 9, 17))
  t.match(sent(), [{ script: 'REFUND' }])
  await block?.replies(0)
  await done
})

t.test('near the limit nothing is taken ahead; a check that finds room ends that', async t => {
  const { store, sent } = redis()
  watched(store.check(busy))
  await turn()
  await sent()[0]?.replies(admits(1))
  watched(store.check(busy))
  await turn()
  await sent()[0]?.replies(grants(1, 0))
  const next = async (used: number) => {
    watched(store.check(busy))
    await turn()
    const [call] = sent() as [Call]
    const isTake = call.args[3] === '3'
    await call.replies(isTake ? grants(1, 0) : admits(used))
    return isTake
  }
  t.equal(await next(999_999), false)
  t.equal(await next(5), false)
  t.equal(await next(5), true)
})

// Clusters ---------------------------------------------------------------------------------------------------------------

const SLOTS = { a: 'one', b: 'two', '~announced': 'one' }

t.test('in a cluster each node has its circuit, and a call has keys of one slot', async t => {
  const { store, sent, circuits, events } = redis({}, { slots: SLOTS })
  for (let count = 0; count < 3; count++) {
    const [a, b] = [watched(store.check(keyed('a'))), watched(store.check(keyed('b')))]
    await turn()
    const [one, two] = sent() as [Call, Call]
    t.strictSame([one.keys, two.keys], [['n:{a}2.log.p'], ['n:{b}2.log.p']])
    await one.fails(new Error('gone'))
    await two.replies(admits(1))
    await t.rejects(a, { message: 'gone' })
    t.match(await b, { allowed: true })
    time.advance(50)
  }
  t.strictSame(circuits, [['gone', 'one']])
  t.ok(events.includes('lost one'))
  await t.rejects(Promise.resolve(store.check(keyed('a'))), { message: 'gone' })
  t.equal(store.nodeOf('a'), 'one')
  t.strictSame(store.nodes, ['one', 'two'])
  t.equal(store.now('a'), undefined)
  t.ok(store.now('b'))
})

const apart: Check = {
  ...checkOf([
    { name: 'x', limit: 5, windowMs: 60_000 },
    { name: 'y', limit: 5, windowMs: 60_000 },
  ]),
  keys: ['a', 'b'],
}

t.test('policies with keys in several slots are asked for slot by slot, and a denial is remembered', async t => {
  const { store, sent } = redis({}, { slots: SLOTS })
  const one = watched(store.check(apart))
  await turn()
  const [a, b] = sent() as [Call, Call]
  t.strictSame([a.keys, b.keys], [['n:{a}2.log.x'], ['n:{b}2.log.y']])
  await a.replies(admits(1))
  await b.replies(denies(900))
  const [clock] = sent() as [Call]
  t.equal(clock.script, 'REFUND', 'what was charged goes back')
  await clock.replies([clockUs(), 1])
  t.match(await one, { allowed: false, policies: [{ used: 0 }, { retryMs: 900 }] })
  t.match(store.check(apart), { allowed: false })
  const same = watched(store.peek({ ...apart, keys: ['a', 'a'] }))
  await turn()
  const [call] = sent() as [Call]
  t.strictSame(call.keys, ['n:{a}2.log.x', 'n:{a}2.log.y'], 'of one slot, one call')
  await call.replies([clockUs(), 0, 0, 0, 0, 0, 0, 0, 0])
  t.match(await same, { allowed: true })

  const admitted = watched(store.check({ ...apart, key: 'k', limiter: 'other' }))
  await turn()
  for (const call of sent()) await call.replies(admits(1))
  t.match(await admitted, { allowed: true })
  t.equal(store.knownDenial({ ...apart, limiter: 'other' }), undefined)
  const busyApart: Check = { ...busy, policies: [...busy.policies, ...busy.policies], keys: ['a', 'b'], decisive: 2 }
  for (let count = 0; count < 3; count++) {
    watched(store.check(busyApart))
    await turn()
    for (const call of sent()) {
      t.equal(call.args[3], '1', 'nothing is taken ahead')
      await call.replies(admits(1))
    }
  }
})

t.test('keys of policies lead to their node, unless penalties or permits go by the key of the check', async t => {
  const { store, sent } = redis({}, { slots: SLOTS })
  const policies = checkOf([{ limit: 5, windowMs: 60_000 }])
  watched(store.check({ ...policies, key: 'c', keys: ['a'] }))
  watched(store.check({ ...policies, key: 'a', keys: ['a'] }))
  await turn()
  t.strictSame(
    sent().map(({ keys }) => keys),
    [['n:{a}2.log.p', 'n:{a}2.log.p']],
  )
  watched(store.check({ ...policies, key: 'b', keys: ['b'], penalty: 'count' }))
  await turn()
  t.strictSame(sent()[0]?.keys, ['n:{b}2.log.p', 'n:{b}2.-log.p'])
  const refunded = watched(store.refund({ ...policies, key: 'c', keys: ['a'] }, refundsOf([2], { key: 'b' })))
  await turn()
  await sent()[0]?.replies([clockUs()])
  t.strictSame(sent()[0]?.keys.slice(1), ['n:{b}2.log.p'])
  t.ok(refunded)
})

t.test('penalties and permits go by the key of the check, and a refund by its own', async t => {
  const { store, sent } = redis()
  watched(store.check({ ...check, key: 'c', keys: ['a'], penalty: 'count' }))
  watched(store.check({ ...held, key: 'c', keys: ['a'] }))
  await turn()
  const [call] = sent() as [Call]
  t.strictSame(call.keys, ['n:{a}2.log.p', 'n:{c}2.-log.p', 'n:{a}2.log.p', 'n:{c}2.permits'])
  await call.replies([...admits(1), 0, 2, 4000, -77, 88, 1, 44])
  watched(store.refund({ ...check, key: 'c', keys: ['a'] }, refundsOf([2], { key: 'b' })))
  await turn()
  t.strictSame(sent()[0]?.keys.slice(1), ['n:{b}2.log.p'])
})

t.test(
  'a plain client that leads to a cluster is noticed: what was refused is sent by slot, as all from then on',
  async t => {
    const { store, sent } = redis()
    const all = [watched(store.check(keyed('a'))), watched(store.check(keyed('b'))), watched(store.check(apart))]
    await turn()
    const [call] = sent() as [Call]
    t.equal(call.keys.length, 4)
    await call.fails(new Error('CROSSSLOT Keys in request do not hash to the same slot'))
    const again = sent()
    t.strictSame(
      again.map(({ keys }) => keys.join(' ')).sort(),
      ['n:{a}2.log.p', 'n:{a}2.log.x', 'n:{b}2.log.p', 'n:{b}2.log.y'].sort(),
    )
    for (const call of again) await call.replies(admits(1))
    for (const one of all) t.match(await one, { allowed: true })
    watched(store.check(keyed('a')))
    watched(store.check(keyed('b')))
    await turn()
    t.equal(sent().length, 2)
  },
)

t.test('a refusal for several slots that concerns one slot is an error', async t => {
  const { store, sent } = redis()
  const first = watched(store.check({ ...held, key: 'a' }))
  await turn()
  await sent()[0]?.replies([...admits(1), 2, 44])
  ;(await first).concurrency?.lease?.release()
  const one = watched(store.check(keyed('a')))
  await turn()
  await sent()[0]?.fails(new Error('CROSSSLOT Keys in request do not hash to the same slot'))
  await t.rejects(one, { message: /^CROSSSLOT/ })
  t.match(sent(), { length: 1, 0: { script: 'RELEASE', keys: ['n:{a}2.permits'] } }, 'and the permit goes back')
})

t.test('a refusal for several slots that arrives when the time is over is no failure', async t => {
  const { store, sent, events } = redis()
  const one = watched(store.check(apart))
  await turn()
  const [call] = sent() as [Call]
  time.step(TIMEOUT_MS)
  await call.fails(new Error('CROSSSLOT Keys in request do not hash to the same slot'))
  t.strictSame(await answerAsCluster(sent), ['CHECK n:{a}2.log.x', 'CHECK n:{b}2.log.y'])
  t.match(await one, { allowed: true })
  t.strictSame(events, ['answered 0', 'answered 0'])
})

/** Answers as a cluster whose slots the client does not know, until nothing is sent any more. Returns what was answered. */
async function answerAsCluster(sent: () => Call[]): Promise<string[]> {
  const answered: string[] = []
  for (let calls = sent(); calls.length > 0; calls = sent()) {
    for (const call of calls) {
      if (new Set(call.keys.map(key => slotOf(key))).size > 1) {
        await call.fails(new Error('CROSSSLOT Keys in request do not hash to the same slot'))
        continue
      }
      answered.push(`${call.script} ${call.keys.join(' ')}`)
      await call.replies(call.script === 'RELEASE' ? 1 : admits(...call.keys.map(() => 1)))
    }
    await turn()
  }
  return answered.sort()
}

t.test('policies in several slots, and permits with them, are sent by slot as well', async t => {
  const { store, sent } = redis()
  const lease = watched(store.check(held))
  await turn()
  await sent()[0]?.replies([...admits(1), 2, 44])
  ;(await lease).concurrency?.lease?.release()
  const one = watched(store.check(apart))
  await turn()
  t.strictSame(await answerAsCluster(sent), ['CHECK n:{a}2.log.x', 'CHECK n:{b}2.log.y', 'RELEASE n:{client}2.permits'])
  t.match(await one, { allowed: true })

  const both = redis()
  const two = [watched(both.store.check(apart)), watched(both.store.check(keyed('a')))]
  await turn()
  t.strictSame(await answerAsCluster(both.sent), ['CHECK n:{a}2.log.x n:{a}2.log.p', 'CHECK n:{b}2.log.y'])
  for (const answer of two) t.match(await answer, { allowed: true })
})

t.test('permits of several slots that are given back alone are sent by slot', async t => {
  const releasing = async () => {
    const { store, sent } = redis()
    const leases = []
    for (const key of ['a', 'b']) {
      const one = watched(store.check({ ...held, key }))
      await turn()
      await sent()[0]?.replies([...admits(1), 2, 44])
      leases.push((await one).concurrency?.lease)
    }
    for (const lease of leases) lease?.release()
    await turn()
    return sent
  }
  t.strictSame(await answerAsCluster(await releasing()), ['RELEASE n:{a}2.permits', 'RELEASE n:{b}2.permits'])
  const sent = await releasing()
  await sent()[0]?.fails(new Error('gone'))
  t.strictSame(sent(), [], 'for no other reason')
})

t.test('a call for a grant that was refused for its slots is taken back, and its riders are asked for', async t => {
  const { store, sent } = redis()
  const { policies } = checkOf(
    ['x', 'y'].map(name => ({ name, limit: 1_000_000, windowMs: 100_000 })),
    { precision: 0.01 },
  )
  const busyApart: Check = { ...busy, policies, keys: ['a', 'b'], decisive: 2 }
  watched(store.check(busyApart))
  await turn()
  await sent()[0]?.replies(admits(1, 1))
  const riders = [watched(store.check(busyApart)), watched(store.check(busyApart))]
  await turn()
  const answered = await answerAsCluster(sent)
  t.strictSame(
    answered.filter(call => !call.startsWith('REFUND')),
    ['CHECK n:{a}2.log.x n:{a}2.log.x', 'CHECK n:{b}2.log.y n:{b}2.log.y'],
  )
  for (const rider of riders) t.match(await rider, { allowed: true })
})

// The end ----------------------------------------------------------------------------------------------------------------

t.test('a store that is about to close gives back what is out, and answers as before', async t => {
  const { store, sent } = await granted()
  const drained = store.drain()
  await turn()
  await drained
  t.match(sent(), [{ script: 'REFUND' }])
  watched(store.check(busy))
  await turn()
  t.equal(sent()[0]?.args[3], '1', 'a check, and nothing is taken ahead')
})

t.test('at the end refunds are sent, all else that waits is given up, and nothing is left', async t => {
  const { store, sent, listeners } = await granted()
  const denied = watched(store.check(keyed('denied')))
  await turn()
  await sent()[0]?.replies(denies(900))
  await denied
  const one = watched(store.check(check))
  store.close()
  await t.rejects(one, { name: 'StoreClosed' })
  t.match(sent(), [{ script: 'REFUND' }])
  t.equal(listeners.size, 0)
  t.equal(store.knownDenial(keyed('denied')), undefined)

  const starting = redis({ startTimeoutMs: 2000 }, { status: 'connecting' })
  starting.store.close()
  t.equal(time.waiting, 0)
  const missing = redis({ startTimeoutMs: 2000 }, { status: 'connecting' })
  await time.pass(2000)
  missing.store.close()
  missing.connection.status = 'ready'
  const last = watched(missing.store.check(check))
  await turn()
  await missing.sent()[0]?.replies(admits(1))
  t.match(await last, { allowed: true }, 'the first connection is not missed any more')

  const holding = redis()
  const lease = watched(holding.store.check(held))
  await turn()
  await holding.sent()[0]?.replies([...admits(1), 2, 44])
  await lease
  holding.store.close()
  t.equal(time.waiting, 0, 'no permit is renewed')
})
