import { cpus } from 'node:os'
import { machineWork } from './conditions.mjs'

/**
 * Measures contenders in turn: in each round each is measured once, a new one first every time, so that what else the
 * machine does hits all alike. Gives the slices of each contender, in the order of the rounds, and what is wrong.
 *
 * `title`: what stands in the progress. `names`: the contenders. `rounds`: how many, at most. `until`: no round is begun
 * after it, but for the first (milliseconds of `performance.now()`). `calm`: share of the machine that other programs
 * may take during a slice; `retakes`: how often it is tried again.
 * `servers`: the children by contender. `taskOf(round)`: what the load generator is to do. `check(slice)`: what is wrong
 * with a slice, in words.
 *
 * @param {{ title: string, names: string[], rounds: number, until: number, calm: number, retakes: number }} plan
 * @param {{ servers: Map<string, object>, load: object, redis: object, taskOf: (round: number) => object,
 *   check: (slice: object) => string[], progress: (text: string) => void }} tools
 */
export async function takeRounds(plan, tools) {
  const slices = Object.fromEntries(plan.names.map(name => [name, []]))
  const problems = []
  for (let round = 0; round < plan.rounds && (round === 0 || performance.now() < plan.until); round++) {
    const task = tools.taskOf(round)
    for (let turn = 0; turn < plan.names.length; turn++) {
      const name = plan.names[(turn + round) % plan.names.length]
      const slice = await takeCalmSlice(plan, tools.servers.get(name), task, tools)
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
async function takeCalmSlice({ calm, retakes }, server, task, tools) {
  let best
  for (let attempt = 0; attempt <= retakes; attempt++) {
    if (attempt > 0) await calmMoment(calm)
    const slice = await takeSlice(server, task, tools)
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

async function takeSlice(server, task, { redis, load }) {
  const before = await work(server, redis)
  const { cpu: generator, ...result } = await load.ask({ ...task, port: server.ready.port })
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
