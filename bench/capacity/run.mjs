import { parseArgs } from 'node:util'
import { aligned } from '../markdown.mjs'
import { checkModel, TOLERANCE } from './check.mjs'
import { readFigures } from './figures.mjs'
import { costOfCheck, planOf } from './model.mjs'
import { simulate } from './simulate.mjs'
import { shareOfFirst } from './zipf.mjs'

const USAGE = `npm run capacity -- [options]

What a fleet of replicas takes, worked out from the figures of the bench; then what more replicas mean for Redis,
simulated.

The need
  --clients <n>          clients that are counted (default 1000000)
  --quota <n>            what each may do in a window (default 100)
  --window <s>           the window in seconds (default 60)
  --rate <n>             requests a second, of all together (default 20000)
  --denied <share>       of the requests, from 0 to 1 (default 0.1)
  --denied-clients <n>   clients over their quota at a time (default 1% of them)
  --hottest <share>      of the requests that the busiest client sends (default by Zipf over the clients)
  --policies <n>         that each request is held against (default 1)
  --no-deny-memory       without the memory of denials
What it runs on
  --model <name>         what answers an allowed request: ${['none', 'digits', 'digits-wide'].join(', ')} (default digits)
  --per-replica <n>      allowed requests a second that one replica answers, where you have measured it
  --use <share>          how full a part is to be at most (default 0.5)
  --shard-gib <n>        memory of one Redis (default 4)
  --network-mbit <n>     network of one machine (default 1000)
  --request-bytes <n>    one request and its answer (default 2000)
  --together <n>         checks in one call to Redis, which a busy replica makes more of (default 1)
Other
  --plan                 the plan alone, without the simulation
  --simulate             the simulation alone
  --check                measure here what the model predicts; ends with 1 where it is more than ${TOLERANCE * 100}% off
  --json                 as JSON`

