/** The limits as the service has them, on its Redis, without the service. */
import Fastify from 'fastify'
import { type Config, ConfigError, type Environment, readConfig } from '../config.js'
import { openLimits, type Standing } from '../protection/limits.js'
import { redisAnswersWithin, registerRedis } from '../redis.js'
import type { RedisTarget } from '../redis-url.js'
import { Failure, PATIENCE_MS, UsageError } from './io.js'

export interface Caller {
  /** Partition key. */
  readonly key: string
  /** Of an API key. */
  readonly sha256: string | undefined
}

/** Where a caller stands, after a reset if that is asked for. Throws Failure and UsageError. */
export async function standingInRedis(
  { key, sha256 }: Caller,
  environment: Environment,
  reset: boolean,
): Promise<Standing> {
  const app = Fastify({ logger: false })
  try {
    const config = limitsConfig(environment)
    await registerRedis(app, config, config.redis)
    if (!(await redisAnswersWithin(app.redis, PATIENCE_MS))) {
      throw new Failure(`Redis does not answer at ${placesOf(config.redis)}`)
    }
    const limits = await openLimits(app, config, undefined, () => {})
    const plan = limits.planOf(sha256)
    if (plan === undefined) {
      throw new Failure(
        sha256 === undefined
          ? `the limits file (LIMITS_FILE) has no plan for callers without an API key: ${key}`
          : `there is no such API key in the limits file (LIMITS_FILE), or it is revoked: ${key}`,
      )
    }
    if (reset) await limits.reset(key)
    return await limits.standingOf(key, plan)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    // Redis went away after it had answered.
    const isStoreError = code?.startsWith('ML_RATE_STORE') === true
    throw isStoreError || error instanceof ConfigError ? new Failure(message) : error
  } finally {
    await app.close()
  }
}

function limitsConfig(environment: Environment): Config & { readonly redis: RedisTarget } {
  const config = readConfig(environment)
  const { redis } = config
  if (redis === undefined) {
    throw new UsageError(
      'REDIS_URL is not set (or --redis-url): without Redis the limits are in the service alone, and end with it',
    )
  }
  // Nothing is counted here, and here is no replica that the limits would be shared with.
  return { ...config, redis, onStoreError: 'deny', storeTimeoutMs: Math.max(PATIENCE_MS, config.storeTimeoutMs) }
}

/** Without user and password. */
const placesOf = ({ hosts }: RedisTarget): string => hosts.map(({ host, port }) => `${host}:${port}`).join(', ')
