/** What the store needs of a connection to Redis. `clients/` makes one of each kind of client. */
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
