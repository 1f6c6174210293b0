/**
 * Several windows in one decision: a short one against bursts and a long one as the budget. A request is admitted by
 * both and charged to both, or denied and charged to neither. Counts in Redis where REDIS_URL says which, else in this
 * process.
 *
 *   node examples/several-windows.js
 *
 *   curl -i 'localhost:3000/?[1-4]'    # 200 200 200 429, x-ratelimit-limit: 3
 *   curl localhost:3000/quota          # 200, body: {"burst":0,"daily":2}
 *
 * The denied request was not charged to the day: 5 less 3 are left. Ten seconds later two more are admitted.
 */
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit, { normalizeIP } from 'ml-api-rate-limiter'

const app = Fastify({ logger: true })

const redis = process.env.REDIS_URL ? new Redis(process.env.REDIS_URL) : undefined
// Before the plugin, so that the client is closed after it.
app.addHook('onClose', () => redis?.quit())
await app.register(rateLimit, {
  redis,
  storeTimeout: 1000,
  policies: [
    { name: 'burst', max: 3, timeWindow: '10 seconds' },
    { name: 'daily', max: 5, timeWindow: '1 day' },
  ],
})

app.get('/', async () => ({ hello: 'world' }))

app.get('/quota', { config: { rateLimit: false } }, async request => {
  const { policies } = await app.rateLimiter.status(normalizeIP(request.ip))
  return Object.fromEntries(policies.map(({ name, remaining }) => [name, remaining]))
})

await app.listen({ port: Number(process.env.PORT ?? 3000) })
