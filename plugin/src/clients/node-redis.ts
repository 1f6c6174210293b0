import { clearInterval, setInterval } from '../clock.js'
import type { Connection } from '../stores/redis/client.js'
import { settled } from './adapter.js'

interface Script {
  keys: string[]
  arguments: string[]
}

/** What is used of a client of node-redis: `createClient`, `createClientPool`, `createSentinel` or `createCluster`. */
export interface NodeRedisClient {
  readonly isOpen: boolean
  /** Pools, and clusters of version 5, have none. */
  readonly isReady?: boolean
  connect(): Promise<unknown>
  evalSha(sha: string, script: Script): Promise<unknown>
  eval(source: string, script: Script): Promise<unknown>
  on(event: string, listener: () => void): unknown
  off(event: string, listener: () => void): unknown
}

interface ClusterClient extends NodeRedisClient {
  readonly masters: readonly unknown[]
  readonly slots: readonly ({ readonly master?: { readonly address?: string } } | undefined)[]
}

/** What tells that a connection may have become ready: of a client and a Sentinel, of a cluster, of a node of it. */
const READY_EVENTS = ['ready', 'connect', 'node-ready']

/** Milliseconds between two looks at a Sentinel client, which in version 5 has no event when it becomes ready. */
const LOOK_MS = 50

/** Clients that were ready once: not open after that, they are closed. */
const onceReady = new WeakSet<NodeRedisClient>()
/** Clients whose errors are listened to. */
const heard = new WeakSet<NodeRedisClient>()

export function connectionOfNodeRedis(client: NodeRedisClient): Connection {
  const isCluster = 'slots' in client
  // An error that nobody listens to ends the process, and an outage of the store must not.
  if (!heard.has(client)) client.on('error', () => {})
  heard.add(client)

  const isReady = () => {
    const ready = client.isReady ?? (client.isOpen && (!isCluster || (client as ClusterClient).masters.length > 0))
    if (ready && !onceReady.has(client)) onceReady.add(client)
    return ready
  }
  isReady()
  return {
    get status() {
      if (isReady()) return 'ready'
      if (client.isOpen) return 'connecting'
      return onceReady.has(client) ? 'closed' : 'idle'
    },
    isCluster,
    connect: () => void settled(() => client.connect()),
    nodeOf: slot => (client as Partial<ClusterClient>).slots?.[slot]?.master?.address,
    evalsha: (sha, keys, args) => client.evalSha(sha, scriptOf(keys, args)),
    eval: (source, keys, args) => client.eval(source, scriptOf(keys, args)),
    onReady: listener => {
      let wasReady = isReady()
      // A cluster tells of each node that comes back; a look only tells of a change.
      const told = () => {
        wasReady = isReady()
        if (wasReady) listener()
      }
      const look = () => {
        if (isReady() !== wasReady) told()
      }
      for (const event of READY_EVENTS) client.on(event, told)
      const timer = 'getSentinelNode' in client ? setInterval(look, LOOK_MS).unref() : undefined
      return () => {
        clearInterval(timer)
        for (const event of READY_EVENTS) client.off(event, told)
      }
    },
  }
}

/** It takes text only. */
function scriptOf(keys: readonly string[], args: readonly (string | number)[]): Script {
  return { keys: keys as string[], arguments: args.map(String) }
}
