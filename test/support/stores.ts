import type { Redis } from 'ioredis'
import { connectionOf } from '../../plugin/src/clients/index.js'
import { type Policy, sharesSlices } from '../../plugin/src/policy.js'
import { MemoryStore } from '../../plugin/src/stores/memory/memory-store.js'
import { SharedCounts } from '../../plugin/src/stores/processes/shared-counts.js'
import { SharedStore } from '../../plugin/src/stores/processes/shared-store.js'
import { RedisStore } from '../../plugin/src/stores/redis/redis-store.js'
import type { Check, Concurrency, Names, Penalty, Refund, Store } from '../../plugin/src/stores/store.js'
import { shiftLog, shiftPermits } from './log.js'

/** A store whose clock a test moves by hand. Milliseconds. */
export interface TimedStore {
  readonly name: string
  readonly store: Store
  /** Lets time pass for everything counted so far. */
  pass(ms: number): Promise<void>
  /** A print of everything kept: equal prints, nothing changed. */
  print(): Promise<string>
  close(): Promise<void>
}

export function memoryStore(capacity = 5000): TimedStore & { set(now: number): void } {
  let now = 1_000_000
  const store = new MemoryStore(capacity, () => now)
  return {
    name: 'in process',
    store,
    pass: async ms => {
      now += ms
    },
    set: at => {
      now = at
    },
    print: async () => '',
    close: async () => store.close(),
  }
}

/** Counts in another process, as if messages went there and back. */
export function sharedStore(denyMemory = 0): TimedStore {
  let now = 1_000_000
  const counts = new SharedCounts({}, () => now)
  const ask = async (batch: unknown) => {
    const sent = structuredClone(batch)
    await new Promise(setImmediate)
    return structuredClone(counts.answer(sent, 'test'))
  }
  const store = new SharedStore({ ask }, { timeoutMs: 5000, denyMemory })
  return {
    name: 'in another process',
    store,
    pass: async ms => {
      now += ms
    },
    print: async () => '',
    close: async () => {
      store.close()
      counts.close()
    },
  }
}

let spaces = 0

/**
 * The clock of Redis cannot be set; instead everything it keeps is made older, which is the same.
 */
export function redisStore(redis: Redis, timeoutMs = 5000, denyMemory = 0): TimedStore {
  const nameSpace = `test${process.pid}.${spaces++}:`
  const store = new RedisStore(connectionOf(redis), { nameSpace, timeoutMs, denyMemory })
  const keys = async () => (await redis.keys(`${nameSpace}*`)).sort()
  return {
    name: 'Redis',
    store,
    pass: async ms => {
      for (const key of await keys()) {
        const ttl = await redis.pttl(key)
        if ((await redis.type(key)) === 'string') {
          const [count, till, last] = `${await redis.get(key)}`.split(':').map(Number) as [number, number, number]
          await redis.set(key, `${count}:${till - ms * 1000}:${last - ms * 1000}`)
        } else {
          await shiftLog(redis, key, -ms)
          if (key.endsWith('permits')) await shiftPermits(redis, key, -ms)
        }
        if (ttl > ms) await redis.pexpire(key, ttl - ms)
        else if (ttl >= 0) await redis.del(key)
      }
    },
    print: async () => {
      const values = await Promise.all(
        (await keys()).map(async key =>
          (await redis.type(key)) === 'string' ? [await redis.get(key)] : redis.zrange(key, '0', '-1', 'WITHSCORES'),
        ),
      )
      return JSON.stringify(values)
    },
    close: async () => {
      store.close()
      const left = await keys()
      if (left.length > 0) await redis.del(...left)
    },
  }
}

export interface PolicySpec {
  readonly name?: string
  readonly limit: number
  readonly windowMs: number
  readonly cost?: number
}

export interface CheckSpec {
  readonly key?: string
  readonly penalty?: Penalty
  readonly precision?: number
  readonly concurrency?: Partial<Concurrency>
}

/** A check with the parts that a test leaves out filled in. */
export function checkOf(policies: readonly PolicySpec[], rest: CheckSpec = {}): Check {
  const { key = 'client', penalty = 'none', precision = 0, concurrency } = rest
  return {
    key,
    limiter: 'limiter',
    penalty,
    decisive: policies.length,
    concurrency: concurrency && { name: 'concurrency', max: 1, ttlMs: 30_000, log: 'permits', ...concurrency },
    policies: policies.map(({ name = 'p', limit, windowMs, cost = 1 }): Policy => {
      const sliced = sharesSlices(limit, precision)
      return { name, limit, windowMs, cost, log: `log.${name}`, sliceMs: windowMs * precision, sliced }
    }),
  }
}

/** Refunds of an operator for all policies of a check, with the costs of the check. */
export function refundsOf(check: Check): Refund[] {
  return check.policies.map(policy => ({ policy, cost: policy.cost, admission: undefined }))
}

/** Everything that a check may leave behind. */
export function namesOf({ limiter, policies, concurrency }: Check): Names {
  return { limiters: [limiter], logs: policies.map(({ log }) => log), permits: concurrency ? [concurrency.log] : [] }
}
