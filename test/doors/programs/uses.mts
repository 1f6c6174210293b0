/** What TypeScript users write. Compiled as part of this repository, and in test/doors/types.ts as a user would. */
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import rateLimit, {
  type CreatedRateLimit,
  normalizeIP,
  type RateLimitPluginOptions,
  type RequestRateLimit,
} from 'ml-api-rate-limiter'

export async function registers(app: FastifyInstance): Promise<void> {
  const options: RateLimitPluginOptions = { max: 100, timeWindow: '1 minute' }
  await app.register(rateLimit, options)
  await app.register(rateLimit, { max: async (_request, key) => key.length, timeWindow: request => request.url.length })
  await app.register(rateLimit, {
    policies: [{ name: 'rows', max: 5, timeWindow: 1000, cost: request => Number(request.headers['x-rows']) }],
    concurrency: { max: 3, ttl: '10 seconds' },
    onStoreError: 'local',
  })
  // @ts-expect-error a quota is a number or a function
  await app.register(rateLimit, { max: '100' })
  const created = app.createRateLimit({ max: 1 })
  app.get('/:id', { config: { rateLimit: false } }, async (request, reply) => {
    const decision: RequestRateLimit | null = request.rateLimit
    const answer: CreatedRateLimit = await created(request)
    await app.rateLimit().check(request, reply)
    return { decision, answer, ip: normalizeIP(request.ip) }
  })
  app.get('/typed', async (request: FastifyRequest, reply: FastifyReply) => app.rateLimit({ max: 1 })(request, reply))
}

/** Servers of every kind take the decorators, and what they take leaves the types of the route as they were. */
export async function everyServer(): Promise<void> {
  const https = { key: '', cert: '' }
  const plain = Fastify({ http2: true })
  const secure = Fastify({ http2: true, https })
  const tls = Fastify({ https })
  await plain.register(rateLimit, { max: 1, keyGenerator: request => request.ip })
  await secure.register(rateLimit, { max: 1, errorResponseBuilder: (_request, { after }) => ({ after }) })
  await tls.register(rateLimit, { max: 1 })
  plain.addHook('onRequest', plain.rateLimit())
  plain.setNotFoundHandler({ preHandler: plain.rateLimit() }, (_request, reply) => reply.code(404).send())
  const created = plain.createRateLimit({ max: 1 })
  plain.get('/', { preHandler: plain.rateLimit({ max: 1 }) }, async request => created(request))
  const options = {
    onRequest: secure.rateLimit(),
    config: { rateLimit: { max: 1, keyGenerator: (request: FastifyRequest) => request.ip } },
  }
  secure.get<{ Params: { id: string } }>('/:id', options, async (request, reply) => {
    const id: string = request.params.id
    await secure.rateLimiter.status(id, request)
    return secure.rateLimit().check(request, reply)
  })
  const inferred = { config: { rateLimit: { max: 1 } }, onRequest: tls.rateLimit() }
  tls.get('/', inferred, async request => tls.createRateLimit()(request))
  tls.get(
    '/key',
    { onRequest: tls.rateLimit(), config: { rateLimit: { keyGenerator: request => request.ip } } },
    async request => {
      // @ts-expect-error nothing says what the body is
      return request.body.id
    },
  )
}
