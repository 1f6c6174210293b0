/** Each script by itself, on a real Redis at a time that the test sets: what it answers, what it keeps, and how long. */
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { LARGEST_TOTAL } from '../../../plugin/src/policy.js'
import { encodeChecks, encodeRefunds, type Pending, Reply, redisKey } from '../../../plugin/src/stores/redis/codec.js'
import {
  ANNOUNCE,
  CHECK,
  MARK,
  PROBE,
  REFUND,
  RELEASE,
  RENEW,
  RESET,
  RESTORE,
} from '../../../plugin/src/stores/redis/scripts.js'
import type { Check } from '../../../plugin/src/stores/store.js'
import { ScriptsAt } from '../../support/scripts-at.js'
import { checkOf } from '../../support/stores.js'

const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
t.teardown(() => redis.disconnect())

function scripts(t: Test): ScriptsAt {
  const at = new ScriptsAt(redis)
  t.teardown(() => at.clear())
  return at
}

const SECOND = 1_000_000
const MINUTE = 60 * SECOND

// Announcements -----------------------------------------------------------------------------------------------------

/** Announces replicas, as `Replicas` does. */
function fleet(t: Test) {
  const at = scripts(t)
  const keys = ['alive', 'said', 'marker'].map(name => `${at.nameSpace}{replicas}${name}`) as [string, string, string]
  const announce = async (id: string, given: Partial<Record<'ttl' | 'calls' | 'changed' | 'life', number>> = {}) => {
    const { ttl = 5000, calls = 0, changed = 0, life = 0 } = given
    const reply = (await at.run(ANNOUNCE, keys, [
      id,
      ttl,
      `word of ${id}`,
      calls,
      changed,
      `marker of ${id}`,
      life,
    ])) as [number, number, number, string, ...string[]]
    const [time, called, changedAt, marker, ...list] = reply
    const said = Object.fromEntries(list.flatMap((id, at) => (at % 2 === 0 ? [[id, list[at + 1]]] : [])))
    return { time, called, changed: changedAt, marker, said, length: reply.length }
  }
  return { at, keys, announce }
}

t.test('a replica that announces itself is told of all that have, and of what each has said', async t => {
  const { announce } = fleet(t)
  t.strictSame((await announce('a')).said, { a: 'word of a' })
  t.strictSame((await announce('b')).said, { a: 'word of a', b: 'word of b' })
  t.strictSame((await announce('a')).said, { a: 'word of a', b: 'word of b' })
})

t.test('a replica that knows the list is not told it again until it changes', async t => {
  const { at, announce } = fleet(t)
  const first = await announce('a')
  t.equal(first.time, at.now)
  t.equal(first.changed, at.now)
  at.now += SECOND
  const second = await announce('a', { changed: first.changed })
  t.equal(second.changed, first.changed, 'nothing has changed')
  t.equal(second.length, 4, 'and nothing is told')
  at.now += SECOND
  const other = await announce('b', { changed: first.changed })
  t.equal(other.changed, at.now)
  t.strictSame(Object.keys(other.said), ['a', 'b'])
  t.strictSame(Object.keys((await announce('a', { changed: first.changed })).said), ['a', 'b'])
})

t.test('times of announcements increase, also within a microsecond and when the clock goes back', async t => {
  const { at, announce } = fleet(t)
  const { time } = await announce('a')
  t.equal((await announce('a')).time, time + 1)
  at.now += 10
  t.equal((await announce('a')).time, time + 10)
  at.now -= MINUTE
  t.equal((await announce('a')).time, time + 11)
  t.equal((await announce('a', { ttl: 0 })).time, time + 12, 'of a withdrawal too')
  t.equal((await announce('b')).time, time + 13)
})

t.test('a call upon all others keeps its time until the next one', async t => {
  const { at, announce } = fleet(t)
  t.equal((await announce('a')).called, 0)
  at.now += SECOND
  const { called } = await announce('a', { calls: 1 })
  t.equal(called, at.now)
  at.now += SECOND
  t.equal((await announce('b')).called, called)
  t.equal((await announce('b', { calls: 1 })).called, at.now + 1)
})

