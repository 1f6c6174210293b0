import type { Connection } from '../stores/redis/client.js'

/**
 * What a client that the plugin does not know has to offer, for the option `redis`. Written by hand, in about ten lines.
 *
 * A call that is rejected with an error of Redis keeps that error's message, such as `NOSCRIPT …`. A call is sent once: a
 * client that sends it again after a lost connection may count a request twice.
 */
export interface RedisAdapter {
  /**
   * Read before every call. `ready`: calls are sent. `connecting`: they wait, for at most `storeTimeout`. `idle`: so they
   * do, and `connect` is called. `closed`: for good; they fail at once. A client that opens connections as it needs them,
   * such as one over HTTP, is always `ready`.
   */
  readonly status: 'ready' | 'connecting' | 'idle' | 'closed'
  /** Runs a Lua script (`EVAL`). Resolves with its reply: a number or text, or a list of them. */
  eval(source: string, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown>
  /** Calls `listener` whenever the connection becomes ready. Returns a function that ends this. */
  onReady(listener: () => void): () => void
  /**
   * Runs a script by its SHA-1 (`EVALSHA`). Rejects with an error whose message begins with `NOSCRIPT` where Redis does
   * not know it. Without this method every call carries the text of the script, some 20 KB.
   */
  evalsha?(sha: string, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown>
  /** Opens the connection where `status` is `idle`. */
  connect?(): unknown
  /** True for a cluster: a call then has keys of one slot only. */
  readonly isCluster?: boolean
  /** A name for the node that serves a slot of a cluster, so that an outage of one node does not concern the others. */
  nodeOf?(slot: number): string | undefined
}

const UNKNOWN = new Error('NOSCRIPT the adapter has no evalsha')

export function connectionOfAdapter(adapter: RedisAdapter): Connection {
  return {
    get status() {
      return adapter.status
    },
    get isCluster() {
      return adapter.isCluster === true
    },
    connect: () => void settled(() => adapter.connect?.()),
    nodeOf: slot => adapter.nodeOf?.(slot),
    evalsha: async (sha, keys, args) => {
      if (adapter.evalsha === undefined) throw UNKNOWN
      return adapter.evalsha(sha, keys, args)
    },
    eval: async (source, keys, args) => adapter.eval(source, keys, args),
    onReady: listener => adapter.onReady(listener) ?? (() => {}),
  }
}

/** Whatever becomes of it: how the connection is, its status tells. */
export async function settled(act: () => unknown): Promise<void> {
  try {
    await act()
  } catch {}
}
