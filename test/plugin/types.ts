/** Checked by the compiler alone (`npm run typecheck`): what TypeScript users see of the plugin. */
import type { GlideClient, GlideClusterClient } from '@valkey/valkey-glide'
import Fastify, { type FastifyInstance, type RouteOptions } from 'fastify'
import type * as ioredis from 'ioredis'
import type * as ioredis5 from 'ioredis-5'
import type * as iovalkey from 'iovalkey'
import rateLimit, {
  type CreatedRateLimit,
  type CustomStore,
  normalizeIP,
  type RateLimitPluginOptions,
  type RedisClient,
  type RequestRateLimit,
} from 'ml-api-rate-limiter'
import type * as redis from 'redis'
import type * as redis5 from 'redis-5'

type NodeRedis = typeof redis | typeof redis5
type MadeBy<Name extends 'createClient' | 'createClientPool' | 'createCluster' | 'createSentinel'> = ReturnType<
  NodeRedis[Name]
>
export type Clients =
  | (ioredis.Redis | ioredis.Cluster | ioredis5.Redis | ioredis5.Cluster | iovalkey.Redis | iovalkey.Cluster)
  | (MadeBy<'createClient'> | MadeBy<'createClientPool'> | MadeBy<'createCluster'> | MadeBy<'createSentinel'>)
  | (GlideClient | GlideClusterClient)
/** Every client is one that `redis` takes. */
export const taken = (client: Clients): RedisClient => client

/** Stores with the types that `@fastify/rate-limit` gives them, and with types of their own. */
declare class PeerStore {
  constructor(options: object)
  incr(key: string, callback: (error: Error | null, result?: { current: number; ttl: number }) => void): void
  child(options: RouteOptions & { path: string; prefix: string }): PeerStore
}
declare class OwnStore {
  constructor(options: { timeWindow?: number })
  incr(key: string, callback: (error: Error | null, result?: { current: number; ttl: number }) => void): Promise<void>
  child(options: { timeWindow: number; max: number }): OwnStore
}
declare class NoStore {
  incr(key: number): void
  child(): NoStore
}

export async function registersStores(app: FastifyInstance): Promise<void> {
  await app.register(rateLimit, { store: PeerStore })
  await app.register(rateLimit, { store: OwnStore })
  app.createRateLimit({ store: PeerStore })
  // @ts-expect-error it counts by something else than a key
  app.createRateLimit({ store: NoStore })
}

/** As query builders have it. */
declare const query: PromiseLike<boolean>

export async function registers(app: FastifyInstance, store: new () => CustomStore): Promise<void> {
  await app.register(rateLimit)
  await app.register(rateLimit, { max: 100, timeWindow: '1 minute', store })
  await app.register(rateLimit, { max: async (_request, key) => key.length, timeWindow: request => request.url.length })
  await app.register(rateLimit, {
    policies: [{ name: 'rows', max: 5, timeWindow: 1000, cost: request => Number(request.headers['x-rows']) }],
    concurrency: { max: 3, ttl: '10 seconds' },
    onStoreError: 'local',
    mode: 'report',
  })
  await app.register(rateLimit, {
    hashKeys: true,
    startTimeout: 500,
    prefetch: { max: 20 },
    refundOn: async (request, reply) => request.is404 || reply.statusCode >= 500,
    allowList: () => query,
    groupId: undefined,
  })
  // @ts-expect-error null takes back what is inherited, and a registration inherits nothing
  await app.register(rateLimit, { max: null })
  // @ts-expect-error a quota is a number or a function
  await app.register(rateLimit, { max: '100' })
  // @ts-expect-error there is no such mode
  await app.register(rateLimit, { onStoreError: 'ignore' })
  // @ts-expect-error a policy has a name
  await app.register(rateLimit, { policies: [{ max: 1, timeWindow: 1 }] })
}

export function usesDecorators(app: FastifyInstance): void {
  app.get('/limited', { config: { rateLimit: { max: 1, groupId: 'g' } } }, async () => 'ok')
  app.get('/null', { config: { rateLimit: { max: null, keyGenerator: null, groupId: 'g' } } }, async () => 'ok')
  app.get('/free', { config: { rateLimit: false } }, async () => 'ok')
  app.get('/attached', { preHandler: app.rateLimit({ max: 1 }), onRequest: [app.rateLimit()] }, async () => 'ok')
  app.setNotFoundHandler({ preHandler: app.rateLimit() }, (_request, reply) => reply.code(404).send())
  const ask = app.createRateLimit({ max: 5, name: 'five', cost: null })
  app.get('/', async request => {
    const answer: CreatedRateLimit = await ask(request, { increment: false })
    if (!answer.isAllowed) {
      const numbers: number[] = [answer.max, answer.timeWindow, answer.remaining, answer.ttl, answer.ttlInSeconds]
      const left: number | undefined = answer.decision.policies[0]?.remaining
      return { numbers, left, over: answer.isExceeded && answer.isBanned }
    }
    // @ts-expect-error on the allow list nothing was counted
    answer.remaining
    const decision: RequestRateLimit | null = request.rateLimit
    await decision?.charge(3)
    await decision?.charge({ rows: 3 })
    const { policies = [] } = (await app.rateLimiter.status(normalizeIP(request.ip, 56))) ?? {}
    await app.rateLimiter.reset('key')
    await app.rateLimiter.block('key', '1 hour')
    await app.rateLimiter.block({ default: 'key' }, 60_000)
    await app.rateLimiter.refund('key', 2)
    return policies.map(({ name, limit, remaining, reset }) => `${name} ${limit} ${remaining} ${reset}`)
  })
}

export const options: RateLimitPluginOptions = { keyGenerator: async request => request.id, ban: 2 }
export const app = Fastify()
