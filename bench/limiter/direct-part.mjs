import { startChild } from '../child.mjs'
import { median } from '../summary.mjs'
import { contenders } from './contenders.mjs'
import { deciders } from './deciders.mjs'
import { sortedSets } from './history.mjs'

const POLICY = { max: 10_000_000, windowMs: 60_000 }
/** Prefetched quota is dated ahead by no more than this, so an entry that is written later is the newest. */
const AHEAD_MS = 1100

/**
 * What is measured without HTTP, each with the keys that are asked in turn and what is asked in a round.
 * `rampMs`: how long it is asked before a round counts.
 */
export const measurements = {
  decision: {
    title: 'a decision in process, one after the other, 1,000 keys',
    store: 'memory',
    keys: 1000,
    task: { kind: 'decisions', count: 20_000 },
  },
  core: {
    title: 'checks a second of one Redis core, without HTTP, 512 under way, 1,000 keys',
    store: 'redis',
    keys: 1000,
    task: { kind: 'throughput', concurrency: 512, ms: 1000 },
    rampMs: 1000,
  },
  lone: {
    title: 'a lone check on an idle Redis, one at a time, a rest of 1 ms before each, 1,000 keys',
    store: 'redis',
    keys: 1000,
    task: { kind: 'alone', count: 300, restMs: 1 },
  },
}

/** By name, as they stand on the command line. */
const FULL = { decision: 30, core: 10, lone: 15 }
const QUICK = { decision: 3, core: 1, lone: 1 }

/**
 * Measures limiters that are asked without HTTP, in turn; logs are full. Gives the medians by contender, and what is
 * wrong.
 *
 * @param {string} measurementName
 * @param {{ quick: boolean, rounds?: number, against?: string, contenders?: string[] }} options
 * @param {{ redis: object, progress: (text: string) => void }} tools
 */
export async function measureDirect(measurementName, options, { redis, progress }) {
  const measurement = measurements[measurementName]
  const rounds = options.rounds ?? (options.quick ? QUICK : FULL)[measurementName]
  await redis.client.flushall()
  const names = Object.keys(deciders).filter(name => takesPart(name, measurement, options))
  const limiters = new Map()
  for (const name of names) limiters.set(name, await start(name, measurement, options, redis.port))
  const taken = Object.fromEntries(names.map(name => [name, []]))
  try {
    for (let round = -1; round < rounds; round++) {
      for (let turn = 0; turn < names.length; turn++) {
        const name = names[(turn + Math.max(0, round)) % names.length]
        const result = await takeTurn(limiters.get(name), measurement, redis)
        // The first round is for the compiler of Node.
        if (round >= 0) taken[name].push(result)
        progress(`${measurementName}, round ${Math.max(0, round) + 1} of ${rounds}, ${name}`)
      }
    }
    const problems = await wrongLogs(names, measurement, redis.client)
    return { rows: rowsOf(taken), problems: problems.map(problem => `${measurementName}: ${problem}`) }
  } finally {
    await Promise.all([...limiters.values()].flatMap(({ child, filler }) => [child, filler].map(each => each?.stop())))
  }
}

/** `chosen`: contenders by name. What is no contender elsewhere always takes part. */
function takesPart(name, { store }, { against, contenders: chosen }) {
  const decider = deciders[name]
  const isAsked = chosen === undefined || chosen.includes(name) || !(name in contenders)
  return decider.store === store && isAsked && (against !== undefined || !decider.isOtherBuild)
}

const databaseOf = name => Object.keys(deciders).indexOf(name) + 1

/** `filler`: the process that fills its logs, where these are in Redis. */
async function start(name, { keys }, { against }, redisPort) {
  const module = new URL('direct.mjs', import.meta.url)
  const { keepsLogs, store } = deciders[name]
  const settings = { name, keys, policy: POLICY, redis: redisPort, db: databaseOf(name), against }
  // Room for what is allocated between two collections of garbage.
  const execArgv = ['--expose-gc', '--max-semi-space-size=64']
  const child = await startChild(module, [JSON.stringify(settings)], execArgv)
  const fills = keepsLogs && store === 'redis'
  const filler = fills ? await startChild(module, [JSON.stringify({ ...settings, fills })]) : undefined
  return { child, filler, keepsLogs, from: undefined }
}

async function takeTurn(limiter, { task, rampMs }, redis) {
  const { child, filler, keepsLogs, from } = limiter
  if (keepsLogs) await (filler ?? child).ask({ kind: 'fill', from })
  if (rampMs !== undefined) await child.ask({ ...task, ms: rampMs })
  const before = await redis.cpu()
  const result = await child.ask(task)
  const redisUs = (await redis.cpu()) - before
  limiter.from = Date.now() + AHEAD_MS
  const { done, tookMs, times, ns, bytes, cpu } = result
  if (ns !== undefined) return { ns, bytes }
  const count = done ?? times.length
  const common = { ownUs: cpu / count, redisUs: redisUs / count }
  if (done !== undefined) return { ...common, perSecond: (done / tookMs) * 1000, redisShare: redisUs / 1000 / tookMs }
  const sorted = times.sort((one, other) => one - other)
  return { ...common, p50: sorted[count >> 1], p99: sorted[Math.floor(count * 0.99)] }
}

function rowsOf(taken) {
  return Object.fromEntries(
    Object.entries(taken).map(([name, own]) => {
      const row = Object.fromEntries(Object.keys(own[0]).map(field => [field, median(own.map(each => each[field]))]))
      return [name, row]
    }),
  )
}

/** Each key must have been counted apart, and in the log that was filled: else there are half as many, or twice. */
async function wrongLogs(names, { keys }, client) {
  const problems = []
  for (const name of names.filter(each => deciders[each].keepsLogs && deciders[each].store === 'redis')) {
    await client.select(databaseOf(name))
    const count = (await sortedSets(client)).length
    if (Math.abs(count - keys) > keys / 4) problems.push(`${name}: there were ${count} logs, not ${keys}`)
  }
  await client.select(0)
  return problems
}
