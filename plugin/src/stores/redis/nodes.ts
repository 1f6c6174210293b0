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
/** How the names of these ranges begin. No name of a node has a blank. */
export const RANGE = 'range '

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
    return this.#node(this.nameOf(key), key)
  }

  /** The name of the node that holds a partition key. */
  nameOf(key: string): string | undefined {
    const { connection } = this.#parts
    if (!connection.isCluster) return undefined
    const slot = slotOf(`{${key}}`)
    return connection.nodeOf(slot) ?? `${RANGE}${Math.floor((slot * RANGES) / SLOTS)}`
  }

  /** The nodes that have been asked so far. */
  get names(): readonly (string | undefined)[] {
    return [...this.#nodes.keys()]
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

/** The first slot that a node of a cluster holds, by its name. */
export function firstSlotOf(connection: Connection, name: string): number {
  if (name.startsWith(RANGE)) return (Number(name.slice(RANGE.length)) * SLOTS) / RANGES
  for (let slot = 0; slot < SLOTS; slot++) if (connection.nodeOf(slot) === name) return slot
  return 0
}

const tags = new Map<number, string>()

/** A partition key that a slot holds: the same in every replica. */
export function tagOf(slot: number): string {
  let tag = tags.get(slot)
  for (let number = 0; tag === undefined; number++) {
    if (slotOf(`${number}`) === slot) tag = `${number}`
  }
  tags.set(slot, tag)
  return tag
}