const { values: given } = parseArgs({
  options: {
    clients: { type: 'string', default: '1000000' },
    quota: { type: 'string', default: '100' },
    window: { type: 'string', default: '60' },
    rate: { type: 'string', default: '20000' },
    denied: { type: 'string', default: '0.1' },
    'denied-clients': { type: 'string' },
    hottest: { type: 'string' },
    policies: { type: 'string', default: '1' },
    'no-deny-memory': { type: 'boolean', default: false },
    model: { type: 'string', default: 'digits' },
    'per-replica': { type: 'string' },
    use: { type: 'string', default: '0.5' },
    'shard-gib': { type: 'string', default: '4' },
    'network-mbit': { type: 'string', default: '1000' },
    'request-bytes': { type: 'string', default: '2000' },
    together: { type: 'string', default: '1' },
    plan: { type: 'boolean', default: false },
    simulate: { type: 'boolean', default: false },
    check: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})
if (given.help) {
  console.log(USAGE)
  process.exit(0)
}
const figures = readFigures()
if (given.check) await check()
else {
  const output = {
    ...(!given.simulate && { plan: planOf(figures, needOf()) }),
    ...(!given.plan && { simulation: simulations() }),
  }
  progress('')
  if (given.json) console.log(JSON.stringify(output))
  else {
    if (output.plan !== undefined) console.log(planText(output.plan))
    if (output.simulation !== undefined) console.log(simulationText(output.simulation))
  }
}

function needOf() {
  const clients = number('clients', 1)
  const known = { none: 1e6 / costOfCheck(figures, number('policies', 1)).serverUs, ...figures.models }
  if (!(given.model in known)) refuse('model', Object.keys(known).join(', '))
  return {
    clients,
    max: number('quota', 1),
    windowMs: number('window', 0.001) * 1000,
    rate: number('rate', 1),
    denied: number('denied', 0, 1),
    deniedClients: given['denied-clients'] === undefined ? clients / 100 : number('denied-clients', 0),
    hottest: given.hottest === undefined ? shareOfFirst(clients) : number('hottest', 0, 1),
    policies: number('policies', 1),
    denyMemory: !given['no-deny-memory'],
    perReplica: given['per-replica'] === undefined ? known[given.model] : number('per-replica', 1),
    use: number('use', 0.01, 1),
    shardBytes: number('shard-gib', 0.001) * 2 ** 30,
    networkBytes: (number('network-mbit', 0.001) * 1e6) / 8,
    bytesOfRequest: number('request-bytes', 1),
    together: number('together', 1),
  }
}

function number(name, least, most = Number.POSITIVE_INFINITY) {
  const value = Number(given[name])
  const upTo = most === Number.POSITIVE_INFINITY ? ' or more' : ` to ${most}`
  if (!(value >= least && value <= most)) refuse(name, `a number, ${least}${upTo}`)
  return value
}

function refuse(name, allowed) {
  console.error(`--${name} is '${given[name]}'; allowed: ${allowed}\n\n${USAGE}`)
  process.exit(2)
}

function planText({ replicas, shards, checks, reached, bytes, wire, redisUs, parts }) {
  const rows = [
    ['replicas', whole(replicas)],
    ['Redis shards', whole(shards)],
    ['checks in Redis, a second', whole(checks)],
    ['of which denials that no replica remembered', whole(reached)],
    ['processor of Redis, in cores', (redisUs / 1e6).toFixed(2)],
    ['memory of Redis, clients all alike', size(bytes.expected)],
    ['memory of Redis, every quota used up', size(bytes.most)],
    ['network of Redis', `${whole((wire * 8) / 1e6)} Mbit/s`],
  ]
  const [first] = parts
  return [
    ...aligned([['the fleet', ''], ...rows], 1),
    '',
    ...aligned(
      [
        ['part', 'in use', 'full at so many requests a second', 'more of it by'],
        ...parts.map(({ part, use, more }) => [
          part,
          percent(use),
          use > 0 ? whole(number('rate', 1) / use) : '',
          more,
        ]),
      ],
      1,
    ),
    '',
    `First to break: ${first.part}, at ${(1 / first.use).toFixed(1)} times the rate.`,
    '',
  ].join('\n')
}

function simulations() {
  const rows = []
  for (const replicas of [1, 10, 100, 1000]) {
    for (const denyMemory of [true, false]) {
      const common = { replicas, denyMemory, windowMs: 10_000, settleMs: 10_000, runMs: 20_000 }
      const kinds = {
        'one key': { keys: 1, rate: 200 * replicas, max: 1000 },
        'a million keys': { keys: 1_000_000, rate: 50_000, max: 100 },
      }
      for (const [crowd, kind] of Object.entries(kinds)) {
        progress(`simulating ${replicas} replicas, ${crowd}`)
        const { requests, admitted, checks, seconds } = simulate({ ...common, ...kind })
        rows.push({ crowd, replicas, denyMemory, requests, admitted, checks, seconds })
      }
    }
  }
  return rows.sort((one, two) => two.crowd.localeCompare(one.crowd))
}

function simulationText(rows) {
  const { redisUs } = costOfCheck(figures)
  const body = rows.map(({ crowd, replicas, denyMemory, requests, admitted, checks, seconds }) => [
    crowd,
    whole(replicas),
    denyMemory ? 'on' : 'off',
    whole(requests / seconds),
    percent(1 - admitted / requests),
    whole(checks / seconds),
    percent(checks / requests),
    ((checks * redisUs) / seconds / 1e6).toFixed(3),
  ])
  const head = [
    'asked for',
    'replicas',
    'deny memory',
    'req/s',
    'denied',
    'checks/s in Redis',
    'of all',
    'cores of Redis',
  ]
  return aligned([head, ...body], 1).join('\n')
}

async function check() {
  const { figures: own, cases, simulated } = await checkModel(figures, progress)
  progress('')
  const all = [...cases, simulated].flatMap(({ compared }) => compared)
  if (given.json) console.log(JSON.stringify({ figures: own, cases, simulated }))
  else {
    console.log('Figures of this run, µs a request:')
    for (const name of ['allowed', 'fewer', 'denied', 'policies']) {
      const { serverUs, redisUs, together } = own[name]
      const shared = name === 'denied' ? '' : `, ${together.toFixed(1)} checks a call`
      console.log(`  ${name}: replica ${serverUs.toFixed(1)}, Redis ${redisUs.toFixed(1)}${shared}`)
    }
    for (const { title, compared } of [...cases, simulated]) {
      const body = compared.map(({ what, predicted, measured, off, holds }) => [
        what,
        figure(predicted),
        figure(measured),
        `${off >= 0 ? '+' : ''}${percent(off)}${holds ? '' : ' !'}`,
      ])
      console.log(`\n${aligned([[title, 'predicted', 'measured', 'off'], ...body], 1).join('\n')}`)
    }
  }
  const off = all.filter(({ holds }) => !holds)
  if (off.length === 0) return
  console.error(`\nMore than ${TOLERANCE * 100}% off: ${off.map(({ what }) => what).join('; ')}`)
  process.exitCode = 1
}

function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

function whole(value) {
  return Math.round(value).toLocaleString('en')
}

function percent(share) {
  return `${(share * 100).toFixed(1)}%`
}

function figure(value) {
  return value >= 1000 ? whole(value) : value.toPrecision(3)
}

function size(bytes) {
  const gib = bytes / 2 ** 30
  return gib >= 1 ? `${gib.toFixed(1)} GiB` : `${(gib * 1024).toFixed(1)} MiB`
}
