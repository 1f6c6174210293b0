/** Every client that the plugin says it takes. */
import { createRequire } from 'node:module'
import { GlideClient, GlideClusterClient } from '@valkey/valkey-glide'
import { Cluster, Redis } from 'ioredis'
import { Cluster as Cluster5, Redis as Redis5 } from 'ioredis-5'
import { Cluster as ClusterValkey, Redis as RedisValkey } from 'iovalkey'
import type { RedisAdapter, RedisClient } from 'ml-api-rate-limiter'
import { createClient, createClientPool, createCluster, createSentinel } from 'redis'
import * as redis5 from 'redis-5'
import type { Candidate, Open } from './conformance.js'

const require = createRequire(import.meta.url)
const Redis4 = require('ioredis-4') as typeof Redis & { Cluster: typeof Cluster }

interface Ioredis {
  on(event: 'error', listener: () => void): unknown
  disconnect(): void
}

const host = '127.0.0.1'
const hosts = (ports: readonly number[]) => ports.map(port => ({ host, port }))
const quick = { retryStrategy: () => 50, maxRetriesPerRequest: 0, enableOfflineQueue: false } as const

const ioredis = (
  name: string,
  One: new (options: object) => RedisClient & Ioredis,
  Many: new (nodes: { host: string; port: number }[], options: object) => RedisClient & Ioredis,
): Candidate => {
  const open = (client: RedisClient & Ioredis): Open => {
    client.on('error', () => {})
    return { client, close: () => client.disconnect() }
  }
  return {
    name,
    waits: true,
    single: async port => open(new One({ ...quick, host, port })),
    sentinel: async (ports, name) => open(new One({ ...quick, name, sentinels: hosts(ports) })),
    cluster: async ports => open(new Many(hosts(ports), { redisOptions: quick, clusterRetryStrategy: () => 50 })),
  }
}

interface NodeRedis {
  connect(): Promise<unknown>
  isOpen: boolean
  destroy(): unknown
}

/** Nobody listens to its errors: an outage must not end the process all the same. */
const nodeRedis = (name: string, { createClient, createCluster, createSentinel }: typeof redis5): Candidate => {
  const socket = { reconnectStrategy: () => 50 } as const
  // Not waited for: an app may register the plugin before it is connected.
  const open = (client: NodeRedis): Open => {
    client.connect().catch(() => {})
    return {
      client: client as unknown as RedisClient,
      close: () => (client.isOpen ? client.destroy() : undefined),
    }
  }
  return {
    name,
    waits: true,
    single: async port => open(createClient({ url: `redis://${host}:${port}`, socket })),
    cluster: async ports =>
      open(createCluster({ rootNodes: ports.map(port => ({ url: `redis://${host}:${port}` })), defaults: { socket } })),
    sentinel: async (ports, name) =>
      open(createSentinel({ name, sentinelRootNodes: hosts(ports), nodeClientOptions: { socket } })),
  }
}

export const ioredis6: Candidate = ioredis('ioredis 6', Redis, Cluster)
export const nodeRedis6: Candidate = nodeRedis('node-redis 6', {
  createClient,
  createCluster,
  createSentinel,
} as unknown as typeof redis5)

const pool: Candidate = {
  name: 'a pool of node-redis 6',
  waits: false,
  single: async port => {
    const client = createClientPool({ url: `redis://${host}:${port}`, socket: { reconnectStrategy: () => 50 } })
    await client.connect()
    return { client, close: () => client.destroy() }
  },
}

const glide: Candidate = {
  name: 'Valkey GLIDE 2',
  waits: false,
  single: async port => {
    const client = await GlideClient.createClient({ addresses: [{ host, port }] })
    return { client, close: () => client.close() }
  },
  cluster: async ports => {
    const client = await GlideClusterClient.createClient({ addresses: hosts(ports) })
    return { client, close: () => client.close() }
  },
}

/** As a user writes it, here around ioredis: with a reply as it comes and no more than an adapter must have. */
export const adapter: Candidate = {
  name: 'an adapter',
  waits: true,
  single: async port => {
    const redis = new Redis({ ...quick, host, port })
    redis.on('error', () => {})
    const client: RedisAdapter = {
      get status() {
        if (redis.status === 'end') return 'closed'
        return redis.status === 'ready' ? 'ready' : 'connecting'
      },
      eval: (source, keys, args) => redis.eval(source, keys.length, ...keys, ...args),
      onReady: listener => {
        redis.on('ready', listener)
        return () => redis.off('ready', listener)
      },
    }
    return { client, close: () => redis.disconnect() }
  },
}

export const candidates: readonly Candidate[] = [
  ioredis('ioredis 4', Redis4, Redis4.Cluster),
  ioredis('ioredis 5', Redis5, Cluster5),
  ioredis6,
  ioredis('iovalkey', RedisValkey, ClusterValkey),
  nodeRedis('node-redis 5', redis5),
  nodeRedis6,
  pool,
  glide,
  adapter,
]
