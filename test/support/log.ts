import type { Redis } from 'ioredis'

/** A log as it stands in Redis: see `plugin/src/stores/redis/log.lua`. */
export interface StoredLog {
  /** Time of each admission, in microseconds of the log's own clock, and the running total of cost with it. */
  readonly entries: readonly { readonly time: number; readonly total: number }[]
  /** Undefined in a sorted set that is no log. */
  readonly summary: StoredSummary | undefined
}

export interface StoredSummary {
  readonly generation: number
  /** Microseconds. */
  readonly window: number
  readonly oldest: number
  readonly base: number
  /** Microseconds that the log's clock is ahead of that of Redis. */
  readonly shift: number
  /** End of a block by the log's own clock; undefined where the key is not blocked. */
  readonly block?: number | undefined
}

export async function readLog(redis: Redis, key: string): Promise<StoredLog> {
  const flat = await redis.zrangeBuffer(key, '0', '-1', 'WITHSCORES')
  const pairs = flat.flatMap((member, at) => (at % 2 === 0 ? [{ member, score: String(flat[at + 1]) }] : []))
  const bytes = pairs.find(({ score }) => score === 'inf')?.member
  return {
    entries: pairs
      .filter(({ score }) => score !== 'inf')
      .map(({ member, score }) => ({ time: Number(score), total: Number(member) })),
    summary: bytes?.length === 40 || bytes?.length === 48 ? parseSummary(bytes) : undefined,
  }
}

function parseSummary(bytes: Buffer): StoredSummary {
  const [generation, window, oldest, base, shift] = [0, 8, 16, 24, 32].map(at => bytes.readDoubleBE(at))
  const block = bytes.length === 48 ? bytes.readDoubleBE(40) : undefined
  return { generation, window, oldest, base, shift, block } as StoredSummary
}

async function writeSummary(redis: Redis, key: string, summary: StoredSummary): Promise<void> {
  const { generation, window, oldest, base, shift, block } = summary
  const values = [generation, window, oldest, base, shift, ...(block === undefined ? [] : [block])]
  const bytes = Buffer.alloc(values.length * 8)
  for (const [index, value] of values.entries()) bytes.writeDoubleBE(value, index * 8)
  await redis.zremrangebyrank(key, -1, -1)
  await redis.zadd(key, '+inf', bytes)
}

/**
 * Makes a log `ms` milliseconds younger (older where it is negative), as if the clock had gone back (on) by so much.
 */
export async function shiftLog(redis: Redis, key: string, ms: number): Promise<void> {
  const { summary, entries } = await readLog(redis, key)
  if (summary === undefined) return
  const shift = summary.shift - ms * 1000
  if (shift >= 0) {
    await writeSummary(redis, key, { ...summary, shift })
    return
  }
  // The log's clock is never behind that of Redis, so its entries are made younger instead.
  for (const { time, total } of [...entries].reverse()) await redis.zadd(key, `${time - shift}`, `${total}`)
  const { generation, oldest, block } = summary
  await writeSummary(redis, key, {
    ...summary,
    generation: generation - shift,
    oldest: oldest - shift,
    shift: 0,
    block: block && block - shift,
  })
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
