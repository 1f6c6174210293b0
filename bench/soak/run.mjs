/**
 * The service at full load for a long time, with a fault of Redis every 20 seconds: `npm run soak`, or
 * `npm run soak -- --seconds 120 --every 10 --connections 16`. Ends with 0 only if each request had the one answer that is
 * its own, memory stayed flat, and nothing went wrong that nobody caught.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { faultyRedis } from './faults.mjs'
import { KEYS, LIMITS, requestOf } from './requests.mjs'

const { env } = process
const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: env.SOAK_SECONDS ?? '600' },
    every: { type: 'string', default: env.SOAK_EVERY ?? '20' },
    connections: { type: 'string', default: env.SOAK_CONNECTIONS ?? '32' },
  },
})
for (const [name, value] of Object.entries(values)) {
  if (!/^[1-9]\d{0,5}$/.test(value)) throw new TypeError(`--${name} takes a whole number above 0`)
}
const [seconds, every, connections] = [values.seconds, values.every, values.connections].map(Number)

/** How much more may be held at the end than after the first fifth, in MiB: measured as the least of either fifth. */
const FLAT = { heap: 24, resident: 64, redis: 4 }

const folder = mkdtempSync(join(tmpdir(), 'soak-'))
const redis = await faultyRedis()
const service = await startService()
const agent = new Agent({ keepAlive: true, maxSockets: connections })
const until = performance.now() + seconds * 1000
const wrong = []
const count = { sent: 0, answered: 0, lost: 0, faults: 0 }
const byKind = new Map()
const samples = []

async function startService() {
  const digest = key => createHash('sha256').update(key).digest('hex')
  const keys = Object.entries(KEYS).map(([plan, key]) => ({ sha256: digest(key), plan }))
  const limits = join(folder, 'limits.json')
  writeFileSync(limits, JSON.stringify({ anonymous: 'tight', plans: LIMITS, keys }))
  cpSync(new URL('../../models/iris', import.meta.url), join(folder, 'models/iris'), { recursive: true })
  const program = fileURLToPath(new URL('../../service/dist/server.js', import.meta.url))
  // With little room garbage is collected in time, and what is left is what is held.
  const child = spawn(process.execPath, ['--max-old-space-size=96', program], {
    env: {
      PATH: env.PATH,
      HOST: '127.0.0.1',
      PORT: '0',
      REDIS_URL: redis.url,
      LIMITS_FILE: limits,
      MODELS_DIR: join(folder, 'models'),
      REQUEST_TIMEOUT_MS: '30000',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let log = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', data => (log += data))
  const ended = once(child, 'exit')
  for (;;) {
    const [, port] = /listening on http:\/\/127\.0\.0\.1:(\d+)/.exec(log) ?? []
    if (port !== undefined && log.includes('ready: all models are loaded'))
      return { child, port, ended, log: () => log }
    if (child.exitCode !== null) throw new Error(`the service does not start: ${log}`)
    await delay(50)
  }
}

/** Resolves with the answer; rejects where there is none. */
function ask({ path, headers, body }) {
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        port: service.port,
        host: '127.0.0.1',
        method: 'POST',
        path,
        agent,
        headers: { ...headers, 'content-length': Buffer.byteLength(body) },
      },
      response => {
        const chunks = []
        response.on('data', chunk => chunks.push(chunk))
        response.on('error', reject)
        response.on('end', () => {
          const { statusCode: status, headers } = response
          resolve({ status, headers, body: JSON.parse(Buffer.concat(chunks)) })
        })
      },
    )
    sent.setTimeout(60_000, () => sent.destroy(new Error('no answer in a minute')))
    sent.on('error', reject)
    sent.end(body)
  })
}

async function load() {
  while (performance.now() < until) {
    const each = requestOf(count.sent++)
    byKind.set(each.kind, (byKind.get(each.kind) ?? 0) + 1)
    try {
      const answer = await ask(each)
      count.answered++
      if (!each.holds(answer)) wrong.push(`${each.kind}: ${answer.status} ${JSON.stringify(answer.body)}`)
    } catch (error) {
      count.lost++
      wrong.push(`${each.kind}: no answer (${error.message})`)
    }
  }
}

