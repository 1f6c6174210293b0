/**
 * Cost that is known only after the work: 500 ms of compute a minute. A request is admitted while anything is left
 * (it costs 0 at first), and what it took is charged when it is done, also beyond the quota; those that come later
 * wait the longer.
 *
 *   node examples/compute-time.js
 *
 *   curl -i 'localhost:3000/work?ms=300&n=[1-3]'    # 200 200 429, x-ratelimit-limit: 500
 */
import Fastify from 'fastify'
import rateLimit from 'ml-api-rate-limiter'

const app = Fastify({ logger: true })

await app.register(rateLimit, {
  policies: [{ name: 'compute-ms', max: 500, timeWindow: '1 minute', cost: 0 }],
})

app.get('/work', async request => {
  const started = performance.now()
  while (performance.now() - started < Number(request.query.ms)); // the work
  const took = Math.ceil(performance.now() - started)
  await request.rateLimit.charge(took)
  return { took }
})

await app.listen({ port: Number(process.env.PORT ?? 3000) })
