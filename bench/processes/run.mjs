/**
 * Several processes of the service: measured here with one and two, and from what they take, simulated on more cores.
 * Usage: npm run bench:processes -- [--rounds 5] [--ms 3000] [--connections 32]
 *   [--only predictions] [--simulate]
 */
import { parseArgs } from 'node:util'
import { aligned } from '../markdown.mjs'
import { median } from '../summary.mjs'
import { kinds as allKinds, measure } from './measure.mjs'
import { simulate } from './simulate.mjs'

const { values: given } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    ms: { type: 'string', default: '3000' },
    connections: { type: 'string', default: '32' },
    /** One of the two. */
    only: { type: 'string' },
    /** The simulation alone, with the costs of docs/performance.md. */
    simulate: { type: 'boolean', default: false },
  },
})

const kinds = allKinds.filter(kind => given.only === undefined || kind === given.only)

/** Processor time in µs, as docs/performance.md has it. */
const MEASURED = {
  predictions: { first: 35, main: 110, worker: 95 },
  refusals: { first: 0, main: 24, worker: 1 },
}
const CORES = [2, 4, 8, 16, 32]
const PROCESSES = [1, 2, 4, 8, 16]
const PLAN = { ms: Number(given.ms), connections: Number(given.connections) }
const PARTS = ['perSecond', 'first', 'main', 'worker', 'load']

const costs = given.simulate ? MEASURED : await measured()
for (const kind of kinds) {
  console.log(`\n${kind} a second, simulated, with ${JSON.stringify(costs[kind])} µs a request\n`)
  const rows = CORES.map(cores => {
    const cells = PROCESSES.map(processes => {
      if (processes > cores) return ''
      const { perSecond } = simulate({ cores, processes, clients: 16 * cores, requests: 20_000, costs: costs[kind] })
      return String(Math.round(perSecond / 100) * 100)
    })
    return [String(cores), ...cells]
  })
  console.log(
    aligned([['cores', ...PROCESSES.map(count => `${count} process${count === 1 ? '' : 'es'}`)], ...rows], 0).join(
      '\n',
    ),
  )
}

/** What a request takes with two processes; of each kind the medians of all rounds, one and two in turn. */
async function measured() {
  const found = {}
  for (const kind of kinds) {
    const rounds = { 1: [], 2: [] }
    for (let round = 0; round < Number(given.rounds); round++) {
      for (const processes of round % 2 === 0 ? [1, 2] : [2, 1]) {
        const result = await measure(kind, processes, PLAN)
        if (result.unexpected > 0) throw new Error(`${result.unexpected} answers that are none`)
        rounds[processes].push(result)
      }
    }
    const of = (processes, part) => median(rounds[processes].map(result => result[part]))
    const rows = [1, 2].map(processes => [String(processes), ...PARTS.map(part => of(processes, part).toFixed(1))])
    console.log(`\n${kind}, measured\n`)
    console.log(
      aligned([['processes', 'a second', 'first µs', 'main µs', 'worker µs', 'load µs'], ...rows], 0).join('\n'),
    )
    const ratios = rounds[2].map((two, index) => two.perSecond / rounds[1][index].perSecond)
    console.log(`two over one, by round: ${ratios.map(ratio => ratio.toFixed(2)).join(' ')}`)
    const rounded = part => Math.round(of(2, part) * 10) / 10
    const own = { first: rounded('first'), main: rounded('main'), worker: rounded('worker') }
    // The simulation of the same: two cores, which the load shares.
    const [one, two] = [1, 2].map(processes => {
      const load = of(processes, 'load')
      return simulate({ cores: 2, processes, clients: PLAN.connections, requests: 20_000, costs: { ...own, load } })
    })
    console.log(`simulated on two cores: ${Math.round(one.perSecond)} and ${Math.round(two.perSecond)} a second`)
    found[kind] = own
  }
  return found
}
