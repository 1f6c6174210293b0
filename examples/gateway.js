/**
 * A gateway or sidecar in front of any upstream: quotas by plan before a request is passed on, cost from the upstream's
 * answer after it, and streams passed through as they come. A plan has requests and tokens a minute; what an answer
 * cost in tokens the upstream says in a header, and those who used up theirs wait.
 *
 *   node examples/gateway.js      (UPSTREAM=http://… for one of your own)
 *
 *   curl -i 'localhost:3000/generate?tokens=[60-62]' -H 'x-api-key: small'    # 200 200 429, retry-after: 60
 *   curl -i 'localhost:3000/generate?tokens=60' -H 'x-api-key: large'         # 200, body: one two three
 *   curl -i localhost:3000/generate -H 'x-api-key: forged'                    # 401
 */
import proxy from '@fastify/http-proxy'
import Fastify from 'fastify'
import rateLimit from 'ml-api-rate-limiter'

const plans = new Map([
  ['small', { requests: 10, tokens: 100 }],
  ['large', { requests: 1000, tokens: 100_000 }],
])

const app = Fastify({ logger: true })
const planOf = request => plans.get(request.headers['x-api-key'])

app.addHook('onRequest', async (request, reply) => {
  if (planOf(request) === undefined) return reply.code(401).send({ error: 'unknown API key' })
})

await app.register(rateLimit, {
  keyGenerator: request => request.headers['x-api-key'],
  policies: [
    { name: 'requests', max: request => planOf(request).requests, timeWindow: '1 minute' },
    // Admitted while any are left; what the answer cost is charged when it is known, also beyond the quota.
    { name: 'tokens', max: request => planOf(request).tokens, timeWindow: '1 minute', cost: 0 },
  ],
})

await app.register(proxy, {
  upstream: process.env.UPSTREAM ?? (await startUpstream()),
  replyOptions: {
    onResponse: (request, reply, { headers, stream }) => {
      const tokens = Number(headers['x-tokens'] ?? 0)
      if (tokens > 0) request.rateLimit.charge({ tokens }).catch(error => request.log.error(error))
      return reply.send(stream)
    },
  },
})

await app.listen({ port: Number(process.env.PORT ?? 3000) })

/** Something to stand behind the gateway: three words, one after the other. */
async function startUpstream() {
  const upstream = Fastify()
  upstream.get('/generate', (request, reply) => {
    const words = async function* () {
      for (const word of ['one ', 'two ', 'three']) {
        yield word
        await new Promise(resolve => setTimeout(resolve, 50))
      }
    }
    reply.header('x-tokens', request.query.tokens)
    return reply.send(ReadableStream.from(words()))
  })
  return upstream.listen({ port: 0, host: '127.0.0.1' })
}
