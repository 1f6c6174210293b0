/** How many replicas share the quotas, last time Redis could tell, and this one's share of them while it cannot. */
import { randomUUID } from 'node:crypto'
import { clearInterval, monotonic, setInterval } from '../../clock.js'
import type { Check } from '../store.js'
import type { Connection } from './client.js'
import { redisKey } from './codec.js'
import { ANNOUNCE, run } from './scripts.js'

/** Milliseconds between two announcements, and how long one holds. */
const INTERVAL_MS = 1000
const TTL_MS = 5000

/** One replica among `count`; `place` counts from 0. */
export interface Place {
  readonly count: number
  readonly place: number
}

/**
 * The part of a limit that a replica may give by itself. The parts of all replicas add up to the limit: what does not
 * divide goes to the first ones, so with a limit below the number of replicas some give nothing.
 */
export function shareOf(limit: number, { count, place }: Place): number {
  return Math.floor(limit / count) + (place < limit % count ? 1 : 0)
}

/**
 * The check with every limit, and the permits, cut to this replica's share. Of a limit, `used` (by policy) is gone for
 * all replicas; of its share of the permits, `held` are taken.
 */
export function shareOfCheck(check: Check, place: Place, used: readonly number[], held: number): Check {
  const { concurrency } = check
  return {
    ...check,
    policies: check.policies.map((policy, index) => {
      const left = Math.max(0, policy.limit - (used[index] ?? 0))
      return { ...policy, limit: shareOf(left, place) }
    }),
    concurrency: concurrency && { ...concurrency, max: Math.max(0, shareOf(concurrency.max, place) - held) },
  }
}

/** Announces this replica while it lives. Before Redis has answered once it knows of no others. */
export class Replicas {
  readonly #connection: Connection
  readonly #keys: readonly [string, string]
  readonly #id: string
  readonly #timer: NodeJS.Timeout
  #seen: Place = { count: 1, place: 0 }
  #asking = false
  #answeredAt = Number.POSITIVE_INFINITY
  /** When Redis answered again after the last outage. */
  #backSince = Number.NEGATIVE_INFINITY

  /** `id`: who announces itself. */
  constructor(connection: Connection, nameSpace: string, id: string = randomUUID()) {
    this.#connection = connection
    this.#id = id
    this.#keys = [redisKey(nameSpace, 'replicas', '~alive'), redisKey(nameSpace, 'replicas', '~order')]
    this.#timer = setInterval(() => void this.#announce(), INTERVAL_MS).unref()
    void this.#announce()
  }

  get seen(): Place {
    return this.#seen
  }

  /** Announces no more. `withdraw`: takes the announcement back, where Redis can be reached. */
  close(withdraw = true): void {
    clearInterval(this.#timer)
    if (withdraw && this.#connection.status === 'ready') this.#run(0).catch(() => {})
  }

  async #announce(): Promise<void> {
    if (this.#asking || this.#connection.status !== 'ready') return
    this.#asking = true
    try {
      const [count, place] = ((await this.#run(TTL_MS)) as unknown[]).map(Number) as [number, number]
      this.#observe({ count, place }, monotonic())
    } catch {
      // What was last seen stands; that Redis is away is told by those who need it.
    } finally {
      this.#asking = false
    }
  }

  #observe(seen: Place, now: number): void {
    if (now - this.#answeredAt > TTL_MS) this.#backSince = now
    this.#answeredAt = now
    // After an outage every announcement has expired: fewer replicas are believed only once all had time to come back.
    if (seen.count < this.#seen.count && now - this.#backSince < TTL_MS) return
    this.#seen = seen
  }

  #run(ttlMs: number): Promise<unknown> {
    return run(this.#connection, ANNOUNCE, this.#keys, [this.#id, ttlMs])
  }
}
