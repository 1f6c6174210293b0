import slotOf from 'cluster-key-slot'
import { clearInterval, setInterval } from '../../clock.js'
import type { Lease } from '../store.js'
import type { Connection } from './client.js'
import { RENEW, run } from './scripts.js'

/** One permit that this process holds. */
export interface Permit {
  /** The set that it is in. */
  readonly key: string
  readonly number: number
  readonly ttlMs: number
}

/** Permits renewed in one call at most. */
const MOST = 64

/**
 * The permits this process holds. They end by themselves when the process dies, and so are renewed while it lives: a
 * request may run longer than the life of a permit.
 */
export class Permits {
  readonly #connection: Connection
  readonly #release: (permit: Permit) => void
  readonly #held = new Map<string, Set<Permit>>()
  readonly #timers = new Map<number, NodeJS.Timeout>()

  /** `release`: called once for each permit that is given back. */
  constructor(connection: Connection, release: (permit: Permit) => void) {
    this.#connection = connection
    this.#release = release
  }

  hold(key: string, number: number, ttlMs: number): Lease {
    const permit = { key, number, ttlMs }
    const held = this.#held.get(key)
    if (held === undefined) this.#held.set(key, new Set([permit]))
    else held.add(permit)
    if (!this.#timers.has(ttlMs)) {
      this.#timers.set(ttlMs, setInterval(() => this.#renew(ttlMs), Math.max(1, Math.floor(ttlMs / 3))).unref())
    }
    return {
      release: () => {
        if (this.#drop(permit)) this.#release(permit)
      },
    }
  }

  /** How many of a set this process holds. */
  count(key: string): number {
    return this.#held.get(key)?.size ?? 0
  }

  /** Sets of which this process holds permits. */
  get sets(): number {
    return this.#held.size
  }

  /** Forgets the permits of a set, which was reset. */
  forget(key: string): void {
    this.#held.delete(key)
  }

  /** Renews nothing any more. What is still held can be given back: work may outlast its limiter. */
  close(): void {
    for (const timer of this.#timers.values()) clearInterval(timer)
    this.#timers.clear()
  }

  #drop(permit: Permit): boolean {
    const held = this.#held.get(permit.key)
    if (held === undefined || !held.delete(permit)) return false
    if (held.size === 0) this.#held.delete(permit.key)
    return true
  }

  #renew(ttlMs: number): void {
    const held = [...this.#held.values()].flatMap(set => [...set]).filter(permit => permit.ttlMs === ttlMs)
    if (held.length === 0) {
      clearInterval(this.#timers.get(ttlMs))
      this.#timers.delete(ttlMs)
      return
    }
    if (this.#connection.status !== 'ready') return
    for (const group of this.#groups(held)) {
      const keys = group.map(permit => permit.key)
      run(this.#connection, RENEW, keys, [ttlMs * 1000, ...group.map(permit => permit.number)]).catch(() => {})
    }
  }

  /** At most so many in a call, and only those of one slot: a plain client may lead to a cluster too. */
  #groups(held: readonly Permit[]): Permit[][] {
    const groups = new Map<string, Permit[]>()
    for (const [index, permit] of held.entries()) {
      const id = `${slotOf(permit.key)}/${Math.floor(index / MOST)}`
      const group = groups.get(id)
      if (group === undefined) groups.set(id, [permit])
      else group.push(permit)
    }
    return [...groups.values()]
  }
}
