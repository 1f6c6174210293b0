import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { startChild } from './child.mjs'
import { conditionsOf, describe } from './conditions.mjs'
import { contenders, limiterPart, scenarios } from './limiter/part.mjs'
import { startRedis } from './redis.mjs'

const USAGE = `npm run bench -- [options]

  --quick              less than a minute: fewer scenarios, contenders and rounds
  --only <names>       scenarios, apart by commas: ${Object.keys(scenarios).join(', ')}; or memory
  --contenders <names> apart by commas: ${Object.keys(contenders).join(', ')}
  --rounds <n>         rounds of each scenario
  --ms <n>             length of a slice: one contender in one round
  --calm <share>       retake a slice during which other programs took more of the machine than this (default 0.1)
  --retakes <n>        how often at most
  --profile <folder>   write a CPU profile of each server
  --json <file>        write what was measured`

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
const only = listOf(given.only, [...Object.keys(scenarios), 'memory'])
const options = {
  quick: given.quick,
  scenarios: only?.filter(name => name !== 'memory'),
  contenders: listOf(given.contenders, Object.keys(contenders)),
  rounds: numberOf(given.rounds),
  ms: numberOf(given.ms),
  calm: Number(given.calm),
  retakes: numberOf(given.retakes),
  profile: given.profile,
  memory: only?.includes('memory') ?? true,
}

const redis = await startRedis()
const load = await startChild(new URL('load.mjs', import.meta.url), [])
const conditions = await conditionsOf(redis)
console.log(`${describe(conditions)}\n`)
const limiter = await limiterPart(options, { redis, load, print: text => console.log(text), progress })
await load.stop()
await redis.stop()

if (given.json !== undefined) {
  writeFileSync(given.json, `${JSON.stringify({ at: new Date().toISOString(), conditions, limiter })}\n`)
}
if (limiter.problems.length > 0) {
  console.error(['The run does not hold:', ...new Set(limiter.problems)].join('\n  '))
  process.exitCode = 1
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

/** @param {string | undefined} text */
function numberOf(text) {
  return text === undefined ? undefined : Number(text)
}

function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}
