/** The plugin and its scripts under a virtual clock, in many schedules of what may happen; see CONTRIBUTING.md. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { type Plan, planOf } from './plan.js'
import { SimulatedRedis } from './redis.js'
import { run } from './run.js'
import { simulate } from './simulate.mjs'

const found = JSON.parse(readFileSync(new URL('found.json', import.meta.url), 'utf8')) as {
  readonly what: string
  readonly plan: Plan
}[]

const redis = await SimulatedRedis.create()

t.test('1,000 schedules of delays, losses, outages, deaths, resets and clock steps break no promise', async t => {
  const { code, said } = await simulate(['--seed', '1', '--schedules', '1000'])
  t.equal(code, 0, said)
  t.match(said, /^1000 schedules without a fault/)
})

for (const { what, plan } of found) {
  t.test(`found before: ${what}`, async t => {
    t.strictSame((await run(plan, redis)).wrong, [])
  })
}

t.test('the same seed has the same history, to the byte of what is stored', async t => {
  const histories = []
  for (let round = 0; round < 2; round++) {
    const trace: string[] = []
    for (let seed = 1; seed <= 12; seed++) {
      await run(planOf(seed), redis, { trace })
      trace.push(redis.dump(0))
    }
    histories.push(trace)
  }
  t.ok((histories[0]?.length ?? 0) > 100)
  t.strictSame(histories[0], histories[1])
})
