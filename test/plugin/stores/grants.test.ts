/**
 * Quota taken ahead, decision by decision: when a call for a grant is sent and for how much, what is spent of it until when,
 * and what goes back. The clock is moved by hand, and Redis answers what the test says.
 */
import t from 'tap'
import type { Pending, TakeReply } from '../../../plugin/src/stores/redis/codec.js'
import type { Take } from '../../../plugin/src/stores/redis/prefetch.js'
import type { Answer, Check, Refund } from '../../../plugin/src/stores/store.js'
import type { PolicySpec } from '../../support/stores.js'
import { atTimeByHand } from '../../support/time-by-hand.js'

const { time, modules } = await atTimeByHand(async () => ({
  ...(await import('../../../plugin/src/stores/redis/prefetch.js')),
  ...(await import('../../support/stores.js')),
}))
const { Prefetch, checkOf } = modules

/** Of a check with a window of 100 s, whose slices last a second. */
const LIFE_MS = 1000
const TIMEOUT_MS = 500
const PLENTY: PolicySpec = { limit: 1_000_000, windowMs: 100_000 }
const PLENTY_LOG = checkOf([PLENTY]).policies[0]?.log as string

const checkFor = (policies: readonly PolicySpec[] = [PLENTY], rest: Partial<Check> = {}): Check => ({
  ...checkOf(policies, { precision: 0.01 }),
  prefetch: Number.POSITIVE_INFINITY,
  ...rest,
})

interface Given {
  readonly check: Check
  readonly refunds: readonly Refund[]
  /** Redis has answered, or has failed. */
  arrives(): Promise<void>
  fails(): Promise<void>
}

interface Granted {
  readonly admitted?: number
  readonly ahead?: number
  /** What counts by policy, all this included. */
  readonly used?: readonly number[]
  readonly resetMs?: number
  readonly retryMs?: number
  readonly blockedMs?: number
  readonly generation?: number
  /** By policy, where they differ. */
  readonly generations?: readonly number[]
  /** How long the call has taken. */
  readonly tookMs?: number
}

const turn = () => new Promise(resolve => setImmediate(resolve))

/** A replica; what it sends is answered when the test says so. */
function replica() {
  time.clearAll()
  /** `back`: what the last ones that are asked for again wait for. */
  const state = { replicas: 1, canSend: true, back: undefined as Promise<unknown> | undefined }
  const sent: Take[] = []
  const again: Pending[] = []
  const given: Given[] = []
  const prefetch = new Prefetch({
    timeoutMs: TIMEOUT_MS,
    replicas: () => state.replicas,
    send: take => {
      if (state.canSend) sent.push(take)
      return state.canSend
    },
    settle: (rider, answer) => {
      rider.settled = true
      rider.resolve(answer as never)
    },
    again: (riders, back) => {
      again.push(...riders)
      state.back = back
    },
    giveBack: (check, refunds) =>
      new Promise<void>((resolve, reject) => {
        const then = (act: () => void) => async () => {
          act()
          await turn()
        }
        given.push({ check, refunds, arrives: then(resolve), fails: then(() => reject(new Error('gone'))) })
      }),
    pending: (check, resolve, reject) => ({
      ...{ operation: 'check', check, key: `stored ${check.key}`, keys: check.keys, refunds: [], settled: false },
      ...{ since: time.now, deadline: time.now + TIMEOUT_MS, resolve: resolve as never, reject },
    }),
  })
  /** Requests of a key, of which none is answered here and none waits for a grant. Returns whether that is so. */
  const askItself = (check: Check, times = 1): boolean => {
    let found = true
    for (let count = 0; count < times; count++) if (prefetch.check(check) !== undefined) found = false
    return found
  }
  /** Requests while nothing can be sent: they are only counted. */
  const count = (check: Check, times: number) => {
    state.canSend = false
    askItself(check, times)
    state.canSend = true
  }
  const arrive = (take: Take, of: Granted = {}): void => {
    const { admitted = take.waiting, ahead = 0, resetMs = 5000, retryMs = 0, generation = 1, tookMs = 0 } = of
    const { policies } = take.check
    const used = of.used ?? policies.map(({ cost }) => cost * (admitted + ahead))
    const reply: TakeReply = {
      admitted,
      ahead,
      policies: policies.map((_policy, index) => ({
        ...{ used: used[index] as number, resetMs, blockedMs: of.blockedMs, retryMs },
        admission: { generation: of.generations?.[index] ?? generation, time: 77 },
      })),
    }
    prefetch.granted(take, reply, time.now - tookMs)
  }
  /** Sends the newest call with the requests that wait for it, as `encodeChecks` does. */
  const depart = (): Take => {
    const take = sent.at(-1) as Take
    take.waiting = take.riders.length
    return take
  }
  /** Whether anything is to come back, or has come back, before a check is denied that was asked at that time. */
  const callsBack = (check: Check, asked = time.now): boolean => prefetch.callBack(check, asked) !== undefined
  /** Two requests in a row, of which the second is answered with a grant. */
  const warm = async (check: Check, of: Granted = {}) => {
    askItself(check)
    const waits = prefetch.check(check)
    arrive(depart(), { ahead: 6, ...of })
    return waits
  }
  return { prefetch, state, sent, again, given, askItself, count, arrive, depart, callsBack, warm }
}

/** Asks whether what is called back has come. */
function whether(back: Promise<unknown> | undefined): () => Promise<boolean> {
  let isBack = false
  void back?.then(() => {
    isBack = true
  })
  return async () => {
    await turn()
    return isBack
  }
}

/** How much the next request has taken ahead: undefined where it is asked for by itself. */
function wantedNext({ prefetch, sent }: ReturnType<typeof replica>, check: Check): number | undefined {
  const before = sent.length
  const answer = prefetch.check(check)
  return answer instanceof Promise && sent.length > before ? sent.at(-1)?.wanted : undefined
}

const allowed = (policies: readonly object[]) => ({ allowed: true, policies })

// How much is taken ahead ----------------------------------------------------------------------------------------------

t.test('the second request in a row of a key takes quota ahead, and waits for it', async t => {
  const one = replica()
  const check = checkFor()
  t.equal(one.prefetch.check(check), undefined, 'of a new key nothing is known')
  const waits = one.prefetch.check(check)
  t.ok(waits instanceof Promise)
  const [take] = one.sent as [Take]
  const { operation, key, keys, refunds, since, deadline, riders, wanted, lifeMs, share, recalls, settled } = take
  t.strictSame(
    { operation, key, keys, refunds, since, deadline, wanted, lifeMs, share, recalls, settled },
    {
      ...{ operation: 'take', key: 'stored client', keys: undefined, refunds: [], since: time.now, settled: false },
      ...{ deadline: time.now + 500, wanted: 6, lifeMs: LIFE_MS, share: 4, recalls: 0 },
    },
  )
  t.equal(take.check, check)
  t.equal(take.waiting, 0, 'until it is sent')
  t.equal(riders.length, 1)
  take.resolve()
  t.equal(one.sent.length, 1)
})

