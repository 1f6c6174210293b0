import { Redis } from 'ioredis'
import { startChild } from '../child.mjs'
import { takeRounds } from '../rounds.mjs'
import { median } from '../summary.mjs'
import { contenders, databaseOf } from './contenders.mjs'
import { fillBy, historyCost, keysOf, sortedSets } from './history.mjs'
import { ADDRESSES, KEY_HEADER, scenarios } from './scenarios.mjs'

const CONNECTIONS = 64
/** Prefetched quota is dated ahead by no more than this, so an entry that is written later is the newest. */
const AHEAD_MS = 1100
/** A log has lost no more than this share of its entries while it waited for its turn. */
const FULL_LOG = 90

/**
 * One scenario: all contenders stand ready, each in a process of its own, and are measured in turn.
 *
 * `ms`: a slice, after `warmUpMs`, which is not counted. `warmUpFirstMs`: for each contender before the first round.
 * `profile`: a folder for CPU profiles of the servers. `against`: the folder of another build of the plugin. For the
 * others see `takeRounds`.
 *
 * Gives the slices, what is wrong, how many entries the logs in Redis had after a slice (by contender), and the round trip
 * to Redis in milliseconds where a delay was put in front of it.
 *
 * @param {{ scenarioName: string, names: string[], rounds: number, ms: number, rampMs: number, warmUpMs: number,
 *   warmUpFirstMs: number, calm: number, retakes: number, until: number, profile?: string, against?: string }} plan
 */
export async function measure(plan, { redis, load, progress }) {
  const scenario = scenarios[plan.scenarioName]
  await redis.client.flushall()
  const network = scenario.delayMs === undefined ? undefined : await startDelay(redis.port, scenario.delayMs)
  const servers = await startServers(plan, network?.ready.port ?? redis.port)
  const logs = await logsOf(plan, scenario, servers, redis.port, load)
  try {
    const problems = []
    for (const name of plan.names) {
      problems.push(...(await warmUp(name, scenario, plan, { server: servers.get(name), load, redis, logs })))
      progress(`${plan.scenarioName}, warming up, ${name}`)
    }
    const { rate } = scenario
    const taken = await takeRounds(
      { ...plan, title: plan.scenarioName },
      {
        servers,
        load,
        redis,
        progress,
        helpers: network === undefined ? [] : [network],
        prepare: name => logs.fill(name),
        finish: name => logs.rest(name, redis.client),
        taskOf: round => ({
          kind: rate === undefined ? 'closedLoop' : 'openLoop',
          ...requestsOf(scenario),
          connections: CONNECTIONS,
          rate,
          warmUpMs: plan.warmUpMs,
          ms: plan.ms,
          seed: round + 1,
        }),
        check: slice => checkSlice(slice, scenario),
      },
    )
    const entries = logs.entries()
    for (const [name, count] of Object.entries(entries)) {
      if (count < FULL_LOG) problems.push(`${plan.scenarioName}: ${name}: a log had ${count} entries when measured`)
    }
    return {
      slices: taken.slices,
      entries,
      roundTripMs: network && (await roundTripOf(network.ready.port)),
      problems: [...problems, ...taken.problems],
    }
  } finally {
    await load.ask({ kind: 'hangUp' })
    await Promise.all([...servers.values(), ...logs.children, ...(network ? [network] : [])].map(each => each.stop()))
  }
}

const messageOf = key => `GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n${KEY_HEADER}: ${key}\r\n\r\n`
const messagesOf = keys => keys.map(messageOf)

/** What the load generator sends, and from where. */
function requestsOf({ byAddress, keys }) {
  if (keys === undefined) {
    const [before, after] = messageOf('cold-|').split('|')
    return { fresh: { before, after } }
  }
  return { messages: messagesOf(keys), addresses: byAddress ? ADDRESSES : undefined }
}

async function startServers(plan, redisPort) {
  const module = new URL('server.mjs', import.meta.url)
  const servers = await Promise.all(
    plan.names.map(name => {
      const file = `${plan.scenarioName}-${name}.cpuprofile`
      const profiled = ['--cpu-prof', '--cpu-prof-dir', plan.profile, '--cpu-prof-name', file]
      return startChild(module, [settingsOf(name, plan, redisPort)], plan.profile === undefined ? [] : profiled)
    }),
  )
  return new Map(plan.names.map((name, index) => [name, servers[index]]))
}

const settingsOf = (name, { scenarioName, against }, redisPort) =>
  JSON.stringify({ name, scenarioName, redis: redisPort, db: databaseOf(name), against })

const startDelay = (port, ms) => startChild(new URL('../delay.mjs', import.meta.url), [String(port), String(ms)])

async function roundTripOf(port) {
  const client = new Redis({ port, host: '127.0.0.1' })
  const times = []
  for (let index = 0; index < 50; index++) {
    const since = performance.now()
    await client.ping()
    times.push(performance.now() - since)
  }
  client.disconnect()
  return median(times)
}

