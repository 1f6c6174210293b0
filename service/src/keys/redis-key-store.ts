/**
 * Keys in a Redis that all replicas share. Each replica has all of them in memory, and compares its revision with that of
 * the store four times a second and whenever a message says that something has changed: messages may be lost.
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
/** How long the start waits for the keys; loading goes on after that. */
const FIRST_LOAD_MS = 2000
/** Removed ids that are remembered, so that replicas need not read everything again. */
const MOST_REMOVED = 10_000

const script = (name: string): string => readFileSync(new URL(`./${name}.lua`, import.meta.url), 'utf8')

interface Scripts {
  keysCommit(...args: (string | number)[]): Promise<number>
  keysSince(...args: (string | number)[]): Promise<[epoch: string, revision: number, whole: number, ...unknown[]]>
}

type Client = (Redis | Cluster) & Scripts

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
  #timer: NodeJS.Timeout | undefined
  #comparing: Promise<void> | undefined
  /** Whether something may have changed since the comparison that goes on began. */
  #again = false
  #isLost = false
  #isEmptied = false
  #close = () => {}

  /** `subscriber`: a connection of its own to the same Redis. The store closes neither. */
  constructor(
    client: Redis | Cluster,
    subscriber: Redis | Cluster,
    nameSpace: string,
    place: string,
    log: FastifyBaseLogger,
  ) {
    this.place = place
    this.#log = log
    this.#subscriber = subscriber
    // One slot of a cluster.
    const name = (part: string) => `${nameSpace}{keys}:${part}`
    this.#names = ['records', 'revisions', 'removed', 'state'].map(name)
    this.#channel = name('changed')
    client.defineCommand('keysCommit', { numberOfKeys: this.#names.length, lua: script('commit') })
    client.defineCommand('keysSince', { numberOfKeys: this.#names.length, lua: script('since') })
    this.#client = client as Client
  }

  async start(listener: KeyListener): Promise<void> {
    this.#listener = listener
    const compare = () => void this.#compare()
    const subscribe = () => this.#subscriber.subscribe(this.#channel).then(compare, () => {})
    const onReady = () => {
      void this.#sayWhatIsNotSo()
      compare()
    }
    this.#client.on('ready', onReady)
    this.#subscriber.on('ready', subscribe)
    this.#subscriber.on('message', compare)
    this.#timer = setInterval(compare, COMPARE_MS).unref()
    this.#close = () => {
      this.#client.off('ready', onReady)
      this.#subscriber.off('ready', subscribe)
      this.#subscriber.off('message', compare)
    }
    if (this.#subscriber.status === 'ready') void subscribe()
    if (this.#client.status === 'ready') void this.#sayWhatIsNotSo()
    const until = performance.now() + FIRST_LOAD_MS
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

  async close(): Promise<void> {
    clearInterval(this.#timer)
    this.#close()
    this.#listener = undefined
    await this.#comparing
  }

  async #compareUntil(revision: number): Promise<void> {
    while (this.#revision < revision) {
      await this.#compare()
      if (this.#isLost) throw new KeysUnavailable(`${this.place} was lost after it took a change`)
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
      const reply = await this.#client.keysSince(...this.#names, this.#epoch, this.#revision)
      const [epoch, revision, whole, ...changes] = reply
      if (epoch === '' && this.#epoch !== '') {
        if (!this.#isEmptied)
          this.#log.error({ store: this.place }, 'the store of the keys is empty; the keys that are known stay')
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
        this.#log.error(
          { err: error, store: this.place },
          'the store of the keys is lost; the keys that are known stay',
        )
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
