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

const MODELS = fileURLToPath(new URL('../../models', import.meta.url))
const CONNECTIONS = 64
const WARM_UP_MS = 2000
const FULL = { rounds: 16, ms: 500, retakes: 3 }
const QUICK = { rounds: 6, ms: 300, retakes: 0 }
/** What a refusal may cost, in shares of one by bare Fastify. */
const MOST = 0.75
const KEY = 'a-key-of-the-bench'

/** One quota, used up with the first request. `limited`: 1, by address or by key; `redis`: counted there. */
const contenders = {
  bare: { title: 'bare Fastify, 429 in `onRequest`', module: '../refusals/bare.mjs' },
  address: { title: 'the service, a caller by address', module: 'service.mjs', settings: { RATE_LIMIT_MAX: '1' } },
  key: { title: 'the service, a caller by API key', module: 'service.mjs', keys: true },
  redis: {
    title: 'the service, counted in Redis',
    module: 'service.mjs',
    settings: { RATE_LIMIT_MAX: '1' },
    redis: true,
  },
}

const row = post({ model: 'digits', features: Array.from({ length: 64 }, (_, index) => index % 17) })
const withKey = row.replace('content-type', `x-api-key: ${KEY}\r\ncontent-type`)

/**
 * Processor time of a refusal, of the whole server process, beside that of a 429 of bare Fastify: the same request, the
 * same generator, in turn.
 *
 * @param {{ quick: boolean, rounds?: number, ms?: number, calm: number, retakes?: number }} options
 * @param {{ redis: object, load: object, print: (text: string) => void, progress: (text: string) => void }} tools
 */
export async function refusalsPart(options, { redis, load, print, progress }) {
  const standard = options.quick ? QUICK : FULL
  const names = Object.keys(contenders)
  const dir = mkdtempSync(join(tmpdir(), 'bench-refusals-'))
  const limits = join(dir, 'limits.json')
  const plan = { policies: [{ name: 'requests', limit: 1, window: '1 hour' }] }
  const sha256 = createHash('sha256').update(KEY).digest('hex')
  writeFileSync(limits, JSON.stringify({ anonymous: null, plans: { plan }, keys: [{ sha256, plan: 'plan' }] }))
  const servers = new Map()
  try {
    await redis.client.flushall()
    for (const name of names) {
      const { module, settings = {}, keys, redis: usesRedis } = contenders[name]
      process.env.BENCH_SETTINGS = JSON.stringify({ ...settings, ...(keys ? { LIMITS_FILE: limits } : {}) })
      const args = [MODELS, 'digits', usesRedis ? String(redis.port) : '0']
      const server = await startChild(new URL(`../inference/${module}`, import.meta.url), args)
      servers.set(name, server)
      progress(`refusals, warming up, ${name}`)
      const task = { kind: 'closedLoop', port: server.ready.port, messages: [withKey], connections: CONNECTIONS }
      await load.ask({ ...task, warmUpMs: 0, ms: WARM_UP_MS })
    }
    const rounds = {
      title: 'refusals',
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
      taskOf: () => ({ kind: 'closedLoop', messages: [withKey], connections: CONNECTIONS, warmUpMs: 50, ms }),
      check: ({ statuses }) =>
        Object.keys(statuses)
          .filter(status => status !== '429')
          .map(status => `answered ${status}`),
    })
    progress('')
    const rows = Object.fromEntries(
      names.map(name => {
        const own = slices[name]
        const ratios = own.map(({ serverUs }, round) => serverUs / slices.bare[round].serverUs)
        const of = field => median(own.map(slice => slice[field]))
        return [name, { serverUs: of('serverUs'), perSecond: of('perSecond'), p99: of('p99'), ratio: median(ratios) }]
      }),
    )
    for (const [name, { ratio }] of Object.entries(rows)) {
      if (name !== 'bare' && !(ratio <= MOST))
        problems.push(`refusals: ${name}: a refusal costs ${ratio.toFixed(2)} of one by bare Fastify`)
    }
    print(`${refusalsTableOf(rows)}\n`)
    return { rows, problems }
  } finally {
    await load.ask({ kind: 'hangUp' })
    for (const server of servers.values()) await server.stop()
    rmSync(dir, { recursive: true })
  }
}

/** Processor time of a refusal as a Markdown table. */
export function refusalsTableOf(rows) {
  const head = ['', 'server µs a refusal', '/ bare', 'refusals/s', 'p99 ms']
  const body = Object.entries(rows).map(([name, { serverUs, perSecond, p99, ratio }]) => [
    contenders[name].title,
    serverUs.toFixed(1),
    ratio.toFixed(2),
    Math.round(perSecond).toLocaleString('en'),
    p99.toFixed(1),
  ])
  return ['### what a refusal costs (`refusals`)', '', ...aligned([head, ...body], 1)].join('\n')
}
