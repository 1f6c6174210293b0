/** Replicas with `onStoreError: 'local'` for tests of the end of an outage. */
import Fastify, { type FastifyInstance } from 'fastify'
import { type Cluster, Redis } from 'ioredis'
import rateLimit, { type RateLimitPluginOptions } from 'ml-api-rate-limiter'
import type { Test } from 'tap'
import { type RedisProcess, until } from './redis-fleet.js'

export interface Replica {
  readonly app: FastifyInstance
  readonly client: Redis | Cluster
  readonly events: string[]
}

export async function replica(t: Test, port: number, options: RateLimitPluginOptions): Promise<Replica> {
  const client = new Redis(port, '127.0.0.1', { lazyConnect: true, retryStrategy: () => 50 })
  client.on('error', () => {})
  await client.connect()
  return limitedBy(t, client, options)
}

/** Every window is an hour: what is admitted in a test is admitted in one window. */
export async function limitedBy(t: Test, client: Redis | Cluster, options: RateLimitPluginOptions): Promise<Replica> {
  const app = Fastify()
  t.teardown(async () => {
    await app.close()
    client.disconnect()
  })
  const events: string[] = []
  await app.register(rateLimit, {
    redis: client,
    nameSpace: 'return:',
    timeWindow: '1 hour',
    onStoreError: 'local',
    storeTimeout: 1000,
    keyGenerator: request => `${request.headers['x-key'] ?? 'lone'}`,
    onStoreEvent: ({ type }) => events.push(type),
    ...options,
  })
  app.get('/', async () => 'ok')
  app.get('/refund', async request => {
    await request.rateLimit?.refund()
    return 'ok'
  })
  app.get('/charge', async request => {
    await request.rateLimit?.charge(2)
    return 'ok'
  })
  await app.ready()
  return { app, client, events }
}

export async function fleet(t: Test, redis: RedisProcess, count: number, options: RateLimitPluginOptions = {}) {
  const all = await Promise.all(Array.from({ length: count }, () => replica(t, redis.port, { max: 100, ...options })))
  // One request each, so that every one has an answer of Redis, for a key that nobody else asks about.
  for (const { app } of all) await admitted(app, 1, { 'x-key': 'other' })
  await allKnow(redis, count)
  return all
}

/** How many of so many requests are admitted. */
export async function admitted(app: FastifyInstance, times: number, headers = {}, url = '/'): Promise<number> {
  let count = 0
  for (let i = 0; i < times; i++) if ((await app.inject({ url, headers })).statusCode === 200) count++
  return count
}

/** Each replica has announced itself after there were so many. */
export async function allKnow(redis: RedisProcess | readonly RedisProcess[], count: number): Promise<void> {
  const clients = [redis].flat().map(node => node.client())
  const announced = async () => {
    const lists = await Promise.all(
      clients.map(async client => {
        const [key] = await client.keys('*alive')
        return key === undefined ? [] : client.zrange(key, '0', '-1', 'WITHSCORES')
      }),
    )
    const list = lists.flat()
    return new Map(list.flatMap((id, at) => (at % 2 === 0 ? [[id, Number(list[at + 1])] as const] : [])))
  }
  await until(`${count} replicas are announced`, async () => (await announced()).size === count)
  const before = await announced()
  await until('each has announced itself again', async () =>
    [...(await announced())].every(([id, expires]) => expires > (before.get(id) ?? 0)),
  )
}

export const back = ({ events }: Replica) =>
  events.filter(type => type === 'lost').length === events.filter(type => type === 'back').length

/** Asks by turns until nobody is admitted any more, for longer than any guard takes. */
export async function useUp(replicas: readonly Replica[], headers = {}): Promise<number> {
  let count = 0
  let lastAt = Date.now()
  while (Date.now() - lastAt < 2500) {
    for (const { app } of replicas) {
      const more = sum(await Promise.all([1, 2, 3, 4].map(() => admitted(app, 3, headers))))
      count += more
      if (more > 0) lastAt = Date.now()
    }
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  return count
}

export const sum = (list: readonly number[]) => list.reduce((total, each) => total + each, 0)
