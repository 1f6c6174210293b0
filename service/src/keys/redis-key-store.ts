/**
 * Keys in a Redis that all replicas share. Each replica has all of them in memory, and compares its revision with that of
 * the store four times a second and whenever a message says that something has changed: messages may be lost.
 *
 * It compares over a connection of its own. One that is silent is replaced: a network that was cut says nothing of it, and
 * TCP may take as long again to go on once it is back.
 */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { FastifyBaseLogger } from 'fastify'
import type { Cluster, Redis } from 'ioredis'
import { Check } from 'typebox/value'
import { type KeyRecord, KeyRecordSchema } from './key-record.js'
import {
  type KeyChange,
  KeyConflict,
  type KeyListener,
  type KeyStore,
  KeysUnavailable,
  type StoredKey,
} from './key-store.js'

/** How often the revision is compared, in milliseconds. */
const COMPARE_MS = 250
/** How often the connection that compares is looked at, in milliseconds, and when one that has ended is opened again. */
const LOOK_MS = 50
const REOPEN_MS = 150
/** How long it may be silent, in milliseconds: several times what it took before. */
const LEAST_PATIENCE_MS = 500
const MOST_PATIENCE_MS = 3000
/** After each such time in which nothing was heard it may be silent for so much longer: the network may have become slow. */
const LONGER_AFTER_MS = 15_000
/** How long the start waits for the keys; loading goes on after that. */
const FIRST_LOAD_MS = 2000
/** How long a change that was taken may take to be read back. */
const READ_BACK_MS = 3000
/** Removed ids that are remembered, so that replicas need not read everything again. */
const MOST_REMOVED = 10_000

const script = (name: string): string => readFileSync(new URL(`./${name}.lua`, import.meta.url), 'utf8')

interface Scripts {
  keysCommit(...args: (string | number)[]): Promise<number>
}

interface ReadScripts {
  keysSince(...args: (string | number)[]): Promise<[epoch: string, revision: number, whole: number, ...unknown[]]>
}

type Client = (Redis | Cluster) & Scripts
type Reader = (Redis | Cluster) & ReadScripts

/** The connections to the Redis of the keys. The store closes those that it opens. */
export interface KeyConnections {
  /** For changes. */
  readonly client: Redis | Cluster
  /** For messages. */
  readonly subscriber: Redis | Cluster
  /** Opens one for comparisons, which does not connect again by itself. */
  readonly openReader: () => Redis | Cluster
}

export class RedisKeyStore implements KeyStore {
  readonly place: string
  readonly #client: Client
  readonly #subscriber: Redis | Cluster
  readonly #log: FastifyBaseLogger
  readonly #names: readonly string[]
  readonly #channel: string
  #listener: KeyListener | undefined
  #epoch = ''
  #revision = 0
  readonly #openReader: () => Reader
  #reader: Reader | undefined
  /** Rejects what waits for the reader. */
  #leave: (reason: Error) => void = () => {}
  #openedAt = 0
  /** When a reader became ready or answered last. */
  #heardAt = 0
  #connectMs = MOST_PATIENCE_MS
  #compareMs = 0
  #timers: NodeJS.Timeout[] = []
  #comparing: Promise<void> | undefined
  /** Whether something may have changed since the comparison that goes on began. */
  #again = false
  #isLost = false
  #isEmptied = false
  #close = () => {}

