/**
 * An operator blocks a client for an hour, and lets it in again. With `redis`, every replica denies the client.
 *
 *   ADMIN_TOKEN=secret node examples/block.js
 *
 *   curl -H 'x-api-key: ann' 'localhost:3000/?[1-2]'                              # 200 200
 *   curl -X PUT -H 'authorization: Bearer secret' localhost:3000/blocks/ann       # 204
 *   curl -i -H 'x-api-key: ann' localhost:3000/                                   # 429, retry-after: 3600
 *   curl -H 'x-api-key: bob' localhost:3000/                                      # 200
 *   curl -X DELETE -H 'authorization: Bearer secret' localhost:3000/blocks/ann    # 204
 *   curl -H 'x-api-key: ann' localhost:3000/                                      # 200
 */
import Fastify from 'fastify'
import rateLimit from 'ml-api-rate-limiter'

const app = Fastify({ logger: true })

await app.register(rateLimit, {
  max: 100,
  timeWindow: '1 minute',
  keyGenerator: request => request.headers['x-api-key'] ?? request.ip,
})

app.get('/', async () => ({ hello: 'world' }))

const operator = {
  config: { rateLimit: false },
  onRequest: async (request, reply) => {
    const expected = `Bearer ${process.env.ADMIN_TOKEN ?? 'secret'}`
    if (request.headers.authorization !== expected) return reply.code(401).send()
  },
}
app.put('/blocks/:key', operator, async (request, reply) => {
  await app.rateLimiter.block(request.params.key, '1 hour')
  return reply.code(204).send()
})
app.delete('/blocks/:key', operator, async (request, reply) => {
  await app.rateLimiter.reset(request.params.key)
  return reply.code(204).send()
})

await app.listen({ port: Number(process.env.PORT ?? 3000) })