for (const [afterMs, wanted] of [
  [0, 6],
  [50, 6],
  [250, 5],
  [377, 3],
  [378, undefined],
  [2000, undefined],
] as const) {
  t.test(`a second request after ${afterMs} ms takes ${wanted ?? 'nothing'} ahead`, async t => {
    const one = replica()
    const check = checkFor()
    one.askItself(check)
    time.advance(afterMs)
    t.equal(wantedNext(one, check), wanted)
  })
}

t.test('no more is taken ahead than the limiter says, and no single request', async t => {
  for (const [prefetch, wanted] of [
    [1, undefined],
    [2, 2],
    [5, 5],
    [7, 6],
  ] as const) {
    const one = replica()
    const check = checkFor([PLENTY], { prefetch })
    one.askItself(check)
    t.equal(wantedNext(one, check), wanted)
  }
})

/** A replica whose calls take 100 ms by its own account: it was 1 ms, of which an eighth is replaced. */
async function slow() {
  const one = replica()
  await one.warm(checkFor(), { ahead: 0, tookMs: 793 })
  return one
}

t.test('at most twice as much is taken as has come, and as comes while two calls are on their way', async t => {
  const fast = replica()
  const check = checkFor()
  fast.count(check, 19)
  t.equal(wantedNext(fast, check), 2 * (20 + 2), '0.4 a millisecond for 4 ms')
  for (const [afterMs, wanted] of [
    [0, 2 * (20 + 81)],
    [50, 2 * (20 + 81)],
    [51, 2 * (20 + 80)],
    [100, 2 * (20 + 41)],
    [1000, 15],
  ] as const) {
    const one = await slow()
    const check = checkFor()
    one.count(check, 19)
    time.advance(afterMs)
    t.equal(wantedNext(one, check), wanted, `20 in ${afterMs} ms`)
  }
})

t.test('a rate is measured over two lives, and of a burst after it nine requests say something', async t => {
  for (const [afterMs, itself, wanted] of [
    [2 * LIFE_MS, 9, 3],
    [2 * LIFE_MS + 1, 9, 20],
  ] as const) {
    const one = replica()
    const check = checkFor()
    one.askItself(check)
    time.advance(afterMs)
    t.equal(one.askItself(check, itself), true)
    t.equal(wantedNext(one, check), wanted, `after ${afterMs} ms`)
  }
})

t.test('a rate is measured over half a life where more than 50 requests have come', async t => {
  for (const [afterMs, requests, wanted] of [
    [501, 50, 2 * (1 + 1)],
    [500, 50, 93],
    [501, 49, 91],
  ] as const) {
    const one = replica()
    const check = checkFor()
    one.count(check, requests)
    time.advance(afterMs)
    one.count(check, 1)
    t.equal(wantedNext(one, check), wanted, `${requests} and one in ${afterMs} ms`)
  }
})

/** A replica that has seen 51 requests of a check in 501 ms, and counts from there on. */
async function measured() {
  const one = await slow()
  const check = checkFor()
  one.count(check, 50)
  time.advance(501)
  one.count(check, 1)
  return { one, check }
}

t.test('the next rate is the mean of the last one and of what has come since', async t => {
  const { one, check } = await measured()
  time.advance(2000)
  one.count(check, 39)
  time.advance(1)
  one.count(check, 1)
  t.equal(wantedNext(one, check), 2 * (1 + 13), '(51 ÷ 501 + 40 ÷ 2001) ÷ 2 for 202 ms')
})

t.test('a rate that is older than four lives is forgotten', async t => {
  for (const [afterMs, wanted] of [
    [4 * LIFE_MS, 2 * (1 + 11)],
    [4 * LIFE_MS + 1, undefined],
  ] as const) {
    const { one, check } = await measured()
    time.advance(afterMs)
    one.count(check, 1)
    t.equal(wantedNext(one, check), wanted, `after ${afterMs} ms`)
  }
})

t.test('a rate that has more than doubled is followed at once', async t => {
  for (const [more, wanted] of [
    [49, 91],
    [50, 2 * (51 + 42)],
  ] as const) {
    const { one, check } = await measured()
    one.count(check, more)
    t.equal(wantedNext(one, check), wanted, `${more} more`)
  }

  // 64 in 512 ms are 0.125 a millisecond, and 32 in a quarter of a life are twice that.
  const check = checkFor([{ limit: 1_000_000, windowMs: 51_200 }])
  const one = replica()
  one.count(check, 63)
  time.advance(512)
  one.count(check, 32)
  t.equal(wantedNext(one, check), 56, 'it has doubled, and not more')
})

t.test('where a request is asked for by itself, those after it take ahead as soon as a call can be sent', async t => {
  const one = replica()
  const check = checkFor()
  one.state.canSend = false
  t.equal(one.askItself(check, 5), true)
  one.state.canSend = true
  t.equal(wantedNext(one, check), 2 * (6 + 1))
})

t.test('one in four of the room for each replica is asked for at most', async t => {
  for (const [replicas, share] of [
    [0, 4],
    [1, 4],
    [3, 12],
  ] as const) {
    const one = replica()
    one.state.replicas = replicas
    await one.warm(checkFor())
    t.equal(one.sent[0]?.share, share)
  }
})

for (const [what, check] of Object.entries({
  'of a check with a penalty': checkFor([PLENTY], { penalty: 'count' }),
  'of a check with permits': checkFor([PLENTY], { concurrency: { name: 'c', max: 5, ttlMs: 5, log: 'c' } }),
  'where entries do not share slices': checkFor([PLENTY, { ...PLENTY, limit: 100 }]),
  'where a request is free': checkFor([{ ...PLENTY, cost: 0 }, PLENTY]),
  'where slices are shorter than 5 ms': checkFor([PLENTY, { ...PLENTY, windowMs: 499 }]),
})) {
  t.test(`nothing is taken ahead ${what}`, async t => {
    const one = replica()
    t.equal(one.askItself(check, 20), true)
    t.strictSame(one.sent, [])
  })
}

