/** The limits as the service has them, on its Redis, without the service. */
import Fastify from 'fastify'
import { keyOfDigest } from '../auth.js'
import { type Config, ConfigError, type Environment, readConfig } from '../config.js'
import { Refusal } from '../http/problem.js'
import type { Keyring } from '../keys/keyring.js'
import { openKeys } from '../open-keys.js'
import { anonymousAt, type Identity } from '../protection/callers.js'
import { type Limits, openLimits, type Standing } from '../protection/limits.js'
import { redisAnswersWithin, registerRedis } from '../redis.js'
import type { RedisTarget } from '../redis-url.js'
import { Failure, PATIENCE_MS, UsageError } from './io.js'

/** Whose quota it is: an address by its partition key, or an API key by its SHA-256 or its id. */
export type Caller = { readonly address: string } | { readonly sha256: string } | { readonly id: string }

export interface CallerStanding extends Standing {
  /** Partition key. */
  readonly key: string
}

/** Where a caller stands, after a reset if that is asked for. Throws Failure and UsageError. */
export async function standingInRedis(
  caller: Caller,
  environment: Environment,
  reset: boolean,
): Promise<CallerStanding> {
  const app = Fastify({ logger: false })
  try {
    const config = limitsConfig(environment)
    await registerRedis(app, config, config.redis)
    if (!(await redisAnswersWithin(app.redis, PATIENCE_MS))) {
      throw new Failure(`Redis does not answer at ${placesOf(config.redis)}`)
    }
    const { keyring } = await openKeys(app, config)
    const limits = await openLimits(app, config, undefined, () => {}, { keyring })
    const identity = identityOf(caller, limits, keyring)
    const { key } = identity
    if (reset) await limits.reset(identity)
    return { key, ...(await limits.standingOf(identity)) }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    // Redis went away after it had answered.
    const isStoreError = code?.startsWith('ML_RATE_STORE') === true
    throw isStoreError || error instanceof ConfigError || error instanceof Refusal ? new Failure(message) : error
  } finally {
    await app.close()
  }
}

function identityOf(caller: Caller, limits: Limits, keyring: Keyring): Pick<Identity, 'key' | 'ownerKey' | 'plan'> {
  if ('address' in caller) {
    const { address: key } = caller
    const { anonymous } = limits
    if (anonymous !== undefined) return anonymousAt(key, anonymous)
    throw new Failure(`the limits file (LIMITS_FILE) has no plan for callers without an API key: ${key}`)
  }
  const sha256 = 'sha256' in caller ? caller.sha256 : keyring.get(caller.id)?.record.secrets[0]?.sha256
  const identity = sha256 === undefined ? undefined : limits.identityOf(sha256)
  if (identity !== undefined) return identity
  const shown = 'id' in caller ? `key:${caller.id}` : keyOfDigest(caller.sha256)
  throw new Failure(
    `there is no such API key in the limits file (LIMITS_FILE) or in KEYS_STORE, or it is revoked: ${shown}`,
  )
}

function limitsConfig(environment: Environment): Config & { readonly redis: RedisTarget } {
  const config = readConfig(environment)
  const { redis } = config
  if (redis === undefined) {
    throw new UsageError('REDIS_URL is not set (or --redis-url): without Redis only the service has the limits')
  }
  // Nothing is counted here, and here is no replica that the limits would be shared with.
  return { ...config, redis, onStoreError: 'deny', storeTimeoutMs: Math.max(PATIENCE_MS, config.storeTimeoutMs) }
}

/** Without user and password. */
const placesOf = ({ hosts }: RedisTarget): string => hosts.map(({ host, port }) => `${host}:${port}`).join(', ')
