/** All keys of the store, in memory: a request is looked up here and waits for no store. */
import { type KeyRecord, opensUntil } from './key-record.js'
import type { KeyListener, StoredKey } from './key-store.js'

/** After so long without a comparison with the store, in milliseconds, the keys are said to be behind. */
const BEHIND_MS = 2000

/**
 * `loading`: no keys were read yet. `behind`: the store does not answer, and the keys are those of some time ago.
 * `stale`: they are so for longer than they may be used.
 */
export type KeyringState = 'loading' | 'current' | 'behind' | 'stale'

export class Keyring implements KeyListener {
  readonly #maxStaleMs: number
  readonly #byId = new Map<string, StoredKey>()
  /** What a digest opens, and until when (milliseconds since 1970). */
  readonly #byDigest = new Map<string, { readonly record: KeyRecord; readonly until: number }>()
  #sorted: readonly KeyRecord[] | undefined
  #agreedAt: number | undefined
  #everHeld = false

  /** `maxStaleMs`: how long keys are good without a word from the store; Infinity: for ever. */
  constructor(maxStaleMs: number) {
    this.#maxStaleMs = maxStaleMs
  }

  get state(): KeyringState {
    if (this.#agreedAt === undefined) return 'loading'
    const ms = performance.now() - this.#agreedAt
    return ms > this.#maxStaleMs ? 'stale' : ms > BEHIND_MS ? 'behind' : 'current'
  }

  get size(): number {
    return this.#byId.size
  }

  /** Whether there ever was a key, so that what is sent as one means something. */
  get everHeld(): boolean {
    return this.#everHeld
  }

  /** The record that the key with this SHA-256 opens now. The same object as long as nothing of it has changed. */
  find(sha256: string): KeyRecord | undefined {
    const found = this.#byDigest.get(sha256)
    return found !== undefined && Date.now() < found.until ? found.record : undefined
  }

  get(id: string): StoredKey | undefined {
    return this.#byId.get(id)
  }

  /** By the time they were made, the oldest first. */
  list(): readonly KeyRecord[] {
    this.#sorted ??= [...this.#byId.values()]
      .map(({ record }) => record)
      .sort((a, b) => (placeOf(a) < placeOf(b) ? -1 : 1))
    return this.#sorted
  }

  replaced(keys: readonly StoredKey[], revision: number): void {
    this.#everHeld ||= revision > 0
    this.#byId.clear()
    this.#byDigest.clear()
    for (const key of keys) this.#set(key.record.id, key)
    this.#sorted = undefined
  }

  changed(id: string, key: StoredKey | undefined): void {
    this.#everHeld = true
    this.#set(id, key)
    this.#sorted = undefined
  }

  agreed(): void {
    this.#agreedAt = performance.now()
  }

  #set(id: string, key: StoredKey | undefined): void {
    for (const { sha256 } of this.#byId.get(id)?.record.secrets ?? []) this.#byDigest.delete(sha256)
    if (key === undefined) {
      this.#byId.delete(id)
      return
    }
    this.#byId.set(id, key)
    const { record } = key
    for (const secret of record.secrets) {
      this.#byDigest.set(secret.sha256, { record, until: opensUntil(record, secret) })
    }
  }
}

/** Where a record stands in lists: nothing that is made later comes before it. */
export const placeOf = ({ createdAt, id }: KeyRecord): string => `${createdAt} ${id}`