async function faults() {
  for (let n = 0; ; n++) {
    await delay(every * 500)
    if (performance.now() + every * 500 > until) return
    const [name, bringAbout] = redis.faults[n % redis.faults.length]
    console.log(`${time()} Redis is ${name}`)
    count.faults++
    const since = performance.now()
    await bringAbout()
    await delay(Math.max(0, every * 500 - (performance.now() - since)))
  }
}

const started = performance.now()
const time = () => `${String(Math.round((performance.now() - started) / 1000)).padStart(4)} s `

/** A figure of the service's metrics, in MiB. */
const figure = (text, name) => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1]) / 2 ** 20

async function watch() {
  for (let n = 1; performance.now() < until; n++) {
    const text = await (await fetch(`http://127.0.0.1:${service.port}/metrics`)).text()
    // Redis may be away.
    const memory = await Promise.race([redis.client.info('memory').catch(() => ''), delay(500, '')])
    const used = Number(/^used_memory:(\d+)/m.exec(memory)?.[1] ?? Number.NaN) / 2 ** 20
    samples.push({
      heap: figure(text, 'nodejs_heap_size_used_bytes'),
      resident: figure(text, 'process_resident_memory_bytes'),
      redis: used,
    })
    if (n % 10 === 0) console.log(`${time()} ${count.answered} answers; MiB: ${least(samples.slice(-10))}`)
    await delay(1000)
  }
}

/** The least of each figure: what garbage leaves behind when it is collected. */
function leastOf(list) {
  const of = name => Math.min(...list.map(sample => sample[name]).filter(value => !Number.isNaN(value)))
  return { heap: of('heap'), resident: of('resident'), redis: of('redis') }
}

const shown = ({ heap, resident, redis }) =>
  `heap ${heap.toFixed(1)}, resident ${resident.toFixed(1)}, Redis ${redis.toFixed(1)}`
const least = list => shown(leastOf(list))

console.log(`soak: ${seconds} s, ${connections} connections, a fault every ${every} s`)
await Promise.all([...Array.from({ length: connections }, load), faults(), watch()])
agent.destroy()
service.child.kill('SIGTERM')
const [exitCode] = await service.ended

// After the first fifth, everything that stays has come.
const fifth = Math.ceil(samples.length / 5)
const early = leastOf(samples.slice(fifth, 2 * fifth))
const late = leastOf(samples.slice(-fifth))
for (const [name, most] of Object.entries(FLAT)) {
  if (!(late[name] <= early[name] + most)) wrong.push(`memory is not flat: ${name} ${early[name]} to ${late[name]} MiB`)
}
if (count.sent !== count.answered) wrong.push(`${count.sent} requests and ${count.answered} answers`)
if (exitCode !== 0) wrong.push(`the service ended with ${exitCode}`)
// That Redis is lost is said once each time, and is what this is about.
const isFault = line =>
  /"level":(?:50|60)|UnhandledPromiseRejection/.test(line) && !line.includes('the rate limit store is lost')
const faulty = service.log().split('\n').filter(isFault)
wrong.push(...faulty)
// All windows are over in ten seconds, and what is left then would stay.
const emptyBy = performance.now() + 60_000
while ((await redis.client.dbsize()) > 0 && performance.now() < emptyBy) await delay(500)
const left = await redis.client.dbsize()
if (left > 0) wrong.push(`${left} keys stay in Redis`)
await redis.stop()
rmSync(folder, { recursive: true, force: true })

console.log(
  `requests ${count.sent} (${[...byKind].map(([kind, n]) => `${kind} ${n}`).join(', ')}), ${Math.round(count.sent / seconds)} a second`,
)
console.log(`answers ${count.answered}, lost ${count.lost}, wrong ${wrong.length}, faults ${count.faults}`)
console.log(`MiB early: ${shown(early)}\nMiB late:  ${shown(late)}`)
for (const each of wrong.slice(0, 20)) console.log(`WRONG ${each}`)
console.log(wrong.length === 0 ? 'soak: passed' : 'soak: failed')
process.exit(wrong.length === 0 ? 0 : 1)
