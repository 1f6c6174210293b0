/**
 * Runs schedules of one seed after the other: `node simulate.mjs --seed 1 --schedules 1000`. The first that fails is made
 * small, and told with its history; the exit code is then 1.
 */
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { type Plan, planOf } from './plan.js'
import { SimulatedRedis } from './redis.js'
import { type Outcomes, run } from './run.js'
import { shrunk } from './shrink.js'

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    schedules: { type: 'string', default: '1000' },
    /** Of so many processes, and which one this is. */
    jobs: { type: 'string', default: '1' },
    job: { type: 'string', default: '0' },
    /** A file with one plan, in place of seeds. */
    plan: { type: 'string' },
    /** Tells the history of what did not fail, too. */
    history: { type: 'boolean', default: false },
    /** Tells no more than the seed of what failed. */
    brief: { type: 'boolean', default: false },
  },
})
for (const name of ['seed', 'schedules', 'jobs', 'job'] as const) {
  if (!/^\d{1,9}$/.test(values[name])) throw new TypeError(`--${name} takes a whole number of at most nine digits`)
}

const redis = await SimulatedRedis.create()
const first = Number(values.seed)
const schedules = values.plan === undefined ? Number(values.schedules) : 1
const began = performance.now()
const sums = { schedules: 0, units: 0, denials: 0, calls: 0 }
const byProfile = new Map<string, number>()

for (let index = Number(values.job); index < schedules; index += Number(values.jobs)) {
  const seed = first + index
  const plan = values.plan === undefined ? planOf(seed) : (JSON.parse(readFileSync(values.plan, 'utf8')) as Plan)
  const trace: string[] | undefined = values.history ? [] : undefined
  const outcomes = await run(plan, redis, trace === undefined ? {} : { trace })
  if (trace !== undefined) process.stdout.write(`${JSON.stringify(plan.settings)}\n${trace.join('\n')}\n`)
  if (outcomes.wrong.length > 0) {
    await tell(plan, outcomes)
    process.exit(1)
  }
  sums.schedules++
  sums.units += outcomes.units
  sums.denials += outcomes.denials
  sums.calls += outcomes.calls
  byProfile.set(plan.settings.profile, (byProfile.get(plan.settings.profile) ?? 0) + 1)
  if (sums.schedules % 1000 === 0) process.stderr.write(`${sums.schedules} schedules, seed ${seed}\n`)
}
const profiles = [...byProfile].map(([name, count]) => `${name} ${count}`).join(', ')
process.stdout.write(
  `${sums.schedules} schedules without a fault (${profiles}): ${sums.units} units admitted, ${sums.denials} checks denied, ` +
    `${sums.calls} script calls, ${Math.round((performance.now() - began) / 1000)} s\n`,
)

async function tell(plan: Plan, outcomes: Outcomes): Promise<void> {
  const say = (text: string) => process.stdout.write(`${text}\n`)
  say(`seed ${plan.seed}: ${outcomes.wrong[0]}`)
  say(`again: npm run simulate -- --seed ${plan.seed} --schedules 1`)
  if (values.brief) return
  const kind = kindOf(outcomes)
  const small = await shrunk(plan, async candidate => kindOf(await run(candidate, redis)) === kind)
  const trace: string[] = []
  const { wrong } = await run(small, redis, { trace })
  say(`\nThe plan, made small, for found.json:\n${JSON.stringify(small)}`)
  say(
    `\nIts history: milliseconds, then what happened. A script call shows its arguments and its reply.\n${trace.join('\n')}`,
  )
  say(`\n${wrong.join('\n')}`)
}

/** What was wrong, without its numbers. */
function kindOf({ wrong }: Outcomes): string {
  return (wrong[0] ?? '').replace(/[\d.]+/g, '#').replace(/:.*/, '')
}
