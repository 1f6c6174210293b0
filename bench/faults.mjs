/**
 * How long requests take while Redis is away: `npm run bench:faults -- [rounds]`
 *
 * The service, at 300 requests a second, with each ON_STORE_ERROR. In turn Redis is killed and frozen, for three
 * seconds each time. Ends with 1 where a status is wrong, or the 99th percentile is above what is promised: twice
 * STORE_TIMEOUT_MS in the first half second of an outage, 20 ms from its second second on.
 */
import { spawn } from 'node:child_process'
import { Agent, request } from 'node:http'
import { createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { startChild } from './child.mjs'
import { Histogram } from './histogram.mjs'
import { aligned } from './markdown.mjs'

const rounds = Number(process.argv[2] ?? 10)
const STORE_TIMEOUT_MS = 100
const PERIOD_MS = 1000 / 300
const STATUSES = { local: [200], allow: [200], deny: [200, 503] }
const body = JSON.stringify({ model: 'iris', features: [5.1, 3.5, 1.4, 0.2] })
const headers = { 'content-type': 'application/json', 'content-length': body.length }
const agent = new Agent({ keepAlive: true })

const freePort = () =>
  new Promise(resolve => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })

function startRedis(port) {
  const args = ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
  return spawn(process.env.REDIS_SERVER_BIN ?? 'redis-server', args, { stdio: 'ignore' })
}

/** The status, or the code of what went wrong. */
const predict = port =>
  new Promise(resolve => {
    const call = request({ port, host: '127.0.0.1', method: 'POST', path: '/v1/predict', headers, agent }, answer => {
      answer.resume()
      answer.on('end', () => resolve(answer.statusCode))
    })
    call.on('error', error => resolve(error.code))
    call.end(body)
  })

async function storeIs(port, state) {
  for (;;) {
    const answer = await fetch(`http://127.0.0.1:${port}/health/ready`)
    if ((await answer.json()).store === state) return
    await delay(20)
  }
}

/** In which part of an outage a request began. */
const phases = () => ({ before: new Histogram(), start: new Histogram(), open: new Histogram() })

async function measure(mode) {
  const redisPort = await freePort()
  let redis = startRedis(redisPort)
  process.env.BENCH_SETTINGS = JSON.stringify({
    LOG_LEVEL: 'silent',
    ON_STORE_ERROR: mode,
    STORE_TIMEOUT_MS: `${STORE_TIMEOUT_MS}`,
  })
  const models = fileURLToPath(new URL('../models', import.meta.url))
  const service = await startChild(new URL('inference/service.mjs', import.meta.url), [models, 'iris', `${redisPort}`])
  const { port } = service.ready
  const latencies = phases()
  const statuses = {}
  let phase
  let running = true
  const pending = new Set()
  const load = (async () => {
    for (let due = performance.now(); running; due += PERIOD_MS) {
      await delay(Math.max(0, due - performance.now()))
      const since = performance.now()
      const histogram = phase
      const answer = predict(port).then(status => {
        statuses[status] = (statuses[status] ?? 0) + 1
        histogram?.add((performance.now() - since) * 1000)
        pending.delete(answer)
      })
      pending.add(answer)
    }
  })()
  for (let round = 0; round < rounds; round++) {
    await storeIs(port, 'up')
    phase = latencies.before
    await delay(1000)
    redis.kill(round % 2 === 0 ? 'SIGKILL' : 'SIGSTOP')
    phase = latencies.start
    await delay(500)
    phase = undefined
    await delay(500)
    phase = latencies.open
    await delay(2000)
    phase = undefined
    if (round % 2 === 0) redis = startRedis(redisPort)
    else redis.kill('SIGCONT')
  }
  await storeIs(port, 'up')
  running = false
  await load
  await Promise.all(pending)
  await service.stop()
  redis.kill('SIGKILL')
  return { mode, latencies, statuses }
}

const rows = [['ON_STORE_ERROR', 'p99 before', 'p99 of the first 0.5 s', 'p99 from 1 s on', 'most', 'statuses']]
let holds = true
for (const mode of Object.keys(STATUSES)) {
  const { latencies, statuses } = await measure(mode)
  const p99 = name => latencies[name].quantile(0.99)
  holds &&= Object.keys(statuses).every(status => STATUSES[mode].includes(Number(status)))
  holds &&= p99('start') < 2 * STORE_TIMEOUT_MS && p99('open') < 20
  const ms = value => `${value.toFixed(1)} ms`
  const counts = Object.entries(statuses).map(([status, count]) => `${status}: ${count}`)
  rows.push([
    mode,
    ...['before', 'start', 'open'].map(name => ms(p99(name))),
    ms(latencies.start.quantile(1)),
    counts.join(', '),
  ])
}
agent.destroy()
process.stdout.write(`${aligned(rows, 1).join('\n')}\n`)
if (!holds) {
  process.stderr.write('what is promised does not hold\n')
  process.exitCode = 1
}
