/**
 * Requests in flight: at most 2 of one client at the same time, besides the quota. A place is free again when its
 * response has ended or its client has gone away.
 *
 *   node examples/concurrency.js
 *
 *   curl -i -Z --parallel-immediate 'localhost:3000/slow?[1-4]'    # 200 200 429 429
 *   curl -i localhost:3000/slow                                    # 200
 */
import { setTimeout as delay } from 'node:timers/promises'
import Fastify from 'fastify'
import rateLimit from 'ml-api-rate-limiter'

const app = Fastify({ logger: true })

await app.register(rateLimit, { max: 100, timeWindow: '1 minute', concurrency: { max: 2 } })

app.get('/slow', async () => {
  await delay(2000)
  return { done: true }
})

await app.listen({ port: Number(process.env.PORT ?? 3000) })
