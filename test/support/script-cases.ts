/**
 * What each script answers, what it keeps, and how long, on a real Redis at a time that the test sets. A list and not a
 * test file, so that mutation testing can run it hundreds of times in one process.
 */
import type { Redis } from 'ioredis'
import { LARGEST_TOTAL } from '../../plugin/src/policy.js'
import {
  encodeChecks,
  encodeRefunds,
  type Pending,
  penaltyName,
  Reply,
  redisKey,
} from '../../plugin/src/stores/redis/codec.js'
import {
  ANNOUNCE,
  BLOCK,
  CHECK,
  MARK,
  PROBE,
  REFUND,
  RELEASE,
  RENEW,
  RESET,
  RESTORE,
} from '../../plugin/src/stores/redis/scripts.js'
import type { Check } from '../../plugin/src/stores/store.js'
import { ScriptsAt } from './scripts-at.js'
import { checkOf } from './stores.js'

/** What a case needs of a test. */
export interface Trial {
  readonly redis: Redis
  /** What becomes of the text of a script before it runs. */
  readonly change?: (source: string) => string
  equal(found: unknown, wanted: unknown, what?: string): unknown
  strictSame(found: unknown, wanted: unknown, what?: string): unknown
  ok(found: unknown, what?: string): unknown
  teardown(act: () => unknown): unknown
}

export interface ScriptCase {
  readonly title: string
  run(t: Trial): Promise<void>
}

export const SCRIPT_CASES: ScriptCase[] = []
const it = (title: string, run: ScriptCase['run']) => SCRIPT_CASES.push({ title, run })

function scripts(t: Trial): ScriptsAt {
  const at = new ScriptsAt(t.redis, t.change)
  t.teardown(() => at.clear())
  return at
}

const SECOND = 1_000_000
const MINUTE = 60 * SECOND

// Announcements -----------------------------------------------------------------------------------------------------

