import { PerformanceObserver } from 'node:perf_hooks'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { answerParent } from '../child.mjs'
import { deciders } from './deciders.mjs'
import { clockOf, fillBy, HISTORY_OPTIONS, processClock } from './history.mjs'

/**
 * One limiter that is asked without HTTP: node direct.mjs <settings as JSON>. `redis`, `db`, `against`: as for server.mjs.
 * `fills`: only fills the logs of another such process.
 */
const { name, keys: keyCount, policy, redis: redisPort, db, against, fills } = JSON.parse(process.argv[2])
const { create, store } = deciders[name]
const redis = store === 'redis' ? new Redis({ port: redisPort, host: '127.0.0.1', db }) : undefined
await redis?.ping()
const clock = fills ? clockOf(redis) : processClock
const app = Fastify()
const decide = await create(app, policy, { redis, against, options: fills ? HISTORY_OPTIONS : {} })
await app.ready()
const keys = Array.from({ length: keyCount }, (_, index) => `client-${String(index).padStart(4, '0')}`)
const fill = fillBy(() => Promise.all(keys.map(decide)), [policy], clock)
let next = 0
const ask = () => decide(keys[next++ % keys.length])

/** When the last collection of garbage began, by `performance.now()`. Node.js tells of it a little later. */
let collectedAt = 0
new PerformanceObserver(list => {
  for (const { startTime } of list.getEntries()) collectedAt = Math.max(collectedAt, startTime)
}).observe({ entryTypes: ['gc'] })

async function askInTurn(count) {
  for (let index = 0; index < count; index++) await ask()
}

/** Nanoseconds of processor time, and bytes allocated, a decision. */
async function decisions({ count }) {
  const before = process.cpuUsage()
  await askInTurn(count)
  const { user, system } = process.cpuUsage(before)
  return { ns: ((user + system) * 1000) / count, bytes: await allocated(Math.min(count, 10_000)) }
}

/** Without a collection of garbage in between; with fewer decisions where one came. */
async function allocated(count) {
  globalThis.gc()
  const since = performance.now()
  const before = process.memoryUsage().heapUsed
  await askInTurn(count)
  const bytes = (process.memoryUsage().heapUsed - before) / count
  await new Promise(resolve => setTimeout(resolve, 20))
  if (collectedAt < since) return bytes
  if (count < 100) throw new Error('a collection of garbage came with every few decisions')
  return allocated(Math.floor(count / 4))
}

/** So many decisions under way at all times. */
async function throughput({ concurrency, ms }) {
  const since = performance.now()
  const until = since + ms
  let done = 0
  const one = async () => {
    for (; performance.now() < until; done++) await ask()
  }
  await Promise.all(Array.from({ length: concurrency }, one))
  return { done, tookMs: performance.now() - since }
}

/** One decision at a time, with a rest before each: milliseconds that each took. */
async function alone({ count, restMs }) {
  const times = []
  for (let index = 0; index < count; index++) {
    await new Promise(resolve => setTimeout(resolve, restMs))
    const since = performance.now()
    await ask()
    times.push(performance.now() - since)
  }
  return { times }
}

const kinds = { decisions, throughput, alone, fill: async ({ from }) => ({ charges: await fill(from) }) }

answerParent({}, async ({ kind, ...task }) => {
  const before = process.cpuUsage()
  const result = await kinds[kind](task)
  const { user, system } = process.cpuUsage(before)
  return { ...result, cpu: user + system }
})
