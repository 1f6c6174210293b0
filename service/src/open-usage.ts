/** What was used: counted here, and kept where the API keys are. */
import { dirname, join, parse, resolve } from 'node:path'
import type { FastifyInstance } from 'fastify'
import type { Config } from './config.js'
import type { Keys } from './open-keys.js'
import { FileUsageStore } from './usage/file-usage-store.js'
import { RedisUsageStore } from './usage/redis-usage-store.js'
import { UsageMeter } from './usage/usage-meter.js'
import type { UsageStore } from './usage/usage-store.js'

export interface Usage {
  readonly meter: UsageMeter
  readonly store: UsageStore
}

/**
 * Undefined where there are no keys, so that nobody could ask. `settled`: resolves when no run goes on any more; what was
 * used is flushed a last time after that.
 */
export function openUsage(
  app: FastifyInstance,
  config: Config,
  keys: Keys,
  settled: () => Promise<unknown>,
): Usage | undefined {
  const { keys: where, usage, adminToken } = config
  if (!where.isGiven && adminToken === undefined && !keys.keyring.everHeld) return undefined
  const store =
    keys.redis === undefined
      ? new FileUsageStore(folderBeside(where.store as string), usage.days)
      : new RedisUsageStore(keys.redis, config.redisNameSpace, usage.days)
  const meter = new UsageMeter(store, usage.flushMs, app.log)
  app.addHook('onClose', async () => {
    await settled()
    await meter.close()
  })
  return { meter, store }
}

/** `data/keys.usage` of `data/keys.jsonl`. */
const folderBeside = (file: string): string => join(dirname(resolve(file)), `${parse(file).name}.usage`)