  constructor(connections: KeyConnections, nameSpace: string, place: string, log: FastifyBaseLogger) {
    const { client, subscriber, openReader } = connections
    this.place = place
    this.#log = log
    this.#subscriber = subscriber
    // One slot of a cluster.
    const name = (part: string) => `${nameSpace}{keys}:${part}`
    this.#names = ['records', 'revisions', 'removed', 'state'].map(name)
    this.#channel = name('changed')
    client.defineCommand('keysCommit', { numberOfKeys: this.#names.length, lua: script('commit') })
    this.#client = client as Client
    const since = { numberOfKeys: this.#names.length, lua: script('since') }
    this.#openReader = () => {
      const reader = openReader()
      reader.defineCommand('keysSince', since)
      return reader as Reader
    }
  }

  async start(listener: KeyListener): Promise<void> {
    this.#listener = listener
    const compare = () => void this.#compare()
    // A reader that is about to be ready compares then.
    const compareSoon = () => {
      if (this.#reader?.status === 'ready') compare()
    }
    const subscribe = () => this.#subscriber.subscribe(this.#channel).then(compareSoon, () => {})
    const onReady = () => void this.#sayWhatIsNotSo()
    this.#client.on('ready', onReady)
    this.#subscriber.on('ready', subscribe)
    this.#subscriber.on('message', compareSoon)
    this.#heardAt = performance.now()
    this.#open()
    this.#timers = [
      setInterval(compare, COMPARE_MS).unref(),
      // What has arrived while this process was busy is read before a connection is called silent.
      setInterval(() => setImmediate(() => this.#look()), LOOK_MS).unref(),
    ]
    this.#close = () => {
      this.#client.off('ready', onReady)
      this.#subscriber.off('ready', subscribe)
      this.#subscriber.off('message', compareSoon)
    }
    if (this.#subscriber.status === 'ready') void subscribe()
    if (this.#client.status === 'ready') void this.#sayWhatIsNotSo()
    const until = performance.now() + FIRST_LOAD_MS
    // Where Redis is there, so will be the reader in a moment.
    while (this.#client.status === 'ready' && this.#reader?.status !== 'ready' && performance.now() < until) {
      await new Promise(resolve => setTimeout(resolve, 5))
    }
    for (;;) {
      await this.#compare()
      if (!this.#isLost || performance.now() > until) return
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  }

  async commit({ id, basis, record }: KeyChange): Promise<void> {
    const json = record === undefined ? '' : JSON.stringify(record)
    let revision: number
    try {
      revision = await this.#client.keysCommit(
        ...this.#names,
        ...[id, basis, json, this.#epoch, randomUUID(), this.#channel, MOST_REMOVED],
      )
    } catch (error) {
      throw new KeysUnavailable(`${this.place} did not take a change: ${(error as Error).message}`, { cause: error })
    }
    if (revision === -2) throw new KeysUnavailable(`${this.place} is not the store that the keys were loaded from`)
    if (revision === -1) {
      void this.#compare()
      throw new KeyConflict(id)
    }
    // Known here before it is answered; what others changed before it comes with it.
    await this.#compareUntil(revision)
  }

  refresh(): Promise<void> {
    return this.#compare()
  }

  async close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer)
    this.#close()
    this.#listener = undefined
    this.#leave(new Error('the store is closed'))
    this.#reader?.disconnect()
    await this.#comparing
  }

  /** Opens a connection to compare over, and leaves the one before. */
  #open(): void {
    this.#leave(new Error('the connection is silent'))
    this.#reader?.disconnect()
    const reader = this.#openReader()
    this.#reader = reader
    this.#openedAt = performance.now()
    reader.once('ready', () => {
      if (this.#reader !== reader) return
      this.#heardAt = performance.now()
      this.#connectMs = this.#heardAt - this.#openedAt
      void this.#compare()
    })
  }

  #look(): void {
    if (this.#listener === undefined) return
    const now = performance.now()
    const usualMs = 4 * Math.max(this.#connectMs, this.#compareMs)
    const times = 1 + Math.floor((now - this.#heardAt) / LONGER_AFTER_MS)
    const patienceMs = Math.min(MOST_PATIENCE_MS, Math.max(LEAST_PATIENCE_MS, usualMs) * times)
    const isSilent = now - Math.max(this.#openedAt, this.#heardAt) > patienceMs
    const hasEnded = this.#reader?.status === 'end' && now - this.#openedAt > REOPEN_MS
    if (isSilent || hasEnded) this.#open()
  }

  /** The answer of the reader. Rejects when it is left. */
  #since(): ReturnType<Reader['keysSince']> {
    const reader = this.#reader as Reader
    const asked = performance.now()
    return new Promise((resolve, reject) => {
      this.#leave = reject
      reader.keysSince(...this.#names, this.#epoch, this.#revision).then(reply => {
        if (reader === this.#reader) {
          this.#heardAt = performance.now()
          this.#compareMs = this.#heardAt - asked
        }
        resolve(reply)
      }, reject)
    })
  }

  async #compareUntil(revision: number): Promise<void> {
    const until = performance.now() + READ_BACK_MS
    for (;;) {
      await this.#compare()
      if (this.#revision >= revision) return
      if (performance.now() > until) throw new KeysUnavailable(`${this.place} was lost after it took a change`)
      if (this.#isLost) await new Promise(resolve => setTimeout(resolve, LOOK_MS))
    }
  }

  /** Resolves when everything that had changed before the call is known, or the store cannot be asked. */
  #compare(): Promise<void> {
    this.#again = true
    this.#comparing ??= (async () => {
      while (this.#again) {
        this.#again = false
        await this.#compareOnce()
      }
      this.#comparing = undefined
    })()
    return this.#comparing
  }

  async #compareOnce(): Promise<void> {
    try {
      const reply = await this.#since()
      const [epoch, revision, whole, ...changes] = reply
      if (epoch === '' && this.#epoch !== '') {
        if (!this.#isEmptied)
          this.#log.error({ store: this.place }, 'the store of the keys is empty; the known keys stay in use')
        this.#isEmptied = true
        return
      }
      this.#isEmptied = false
      this.#take(changes, whole === 1 && (epoch !== this.#epoch || revision !== this.#revision), revision)
      this.#epoch = epoch
      this.#revision = revision
      this.#listener?.agreed()
      if (this.#isLost) this.#log.info({ store: this.place }, 'the store of the keys answers again')
      this.#isLost = false
    } catch (error) {
      if (!this.#isLost && this.#listener !== undefined) {
        this.#log.error({ err: error, store: this.place }, 'the store of the keys is lost; the known keys stay in use')
      }
      this.#isLost = true
    }
  }

  #take(changes: readonly unknown[], isWhole: boolean, revision: number): void {
    const keys: { readonly id: string; readonly key: StoredKey | undefined; readonly revision: number }[] = []
    for (let at = 0; at < changes.length; at += 3) {
      const [id, own, json] = [String(changes[at]), Number(changes[at + 1]), String(changes[at + 2])]
      const record = json === '' ? undefined : this.#parse(id, json)
      keys.push({ id, key: record === undefined ? undefined : { record, revision: own }, revision: own })
    }
    if (isWhole)
      this.#listener?.replaced(
        keys.flatMap(({ key }) => key ?? []),
        revision,
      )
    else for (const { id, key, revision } of keys) this.#listener?.changed(id, key, revision)
  }

  /** A record that cannot be read opens nothing. */
  #parse(id: string, json: string): KeyRecord | undefined {
    try {
      const record: unknown = JSON.parse(json)
      if (Check(KeyRecordSchema, record)) return record
    } catch {}
    this.#log.error({ id }, 'a record in the store of the keys cannot be read, and is left out')
    return undefined
  }

  /** The promise that no answered change is lost holds only with these settings of Redis. */
  async #sayWhatIsNotSo(): Promise<void> {
    for (const problem of await problemsOf(this.#client)) {
      this.#log.warn({ store: this.place }, `the store of the keys may lose changes: ${problem}`)
    }
  }
}

const WANTED: readonly (readonly [name: string, value: string, otherwise: string])[] = [
  ['appendonly', 'yes', 'a Redis that starts again has no keys'],
  ['appendfsync', 'always', 'a change that was answered may be lost with the machine'],
  ['maxmemory-policy', 'noeviction', 'a full Redis would forget keys'],
]

/** What of a Redis is not as the keys need it, in words. */
async function problemsOf(client: Redis | Cluster): Promise<string[]> {
  try {
    const problems: string[] = []
    for (const [name, wanted, otherwise] of WANTED) {
      const [, value] = (await client.config('GET', name)) as [string?, string?]
      if (value !== wanted) problems.push(`${name} is ${value}, and should be ${wanted}: ${otherwise}`)
    }
    return problems
  } catch {
    return [
      'it does not tell its settings; they should be appendonly yes, appendfsync always and maxmemory-policy noeviction',
    ]
  }
}
