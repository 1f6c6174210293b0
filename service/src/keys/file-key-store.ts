/** Keys in a file, for a service that has no Redis for them. Several processes of one machine may use the file. */
import type { FastifyBaseLogger } from 'fastify'
import { Check } from 'typebox/value'
import { Journal, JournalError } from '../storage/journal.js'
import { type KeyRecord, KeyRecordSchema } from './key-record.js'
import {
  type KeyChange,
  KeyConflict,
  type KeyListener,
  type KeyStore,
  KeysUnavailable,
  type StoredKey,
} from './key-store.js'

/** How often the file is looked at for what other processes wrote, in milliseconds. */
const LOOK_MS = 250
/** The file is rewritten at the start where it has this many lines and most of them are superseded. */
const LEAST_TO_REWRITE = 1000

/** One line of the file. */
interface Entry {
  readonly revision: number
  readonly id: string
  /** Null: removed. */
  readonly record: KeyRecord | null
}

export class FileKeyStore implements KeyStore {
  readonly place: string
  readonly #journal: Journal
  readonly #keys = new Map<string, StoredKey>()
  readonly #log: Pick<FastifyBaseLogger, 'error'>
  #revision = 0
  #listener: KeyListener | undefined
  /** Whether the file is being read from its beginning. */
  #isReset = true
  #isBroken = false
  #timer: NodeJS.Timeout | undefined

  constructor(path: string, log: Pick<FastifyBaseLogger, 'error'>) {
    this.place = `the file ${path}`
    this.#log = log
    this.#journal = new Journal(path, {
      apply: entry => this.#apply(entry),
      reset: () => {
        this.#keys.clear()
        this.#revision = 0
        this.#isReset = true
      },
    })
  }

  /** Rejects with JournalError for a file that is damaged. */
  async start(listener: KeyListener): Promise<void> {
    await this.#journal.read()
    if (this.#journal.entries > Math.max(LEAST_TO_REWRITE, 2 * this.#keys.size)) await this.#rewrite()
    this.#listener = listener
    this.#tellAll()
    const look = async () => {
      await this.refresh()
      if (this.#timer !== undefined) this.#timer = setTimeout(look, LOOK_MS).unref()
    }
    this.#timer = setTimeout(look, LOOK_MS).unref()
  }

  async commit({ id, basis, record }: KeyChange): Promise<void> {
    try {
      await this.#journal.append(() => {
        if ((this.#keys.get(id)?.revision ?? 0) !== basis) throw new KeyConflict(id)
        const entry: Entry = { revision: this.#revision + 1, id, record: record ?? null }
        return [entry]
      })
    } catch (error) {
      if (error instanceof KeyConflict) throw error
      throw new KeysUnavailable(`${this.place} cannot be written: ${(error as Error).message}`, { cause: error })
    }
    this.#tellAll()
  }

  async refresh(): Promise<void> {
    try {
      await this.#journal.read()
      this.#isBroken = false
      this.#tellAll()
    } catch (error) {
      if (!this.#isBroken) this.#log.error({ err: error }, 'the file of the keys cannot be read')
      this.#isBroken = true
    }
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#listener = undefined
  }

  #apply(given: unknown): void {
    const entry = given as Entry
    const isWhole =
      typeof entry?.id === 'string' &&
      Number.isSafeInteger(entry.revision) &&
      (entry.record === null || Check(KeyRecordSchema, entry.record))
    if (!isWhole) throw new JournalError(`${this.place} has an entry that is none of a key`)
    const { id, revision, record } = entry
    this.#revision = revision
    const key = record === null ? undefined : { record, revision }
    if (key === undefined) this.#keys.delete(id)
    else this.#keys.set(id, key)
    if (!this.#isReset) this.#listener?.changed(id, key, revision)
  }

  /** Where the file was read from its beginning, what is in it is told as a whole. */
  #tellAll(): void {
    if (this.#isReset && this.#listener !== undefined) {
      this.#isReset = false
      this.#listener.replaced([...this.#keys.values()], this.#revision)
    }
    this.#listener?.agreed()
  }

  async #rewrite(): Promise<void> {
    await this.#journal.rewrite(() => {
      const kept = [...this.#keys].map(([id, { record, revision }]): Entry => ({ revision, id, record }))
      kept.sort((a, b) => a.revision - b.revision)
      // Revisions go on from where they were, whatever was removed last.
      if ((kept.at(-1)?.revision ?? 0) < this.#revision) kept.push({ revision: this.#revision, id: '', record: null })
      return kept
    })
  }
}