t.test('an announcement holds as long as it says, to the millisecond, and then the list has changed', async t => {
  const { at, announce } = fleet(t)
  await announce('a', { ttl: 5000 })
  at.now += 3 * SECOND
  const { changed } = await announce('b')
  at.now += 2 * SECOND - 1000
  t.equal((await announce('b', { changed })).changed, changed, 'one millisecond is left')
  at.now += 1000
  const after = await announce('b', { changed })
  t.equal(after.changed, at.now)
  t.strictSame(after.said, { b: 'word of b' })
})

t.test('a replica that withdraws is gone at once, and nothing that it said is left', async t => {
  const { at, keys, announce } = fleet(t)
  await announce('a')
  const { changed } = await announce('b')
  at.now += SECOND
  const gone = await announce('a', { ttl: 0 })
  t.equal(gone.length, 1, 'it is told the time alone')
  t.equal(await redis.hget(keys[1], 'a'), null)
  const after = await announce('b', { changed })
  t.equal(after.changed, gone.time, 'the list has changed when it withdrew')
  t.strictSame(after.said, { b: 'word of b' })
})

t.test('the list of replicas ends with the last announcement, and a withdrawal makes no list', async t => {
  const { at, keys, announce } = fleet(t)
  await announce('a', { ttl: 0 })
  t.equal(await redis.exists(...keys), 0)
  await announce('a', { ttl: 5000 })
  t.equal(await at.endOf(keys[0]), at.now / 1000 + 5000)
  t.equal(await at.endOf(keys[1]), at.now / 1000 + 5000)
  at.now += SECOND
  await announce('b', { ttl: 0 })
  t.equal(await at.endOf(keys[1]), at.now / 1000 + 4000, 'it is not prolonged by a replica that goes')
  await announce('b')
  t.equal(await at.endOf(keys[0]), at.now / 1000 + 5000)
})

t.test('replicas that are gone expire in the usual time, also where the clock has gone back meanwhile', async t => {
  const { at, announce } = fleet(t)
  await announce('a')
  at.now -= 60 * MINUTE
  await announce('b')
  at.now += 4 * SECOND
  t.strictSame(Object.keys((await announce('b')).said), ['a', 'b'])
  at.now += SECOND
  t.strictSame(Object.keys((await announce('b')).said), ['b'])
})

// The marker --------------------------------------------------------------------------------------------------------

t.test('the marker of the data is that of the first replica that looked, until it is lost', async t => {
  const { at, keys, announce } = fleet(t)
  t.equal((await announce('a', { life: 60_000 })).marker, 'marker of a')
  t.equal((await announce('b', { life: 60_000 })).marker, 'marker of a')
  t.equal(await at.run(MARK, [keys[2]], ['another', 60_000]), 'marker of a')
  await redis.del(keys[2])
  t.equal(await at.run(MARK, [keys[2]], ['another', 60_000]), 'another')
  t.equal((await announce('b', { life: 60_000 })).marker, 'another')
})

t.test('nobody looks at the marker where its life is none', async t => {
  const { keys, announce } = fleet(t)
  t.equal((await announce('a')).marker, '')
  t.equal(await redis.exists(keys[2]), 0)
  t.equal((await announce('a', { life: 1 })).marker, 'marker of a', 'one millisecond is a life')
})

t.test('the marker lives for its life, and is prolonged when half of that is over', async t => {
  const { at, keys } = fleet(t)
  const look = () => at.run(MARK, [keys[2]], ['mine', 60_000])
  await look()
  const began = at.now / 1000
  t.equal(await at.endOf(keys[2]), began + 60_000)
  at.now += 30 * SECOND
  await look()
  t.equal(await at.endOf(keys[2]), began + 60_000, 'half is left')
  at.now += 1000
  await look()
  t.equal(await at.endOf(keys[2]), began + 90_001)
})

// Usage that was lost with the data -----------------------------------------------------------------------------------

const LOST = { window: MINUTE, slice: 0, shared: 0 }

