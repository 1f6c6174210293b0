import { aligned } from '../markdown.mjs'
import { contenders } from './contenders.mjs'
import { scenarios } from './scenarios.mjs'

/** One model as a Markdown table. */
export function modelTableOf(scenarioName, rows) {
  const head = ['', 'predictions/s', 'p50 ms', 'p99 ms', '/ parsing', '/ naive', 'naive p99 / it', 'server µs']
  const body = Object.entries(rows).map(([name, row]) => [
    contenders[name].title,
    Math.round(row.perSecond).toLocaleString('en'),
    row.p50.toFixed(2),
    row.p99.toFixed(2),
    row.ratios.parse === undefined ? '' : row.ratios.parse.toFixed(2),
    row.ratios.naive === undefined ? '' : row.ratios.naive.toFixed(2),
    rows.naive === undefined ? '' : (rows.naive.p99 / row.p99).toFixed(1),
    row.serverUs.toFixed(0),
  ])
  return [`### ${scenarios[scenarioName].title}`, '', ...aligned([head, ...body], 1)].join('\n')
}

/** What others get while a large model is saturated. */
export function neighbourTableOf(rows) {
  const head = ['', 'predictions/s', 'health p50 ms', 'health p99 ms', '429 p50 ms', '429 p99 ms']
  const body = Object.entries(rows).map(([name, { perSecond, live, refused }]) => [
    contenders[name].title,
    Math.round(perSecond).toLocaleString('en'),
    ...[live?.p50, live?.p99, refused?.p50, refused?.p99].map(ms => ms?.toFixed(2) ?? ''),
  ])
  const title = '### beside a saturated model of 17 million weights: a health check and a refusal'
  return [title, '', ...aligned([head, ...body], 1)].join('\n')
}
