/**
 * Limits by plan: an API key belongs to a customer, a customer has a plan, and all keys of a customer share its quota.
 * Counts in Redis where REDIS_URL says which, else in this process.
 *
 *   node examples/plans-by-api-key.js
 *
 *   curl -i localhost:3000/                                      # 401
 *   curl -i -H 'x-api-key: key-1' 'localhost:3000/?[1-3]'        # 200 200 429, x-ratelimit-limit: 2
 *   curl -i -H 'x-api-key: key-2' localhost:3000/                # 200, x-ratelimit-limit: 5
 *   curl -i -H 'x-api-key: key-3' 'localhost:3000/?[1-5]'        # 200 200 200 200 429, x-ratelimit-limit: 5
 */
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit from 'ml-api-rate-limiter'

const PLANS = { free: { max: 2, timeWindow: 60_000 }, pro: { max: 5, timeWindow: 60_000 } }
const CUSTOMERS = new Map([
  ['key-1', { name: 'ann', plan: PLANS.free }],
  ['key-2', { name: 'bob', plan: PLANS.pro }],
  ['key-3', { name: 'bob', plan: PLANS.pro }],
])

const app = Fastify({ logger: true })

// Runs before the limiter, which is a hook of the routes.
app.decorateRequest('customer', null)
app.addHook('onRequest', async (request, reply) => {
  request.customer = CUSTOMERS.get(request.headers['x-api-key'])
  if (request.customer === undefined) return reply.code(401).send({ error: 'x-api-key is missing or unknown' })
})

const redis = process.env.REDIS_URL ? new Redis(process.env.REDIS_URL) : undefined
// Before the plugin, so that the client is closed after it.
app.addHook('onClose', () => redis?.quit())
await app.register(rateLimit, {
  redis,
  storeTimeout: 1000,
  keyGenerator: request => request.customer.name,
  max: request => request.customer.plan.max,
  timeWindow: request => request.customer.plan.timeWindow,
})

app.get('/', async request => ({ hello: request.customer.name }))

await app.listen({ port: Number(process.env.PORT ?? 3000) })
