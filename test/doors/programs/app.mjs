import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit, { normalizeIP } from 'ml-api-rate-limiter'

async function statuses(options) {
  const app = Fastify()
  await app.register(rateLimit, { max: 1, timeWindow: '1 minute', ...options })
  app.get('/', async () => 'ok')
  const codes = [(await app.inject('/')).statusCode, (await app.inject('/')).statusCode]
  await app.close()
  return codes.join()
}

async function main() {
  const redis = new Redis(process.env.REDIS_URL)
  const shared = { redis, nameSpace: `door:${process.pid}:${Date.now()}:`, storeTimeout: 5000 }
  console.log(await statuses({}), await statuses(shared), normalizeIP('::ffff:192.0.2.1'))
  redis.disconnect()
}
main()
