import { aligned } from '../markdown.mjs'
import { contenders } from './contenders.mjs'
import { deciders } from './deciders.mjs'
import { measurements } from './direct-part.mjs'
import { scenarios } from './scenarios.mjs'

/** A peer is better where its figure is, by more than this share. */
const CLEARLY = 0.03

/**
 * What a run shows beyond its tables, each as lines of a Markdown section; sections for which nothing was measured are
 * left out.
 *
 * @param {{ scenarios: Record<string, { rows: object }>, direct?: object, memory?: object }} limiter what was measured
 * @returns {string[]}
 */
export function claimsOf(limiter) {
  return [addedSection, prefetchSection, addressSection, otherBuildSection, lossSection]
    .map(section => section(limiter))
    .filter(text => text !== undefined)
}

const isPeer = name => !name.startsWith('ours-') && !name.startsWith('bare')
const peersOf = (rows, store) => Object.keys(rows).filter(name => isPeer(name) && contenders[name].store === store)
const number = (value, digits) => (Number.isFinite(value ?? Number.NaN) ? value.toFixed(digits) : '')

function section(title, head, body, words) {
  if (body.length === 0) return undefined
  return [`### ${title}`, '', ...aligned([head, ...body], words)].join('\n')
}

function addedSection({ scenarios: measured }) {
  const body = Object.entries(measured).flatMap(([scenarioName, { rows }]) =>
    ['redis', 'memory'].flatMap(store => {
      const own = rows[`ours-${store}`]?.addedUs
      const peers = peersOf(rows, store).filter(name => Number.isFinite(rows[name].addedUs ?? Number.NaN))
      const [best] = peers.sort((one, other) => rows[one].addedUs - rows[other].addedUs)
      if (own === undefined || best === undefined) return []
      const { addedUs } = rows[best]
      return [
        [scenarioName, store, contenders[best].title, number(own, 1), number(addedUs, 1), number(own / addedUs, 2)],
      ]
    }),
  )
  const head = ['scenario', 'store', 'the better peer', 'ours µs', 'its µs', 'ours / it']
  return section('processor time added to a request: ours and the better peer', head, body, 3)
}

function prefetchSection({ scenarios: measured }) {
  const body = Object.entries(measured).flatMap(([scenarioName, { rows }]) => {
    const { 'ours-redis': own, 'ours-redis-no-prefetch': without, 'ours-memory': memory } = rows
    if (own === undefined || without === undefined) return []
    const isPaced = scenarios[scenarioName].rate !== undefined
    return [
      [
        scenarioName,
        isPaced ? '' : number(own.ratios['ours-memory'], 2),
        isPaced ? '' : number(without.ratios['ours-memory'], 2),
        number(own.cpuRatios.redisUs['ours-redis-no-prefetch'], 2),
        number(own.cpuRatios.addedUs['ours-redis-no-prefetch'], 2),
        memory === undefined ? '' : number(own.p50 - memory.p50, 2),
        memory === undefined ? '' : number(without.p50 - memory.p50, 2),
      ],
    ]
  })
  const head = [
    'scenario',
    'req/s over in-process',
    'without',
    'Redis µs over without',
    'added µs over without',
    'p50 ms above in-process',
    'without',
  ]
  return section('what prefetch makes of it: ours in Redis with it, and without', head, body, 1)
}

function addressSection({ scenarios: { mapped } }) {
  const body = ['redis', 'memory'].flatMap(store => {
    const [own, plain] = [mapped?.rows[`ours-${store}`], mapped?.rows[`ours-${store}-ipv4`]]
    if (own === undefined || plain === undefined) return []
    const ratio = field => number(own.cpuRatios[field][`ours-${store}-ipv4`], 2)
    return [[store, number(own.addedUs, 1), number(plain.addedUs, 1), ratio('addedUs'), ratio('serverUs')]]
  })
  const head = ['store', 'mapped: added µs', 'IPv4: added µs', 'added, mapped / IPv4', 'server µs, mapped / IPv4']
  return section('IPv4-mapped addresses beside plain IPv4', head, body, 1)
}

