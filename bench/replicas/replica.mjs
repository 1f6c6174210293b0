// One replica: asks one key as fast as it can until `end`, and notes each admission in a file, so that none is lost when
// it is killed: when it asked, and when it was let through (Unix time, ms).
// Usage: node replica.mjs REDIS_PORT MAX WINDOW_MS FILE, by a parent
import { openSync, writeSync } from 'node:fs'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit from 'ml-api-rate-limiter'
import { answerParent } from '../child.mjs'

const [port, max, timeWindow] = process.argv.slice(2, 5).map(Number)
const file = openSync(process.argv[5], 'a')
const redis = new Redis(port, '127.0.0.1', {
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
  lazyConnect: true,
  retryStrategy: () => 100,
})
redis.on('error', () => {})
await redis.connect()
const app = Fastify()
await app.register(rateLimit, {
  redis,
  nameSpace: 'replicas',
  max,
  timeWindow,
  // Every admission an entry of its own, so that the log can be checked.
  precision: 0,
  onStoreError: 'local',
  storeTimeout: 500,
  keyGenerator: () => 'lone',
})
app.get('/', async () => 'ok')
await app.ready()
const pause = ms => new Promise(resolve => setTimeout(resolve, ms))

answerParent({}, async ({ end }) => {
  const client = async () => {
    while (Date.now() < end) {
      const asked = Date.now()
      const { statusCode } = await app.inject('/')
      if (statusCode === 200) writeSync(file, `${asked} ${Date.now()}\n`)
      else if (statusCode !== 429) throw new Error(`a request was answered with ${statusCode}`)
      // The memory of denials answers without a turn of the event loop; Redis must get its own.
      await pause(1)
    }
  }
  await Promise.all(Array.from({ length: 16 }, client))
  return {}
})