t.test('a grant lives as long as the shortest slice, 5 ms at least', async t => {
  for (const [policies, lifeMs] of [
    [[PLENTY, { ...PLENTY, windowMs: 500 }], 5],
    [[{ ...PLENTY, windowMs: 7000 }, PLENTY], 70],
    [[{ ...PLENTY, windowMs: 200_000 }], 1000],
  ] as const) {
    const one = replica()
    await one.warm(checkFor(policies))
    t.equal(one.sent[0]?.lifeMs, lifeMs)
  }
})

t.test('of 5000 keys at least, and of 10,000 at most, it is known that they have been seen', async t => {
  for (const [others, isKnown] of [
    [4999, true],
    [5000, true],
    [9999, true],
    [10_000, false],
  ] as const) {
    const one = replica()
    const check = checkFor()
    one.askItself(check)
    for (let other = 0; other < others; other++) one.askItself({ ...check, key: `${other}` })
    t.equal(wantedNext(one, check), isKnown ? 6 : undefined, `after ${others} others`)
  }
})

t.test('a key that is seen again is kept, and with it what is known of it', async t => {
  const one = replica()
  const check = checkFor()
  one.askItself(check)
  for (let other = 0; other < 5000; other++) one.askItself({ ...check, key: `${other}` })
  one.count(check, 1)
  for (let other = 5001; other < 10_000; other++) one.askItself({ ...check, key: `${other}` })
  t.equal(wantedNext(one, check), 2 * (3 + 1))
})

t.test('lists of keys are told apart', async t => {
  const one = replica()
  const check = checkFor([PLENTY, PLENTY])
  one.askItself({ ...check, keys: ['a', 'bc'] })
  t.equal(one.askItself({ ...check, keys: ['ab', 'c'] }), true)
  t.equal(one.askItself({ ...check, key: '1:a2:b', keys: undefined }), true)
  t.equal(wantedNext(one, { ...check, keys: ['a', 'bc'] }), 6)
  t.strictSame(one.sent[0]?.keys, ['a', 'bc'])
})

// What is spent ----------------------------------------------------------------------------------------------------------

const admission = { generation: 1, time: 77 }

t.test('requests are answered from a grant: what they used counts, and what is left of it does not', async t => {
  const one = replica()
  const check = checkFor([PLENTY, { ...PLENTY, name: 'q', cost: 3 }])
  const first = await one.warm(check, { used: [107, 221], resetMs: 5000 })
  t.strictSame(
    first,
    allowed([
      { used: 101, resetMs: 5000, retryMs: 0, denials: 0, admission, prefetched: 6 },
      { used: 203, resetMs: 5000, retryMs: 0, denials: 0, admission, prefetched: 18 },
    ]),
  )
  time.advance(10)
  for (let spent = 1; spent <= 6; spent++) {
    t.strictSame(
      one.prefetch.check(check),
      allowed([
        { used: 101 + spent, resetMs: 4990, retryMs: 0, denials: 0, admission },
        { used: 203 + 3 * spent, resetMs: 4990, retryMs: 0, denials: 0, admission },
      ]),
    )
  }
  t.ok(one.prefetch.check(check) instanceof Promise, 'nothing is left')
})

t.test('a time until more quota arrives is a millisecond at least', async t => {
  const one = replica()
  const check = checkFor()
  await one.warm(check, { resetMs: 20 })
  for (const [passedMs, resetMs] of [
    [5, 15],
    [14, 1],
    [100, 1],
  ] as const) {
    time.advance(passedMs)
    t.match(one.prefetch.check(check), { policies: [{ resetMs }] })
  }
})

t.test('a grant is spent up to a hundredth of its life and a tenth of a millisecond before its end', async t => {
  for (const [tookMs, passedMs, isSpent] of [
    [0, 989.8, true],
    [0, 989.9, false],
    [40, 949.8, true],
    [40, 949.9, false],
  ] as const) {
    const one = replica()
    const check = checkFor()
    await one.warm(check, { tookMs })
    time.advance(passedMs)
    const answer = one.prefetch.check(check)
    t.equal(answer !== undefined && !(answer instanceof Promise), isSpent, `${passedMs} ms`)
    t.equal(one.given.length, isSpent ? 0 : 1, 'else what is left goes back')
  }
})

t.test('an answer that comes when its grant is over is good for those that waited, and the rest goes back', async t => {
  for (const [tookMs, isOver] of [
    [989.8, false],
    [989.9, true],
  ] as const) {
    const one = replica()
    const check = checkFor()
    one.askItself(check)
    const first = one.prefetch.check(check) as Promise<Answer>
    const take = one.depart()
    const second = one.prefetch.check(check)
    t.ok(second instanceof Promise, 'it waits for the same call')
    t.equal(one.sent.length, 1)
    one.arrive(take, { admitted: 1, ahead: 6, tookMs })
    t.match(await first, { allowed: true, policies: [{ used: 1, prefetched: 6 }] })
    if (isOver) {
      t.strictSame(one.again, [take.riders[1]], 'it came after the call was sent')
      t.match(one.given, [{ refunds: [{ cost: 6 }] }])
    } else {
      t.match(await second, { allowed: true, policies: [{ used: 2, prefetched: 5 }] })
      t.strictSame([one.again, one.given], [[], []])
      t.match(one.prefetch.check(check), { policies: [{ used: 3 }] })
    }
  }
})

t.test('those that gave up meanwhile have no part in a grant', async t => {
  const one = replica()
  const check = checkFor()
  one.askItself(check)
  const all = [one.prefetch.check(check), one.prefetch.check(check)]
  const take = one.depart()
  all.push(one.prefetch.check(check), one.prefetch.check(check))
  for (const index of [0, 2]) (take.riders[index] as Pending).settled = true
  one.arrive(take, { admitted: 2, ahead: 6 })
  t.match(await all[1], { policies: [{ used: 1, prefetched: 7 }] })
  t.match(await all[3], { policies: [{ used: 2, prefetched: 6 }] })
  t.match(one.prefetch.check(check), { policies: [{ used: 3 }] })
  t.strictSame(one.again, [])
})

t.test('those for which a grant does not suffice are asked for by themselves', async t => {
  const one = replica()
  const check = checkFor()
  one.askItself(check)
  const first = one.prefetch.check(check)
  const take = one.depart()
  const others = Array.from({ length: 4 }, () => one.prefetch.check(check))
  one.arrive(take, { ahead: 2 })
  await Promise.all([first, others[0], others[1]])
  t.strictSame(one.again, take.riders.slice(3))
  t.equal(one.state.back, undefined, 'at once')
  t.strictSame(one.given, [])
  t.ok(one.prefetch.check(check) instanceof Promise, 'nothing is left of it')
})

