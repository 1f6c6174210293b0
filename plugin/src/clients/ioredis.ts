import type { Connection } from '../stores/redis/client.js'
import { settled } from './adapter.js'

/** What is used of a client of ioredis or iovalkey, single, Sentinel or cluster. */
export interface IoredisClient {
  /** A stand-in without a status has no connection to wait for. */
  readonly status?: string
  readonly isCluster?: boolean
  connect(): Promise<unknown>
  evalsha(sha: string, keys: number, ...args: (string | number)[]): Promise<unknown>
  eval(source: string, keys: number, ...args: (string | number)[]): Promise<unknown>
  on(event: string, listener: () => void): unknown
  off(event: string, listener: () => void): unknown
}

/** A cluster client keeps the nodes of each slot, the master first. */
interface ClusterClient extends IoredisClient {
  readonly slots?: readonly (readonly string[] | undefined)[]
}

export function connectionOfIoredis(client: IoredisClient): Connection {
  return {
    get status() {
      switch (client.status) {
        case 'ready':
        case undefined:
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
    connect: () => void settled(() => client.connect()),
    nodeOf: slot => (client as ClusterClient).slots?.[slot]?.[0],
    evalsha: (sha, keys, args) => client.evalsha(sha, keys.length, ...keys, ...args),
    eval: (source, keys, args) => client.eval(source, keys.length, ...keys, ...args),
    onReady: listener => {
      client.on('ready', listener)
      return () => void client.off('ready', listener)
    },
  }
}
