import { readFileSync, writeFileSync } from 'node:fs'
import { describe } from './conditions.mjs'
import { modelTableOf, neighbourTableOf } from './inference/table.mjs'
import { claimsOf, contenders, scenarios } from './limiter/part.mjs'
import { directTableOf, memoryTableOf, tableOf } from './limiter/table.mjs'
import { contenders as surgeContenders, scenarios as surges } from './overload/part.mjs'
import { overloadPicture } from './overload/picture.mjs'
import { floodTableOf, greedyTableOf, overloadTableOf } from './overload/table.mjs'
import { ratioPicture } from './picture.mjs'

/**
 * Puts the results of runs on the page and draws them: node bench/page.mjs results.json [more.json …]
 * Of each part that which comes last counts, under the conditions of its own run.
 * Nothing on the page that was measured is written by hand.
 */
const here = file => new URL(file, import.meta.url)
if (process.argv.length < 3) throw new Error('say which results: node bench/page.mjs results.json [more.json …]')
const runs = process.argv.slice(2).map(file => JSON.parse(readFileSync(file, 'utf8')))
const last = part => runs.findLast(run => run[part] !== undefined)
const [limiter, inference, overload] = ['limiter', 'inference', 'overload'].map(part => last(part)?.[part])

function conditionsOf(part) {
  const { at, conditions } = last(part)
  const busy =
    conditions.loadBefore > conditions.cores
      ? ['The machine had been busy before this was taken: the figures may be worse than it is.', '']
      : []
  return ['```', at.slice(0, 10), describe(conditions), '```', '', ...busy]
}

const parts = {
  limiter: limiter && [
    ...conditionsOf('limiter'),
    ...Object.entries(limiter.scenarios).flatMap(([name, result]) => [tableOf(name, result), '']),
    ...Object.entries(limiter.direct ?? {}).flatMap(([name, result]) => [directTableOf(name, result), '']),
    ...(limiter.memory === undefined ? [] : [memoryTableOf(limiter.memory), '']),
    ...claimsOf(limiter).flatMap(claim => [claim, '']),
  ],
  inference: inference && [
    ...conditionsOf('inference'),
    ...Object.entries(inference.models).flatMap(([name, { rows }]) => [modelTableOf(name, rows), '']),
    ...(inference.neighbours === undefined ? [] : [neighbourTableOf(inference.neighbours), '']),
  ],
  overload: overload && [
    ...conditionsOf('overload'),
    ...Object.entries(overload.models).flatMap(([name, model]) => [overloadTableOf(name, model), '']),
    ...(overload.flood === undefined ? [] : [floodTableOf(overload.flood), '']),
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