t.test(
  'what was admitted for one that gave up goes back where nothing was taken ahead: it is not dated ahead',
  async t => {
    const one = replica()
    const check = checkFor()
    one.askItself(check)
    const all = [one.prefetch.check(check), one.prefetch.check(check)]
    const take = one.depart()
    all.push(one.prefetch.check(check))
    ;(take.riders[0] as Pending).settled = true
    one.arrive(take, { admitted: 2, ahead: 0 })
    t.match(await all[1], { policies: [{ used: 1, prefetched: 1 }] })
    t.strictSame(one.again, [take.riders[2]])
    t.match(one.given, [{ refunds: [{ cost: 1 }] }])
    t.equal(one.askItself(check), true)
  },
)

t.test('nothing is called back for requests that have all given up', async t => {
  const one = replica()
  await one.warm(checkFor([{ ...PLENTY, cost: 2 }]))
  const check = checkFor()
  one.askItself(check)
  one.prefetch.check(check)
  const take = one.depart()
  ;(take.riders[0] as Pending).settled = true
  one.arrive(take, { admitted: 0, ahead: 0, retryMs: 700 })
  t.strictSame(one.given, [])
})

t.test('while there is nothing to take ahead, nobody waits for a grant; a check that finds room ends that', async t => {
  const one = replica()
  one.state.replicas = 2
  const check = checkFor([
    { ...PLENTY, limit: 1000 },
    { ...PLENTY, limit: 1000, cost: 2 },
  ])
  await one.warm(check, { ahead: 0 })
  t.equal(one.askItself(check, 20), true)
  const seen = (...used: readonly number[]) =>
    one.prefetch.seen(check, { allowed: true, policies: used.map(used => ({ used })) } as unknown as Answer)
  for (const used of [[985, 0], [0, 969], [0]]) {
    seen(...used)
    t.equal(one.askItself(check), true, `${used} are used`)
  }
  // Room for 16 requests, of which two replicas have a quarter each.
  seen(984, 968)
  t.ok(wantedNext(one, check) !== undefined)
  seen(1000, 0)
  one.arrive(one.depart(), { ahead: 6 })
  t.match(one.prefetch.check(check), { allowed: true }, 'what was granted is spent')
})

t.test('a check of a key that is new here says nothing', async t => {
  const one = replica()
  const check = checkFor()
  one.prefetch.seen(check, { allowed: true, policies: [{ used: 0 } as never] })
  t.equal(one.askItself(check), true)
})

t.test('who comes while a call is on its way that will grant nothing asks for itself', async t => {
  const one = replica()
  const check = checkFor()
  await one.warm(check, { ahead: 0 })
  one.prefetch.seen(check, { allowed: true, policies: [{ used: 0 } as never] })
  const waits = one.prefetch.check(check)
  t.ok(waits instanceof Promise)
  const earlier = one.sent[0] as Take
  // Its answer comes a second time, as if another call had found no room meanwhile.
  one.arrive(earlier, { admitted: 0, ahead: 0 })
  t.equal(one.askItself(check), true)
  one.arrive(one.depart(), { ahead: 6 })
  await waits
})

t.test('a call that failed keeps nobody waiting', async t => {
  const one = replica()
  const check = checkFor()
  one.askItself(check)
  one.prefetch.check(check)
  one.depart().reject()
  t.ok(one.prefetch.check(check) instanceof Promise)
  const [first, second] = one.sent as [Take, Take]
  t.ok(second, 'the next one asks anew')
  first.reject()
  t.ok(one.prefetch.check(check) instanceof Promise)
  t.equal(one.sent.length, 2, 'the end of the first one says nothing about the second')
})

// When the next one is asked for -----------------------------------------------------------------------------------------

t.test(
  'the next grant is asked for when one request is left, two milliseconds later and with nobody waiting',
  async t => {
    const one = replica()
    const check = checkFor()
    await one.warm(check)
    for (let left = 5; left >= 2; left--) one.prefetch.check(check)
    time.advance(5)
    t.equal(one.sent.length, 1)
    one.prefetch.check(check)
    time.advance(1.9)
    t.equal(one.sent.length, 1)
    time.advance(0.1)
    t.equal(one.sent.length, 2)
    const take = one.depart()
    t.match(take, { riders: [], wanted: 2 * (7 + 1), key: 'stored client' })
    t.match(one.prefetch.check(check), { policies: [{ used: 7 }] }, 'and the last one is spent')
    t.equal(time.waiting, 0)
    t.equal(one.callsBack(check), true, 'it is on its way')
    time.advance(5)
    t.equal(one.sent.length, 2)
    const waits = one.prefetch.check(check)
    one.arrive(take, { ahead: 16, used: [23] })
    t.match(await waits, { policies: [{ used: 8, prefetched: 15 }] })
  },
)

t.test('the more requests come while calls are on their way, the earlier the next grant is asked for', async t => {
  const one = await slow()
  const check = checkFor()
  await one.warm(check)
  // 0.04 a millisecond come, and nine in the 2 × 100 + 2 ms.
  const sent = one.sent.length
  for (let request = 0; request < 6; request++) one.prefetch.check(check)
  time.advance(2)
  t.equal(one.sent.length, sent + 1)
})

t.test('the next grant is asked for before the end of the last one, whatever is left of it', async t => {
  for (const [passedMs, isAsked] of [
    [986.1, false],
    [986.2, true],
  ] as const) {
    const one = replica()
    const check = checkFor()
    await one.warm(check, { ahead: 50 })
    for (let request = 0; request < 10; request++) one.prefetch.check(check)
    time.advance(passedMs)
    one.prefetch.check(check)
    time.advance(2)
    t.equal(one.sent.length, isAsked ? 2 : 1, `${passedMs} ms`)
  }
})

t.test('the next grant is not asked for where requests have become rare', async t => {
  const one = replica()
  const check = checkFor()
  await one.warm(check, { ahead: 3 })
  time.advance(986.2)
  one.prefetch.check(check)
  time.advance(2)
  t.equal(one.sent.length, 1)
})

t.test('two requests are worth a grant that nobody waits for', async t => {
  const one = replica()
  const check = checkFor([PLENTY], { prefetch: 2 })
  await one.warm(check, { ahead: 2 })
  one.prefetch.check(check)
  time.advance(2)
  t.match(one.sent[1], { wanted: 2, riders: [] })
})

t.test('grants of several keys are asked for together', async t => {
  const one = replica()
  const [a, b] = [checkFor([PLENTY], { key: 'a' }), checkFor([PLENTY], { key: 'b' })]
  for (const check of [a, b]) await one.warm(check)
  for (let left = 5; left >= 1; left--) one.prefetch.check(a)
  time.advance(1.5)
  for (let left = 5; left >= 1; left--) one.prefetch.check(b)
  t.equal(time.waiting, 3, 'the ends of two grants, and one time to ask for the next ones')
  time.advance(0.5)
  t.strictSame(
    one.sent.slice(2).map(({ key }) => key),
    ['stored a', 'stored b'],
  )
})

