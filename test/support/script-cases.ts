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
import type { Answer, Check, PolicyAnswer } from '../../plugin/src/stores/store.js'
import { endOfLog } from './log-model.js'
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
      return next.answer.policies[0] as PolicyAnswer
    }
    const times: number[] = []
    const add = async (check: Check) => {
      times.push(at.now)
      return ask('check', check)
    }
    const added: Promise<PolicyAnswer>[] = []
    for (let entry = 0; entry < count; entry++) {
      added.push(add(apart))
      at.now += Math.round((windowMs * 1000 * 0.8) / count)
    }
    await Promise.all(added)
    t.equal((await at.log(key))?.entries.length, count)
    let rounds = 0
    for (; rounds < 50 && ((await at.log(key))?.entries.length ?? 0) > 3 * slices + 8; rounds++) {
      for (let charge = 0; charge < 8; charge++) {
        at.now += 1
        const { resetMs } = await add(sliced)
        t.equal((await ask('peek', sliced)).resetMs, resetMs, 'the answer is of the log as it is then')
      }
      const counted = (await at.log(key))?.entries.find(({ time }) => time > at.now - windowMs * 1000)
      const { resetMs } = await ask('peek', sliced)
      t.equal(Math.round(resetMs * 1000), (counted?.time as number) + windowMs * 1000 - at.now, 'the oldest leaves')
    }
    t.ok(rounds < 25, `${8 * rounds} charges have merged ${count} entries`)
    const { entries = [] } = (await at.log(key)) ?? {}
    t.equal(entries.at(-1)?.total, times.length, 'the total is that of all of them')
    const slice = (windowMs * 1000) / slices
    for (let step = 0; step < 30; step++) {
      const inWindow = (until: number) => times.filter(time => time > at.now - until && time <= at.now).length
      const { used } = await ask('peek', sliced)
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
  t.strictSame(await answers(1), ['late', 'late', 'late', 'late', 'late'])
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
    const once = `1:${at.now - 100_000 + 10 * SECOND}:${at.now - 100_000}`
    t.equal(await t.redis.get(key), once, 'once')
    at.now -= 200_000
    await ask('charge')
    t.equal(await t.redis.get(key), once, 'a tenth of a second is no step')
    at.now -= 1
    await ask('charge')
    t.equal(await t.redis.get(key), `1:${at.now + 10 * SECOND}:${at.now}`)
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

// One log, step by step ------------------------------------------------------------------------------------------------

/** A log, what is asked of it, and what becomes of it. */
function oneLog(t: Trial, name = 'log.p') {
  const at = scripts(t)
  const key = redisKey(at.nameSpace, 'client', name)
  const askAll = async (...all: readonly Pending[]): Promise<(Answer | string)[]> => {
    const { keys, args } = encodeChecks(at.nameSpace, all, [], 0)
    const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
    return all.map(one => {
      const next = reply.next(one)
      return typeof next === 'string' ? next : next.answer
    })
  }
  const ask = async (operation: Pending['operation'], check: Check): Promise<PolicyAnswer & { allowed: boolean }> => {
    const [answer] = (await askAll(pendingOf(operation, check))) as [Answer | string]
    if (typeof answer === 'string') throw new Error(answer)
    return { allowed: answer.allowed, ...(answer.policies[0] as PolicyAnswer) }
  }
  /** Takes quota ahead: so many requests at most, for requests of which none waits, or so many. */
  const take = async (check: Check, wanted: number, waiting = 0, lifeMs = 500) => {
    const one = pendingOf('take', check, { riders: { length: waiting }, wanted, share: 1, lifeMs } as object)
    const { keys, args } = encodeChecks(at.nameSpace, [one], [], 0)
    const next = new Reply((await at.run(CHECK, keys, args)) as unknown[]).nextTake(check)
    if (typeof next === 'string') throw new Error(next)
    return next
  }
  let refunds = 0
  const refund = async (check: Check, cost: number, admission?: PolicyAnswer['admission'], isAhead = false) => {
    const all = check.policies.map(policy => ({ policy, cost, admission, isAhead }))
    const call = encodeRefunds(at.nameSpace, [pendingOf('refund', check, { refunds: all })], `${refunds++}`, at.now, 1)
    return ((await at.run(REFUND, call.keys, call.args)) as number[])[1]
  }
  const block = (us: number, windowUs: number, of = key) => at.run(BLOCK, [of], [at.now, us, windowUs])
  const entries = async () => ((await at.log(key))?.entries ?? []).map(({ time, total }) => [time, total])
  const summary = async () => (await at.log(key))?.summary
  return { at, key, askAll, ask, take, refund, block, entries, summary }
}

/** Holds some of what an answer says against what it must be. */
function holds(t: Trial, answer: object, wanted: Readonly<Record<string, unknown>>): void {
  const found = new Map(Object.entries(answer))
  t.strictSame(Object.fromEntries(Object.keys(wanted).map(name => [name, found.get(name)])), wanted)
}

it('a wait ends when just enough has left the window, however much that is', async t => {
  const { at, ask } = oneLog(t)
  const of = (cost: number) => checkOf([{ limit: 40, windowMs: 60_000, cost }])
  const times: number[] = []
  for (let entry = 0; entry < 40; entry++) {
    times.push(at.now)
    await ask('check', of(1))
    at.now += 1000
  }
  for (const expired of [0, 2, 7]) {
    if (expired > 0) at.now = (times[expired - 1] as number) + MINUTE
    for (let cost = 1; cost <= 40; cost++) {
      const { retryMs } = await ask('peek', of(cost))
      const wanted = cost <= expired ? 0 : (times[cost - 1] as number) + MINUTE - at.now
      t.equal(Math.round(retryMs * 1000), wanted, `the wait of ${cost}`)
    }
  }
})

it('a wait that exceeds its window by less than a millisecond is the window', async t => {
  const { at, ask } = oneLog(t)
  const check = checkOf([{ limit: 1, windowMs: 5000 }])
  await ask('check', check)
  at.now -= 999
  holds(t, await ask('peek', check), { retryMs: 5000, resetMs: 5000 })
  at.now -= 1
  holds(t, await ask('peek', check), { retryMs: 5001, resetMs: 5001 })
})

it('an entry that leaves the window in this microsecond is removed by the admission that has its place', async t => {
  const { at, ask, entries } = oneLog(t)
  const check = checkOf([{ limit: 2, windowMs: 5000 }])
  const began = at.now
  await ask('check', check)
  at.now += SECOND
  await ask('check', check)
  at.now = began + 5 * SECOND
  holds(t, await ask('check', check), { allowed: true, used: 2 })
  t.strictSame(await entries(), [
    [began + SECOND, 2],
    [at.now, 3],
  ])
})

it('entries of a slice are merged, and not the one before it, also where it begins within a microsecond', async t => {
  const { at, ask, entries } = oneLog(t)
  const of = (cost: number) => checkOf([{ limit: 10_000, windowMs: 1000, cost }], { precision: 1 / 3 })
  const slice = (1000 / 3) * 1000
  let number = Math.ceil(at.now / slice)
  while (Number.isInteger(number * slice)) number++
  at.now = Math.floor(number * slice)
  const before = at.now
  for (const cost of [6, 1, 1]) {
    await ask('check', of(cost))
    at.now += 1
  }
  t.strictSame(await entries(), [
    [before, 6],
    [before + 2, 8],
  ])
})

it('no admission merges more than 250 entries, however many there are in a slice', async t => {
  const { at, ask, entries } = oneLog(t)
  const apart = checkOf([{ limit: 100_000, windowMs: 60_000 }])
  const sliced = checkOf([{ limit: 100_000, windowMs: 60_000 }], { precision: 0.25 })
  await Promise.all(Array.from({ length: 600 }, () => ask('check', apart)))
  at.now += 1000
  for (let charge = 1; charge <= 8; charge++) await ask('check', sliced)
  const { length } = await entries()
  t.ok(length >= 350 && length < 600, `${length} of 600 are left after one time in eight`)
})

it('a refund takes the oldest units, however many entries that are, and removes these entries', async t => {
  for (const units of [1, 2, 3, 7, 20, 38, 39]) {
    const { at, ask, refund, entries, summary } = oneLog(t)
    const check = checkOf([{ limit: 40, windowMs: 60_000 }])
    const began = at.now
    for (let entry = 0; entry < 40; entry++) {
      await ask('check', check)
      at.now += 1000
    }
    t.equal(await refund(check, units), units)
    t.strictSame((await entries())[0], [began + units * 1000, units + 1])
    const { oldest, base } = (await summary()) ?? {}
    t.strictSame([oldest, base], [began + units * 1000, units])
    t.equal((await ask('peek', check)).used, 40 - units)
  }
})

it('a wait is never shorter than a microsecond, also where a slice is not a whole number of them', async t => {
  const { at, ask } = oneLog(t)
  const check = checkOf([{ limit: 4, windowMs: 1, cost: 4 }], { precision: 1 / 3 })
  await ask('check', check)
  at.now -= 10 * SECOND
  t.equal((await ask('check', check)).allowed, false)
  at.now += 1333
  const { allowed, retryMs, resetMs } = await ask('check', check)
  t.strictSame([allowed, retryMs, resetMs], [false, 0.001, 0.001])
  at.now += 1
  t.equal((await ask('check', check)).allowed, true)
})

it('a window that has changed is that of the log from the next admission on, and so is its end', async t => {
  const { at, key, ask, summary } = oneLog(t)
  for (const windowMs of [60_000, 120_000, 120_000, 30_000]) {
    at.now += 1000
    await ask('check', checkOf([{ limit: 10, windowMs }]))
    t.equal((await summary())?.window, windowMs * 1000)
    t.equal(await at.endOf(key), endOfLog(at.now, windowMs * 1000))
  }
})

it('a blocked key keeps what counts in its log, and when it leaves', async t => {
  const { at, key, ask, refund, block, entries, summary } = oneLog(t)
  const window = 5 * SECOND
  const check = checkOf([{ limit: 5, windowMs: 5000, cost: 2 }])
  const one = checkOf([{ limit: 5, windowMs: 5000 }])
  const generation = at.now
  const admitted = (await ask('check', check)).admission
  at.now += 1000
  const last = at.now
  await ask('check', check)
  t.equal(await at.endOf(key), endOfLog(generation, window))
  at.now += SECOND
  const blocked = { generation, window, oldest: generation, base: 0, shift: 0 }
  for (const us of [SECOND, SECOND, 20 * SECOND, SECOND]) {
    await block(us, window)
    t.strictSame(await summary(), { ...blocked, block: at.now + us })
    t.equal(await at.endOf(key), us === SECOND ? endOfLog(at.now, window) : Math.floor((at.now + us) / 1000 + 1))
  }
  t.strictSame(await entries(), [
    [generation, 2],
    [last, 4],
  ])
  holds(t, await ask('peek', one), { allowed: false, used: 4, resetMs: 1000, blockedMs: 1000, retryMs: 1000 })
  t.equal(await refund(check, 1), 1)
  t.strictSame(await summary(), { ...blocked, base: 1, block: at.now + SECOND })
  t.equal((await ask('charge', one)).used, 4)
  t.equal(await refund(check, 1), 1)
  at.now += SECOND - 1
  const nearly = await ask('check', one)
  t.strictSame([nearly.allowed, nearly.used, nearly.blockedMs, nearly.retryMs], [false, 3, 0.001, 0.001])
  t.strictSame((await entries()).length, 2, 'the first is gone')
  at.now += 1
  t.equal(await refund(check, 1, admitted), 1)
  t.equal((await summary())?.block, undefined, 'the block is over')
  holds(t, await ask('peek', one), { allowed: true, used: 2, blockedMs: undefined })
})

it('a blocked key to which everything was given back stays blocked, and begins another generation', async t => {
  const { at, key, ask, refund, block, entries, summary } = oneLog(t)
  const window = 5 * SECOND
  const check = checkOf([{ limit: 5, windowMs: 5000, cost: 2 }])
  const { admission } = await ask('check', check)
  at.now += 1000
  const last = at.now
  await ask('check', check)
  await block(SECOND, window)
  t.equal(await refund(check, 9), 4)
  t.strictSame(await entries(), [[last, 4]])
  const empty = { generation: last + 1, window, oldest: last, base: 4, shift: 0, block: at.now + SECOND }
  t.strictSame(await summary(), empty)
  t.equal(await refund(check, 1, admission), 0, 'it is of the generation before')
  t.equal(await refund(check, 1), 0)
  t.strictSame(await summary(), empty)
  holds(t, await ask('peek', check), { allowed: false, used: 0, resetMs: 1000, retryMs: 1000, blockedMs: 1000 })
  at.now += SECOND
  holds(t, await ask('peek', check), { allowed: true, used: 0, resetMs: 0, retryMs: 0, blockedMs: undefined })
  holds(t, await ask('check', check), { allowed: true, used: 2, resetMs: 5000 })
  t.equal((await summary())?.block, undefined)
  at.now += SECOND
  holds(t, await ask('peek', check), { used: 2, resetMs: 4000 })
  t.equal((await entries()).length, 1)
  await block(SECOND, window)
  at.now += SECOND
  t.equal(await refund(check, 9), 2)
  t.equal(await at.endOf(key), undefined, 'once the block is over nothing is left')
})

it('a key that is blocked before it has used anything has used nothing, and keeps no trace of it', async t => {
  const { at, key, ask, refund, block, entries, summary } = oneLog(t)
  const window = 5 * SECOND
  const check = checkOf([{ limit: 5, windowMs: 5000, cost: 2 }])
  const began = at.now
  await block(SECOND, window)
  t.strictSame(await entries(), [[began, 0]])
  t.strictSame(await summary(), { generation: began, window, oldest: began, base: 0, shift: 0, block: began + SECOND })
  t.equal(await at.endOf(key), endOfLog(began, window))
  holds(t, await ask('peek', check), { allowed: false, used: 0, resetMs: 1000, retryMs: 1000, blockedMs: 1000 })
  t.equal(await refund(check, 1), 0)
  await block(10 * SECOND, window)
  t.equal(await at.endOf(key), Math.floor((began + 10 * SECOND) / 1000 + 1))
  await block(SECOND, window)
  at.now += 2 * SECOND
  holds(t, await ask('peek', check), { allowed: true, used: 0, resetMs: 0 })
  holds(t, await ask('check', check), { allowed: true, used: 2, resetMs: 5000 })
  t.strictSame(await entries(), [[at.now, 2]])
  at.now += SECOND
  holds(t, await ask('peek', check), { used: 2, resetMs: 4000 })
})

it('where quota and block both deny, the longer wait is told, and a penalty is no shorter than the block', async t => {
  for (const [blockedMs, longestMs] of [
    [1000, 5000],
    [20_000, 20_000],
  ] as const) {
    const { ask, block } = oneLog(t)
    const check = checkOf([{ limit: 5, windowMs: 5000, cost: 5 }])
    await ask('check', check)
    await block(blockedMs * 1000, 5 * SECOND)
    const full = { allowed: false, used: 5, resetMs: longestMs, retryMs: longestMs, blockedMs }
    holds(t, await ask('peek', check), full)
    const renewing = checkOf([{ limit: 5, windowMs: 5000, cost: 1 }], { penalty: 'renew' })
    holds(t, await ask('check', renewing), { ...full, denials: 1 })
    holds(t, await ask('peek', renewing), { ...full, denials: 1 })
  }
  const { ask, block } = oneLog(t)
  await block(1_000_000, 5 * SECOND)
  const counting = checkOf([{ limit: 5, windowMs: 5000 }], { penalty: 'count' })
  holds(t, await ask('check', counting), { allowed: false, used: 0, retryMs: 1000, denials: 1 })
  const renewing = checkOf([{ limit: 5, windowMs: 5000 }], { penalty: 'renew' })
  holds(t, await ask('check', renewing), { allowed: false, used: 5, retryMs: 5000, resetMs: 5000, denials: 1 })
})

it('the end of a block may stand in another log than what counts, for any of the policies', async t => {
  for (const precision of [0, 0.25]) {
    for (const apart of [[0], [1], [0, 1]]) {
      const { at, askAll, take, block } = oneLog(t)
      const last = apart.at(-1) as number
      const places = redisKey(at.nameSpace, 'client', `blocks ${last}`)
      const plain = checkOf(
        [
          { name: 'a', limit: 5, windowMs: 5000 },
          { name: 'b', limit: 7, windowMs: 9000 },
        ],
        { precision },
      )
      const policies = plain.policies.map((policy, index) =>
        apart.includes(index) ? { ...policy, blockLog: `blocks ${index}` } : policy,
      )
      const check = { ...plain, policies }
      const other = pendingOf('check', checkOf([{ limit: 9, windowMs: 5000 }]), { key: 'other' })
      const look = async (operation: Pending['operation']) => {
        const [first, second] = await askAll(pendingOf(operation, check), other)
        if (typeof first === 'string' || typeof second === 'string') return [first, second]
        const blocks = first?.policies.map(({ blockedMs }) => blockedMs)
        return [first?.allowed, blocks, first?.policies.map(({ used }) => used), second?.policies[0]?.used]
      }
      const none = [undefined, undefined]
      t.strictSame(await look('check'), [true, none, [1, 1], 1])
      await block(SECOND, 5 * SECOND, places)
      const blocks = none.map((_, index) => (index === last ? 1000 : undefined))
      t.strictSame(await look('peek'), [false, blocks, [1, 1], 2])
      t.strictSame(await look('check'), [false, blocks, [1, 1], 3])
      t.strictSame(await look('charge'), [true, blocks, [2, 2], 4])
      const denied = await take(check, 3, 1)
      t.strictSame([denied.admitted, denied.ahead], [0, 0])
      t.strictSame(
        denied.policies.map(({ retryMs, blockedMs }) => [retryMs, blockedMs]),
        blocks.map(blockedMs => [blockedMs ?? 0, blockedMs]),
      )
      // A peek moves nothing, also where the clock has gone back.
      const isOfClient = (line: string) => line.includes('{client}')
      const before = (await at.print()).split('\n').filter(isOfClient)
      at.now -= 30 * SECOND
      t.equal((await look('peek'))[0], false)
      t.strictSame((await at.print()).split('\n').filter(isOfClient), before)
      at.now += 30 * SECOND + SECOND - 1
      const nearly = blocks.map(blockedMs => blockedMs && 0.001)
      t.strictSame((await look('peek')).slice(0, 2), [false, nearly])
      at.now += 1
      t.strictSame((await look('check')).slice(0, 3), [true, none, [3, 3]])
      // Quota taken ahead is dated a second ahead at most, where entries share slices.
      at.now -= SECOND + (precision === 0 ? 0 : SECOND) + 100_000
      const shift = async () => (await at.log(places))?.summary?.shift
      await look('check')
      t.equal(await shift(), 0)
      at.now -= 1
      await look('check')
      t.equal(await shift(), 100_001)
      await at.clear()
      await t.redis.set(places, 'mine')
      const [refused, answered] = await askAll(pendingOf('check', check), other)
      t.equal(refused, 'foreign')
      t.equal(typeof answered === 'object' && answered.policies[0]?.used, 1)
      t.equal(await take(check, 3, 1).catch((error: Error) => error.message), 'foreign')
    }
  }
})

it('what was not used comes off its own entry with up to 31 newer ones, and off the oldest units with more', async t => {
  for (const newer of [30, 31, 32, 40]) {
    const { at, ask, take, refund, entries, summary } = oneLog(t)
    const check = checkOf([{ limit: 10_000, windowMs: 60_000 }], { precision: 0.001 })
    const five = checkOf([{ limit: 10_000, windowMs: 60_000, cost: 5 }], { precision: 0.001 })
    const began = at.now
    await ask('check', five)
    at.now += SECOND
    const { ahead, policies } = await take(check, 9, 0, 50)
    t.equal(ahead, 9)
    const own = at.now + 50_000
    for (let entry = 1; entry <= newer; entry++) {
      at.now = own + entry * 60_000
      await ask('check', check)
    }
    const before = await entries()
    t.strictSame(before.slice(0, 2), [
      [began, 5],
      [own, 14],
    ])
    t.equal(before.length, 2 + newer)
    t.equal(await refund(check, 4, policies[0]?.admission, true), 4)
    const isOwn = newer <= 31
    t.equal((await summary())?.base, isOwn ? 0 : 4)
    t.strictSame(
      await entries(),
      before.map(([time, total], index) => [time, (total as number) - (isOwn && index > 0 ? 4 : 0)]),
    )
    t.equal((await ask('peek', check)).used, 5 + 9 + newer - 4)
  }
})

it('all totals are lowered where they would pass 2^53, and what counts, when it leaves, and the end of the key stay', async t => {
  const of = (cost: number, windowMs = 60_000) => checkOf([{ limit: Number.MAX_SAFE_INTEGER, windowMs, cost }])
  const left = oneLog(t)
  const { at } = left
  const generation = at.now
  await left.ask('check', of(LARGEST_TOTAL - 5))
  at.now += MINUTE - 1
  const last = at.now
  await left.ask('charge', of(5))
  at.now += 1
  holds(t, await left.ask('check', of(7)), { allowed: true, used: 12, resetMs: 60_000 - 0.001 })
  t.strictSame(await left.entries(), [
    [last, 5],
    [last + 1, 12],
  ])
  const known = { window: MINUTE, base: 0, shift: 0, block: undefined }
  t.strictSame(await left.summary(), { ...known, generation, oldest: last })
  t.equal(await at.endOf(left.key), endOfLog(last, MINUTE))

  const given = oneLog(t)
  const began = given.at.now
  await given.ask('check', of(LARGEST_TOTAL - 5))
  await given.refund(of(0), LARGEST_TOTAL - 10)
  given.at.now += 500
  await given.ask('check', of(1))
  given.at.now += 500
  holds(t, await given.ask('check', of(20, 90_000)), { used: 26, resetMs: 89_999 })
  t.strictSame(await given.entries(), [
    [began, 5],
    [began + 500, 6],
    [began + 1000, 26],
  ])
  t.strictSame(await given.summary(), { ...known, window: 90 * SECOND, generation: began, oldest: began })

  const gone = oneLog(t)
  await gone.ask('check', of(LARGEST_TOTAL - 5))
  // Nothing counts any more, and the key has not ended yet.
  gone.at.now += MINUTE + 100_000
  holds(t, await gone.ask('check', of(20)), { used: 20, resetMs: 60_000 })
  t.strictSame(await gone.entries(), [[gone.at.now, 20]])
  t.strictSame(await gone.summary(), { ...known, generation: gone.at.now, oldest: gone.at.now })
  t.equal(await gone.at.endOf(gone.key), endOfLog(gone.at.now, MINUTE))
})

it('what is given back beyond its own entry comes off the oldest units, and an entry of which nothing is left is gone', async t => {
  const { at, ask, take, refund, entries, summary } = oneLog(t)
  const of = (cost: number) => checkOf([{ limit: 10_000, windowMs: 60_000, cost }], { precision: 0.001 })
  const began = at.now
  await ask('check', of(5))
  at.now += SECOND
  const { admission } = (await take(of(1), 9, 0, 50)).policies[0] ?? {}
  const own = at.now + 50_000
  at.now = own + 100_000
  const newer = at.now
  await ask('check', of(1))
  t.equal(await refund(of(1), 1, admission, true), 1)
  t.equal(await refund(of(1), 5, admission, true), 5)
  t.strictSame(await entries(), [
    [began, 5],
    [own, 8],
    [newer, 9],
  ])
  t.equal((await summary())?.base, 0)
  t.equal(await refund(of(1), 5, admission, true), 5, 'three of its own, and two of the oldest')
  t.strictSame(await entries(), [
    [began, 5],
    [newer, 6],
  ])
  const { oldest, base } = (await summary()) ?? {}
  t.strictSame([oldest, base], [began, 2])
  holds(t, await ask('peek', of(1)), { used: 4, resetMs: (began + MINUTE - at.now) / 1000 })
})

it('where its own entry was the oldest, the next one is', async t => {
  const { at, ask, take, refund, entries, summary } = oneLog(t)
  const check = checkOf([{ limit: 10_000, windowMs: 60_000 }], { precision: 0.001 })
  const { admission } = (await take(check, 9, 0, 50)).policies[0] ?? {}
  const times: number[] = []
  for (let entry = 0; entry < 3; entry++) {
    at.now += SECOND
    times.push(at.now)
    await ask('check', check)
  }
  t.equal(await refund(check, 9, admission, true), 9)
  t.strictSame(
    await entries(),
    times.map((time, index) => [time, index + 1]),
  )
  const { oldest, base } = (await summary()) ?? {}
  t.strictSame([oldest, base], [times[0], 0])
  holds(t, await ask('peek', check), { used: 3, resetMs: ((times[0] as number) + MINUTE - at.now) / 1000 })
})

it('what is given back beyond its own entry, which was the oldest, comes off the next ones', async t => {
  const { at, ask, take, refund, entries, summary } = oneLog(t)
  const check = checkOf([{ limit: 10_000, windowMs: 60_000 }], { precision: 0.001 })
  const { admission } = (await take(check, 9, 0, 50)).policies[0] ?? {}
  const times: number[] = []
  for (let entry = 0; entry < 3; entry++) {
    at.now += SECOND
    times.push(at.now)
    await ask('check', check)
  }
  t.equal(await refund(check, 1, admission, true), 1)
  t.equal(await refund(check, 9, admission, true), 9, 'eight of its own, and one of the oldest')
  t.strictSame(await entries(), [
    [times[1], 2],
    [times[2], 3],
  ])
  const { oldest, base } = (await summary()) ?? {}
  t.strictSame([oldest, base], [times[1], 1])
  holds(t, await ask('peek', check), { used: 2, resetMs: ((times[1] as number) + MINUTE - at.now) / 1000 })
})

it('what has left its window comes off no entry, also where the clock has gone back a little', async t => {
  const of = (cost: number) => checkOf([{ limit: 10_000, windowMs: 60_000, cost }], { precision: 0.001 })
  const left = oneLog(t)
  const { admission } = (await left.take(of(1), 9, 0, 50)).policies[0] ?? {}
  const own = left.at.now + 50_000
  left.at.now = own + SECOND
  await left.ask('check', of(5))
  t.equal(await left.refund(of(1), 10), 10, 'of an operator')
  left.at.now = own + MINUTE
  t.equal(await left.refund(of(1), 2, admission, true), 0)
  holds(t, await left.ask('peek', of(1)), { used: 4 })

  const back = oneLog(t)
  const [taken] = (await back.take(of(1), 9, 0, 50)).policies
  back.at.now += 50_000 + MINUTE
  await back.ask('check', of(5))
  back.at.now -= 50_000
  t.equal(await back.refund(of(1), 2, taken?.admission, true), 0)
  holds(t, await back.ask('peek', of(1)), { used: 5 })
})

it('entries of older slices are merged once a log has 19 more than it has slices, and not before', async t => {
  for (const older of [21, 22]) {
    const { at, ask, entries } = oneLog(t)
    const of = (cost: number, precision = 0) => checkOf([{ limit: 100_000, windowMs: 60_000, cost }], { precision })
    const slice = 15 * SECOND
    at.now = Math.ceil(at.now / slice) * slice + 1
    for (let entry = 0; entry < older; entry++) {
      at.now += 1
      await ask('check', of(1))
    }
    at.now += slice
    await ask('check', of(1))
    at.now += slice
    // The total passes a multiple of 8.
    await ask('check', of(23 - older, 0.25))
    // One stretch of the log is looked at, here from its tenth entry on.
    t.equal((await entries()).length, older === 21 ? 23 : 12)
  }
})

it('an admission of one of two logs that is gone gives nothing back, whatever the other one is', async t => {
  const at = scripts(t)
  const check = checkOf([
    { name: 'p', limit: 9, windowMs: 60_000 },
    { name: 'q', limit: 9, windowMs: 60_000 },
  ])
  const call = encodeChecks(at.nameSpace, [pendingOf('check', check)], [], 0)
  const reply = new Reply((await at.run(CHECK, call.keys, call.args)) as unknown[])
  const next = reply.next(pendingOf('check', check))
  if (typeof next === 'string') throw new Error(next)
  await t.redis.del(redisKey(at.nameSpace, 'client', 'log.q'))
  const refunds = check.policies.map((policy, index) => ({
    policy,
    cost: 1,
    admission: next.answer.policies[index]?.admission,
  }))
  const back = encodeRefunds(at.nameSpace, [pendingOf('refund', check, { refunds })], 'm', at.now, 1)
  t.strictSame(await at.run(REFUND, back.keys, back.args), [at.now, 1, 0])
})

it('denials that count share entries by hundredths of the window', async t => {
  const { at, ask } = oneLog(t)
  const check = checkOf([{ limit: 1, windowMs: 100_000 }], { penalty: 'count' })
  at.now = Math.ceil(at.now / SECOND) * SECOND + 20 * SECOND
  await ask('check', check)
  for (let denial = 0; denial < 8; denial++) {
    if (denial > 0) at.now += 128_000
    await ask('check', check)
  }
  const denials = await at.log(redisKey(at.nameSpace, 'client', penaltyName('log.p', 'count')))
  t.strictSame(denials?.entries, [{ time: at.now, total: 8 }])
})

it('a policy that denies nothing has no penalties, whatever stands beside its log', async t => {
  for (const penalty of ['count', 'renew'] as const) {
    const { askAll } = oneLog(t)
    const deciding = checkOf(
      [
        { name: 'p', limit: 5, windowMs: 60_000 },
        { name: 'q', limit: 1, windowMs: 60_000 },
      ],
      { penalty },
    )
    const policies = deciding.policies.map(policy =>
      policy.name === 'p' ? policy : { ...policy, limit: LARGEST_TOTAL, decides: false as const },
    )
    const answers = [deciding, deciding, { ...deciding, policies }].map(async check => {
      const [answer] = await askAll(pendingOf('check', check))
      if (answer === undefined || typeof answer === 'string') throw new Error(answer)
      return [answer.allowed, ...answer.policies.map(({ denials }) => denials)]
    })
    t.strictSame(await Promise.all(answers), [
      [true, 0, 0],
      [false, 0, 1],
      [true, 0, 0],
    ])
  }
})

it('denials are counted where slices share entries, and another log holds the end of a block', async t => {
  const { ask } = oneLog(t)
  const plain = checkOf([{ limit: 5, windowMs: 60_000, cost: 5 }], { precision: 0.25, penalty: 'renew' })
  const check = { ...plain, policies: plain.policies.map(policy => ({ ...policy, blockLog: 'blocks' })) }
  for (const denials of [0, 1, 2]) t.equal((await ask('check', check)).denials, denials)
})

it('each key of a call has its own penalties', async t => {
  const { askAll } = oneLog(t)
  const check = checkOf([{ limit: 1, windowMs: 60_000 }], { penalty: 'renew' })
  const of = (key: string) => pendingOf('check', check, { key })
  await askAll(of('a'), of('a'))
  const answers = (await askAll(of('a'), of('b'))).map(answer =>
    typeof answer === 'string' ? answer : [answer.allowed, answer.policies[0]?.denials],
  )
  t.strictSame(answers, [
    [false, 2],
    [true, 0],
  ])
})

it('a permit that was taken before a step back of the clock, and renewed after that, keeps its end', async t => {
  const { at, ask } = oneLog(t)
  const permits = redisKey(at.nameSpace, 'client', 'permits')
  const taken = at.now
  at.now += 30 * SECOND
  await at.run(RENEW, [permits], [10 * SECOND, taken])
  at.now = taken
  const check = checkOf([{ limit: 9, windowMs: 60_000 }], { concurrency: { max: 1, ttlMs: 10_000 } })
  t.equal((await ask('check', check)).allowed, false)
  t.strictSame(await t.redis.zrange(permits, '0', '-1', 'WITHSCORES'), [`${taken}`, `${taken + 40 * SECOND}`])
})

it('of a grant no request has part of what it costs, and nobody has room in a log that is overdrawn', async t => {
  const { at, ask, take } = oneLog(t)
  const of = (cost: number) => checkOf([{ limit: 5, windowMs: 60_000, cost }], { precision: 0.25 })
  const two = await take(of(2), 0, 9)
  t.strictSame([two.admitted, two.policies[0]?.used], [2, 4])
  const none = await take(of(2), 0, 9)
  t.strictSame([none.admitted, none.policies[0]?.admission], [0, { generation: 0, time: 0 }])
  await ask('charge', of(9))
  const over = await take(of(1), 9, 1)
  t.strictSame([over.admitted, over.ahead, over.policies[0]?.used], [0, 0, 13])
  t.equal(over.policies[0]?.retryMs, 60_000)
  at.now += MINUTE + 10
  t.equal((await take(of(5), 0, 2)).policies[0]?.retryMs, 60_000)
})

it('of a grant that is denied only the policy that is full has it wait, and another key of the call has no part in it', async t => {
  const { at, take } = oneLog(t)
  const both = checkOf(
    [
      { name: 'p', limit: 5, windowMs: 60_000 },
      { name: 'q', limit: 6, windowMs: 60_000 },
    ],
    { precision: 0.25 },
  )
  const full = await take(both, 0, 9)
  t.equal(full.admitted, 5)
  t.strictSame(
    full.policies.map(({ retryMs }) => retryMs),
    [60_000, 0],
    'there is room for one more in the other one',
  )

  const takeOf = (key: string) =>
    pendingOf('take', both, { key, ...{ riders: { length: 1 }, wanted: 0, share: 1, lifeMs: 1 } } as object)
  const { keys, args } = encodeChecks(at.nameSpace, [takeOf('another'), takeOf('client')], [], 0)
  const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
  const answers = [reply.nextTake(both), reply.nextTake(both)].map(answer => {
    if (typeof answer === 'string') throw new Error(answer)
    return [answer.admitted, answer.policies[0]?.admission]
  })
  t.strictSame(answers, [
    [1, { generation: at.now, time: at.now }],
    [0, { generation: 0, time: 0 }],
  ])
})

it('a grant is given from the microsecond on in which a block ends, and other checks of the call have their own keys', async t => {
  const { at, block } = oneLog(t)
  const places = redisKey(at.nameSpace, 'client', 'blocks')
  const plain = checkOf([{ limit: 50, windowMs: 60_000 }], { precision: 0.25 })
  const check = { ...plain, policies: plain.policies.map(policy => ({ ...policy, blockLog: 'blocks' })) }
  const other = pendingOf('check', checkOf([{ limit: 9, windowMs: 5000 }]), { key: 'other' })
  const last = pendingOf('check', checkOf([{ limit: 9, windowMs: 5000 }]), { key: 'last' })
  const admitted = async () => {
    const one = pendingOf('take', check, { riders: { length: 1 }, wanted: 0, share: 1, lifeMs: 1 } as object)
    const { keys, args } = encodeChecks(at.nameSpace, [other, one, last], [], 0)
    const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
    const before = reply.next(other)
    const taken = reply.nextTake(check)
    const after = reply.next(last)
    if (typeof before === 'string' || typeof taken === 'string' || typeof after === 'string') return 'refused'
    return [before.answer.policies[0]?.used, taken.admitted, after.answer.policies[0]?.used]
  }
  await block(SECOND, 5 * SECOND, places)
  t.strictSame(await admitted(), [1, 0, 1])
  at.now += SECOND - 1
  t.strictSame(await admitted(), [2, 0, 2])
  at.now += 1
  t.strictSame(await admitted(), [3, 1, 3])
})

it('a refund sets back a log whose clock has gone back by more than a slice and a tenth of a second', async t => {
  for (const isAhead of [false, true]) {
    const { at, ask, refund, summary } = oneLog(t)
    const check = checkOf([{ limit: 1000, windowMs: 60_000, cost: 5 }], { precision: 0.01 })
    const made = at.now
    const { admission } = await ask('check', check)
    const state = async () => {
      const { generation, shift } = (await summary()) ?? {}
      return [generation, shift]
    }
    at.now -= 600_000 + 100_000
    t.equal(await refund(check, 1, isAhead ? admission : undefined, isAhead), 1)
    t.strictSame(await state(), [made, 0])
    at.now -= 1
    t.equal(await refund(check, 1), 1)
    t.strictSame(await state(), [made + 1, 100_001])
    t.equal(await refund(check, 1, admission), 0, 'it is of the generation before')
  }
})
