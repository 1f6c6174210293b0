import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { median } from '../summary.mjs'
import { capacityOf, messagesOf, offer, settingsOf, startContender } from './measure.mjs'

const POLITE = Array.from({ length: 9 }, (_, index) => `10.3.0.${index + 1}`)
const GREEDY = ['10.3.9.9']
/** Each of ten callers may use a tenth of the capacity. */
const CALLERS = 10
const WINDOW_SECONDS = 2
/** Requests of one caller that may be under way, so that nobody has all workers. */
const IN_FLIGHT = 1

/**
 * Nine callers at half their quota, alone and then beside one that sends fifty times its own.
 *
 * @param {{ deadlineMs: number }} scenario
 * @param {string} dir the folder of the model
 * @param {{ rounds: number, greedyMs: number, capacityMs: number, steps: number }} plan
 */
export async function measureGreedy(scenario, dir, plan, { load, say }) {
  say('capacity')
  const free = await startContender('protected', dir, settingsOf(scenario))
  const capacity = await capacityOf(free, scenario, { load, ms: plan.capacityMs, steps: plan.steps })
  await free.stop()
  const quota = Math.floor((capacity / CALLERS) * WINDOW_SECONDS)
  const policies = [{ name: 'requests', limit: quota, window: `${WINDOW_SECONDS}s` }]
  const limits = join(dir, 'limits.json')
  writeFileSync(limits, JSON.stringify({ anonymous: 'plan', plans: { plan: { policies, concurrency: IN_FLIGHT } } }))
  // 503 for overload, so that the figures tell it from a quota.
  const settings = { ...settingsOf(scenario), LIMITS_FILE: limits, TRUST_PROXY: '127.0.0.1', OVERLOAD_STATUS: '503' }
  const server = await startContender('protected', dir, settings)
  const each = quota / WINDOW_SECONDS
  const stream = (addresses, rate) => ({
    messages: messagesOf(addresses),
    phases: [
      { rate, ms: 500 },
      { rate, ms: plan.greedyMs },
    ],
  })
  const polite = { ...stream(POLITE, (POLITE.length * each) / 2), even: true }
  const greedy = stream(GREEDY, 50 * each)
  const rounds = []
  try {
    for (let round = 0; round < Math.max(3, plan.rounds); round++) {
      const ask = async streams => {
        const { results } = await offer(server, scenario, { load, seed: round + 1, streams })
        return results.map(([, counted]) => counted)
      }
      say(`round ${round + 1}, alone`)
      const [alone] = await ask([polite])
      // The quota of the last round is gone from the window.
      say(`round ${round + 1}, beside the greedy one`)
      const [beside, taken] = await ask([polite, greedy])
      rounds.push({ alone, beside, taken })
    }
  } finally {
    await server.stop()
    await load.ask({ kind: 'hangUp' })
  }
  return summariseGreedy(rounds, { quota, capacity })
}

function summariseGreedy(rounds, { quota, capacity }) {
  const sum = pick => rounds.reduce((total, round) => total + pick(round), 0)
  const of = pick => median(rounds.map(pick))
  const result = {
    capacity,
    quota,
    windowSeconds: WINDOW_SECONDS,
    polite: {
      sent: sum(({ beside }) => beside.sent),
      denied: sum(({ beside }) => beside.statuses[429] ?? 0),
      overloaded: sum(({ beside }) => beside.statuses[503] ?? 0),
      unserved: sum(({ beside }) => beside.sent - beside.good),
      p99Alone: of(({ alone }) => alone.p99),
      p99Beside: of(({ beside }) => beside.p99),
      ratio: of(({ alone, beside }) => beside.p99 / alone.p99),
    },
    greedy: {
      sentPerSecond: of(({ taken }) => taken.sent / (taken.ms / 1000)),
      servedPerSecond: of(({ taken }) => (taken.good + taken.late) / (taken.ms / 1000)),
      refusalP99: of(({ taken }) => taken.refusalP99),
    },
  }
  const { denied, overloaded, unserved, ratio } = result.polite
  const problems = []
  if (denied + overloaded > 0) problems.push(`the polite ones got ${denied} × 429 and ${overloaded} × 503`)
  else if (unserved > 0) problems.push(`${unserved} of the polite ones were not answered in time`)
  if (!(ratio <= 1.5)) problems.push(`the p99 of the polite ones is ${ratio.toFixed(2)} of what it is alone`)
  return { ...result, problems }
}