t.test('the next grant is not asked for twice', async t => {
  const one = replica()
  const check = checkFor()
  await one.warm(check)
  for (let left = 5; left >= 0; left--) one.prefetch.check(check)
  const waits = one.prefetch.check(check)
  t.ok(waits instanceof Promise, 'nothing was left any more')
  t.equal(one.sent.length, 2)
  time.advance(2)
  t.equal(one.sent.length, 2)
  one.arrive(one.depart(), { ahead: 14 })
  for (let left = 13; left >= 1; left--) one.prefetch.check(check)
  const next = one.sent.length
  time.advance(2)
  t.equal(one.sent.length, next + 1)
  // The next one comes while some of the last one is left: that is spent first.
  one.arrive(one.depart(), { ahead: 20, used: [100] })
  t.match(one.prefetch.check(check), { policies: [{ used: 15 }] })
  t.equal(one.prefetch.keysOut, 1)
  t.match(one.prefetch.check(check), { policies: [{ used: 81 }] })
  time.advance(2)
  t.equal(one.sent.length, next + 1)
})

t.test('the next grant is not asked for where there was nothing to take ahead meanwhile', async t => {
  const one = replica()
  const check = checkFor()
  await one.warm(check)
  for (let left = 5; left >= 0; left--) one.prefetch.check(check)
  const waits = one.prefetch.check(check)
  one.arrive(one.depart(), { ahead: 0 })
  await waits
  time.advance(2)
  t.equal(one.sent.length, 2)
})

t.test('while there are two grants no third one is asked for', async t => {
  const one = replica()
  const check = checkFor()
  await one.warm(check)
  for (let left = 5; left >= 2; left--) one.prefetch.check(check)
  one.prefetch.check(check)
  time.advance(2)
  one.arrive(one.depart(), { ahead: 2 })
  time.advance(5)
  // One is left of the first, and then of the second.
  one.prefetch.check(check)
  time.advance(2)
  t.equal(one.sent.length, 2)
  one.prefetch.check(check)
  time.advance(2)
  t.equal(one.sent.length, 3)
})

t.test('while the next grant is at hand none is asked for, however little is left of the first', async t => {
  const one = await slow()
  const check = checkFor()
  await one.warm(check)
  const sent = one.sent.length
  one.prefetch.check(check)
  time.advance(2)
  t.equal(one.sent.length, sent + 1, 'nine come while two calls are on their way')
  one.arrive(one.depart(), { ahead: 20, used: [100] })
  one.prefetch.check(check)
  t.equal(time.waiting, 2, 'the ends of two grants')
  time.advance(2)
  t.equal(one.sent.length, sent + 1)
})

// What goes back ---------------------------------------------------------------------------------------------------------

t.test(
  'what is left goes back at a whole multiple of a tenth of the life, 10 ms at most, with its admission',
  async t => {
    for (const [windowMs, atMs, tookMs] of [
      [100_000, 990, 0],
      [5000, 50, 0],
      [5000, 45, 5],
      [5000, 45, 9],
      [4000, 40, 0],
      [4000, 36, 4],
      [50_000, 500, 0],
      [50_000, 490, 6],
    ] as const) {
      // Times are whole hundreds here, and so multiples of each of these.
      time.advance(100_000 - (time.now % 100_000))
      const one = replica()
      const check = checkFor([
        { ...PLENTY, windowMs },
        { ...PLENTY, name: 'q', windowMs, cost: 3 },
      ])
      await one.warm(check, { tookMs })
      one.prefetch.check(check)
      time.advance(atMs - 0.01)
      t.strictSame(one.given, [], `not after ${atMs - 0.01} ms`)
      time.advance(0.01)
      const [p, q] = check.policies
      t.equal(one.given[0]?.check, check)
      t.strictSame(one.given[0]?.refunds, [
        { policy: p, cost: 5, admission, isAhead: true, key: 'client' },
        { policy: q, cost: 15, admission, isAhead: true, key: 'client' },
      ])
      t.equal(one.given.length, 1)
      t.equal(time.waiting, 0)
      t.equal(one.askItself(check), true)
    }
  },
)

t.test('nothing goes back of a grant that was spent', async t => {
  const one = replica()
  const check = checkFor()
  await one.warm(check)
  for (let left = 5; left >= 0; left--) one.prefetch.check(check)
  t.equal(one.prefetch.keysOut, 0)
  time.advance(2000)
  t.strictSame(one.given, [])
  t.equal(time.waiting, 0)
  t.equal(one.callsBack(check), true, 'the next one is on its way')
  one.arrive(one.depart(), { ahead: 0 })
  t.equal(one.callsBack(check), false)
  t.equal(one.prefetch.keysOut, 0)
})

t.test('what is out is called back before a check of the same log and key is denied, until Redis has it', async t => {
  for (const how of ['arrives', 'fails'] as const) {
    const one = replica()
    const check = checkFor()
    t.equal(one.callsBack(check), false, 'nothing is out')
    await one.warm(check)
    const anotherLimiter = checkFor(
      [
        { ...PLENTY, name: 'its own' },
        { ...PLENTY, cost: 40 },
      ],
      { prefetch: undefined },
    )
    t.equal(one.callsBack(checkFor([PLENTY], { key: 'another' })), false)
    t.equal(one.callsBack(checkFor([{ ...PLENTY, name: 'another' }])), false)
    t.strictSame(one.given, [])
    t.equal(one.callsBack(anotherLimiter), true)
    t.strictSame(one.given.length, 1)
    t.match(one.given, [{ refunds: [{ cost: 6 }] }])
    t.equal(time.waiting, 0, 'its end is no matter any more')
    t.equal(one.callsBack(check), true, 'it is on its way')
    t.equal(one.given.length, 1)
    t.equal(one.prefetch.keysOut, 1)
    await one.given[0]?.[how]()
    t.equal(one.prefetch.keysOut, 0)
    t.equal(one.callsBack(check), false)
    t.equal(one.prefetch.without(check, { allowed: true, policies: [] }).policies.length, 0)
  }
})

