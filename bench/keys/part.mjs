import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startChild } from '../child.mjs'
import { post } from '../inference/scenarios.mjs'
import { aligned } from '../markdown.mjs'
import { takeRounds } from '../rounds.mjs'
import { median } from '../summary.mjs'
import { makeKeys } from './seed.mjs'

const MODELS = fileURLToPath(new URL('../../models', import.meta.url))
const CONNECTIONS = 64
const WARM_UP_MS = 4000
const FULL = { rounds: 24, ms: 500, retakes: 3 }
const QUICK = { rounds: 8, ms: 300, retakes: 0 }
const KEYS = 10_000
const IN_USE = 200
const TOKEN = 'a-token-of-the-bench'
/** What a key of the store may cost, in shares of a prediction with a key of the limits file. */
const MOST = 1.03

const contenders = {
  file: { title: `${IN_USE} keys in the limits file, no store` },
  stored: { title: `${KEYS.toLocaleString('en')} keys in the store, ${IN_USE} in use, usage counted`, isStored: true },
}

/**
 * Processor time of a prediction, of the whole server process, with API keys that were made at run time beside keys of
 * the limits file: the same requests, limits in the same Redis, in turn. A second replica shares the store.
 *
 * @param {{ quick: boolean, rounds?: number, ms?: number, calm: number, retakes?: number, profile?: string }} options
 * @param {{ redis: object, load: object, print: (text: string) => void, progress: (text: string) => void }} tools
 */
export async function keysPart(options, { redis, load, print, progress }) {
  const standard = options.quick ? QUICK : FULL
  const names = Object.keys(contenders)
  const dir = mkdtempSync(join(tmpdir(), 'bench-keys-'))
  const limits = name => join(dir, `${name}.json`)
  const plans = { plan: { policies: [{ name: 'requests', limit: 1_000_000, window: '1 hour' }] } }
  writeFileSync(limits('stored'), JSON.stringify({ anonymous: null, plans }))
  const children = []
  try {
    await redis.client.flushall()
    const store = { KEYS_STORE: `redis://127.0.0.1:${redis.port}`, ADMIN_TOKEN: TOKEN }
    const start = async name => {
      const { isStored } = contenders[name]
      process.env.BENCH_SETTINGS = JSON.stringify({ LIMITS_FILE: limits(name), ...(isStored ? store : {}) })
      const execArgv =
        options.profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${join(options.profile, name)}`]
      const args = [MODELS, 'digits', String(redis.port)]
      const child = await startChild(new URL('../inference/service.mjs', import.meta.url), args, execArgv)
      children.push(child)
      return child
    }
    // A second replica, with which the first one shares the store. The keys are made by it.
    const { ready } = await start('stored')
    progress(`keys, making ${KEYS}`)
    const texts = (await makeKeys(ready.port, TOKEN, KEYS)).filter((_, index) => index % (KEYS / IN_USE) === 0)
    const keys = texts.map(text => ({ sha256: createHash('sha256').update(text).digest('hex'), plan: 'plan' }))
    writeFileSync(limits('file'), JSON.stringify({ anonymous: null, plans, keys }))
    const row = post({ model: 'digits', features: Array.from({ length: 64 }, (_, index) => index % 17) })
    const messages = texts.map(text => row.replace('content-type', `x-api-key: ${text}\r\ncontent-type`))
    const servers = new Map()
    for (const name of names) {
      const server = await start(name)
      servers.set(name, server)
      progress(`keys, warming up, ${name}`)
      const task = { kind: 'closedLoop', port: server.ready.port, messages, connections: CONNECTIONS }
      await load.ask({ ...task, warmUpMs: 0, ms: WARM_UP_MS })
    }
    const rounds = {
      title: 'keys',
      names,
      rounds: options.rounds ?? standard.rounds,
      calm: options.calm,
      retakes: options.retakes ?? standard.retakes,
      until: Number.POSITIVE_INFINITY,
    }
    const ms = options.ms ?? standard.ms
    const { slices, problems } = await takeRounds(rounds, {
      servers,
      load,
      redis,
      progress,
      taskOf: () => ({ kind: 'closedLoop', messages, connections: CONNECTIONS, warmUpMs: 50, ms }),
      check: ({ statuses }) =>
        Object.keys(statuses)
          .filter(status => status !== '200')
          .map(status => `answered ${status}`),
    })
    progress('')
    const rows = Object.fromEntries(
      names.map(name => {
        const own = slices[name]
        const ratio = field => median(own.map((slice, round) => slice[field] / slices.file[round][field]))
        const of = field => median(own.map(slice => slice[field]))
        const ratios = { cost: ratio('serverUs'), pace: ratio('perSecond') }
        return [name, { serverUs: of('serverUs'), perSecond: of('perSecond'), p99: of('p99'), ...ratios }]
      }),
    )
    // While it measures a share of 0.03, the machine makes more of a difference from run to run in a few rounds.
    if (!options.quick && !(rows.stored.cost <= MOST))
      problems.push(`keys: a prediction costs ${rows.stored.cost.toFixed(3)} of one with keys of the limits file`)
    print(`${keysTableOf(rows)}\n`)
    return { rows, problems }
  } finally {
    await load.ask({ kind: 'hangUp' })
    for (const child of children) await child.stop()
    rmSync(dir, { recursive: true })
  }
}

/** Processor time of a prediction as a Markdown table. */
export function keysTableOf(rows) {
  const head = ['', 'predictions/s', 'p99 ms', 'server µs', 'predictions/s / file', 'µs / file']
  const body = Object.entries(rows).map(([name, { serverUs, perSecond, p99, cost, pace }]) => [
    contenders[name].title,
    Math.round(perSecond).toLocaleString('en'),
    p99.toFixed(1),
    serverUs.toFixed(1),
    pace.toFixed(3),
    cost.toFixed(3),
  ])
  return ['### what a key of the store costs a prediction (`keys`)', '', ...aligned([head, ...body], 1)].join('\n')
}
