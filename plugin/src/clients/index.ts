/** The Redis clients that the plugin knows, each as a connection of the store. */
import type { Connection } from '../stores/redis/client.js'
import { connectionOfAdapter, type RedisAdapter } from './adapter.js'
import { connectionOfGlide, type GlideClient } from './glide.js'
import { connectionOfIoredis, type IoredisClient } from './ioredis.js'
import { connectionOfMock } from './ioredis-mock.js'
import { connectionOfNodeRedis, type NodeRedisClient } from './node-redis.js'

export type { RedisAdapter } from './adapter.js'

/** A client of ioredis, iovalkey, node-redis or Valkey GLIDE, or an adapter for another. */
export type RedisClient = IoredisClient | NodeRedisClient | GlideClient | RedisAdapter

interface Kind {
  /** A member that no other kind has. */
  readonly sign: string
  readonly methods: readonly string[]
  readonly connect: (client: never) => Connection
}

/** In the order in which they are tried. */
const KINDS: readonly Kind[] = [
  { sign: 'shaScripts', methods: ['eval'], connect: connectionOfMock },
  { sign: 'onReady', methods: ['eval', 'onReady'], connect: connectionOfAdapter },
  { sign: 'customCommand', methods: ['customCommand'], connect: connectionOfGlide },
  { sign: 'evalSha', methods: ['evalSha', 'eval', 'connect', 'on', 'off'], connect: connectionOfNodeRedis },
  { sign: 'evalsha', methods: ['evalsha', 'eval', 'connect', 'on', 'off'], connect: connectionOfIoredis },
]

/** What an object lacks to be a client, in words; undefined where it is one. */
export function whatClientLacks(client: object): string | undefined {
  const has = (name: string) => typeof (client as Record<string, unknown>)[name] === 'function'
  const kind = kindOf(client)
  const missing = kind === undefined ? 'evalsha' : kind.methods.find(name => !has(name))
  if (missing !== undefined) return `an object without the method '${missing}'`
  const { status } = client as { status?: unknown }
  if (kind?.connect !== connectionOfAdapter || STATUSES.includes(status as string)) return undefined
  return `an adapter whose status is ${typeof status === 'string' ? `'${status}'` : String(status)}`
}

const STATUSES: readonly string[] = ['ready', 'connecting', 'idle', 'closed'] satisfies Connection['status'][]

const connections = new WeakMap<RedisClient, Connection>()

/** Of a client that lacks nothing: one connection, however many limiters use it. */
export function connectionOf(client: RedisClient): Connection {
  let connection = connections.get(client)
  if (connection === undefined) {
    connection = shared((kindOf(client) as Kind).connect(client as never))
    connections.set(client, connection)
  }
  return connection
}

/** The client has one listener for all of the connection's: emitters warn where one event has more than ten. */
function shared(connection: Connection): Connection {
  const listeners = new Set<{ readonly listener: () => void }>()
  let end = () => {}
  const onReady = (listener: () => void) => {
    const entry = { listener }
    listeners.add(entry)
    if (listeners.size === 1) {
      end = connection.onReady(() => {
        for (const { listener } of [...listeners]) listener()
      })
    }
    return () => {
      if (listeners.delete(entry) && listeners.size === 0) end()
    }
  }
  return Object.create(connection, { onReady: { value: onReady, writable: true } }) as Connection
}

function kindOf(client: object): Kind | undefined {
  return KINDS.find(({ sign }) => isThere((client as Record<string, unknown>)[sign]))
}

function isThere(value: unknown): boolean {
  return typeof value === 'function' || (typeof value === 'object' && value !== null)
}
