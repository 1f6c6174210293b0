import { measureFlood } from './flood.mjs'
import { measureGreedy } from './greedy.mjs'
import { capacityOf, obeyedBy, rowMsOf, settingsOf, startContender, summariseSurges, surgeOf } from './measure.mjs'
import { busyModel } from './model.mjs'
import { contenders, LOADS, scenarios } from './scenarios.mjs'
import { floodTableOf, greedyTableOf, overloadTableOf } from './table.mjs'

const FULL = { rounds: 3, beforeMs: 1000, ms: 4000, afterMs: 2000, capacityMs: 3000, steps: 7, greedyMs: 5000 }
const QUICK = { rounds: 1, beforeMs: 600, ms: 2000, afterMs: 1200, capacityMs: 1000, steps: 5, greedyMs: 3000 }

/**
 * The service under more than it can do, beside a server that takes everything. `options`: as on the command line.
 *
 * @param {{ quick: boolean, scenarios?: string[], rounds?: number, ms?: number }} options
 * @param {{ load: object, print: (text: string) => void, progress: (text: string) => void }} tools
 */
export async function overloadPart(options, { load, print, progress }) {
  const standard = options.quick ? QUICK : FULL
  const plan = { ...standard, rounds: options.rounds ?? standard.rounds, ms: options.ms ?? standard.ms }
  const chosen = options.scenarios ?? [...Object.keys(scenarios), 'flood', 'greedy']
  const models = {}
  const problems = []
  let flood
  let greedy
  for (const scenarioName of Object.keys(scenarios)) {
    const withGreedy = scenarioName === 'heavy' && chosen.includes('greedy')
    const withFlood = scenarioName === 'light' && chosen.includes('flood')
    if (!chosen.includes(scenarioName) && !withGreedy && !withFlood) continue
    const scenario = scenarios[scenarioName]
    const { dir, remove } = await busyModel(scenario.model)
    try {
      if (chosen.includes(scenarioName)) {
        const say = text => progress(`overload, ${scenarioName}, ${text}`)
        models[scenarioName] = await measureScenario(scenario, dir, plan, { load, say })
        progress('')
        problems.push(...problemsOf(models[scenarioName], scenario).map(problem => `${scenarioName}: ${problem}`))
        print(`${overloadTableOf(scenarioName, models[scenarioName])}\n`)
      }
      if (withFlood) {
        const say = text => progress(`overload, flood, ${text}`)
        flood = await measureFlood(scenario, dir, plan, { load, say })
        progress('')
        print(`${floodTableOf(flood)}\n`)
      }
      if (withGreedy) {
        const say = text => progress(`overload, greedy, ${text}`)
        greedy = await measureGreedy(scenario, dir, plan, { load, say })
        progress('')
        problems.push(...greedy.problems.map(problem => `greedy: ${problem}`))
        print(`${greedyTableOf(greedy)}\n`)
      }
    } finally {
      remove()
    }
  }
  return { models, ...(flood && { flood }), ...(greedy && { greedy }), problems }
}

/** Both contenders, in turn at each load, each in multiples of its own capacity. */
async function measureScenario(scenario, dir, plan, { load, say }) {
  const settings = settingsOf(scenario)
  const results = {}
  const standing = await startContender('protected', dir, settings)
  const start = name => (contenders[name].fresh ? startContender(name, dir) : standing)
  const end = (name, server) => (contenders[name].fresh ? server.kill() : undefined)
  try {
    for (const name of Object.keys(contenders)) {
      say(`capacity, ${name}`)
      const server = await start(name)
      const rowMs = await rowMsOf(server, { load, ms: plan.capacityMs })
      const capacity = await capacityOf(server, scenario, { load, ms: plan.capacityMs, steps: plan.steps })
      results[name] = { rowMs, capacity, surges: LOADS.map(() => []) }
      await end(name, server)
    }
    for (let round = 0; round < plan.rounds; round++) {
      for (const [index, factor] of LOADS.entries()) {
        for (const [name, { capacity, surges }] of Object.entries(results)) {
          say(`round ${round + 1} of ${plan.rounds}, ${factor} times the capacity, ${name}`)
          const server = await start(name)
          // What was normal while there was no surge, and no more than twice that.
          const [calm] = surges[0]
          const quickMs = calm === undefined ? scenario.deadlineMs : Math.min(2 * calm.p99, scenario.deadlineMs)
          surges[index].push(
            await surgeOf(server, scenario, { load, seed: round + 1, capacity, factor, quickMs, plan }),
          )
          await end(name, server)
        }
      }
    }
    const { capacity } = results.protected
    results.protected.retries = { tried: 0, succeeded: 0 }
    for (let round = 0; round < plan.rounds; round++) {
      say(`round ${round + 1} of ${plan.rounds}, coming back as told`)
      const { tried, succeeded } = await obeyedBy(standing, scenario, { load, seed: round + 1, capacity })
      results.protected.retries.tried += tried
      results.protected.retries.succeeded += succeeded
    }
  } finally {
    await standing.stop()
    await load.ask({ kind: 'hangUp' })
  }
  return Object.fromEntries(
    Object.entries(results).map(([name, { surges, ...rest }]) => [
      name,
      { ...rest, loads: surges.map(summariseSurges) },
    ]),
  )
}

/** What the service promises and did not keep. */
function problemsOf({ protected: ours }, { deadlineMs, leastAt10 }) {
  const problems = []
  const least = { 2: 0.95, 10: leastAt10 }
  for (const load of ours.loads) {
    const at = `at ${load.factor} times the capacity`
    const expect = (holds, text) => holds || problems.push(`${at}: ${text}`)
    const { factor, share, p99, refusalP99, unanswered, other, normalAfterMs, memoryBefore, memoryMost } = load
    expect(share >= (least[factor] ?? 0), `only ${share.toFixed(2)} of the capacity was answered in time`)
    expect(p99 <= deadlineMs, `p99 of what was accepted is ${p99?.toFixed(0)} ms`)
    expect(refusalP99 === undefined || refusalP99 < 50, `p99 of the refusals is ${refusalP99?.toFixed(0)} ms`)
    expect(unanswered === 0, `${unanswered} were never answered`)
    expect(other === 0, `${other} were answered with another status`)
    expect(normalAfterMs <= 1000, 'it was not back to normal within a second')
    expect(!(memoryMost > 1.5 * memoryBefore), `it grew from ${memoryBefore} to ${memoryMost} MiB`)
    expect(load.generatorShare <= 0.9, 'the load generator was the bottleneck')
  }
  const { tried, succeeded } = ours.retries
  if (succeeded < 0.95 * tried) problems.push(`of ${tried} that came back as told, ${succeeded} were answered in time`)
  return problems
}

export { contenders, LOADS, scenarios }
