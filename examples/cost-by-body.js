/**
 * A request costs what it asks for: 10 rows a minute, however they are spread over requests. The limiter runs in
 * `preHandler`, where the body was parsed and checked. A denied request costs nothing, so a smaller one may still fit.
 *
 *   node examples/cost-by-body.js
 *
 *   curl -i localhost:3000/predict --json '{"rows":[1,2,3,4,5,6,7,8]}'    # 200, x-ratelimit-remaining: 2
 *   curl -i localhost:3000/predict --json '{"rows":[1,2,3]}'              # 429
 *   curl -i localhost:3000/predict --json '{"rows":[1,2]}'                # 200, x-ratelimit-remaining: 0
 *   curl -i localhost:3000/predict --json '{"rows":[]}'                   # 400
 */
import Fastify from 'fastify'
import rateLimit from 'ml-api-rate-limiter'

const app = Fastify({ logger: true })

await app.register(rateLimit, {
  hook: 'preHandler',
  policies: [{ name: 'rows', max: 10, timeWindow: '1 minute', cost: request => request.body.rows.length }],
})

const body = {
  type: 'object',
  required: ['rows'],
  properties: { rows: { type: 'array', minItems: 1, items: { type: 'number' } } },
}
app.post('/predict', { schema: { body } }, async request => ({ predictions: request.body.rows.map(row => row > 4) }))

await app.listen({ port: Number(process.env.PORT ?? 3000) })
