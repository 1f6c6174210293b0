import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { startChild } from './child.mjs'
import { conditionsOf, describe } from './conditions.mjs'
import { inferencePart, scenarios as models } from './inference/part.mjs'
import { keysPart } from './keys/part.mjs'
import { otherBuild } from './limiter/other-build.mjs'
import { contenders, limiterPart, measurements, scenarios } from './limiter/part.mjs'
import { overloadPart, scenarios as surges } from './overload/part.mjs'
import { startRedis } from './redis.mjs'
import { refusalsPart } from './refusals/part.mjs'
import { streamPart, scenarios as streams } from './stream/part.mjs'

const LIMITER = [...Object.keys(scenarios), ...Object.keys(measurements), 'memory']
const INFERENCE = [...Object.keys(models), 'neighbours']
const OVERLOAD = [...Object.keys(surges), 'flood', 'greedy']
const STREAM = streams.map(name => `stream-${name}`)
const SCENARIOS = {
  limiter: LIMITER,
  inference: INFERENCE,
  refusals: ['refusals'],
  keys: ['keys'],
  stream: STREAM,
  overload: OVERLOAD,
}
const PARTS = Object.keys(SCENARIOS)
const USAGE = `npm run bench -- [parts] [options]

Parts: ${PARTS.join(', ')}; all of them where none is named.

  --quick              less than a minute: fewer scenarios, contenders and rounds; the limiter alone unless parts are named
  --only <names>       scenarios, apart by commas.
${PARTS.map(part => `                       ${part}: ${SCENARIOS[part].join(', ')}`).join('\n')}
  --contenders <names> of the limiter, apart by commas: ${Object.keys(contenders).join(', ')}
  --redis <program>    of another Redis or Valkey server, to measure with that
  --against <folder>   another checkout of the plugin, built, to be measured beside this one: as contenders
                       ours-before (in Redis) and ours-before-memory (in process)
  --rounds <n>         rounds of each scenario
  --ms <n>             length of a slice: one contender in one round
  --calm <share>       retake a slice during which other programs took more of the machine than this (default 0.1)
  --retakes <n>        how often at most
  --profile <folder>   write a CPU profile of each server
  --json <file>        write what was measured`

const { values: given, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    contenders: { type: 'string' },
    redis: { type: 'string' },
    against: { type: 'string' },
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
const only = listOf(given.only, Object.values(SCENARIOS).flat())
const parts = partsOf(listOf(positionals.join(',') || undefined, PARTS))
const common = {
  quick: given.quick,
  rounds: numberOf(given.rounds),
  ms: numberOf(given.ms),
  calm: Number(given.calm),
  retakes: numberOf(given.retakes),
}

const against = orExit(() => given.against && otherBuild(given.against))
const redis = await startRedis(given.redis).catch(error =>
  orExit(() => {
    throw error
  }),
)
const load = await startChild(new URL('load.mjs', import.meta.url), [])
const conditions = await conditionsOf(redis, against)
console.log(`${describe(conditions)}\n`)
const tools = { redis, load, print: text => console.log(text), progress }
const results = {}
if (parts.includes('limiter')) {
  const options = {
    ...common,
    scenarios: only?.filter(name => name in scenarios),
    direct: only?.filter(name => name in measurements) ?? (given.quick ? [] : Object.keys(measurements)),
    against: against?.folder,
    contenders: listOf(given.contenders, Object.keys(contenders)),
    profile: given.profile,
    memory: only?.includes('memory') ?? true,
  }
  results.limiter = await limiterPart(options, tools)
}
if (parts.includes('inference')) {
  results.inference = await inferencePart(
    { ...common, scenarios: only?.filter(name => INFERENCE.includes(name)) },
    tools,
  )
}
if (parts.includes('refusals')) results.refusals = await refusalsPart(common, tools)
if (parts.includes('keys')) results.keys = await keysPart({ ...common, profile: given.profile }, tools)
if (parts.includes('stream')) {
  const named = only?.filter(name => STREAM.includes(name)).map(name => name.slice('stream-'.length))
  results.stream = await streamPart({ ...common, scenarios: named }, tools)
}
if (parts.includes('overload')) {
  results.overload = await overloadPart({ ...common, scenarios: only?.filter(name => OVERLOAD.includes(name)) }, tools)
}
await load.stop()
await redis.stop()

if (given.json !== undefined) {
  writeFileSync(given.json, `${JSON.stringify({ at: new Date().toISOString(), conditions, ...results })}\n`)
}
const problems = Object.values(results).flatMap(part => part.problems)
if (problems.length > 0) {
  console.error(['The run does not hold:', ...new Set(problems)].join('\n  '))
  process.exitCode = 1
}

/** The parts that are named, or that the scenarios belong to. */
function partsOf(named) {
  if (named !== undefined) return named
  if (only !== undefined) return PARTS.filter(part => only.some(name => SCENARIOS[part].includes(name)))
  return given.quick ? ['limiter'] : PARTS
}

/** @param {string | undefined} names @param {string[]} known */
function listOf(names, known) {
  const list = names?.split(',')
  for (const name of list ?? []) {
    if (known.includes(name)) continue
    console.error(`'${name}' is none of ${known.join(', ')}\n\n${USAGE}`)
    process.exit(2)
  }
  return list
}

/** What the user gave and cannot be met is told in one line. */
function orExit(read) {
  try {
    return read()
  } catch (error) {
    console.error(error.message)
    process.exit(2)
  }
}

/** @param {string | undefined} text */
function numberOf(text) {
  return text === undefined ? undefined : Number(text)
}

function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}
