import { aligned } from '../markdown.mjs'
import { contenders } from './contenders.mjs'
import { deciders } from './deciders.mjs'
import { measurements } from './direct-part.mjs'
import { scenarios } from './scenarios.mjs'

/**
 * One scenario as a Markdown table. *added µs*: processor time that the limiter adds to a request, of the server and of
 * Redis. `ours / it`: how many times as much our limiter with the same store answers.
 *
 * @param {{ rows: object, entries?: object, roundTripMs?: number }} result
 */
export function tableOf(scenarioName, { rows, entries = {}, roundTripMs }) {
  const { rate, title: scenarioTitle } = scenarios[scenarioName]
  const paced = rate !== undefined
  const head = [
    'store',
    'limiter',
    'added µs',
    'req/s',
    'p50 ms',
    'p99 ms',
    '/ bare',
    'ours / it',
    'server µs',
    'Redis µs',
  ]
  const body = Object.entries(rows).map(([name, row]) => {
    const { base, title, store } = contenders[name]
    const ours = row.ratios[`ours-${store}`]
    const bare = row.ratios[base ?? 'bare']
    return [
      store === 'none' ? '' : store,
      title,
      store === 'none' ? '' : fixed(row.addedUs, 1),
      Math.round(row.perSecond).toLocaleString('en'),
      row.p50.toFixed(2),
      row.p99.toFixed(2),
      paced || bare === undefined ? '' : bare.toFixed(2),
      paced || ours === undefined || name === `ours-${store}` ? '' : (1 / ours).toFixed(2),
      row.serverUs.toFixed(1),
      store === 'redis' ? row.redisUs.toFixed(1) : '',
    ]
  })
  const counts = Object.values(entries)
  const notes = [
    ...(counts.length > 0 ? [`Entries in a log of ours in Redis when measured: ${rangeOf(counts)}.`] : []),
    ...(roundTripMs === undefined ? [] : [`Round trip to Redis, by PING: ${roundTripMs.toFixed(2)} ms.`]),
  ]
  return [
    `### ${scenarioTitle} (\`${scenarioName}\`)`,
    '',
    ...aligned([head, ...body]),
    ...(notes.length > 0 ? ['', notes.join(' ')] : []),
  ].join('\n')
}

function rangeOf(counts) {
  const [least, most] = [Math.min(...counts), Math.max(...counts)]
  return least === most ? `${least}` : `${least} to ${most}`
}

/** Empty where it was not measured; JSON has null for what is no number. */
const fixed = (value, digits) => (Number.isFinite(value ?? Number.NaN) ? value.toFixed(digits) : '')

/** What was measured without HTTP. */
export function directTableOf(measurementName, { rows }) {
  const columns = DIRECT_COLUMNS[measurementName]
  const body = Object.entries(rows).map(([name, row]) => [
    deciders[name].title,
    ...Object.values(columns).map(show => show(row)),
  ])
  const head = ['limiter', ...Object.keys(columns)]
  return [
    `### ${measurements[measurementName].title} (\`${measurementName}\`)`,
    '',
    ...aligned([head, ...body], 1),
  ].join('\n')
}

const thousands = value => Math.round(value).toLocaleString('en')

const DIRECT_COLUMNS = {
  decision: {
    'ns / decision': ({ ns }) => thousands(ns),
    'bytes / decision': ({ bytes }) => thousands(bytes),
  },
  core: {
    'checks/s': ({ perSecond }) => thousands(perSecond),
    'share of the core': ({ redisShare }) => redisShare.toFixed(2),
    'Redis µs': ({ redisUs }) => redisUs.toFixed(2),
    'checks/s of a full core': ({ redisUs }) => thousands(1e6 / redisUs),
    'process µs': ({ ownUs }) => ownUs.toFixed(1),
  },
  lone: {
    'p50 ms': ({ p50 }) => p50.toFixed(3),
    'p99 ms': ({ p99 }) => p99.toFixed(3),
    'Redis µs': ({ redisUs }) => redisUs.toFixed(1),
    'process µs': ({ ownUs }) => ownUs.toFixed(1),
  },
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
