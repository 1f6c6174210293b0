import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import sharp from 'sharp'
import { startChild } from '../child.mjs'
import { aligned } from '../markdown.mjs'
import { median } from '../summary.mjs'
import { sendStream } from './client.mjs'
import { batchOf, pictureOf, streamOf, TYPES } from './rows.mjs'

const MODELS = fileURLToPath(new URL('../../models', import.meta.url))
const FULL = { rounds: 7, rows: 200_000, ms: 2000, longRows: 1_000_000 }
const QUICK = { rounds: 3, rows: 50_000, ms: 500, longRows: 200_000 }
/** Rows of a request in JSON, and how many such requests are under way: a chunk of a stream is as long. */
const BATCH_ROWS = 256
const BATCHES_AT_ONCE = 8
/** Requests with a picture that are under way. */
const PICTURES_AT_ONCE = 16
/** What a stream must reach of the rate of batches, and pictures of the rate of decoding alone. */
const LEAST = { rows: 0.7, pictures: 0.5 }
/** How much more the server may hold behind a long stream than before it, in bytes. */
const MOST_GROWTH = 64 * 1024 * 1024
const QUOTA = 1_000_000_000_000

const forms = {
  batch: { title: `JSON, ${BATCH_ROWS} rows a request, ${BATCHES_AT_ONCE} at once` },
  csv: { title: 'CSV in, NDJSON out, one stream', from: 'csv', to: 'ndjson' },
  'csv-csv': { title: 'CSV in, CSV out, one stream', from: 'csv', to: 'csv' },
  ndjson: { title: 'NDJSON in, NDJSON out, one stream', from: 'ndjson', to: 'ndjson' },
}

const pictures = {
  photo: { title: 'a JPEG of 640 × 480', width: 640, height: 480, format: 'jpeg' },
  small: { title: 'a PNG of 64 × 64', width: 64, height: 64, format: 'png' },
}

/**
 * Streams of rows beside batches of JSON, and pictures beside decoding alone, in turn.
 *
 * @param {{ quick: boolean, scenarios?: string[], rounds?: number, ms?: number }} options
 * @param {{ redis: object, load: object, print: (text: string) => void, progress: (text: string) => void }} tools
 */
export async function streamPart(options, { load, print, progress }) {
  const plan = { ...(options.quick ? QUICK : FULL), ...(options.rounds && { rounds: options.rounds }) }
  if (options.ms !== undefined) plan.ms = options.ms
  const chosen = options.scenarios ?? scenarios
  const dir = mkdtempSync(join(tmpdir(), 'bench-stream-'))
  const limits = join(dir, 'limits.json')
  const policies = [
    { name: 'requests', limit: QUOTA, window: '1 hour' },
    { name: 'rows', unit: 'rows', limit: QUOTA, window: '1 hour' },
  ]
  writeFileSync(limits, JSON.stringify({ anonymous: 'plan', plans: { plan: { policies } }, keys: [] }))
  process.env.BENCH_SETTINGS = JSON.stringify({ LIMITS_FILE: limits })
  const server = await startChild(new URL('../inference/service.mjs', import.meta.url), [MODELS, '', '0'])
  const bench = new Bench(server, load, progress)
  const results = {}
  try {
    for (const model of ['iris', 'digits'].filter(each => chosen.includes(each))) {
      results[model] = await bench.rows(model, plan)
      print(`${rowsTableOf(model, results[model])}\n`)
    }
    if (chosen.includes('pictures')) {
      results.pictures = await bench.pictures(plan)
      print(`${picturesTableOf(results.pictures)}\n`)
    }
  } finally {
    progress('')
    await load.ask({ kind: 'hangUp' })
    await server.stop()
    rmSync(dir, { recursive: true })
  }
  return { ...results, problems: bench.problems }
}

export const scenarios = ['iris', 'digits', 'pictures']

class Bench {
  problems = []
  #server
  #load
  #progress
  #sent = 0

  constructor(server, load, progress) {
    this.#server = server
    this.#load = load
    this.#progress = progress
  }

