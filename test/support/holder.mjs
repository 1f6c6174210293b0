// A replica with two requests that never end. Says when they run. Usage: node holder.mjs NAMESPACE
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit from 'ml-api-rate-limiter'

const app = Fastify()
await app.register(rateLimit, {
  redis: new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379'),
  nameSpace: process.argv[2],
  storeTimeout: 5000,
  keyGenerator: () => 'lone',
  concurrency: { max: 2, ttl: 2000 },
})
let running = 0
app.get('/', async () => {
  if (++running === 2) console.log('both run')
  await new Promise(() => {})
})
app.inject('/')
app.inject('/')
setInterval(() => {}, 1000)
