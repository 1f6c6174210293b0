import { cpus } from 'node:os'
import { machineWork } from './conditions.mjs'

/**
 * Measures contenders in turn: in each round each is measured once, a new one first every time, so that what else the
 * machine does hits all alike. Gives the slices of each contender, in the order of the rounds, and what is wrong.
 *
 * `title`: what stands in the progress. `names`: the contenders. `rounds`: how many, at most. `until`: no round is begun
 * after it, but for the first (milliseconds of `performance.now()`). `calm`: share of the machine that other programs
 * may take during a slice; `retakes`: how often it is tried again.
 * `rampMs`: how long the load goes on before a slice, which is no part of it.
 * `servers`: the children by contender. `taskOf(round)`: what the load generator is to do. `check(slice)`: what is wrong
 * with a slice, in words. `helpers`: other children of ours that work during a slice and give their `cpu`.
 * `prepare(name)`: called before each slice; `finish(name)`: after it.
 *
 * @param {{ title: string, names: string[], rounds: number, until: number, calm: number, retakes: number,
 *   rampMs?: number }} plan
 * @param {{ servers: Map<string, object>, load: object, redis: object, taskOf: (round: number) => object,
 *   check: (slice: object) => string[], progress: (text: string) => void, helpers?: object[],
 *   prepare?: (name: string) => unknown, finish?: (name: string) => unknown }} tools
 */
export async function takeRounds(plan, tools) {
  const slices = Object.fromEntries(plan.names.map(name => [name, []]))
  const problems = []
  for (let round = 0; round < plan.rounds && (round === 0 || performance.now() < plan.until); round++) {
    const task = tools.taskOf(round)
    for (let turn = 0; turn < plan.names.length; turn++) {
      const name = plan.names[(turn + round) % plan.names.length]
      const slice = await takeCalmSlice(plan, name, task, tools)
      slices[name].push(slice)
      problems.push(...checkedSlice(slice, tools.check).map(problem => `${plan.title}: ${name}: ${problem}`))
      tools.progress(`${plan.title}, round ${round + 1} of ${plan.rounds}, ${name}`)
    }
  }
  return { slices, problems }
}

function checkedSlice(slice, check) {
  const problems = check(slice)
  if (slice.generatorShare > 0.9) problems.push('the load generator was the bottleneck')
  return problems
}

/** A slice during which other programs kept the machine busy is taken again; the calmest counts. */
async function takeCalmSlice({ calm, retakes, rampMs = 0 }, name, task, tools) {
  let best
  for (let attempt = 0; attempt <= retakes; attempt++) {
    if (attempt > 0) await calmMoment(calm)
    await tools.prepare?.(name)
    const slice = await takeSlice(tools.servers.get(name), task, rampMs, tools)
    await tools.finish?.(name)
    if (best === undefined || slice.othersShare < best.othersShare) best = slice
    if (best.othersShare <= calm) break
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

async function takeSlice(server, task, rampMs, { redis, load, helpers = [] }) {
  const { port } = server.ready
  if (rampMs > 0) await load.ask({ ...task, port, warmUpMs: 0, ms: rampMs })
  const before = await work(server, redis, helpers)
  const { cpu: generator, ...result } = await load.ask({ ...task, port })
  const after = await work(server, redis, helpers)
  const took = after.at - before.at
  const own = ['server', 'redis', 'helpers'].reduce((sum, part) => sum + after[part] - before[part], generator)
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

async function work(server, redis, helpers) {
  const { cpu, rss } = await server.ask({})
  let helped = 0
  for (const helper of helpers) helped += (await helper.ask({})).cpu
  return {
    at: performance.now() * 1000,
    server: cpu,
    rss,
    redis: await redis.cpu(),
    helpers: helped,
    machine: machineWork(),
  }
}