function lost(t: Test) {
  const at = scripts(t)
  const log = (name: string) => redisKey(at.nameSpace, 'client', name)
  /** Writes usage of logs, by name. */
  const restore = (usage: Readonly<Record<string, number>>, { window, slice, shared } = LOST) =>
    at.run(
      RESTORE,
      Object.keys(usage).flatMap(name => [log(name), log(`~${name}`)]),
      Object.values(usage).flatMap(used => [used, window, slice, shared]),
    ) as Promise<number[]>
  const used = async (name: string, windowMs = 60_000) => {
    const check: Check = checkOf([{ limit: 1000, windowMs, cost: 0 }])
    const policies = check.policies.map(policy => ({ ...policy, log: name }))
    const { keys, args } = encodeChecks(at.nameSpace, [pendingOf('peek', { ...check, policies })], [], 0)
    const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
    const next = reply.next(pendingOf('peek', { ...check, policies }))
    if (typeof next === 'string') throw new Error(next)
    return next.answer.policies[0]?.used
  }
  return { at, log, restore, used }
}

function pendingOf(operation: Pending['operation'], check: Check, more: Partial<Pending> = {}): Pending {
  const rest = { settled: false, resolve: () => {}, reject: () => {} }
  return { operation, check, key: 'client', refunds: [], since: 0, deadline: 0, ...rest, ...more }
}

t.test('of what several replicas know of lost logs the largest counts, however often it is written', async t => {
  const { at, restore, used } = lost(t)
  t.strictSame(await restore({ one: 5, two: 1 }), [at.now, 5, 1])
  t.strictSame(await restore({ one: 3, two: 4 }), [at.now, 0, 3])
  t.strictSame(await restore({ one: 5, two: 4 }), [at.now, 0, 0])
  t.strictSame(await restore({ one: 6 }), [at.now, 1])
  t.equal(await used('one'), 6)
  t.equal(await used('two'), 4)
  t.strictSame(await restore({ none: 0 }), [at.now, 0])
  t.equal(await used('none'), 0)
})

t.test('restored usage comes on top of what was admitted since the loss, and leaves with its window', async t => {
  const { at, log, restore, used } = lost(t)
  const check = checkOf([{ limit: 10, windowMs: 60_000, cost: 2 }])
  const { keys, args } = encodeChecks(at.nameSpace, [pendingOf('check', check)], [], 0)
  await at.run(CHECK, keys, args)
  at.now += 10 * SECOND
  t.strictSame(await restore({ 'log.p': 3 }), [at.now, 3])
  t.equal(await used('log.p'), 5)
  t.equal(await at.endOf(log('~log.p')), at.now / 1000 + 60_001, 'the baseline is kept for a window')
  at.now += 50 * SECOND
  t.equal(await used('log.p'), 3)
  at.now += 10 * SECOND - 1
  t.equal(await used('log.p'), 3)
  at.now += 1
  t.equal(await used('log.p'), 0)
})

t.test('restored usage shares the entries of slices where the log has any, and none where it has not', async t => {
  const { at, log, restore } = lost(t)
  for (let usage = 1; usage <= 40; usage++) {
    at.now++
    await restore({ sliced: usage }, { window: MINUTE, slice: SECOND, shared: 1 })
    await restore({ apart: usage })
  }
  t.equal((await at.log(log('apart')))?.entries.length, 40)
  const entries = (await at.log(log('sliced')))?.entries.length ?? 0
  t.ok(entries < 10, `${entries} entries`)
})

t.test('what cannot be counted is not restored, and a foreign value is left alone', async t => {
  const { at, log, restore, used } = lost(t)
  t.strictSame(await restore({ one: 5 }), [at.now, 5])
  t.strictSame(await restore({ one: Number.MAX_SAFE_INTEGER }), [at.now, LARGEST_TOTAL - 5])
  await redis.set(log('text'), 'text')
  await redis.hset(log('~baseline'), 'a', 'b')
  await redis.set(log('~empty'), 'not a number')
  t.strictSame(await restore({ text: 1, baseline: 1, empty: 2, last: 3 }), [at.now, -1, -1, 2, 3])
  t.equal(await redis.get(log('text')), 'text')
  t.equal(await used('last'), 3)
})

// A log that has grown -----------------------------------------------------------------------------------------------

