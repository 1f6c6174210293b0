/**
 * The seam between the keys in memory and where they are kept. Every change has a revision: a number that grows by one
 * with each, over all keys. So a replica that has missed messages sees that it has, and what it has to read again.
 */
import type { KeyRecord } from './key-record.js'

/** A record as it stands in the store. */
export interface StoredKey {
  readonly record: KeyRecord
  /** Of its last change. */
  readonly revision: number
}

/** What is to become of one record. */
export interface KeyChange {
  readonly id: string
  /** Revision of the record that the change was made from; 0 for a new one. */
  readonly basis: number
  /** Undefined: the record is removed. */
  readonly record: KeyRecord | undefined
}

/** What a store tells of: in the order of revisions, each change once. */
export interface KeyListener {
  /** All that there is; what was known before is void. */
  replaced(keys: readonly StoredKey[], revision: number): void
  /** `key`: undefined where it was removed. */
  changed(id: string, key: StoredKey | undefined, revision: number): void
  /** The store has been compared with what is known, and nothing more has changed. */
  agreed(): void
}

export interface KeyStore {
  /** Where keys are kept, without secrets, for people. */
  readonly place: string
  /** Loads all keys, then goes on listening. Resolves when they are loaded, or when that takes too long for now. */
  start(listener: KeyListener): Promise<void>
  /**
   * Resolves once the change is on the disk and the listener knows it. Rejects with KeyConflict where the record is no
   * longer what the change was made from, and with KeysUnavailable where it is not known whether the change was made.
   */
  commit(change: KeyChange): Promise<void>
  /** Resolves once the listener knows what others changed before the call, or the store cannot be asked. */
  refresh(): Promise<void>
  close(): Promise<void>
}

/** The record was changed by somebody else meanwhile. */
export class KeyConflict extends Error {
  override readonly name = 'KeyConflict'
}

/** The key was rotated so often that too many earlier ones still work. `most`: how many may. */
export class TooManyRotations extends Error {
  override readonly name = 'TooManyRotations'

  constructor(most: number) {
    super(
      `${most} earlier keys of this one still work, which is the most; wait until one has expired, or rotate without an overlap`,
    )
  }
}

/** The store cannot be asked. The message says why, for the log. */
export class KeysUnavailable extends Error {
  override readonly name = 'KeysUnavailable'
}
