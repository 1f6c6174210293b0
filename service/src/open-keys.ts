/** The API keys that are made at run time: their store, as the settings name it, and what is known of them here. */
import { existsSync } from 'node:fs'
import { access, constants } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { type Config, ConfigError } from './config.js'
import { FileKeyStore } from './keys/file-key-store.js'
import { KeyChanges } from './keys/key-changes.js'
import type { KeyChange, KeyStore } from './keys/key-store.js'
import { Keyring } from './keys/keyring.js'
import type { Peers } from './processes/peers.js'
import type { connectKeys, RedisConnection } from './redis.js'
import type { RedisTarget } from './redis-url.js'

export interface Keys {
  readonly keyring: Keyring
  readonly changes: KeyChanges
  /** Where they are kept, for people. */
  readonly place: string
  /** Of the store, where that is in Redis. */
  readonly redis: RedisConnection | undefined
}

/** Loads the keys, and closes their store with the app. Throws ConfigError for a file that cannot be used. */
export async function openKeys(app: FastifyInstance, config: Config, peers?: Peers): Promise<Keys> {
  const { store: where, maxStaleMs } = config.keys
  const keyring = new Keyring(maxStaleMs)
  // What speaks with Redis is loaded only where it is used.
  const redis = typeof where === 'string' ? undefined : await (await import('./redis.js')).connectKeys(app, where)
  const store =
    typeof where === 'string' || redis === undefined
      ? new FileKeyStore(resolve(String(where)), app.log)
      : await inRedis(app, config, where, redis)
  app.addHook('onClose', () => store.close())
  try {
    await store.start(keyring)
  } catch (error) {
    throw new ConfigError([`KEYS_STORE: ${(error as Error).message}`])
  }
  const isUsed = config.keys.isGiven || config.adminToken !== undefined
  if (typeof where === 'string' && isUsed) await warnIfReadOnly(app, dirname(resolve(where)))
  if (config.keys.isGiven || keyring.size > 0) {
    app.log.info({ store: store.place, keys: keyring.size, state: keyring.state }, 'the API keys were loaded')
  }
  peers?.answer('keys', () => store.refresh())
  const committed = {
    commit: async (change: KeyChange) => {
      await store.commit(change)
      // So that whoever has the answer can use the key, and not the revoked one, with each process.
      await peers?.ask('keys').catch(() => {})
    },
    refresh: () => store.refresh(),
  }
  return { keyring, changes: new KeyChanges(committed, keyring), place: store.place, redis: redis?.client }
}

/** Keys that exist can be used, so the service starts all the same. */
async function warnIfReadOnly(app: FastifyInstance, folder: string): Promise<void> {
  // It is made with the first key.
  let existing = folder
  while (!existsSync(existing) && dirname(existing) !== existing) existing = dirname(existing)
  try {
    await access(existing, constants.W_OK)
  } catch (error) {
    app.log.warn(
      { err: error },
      `KEYS_STORE: ${folder} cannot be written, so no key can be made and no usage is stored`,
    )
  }
}

async function inRedis(
  app: FastifyInstance,
  config: Config,
  target: RedisTarget,
  connections: Awaited<ReturnType<typeof connectKeys>>,
): Promise<KeyStore> {
  const places = placesOf(target)
  if (config.redis !== undefined && placesOf(config.redis) === places) {
    app.log.warn('KEYS_STORE and REDIS_URL name one Redis: keys need one that writes to disk, limits one that does not')
  }
  const { RedisKeyStore } = await import('./keys/redis-key-store.js')
  return new RedisKeyStore(connections, config.redisNameSpace, `the Redis at ${places}`, app.log)
}

/** Without user and password. */
const placesOf = ({ hosts }: RedisTarget): string => hosts.map(({ host, port }) => `${host}:${port}`).join(', ')
