import type { Redis } from 'ioredis'
import type { Answer, Check, Store } from '../../plugin/src/stores/store.js'

/** What was served, and when by the clock of Redis, in microseconds. */
export interface Served {
  readonly at: number
  readonly cost: number
}

/**
 * µs of the Redis clock at 0 of `performance.now()`, at the most: of many looks the one that says least. A time that is
 * noted too late does no harm where it is not after the date of the entry.
 */
export async function redisOrigin(redis: Redis): Promise<number> {
  let origin = Number.POSITIVE_INFINITY
  for (let look = 0; look < 50; look++) {
    const sent = performance.now()
    const [seconds, micros] = (await redis.time()).map(Number) as [number, number]
    origin = Math.min(origin, seconds * 1e6 + micros - sent * 1000)
  }
  return origin
}

/**
 * Asks, and notes when it was served: now where the answer was at hand, else when Redis admitted it. A request that
 * waited for a grant is served when it is answered, or at the end of the grant where the answer was late.
 */
export async function ask(store: Store, check: Check, origin: number, served: Served[]): Promise<Answer> {
  const answer = await store.check(check)
  if (answer.allowed) {
    const now = origin + performance.now() * 1000
    const time = answer.policies[0]?.admission?.time ?? now
    served.push({ at: Math.min(now, time), cost: check.policies[0]?.cost ?? 1 })
  }
  return answer
}

/** The most that any window of this length (ms) has held. */
export function fullest(served: readonly Served[], windowMs: number): number {
  const sorted = [...served].sort((a, b) => a.at - b.at)
  let most = 0
  let held = 0
  let from = 0
  for (const { at, cost } of sorted) {
    held += cost
    while ((sorted[from] as Served).at <= at - windowMs * 1000) held -= (sorted[from++] as Served).cost
    most = Math.max(most, held)
  }
  return most
}
