import { aligned } from '../markdown.mjs'
import { contenders, scenarios } from './scenarios.mjs'

const ms = value => (Number.isFinite(value) ? value.toFixed(value < 10 ? 1 : 0) : '')
const percent = share => (share === 0 ? '0' : `${(share * 100).toFixed(share < 0.01 ? 2 : 0)}%`)
const whole = value => Math.round(value).toLocaleString('en')

/** One model as a Markdown table, both contenders at every load. */
export function overloadTableOf(scenarioName, results) {
  const head = [
    '',
    'offered',
    'per s',
    'in time per s',
    'G',
    'p50 ms',
    'p99 ms',
    'refused',
    'refusal p99 ms',
    'late, expired',
    'unanswered',
    'MiB',
    'normal after ms',
  ]
  const body = Object.entries(results).flatMap(([name, { loads }]) =>
    loads.map(load => [
      contenders[name].title,
      `${load.factor} ×`,
      whole(load.offered),
      whole(load.goodput),
      load.share.toFixed(2),
      ms(load.p50),
      ms(load.p99),
      percent(load.refused),
      ms(load.refusalP99),
      percent(load.late + load.expired),
      percent(load.unansweredShare),
      Number.isFinite(load.memoryMost) ? `${whole(load.memoryBefore)} → ${whole(load.memoryMost)}` : '',
      load.normalAfterMs === undefined ? 'not seen' : whole(load.normalAfterMs),
    ]),
  )
  const capacities = Object.entries(results).map(
    ([name, { rowMs, capacity }]) =>
      `${contenders[name].title}: ${whole(capacity)} a second, ${rowMs.toFixed(1)} ms alone`,
  )
  const { tried, succeeded } = results.protected.retries
  const obeyed = `After a second of twice the capacity, ${whole(tried)} came back when \`Retry-After\` said; ${percent(succeeded / Math.max(1, tried))} of them were answered in time at that first retry.`
  return [
    `### ${scenarios[scenarioName].title}`,
    '',
    `Capacity: ${capacities.join('; ')}.`,
    '',
    ...aligned([head, ...body], 1),
    '',
    obeyed,
  ].join('\n')
}

/** The lighter model under shares of what bare Fastify answers. */
export function floodTableOf({ bare, capacity, loads }) {
  const head = [
    'of bare Fastify',
    'per s',
    'G',
    'p99 ms',
    'refused',
    'refusal p50, p99 ms',
    'unanswered',
    'normal after ms',
    '`/health/live` p99 ms on `OPS_PORT`',
    'on the main port',
    '`/metrics` p99 ms',
  ]
  const body = loads.map(load => [
    `${load.factor} ×`,
    whole(load.offered),
    load.share.toFixed(2),
    ms(load.p99),
    percent(load.refused),
    `${ms(load.refusalP50)}, ${ms(load.refusalP99)}`,
    percent(load.unansweredShare),
    load.normalAfterMs === undefined ? 'not seen' : whole(load.normalAfterMs),
    ms(load.opsP99),
    ms(load.mainP99),
    ms(load.metricsP99),
  ])
  return [
    '### the lighter model, asked for shares of what bare Fastify refuses',
    '',
    `Bare Fastify: ${whole(bare)} requests a second, with a 429 in \`onRequest\`. Capacity of the model: ${whole(capacity)} a second.`,
    '',
    ...aligned([head, ...body], 1),
  ].join('\n')
}

/** What polite callers get beside a greedy one. */
export function greedyTableOf({ polite, greedy, quota, windowSeconds }) {
  const head = [
    'nine at half their quota',
    'sent',
    '429',
    '503',
    'not in time',
    'p99 ms alone',
    'p99 ms beside',
    'ratio',
  ]
  const row = [
    `beside one at ${whole(greedy.sentPerSecond)} a second`,
    whole(polite.sent),
    String(polite.denied),
    String(polite.overloaded),
    String(polite.unserved),
    ms(polite.p99Alone),
    ms(polite.p99Beside),
    polite.ratio.toFixed(2),
  ]
  return [
    `### one greedy caller among ten, ${whole(quota)} requests in ${windowSeconds} s each`,
    '',
    ...aligned([head, row], 1),
    '',
    `The greedy one was served ${whole(greedy.servedPerSecond)} times a second; p99 of its refusals ${ms(greedy.refusalP99)} ms.`,
  ].join('\n')
}
