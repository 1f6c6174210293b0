import { summarise } from '../summary.mjs'
import { contenders } from './contenders.mjs'
import { largeModel } from './large-model.mjs'
import { measureModel, measureNeighbours } from './measure.mjs'
import { scenarios } from './scenarios.mjs'
import { modelTableOf, neighbourTableOf } from './table.mjs'

const FULL = { rounds: 16, ms: 500, retakes: 3, neighbourMs: 10_000, names: Object.keys(contenders) }
const QUICK = { rounds: 5, ms: 300, retakes: 0, neighbourMs: 3000, names: ['parse', 'naive', 'ours'] }
const LARGE = { inputs: 64, width: 4096 }

/**
 * The service beside what one writes first. `options`: as on the command line.
 *
 * @param {{ quick: boolean, scenarios?: string[], rounds?: number, ms?: number, calm: number, retakes?: number }} options
 * @param {{ redis: object, load: object, print: (text: string) => void, progress: (text: string) => void }} tools
 */
export async function inferencePart(options, { redis, load, print, progress }) {
  const standard = options.quick ? QUICK : FULL
  const chosen = options.scenarios ?? [...Object.keys(scenarios), 'neighbours']
  const results = {}
  const problems = []
  for (const scenarioName of chosen.filter(name => name !== 'neighbours')) {
    const plan = {
      scenarioName,
      names: standard.names,
      rounds: options.rounds ?? standard.rounds,
      ms: options.ms ?? standard.ms,
      calm: options.calm,
      retakes: options.retakes ?? standard.retakes,
      until: Number.POSITIVE_INFINITY,
    }
    const { slices, problems: found } = await measureModel(plan, { redis, load, progress })
    progress('')
    results[scenarioName] = { ms: plan.ms, rows: summarise(slices) }
    problems.push(...found)
    print(`${modelTableOf(scenarioName, results[scenarioName].rows)}\n`)
  }
  if (!chosen.includes('neighbours')) return { models: results, problems }
  const { dir, remove } = await largeModel(LARGE)
  try {
    const plan = { models: dir, inputs: LARGE.inputs, names: ['naive', 'ours'], ms: standard.neighbourMs }
    const neighbours = await measureNeighbours(plan, { redis, load, progress })
    progress('')
    problems.push(...neighbours.problems)
    print(`${neighbourTableOf(neighbours.rows)}\n`)
    return { models: results, neighbours: neighbours.rows, problems }
  } finally {
    remove()
  }
}

export { scenarios }