function otherBuildSection({ scenarios: measured }) {
  const pairs = [
    ['ours-redis', 'ours-before'],
    ['ours-redis-no-prefetch', 'ours-before'],
    ['ours-memory', 'ours-before-memory'],
  ]
  const body = Object.entries(measured).flatMap(([scenarioName, { rows }]) =>
    pairs.flatMap(([name, before]) => {
      if (rows[name] === undefined || rows[before] === undefined) return []
      const { cpuRatios, ratios } = rows[name]
      const { store, title } = contenders[name]
      const redisUs = store === 'redis' ? number(cpuRatios.redisUs[before], 2) : ''
      return [
        [
          scenarioName,
          store,
          title,
          number(cpuRatios.serverUs[before], 2),
          redisUs,
          number(cpuRatios.addedUs[before], 2),
          scenarios[scenarioName].rate === undefined ? number(ratios[before], 2) : '',
        ],
      ]
    }),
  )
  const head = ['scenario', 'store', 'this build', 'server µs', 'Redis µs', 'added µs', 'req/s']
  return section('this build over the other one', head, body, 3)
}

/** Figures of a scenario, whether less is better, and how they are written. */
const FIGURES = [
  { field: 'addedUs', title: 'added µs', digits: 1 },
  { field: 'perSecond', title: 'req/s', isMoreBetter: true, digits: 0 },
  { field: 'p50', title: 'p50 ms', digits: 2 },
  { field: 'p99', title: 'p99 ms', digits: 2 },
]
const DIRECT_FIGURES = [
  { field: 'ns', title: 'ns', digits: 0 },
  { field: 'bytes', title: 'bytes', digits: 0 },
  { field: 'p50', title: 'p50 ms', digits: 3 },
  { field: 'redisUs', title: 'Redis µs', digits: 1 },
]

/** Every figure in which a peer with the same store is better. */
function lossSection({ scenarios: measured, direct = {}, memory }) {
  const losses = []
  const add = (where, { title, digits, isMoreBetter }, own, peers) => {
    const better = peers
      .filter(({ value }) => Number.isFinite(value ?? Number.NaN) && Number.isFinite(own ?? Number.NaN))
      .filter(({ value }) => (isMoreBetter ? value > own * (1 + CLEARLY) : value < own * (1 - CLEARLY)))
      .sort((one, other) => (isMoreBetter ? other.value - one.value : one.value - other.value))
    if (better[0] === undefined) return
    const write = value => Number(value.toFixed(digits)).toLocaleString('en', { minimumFractionDigits: digits })
    losses.push([where, title, better[0].title, write(own), write(better[0].value)])
  }
  for (const [quota, own] of Object.entries(memory?.rows['ours-redis'] ?? {})) {
    const peers = Object.keys(memory.rows).filter(isPeer)
    const values = peers.map(name => ({ title: contenders[name].title, value: memory.rows[name][quota] }))
    add(`a key of ${quota}`, { title: 'bytes in Redis', digits: 0 }, own, values)
  }
  for (const [name, { rows }] of Object.entries(direct)) {
    const { store } = measurements[name]
    for (const figure of DIRECT_FIGURES) {
      const values = Object.keys(rows)
        .filter(isPeer)
        .map(peer => ({ title: deciders[peer].title, value: rows[peer][figure.field] }))
      add(`${name}, ${store}`, figure, rows[`ours-${store}`]?.[figure.field], values)
    }
  }
  for (const [scenarioName, { rows }] of Object.entries(measured)) {
    for (const store of ['redis', 'memory']) {
      for (const figure of FIGURES) {
        if (figure.field === 'perSecond' && scenarios[scenarioName].rate !== undefined) continue
        const values = peersOf(rows, store).map(peer => ({
          title: contenders[peer].title,
          value: rows[peer][figure.field],
        }))
        add(`${scenarioName}, ${store}`, figure, rows[`ours-${store}`]?.[figure.field], values)
      }
    }
  }
  return section(
    'where we lose: a peer is better by more than 3%',
    ['where', 'figure', 'peer', 'ours', 'its'],
    losses,
    3,
  )
}
