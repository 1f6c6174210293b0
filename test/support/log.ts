import type { Redis } from 'ioredis'

/** A log as it stands in Redis: see `plugin/src/stores/log.lua`. */
export interface StoredLog {
  /** Time of each admission, in microseconds of the Redis clock, and the running total of cost with it. */
  readonly entries: readonly { readonly time: number; readonly total: number }[]
  /** 'keep:oldest:base'; undefined in a sorted set that is no log. */
  readonly summary: string | undefined
}

export async function readLog(redis: Redis, key: string): Promise<StoredLog> {
  const flat = await redis.zrange(key, '0', '-1', 'WITHSCORES')
  const pairs = flat.flatMap((member, at) => (at % 2 === 0 ? [{ member, score: flat[at + 1] as string }] : []))
  return {
    entries: pairs
      .filter(({ score }) => score !== 'inf')
      .map(({ member, score }) => ({ time: Number(score), total: Number(member) })),
    summary: pairs.find(({ score }) => score === 'inf')?.member,
  }
}

/**
 * Makes a log `ms` milliseconds younger (older where it is negative), as if the clock had gone back (on) by so much. A
 * whole microsecond stays between any two entries, so their order is kept.
 */
export async function shiftLog(redis: Redis, key: string, ms: number): Promise<void> {
  const { entries, summary } = await readLog(redis, key)
  if (summary === undefined) return
  for (const { time, total } of entries) await redis.zadd(key, `${time + ms * 1000}`, `${total}`)
  const [keep, oldest, base] = summary.split(':').map(Number) as [number, number, number]
  await redis.zrem(key, summary)
  await redis.zadd(key, '+inf', `${keep}:${oldest + ms * 1000}:${base}`)
}

/** The same for the leases of requests in flight, which are entries with the time of their end. */
export async function shiftLeases(redis: Redis, key: string, ms: number): Promise<void> {
  const flat = await redis.zrange(key, '0', '-1', 'WITHSCORES')
  for (let at = 0; at < flat.length; at += 2) {
    await redis.zadd(key, `${Number(flat[at + 1]) + ms * 1000}`, flat[at] as string)
  }
}

/** Milliseconds a key lives at the most, just after an admission: its window, and the rest of a stretch of time. */
export function longestLife(windowMs: number): number {
  return windowMs + Math.min(windowMs / 16, 500) + 2
}
