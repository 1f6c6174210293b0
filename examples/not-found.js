/**
 * Limits guessing of URLs: the handler of unknown routes has a quota of its own, apart from that of the routes.
 *
 *   node examples/not-found.js
 *
 *   curl -i 'localhost:3000/secret[1-4]'    # 404 404 404 429
 *   curl -i localhost:3000/                 # 200
 */
import Fastify from 'fastify'
import rateLimit from 'ml-api-rate-limiter'

const app = Fastify({ logger: true })

await app.register(rateLimit, { max: 100, timeWindow: '1 minute' })

app.setNotFoundHandler({ preHandler: app.rateLimit({ max: 3, timeWindow: '1 minute' }) }, (request, reply) => {
  reply.code(404).send({ error: `there is no ${request.url}` })
})

app.get('/', async () => ({ hello: 'world' }))

await app.listen({ port: Number(process.env.PORT ?? 3000) })
