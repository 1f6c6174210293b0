import { randomUUID } from 'node:crypto'
import Fastify, {
  type FastifyInstance,
  type FastifyServerOptions,
  type InjectOptions,
  type LightMyRequestResponse,
} from 'fastify'
import { Redis } from 'ioredis'
import rateLimit, { type CountsLink, type RateLimitPluginOptions, SharedCounts } from 'ml-api-rate-limiter'
import type { Test } from 'tap'
import { storeClock } from './store-clock.js'

/** A client of the tests' Redis, closed with the test. */
export function redisClient(t: Test): Redis {
  const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  return redis
}

/** Options for counting in Redis, in a name space that no other test has. */
export function inRedis(t: Test): RateLimitPluginOptions {
  return { redis: redisClient(t), nameSpace: `test:${randomUUID()}:`, storeTimeout: 5000 }
}

export type App = FastifyInstance

/**
 * An app with the plugin and a route at `/` that answers `ok`, unless `routes` adds others. The client is the header
 * `x-key`, or `lone`.
 */
export async function limited(
  t: Test,
  options: RateLimitPluginOptions,
  routes: (app: App) => void = app => app.get('/', async () => 'ok'),
  server: FastifyServerOptions = {},
): Promise<App> {
  const app = Fastify(server) as unknown as App
  t.teardown(() => app.close())
  await app.register(rateLimit, {
    keyGenerator: request => (request.headers['x-key'] as string | undefined) ?? 'lone',
    ...options,
  })
  routes(app)
  await app.ready()
  return app
}

export function ask(app: App, request: InjectOptions | string = '/'): Promise<LightMyRequestResponse> {
  return app.inject(request)
}

/** Asks one after the other. */
export async function statuses(app: App, times: number, request: InjectOptions | string = '/'): Promise<number[]> {
  const list: number[] = []
  for (let index = 0; index < times; index++) list.push((await app.inject(request)).statusCode)
  return list
}

/** The way to these counts, as if messages went to another process and back. */
export function linkTo(counts: SharedCounts, from: string | number): CountsLink {
  return {
    ask: async batch => {
      const sent = structuredClone(batch)
      await new Promise(setImmediate)
      return structuredClone(counts.answer(sent, from))
    },
  }
}

/** Options for counting in another process: all apps that have them share their counts. */
export const elsewhere = (): RateLimitPluginOptions => ({
  counts: linkTo(new SharedCounts(), 'test'),
  storeTimeout: 5000,
})

/** The ways of counting, for tests that must hold for each. */
export const STORES: readonly { name: string; options: (t: Test) => RateLimitPluginOptions }[] = [
  { name: 'in process', options: () => ({}) },
  { name: 'in Redis', options: inRedis },
  { name: 'in another process', options: elsewhere },
]

/** A date that stands still, but for what a test lets pass. */
export function frozenDate(t: Test): { advance(ms: number): void } {
  const real = Date.now
  let now = real()
  Date.now = () => now
  t.teardown(() => {
    Date.now = real
  })
  return {
    advance: ms => {
      now += ms
    },
  }
}

/**
 * The ways of counting while time stands still, but for what a test lets pass: no answer depends on how long it took. Denials
 * are not remembered, since that is for a second of true time. Windows are to be longer than the test takes, as what is kept
 * in Redis expires in true time; there the admissions of one moment are a microsecond apart.
 */
export const STOPPED: readonly {
  name: string
  open: (t: Test) => { options: RateLimitPluginOptions; pass(ms: number): void }
}[] = STORES.map(({ name, options }) => ({
  name,
  open: t => {
    const given = { ...options(t), denyMemory: 0 }
    const date = frozenDate(t)
    if (given.redis === undefined) return { options: given, pass: date.advance }
    const clock = storeClock(given.redis as Redis)
    clock.stop(Date.now())
    return {
      options: given,
      pass: ms => {
        date.advance(ms)
        clock.stop(Date.now())
      },
    }
  },
}))