t.test(
  'a log with more entries than slices shrinks a part at a time, and no unit leaves early or a slice late',
  async t => {
    for (const count of [40, 300]) {
      const at = scripts(t)
      const [windowMs, slices] = [40_000, 4]
      const apart = checkOf([{ limit: 100_000, windowMs }])
      const sliced = checkOf([{ limit: 100_000, windowMs }], { precision: 1 / slices })
      const key = redisKey(at.nameSpace, 'client', 'log.p')
      const ask = async (operation: 'check' | 'charge' | 'peek', check: Check) => {
        const { keys, args } = encodeChecks(at.nameSpace, [pendingOf(operation, check)], [], 0)
        const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
        const next = reply.next(pendingOf(operation, check))
        if (typeof next === 'string') throw new Error(next)
        return next.answer.policies[0]?.used as number
      }
      const times: number[] = []
      const add = async (check: Check) => {
        times.push(at.now)
        await ask('check', check)
      }
      for (let entry = 0; entry < count; entry++) {
        await add(apart)
        at.now += Math.round((windowMs * 1000 * 0.8) / count)
      }
      t.equal((await at.log(key))?.entries.length, count)
      let rounds = 0
      for (; rounds < 400 && ((await at.log(key))?.entries.length ?? 0) > 3 * slices + 8; rounds++) {
        await add(sliced)
        at.now += 1
      }
      t.ok(rounds < 200, `${rounds} charges have merged ${count} entries`)
      const { entries = [] } = (await at.log(key)) ?? {}
      t.equal(entries.at(-1)?.total, times.length, 'the total is that of all of them')
      const slice = (windowMs * 1000) / slices
      for (let step = 0; step < 30; step++) {
        const inWindow = (until: number) => times.filter(time => time > at.now - until && time <= at.now).length
        const used = await ask('peek', sliced)
        if (used < inWindow(windowMs * 1000)) t.fail(`${used} of ${inWindow(windowMs * 1000)} count`)
        if (used > inWindow(windowMs * 1000 + slice))
          t.fail(`${used} count, ${inWindow(windowMs * 1000 + slice)} are young enough`)
        at.now += Math.round((windowMs * 1000) / 25)
      }
    }
  },
)

// Permits -----------------------------------------------------------------------------------------------------------

t.test('a permit is renewed for its whole life, taken again where it was lost, and released by its number', async t => {
  const at = scripts(t)
  const [one, two] = [`${at.nameSpace}one`, `${at.nameSpace}two`]
  t.equal(await at.run(RENEW, [one, two], [1_500_001, 7, 8]), 2)
  t.strictSame(await redis.zrange(one, '0', '-1', 'WITHSCORES'), ['7', `${at.now + 1_500_001}`])
  t.strictSame(await redis.zrange(two, '0', '-1', 'WITHSCORES'), ['8', `${at.now + 1_500_001}`])
  t.equal(await at.endOf(one), at.now / 1000 + 1502)
  t.equal(await at.endOf(two), at.now / 1000 + 1502)
  at.now += SECOND + 5
  await at.run(RENEW, [one], [1_500_001, 7])
  t.strictSame(await redis.zrange(one, '0', '-1', 'WITHSCORES'), ['7', `${at.now + 1_500_001}`])
  await at.run(RENEW, [one], [1_500_001, 9])
  t.equal(await at.run(RELEASE, [one, two], [7, 8]), 2)
  t.strictSame(await redis.zrange(one, '0', '-1'), ['9'])
  t.equal(await redis.exists(two), 0)
})

// Reset and probe ----------------------------------------------------------------------------------------------------

t.test(
  'a reset forgets every key that it names, says how many there were, and does nothing when it is late',
  async t => {
    const at = scripts(t)
    const keys = ['a', 'b', 'c'].map(name => at.nameSpace + name) as [string, string, string]
    await redis.mset(keys[0], '1', keys[1], '1')
    t.equal(await at.run(RESET, keys, [at.now - 1]), -1)
    t.equal(await redis.exists(...keys), 2)
    t.equal(await at.run(RESET, keys, [at.now]), 2)
    t.equal(await redis.exists(...keys), 0)
    await redis.mset(keys[0], '1', keys[2], '1')
    t.equal(await at.run(RESET, keys, [0]), 2, 'at any time')
    at.now += 1_234_567
    await redis.mset(keys[0], '1', keys[2], '1')
    t.equal(await at.run(RESET, keys, [at.now - 1]), -1)
    t.equal(await at.run(RESET, keys, [1]), -1)
  },
)

