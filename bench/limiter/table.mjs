import { aligned } from '../markdown.mjs'
import { contenders } from './contenders.mjs'
import { scenarios } from './scenarios.mjs'

/** One scenario as a Markdown table. `ours / it` says how many times as much our limiter with the same store answers. */
export function tableOf(scenarioName, rows) {
  const paced = scenarios[scenarioName].rate !== undefined
  const head = ['store', 'limiter', 'req/s', 'p50 ms', 'p99 ms', '/ bare', 'ours / it', 'server µs', 'Redis µs']
  const body = Object.entries(rows).map(([name, row]) => {
    const { title, store } = contenders[name]
    const ours = row.ratios[`ours-${store}`]
    return [
      store === 'none' ? '' : store,
      title,
      Math.round(row.perSecond).toLocaleString('en'),
      row.p50.toFixed(2),
      row.p99.toFixed(2),
      paced || row.ratios.bare === undefined ? '' : row.ratios.bare.toFixed(2),
      paced || ours === undefined || name === `ours-${store}` ? '' : (1 / ours).toFixed(2),
      row.serverUs.toFixed(1),
      store === 'redis' ? row.redisUs.toFixed(1) : '',
    ]
  })
  return [`### ${scenarios[scenarioName].title} (\`${scenarioName}\`)`, '', ...aligned([head, ...body])].join('\n')
}

/** Bytes by quota. */
export function memoryTableOf({ quotas, rows }) {
  const body = Object.entries(rows).map(([name, bytes]) => [
    contenders[name].title,
    ...quotas.map(quota => bytes[quota].toLocaleString('en')),
  ])
  return [
    '### bytes in Redis for one key, its quota used up',
    '',
    ...aligned([['limiter', ...quotas], ...body], 1),
  ].join('\n')
}
