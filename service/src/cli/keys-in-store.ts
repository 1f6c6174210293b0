/** The keys as the service has them, in their store, without the service. */
import { readdirSync } from 'node:fs'
import Fastify from 'fastify'
import { type Config, ConfigError, type Environment, readConfig } from '../config.js'
import type { IssuedKey, NewKey } from '../keys/key-changes.js'
import { fieldProblems, momentOf } from '../keys/key-fields.js'
import type { KeyFilter } from '../keys/key-page.js'
import { keyPasses } from '../keys/key-page.js'
import { type KeyRecord, keyView } from '../keys/key-record.js'
import { KeyConflict, KeysUnavailable, TooManyRotations } from '../keys/key-store.js'
import { type Keys, openKeys } from '../open-keys.js'
import { onePlan, readPlans } from '../protection/plans.js'
import { Failure } from './io.js'

export type KeyAction = 'create' | 'list' | 'revoke' | 'rotate'

type View = ReturnType<typeof keyView>
type Issued = { readonly record: View; readonly key: string }

export interface StoredKeys {
  create(fields: NewKey): Promise<Issued>
  list(filter: KeyFilter): readonly View[]
  /** Rejects with Failure where there is no such key, as `rotate`. */
  revoke(id: string): Promise<KeyRecord>
  rotate(id: string, overlapMs: number): Promise<Issued>
}

/** Opens the store for `work`. Rejects with Failure where it cannot be asked, or what was asked for cannot be. */
export async function withKeys(environment: Environment, work: (keys: StoredKeys) => Promise<void>): Promise<void> {
  const app = Fastify({ logger: false })
  try {
    const config = readConfig(environment)
    const keys = await openKeys(app, config)
    if (keys.keyring.state === 'loading') throw new Failure(`the store of the keys does not answer: ${keys.place}`)
    await work(storedKeys(keys, config))
  } catch (error) {
    const isPlain = [ConfigError, KeysUnavailable, TooManyRotations].some(kind => error instanceof kind)
    if (isPlain) throw new Failure((error as Error).message)
    if (error instanceof KeyConflict) throw new Failure('others changed this key at the same time; try again')
    throw error
  } finally {
    await app.close()
  }
}

function storedKeys({ keyring, changes }: Keys, config: Config): StoredKeys {
  const issued = ({ record, key }: IssuedKey): Issued => ({ record: keyView(record, Date.now()), key })
  const known = <T>(found: T | undefined, id: string): T => {
    if (found === undefined) throw new Failure(`there is no key with the id '${id}'; \`keys list\` shows all`)
    return found
  }
  return {
    create: async fields => {
      const plans = (config.limitsFile === undefined ? onePlan(config.rateLimit) : readPlans(config.limitsFile)).all
      const names = {
        plans: plans.map(({ name }) => name),
        models: fields.models ? modelsIn(config.models.dir) : [],
        now: Date.now(),
      }
      const [problem] = fieldProblems(fields, names, true)
      if (problem !== undefined) throw new Failure(`${problem.path} ${problem.message}`)
      const { expiresAt } = fields
      return issued(await changes.create(expiresAt ? { ...fields, expiresAt: momentOf(expiresAt) as string } : fields))
    },
    list: filter =>
      keyring
        .list()
        .filter(key => keyPasses(key, filter))
        .map(key => keyView(key, Date.now())),
    revoke: async id => known(await changes.remove(id), id),
    rotate: async (id, overlapMs) => issued(known(await changes.rotate(id, overlapMs), id)),
  }
}

/** Folders of the models, which are named after them. */
function modelsIn(folder: string): readonly string[] {
  try {
    return readdirSync(folder, { withFileTypes: true }).flatMap(entry => (entry.isDirectory() ? [entry.name] : []))
  } catch (error) {
    throw new Failure(`the models folder ${folder} cannot be read (${(error as NodeJS.ErrnoException).code})`)
  }
}
