/** What docs/upgrading.md says of releases that run side by side on one Redis, tried with packed releases. */
import { readFileSync } from 'node:fs'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { until } from '../support/redis-fleet.js'
import { type Answered, hasCommit, installed, type Replica, removePresent, startReplica } from './releases.js'

interface Previous {
  readonly commit: string
  /** What stands behind the partition key in its keys, before the name of the log. */
  readonly format: string
}

const previous = JSON.parse(readFileSync(new URL('previous.json', import.meta.url), 'utf8')) as {
  readonly sameFormat: Previous
  readonly otherFormat: Previous
}
const redis = new Redis(process.env.REDIS_URL as string)
t.teardown(() => {
  redis.disconnect()
  removePresent()
})
t.setTimeout(600_000)

const present = installed(undefined)

/** Why a release cannot be had here; false where it can. */
const missing = ({ commit }: Previous): string | false =>
  hasCommit(commit) ? false : `this clone has no commit ${commit}: its history is cut off (git fetch --unshallow)`

let spaces = 0
const nameSpace = () => `releases-${process.pid}-${spaces++}:`

async function keysOf(space: string): Promise<string[]> {
  const keys = await redis.keys(`${space}*`)
  return keys.filter(key => !key.includes('{replicas}') && !key.includes('~')).sort()
}

const passed = (answers: readonly Answered[]) => answers.filter(({ status }) => status === 200)

/** Asks all replicas in turns until all deny, and together have admitted so much; for at most a while. Returns how much. */
async function spend(replicas: readonly Replica[], key: string, max: number): Promise<number> {
  let sum = 0
  const end = Date.now() + 30_000
  for (let round = 1; Date.now() < end; round++) {
    const all = await Promise.all(replicas.map(replica => replica.ask(key, round % 3 === 0 ? 1 : 13)))
    const more = all.flatMap(passed).length
    sum += more
    // What one of them took ahead comes back within a second.
    if (sum >= max && more === 0) break
    if (more === 0) await new Promise(resolve => setTimeout(resolve, 50))
  }
  return sum
}

/** The most that was surely admitted within one window: sent after it began, and answered before it ended. */
function fullest(answers: readonly Answered[], windowMs: number): number {
  const admitted = passed(answers).sort((a, b) => a.answered - b.answered)
  let most = 0
  for (const { answered } of admitted) {
    const inside = admitted.filter(one => one.answered <= answered && one.sent > answered - windowMs)
    most = Math.max(most, inside.length)
  }
  return most
}

async function mixed(t: Test, former: string, options: object): Promise<[Replica, Replica, Replica, Replica]> {
  const folders = [former, present, former, present]
  const replicas = await Promise.all(folders.map(folder => startReplica(t, folder, options)))
  return replicas as [Replica, Replica, Replica, Replica]
}

const { sameFormat, otherFormat } = previous

t.test('releases of one format share a quota to the unit', { skip: missing(sameFormat) }, async t => {
  const former = installed(sameFormat.commit)
  for (const [what, settings] of Object.entries({
    'with quota taken ahead': { max: 300, precision: 0.05 },
    'each request for itself': { max: 40 },
    'in a true log': { max: 40, precision: 0 },
    'with costs': { max: 90, cost: 3 },
  })) {
    const space = nameSpace()
    const replicas = await mixed(t, former, { nameSpace: space, timeWindow: '1 hour', ...settings })
    const max = settings.max / ('cost' in settings ? settings.cost : 1)
    t.equal(await spend(replicas, 'ann', max), max, what)
    t.equal((await keysOf(space)).length, 1, 'they have one log')
  }
})

t.test('no window holds more than the limit while both admit', { skip: missing(sameFormat) }, async t => {
  const former = installed(sameFormat.commit)
  const windowMs = 1500
  const options = { nameSpace: nameSpace(), max: 120, precision: 0.05, timeWindow: windowMs }
  const replicas = await mixed(t, former, options)
  const answers: Answered[] = []
  const end = Date.now() + 4 * windowMs
  await Promise.all(
    replicas.map(async replica => {
      while (Date.now() < end) answers.push(...(await replica.ask('ann', 9)))
    }),
  )
  t.ok(fullest(answers, windowMs) <= 120, `${fullest(answers, windowMs)} in a window`)
  t.ok(passed(answers).length > 120, 'the window has moved on')
})

t.test('what one gives back the other can spend', { skip: missing(sameFormat) }, async t => {
  const former = installed(sameFormat.commit)
  const replicas = await mixed(t, former, { nameSpace: nameSpace(), max: 20, timeWindow: '1 hour' })
  for (const [one, other] of [
    [replicas[0], replicas[1]],
    [replicas[1], replicas[0]],
  ] as const) {
    const key = one === replicas[0] ? 'ann' : 'bob'
    t.equal(passed(await one.ask(key, 12, '/refunded')).length, 12)
    t.equal(passed(await other.ask(key, 25)).length, 20, 'nothing of it counts any more')
    t.equal(passed(await one.ask(key, 1)).length, 0)
  }
})

t.test('places among the requests in flight are shared', { skip: missing(sameFormat) }, async t => {
  const former = installed(sameFormat.commit)
  const space = nameSpace()
  const options = { nameSpace: space, max: 1000, timeWindow: '1 hour', concurrency: { max: 3 } }
  const [one, other] = await mixed(t, former, options)
  const inFlight = async () => {
    const sets = await redis.keys(`${space}*/permits`)
    return (await Promise.all(sets.map(set => redis.zcard(set)))).reduce((sum, count) => sum + count, 0)
  }
  const held = [one.ask('ann', 2, '/held'), other.ask('ann', 1, '/held')]
  await until('all are in flight', async () => (await inFlight()) === 3)
  for (const replica of [one, other]) t.equal(passed(await replica.ask('ann', 1)).length, 0, 'neither has a place')
  await Promise.all([one.ask('bob', 1, '/end'), other.ask('bob', 1, '/end')])
  t.equal(passed((await Promise.all(held)).flat()).length, 3)
  for (const replica of [one, other]) {
    await until('all are given back', async () => (await inFlight()) === 0)
    t.equal(passed(await replica.ask('ann', 3)).length, 3)
  }
})

t.test('releases of different formats count apart', { skip: missing(otherFormat) }, async t => {
  const former = installed(otherFormat.commit)
  const space = nameSpace()
  const options = { nameSpace: space, max: 30, timeWindow: '1 hour' }
  const [old, own, secondOld, secondOwn] = await mixed(t, former, options)
  const all = await Promise.all([old, own, secondOld, secondOwn].map(replica => replica.ask('ann', 40)))
  const count = (...indexes: number[]) => indexes.flatMap(index => passed(all[index] as readonly Answered[])).length
  t.equal(count(0, 2), 30, 'the replicas of the old release have one quota')
  t.equal(count(1, 3), 30, 'and those of this one have another')
  for (const replica of [old, own, secondOld, secondOwn]) t.equal(passed(await replica.ask('ann', 5)).length, 0)
  const formats = (await keysOf(space)).map(key => key.replace(/^.*\}/, '').replace(/[^.]*$/, ''))
  t.strictSame(formats, [otherFormat.format, sameFormat.format].sort(), 'by the format in their keys')
})