t.test('an answer that is on its way may have units for a check of the same log and key', async t => {
  const one = replica()
  const check = checkFor([PLENTY, { ...PLENTY, name: 'q' }])
  one.askItself(check)
  t.equal(one.callsBack(check), false)
  const waits = one.prefetch.check(check)
  t.equal(one.callsBack(checkFor([{ ...PLENTY, cost: 40 }])), true)
  t.equal(one.callsBack(checkFor([PLENTY], { key: 'another' })), false)
  t.equal(one.callsBack(checkFor([{ ...PLENTY, name: 'another' }])), false)
  t.equal(one.prefetch.keysOut, 1)
  one.arrive(one.depart(), { ahead: 0 })
  await waits
  t.equal(one.callsBack(check), false)
  one.prefetch.seen(check, { allowed: true, policies: [{ used: 0 } as never, { used: 0 } as never] })
  one.state.canSend = false
  t.equal(one.askItself(check), true)
  t.equal(one.callsBack(check), false, 'nothing was sent')
  t.strictSame([one.prefetch.keysOut, one.given], [0, []])
})

t.test('what is called back is back once all of it has arrived, and all that was on its way before', async t => {
  const one = replica()
  const check = checkFor()
  await one.warm(check)
  for (let left = 5; left >= 1; left--) one.prefetch.check(check)
  time.advance(2)
  const take = one.depart()
  one.callsBack(check)
  const isBack = whether(one.prefetch.callBack(check, time.now))
  await one.given[0]?.fails()
  t.equal(await isBack(), false, 'an answer may bring more')
  one.arrive(take, { admitted: 0, ahead: 9 })
  t.equal(await isBack(), true)

  const [first, second] = [one.prefetch.callBack(check, time.now), one.prefetch.callBack(check, time.now)].map(whether)
  t.equal(one.given.length, 2)
  const next = one.prefetch.check(check)
  one.arrive(one.depart(), { ahead: 6 })
  await next
  const third = whether(one.prefetch.callBack(check, time.now))
  await one.given[1]?.arrives()
  t.strictSame([await first?.(), await second?.()], [true, true], 'what went back later is not waited for')
  t.equal(await third(), false)
  await one.given[2]?.arrives()
  t.equal(await third(), true)
})

t.test('what came back while a check was on its way may have come after it', async t => {
  for (const how of ['arrives', 'fails'] as const) {
    const one = replica()
    const check = checkFor([PLENTY, { ...PLENTY, name: 'q' }], { keys: ['a', 'b'] })
    const before = time.now
    await one.warm(check)
    time.advance(10)
    one.prefetch.callBack(check, time.now)
    time.advance(10)
    await one.given[0]?.[how]()
    t.equal(one.prefetch.keysOut, 0)
    for (const key of ['a', 'b']) {
      const other = checkFor([PLENTY], { key })
      t.equal(one.callsBack(other, before), true)
      t.equal(one.callsBack(other, time.now - 1), true)
      t.equal(one.callsBack(other, time.now), false, 'it was asked when all was back')
    }
    t.equal(one.callsBack(checkFor([PLENTY], { key: 'c' }), before), false)
    const isBack = whether(one.prefetch.callBack(checkFor([PLENTY], { key: 'b' }), before))
    t.equal(await isBack(), true, 'there is nothing to wait for')
  }
})

t.test('when something came back is known for as long as a check may be on its way', async t => {
  const one = replica()
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map(key => checkFor([PLENTY], { key })) as [Check, Check, Check, Check]
  const comesBack = async (check: Check) => {
    await one.warm(check)
    one.prefetch.callBack(check, time.now)
    await one.given.pop()?.arrives()
  }
  const before = time.now - 1
  await comesBack(a)
  time.advance(200)
  await comesBack(b)
  time.advance(200)
  await comesBack(a)
  time.advance(299)
  await comesBack(c)
  t.equal(one.callsBack(b, before), true)
  time.advance(1)
  await comesBack(d)
  t.equal(one.callsBack(b, before), false)
  t.equal(one.callsBack(a, before), true, 'it came back once more')
})

t.test(
  'those that a grant did not reach are asked for at once where none was denied, and nothing is called back',
  async t => {
    const one = replica()
    const check = checkFor()
    await one.warm(checkFor([{ ...PLENTY, cost: 2 }]))
    one.askItself(check)
    one.prefetch.check(check)
    const take = one.depart()
    one.prefetch.check(check)
    one.arrive(take, { admitted: 1, ahead: 0 })
    t.strictSame(one.again, [take.riders[1]])
    t.strictSame(one.given, [])
  },
)

t.test('those that waited are asked for again where units came back while their call was on its way', async t => {
  for (const tookMs of [10, 4]) {
    const one = replica()
    const check = checkFor()
    await one.warm(checkFor([{ ...PLENTY, cost: 2 }]))
    one.askItself(check)
    const waits = one.prefetch.check(check)
    const take = one.depart()
    time.advance(5)
    one.prefetch.callBack(check, time.now)
    await one.given[0]?.arrives()
    time.advance(5)
    one.arrive(take, { admitted: 0, ahead: 0, retryMs: 700, tookMs })
    if (tookMs === 10) t.strictSame(one.again, take.riders)
    else t.match(await waits, { allowed: false }, 'it was sent when all was back')
  }
})

t.test('two grants of a key are called back, and one that another limiter holds of the same log', async t => {
  const one = replica()
  const [a, b] = [
    checkFor(),
    checkFor([
      { ...PLENTY, name: 'other' },
      { ...PLENTY, cost: 2 },
    ]),
  ]
  await one.warm(a)
  for (let left = 5; left >= 1; left--) one.prefetch.check(a)
  time.advance(2)
  one.arrive(one.depart(), { ahead: 16 })
  await one.warm(b)
  t.equal(one.callsBack(a), true)
  t.strictSame(
    one.given.map(({ refunds }) => refunds.map(({ cost }) => cost)),
    [[1], [16], [6, 12]],
  )
  await one.given[0]?.arrives()
  await one.given[1]?.arrives()
  t.equal(one.callsBack(a), true)
  t.equal(one.prefetch.keysOut, 1)
  await one.given[2]?.arrives()
  t.equal(one.callsBack(a), false)
})

