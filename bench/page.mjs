import { readFileSync, writeFileSync } from 'node:fs'
import { describe } from './conditions.mjs'
import { contenders, scenarios } from './limiter/part.mjs'
import { memoryTableOf, tableOf } from './limiter/table.mjs'
import { ratioPicture } from './picture.mjs'

/**
 * Puts the results of a run on the page and draws them: node bench/page.mjs bench/results.json
 * Nothing on the page that was measured is written by hand.
 */
const here = file => new URL(file, import.meta.url)
const { at, conditions, limiter } = JSON.parse(readFileSync(process.argv[2] ?? here('results.json'), 'utf8'))

const results = [
  '```',
  `${at.slice(0, 10)}`,
  describe(conditions),
  '```',
  '',
  ...Object.entries(limiter.scenarios).flatMap(([name, { rows }]) => [tableOf(name, rows), '']),
  ...(limiter.memory === undefined ? [] : [memoryTableOf(limiter.memory), '']),
].join('\n')

const page = readFileSync(here('README.md'), 'utf8')
writeFileSync(
  here('README.md'),
  page.replace(/(<!-- results -->\n)[\s\S]*(<!-- end of results -->)/, (_, from, to) => `${from}\n${results}\n${to}`),
)
writeFileSync(here('ratios.svg'), ratioPicture(limiter, contenders, scenarios))
