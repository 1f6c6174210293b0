import { cpus } from 'node:os'
import { startChild } from '../child.mjs'
import { machineWork } from '../conditions.mjs'
import { contenders } from './contenders.mjs'
import { KEY_HEADER, scenarios } from './scenarios.mjs'

const CONNECTIONS = 64

/**
 * One scenario: all contenders stand ready, each in a process of its own; in each round each is measured once, a new
 * one first every time. Gives the slices of each contender, in the order of the rounds.
 *
 * `ms`: a slice, after `warmUpMs`, which is not counted. `warmUpFirstMs`: for each contender before the first round.
 * `calm`: share of the machine that other programs may take during a slice, `retakes`: how often it is tried again.
 * `until`: no round is begun after it, but for the first (milliseconds of `performance.now()`). `profile`: a folder
 * for CPU profiles of the servers.
 *
 * @param {{ scenarioName: string, names: string[], rounds: number, ms: number, warmUpMs: number, warmUpFirstMs: number,
 *   calm: number, retakes: number, until: number, profile?: string }} plan
 */
export async function measure(plan, { redis, load, progress }) {
  const scenario = scenarios[plan.scenarioName]
  await redis.client.flushall()
  const servers = await startServers(plan, redis)
  const slices = Object.fromEntries(plan.names.map(name => [name, []]))
  const problems = []
  try {
    for (const name of plan.names) {
      problems.push(...(await warmUp(name, scenario, plan, servers.get(name), load)))
      progress(`${plan.scenarioName}, warming up, ${name}`)
    }
    for (let round = 0; round < plan.rounds && (round === 0 || performance.now() < plan.until); round++) {
      for (let turn = 0; turn < plan.names.length; turn++) {
        const name = plan.names[(turn + round) % plan.names.length]
        const slice = await takeCalmSlice(scenario, plan, servers.get(name), { redis, load, seed: round + 1 })
        slices[name].push(slice)
        problems.push(...checkSlice(slice, scenario).map(problem => `${name}: ${problem}`))
        progress(`${plan.scenarioName}, round ${round + 1} of ${plan.rounds}, ${name}`)
      }
    }
    await load.ask({ kind: 'hangUp' })
  } finally {
    await Promise.all([...servers.values()].map(server => server.stop()))
  }
  return { slices, problems }
}

async function startServers({ names, scenarioName, profile }, redis) {
  const module = new URL('server.mjs', import.meta.url)
  const servers = await Promise.all(
    names.map(name => {
      const file = `${scenarioName}-${name}.cpuprofile`
      const profiled = ['--cpu-prof', '--cpu-prof-dir', profile, '--cpu-prof-name', file]
      return startChild(module, [name, scenarioName, redis.port], profile === undefined ? [] : profiled)
    }),
  )
  return new Map(names.map((name, index) => [name, servers[index]]))
}

/** Uses up the quota of the hot keys, counting what passes, and lets the compiler of Node do its work. */
async function warmUp(name, scenario, plan, server, load) {
  const { port } = server.ready
  const task = { kind: 'closedLoop', port, keyHeader: KEY_HEADER, connections: CONNECTIONS }
  const problems = []
  if (scenario.hot !== undefined) {
    const quota = scenario.policies[0].max * scenario.hot.length
    const { statuses } = await load.ask({ ...task, keys: scenario.hot, requests: quota * 2 })
    const passed = statuses[200] ?? 0
    const wanted = contenders[name].store === 'none' ? 0 : quota
    if (passed !== wanted) problems.push(`${name}: ${passed} requests of hot keys passed, not ${wanted}`)
  }
  await load.ask({ ...task, keys: scenario.keys, warmUpMs: 0, ms: plan.warmUpFirstMs })
  return problems
}

/** A slice during which other programs kept the machine busy is taken again; the calmest counts. */
async function takeCalmSlice(scenario, plan, server, tools) {
  let best
  for (let attempt = 0; attempt <= plan.retakes; attempt++) {
    if (attempt > 0) await calmMoment(plan.calm)
    const slice = await takeSlice(scenario, plan, server, tools)
    if (best === undefined || slice.othersShare < best.othersShare) best = slice
    if (best.othersShare <= plan.calm) break
  }
  return best
}

/** Waits, half a second at most, until nobody else is busy: nothing of ours runs between two slices. */
async function calmMoment(calm) {
  const ms = 100
  for (let waited = 0; waited < 500; waited += ms) {
    const before = machineWork()
    await new Promise(resolve => setTimeout(resolve, ms))
    if ((machineWork() - before) / 1000 / ms / cpus().length <= calm) return
  }
}

async function takeSlice(scenario, plan, server, { redis, load, seed }) {
  const before = await work(server, redis)
  const { cpu: generator, ...result } = await load.ask({
    kind: scenario.rate === undefined ? 'closedLoop' : 'openLoop',
    port: server.ready.port,
    keys: scenario.keys,
    keyHeader: KEY_HEADER,
    connections: CONNECTIONS,
    rate: scenario.rate,
    warmUpMs: plan.warmUpMs,
    ms: plan.ms,
    seed,
  })
  const after = await work(server, redis)
  const took = after.at - before.at
  const own = after.server - before.server + after.redis - before.redis + generator
  return {
    ...result,
    serverUs: (after.server - before.server) / result.received,
    redisUs: (after.redis - before.redis) / result.received,
    generatorUs: generator / result.received,
    generatorShare: generator / took,
    othersShare: Math.max(0, (after.machine - before.machine - own) / took / cpus().length),
    rss: after.rss,
  }
}

async function work(server, redis) {
  const { cpu, rss } = await server.ask({})
  return { at: performance.now() * 1000, server: cpu, rss, redis: await redis.cpu(), machine: machineWork() }
}

/** What a slice must show for its figures to mean anything. */
function checkSlice({ received, statuses, generatorShare }, { denied }) {
  const problems = []
  const share = (statuses[429] ?? 0) / received
  if (Math.abs(share - denied) > (denied === 0.5 ? 0.01 : 0)) {
    problems.push(`${(share * 100).toFixed(2)}% were denied, not ${denied * 100}%`)
  }
  const others = Object.keys(statuses).filter(status => status !== '200' && status !== '429')
  if (others.length > 0) problems.push(`answered ${others.join(', ')}`)
  if (generatorShare > 0.9) problems.push('the load generator was the bottleneck')
  return problems
}
