// One replica: asks one key as fast as it can until `end`, and says when it was let through (Unix time, ms).
// Usage: node replica.mjs REDIS_PORT MAX WINDOW_MS, by a parent
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit from 'ml-api-rate-limiter'
import { answerParent } from '../child.mjs'

const [port, max, timeWindow] = process.argv.slice(2).map(Number)
const redis = new Redis(port, '127.0.0.1', {
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
  lazyConnect: true,
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
  const admitted = []
  const client = async () => {
    while (Date.now() < end) {
      const { statusCode } = await app.inject('/')
      if (statusCode === 200) admitted.push(Date.now())
      else if (statusCode !== 429) throw new Error(`a request was answered with ${statusCode}`)
      // The memory of denials answers without a turn of the event loop; Redis must get its own.
      await pause(1)
    }
  }
  await Promise.all(Array.from({ length: 16 }, client))
  return admitted
})
