import { networkInterfaces } from 'node:os'
import { versionOf } from '../conditions.mjs'
import { claimsOf } from './claims.mjs'
import { contenders, takesPart } from './contenders.mjs'
import { measureDirect, measurements } from './direct-part.mjs'
import { figuresOf } from './figures.mjs'
import { measure } from './measure.mjs'
import { bytesPerKey } from './memory.mjs'
import { scenarios } from './scenarios.mjs'
import { directTableOf, memoryTableOf, tableOf } from './table.mjs'

/** `long`: of scenarios with slices in which prefetched quota reaches a steady state. */
const FULL = {
  scenarios: Object.keys(scenarios),
  contenders: Object.keys(contenders),
  short: { rounds: 60, ms: 100, warmUpMs: 20, rampMs: 0 },
  long: { rounds: 8, ms: 2000, warmUpMs: 20, rampMs: 1500 },
  warmUpFirstMs: 1500,
  retakes: 3,
}
const QUICK = {
  scenarios: ['allowed', 'one-key', 'denied'],
  contenders: [
    'bare',
    'ours-redis',
    'ours-redis-no-prefetch',
    'ours-before',
    'fastify-redis',
    'flexible-redis',
    'ours-memory',
    'fastify-memory',
    'flexible-memory',
  ],
  short: { rounds: 20, ms: 80, warmUpMs: 20, rampMs: 0 },
  long: { rounds: 3, ms: 400, warmUpMs: 20, rampMs: 600 },
  warmUpFirstMs: 300,
  retakes: 0,
}
/** A quick run begins no round after this. */
const QUICK_MS = 40_000

export { claimsOf, contenders, measurements, scenarios }

/**
 * The limiter beside its peers. `options`: as on the command line; what is left out is as a full or a quick run has it.
 * `direct`: what is measured without HTTP. `against`: the folder of another build of the plugin.
 *
 * @param {{ quick: boolean, scenarios?: string[], direct: string[], contenders?: string[], rounds?: number, ms?: number,
 *   calm: number, retakes?: number, profile?: string, memory: boolean, against?: string }} options
 * @param {{ redis: object, load: object, print: (text: string) => void, progress: (text: string) => void }} tools
 */
export async function limiterPart(options, { redis, load, print, progress }) {
  const standard = options.quick ? QUICK : FULL
  const chosen = options.scenarios ?? standard.scenarios
  const names = (options.contenders ?? standard.contenders).filter(name => isHere(name, options))
  const results = { scenarios: {}, direct: {} }
  const problems = []
  const began = performance.now()
  for (const [index, scenarioName] of chosen.entries()) {
    const { byAddress, long } = scenarios[scenarioName]
    if (byAddress && !hasIpv6()) {
      problems.push(`${scenarioName}: not measured, since this machine has no IPv6`)
      continue
    }
    const slices = long ? standard.long : standard.short
    const plan = {
      ...slices,
      scenarioName,
      names: names.filter(name => takesPart(name, scenarioName, scenarios)),
      rounds: options.rounds ?? slices.rounds,
      ms: options.ms ?? slices.ms,
      warmUpFirstMs: standard.warmUpFirstMs,
      until: options.quick ? began + (QUICK_MS / chosen.length) * (index + 1) : Number.POSITIVE_INFINITY,
      calm: options.calm,
      retakes: options.retakes ?? standard.retakes,
      against: options.against,
      ...(options.profile && { profile: options.profile }),
    }
    const measured = await measure(plan, { redis, load, progress })
    progress('')
    const perSecond = Object.entries(measured.slices).map(([name, own]) => [
      name,
      own.map(slice => Math.round(slice.perSecond)),
    ])
    const { entries, roundTripMs } = measured
    const rows = figuresOf(measured.slices)
    results.scenarios[scenarioName] = {
      ms: plan.ms,
      rows,
      entries,
      roundTripMs,
      perSecond: Object.fromEntries(perSecond),
    }
    problems.push(...measured.problems)
    print(`${tableOf(scenarioName, results.scenarios[scenarioName])}\n`)
  }
  for (const measurementName of options.direct) {
    const { rows, problems: found } = await measureDirect(measurementName, options, { redis, progress })
    progress('')
    results.direct[measurementName] = { rows }
    problems.push(...found)
    print(`${directTableOf(measurementName, { rows })}\n`)
  }
  if (options.memory) {
    results.memory = await bytesPerKey(names, redis.port, options.against)
    problems.push(...results.memory.problems)
    print(`${memoryTableOf(results.memory)}\n`)
  }
  for (const claim of claimsOf(results)) print(`${claim}\n`)
  return { ...results, problems }
}

/** Where addresses of IPv4 are mapped. */
function hasIpv6() {
  return Object.values(networkInterfaces()).some(addresses => addresses?.some(({ family }) => family === 'IPv6'))
}

/** One contender is optional: see the results page. Another build takes part where one is given. */
function isHere(name, { against }) {
  if (name.startsWith('async-')) return versionOf('async-ratelimiter') !== undefined
  return against !== undefined || !contenders[name].isOtherBuild
}
