import slotOf from 'cluster-key-slot'
import { Circuit } from './circuit.js'
import type { Connection } from './client.js'
import { RedisClock } from './clock.js'

/** One server: its circuit and its clock. */
export interface Node {
  readonly circuit: Circuit
  readonly clock: RedisClock
}

/** Ranges of slots that stand for nodes where the client cannot tell them. */
const RANGES = 64
const SLOTS = 16_384

export interface NodesParts {
  readonly connection: Connection
  /** Tries the node that holds a key. */
  readonly probe: (key: string) => Promise<unknown>
  readonly onChange: (error: Error | undefined, node: string | undefined) => void
}

/** The servers behind a connection: one, or the masters of a cluster. */
export class Nodes {
  readonly #parts: NodesParts
  readonly #nodes = new Map<string | undefined, Node>()
  readonly #endReady: () => void
  #disposed = false

  constructor(parts: NodesParts) {
    this.#parts = parts
    this.#endReady = parts.connection.onReady(() => {
      for (const { circuit } of this.#nodes.values()) circuit.connected()
    })
  }

  /** The node that holds a partition key. */
  of(key: string): Node {
    const { connection } = this.#parts
    if (!connection.isCluster) return this.#node(undefined, key)
    const slot = slotOf(key)
    const name = connection.nodeOf(slot)
    return this.#node(name ?? `range ${Math.floor((slot * RANGES) / SLOTS)}`, key)
  }

  dispose(): void {
    this.#endReady()
    this.#disposed = true
    for (const { circuit } of this.#nodes.values()) circuit.dispose()
  }

  /** `key`: one that the node holds. */
  #node(name: string | undefined, key: string): Node {
    let node = this.#nodes.get(name)
    if (node === undefined) {
      const { probe, onChange } = this.#parts
      const circuit = new Circuit({ probe: () => probe(key), onChange: error => onChange(error, name) })
      if (this.#disposed) circuit.dispose()
      node = { circuit, clock: new RedisClock() }
      this.#nodes.set(name, node)
    }
    return node
  }
}
