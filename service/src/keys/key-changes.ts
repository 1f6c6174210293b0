/** What may be done to keys: made, changed, removed and rotated. The key itself is known only here, and only once. */
import { createHash } from 'node:crypto'
import type { KeyRecord } from './key-record.js'
import { KeyConflict, type KeyStore, KeysUnavailable, type StoredKey, TooManyRotations } from './key-store.js'
import { newId, newKeyText } from './key-text.js'
import type { Keyring } from './keyring.js'

/** Earlier keys of one record that still work. */
const MOST_OUTGOING = 9
/** How often a change is tried again that met another one. */
const MOST_TRIES = 10

/** What is said of a new key. */
export interface NewKey {
  readonly owner: string
  readonly plan: string
  readonly name?: string | null
  readonly models?: readonly string[] | null
  /** ISO 8601. */
  readonly expiresAt?: string | null
}

/** What may change of a key. */
export type KeyPatch = Partial<Pick<KeyRecord, 'plan' | 'name' | 'models' | 'expiresAt' | 'disabled'>>

/** A record with the key that opens it, which nobody can read again. */
export interface IssuedKey {
  readonly record: KeyRecord
  readonly key: string
}

export class KeyChanges {
  readonly #store: Pick<KeyStore, 'commit' | 'refresh'>
  readonly #keyring: Keyring

  constructor(store: Pick<KeyStore, 'commit' | 'refresh'>, keyring: Keyring) {
    this.#store = store
    this.#keyring = keyring
  }

  async create({ owner, plan, name = null, models = null, expiresAt = null }: NewKey): Promise<IssuedKey> {
    const id = newId()
    const key = newKeyText(id)
    const now = new Date().toISOString()
    const record: KeyRecord = {
      ...{ id, owner, plan, name, models: models === null ? null : [...models], expiresAt },
      ...{ disabled: false, createdAt: now, updatedAt: now, secrets: [{ sha256: sha256Of(key) }] },
    }
    await this.#store.commit({ id, basis: 0, record })
    return { record, key }
  }

  /**
   * The key with this id. One that is not known here may have just been made by another replica, so the store is asked.
   * Rejects with KeysUnavailable if the store does not answer.
   */
  async find(id: string): Promise<StoredKey | undefined> {
    const known = this.#keyring.get(id)
    if (known !== undefined) return known
    await this.#store.refresh()
    const found = this.#keyring.get(id)
    if (found === undefined && this.#keyring.state !== 'current') {
      throw new KeysUnavailable('the store does not answer, and the key is not known here')
    }
    return found
  }

  /** Undefined where there is no such key. Rejects with KeyConflict where others change it all the time. */
  async patch(id: string, patch: KeyPatch): Promise<{ before: KeyRecord; after: KeyRecord } | undefined> {
    return this.#change(id, before => ({ ...before, ...patch, updatedAt: new Date().toISOString() }))
  }

  /** The record that there was; undefined where there was none. */
  async remove(id: string): Promise<KeyRecord | undefined> {
    return (await this.#change(id, () => undefined))?.before
  }

  /**
   * A new key for the record. The present one ends after `overlapMs`. Undefined where there is no such record. Rejects with
   * TooManyRotations if the overlaps of earlier rotations last.
   */
  async rotate(id: string, overlapMs: number): Promise<IssuedKey | undefined> {
    const key = newKeyText(id)
    const changed = await this.#change(id, before => {
      const now = Date.now()
      const endsAt = new Date(now + overlapMs).toISOString()
      const outgoing = before.secrets
        .map(secret => ({
          ...secret,
          endsAt: secret.endsAt !== undefined && secret.endsAt < endsAt ? secret.endsAt : endsAt,
        }))
        .filter(secret => Date.parse(secret.endsAt) > now)
      if (outgoing.length > MOST_OUTGOING) throw new TooManyRotations(MOST_OUTGOING)
      return { ...before, secrets: [{ sha256: sha256Of(key) }, ...outgoing], updatedAt: new Date(now).toISOString() }
    })
    return changed && { record: changed.after as KeyRecord, key }
  }

  async #change<R extends KeyRecord | undefined>(
    id: string,
    make: (before: KeyRecord) => R,
  ): Promise<{ before: KeyRecord; after: R } | undefined> {
    for (let tries = 1; ; tries++) {
      const found = await this.find(id)
      if (found === undefined) return undefined
      const after = make(found.record)
      try {
        await this.#store.commit({ id, basis: found.revision, record: after })
        return { before: found.record, after }
      } catch (error) {
        if (!(error instanceof KeyConflict) || tries === MOST_TRIES) throw error
        await this.#store.refresh()
        await new Promise(resolve => setTimeout(resolve, Math.random() * 20 * tries))
      }
    }
  }
}

export const sha256Of = (key: string): string => createHash('sha256').update(key).digest('hex')
