/**
 * A queue worker without requests: each customer gets 2 jobs done in any minute, and the others wait, without holding up
 * jobs of other customers. With `redis` and a `nameSpace`, all workers share the quota.
 *
 *   node examples/queue-worker.js
 *
 *   curl -X POST 'localhost:3000/jobs/ann?[1-3]'    # 202 202 202
 *   curl -X POST 'localhost:3000/jobs/bob'          # 202
 *   curl 'localhost:3000/done'                      # 200, body: ann ann bob
 */
import Fastify from 'fastify'
import { createLimiter } from 'ml-api-rate-limiter/limiter'

const limiter = createLimiter({ max: 2, timeWindow: '1 minute' })
const queue = []
const done = []

async function work(customer) {
  const decision = await limiter.check(customer)
  if (decision.allowed) done.push(customer)
  // Waiting that long suffices for the first of the jobs that wait.
  else setTimeout(() => enqueue(customer), decision.retryAfterMs).unref()
}

let working = Promise.resolve()
function enqueue(customer) {
  queue.push(customer)
  working = working.then(() => work(queue.shift()))
}

const app = Fastify({ logger: true })
app.post('/jobs/:customer', async (request, reply) => {
  enqueue(request.params.customer)
  return reply.code(202).send()
})
app.get('/done', async () => {
  await working
  return done.join(' ')
})
app.addHook('onClose', () => limiter.close())

await app.listen({ port: Number(process.env.PORT ?? 3000) })