t.test('a probe writes, and leaves nothing', async t => {
  const key = `${scripts(t).nameSpace}probe`
  t.equal(await redis.eval(PROBE.source, 1, key), 'OK')
  const until = Date.now() + 10_000
  while ((await redis.exists(key)) === 1 && Date.now() < until);
  t.equal(await redis.exists(key), 0)
})

// Deadlines, and calls that are sent twice ------------------------------------------------------------------------------

t.test(
  'a check runs up to its own deadline and not a microsecond later, and others of the call are answered',
  async t => {
    const at = scripts(t)
    const check = checkOf([{ limit: 9, windowMs: 60_000 }])
    const held = checkOf([{ limit: 9, windowMs: 60_000 }], { key: 'held', concurrency: { max: 1 }, penalty: 'renew' })
    const all = [
      pendingOf('check', check, { deadline: 10 }),
      pendingOf('check', held, { deadline: 10, key: 'held' }),
      pendingOf('check', check, { deadline: 15 }),
      pendingOf('take', check, { deadline: 15, ...{ riders: { length: 2 }, wanted: 0, share: 2, lifeMs: 10 } }),
      pendingOf('check', check, { deadline: 20 }),
    ]
    const answers = async (latest: number) => {
      const { keys, args } = encodeChecks(at.nameSpace, all, [], latest)
      const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
      return all.map(one => {
        const answer = one.operation === 'take' ? reply.nextTake(one.check) : reply.next(one)
        return typeof answer === 'string'
          ? answer
          : 'admitted' in answer
            ? answer.admitted
            : answer.answer.policies[0]?.used
      })
    }
    t.strictSame(await answers(at.now), [1, 1, 2, 2, 5])
    t.strictSame(await answers(at.now - 1), ['late', 'late', 6, 2, 9])
    await at.clear()
    t.strictSame(await answers(at.now - 5000), ['late', 'late', 1, 2, 4])
    t.strictSame(await answers(at.now - 5001), ['late', 'late', 'late', 'late', 5])
    t.strictSame(await answers(at.now - 10_001), ['late', 'late', 'late', 'late', 'late'])
    await at.clear()
    t.strictSame(await answers(0), [1, 1, 2, 2, 5], 'without a latest time it runs at any')
  },
)

t.test(
  'a refund runs up to its latest time, once however often it is sent, and is remembered for its life',
  async t => {
    const at = scripts(t)
    const check = checkOf([{ limit: 9, windowMs: 60_000, cost: 3 }])
    const call = encodeChecks(at.nameSpace, [pendingOf('check', check)], [], 0)
    await at.run(CHECK, call.keys, call.args)
    const refunds = check.policies.map(policy => ({ policy, cost: 1, admission: undefined }))
    const back = (marker: string, latest: number) => {
      const { keys, args } = encodeRefunds(
        at.nameSpace,
        [pendingOf('refund', check, { refunds })],
        marker,
        latest,
        2500,
      )
      return at.run(REFUND, keys, args)
    }
    t.strictSame(await back('a', at.now - 1), [at.now])
    t.strictSame(await back('a', at.now), [at.now, 1], 'what came too late has left no marker')
    t.strictSame(await back('a', at.now), [at.now, 'resent'])
    t.equal(await at.endOf(redisKey(at.nameSpace, 'client', '~a')), at.now / 1000 + 2500)
    t.strictSame(await back('b', at.now), [at.now, 1])
  },
)

t.test('permits that are given back come before the checks, each from its own set, and no set is made', async t => {
  const at = scripts(t)
  const [one, two] = [`${at.nameSpace}one`, `${at.nameSpace}two`]
  await at.run(RENEW, [one, two, one], [SECOND, 1, 2, 3])
  const check = checkOf([{ limit: 9, windowMs: 60_000 }])
  const releases = [
    { key: one, number: 1 },
    { key: two, number: 2 },
    { key: `${at.nameSpace}none`, number: 5 },
  ]
  const { keys, args } = encodeChecks(at.nameSpace, [pendingOf('check', check)], releases, 0)
  const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
  t.match(reply.next(pendingOf('check', check)), { answer: { allowed: true, policies: [{ used: 1 }] } })
  t.strictSame(await redis.zrange(one, '0', '-1'), ['3'])
  t.equal(await redis.exists(two, `${at.nameSpace}none`), 0)
})