/** Announces replicas, as `Replicas` does. */
function fleet(t: Trial) {
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

it('a replica that announces itself is told of all that have, and of what each has said', async t => {
  const { announce } = fleet(t)
  t.strictSame((await announce('a')).said, { a: 'word of a' })
  t.strictSame((await announce('b')).said, { a: 'word of a', b: 'word of b' })
  t.strictSame((await announce('a')).said, { a: 'word of a', b: 'word of b' })
})

it('a replica that knows the list is not told it again until it changes', async t => {
  const { at, announce } = fleet(t)
  at.now += 7
  const first = await announce('a')
  t.equal(first.time, at.now)
  t.equal(first.changed, at.now)
  at.now += SECOND + 7
  const second = await announce('a', { changed: first.changed })
  t.equal(second.changed, first.changed, 'nothing has changed')
  t.equal(second.length, 4, 'and nothing is told')
  at.now += SECOND + 7
  const other = await announce('b', { changed: first.changed })
  t.equal(other.changed, at.now)
  t.strictSame(Object.keys(other.said), ['a', 'b'])
  t.strictSame(Object.keys((await announce('a', { changed: first.changed })).said), ['a', 'b'])
})

it('times of announcements increase, also within a microsecond and when the clock goes back', async t => {
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

it('a call upon all others keeps its time until the next one', async t => {
  const { at, announce } = fleet(t)
  t.equal((await announce('a')).called, 0)
  at.now += SECOND + 7
  const { called } = await announce('a', { calls: 1 })
  t.equal(called, at.now)
  for (let other = 0; other < 2; other++) {
    at.now += SECOND + 7
    t.equal((await announce('b')).called, called)
  }
  t.equal((await announce('b', { calls: 1 })).called, at.now + 1)
})

it('an announcement holds as long as it says, to the millisecond, and then the list has changed', async t => {
  const { at, keys, announce } = fleet(t)
  await announce('a', { ttl: 5000 })
  at.now += 3 * SECOND
  const { changed } = await announce('b')
  at.now += 2 * SECOND - 1
  t.equal((await announce('b', { changed })).changed, changed, 'one microsecond is left')
  at.now += 1
  const after = await announce('b', { changed })
  t.equal(after.changed, at.now)
  t.strictSame(after.said, { b: 'word of b' })
  t.equal(await t.redis.hget(keys[1], 'a'), null, 'what it said is forgotten')
})

it('a replica that withdraws is gone at once, and nothing that it said is left', async t => {
  const { at, keys, announce } = fleet(t)
  await announce('a')
  const { changed } = await announce('b')
  at.now += SECOND + 7
  const gone = await announce('a', { ttl: 0 })
  t.equal(gone.length, 1, 'it is told the time alone')
  t.equal(await t.redis.hget(keys[1], 'a'), null)
  const after = await announce('b', { changed })
  t.equal(after.changed, gone.time, 'the list has changed when it withdrew')
  t.strictSame(after.said, { b: 'word of b' })
})

it('the list of replicas ends with the last announcement, and a withdrawal makes no list', async t => {
  const { at, keys, announce } = fleet(t)
  await announce('a', { ttl: 0 })
  t.equal(await t.redis.exists(...keys), 0)
  await announce('a', { ttl: 5000 })
  t.equal(await at.endOf(keys[0]), at.now / 1000 + 5000)
  t.equal(await at.endOf(keys[1]), at.now / 1000 + 5000)
  at.now += SECOND
  await announce('b', { ttl: 0 })
  t.equal(await at.endOf(keys[1]), at.now / 1000 + 4000, 'it is not prolonged by a replica that goes')
  await announce('b')
  t.equal(await at.endOf(keys[0]), at.now / 1000 + 5000)
})

it('replicas that are gone expire in the usual time, also where the clock has gone back meanwhile', async t => {
  const { at, announce } = fleet(t)
  await announce('a')
  at.now -= 60 * MINUTE
  await announce('b')
  at.now += 4 * SECOND
  t.strictSame(Object.keys((await announce('b')).said), ['a', 'b'])
  at.now += SECOND + 7
  t.strictSame(Object.keys((await announce('b')).said), ['b'])
})

// The marker --------------------------------------------------------------------------------------------------------

it('the marker of the data is that of the first replica that looked, until it is lost', async t => {
  const { at, keys, announce } = fleet(t)
  t.equal((await announce('a', { life: 60_000 })).marker, 'marker of a')
  t.equal((await announce('b', { life: 60_000 })).marker, 'marker of a')
  t.equal(await at.run(MARK, [keys[2]], ['another', 60_000]), 'marker of a')
  await t.redis.del(keys[2])
  t.equal(await at.run(MARK, [keys[2]], ['another', 60_000]), 'another')
  t.equal((await announce('b', { life: 60_000 })).marker, 'another')
})

it('nobody looks at the marker where its life is none', async t => {
  const { keys, announce } = fleet(t)
  t.equal((await announce('a')).marker, '')
  t.equal(await t.redis.exists(keys[2]), 0)
  t.equal((await announce('a', { life: 1 })).marker, 'marker of a', 'one millisecond is a life')
})

it('the marker lives for its life, and is prolonged when half of that is over', async t => {
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

function lost(t: Trial) {
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

it('of what several replicas know of lost logs the largest counts, however often it is written', async t => {
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

it('restored usage comes on top of what was admitted since the loss, and leaves with its window', async t => {
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

it('usage that is restored twice, or is none, changes nothing', async t => {
  const { at, restore } = lost(t)
  await restore({ one: 5 })
  const before = await at.print()
  at.now += SECOND
  t.strictSame(await restore({ one: 5, none: 0 }), [at.now, 0, 0])
  t.equal(await at.print(), before)
})

it('a log whose clock has gone back is set back when usage is restored', async t => {
  const { at, log, restore, used } = lost(t)
  await restore({ one: 5 })
  at.now -= 30 * SECOND
  t.strictSame(await restore({ one: 7 }), [at.now, 2])
  t.equal((await at.log(log('one')))?.summary?.shift, 30 * SECOND)
  at.now += MINUTE - 1
  t.equal(await used('one'), 7)
  at.now += 2
  t.equal(await used('one'), 0)
})

it('what was taken ahead is not taken for a clock that has gone back, where entries share slices', async t => {
  for (const [shared, shift] of [
    [1, 0],
    [0, 500_000],
  ] as const) {
    const { at, log, restore } = lost(t)
    const sliced = checkOf([{ limit: 1000, windowMs: 60_000 }], { precision: 0.01 })
    const riders = { riders: { length: 0 }, wanted: 9, share: 1, lifeMs: 500 }
    const { keys, args } = encodeChecks(at.nameSpace, [pendingOf('take', sliced, riders as object)], [], 0)
    await at.run(CHECK, keys, args)
    await restore({ 'log.p': 3 }, { window: MINUTE, slice: 600_000, shared })
    t.equal((await at.log(log('log.p')))?.summary?.shift, shift)
  }
})

it('restored usage shares the entries of slices where the log has any, and none where it has not', async t => {
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

it('what cannot be counted is not restored, and a foreign value is left alone', async t => {
  const { at, log, restore, used } = lost(t)
  t.strictSame(await restore({ one: 5 }), [at.now, 5])
  at.now += 30 * SECOND
  t.strictSame(await restore({ one: 8 }), [at.now, 3])
  at.now += 30 * SECOND
  t.strictSame(await restore({ one: Number.MAX_SAFE_INTEGER }), [at.now, LARGEST_TOTAL - 3])
  await t.redis.set(log('text'), 'text')
  await t.redis.hset(log('~baseline'), 'a', 'b')
  await t.redis.set(log('~empty'), 'not a number')
  t.strictSame(await restore({ text: 1, baseline: 1, empty: 2, last: 3 }), [at.now, -1, -1, 2, 3])
  t.equal(await t.redis.get(log('text')), 'text')
  t.equal(await used('last'), 3)
})

// A log that has grown -----------------------------------------------------------------------------------------------

it('a log with more entries than slices shrinks a part at a time, and no unit leaves early or a slice late', async t => {
  for (const count of [40, 260]) {
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
    const added: Promise<void>[] = []
    for (let entry = 0; entry < count; entry++) {
      added.push(add(apart))
      at.now += Math.round((windowMs * 1000 * 0.8) / count)
    }
    await Promise.all(added)
    t.equal((await at.log(key))?.entries.length, count)
    let rounds = 0
    for (; rounds < 50 && ((await at.log(key))?.entries.length ?? 0) > 3 * slices + 8; rounds++) {
      await Promise.all(
        Array.from({ length: 8 }, () => {
          at.now += 1
          return add(sliced)
        }),
      )
    }
    t.ok(rounds < 25, `${8 * rounds} charges have merged ${count} entries`)
    const { entries = [] } = (await at.log(key)) ?? {}
    t.equal(entries.at(-1)?.total, times.length, 'the total is that of all of them')
    const slice = (windowMs * 1000) / slices
    for (let step = 0; step < 30; step++) {
      const inWindow = (until: number) => times.filter(time => time > at.now - until && time <= at.now).length
      const used = await ask('peek', sliced)
      t.ok(used >= inWindow(windowMs * 1000), `${used} of ${inWindow(windowMs * 1000)} count`)
      t.ok(
        used <= inWindow(windowMs * 1000 + slice),
        `${used} count, ${inWindow(windowMs * 1000 + slice)} are young enough`,
      )
      at.now += Math.round((windowMs * 1000) / 25)
    }
  }
})

// Permits -----------------------------------------------------------------------------------------------------------

it('a permit is renewed for its whole life, taken again where it was lost, and released by its number', async t => {
  const at = scripts(t)
  const [one, two] = [`${at.nameSpace}one`, `${at.nameSpace}two`]
  t.equal(await at.run(RENEW, [one, two], [1_500_001, 7, 8]), 2)
  t.strictSame(await t.redis.zrange(one, '0', '-1', 'WITHSCORES'), ['7', `${at.now + 1_500_001}`])
  t.strictSame(await t.redis.zrange(two, '0', '-1', 'WITHSCORES'), ['8', `${at.now + 1_500_001}`])
  t.equal(await at.endOf(one), at.now / 1000 + 1502)
  t.equal(await at.endOf(two), at.now / 1000 + 1502)
  at.now += SECOND + 5
  await at.run(RENEW, [one], [1_500_001, 7])
  t.strictSame(await t.redis.zrange(one, '0', '-1', 'WITHSCORES'), ['7', `${at.now + 1_500_001}`])
  await at.run(RENEW, [one], [1_500_001, 9])
  t.equal(await at.run(RELEASE, [one, two], [7, 8]), 2)
  t.strictSame(await t.redis.zrange(one, '0', '-1'), ['9'])
  t.equal(await t.redis.exists(two), 0)
})

// Blocks of a key --------------------------------------------------------------------------------------------------

it('a block denies to its last microsecond, is replaced by the next one, and is all or nothing', async t => {
  const at = scripts(t)
  const [one, two] = ['log.p', 'log.q'].map(name => redisKey(at.nameSpace, 'client', name)) as [string, string]
  const check = checkOf([{ limit: 5, windowMs: 5000 }])
  const block = (seconds: number, latest = at.now, keys = [one, two]) =>
    at.run(BLOCK, keys, [latest, seconds * SECOND, 5 * SECOND, 5 * SECOND])
  const isAllowed = async (operation: 'peek' | 'check' = 'peek') => {
    const { keys, args } = encodeChecks(at.nameSpace, [pendingOf(operation, check)], [], 0)
    const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
    const next = reply.next(pendingOf(operation, check))
    return typeof next === 'string' ? next : next.answer.allowed
  }
  t.equal(await isAllowed('check'), true)
  t.equal(await block(10, at.now - 1), -1, 'too late')
  t.equal(await isAllowed(), true)
  t.equal(await block(10), 2)
  t.equal(await isAllowed(), false)
  at.now += 10 * SECOND - 1
  t.equal(await isAllowed('check'), false)
  at.now += 1
  t.equal(await isAllowed(), true)
  t.equal(await block(10), 2)
  t.equal(await block(3), 2)
  at.now += 3 * SECOND - 1
  t.equal(await isAllowed(), false)
  at.now += 1
  t.equal(await isAllowed('check'), true)
  await t.redis.set(two, 'text', 'PXAT', at.now / 1000 + 60_000)
  const before = await at.print()
  t.equal(await block(10), -2)
  t.equal(await at.print(), before)
  at.refuses = ['ZRANGE', 'NOPERM no permissions to run zrange']
  t.equal(await block(10, at.now, [one]).catch((error: Error) => error.message.slice(0, 6)), 'NOPERM')
})

it('a block of several logs keeps each for its own window, and begins another generation of one whose clock has gone back', async t => {
  const at = scripts(t)
  const [one, two] = ['log.p', 'log.q'].map(name => redisKey(at.nameSpace, 'client', name)) as [string, string]
  const block = (keys: string[], seconds: number) =>
    at.run(BLOCK, keys, [at.now, seconds * SECOND, 5 * SECOND, 60 * SECOND])
  t.equal(await block([one, two], 1), 2)
  const summaryOf = async (key: string) => {
    const { generation, window, shift, block } = (await at.log(key))?.summary ?? {}
    return { generation, window, shift, block }
  }
  const fresh = { generation: at.now, shift: 0, block: at.now + SECOND }
  t.strictSame(await summaryOf(one), { ...fresh, window: 5 * SECOND })
  t.strictSame(await summaryOf(two), { ...fresh, window: 60 * SECOND })
  const ends = [await at.endOf(one), await at.endOf(two)] as [number, number]
  t.ok(ends[0] > at.now / 1000 + 5000 && ends[0] < at.now / 1000 + 60_000)
  t.ok(ends[1] > at.now / 1000 + 60_000)
  const began = at.now
  // Quota taken ahead is dated a second ahead at most, and a clock may be a tenth of a second behind.
  at.now = began - 1_100_000
  await block([one], 20)
  const window = 5 * SECOND
  t.strictSame(await summaryOf(one), { generation: began, window, shift: 0, block: at.now + 20 * SECOND })
  at.now -= 1
  await block([one], 20)
  const ahead = { generation: began + 1, window, shift: 100_001, block: at.now + 100_001 + 20 * SECOND }
  t.strictSame(await summaryOf(one), ahead)
})

// Reset and probe ----------------------------------------------------------------------------------------------------

it('a reset forgets every key that it names, says how many there were, and does nothing when it is late', async t => {
  const at = scripts(t)
  const keys = ['a', 'b', 'c'].map(name => at.nameSpace + name) as [string, string, string]
  await t.redis.mset(keys[0], '1', keys[1], '1')
  t.equal(await at.run(RESET, keys, [at.now - 1]), -1)
  t.equal(await t.redis.exists(...keys), 2)
  t.equal(await at.run(RESET, keys, [at.now]), 2)
  t.equal(await t.redis.exists(...keys), 0)
  await t.redis.mset(keys[0], '1', keys[2], '1')
  t.equal(await at.run(RESET, keys, [0]), 2, 'at any time')
  at.now += 1_234_567
  await t.redis.mset(keys[0], '1', keys[2], '1')
  t.equal(await at.run(RESET, keys, [at.now - 1]), -1)
  t.equal(await at.run(RESET, keys, [1]), -1)
})

it('a probe writes its own key, for a millisecond', async t => {
  const at = scripts(t)
  const key = `${at.nameSpace}probe`
  t.equal(await at.run(PROBE, [key], []), 'OK')
  t.equal(await t.redis.get(key), '1')
  t.equal(await at.endOf(key), at.now / 1000 + 1)
})

// Deadlines, and calls that are sent twice ------------------------------------------------------------------------------

it('a check runs up to its own deadline and not a microsecond later, and others of the call are answered', async t => {
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
})

it('a check belongs to the period of its budgets, from its first microsecond to its last; a charge to any', async t => {
  const at = scripts(t)
  const [fromMs, untilMs] = [at.now / 1000, at.now / 1000 + 1000]
  const span = { period: 'day' as const, label: 'now', fromMs, untilMs, leftMs: 0 }
  const plain = checkOf([{ limit: 100, windowMs: 60_000 }])
  const check = { ...plain, policies: plain.policies.map(policy => ({ ...policy, span })) }
  const ask = async (operation: Pending['operation']) => {
    const { keys, args } = encodeChecks(at.nameSpace, [pendingOf(operation, check), pendingOf('check', plain)], [], 0)
    const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
    const [first, second] = [reply.next(pendingOf(operation, check)), reply.next(pendingOf('check', plain))]
    if (typeof second === 'string') throw new Error(second)
    return typeof first === 'string' ? first : first.answer.policies[0]?.used
  }
  t.equal(await ask('check'), 1, 'in the first microsecond')
  at.now += SECOND - 1
  t.equal(await ask('check'), 3, 'in the last')
  at.now += 1
  t.equal(await ask('check'), 'other period', 'and the check beside it is answered')
  t.equal(await ask('peek'), 'other period')
  t.equal(await ask('charge'), 7)
  at.now -= SECOND + 1
  t.equal(await ask('check'), 'other period')
})

it('a block whose clock has gone back ends in its usual time, and a peek changes nothing of it', async t => {
  for (const penalty of ['renew', 'backoff'] as const) {
    const at = scripts(t)
    const check = checkOf([{ limit: 1, windowMs: 10_000 }], { penalty })
    const key = redisKey(at.nameSpace, 'client', penaltyName('log.p', penalty))
    const ask = async (operation: Pending['operation']) => {
      const { keys, args } = encodeChecks(at.nameSpace, [pendingOf(operation, check)], [], 0)
      const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
      const next = reply.next(pendingOf(operation, check))
      if (typeof next === 'string') throw new Error(next)
      return next.answer.policies[0]
    }
    await ask('check')
    at.now += SECOND
    t.equal((await ask('check'))?.denials, 1)
    at.now -= 30 * SECOND
    const before = await at.print()
    await ask('peek')
    t.equal(await at.print(), before)
    await ask('charge')
    t.equal(await t.redis.get(key), `1:${at.now + 10 * SECOND}:${at.now}`)
    t.equal(await at.endOf(key), at.now / 1000 + 10_001)
    at.now += 100_000
    await ask('charge')
    t.equal(await t.redis.get(key), `1:${at.now - 100_000 + 10 * SECOND}:${at.now - 100_000}`, 'once')
  }
})

it('denials that count towards a ban are as they were after a peek, also where the clock has gone back', async t => {
  const at = scripts(t)
  const check = checkOf([{ limit: 1, windowMs: 10_000 }], { penalty: 'count' })
  const ask = async (operation: Pending['operation']) => {
    const { keys, args } = encodeChecks(at.nameSpace, [pendingOf(operation, check)], [], 0)
    await at.run(CHECK, keys, args)
  }
  await ask('check')
  await ask('check')
  at.now -= 30 * SECOND
  const before = await at.print()
  await ask('peek')
  t.equal(await at.print(), before)
})

it('a refund runs up to its latest time, once however often it is sent, and is remembered for its life', async t => {
  const at = scripts(t)
  const check = checkOf([{ limit: 9, windowMs: 60_000, cost: 3 }])
  const call = encodeChecks(at.nameSpace, [pendingOf('check', check)], [], 0)
  await at.run(CHECK, call.keys, call.args)
  const refunds = check.policies.map(policy => ({ policy, cost: 1, admission: undefined }))
  const back = (marker: string, latest: number) => {
    const { keys, args } = encodeRefunds(at.nameSpace, [pendingOf('refund', check, { refunds })], marker, latest, 2500)
    return at.run(REFUND, keys, args)
  }
  t.strictSame(await back('a', at.now - 1), [at.now])
  t.strictSame(await back('a', at.now), [at.now, 1], 'what came too late has left no marker')
  t.strictSame(await back('a', at.now), [at.now, 'resent'])
  t.equal(await at.endOf(redisKey(at.nameSpace, 'client', '~a')), at.now / 1000 + 2500)
  t.strictSame(await back('b', at.now), [at.now, 1])
})

it('permits that are given back come before the checks, each from its own set, and no set is made', async t => {
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
  const next = reply.next(pendingOf('check', check))
  t.ok(typeof next !== 'string' && next.answer.allowed)
  t.strictSame(await t.redis.zrange(one, '0', '-1'), ['3'])
  t.equal(await t.redis.exists(two, `${at.nameSpace}none`), 0)
})

const FULL = ['ZADD', 'OOM command not allowed when used memory > maxmemory'] as const

it('where memory is full, permits go back, what would be charged is refused, and all else is answered', async t => {
  const at = scripts(t)
  const set = `${at.nameSpace}permits`
  await at.run(RENEW, [set], [SECOND, 1])
  const check = checkOf([{ limit: 2, windowMs: 60_000 }], { precision: 0.4 })
  const take = { riders: { length: 1 }, wanted: 0, share: 1, lifeMs: 1 }
  const ask = async (operation: Pending['operation'], of: Check, releases = [{ key: set, number: 1 }]) => {
    const one = pendingOf(operation, of, operation === 'take' ? (take as object) : {})
    const { keys, args } = encodeChecks(at.nameSpace, [one], releases, 0)
    const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
    const next = operation === 'take' ? reply.nextTake(of) : reply.next(one)
    if (typeof next === 'string') return next
    return 'admitted' in next ? next.admitted : next.answer.allowed
  }
  const refusal = (asked: Promise<unknown>) => asked.then(String, (error: Error) => error.message.slice(0, 3))
  at.refuses = FULL
  t.equal(await refusal(ask('check', check)), 'OOM')
  t.equal(await t.redis.exists(set), 0, 'the permit is back')
  t.equal(await refusal(ask('charge', check)), 'OOM')
  t.equal(await refusal(ask('take', check)), 'OOM')
  t.equal(await ask('peek', check), true)
  at.refuses = undefined
  t.equal(await ask('check', checkOf([{ limit: 2, windowMs: 60_000, cost: 2 }])), true)
  at.refuses = FULL
  t.equal(await ask('check', check), false, 'a denial needs no memory')
  t.equal(await ask('take', check), 0)
})

it('what Redis forbids is the error of the call, and is not taken for a foreign value', async t => {
  const at = scripts(t)
  at.refuses = ['ZRANGE', 'NOPERM no permissions to run zrange']
  const check = checkOf([{ limit: 2, windowMs: 60_000 }])
  const refunds = check.policies.map(policy => ({ policy, cost: 1, admission: undefined }))
  const take = { riders: { length: 1 }, wanted: 0, share: 1, lifeMs: 1 }
  const log = redisKey(at.nameSpace, 'client', 'log.p')
  const calls = [
    [CHECK, encodeChecks(at.nameSpace, [pendingOf('check', check)], [], 0)],
    [CHECK, encodeChecks(at.nameSpace, [pendingOf('take', check, take as object)], [], 0)],
    [REFUND, encodeRefunds(at.nameSpace, [pendingOf('refund', check, { refunds })], 'm', at.now, 1000)],
    [RESTORE, { keys: [log, `${log}~`], args: [1, MINUTE, 0, 0] }],
  ] as const
  for (const [script, { keys, args }] of calls) {
    const answer = await at.run(script, keys, args).catch((error: Error) => error.message.slice(0, 6))
    t.equal(answer, 'NOPERM')
  }
})

// Values that are not ours, and totals that are too large -------------------------------------------------------------

/** What others may have put under a key. */
const FOREIGN: Readonly<Record<string, (redis: Redis, key: string, now: number) => Promise<unknown>>> = {
  'a string': (redis, key) => redis.set(key, 'mine'),
  'a hash': (redis, key) => redis.hset(key, 'a', 1),
  'a sorted set of other members': (redis, key) => redis.zadd(key, 1, 'ann', 2, 'bob', 3, 'cat'),
  'a sorted set of one member': (redis, key) => redis.zadd(key, 5, 'ann'),
  'a sorted set of two members': (redis, key) => redis.zadd(key, 5, '7', '+inf', 'ann'),
  'a sorted set that ends as a log does': (redis, key, now) => {
    const summary = Buffer.alloc(40)
    for (const [at, value] of [1, 5 * SECOND, now - 9 * SECOND, 0, 0].entries()) summary.writeDoubleBE(value, at * 8)
    return redis.zadd(
      key,
      now - 9 * SECOND,
      'ann',
      now - 8 * SECOND,
      'bob',
      now - 7 * SECOND,
      'cat',
      now,
      '5',
      '+inf',
      summary,
    )
  },
}

for (const [what, put] of Object.entries(FOREIGN)) {
  it(`${what} under a key is told and left alone, and what else is asked is answered`, async t => {
    for (const penalty of ['none', 'count', 'renew'] as const) {
      const at = scripts(t)
      const check = checkOf([{ limit: 1, windowMs: 5000 }], { penalty, concurrency: { max: 9 } })
      const [key, denials, permits] = ['log.p', penaltyName('log.p', penalty), 'permits'].map(name =>
        redisKey(at.nameSpace, 'client', name),
      ) as [string, string, string]
      const other = checkOf([{ limit: 9, windowMs: 5000 }])
      for (const [of, operation] of [
        [key, 'check'],
        [key, 'peek'],
        [key, 'take'],
        [key, 'refund'],
        ...(penalty === 'none' ? [] : ([[denials, 'check']] as const)),
        ...(what === 'a string' || what === 'a hash' ? ([[permits, 'check']] as const) : []),
      ] as const) {
        await at.clear()
        await put(t.redis, of, at.now)
        const theirs = await t.redis.dumpBuffer(of)
        if (operation === 'refund') {
          const refunds = check.policies.map(policy => ({ policy, cost: 1, admission: undefined }))
          const call = encodeRefunds(at.nameSpace, [pendingOf('refund', check, { refunds })], 'm', at.now, 1000)
          t.strictSame(await at.run(REFUND, call.keys, call.args), [at.now, -1])
        } else {
          const take = { riders: { length: 1 }, wanted: 0, share: 1, lifeMs: 1 }
          const first = pendingOf(
            operation,
            operation === 'take' ? other : check,
            operation === 'take' ? (take as object) : {},
          )
          const second = pendingOf('check', other, { key: 'other' })
          const call = encodeChecks(at.nameSpace, [first, second], [], 0)
          const reply = new Reply((await at.run(CHECK, call.keys, call.args)) as unknown[])
          t.equal(operation === 'take' ? reply.nextTake(first.check) : reply.next(first), 'foreign')
          const next = reply.next(second)
          t.equal(typeof next !== 'string' && next.answer.policies[0]?.used, 1)
        }
        t.ok((await t.redis.dumpBuffer(of))?.equals(theirs), `${operation} leaves it alone`)
      }
    }
  })
}

it('totals beyond 2^53 go on counting to the unit, and what cannot be counted is refused', async t => {
  const at = scripts(t)
  const ask = async (operation: Pending['operation'], cost: number) => {
    const check = checkOf([{ limit: Number.MAX_SAFE_INTEGER, windowMs: 60_000, cost }])
    const { keys, args } = encodeChecks(at.nameSpace, [pendingOf(operation, check)], [], 0)
    const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
    const next = reply.next(pendingOf(operation, check))
    if (typeof next === 'string') return next
    const [policy] = next.answer.policies
    return [next.answer.allowed, policy?.used, (policy?.retryMs ?? 0) * 1000]
  }
  for (let round = 0; round < 3; round++) {
    t.strictSame(await ask('check', LARGEST_TOTAL - 5), [true, LARGEST_TOTAL - 5, 0])
    at.now += 20 * SECOND
    t.strictSame(await ask('charge', 6), 'too large')
    t.strictSame(await ask('charge', 5), [true, LARGEST_TOTAL, 0])
    t.strictSame(await ask('check', 1), [false, LARGEST_TOTAL, 40 * SECOND])
    at.now += 40 * SECOND
    t.strictSame(await ask('peek', 0), [true, 5, 0], 'the first has left')
    t.strictSame(await ask('check', 7), [true, 12, 0])
    t.strictSame(await ask('check', LARGEST_TOTAL - 12), [true, LARGEST_TOTAL, 0])
    at.now += 20 * SECOND
    t.strictSame(await ask('peek', 0), [true, LARGEST_TOTAL - 5, 0])
    at.now += MINUTE
    t.strictSame(await ask('peek', 0), [true, 0, 0])
  }
})
