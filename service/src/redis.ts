/** The connection to the store of the limits. The service starts, serves and stops whether or not it comes about. */
import { isIP } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { type ConnectionOptions, checkServerIdentity } from 'node:tls'
import fastifyRedis from '@fastify/redis'
import type { FastifyInstance } from 'fastify'
import { Cluster, type ClusterOptions, Redis, type RedisOptions } from 'ioredis'
import { type Config, ConfigError } from './config.js'
import type { RedisHost, RedisTarget } from './redis-url.js'

export type RedisConnection = Redis | Cluster

/** How long the start waits for a connection; it goes on in the background. */
const FIRST_CONNECT_MS = 500
/** How long one attempt to connect may take, the handshake of TLS included. */
const CONNECT_TIMEOUT_MS = 1500
const MAX_RETRY_MS = 1000

/** Full jitter under a cap, so that replicas that lost Redis together do not come back together. */
export function retryDelayMs(attempt: number): number {
  const cap = Math.min(MAX_RETRY_MS, 50 * 2 ** Math.min(attempt, 10))
  return 20 + Math.random() * (cap - 20)
}

/**
 * A call fails soon or not at all: nothing waits in a queue, and nothing is sent twice that may have been counted.
 * `retryMs`: how long to wait before a further attempt to connect; null: there is none.
 */
function connect(
  target: RedisTarget,
  storeTimeoutMs: number,
  retryMs: (attempt: number) => number | null = retryDelayMs,
  more: { readonly socketTimeout?: number } = {},
): RedisConnection {
  const { kind, hosts, username, password, database, family } = target
  const tls = target.tls ? { tls: { checkServerIdentity: identityCheck(hosts) } } : {}
  const options = {
    ...definedOf({ username, password, family }),
    ...tls,
    commandTimeout: storeTimeoutMs,
    connectTimeout: CONNECT_TIMEOUT_MS,
    maxRetriesPerRequest: 0,
    // Looks once a second whether a Redis that loads its data is done, and not when that was expected.
    maxLoadingRetryTime: MAX_RETRY_MS,
    autoResendUnfulfilledCommands: false,
    // A primary that became a replica: the address leads to the new one. 1: connect again, send nothing again.
    reconnectOnError: (error: Error) => (error.message.startsWith('READONLY') ? 1 : false),
    connectionName: 'ml-api-rate-limiter',
    ...more,
  } satisfies RedisOptions
  if (kind === 'cluster') {
    return new Cluster([...hosts], {
      enableOfflineQueue: false,
      clusterRetryStrategy: retryMs,
      slotsRefreshTimeout: 1000,
      // With TLS a node is reached by the name that it gives: its certificate has no address.
      ...(target.tls ? { dnsLookup: (address, callback) => callback(null, address) } : {}),
      // Nodes that are found later have no URL of their own.
      redisOptions: options,
    } satisfies ClusterOptions)
  }
  const single = { ...options, db: database, enableOfflineQueue: false, retryStrategy: retryMs }
  if (kind === 'single') return new Redis({ ...single, ...(hosts[0] as RedisHost) })
  const { primary, sentinelUsername, sentinelPassword } = target
  return new Redis({
    ...single,
    ...definedOf({ name: primary, sentinelUsername, sentinelPassword }),
    sentinels: [...hosts],
    sentinelRetryStrategy: retryMs,
    sentinelReconnectStrategy: retryMs,
    sentinelCommandTimeout: CONNECT_TIMEOUT_MS,
    // Leaves a primary that is frozen once another takes its place.
    failoverDetector: true,
    ...(target.tls ? { enableTLSForSentinelMode: true, sentinelTLS: tls.tls as ConnectionOptions } : {}),
  })
}

/**
 * Clusters and Sentinels may tell of servers by address, while certificates have names: such a server may also show the
 * certificate of the host that `REDIS_URL` names.
 */
function identityCheck([first]: readonly RedisHost[]): typeof checkServerIdentity {
  return (name, certificate) => {
    const wrong = checkServerIdentity(name, certificate)
    return wrong === undefined || isIP(name) === 0 || first === undefined
      ? wrong
      : checkServerIdentity(first.host, certificate)
  }
}

