/** What we use of an `ioredis` client, single or cluster. */
export interface RedisClient {
  readonly status: string
  readonly isCluster?: boolean
  connect(): Promise<unknown>
  evalsha(sha: string, keys: number, ...args: (string | number)[]): Promise<unknown>
  eval(source: string, keys: number, ...args: (string | number)[]): Promise<unknown>
  once(event: string, listener: () => void): unknown
  on(event: string, listener: () => void): unknown
  off(event: string, listener: () => void): unknown
}

/** A cluster client of `ioredis` keeps the nodes of each slot, the master first. */
interface ClusterClient extends RedisClient {
  readonly slots?: readonly (readonly string[] | undefined)[]
}

/** What the store needs of a client. One function below makes it for each kind of client. */
export interface Connection {
  /** `idle`: waits for `connect`; `closed`: for good. */
  readonly status: 'ready' | 'idle' | 'connecting' | 'closed'
  /** Whether keys of different slots need calls of their own. */
  readonly isCluster: boolean
  /** Starts a connection that is `idle`. Never throws. */
  connect(): void
  /** The node that serves a slot of the cluster, where the client knows it. */
  nodeOf(slot: number): string | undefined
  /** Runs a script by its SHA-1; rejects with an error whose message begins with NOSCRIPT where Redis has lost it. */
  evalsha(sha: string, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown>
  eval(source: string, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown>
  /** Calls `listener` whenever the connection becomes ready; returns what ends that. */
  onReady(listener: () => void): () => void
}

/** A client of `ioredis`, or one that has its methods. */
export function connectionOf(client: RedisClient): Connection {
  return {
    get status() {
      switch (client.status) {
        case 'ready':
        case undefined: // a stand-in without a status has no connection to wait for
          return 'ready'
        case 'wait':
          return 'idle'
        case 'end':
          return 'closed'
        default:
          return 'connecting'
      }
    },
    isCluster: client.isCluster === true,
    connect: () => void client.connect().catch(() => {}),
    nodeOf: slot => (client as ClusterClient).slots?.[slot]?.[0],
    evalsha: (sha, keys, args) => client.evalsha(sha, keys.length, ...keys, ...args),
    eval: (source, keys, args) => client.eval(source, keys.length, ...keys, ...args),
    onReady: listener => {
      client.on('ready', listener)
      return () => void client.off('ready', listener)
    },
  }
}
