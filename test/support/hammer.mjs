// A replica that asks one key as fast as it can, many requests at a time, and says how often it was answered what.
// Usage: node hammer.mjs NAMESPACE MAX WINDOW_MS RUN_MS
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit from 'ml-api-rate-limiter'

const [nameSpace, max, timeWindow, runMs] = process.argv.slice(2)
const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
const app = Fastify()
await app.register(rateLimit, {
  redis,
  nameSpace,
  max: Number(max),
  timeWindow: Number(timeWindow),
  precision: 0,
  storeTimeout: 10_000,
  keyGenerator: () => 'lone',
})
app.get('/', async () => 'ok')
await app.ready()
const counts = {}
const end = Date.now() + Number(runMs)
const client = async () => {
  while (Date.now() < end) {
    const { statusCode } = await app.inject('/')
    counts[statusCode] = (counts[statusCode] ?? 0) + 1
    // The memory of denials answers without a turn of the event loop; Redis must get its own.
    await new Promise(resolve => setTimeout(resolve, 1))
  }
}
await Promise.all(Array.from({ length: 32 }, client))
console.log(JSON.stringify(counts))
await app.close()
redis.disconnect()
