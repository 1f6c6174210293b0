// A program that registers the plugin with default settings on the Redis of the tests, asks itself twice and says what
// it was answered. Usage: node replica.mjs KEY
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit from 'ml-api-rate-limiter'

const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
const app = Fastify()
await app.register(rateLimit, {
  redis,
  max: 2,
  timeWindow: '1 minute',
  storeTimeout: 5000,
  keyGenerator: () => process.argv[2],
})
app.get('/', async () => 'ok')
const codes = [(await app.inject('/')).statusCode, (await app.inject('/')).statusCode]
console.log(JSON.stringify(codes))
await app.close()
redis.disconnect()