t.test('of policies that have keys of their own each counts for its key', async t => {
  const one = replica()
  const check = checkFor([PLENTY, { ...PLENTY, name: 'q', cost: 3 }, { ...PLENTY, name: 'r' }], {
    keys: ['a', 'b', 'a'],
  })
  await one.warm(check)
  const of = (key: string, name: string) => checkFor([{ ...PLENTY, name }], { key })
  const without = (check: Check) => one.prefetch.without(check, { allowed: true, policies: [{ used: 100 } as never] })
  t.match(without(of('a', 'p')), { policies: [{ used: 94, prefetched: 6 }] })
  t.match(without(of('b', 'q')), { policies: [{ used: 82, prefetched: 18 }] })
  t.match(without(of('b', 'p')), { policies: [{ used: 100, prefetched: undefined }] })
  for (const [key, name] of [
    ['b', 'p'],
    ['a', 'q'],
    ['client', 'p'],
  ] as const) {
    t.equal(one.callsBack(of(key, name)), false)
  }
  t.equal(one.callsBack(of('b', 'q')), true)
  t.strictSame(
    one.given.map(({ refunds }) => refunds.map(({ cost, key }) => [key, cost])),
    [
      [
        ['a', 6],
        ['b', 18],
        ['a', 6],
      ],
    ],
  )
  t.equal(one.callsBack(of('a', 'p')), true, 'it goes back to all of them')
  await one.given[0]?.arrives()
  for (const key of ['a', 'b']) t.equal(one.callsBack(checkFor([PLENTY], { key })), false)
  t.equal(one.prefetch.keysOut, 0)
})

t.test(
  'what Redis says of a log later, and what it gives back, is told by what is answered ahead from then on',
  async t => {
    const one = replica()
    const check = checkFor([PLENTY, { ...PLENTY, name: 'q', cost: 3 }])
    const other = checkFor([{ ...PLENTY, name: 'other' }, PLENTY])
    const usedNext = (of: Check = check) => (one.prefetch.check(of) as Answer).policies.map(({ used }) => used)
    const answerOf = (...used: readonly number[]): Answer => ({
      allowed: true,
      policies: used.map(used => ({ used, resetMs: 9, retryMs: 0, denials: 0 })),
    })
    await one.warm(check, { used: [107, 221] })
    t.strictSame(usedNext(), [102, 206])
    for (let left = 4; left >= 1; left--) usedNext()
    time.advance(2)
    one.arrive(one.depart(), { ahead: 16, used: [123, 269] })
    await one.warm(other, { used: [7, 130] })

    const [p, q] = [checkFor(), checkFor([{ ...PLENTY, name: 'q' }])]
    t.match(one.prefetch.without(p, answerOf(1000)), { policies: [{ used: 1000 - 1 - 16 - 6 }] })
    t.strictSame(usedNext(), [978, 221], 'the last of the first grant: of the other log nothing was said')
    t.strictSame(usedNext(), [979, 224], 'the next grant goes on from there')
    t.strictSame(usedNext(other), [2, 978], 'and each limiter by itself')
    one.prefetch.without(q, answerOf(2000))
    t.strictSame(usedNext(), [980, 2000 - 3 * 15 + 3])

    one.prefetch.gaveBack(PLENTY_LOG, 'client', 100)
    t.strictSame(usedNext(), [881, 1961])
    t.strictSame(usedNext(other), [3, 879])
    one.prefetch.gaveBack(PLENTY_LOG, 'another', 100)
    one.prefetch.gaveBack('none', 'client', 100)
    t.strictSame(usedNext(), [882, 1964])
    one.prefetch.gaveBack(PLENTY_LOG, 'client', 5000)
    t.strictSame(usedNext(), [1, 1967], 'never less than none')
  },
)

t.test('of two grants of a key the second goes on where the first ends, whatever a request costs', async t => {
  const one = replica()
  const check = checkFor([{ ...PLENTY, cost: 3 }])
  await one.warm(check)
  for (let left = 5; left >= 1; left--) one.prefetch.check(check)
  time.advance(2)
  one.arrive(one.depart(), { ahead: 16 })
  one.prefetch.without(check, { allowed: true, policies: [{ used: 1000 } as never] })
  const used = [1, 2, 3].map(() => (one.prefetch.check(check) as Answer).policies[0]?.used)
  t.strictSame(used, [1000 - 17 * 3 + 3, 1000 - 17 * 3 + 6, 1000 - 17 * 3 + 9])
})

t.test('an answer of Redis is told without what this replica holds', async t => {
  const one = replica()
  const check = checkFor([PLENTY, { ...PLENTY, name: 'q', cost: 3 }, { ...PLENTY, name: 'r' }])
  const answerOf = (...used: readonly number[]): Answer => ({
    allowed: true,
    policies: used.map(used => ({ used, resetMs: 9, retryMs: 0, denials: 0 })),
  })
  const answer = answerOf(50, 60, 70)
  t.equal(one.prefetch.without(check, answer), answer)
  await one.warm(checkFor([PLENTY, { ...PLENTY, name: 'q', cost: 2 }]))
  t.equal(one.prefetch.without({ ...check, key: 'another' }, answer), answer)
  const rest = { resetMs: 9, retryMs: 0, denials: 0 }
  t.strictSame(
    one.prefetch.without(check, answer),
    allowed([
      { used: 44, ...rest, prefetched: 6 },
      { used: 48, ...rest, prefetched: 12 },
      { used: 70, ...rest },
    ]),
  )
  t.strictSame(
    one.prefetch.without(check, answerOf(5, 0, 70)),
    allowed([
      { used: 0, ...rest, prefetched: 5 },
      { used: 0, ...rest },
      { used: 70, ...rest },
    ]),
    'and never less than none',
  )
  const own = { allowed: true, policies: [{ used: 10, ...rest, prefetched: 3 }] }
  t.match(one.prefetch.without(checkFor(), own), { policies: [{ used: 4, prefetched: 9 }] })
  await one.warm(checkFor([{ ...PLENTY, cost: 5 }]))
  t.match(one.prefetch.without(checkFor(), answerOf(50)), { policies: [{ used: 14, prefetched: 36 }] })
  const other = checkFor([{ ...PLENTY, name: 'r' }])
  t.match(one.prefetch.without(other, answerOf(50)), answerOf(50))
})

t.test('what was taken of a log that was made anew goes back, and what was taken since is spent', async t => {
  const one = replica()
  const check = checkFor()
  await one.warm(check)
  for (let left = 5; left >= 1; left--) one.prefetch.check(check)
  time.advance(2)
  one.arrive(one.depart(), { admitted: 0, ahead: 0, generation: 0 })
  t.strictSame(one.given, [], 'of a call that took nothing no generation is known')
  one.prefetch.check(check)
  t.equal(time.waiting, 0, 'and where there was nothing to take, nothing is asked for')

  const two = replica()
  await two.warm(check)
  for (let left = 5; left >= 1; left--) two.prefetch.check(check)
  time.advance(2)
  two.arrive(two.depart(), { ahead: 8, generation: 2 })
  t.match(two.given, [{ refunds: [{ cost: 1, admission: { generation: 1 } }] }])
  t.equal(two.given.length, 1)
  t.match(two.prefetch.check(check), { policies: [{ admission: { generation: 2 } }] })

  const both = replica()
  const ofTwo = checkFor([PLENTY, { ...PLENTY, name: 'q' }])
  await both.warm(ofTwo)
  for (let left = 5; left >= 1; left--) both.prefetch.check(ofTwo)
  time.advance(2)
  both.arrive(both.depart(), { ahead: 8, generations: [1, 2] })
  t.match(both.given, [{ refunds: [{ cost: 1 }, { cost: 1 }] }], 'one of two logs is enough')

  const same = replica()
  await same.warm(check)
  for (let left = 5; left >= 1; left--) same.prefetch.check(check)
  time.advance(2)
  same.arrive(same.depart(), { ahead: 8, used: [50] })
  t.strictSame(same.given, [])
})

