import { cpus } from 'node:os'
import { startChild } from './child.mjs'
import { machineWork } from './conditions.mjs'
import { contenders } from './contenders.mjs'
import { scenarios } from './scenarios.mjs'

const CONNECTIONS = 64

/**
 * One scenario: all contenders stand ready, each in a process of its own; in each round each is measured once, a new
 * one first every time. Gives the slices of each contender, in the order of the rounds.
 *
 * `until`: no round is begun after it, but for the first (milliseconds of `performance.now()`).
 *
 * @param {{ scenarioName: string, names: string[], rounds: number, until: number, ms: number, warmUpMs: number }} plan
 */
export async function measure(plan, { redis, load, progress }) {
  const scenario = scenarios[plan.scenarioName]
  await redis.client.flushall()
  const servers = new Map()
  const start = name => startChild(new URL('server.mjs', import.meta.url), [name, plan.scenarioName, redis.port])
  await Promise.all(plan.names.map(async name => servers.set(name, await start(name))))
  const slices = Object.fromEntries(plan.names.map(name => [name, []]))
  const problems = []
  try {
    for (const name of plan.names) {
      problems.push(...(await warmUp(name, scenario, plan, servers.get(name), load)))
    }
    for (let round = 0; round < plan.rounds && (round === 0 || performance.now() < plan.until); round++) {
      for (let turn = 0; turn < plan.names.length; turn++) {
        const name = plan.names[(turn + round) % plan.names.length]
        const slice = await takeSlice(scenario, plan, servers.get(name), { redis, load, seed: round + 1 })
        slices[name].push(slice)
        problems.push(...checkSlice(slice, scenario).map(problem => `${name}: ${problem}`))
        progress(`${plan.scenarioName}, round ${round + 1} of ${plan.rounds}, ${name}`)
      }
    }
  } finally {
    await Promise.all([...servers.values()].map(server => server.stop()))
  }
  return { slices, problems }
}

/** Uses up the quota of the hot keys, counting what passes, and lets the compiler of Node do its work. */
async function warmUp(name, scenario, plan, server, load) {
  const { port } = server.ready
  const problems = []
  if (scenario.hot !== undefined) {
    const admitted = scenario.policies[0].max * scenario.hot.length
    const task = { kind: 'exactly', port, keys: scenario.hot, connections: CONNECTIONS, requests: admitted * 2 }
    const { statuses } = await load.ask(task)
    const passed = statuses[200] ?? 0
    const wanted = contenders[name].store === 'none' ? 0 : admitted
    if (passed !== wanted) problems.push(`${name}: ${passed} requests of hot keys passed, not ${wanted}`)
  }
  await load.ask({
    kind: 'closedLoop',
    port,
    keys: scenario.keys,
    connections: CONNECTIONS,
    warmUpMs: 0,
    ms: plan.ms,
  })
  return problems
}

async function takeSlice(scenario, plan, server, { redis, load, seed }) {
  const before = await work(server, redis)
  const { cpu: generator, ...result } = await load.ask({
    kind: scenario.rate === undefined ? 'closedLoop' : 'openLoop',
    port: server.ready.port,
    keys: scenario.keys,
    connections: CONNECTIONS,
    rate: scenario.rate,
    warmUpMs: plan.warmUpMs,
    ms: plan.ms,
    seed,
  })
  const after = await work(server, redis)
  const took = after.at - before.at
  // Work is counted with the warm-up in it, so what is said of one request is divided by all of them.
  const requests = (result.answers * (plan.ms + plan.warmUpMs)) / plan.ms
  const own = after.server - before.server + after.redis - before.redis + generator
  return {
    ...result,
    serverUs: (after.server - before.server) / requests,
    redisUs: (after.redis - before.redis) / requests,
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
function checkSlice({ answers, statuses, unanswered }, { denied }) {
  const problems = []
  const share = (statuses[429] ?? 0) / answers
  if (Math.abs(share - denied) > (denied === 0.5 ? 0.01 : 0)) {
    problems.push(`${(share * 100).toFixed(2)}% were denied, not ${denied * 100}%`)
  }
  const others = Object.keys(statuses).filter(status => status !== '200' && status !== '429')
  if (others.length > 0) problems.push(`answered ${others.join(', ')}`)
  if (unanswered > 0) problems.push(`${unanswered} requests were left waiting`)
  return problems
}
