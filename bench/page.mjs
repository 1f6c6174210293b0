import { readFileSync, writeFileSync } from 'node:fs'
import { describe } from './conditions.mjs'
import { modelTableOf, neighbourTableOf } from './inference/table.mjs'
import { contenders, scenarios } from './limiter/part.mjs'
import { memoryTableOf, tableOf } from './limiter/table.mjs'
import { contenders as surgeContenders, scenarios as surges } from './overload/part.mjs'
import { overloadPicture } from './overload/picture.mjs'
import { greedyTableOf, overloadTableOf } from './overload/table.mjs'
import { ratioPicture } from './picture.mjs'

/**
 * Puts the results of a run on the page and draws them: node bench/page.mjs bench/results.json
 * Nothing on the page that was measured is written by hand.
 */
const here = file => new URL(file, import.meta.url)
const { at, conditions, limiter, inference, overload } = JSON.parse(
  readFileSync(process.argv[2] ?? here('results.json'), 'utf8'),
)

const busy =
  conditions.loadBefore > conditions.cores
    ? ['Other programs kept the machine busy while this was taken: the figures are worse than the machine is.', '']
    : []
const conditionsText = ['```', at.slice(0, 10), describe(conditions), '```', '', ...busy]

const parts = {
  limiter: limiter && [
    ...conditionsText,
    ...Object.entries(limiter.scenarios).flatMap(([name, { rows }]) => [tableOf(name, rows), '']),
    ...(limiter.memory === undefined ? [] : [memoryTableOf(limiter.memory), '']),
  ],
  inference: inference && [
    ...conditionsText,
    ...Object.entries(inference.models).flatMap(([name, { rows }]) => [modelTableOf(name, rows), '']),
    ...(inference.neighbours === undefined ? [] : [neighbourTableOf(inference.neighbours), '']),
  ],
  overload: overload && [
    ...conditionsText,
    ...Object.entries(overload.models).flatMap(([name, model]) => [overloadTableOf(name, model), '']),
    ...(overload.greedy === undefined ? [] : [greedyTableOf(overload.greedy), '']),
  ],
}

let page = readFileSync(here('README.md'), 'utf8')
for (const [part, lines] of Object.entries(parts)) {
  if (lines === undefined) continue
  const [from, to] = [`<!-- ${part} results -->`, `<!-- end of ${part} results -->`]
  page = `${page.split(from)[0]}${from}\n\n${lines.join('\n')}\n${to}${page.split(to)[1]}`
}
writeFileSync(here('README.md'), page)
if (limiter !== undefined) writeFileSync(here('ratios.svg'), ratioPicture(limiter, contenders, scenarios))
if (overload !== undefined)
  writeFileSync(here('overload.svg'), overloadPicture(overload.models, surges, surgeContenders))