  async rows(model, plan) {
    const rounds = await this.#takeTurns(`rows, ${model}`, plan.rounds, Object.keys(forms), name =>
      this.#measure(() => this.#send(model, name, plan.rows)),
    )
    const results = summaryOf(rounds, 'batch')
    for (const name of Object.keys(forms)) {
      const { ratio } = results[name]
      if (!(ratio >= LEAST.rows)) this.#fault(`${model}: ${name} reaches ${ratio.toFixed(2)} of batches of JSON`)
    }
    this.#progress(`rows, ${model}, ${plan.longRows} of them`)
    results.long = await this.#sendLong(model, plan.longRows)
    await this.#checkQuota(model)
    return results
  }

  /** The same pictures, decoded alone and decoded by the service for a model of hardly any work. */
  async pictures({ rounds, ms }) {
    const results = {}
    const alone = await startChild(new URL('decode.mjs', import.meta.url), [])
    try {
      for (const [name, { width, height, format }] of Object.entries(pictures)) {
        const noise = { type: 'gaussian', mean: 128, sigma: 40 }
        const drawn = sharp({ create: { width, height, channels: 3, background: '#fff', noise } })
        const bytes = await drawn.toFormat(format).toBuffer()
        const turns = {
          decoding: async () => alone.ask({ picture: bytes.toString('base64'), ms }),
          service: () => this.#measure(() => this.#sendPictures(bytes, format, ms)),
        }
        const taken = await this.#takeTurns(`pictures, ${name}`, rounds, Object.keys(turns), turn => turns[turn]())
        results[name] = summaryOf(taken, 'decoding')
        const { ratio } = results[name].service
        if (!(ratio >= LEAST.pictures)) this.#fault(`${name}: the service reaches ${ratio.toFixed(2)} of decoding`)
      }
    } finally {
      await alone.stop()
    }
    return results
  }

  /** Each once a round, a new one first every time; the first round is to warm up. */
  async #takeTurns(title, rounds, names, measure) {
    const taken = []
    for (let round = 0; round <= rounds; round++) {
      const own = Object.fromEntries(names.map(name => [name, undefined]))
      for (let turn = 0; turn < names.length; turn++) {
        const name = names[(turn + round) % names.length]
        own[name] = await measure(name)
        this.#progress(`${title}, round ${round} of ${rounds}, ${name}`)
      }
      if (round > 0) taken.push(own)
    }
    return taken
  }

  /** `work` gives how many it was. */
  async #measure(work) {
    const before = await this.#server.ask({})
    const from = performance.now()
    const count = await work()
    const ms = performance.now() - from
    const { cpu, rss } = await this.#server.ask({})
    return { perSecond: (count / ms) * 1000, us: (cpu - before.cpu) / count, rss }
  }

  async #send(model, name, rows) {
    const { port } = this.#server.ready
    const { from, to } = forms[name]
    let count = Math.ceil(rows / BATCH_ROWS) * BATCH_ROWS
    if (name === 'batch') {
      const messages = [batchOf(model, BATCH_ROWS)]
      const task = { kind: 'closedLoop', port, messages, connections: BATCHES_AT_ONCE, requests: count / BATCH_ROWS }
      const { received, statuses } = await this.#load.ask(task)
      if (statuses[200] !== received) this.#fault(`${model}: ${name} was answered ${JSON.stringify(statuses)}`)
      count = received * BATCH_ROWS
    } else {
      const stream = streamOf(model, from, rows)
      const path = `/v1/models/${model}/predict`
      const { status, lines } = await sendStream({ port, path, type: TYPES[from], accept: TYPES[to], ...stream })
      const wanted = stream.rows + (to === 'csv' ? 1 : 0)
      if (status !== 200 || lines !== wanted) this.#fault(`${model}: ${name}: ${status}, ${lines} of ${wanted} lines`)
      count = stream.rows
    }
    this.#sent += count
    return count
  }

  /** What a long stream holds of memory, beside what is held before it. */
  async #sendLong(model, rows) {
    const { rss: before } = await this.#server.ask({})
    let most = before
    let isOver = false
    const watch = (async () => {
      while (!isOver) {
        most = Math.max(most, (await this.#server.ask({})).rss)
        await new Promise(resolve => setTimeout(resolve, 100))
      }
    })()
    const from = performance.now()
    const count = await this.#send(model, 'csv', rows)
    const seconds = (performance.now() - from) / 1000
    isOver = true
    await watch
    if (most - before > MOST_GROWTH) this.#fault(`${model}: ${count} rows took ${mib(most - before)} MiB of memory`)
    return { rows: count, seconds, before, most }
  }

  /** Each row is charged once. */
  async #checkQuota(model) {
    const response = await fetch(`http://127.0.0.1:${this.#server.ready.port}/v1/limits`)
    const { policies } = await response.json()
    const used = QUOTA - policies.find(({ name }) => name === 'rows').remaining
    if (used !== this.#sent) this.#fault(`${model}: ${used} rows were charged, and ${this.#sent} were sent`)
  }

  async #sendPictures(bytes, format, ms) {
    const { port } = this.#server.ready
    const messages = [pictureOf('digits', bytes, format)]
    const task = { kind: 'closedLoop', port, messages, encoding: 'latin1', connections: PICTURES_AT_ONCE }
    const { received, statuses } = await this.#load.ask({ ...task, warmUpMs: 0, ms })
    if (statuses[200] !== received) this.#fault(`pictures were answered ${JSON.stringify(statuses)}`)
    this.#sent += received
    return received
  }

  #fault(text) {
    this.problems.push(`stream: ${text}`)
  }
}

/** Medians over the rounds; ratios are taken within a round. */
function summaryOf(rounds, base) {
  const names = Object.keys(rounds[0])
  return Object.fromEntries(
    names.map(name => {
      const of = field => median(rounds.map(round => round[name][field]))
      const ratio = median(rounds.map(round => round[name].perSecond / round[base].perSecond))
      return [name, { perSecond: of('perSecond'), us: of('us'), ratio }]
    }),
  )
}

const mib = bytes => (bytes / 1024 / 1024).toFixed(0)
const figures = ({ perSecond, us, ratio }) => [
  Math.round(perSecond).toLocaleString('en'),
  us.toFixed(1),
  ratio.toFixed(2),
]

/** Streams of one model as a Markdown table. */
export function rowsTableOf(model, { long, ...results }) {
  const head = ['', 'rows/s', 'server µs a row', '/ batches']
  const body = Object.entries(results).map(([name, row]) => [forms[name].title, ...figures(row)])
  const { rows, seconds, before, most } = long
  return [
    `### rows of \`${model}\``,
    '',
    ...aligned([head, ...body], 1),
    '',
    `${rows.toLocaleString('en')} rows of CSV in one stream took ${seconds.toFixed(1)} s; the server held ${mib(before)} MiB before and ${mib(most)} MiB at most. Each row was charged once.`,
  ].join('\n')
}

/** Pictures as a Markdown table. */
export function picturesTableOf(results) {
  const titles = { decoding: 'decoded alone', service: 'the service' }
  const head = ['', '', 'pictures/s', 'processor µs a picture', '/ decoding']
  const body = Object.entries(results).flatMap(([name, rows]) =>
    Object.entries(rows).map(([who, row]) => [pictures[name].title, titles[who], ...figures(row)]),
  )
  return ['### pictures', '', ...aligned([head, ...body], 2)].join('\n')
}
