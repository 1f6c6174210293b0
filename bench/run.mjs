import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { startChild } from './child.mjs'
import { conditionsOf, versionOf } from './conditions.mjs'
import { contenders } from './contenders.mjs'
import { measure } from './measure.mjs'
import { startRedis } from './redis.mjs'
import { scenarios } from './scenarios.mjs'
import { summarise } from './summary.mjs'
import { tableOf } from './table.mjs'

const USAGE = `npm run bench -- [options]

  --quick              less than a minute: short rounds, few of them
  --only <names>       scenarios to run, apart by commas: ${Object.keys(scenarios).join(', ')}
  --contenders <names> apart by commas: ${Object.keys(contenders).join(', ')}
  --rounds <n>         rounds of each scenario
  --ms <n>             length of a slice: one contender in one round
  --calm <share>       retake a slice during which other programs took more of the machine than this (default 0.1)
  --retakes <n>        how often at most
  --profile <folder>   write a CPU profile of each server
  --json <file>        write everything that was measured`

const { values: given } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    contenders: { type: 'string' },
    rounds: { type: 'string' },
    ms: { type: 'string' },
    calm: { type: 'string', default: '0.1' },
    retakes: { type: 'string' },
    profile: { type: 'string' },
    json: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})
if (given.help) {
  console.log(USAGE)
  process.exit(0)
}

const FULL = { rounds: 60, ms: 100, pacedRounds: 20, pacedMs: 1000, warmUpFirstMs: 1500, retakes: 3 }
const QUICK = {
  only: 'allowed,denied,policies,paced',
  contenders: 'bare,ours-redis,fastify-redis,flexible-redis,ours-memory,fastify-memory,flexible-memory',
  rounds: 20,
  ms: 80,
  pacedRounds: 3,
  pacedMs: 400,
  warmUpFirstMs: 500,
  retakes: 0,
}
/** A quick run begins no round after this. */
const QUICK_MS = 50_000

const standard = given.quick ? QUICK : FULL
const chosen = listOf(given.only ?? standard.only, scenarios)
const entrants = listOf(given.contenders ?? standard.contenders, contenders).filter(
  name => !name.startsWith('async-') || versionOf('async-ratelimiter') !== undefined,
)

const redis = await startRedis()
const load = await startChild(new URL('load.mjs', import.meta.url), [])
const conditions = await conditionsOf(redis)
console.log(`${describe(conditions)}\n`)

const results = {}
const problems = []
for (const [index, scenarioName] of chosen.entries()) {
  const paced = scenarios[scenarioName].rate !== undefined
  const plan = {
    scenarioName,
    names: entrants.filter(name => contenders[name].only?.includes(scenarioName) ?? true),
    rounds: Number(given.rounds ?? (paced ? standard.pacedRounds : standard.rounds)),
    ms: Number(given.ms ?? (paced ? standard.pacedMs : standard.ms)),
    warmUpMs: paced ? 100 : 20,
    warmUpFirstMs: standard.warmUpFirstMs,
    until: given.quick ? (QUICK_MS / chosen.length) * (index + 1) : Number.POSITIVE_INFINITY,
    calm: Number(given.calm),
    retakes: Number(given.retakes ?? standard.retakes),
    ...(given.profile && { profile: given.profile }),
  }
  const { slices, problems: found } = await measure(plan, { redis, load, progress })
  progress('')
  const rows = summarise(slices)
  results[scenarioName] = { plan, rows, slices }
  problems.push(...found.map(problem => `${scenarioName}: ${problem}`))
  console.log(`${tableOf(scenarioName, rows)}\n`)
}
await load.stop()
await redis.stop()

if (given.json !== undefined) {
  writeFileSync(given.json, `${JSON.stringify({ at: new Date().toISOString(), conditions, results, problems })}\n`)
}
if (problems.length > 0) {
  console.error(['The run does not hold:', ...new Set(problems)].join('\n  '))
  process.exitCode = 1
}

function listOf(names, known) {
  const list = names === undefined ? Object.keys(known) : names.split(',')
  for (const name of list) {
    if (known[name] === undefined) {
      console.error(`'${name}' is none of ${Object.keys(known).join(', ')}\n\n${USAGE}`)
      process.exit(2)
    }
  }
  return list
}

function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

function describe({ cpu, cores, memoryGiB, system, node, redis: version, packages, loadBefore }) {
  const versions = Object.entries(packages).map(([name, number]) => `${name} ${number ?? 'not installed'}`)
  return [
    `${cpu}, ${cores} cores, ${memoryGiB} GiB, ${system}, load before ${loadBefore}`,
    `Node ${node}, Redis ${version} on the loopback, 64 connections, generator in a process of its own`,
    versions.join(', '),
  ].join('\n')
}