/** Without what is undefined, which the client would take for a value. */
function definedOf<T extends object>(given: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as never
}

/** Whether a server is a node of a cluster, which answers for its own keys alone. */
async function isClusterNode(client: Redis): Promise<boolean> {
  try {
    return /^cluster_enabled:1/m.test(await client.info('cluster'))
  } catch {
    // It does not tell, as some proxies do not.
    return false
  }
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
export async function registerRedis(app: FastifyInstance, config: Config, target: RedisTarget): Promise<void> {
  let client = open(app, config, target)
  app.addHook('onClose', () => disconnect(client))
  let ready = await readyWithin(client, FIRST_CONNECT_MS)
  if (ready && client instanceof Redis && target.kind === 'single' && (await isClusterNode(client))) {
    if (target.database !== 0) throw new ConfigError(['REDIS_URL names a database, and a Redis Cluster has only one'])
    app.log.info('REDIS_URL leads to a Redis Cluster')
    client.disconnect()
    client = open(app, config, { ...target, kind: 'cluster' })
    ready = await readyWithin(client, FIRST_CONNECT_MS)
  }
  if (ready) {
    await app.register(fastifyRedis, { client: client as Redis })
    return
  }
  app.log.warn(
    { onStoreError: config.onStoreError },
    'Redis does not answer; limits follow ON_STORE_ERROR until it does',
  )
  app.decorate('redis', client as FastifyInstance['redis'])
  if (client instanceof Redis && target.kind === 'single') tellOfCluster(app, client)
}

function open(app: FastifyInstance, { storeTimeoutMs }: Config, target: RedisTarget): RedisConnection {
  const client = connect(target, storeTimeoutMs)
  // Said once by the limiter when it matters; here it would be said at every attempt.
  client.on('error', error => app.log.debug({ err: error }, 'redis'))
  return client
}

/** How long the Redis of the keys may take to answer: it syncs each change to its disk first. */
const KEYS_TIMEOUT_MS = 3000

/** Soon enough that a change is known within a second of being back. */
const keysRetryMs = (): number => 50 + Math.random() * 150

/** The connections to the Redis of the keys, of which the first two are closed with the app. */
export async function connectKeys(
  app: FastifyInstance,
  target: RedisTarget,
): Promise<{
  /** For commands. */
  readonly client: RedisConnection
  /** For messages. */
  readonly subscriber: RedisConnection
  /** Opens one that does not connect again by itself, and is the caller's. */
  openReader(): RedisConnection
}> {
  const open = (target: RedisTarget, retryMs: () => number | null = keysRetryMs) => {
    // A connection whose network was cut may stay silent for ever, and nothing says so.
    const client = connect(target, KEYS_TIMEOUT_MS, retryMs, { socketTimeout: KEYS_TIMEOUT_MS })
    client.on('error', error => app.log.debug({ err: error }, 'redis of the keys'))
    return client
  }
  let client = open(target)
  app.addHook('onClose', () => disconnect(client))
  const ready = await readyWithin(client, FIRST_CONNECT_MS)
  let subscriber: RedisConnection | undefined
  let found = target
  if (ready && client instanceof Redis && target.kind === 'single' && (await isClusterNode(client))) {
    client.disconnect()
    found = { ...target, kind: 'cluster' }
    client = open(found)
    await readyWithin(client, FIRST_CONNECT_MS)
    subscriber = open(found)
  }
  const listening = subscriber ?? open(target)
  app.addHook('onClose', () => disconnect(listening))
  return { client, subscriber: listening, openReader: () => open(found, () => null) }
}

/** What could not be seen at the start, as Redis was not there. */
function tellOfCluster(app: FastifyInstance, client: Redis): void {
  client.once('ready', async () => {
    if (!(await isClusterNode(client))) return
    app.log.error('REDIS_URL leads to a Redis Cluster: start again, or write redis+cluster:// (rediss+cluster://)')
  })
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