/**
 * The logs of ours, which are to be full when a slice begins: those in Redis are filled by another process, those of a
 * process by requests to it, while its clock is set. `fill(name)` fills them from when the contender was last
 * asked until now, and resolves to how often each key was charged. `rest(name, client)` says that it was asked until now,
 * and looks at what a few logs in Redis hold. `entries()`: the median of that, by contender.
 */
async function logsOf(plan, scenario, servers, redisPort, load) {
  const kept = scenario.history ? plan.names.filter(name => contenders[name].keepsLogs) : []
  const areInRedis = name => kept.includes(name) && contenders[name].store === 'redis'
  const module = new URL('filler.mjs', import.meta.url)
  const fillers = new Map()
  for (const name of kept.filter(areInRedis)) {
    fillers.set(name, await startChild(module, [settingsOf(name, plan, redisPort)]))
  }
  const fillInProcess = name => {
    const server = servers.get(name)
    const keys = keysOf(scenario)
    const task = { kind: 'closedLoop', port: server.ready.port, connections: CONNECTIONS }
    const { addresses } = requestsOf(scenario)
    const charge = () =>
      load.ask({ ...task, addresses, messages: messagesOf(keys), requests: Math.max(keys.length, CONNECTIONS) })
    const clock = { set: ms => server.ask({ clock: ms }), unset: () => server.ask({ clock: null }) }
    return fillBy(charge, scenario.policies, clock)
  }
  const asked = new Map()
  const samples = new Map()
  const counts = new Map()
  return {
    children: [...fillers.values()],
    areInRedis,
    async fill(name) {
      if (!kept.includes(name)) return 0
      const from = asked.get(name)
      const filler = fillers.get(name)
      return filler === undefined ? fillInProcess(name)(from) : (await filler.ask({ from })).charges
    },
    async rest(name, client) {
      asked.set(name, Date.now() + AHEAD_MS)
      if (!areInRedis(name)) return
      await inDatabaseOf(name, client, async () => {
        if (!samples.has(name)) samples.set(name, await fullestLogs(client))
        else counts.set(name, [...(counts.get(name) ?? []), ...(await entriesOf(samples.get(name), client))])
      })
    },
    entries: () => Object.fromEntries([...counts].map(([name, found]) => [name, median(found)])),
  }
}

/** Up to fifty logs, none of which has less than half of the entries of the fullest. */
async function fullestLogs(client) {
  const sets = await sortedSets(client)
  const counts = await entriesOf(sets, client)
  const most = Math.max(...counts)
  return sets.filter((_, index) => counts[index] >= most / 2).slice(0, 50)
}

const entriesOf = (logs, client) => Promise.all(logs.map(log => client.zcard(log)))

/** Fills the logs, uses up the quota of the hot keys, counting what passes, and lets the compiler of Node do its work. */
async function warmUp(name, scenario, plan, { server, load, redis, logs }) {
  const task = { kind: 'closedLoop', port: server.ready.port, connections: CONNECTIONS }
  const problems = []
  const charged = await logs.fill(name)
  const before = logs.areInRedis(name) ? await countSets(redis.client, name) : 0
  if (scenario.hot !== undefined) {
    // The first charge is that of a request.
    const units = charged === 0 || !logs.areInRedis(name) ? charged : (charged - 1) * historyCost(scenario) + 1
    const quota = (scenario.policies[0].max - units) * scenario.hot.length
    const { statuses } = await load.ask({ ...task, messages: messagesOf(scenario.hot), requests: quota * 2 })
    const passed = statuses[200] ?? 0
    const wanted = contenders[name].store === 'none' ? 0 : quota
    if (passed !== wanted) {
      problems.push(`${plan.scenarioName}: ${name}: ${passed} requests of hot keys passed, not ${wanted}`)
    }
  }
  await load.ask({ ...task, ...requestsOf(scenario), warmUpMs: 0, ms: plan.warmUpFirstMs })
  if (logs.areInRedis(name) && charged < FULL_LOG) {
    problems.push(`${plan.scenarioName}: ${name}: the logs were charged ${charged} times`)
  }
  if (logs.areInRedis(name) && scenario.concurrency === undefined) {
    const added = (await countSets(redis.client, name)) - before
    // As many again, if the limiter that filled them had another name.
    if (added > before / 2 + 5) {
      problems.push(`${plan.scenarioName}: ${name}: the logs that were filled are not those that are measured`)
    }
  }
  await logs.rest(name, redis.client)
  return problems
}

async function inDatabaseOf(name, client, act) {
  await client.select(databaseOf(name))
  try {
    return await act()
  } finally {
    await client.select(0)
  }
}

const countSets = (client, name) => inDatabaseOf(name, client, async () => (await sortedSets(client)).length)

/** What a slice must show for its figures to mean anything. */
function checkSlice({ received, statuses }, { denied }) {
  const problems = []
  const share = (statuses[429] ?? 0) / received
  if (Math.abs(share - denied) > (denied === 0.5 ? 0.01 : 0)) {
    problems.push(`${(share * 100).toFixed(2)}% were denied, not ${denied * 100}%`)
  }
  const others = Object.keys(statuses).filter(status => status !== '200' && status !== '429')
  if (others.length > 0) problems.push(`answered ${others.join(', ')}`)
  return problems
}
