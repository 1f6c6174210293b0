/** The connection to the store of the limits. The service starts, serves and stops whether or not it comes about. */
import { setTimeout as delay } from 'node:timers/promises'
import fastifyRedis from '@fastify/redis'
import type { FastifyInstance } from 'fastify'
import { Cluster, Redis, type RedisOptions } from 'ioredis'
import type { Config } from './config.js'

export type RedisConnection = Redis | Cluster

/** How long the start waits for a connection; it goes on in the background. */
const FIRST_CONNECT_MS = 500
const MAX_RETRY_MS = 1000

/** Full jitter under a cap, so that replicas that lost Redis together do not come back together. */
export function retryDelayMs(attempt: number): number {
  const cap = Math.min(MAX_RETRY_MS, 50 * 2 ** Math.min(attempt, 10))
  return 20 + Math.random() * (cap - 20)
}

/** A call fails soon or not at all: nothing waits in a queue, and nothing is sent twice that may have been counted. */
function connect({ redisUrls, storeTimeoutMs }: Config): RedisConnection {
  const options = {
    commandTimeout: storeTimeoutMs,
    connectTimeout: FIRST_CONNECT_MS,
    maxRetriesPerRequest: 0,
    // Looks once a second whether a Redis that loads its data is done, and not when that was expected.
    maxLoadingRetryTime: MAX_RETRY_MS,
    autoResendUnfulfilledCommands: false,
    // A primary that became a replica: the address leads to the new one. 1: connect again, send nothing again.
    reconnectOnError: (error: Error) => (error.message.startsWith('READONLY') ? 1 : false),
    connectionName: 'ml-api-rate-limiter',
  } satisfies RedisOptions
  const [first, ...others] = redisUrls
  if (first === undefined) throw new TypeError('no Redis to connect to')
  if (others.length === 0) {
    return new Redis(first, { ...options, enableOfflineQueue: false, retryStrategy: retryDelayMs })
  }
  const { username, password, protocol } = new URL(first)
  return new Cluster([...redisUrls], {
    enableOfflineQueue: false,
    clusterRetryStrategy: retryDelayMs,
    slotsRefreshTimeout: 1000,
    redisOptions: {
      ...options,
      // Nodes found later have no URL of their own.
      ...(username === '' ? {} : { username: decodeURIComponent(username) }),
      ...(password === '' ? {} : { password: decodeURIComponent(password) }),
      ...(protocol === 'rediss:' ? { tls: {} } : {}),
    },
  })
}

/** Resolves with whether the connection was ready in time. */
function readyWithin(client: RedisConnection, ms: number): Promise<boolean> {
  return new Promise(resolve => {
    const end = (ready: boolean) => {
      clearTimeout(timer)
      client.off('ready', onReady)
      resolve(ready)
    }
    const onReady = () => end(true)
    const timer = setTimeout(() => end(false), ms)
    client.once('ready', onReady)
  })
}

/**
 * Decorates `app.redis`. `@fastify/redis` waits until its client is ready and fails the start when that takes long, so
 * it gets one that is; otherwise the same client stands in its place and connects later.
 */
export async function registerRedis(app: FastifyInstance, config: Config): Promise<void> {
  const client = connect(config)
  // Said once by the limiter when it matters; here it would be said at every attempt.
  client.on('error', error => app.log.debug({ err: error }, 'redis'))
  app.addHook('onClose', () => disconnect(client))
  if (await readyWithin(client, FIRST_CONNECT_MS)) {
    await app.register(fastifyRedis, { client: client as Redis })
  } else {
    app.log.warn(
      { onStoreError: config.onStoreError },
      'Redis does not answer; limits follow ON_STORE_ERROR until it does',
    )
    app.decorate('redis', client as FastifyInstance['redis'])
  }
}

async function disconnect(client: RedisConnection): Promise<void> {
  try {
    if (client.status === 'ready') await client.quit()
  } catch {
    // It went away before it could be said goodbye to.
  } finally {
    client.disconnect()
  }
}

/** Whether Redis answers before these milliseconds are over, for who has the time to wait for a connection. */
export async function redisAnswersWithin(client: RedisConnection, ms: number): Promise<boolean> {
  const until = performance.now() + ms
  while (!(await redisAnswers(client))) {
    if (performance.now() >= until) return false
    await delay(50)
  }
  return true
}

/** Whether Redis answers now, within the time that a check of a limit has. */
export async function redisAnswers(client: RedisConnection): Promise<boolean> {
  try {
    await client.ping()
    return true
  } catch {
    return false
  }
}
