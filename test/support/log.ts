import type { Redis } from 'ioredis'

/** A log as it stands in Redis: see `plugin/src/stores/redis/log.lua`. */
export interface StoredLog {
  /** Time of each admission, in microseconds of the log's own clock, and the running total of cost with it. */
  readonly entries: readonly { readonly time: number; readonly total: number }[]
  /** Undefined in a sorted set that is no log. */
  readonly summary: StoredSummary | undefined
}

export interface StoredSummary {
  readonly text: string
  readonly generation: number
  /** Microseconds. */
  readonly window: number
  readonly oldest: number
  readonly base: number
  /** Microseconds that the log's clock is ahead of that of Redis. */
  readonly shift: number
}

export async function readLog(redis: Redis, key: string): Promise<StoredLog> {
  const flat = await redis.zrange(key, '0', '-1', 'WITHSCORES')
  const pairs = flat.flatMap((member, at) => (at % 2 === 0 ? [{ member, score: flat[at + 1] as string }] : []))
  const text = pairs.find(({ score }) => score === 'inf')?.member
  return {
    entries: pairs
      .filter(({ score }) => score !== 'inf')
      .map(({ member, score }) => ({ time: Number(score), total: Number(member) })),
    summary: text === undefined ? undefined : parseSummary(text),
  }
}

function parseSummary(text: string): StoredSummary {
  const [generation, window, oldest, base, shift = 0] = text.split(':').map(part => Number.parseInt(part, 16))
  return { text, generation, window, oldest, base, shift } as StoredSummary
}

/**
 * Makes a log `ms` milliseconds younger (older where it is negative), as if the clock had gone back (on) by so much.
 */
export async function shiftLog(redis: Redis, key: string, ms: number): Promise<void> {
  const { summary } = await readLog(redis, key)
  if (summary === undefined) return
  const { text, generation, window, oldest, base, shift } = summary
  const moved = shift - ms * 1000
  if (moved >= 0) {
    await redis.zrem(key, text)
    await redis.zadd(key, '+inf', [generation, window, oldest, base, moved].map(part => part.toString(16)).join(':'))
    return
  }
  // The log's clock is never behind that of Redis, so its entries are made younger instead.
  const { entries } = await readLog(redis, key)
  for (const { time, total } of [...entries].reverse()) await redis.zadd(key, `${time - moved}`, `${total}`)
  await redis.zrem(key, text)
  const parts = [generation - moved, window, oldest - moved, base]
  await redis.zadd(key, '+inf', parts.map(part => part.toString(16)).join(':'))
}

/** The same for permits, which are entries with the time of their end. */
export async function shiftPermits(redis: Redis, key: string, ms: number): Promise<void> {
  const flat = await redis.zrange(key, '0', '-1', 'WITHSCORES')
  for (let at = 0; at < flat.length; at += 2) {
    await redis.zadd(key, `${Number(flat[at + 1]) + ms * 1000}`, flat[at] as string)
  }
}

/** Milliseconds a key lives at the most, just after an admission: its window, and the rest of a stretch of time. */
export function longestLife(windowMs: number): number {
  return windowMs + Math.min(windowMs / 16, 500) + 2
}
