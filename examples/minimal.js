/**
 * The least that limits: 3 requests in any 10 seconds for each client address, counted in this process.
 *
 *   node examples/minimal.js
 *
 *   curl -i 'localhost:3000/?[1-4]'    # 200 200 200 429, retry-after: 10
 */
import Fastify from 'fastify'
import rateLimit from 'ml-api-rate-limiter'

const app = Fastify({ logger: true })

await app.register(rateLimit, { max: 3, timeWindow: '10 seconds' })

app.get('/', async () => ({ hello: 'world' }))

await app.listen({ port: Number(process.env.PORT ?? 3000) })
