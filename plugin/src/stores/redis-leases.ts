import slotOf from 'cluster-key-slot'
import { clearInterval, setInterval } from '../clock.js'
import type { RedisClient } from './redis-client.js'
import { RENEW, type Script } from './scripts.js'
import type { Lease } from './store.js'

type Run = (script: Script, keys: readonly string[], args: readonly (string | number)[]) => Promise<unknown>

interface Held {
  readonly key: string
  readonly number: number
  readonly ttlMs: number
}

/**
 * The leases this process holds. They end by themselves when the process dies, and so are renewed while it lives: a
 * request may run longer than the life of a lease.
 */
export class Leases {
  readonly #redis: RedisClient
  readonly #run: Run
  readonly #held = new Set<Held>()
  readonly #timers = new Map<number, NodeJS.Timeout>()

  constructor(redis: RedisClient, run: Run) {
    this.#redis = redis
    this.#run = run
  }

  hold(key: string, number: number, ttlMs: number): Lease {
    const held = { key, number, ttlMs }
    this.#held.add(held)
    if (!this.#timers.has(ttlMs)) {
      this.#timers.set(ttlMs, setInterval(() => this.#renew(ttlMs), Math.max(1, Math.floor(ttlMs / 3))).unref())
    }
    return {
      release: () => {
        if (!this.#held.delete(held)) return
        // Without a connection the lease ends by itself; the client's queue would send it however late.
        if (this.#redis.status === 'ready') this.#redis.zrem(key, number).catch(() => {})
      },
    }
  }

  close(): void {
    for (const timer of this.#timers.values()) clearInterval(timer)
    this.#timers.clear()
    this.#held.clear()
  }

  #renew(ttlMs: number): void {
    const held = [...this.#held].filter(lease => lease.ttlMs === ttlMs)
    if (held.length === 0) {
      clearInterval(this.#timers.get(ttlMs))
      this.#timers.delete(ttlMs)
      return
    }
    if (this.#redis.status !== 'ready') return
    for (const group of this.#groups(held)) {
      const keys = group.map(lease => lease.key)
      this.#run(RENEW, keys, [ttlMs * 1000, ...group.map(lease => lease.number)]).catch(() => {})
    }
  }

  /** At most 64 in a call, and in a cluster only those of one slot. */
  #groups(held: readonly Held[]): Held[][] {
    const groups = new Map<string, Held[]>()
    for (const [index, lease] of held.entries()) {
      const slot = this.#redis.isCluster === true ? slotOf(lease.key) : 0
      const id = `${slot}/${Math.floor(index / 64)}`
      const group = groups.get(id)
      if (group === undefined) groups.set(id, [lease])
      else group.push(lease)
    }
    return [...groups.values()]
  }
}