t.test('what was admitted of a log that was made anew calls back what was taken of the old one', async t => {
  const one = replica()
  const check = checkFor([PLENTY, { ...PLENTY, name: 'q' }])
  await one.warm(check)
  for (let left = 5; left >= 1; left--) one.prefetch.check(check)
  time.advance(2)
  const take = one.depart()
  one.prefetch.check(check)
  const waits = one.prefetch.check(check)
  take.waiting = 1
  one.arrive(take, { admitted: 1, ahead: 0, generation: 2 })
  t.match(await waits, { policies: [{ admission: { generation: 2 } }, {}] })
  t.strictSame(one.given, [], 'the old one was spent')
})

t.test('a denial is told to those that waited, with the wait that Redis said', async t => {
  const one = replica()
  const check = checkFor([PLENTY, { ...PLENTY, name: 'q' }])
  one.askItself(check)
  const all = Array.from({ length: 3 }, () => one.prefetch.check(check))
  const take = one.depart()
  all.push(one.prefetch.check(check))
  ;(take.riders[1] as Pending).settled = true
  one.arrive(take, { admitted: 1, ahead: 0, used: [9, 10], retryMs: 700, resetMs: 300, blockedMs: 20 })
  t.match(await all[0], { allowed: true, policies: [{ used: 9 }, { used: 10 }] })
  const denial = { resetMs: 300, retryMs: 700, blockedMs: 20, denials: 0 }
  for (const index of [2, 3]) {
    t.strictSame(await all[index], {
      allowed: false,
      policies: [
        { used: 9, ...denial },
        { used: 10, ...denial },
      ],
    })
  }
  t.strictSame(one.again, [])
})

t.test('those that waited are asked for again once units are back that they could have', async t => {
  const one = replica()
  const check = checkFor()
  await one.warm(checkFor([{ ...PLENTY, cost: 2 }]))
  one.askItself(check)
  one.prefetch.check(check)
  const take = one.depart()
  one.arrive(take, { admitted: 0, ahead: 0, retryMs: 700 })
  t.strictSame(one.again, take.riders)
  t.match(one.given, [{ refunds: [{ cost: 12 }] }])
  const isBack = whether(one.state.back)
  t.equal(await isBack(), false)
  await one.given[0]?.arrives()
  t.equal(await isBack(), true)
})

t.test(
  'after a recall nothing is spent that was taken before, or was on its way, and the next is not asked for',
  async t => {
    const one = replica()
    const [check, other] = [checkFor(), checkFor([PLENTY], { key: 'other' })]
    const isClient = (key: string) => key === 'client'
    await one.warm(check)
    await one.warm(other)
    one.prefetch.recall(isClient)
    t.match(one.given, [{ check, refunds: [{ cost: 6 }] }])
    t.equal(one.given.length, 1)
    t.match(one.prefetch.check(other), { allowed: true, policies: [{ used: 2 }] })

    const waits = one.prefetch.check(check)
    const take = one.depart()
    t.equal(take.recalls, 1)
    const late = one.prefetch.check(check)
    t.ok(late instanceof Promise)
    one.prefetch.recall(isClient)
    one.arrive(take, { admitted: 1, ahead: 5 })
    t.match(await waits, { allowed: true })
    t.strictSame(one.again, [take.riders[1]])
    t.match(one.given[1], { refunds: [{ cost: 5 }] })
    one.prefetch.recall(() => false)
    t.equal(one.given.length, 2)

    const next = replica()
    await next.warm(check)
    await next.warm(other)
    for (let left = 5; left >= 1; left--) for (const each of [check, other]) next.prefetch.check(each)
    next.prefetch.recall(isClient)
    time.advance(2)
    t.match(next.sent.slice(2), [{ key: 'stored other' }])

    const shared = replica()
    const both = { ...checkFor([PLENTY, PLENTY]), keys: ['client', 'tenant'] }
    await shared.warm(both)
    for (let left = 5; left >= 1; left--) shared.prefetch.check(both)
    shared.prefetch.recall(isClient)
    time.advance(2)
    t.equal(shared.sent.length, 1, 'one of its keys is meant')
  },
)

t.test('a replica that closes gives everything back, and takes nothing ahead any more', async t => {
  const one = replica()
  const checks = ['a', 'b', 'c'].map(key => checkFor([PLENTY], { key })) as [Check, Check, Check]
  const [a, b, c] = checks
  await one.warm(a)
  await one.warm(b)
  for (let left = 5; left >= 1; left--) one.prefetch.check(b)
  one.askItself(c)
  const waits = one.prefetch.check(c)
  one.prefetch.close()
  t.strictSame(
    one.given.map(({ check, refunds }) => [check.key, refunds[0]?.cost]),
    [
      ['a', 6],
      ['b', 1],
    ],
  )
  t.equal(time.waiting, 0)
  for (const check of checks) t.equal(one.askItself(check, 3), true)
  const sent = one.sent.length
  one.arrive(one.depart(), { ahead: 6 })
  t.match(await waits, { allowed: true })
  t.match(one.given[2], { check: c, refunds: [{ cost: 6 }] })
  t.equal(one.sent.length, sent)
  t.equal(time.waiting, 0)
})

t.test('a replica that closes may wait for the answers that are on their way', async t => {
  const one = replica()
  let isOver = false
  const wait = () => {
    void one.prefetch.answered().then(() => {
      isOver = true
    })
    return turn()
  }
  await one.warm(checkFor([PLENTY], { key: 'with a grant' }))
  await wait()
  t.equal(isOver, true, 'none is')
  isOver = false
  for (const key of ['a', 'b']) {
    const check = checkFor([PLENTY], { key })
    one.askItself(check)
    one.prefetch.check(check)
    one.depart()
  }
  await wait()
  t.equal(isOver, false)
  const [first, second] = one.sent.slice(-2) as [Take, Take]
  one.arrive(first, { ahead: 6 })
  await turn()
  t.equal(isOver, false)
  one.arrive(second, { ahead: 6 })
  await turn()
  t.equal(isOver, true)
})
