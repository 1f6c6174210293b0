import { versionOf } from '../conditions.mjs'
import { summarise } from '../summary.mjs'
import { contenders } from './contenders.mjs'
import { measure } from './measure.mjs'
import { bytesPerKey } from './memory.mjs'
import { scenarios } from './scenarios.mjs'
import { memoryTableOf, tableOf } from './table.mjs'

const FULL = {
  scenarios: Object.keys(scenarios),
  contenders: Object.keys(contenders),
  rounds: 60,
  ms: 100,
  pacedRounds: 20,
  pacedMs: 1000,
  warmUpFirstMs: 1500,
  retakes: 3,
}
const QUICK = {
  scenarios: ['allowed', 'denied', 'policies', 'paced'],
  contenders: [
    'bare',
    'ours-redis',
    'fastify-redis',
    'flexible-redis',
    'ours-memory',
    'fastify-memory',
    'flexible-memory',
  ],
  rounds: 20,
  ms: 80,
  pacedRounds: 3,
  pacedMs: 400,
  warmUpFirstMs: 500,
  retakes: 0,
}
/** A quick run begins no round after this. */
const QUICK_MS = 46_000

export { contenders, scenarios }

/**
 * The limiter beside its peers. `options`: as on the command line; what is left out is as a full or a quick run has it.
 *
 * @param {{ quick: boolean, scenarios?: string[], contenders?: string[], rounds?: number, ms?: number, calm: number,
 *   retakes?: number, profile?: string, memory: boolean }} options
 * @param {{ redis: object, load: object, print: (text: string) => void, progress: (text: string) => void }} tools
 */
export async function limiterPart(options, { redis, load, print, progress }) {
  const standard = options.quick ? QUICK : FULL
  const chosen = options.scenarios ?? standard.scenarios
  const names = (options.contenders ?? standard.contenders).filter(installed)
  const results = {}
  const problems = []
  const began = performance.now()
  for (const [index, scenarioName] of chosen.entries()) {
    const paced = scenarios[scenarioName].rate !== undefined
    const plan = {
      scenarioName,
      names: names.filter(name => contenders[name].only?.includes(scenarioName) ?? true),
      rounds: options.rounds ?? (paced ? standard.pacedRounds : standard.rounds),
      ms: options.ms ?? (paced ? standard.pacedMs : standard.ms),
      warmUpMs: paced ? 100 : 20,
      warmUpFirstMs: standard.warmUpFirstMs,
      until: options.quick ? began + (QUICK_MS / chosen.length) * (index + 1) : Number.POSITIVE_INFINITY,
      calm: options.calm,
      retakes: options.retakes ?? standard.retakes,
      ...(options.profile && { profile: options.profile }),
    }
    const { slices, problems: found } = await measure(plan, { redis, load, progress })
    progress('')
    const rows = summarise(slices)
    const perSecond = Object.entries(slices).map(([name, own]) => [name, own.map(slice => Math.round(slice.perSecond))])
    results[scenarioName] = { ms: plan.ms, rows, perSecond: Object.fromEntries(perSecond) }
    problems.push(...found)
    print(`${tableOf(scenarioName, rows)}\n`)
  }
  if (!options.memory) return { scenarios: results, problems }
  const memory = await bytesPerKey(names, redis.port)
  problems.push(...memory.problems)
  print(`${memoryTableOf(memory)}\n`)
  return { scenarios: results, memory, problems }
}

/** One contender is optional: see the results page. */
function installed(name) {
  return !name.startsWith('async-') || versionOf('async-ratelimiter') !== undefined
}
