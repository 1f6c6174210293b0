/** Usage in the Redis of the keys: a hash for each key and day, whose fields are hour, count and model. */
import { readFileSync } from 'node:fs'
import type { Cluster, Redis } from 'ioredis'
import { dayOf, daysBetween, HOUR_MS, noCounts, type UsageBatch, type UsageEntry, UsageSum } from './entry.js'
import type { UsageStore } from './usage-store.js'

/** How long the number of a replica's last batch is remembered, in seconds: it is not sent again after that. */
const SEQUENCE_S = 86_400
/** Hashes that are read in one go. */
const AT_ONCE = 500

const COUNTS = ['requests', 'rows', 'computeUs'] as const
/** Before the code of a refusal, which stands where a count does. */
const REFUSED = '!'

type Client = (Redis | Cluster) & { usageAdd(keys: number, ...args: (string | number)[]): Promise<number> }

export class RedisUsageStore implements UsageStore {
  readonly #client: Client
  readonly #prefix: string
  readonly #days: number

  /** `days`: how long usage is kept. */
  constructor(client: Redis | Cluster, nameSpace: string, days: number) {
    client.defineCommand('usageAdd', { lua: readFileSync(new URL('./add.lua', import.meta.url), 'utf8') })
    this.#client = client as Client
    // One slot of a cluster, that of the keys.
    this.#prefix = `${nameSpace}{keys}:usage:`
    this.#days = days
  }

  async add({ replica, sequence, entries }: UsageBatch): Promise<void> {
    const keys = [`${this.#prefix}sequence:${replica}`]
    const args: (string | number)[] = [sequence, SEQUENCE_S]
    for (const entry of entries) {
      const day = dayOf(entry.hour)
      keys.push(this.#indexOf(day), this.#hashOf(day, entry.key))
      const fields = fieldsOf(entry)
      const ends = Math.floor((Date.parse(day) + (this.#days + 1) * 24 * HOUR_MS) / 1000)
      args.push(entry.key, entry.owner ?? '', ends, fields.length / 2, ...fields)
    }
    await this.#client.usageAdd(keys.length, ...keys, ...args)
  }

  async read(from: number, to: number, key: string | undefined): Promise<readonly UsageEntry[]> {
    const sum = new UsageSum()
    for (const day of daysBetween(from, to)) {
      const keys = key === undefined ? await this.#client.smembers(this.#indexOf(day)) : [key]
      for (let at = 0; at < keys.length; at += AT_ONCE) {
        const some = keys.slice(at, at + AT_ONCE)
        const hashes = await Promise.all(some.map(each => this.#client.hgetall(this.#hashOf(day, each))))
        for (const [index, hash] of hashes.entries()) {
          for (const entry of entriesOf(day, some[index] as string, hash)) {
            if (entry.hour >= from && entry.hour < to) sum.add(entry)
          }
        }
      }
    }
    return sum.entries
  }

  #indexOf(day: string): string {
    return `${this.#prefix}${day}`
  }

  #hashOf(day: string, key: string): string {
    return `${this.#prefix}${day}:${key}`
  }
}

/** Names and values, each after the other. */
function fieldsOf({ hour, model, refused, ...counts }: UsageEntry): (string | number)[] {
  const ofDay = hour % 24
  const named = (name: string) => (model === null ? `${ofDay} ${name}` : `${ofDay} ${name} ${model}`)
  return [
    ...COUNTS.flatMap(name => (counts[name] === 0 ? [] : [named(name), counts[name]])),
    ...Object.entries(refused).flatMap(([code, count]) => [named(`${REFUSED}${code}`), count]),
  ]
}

function entriesOf(day: string, key: string, { owner = null, ...fields }: Record<string, string | null>): UsageEntry[] {
  const first = Date.parse(day) / HOUR_MS
  return Object.entries(fields).flatMap(([field, value]) => {
    const [, ofDay, name = '', model = null] = /^(\d+) (\S+)(?: (.+))?$/s.exec(field) ?? []
    if (ofDay === undefined) return []
    const counts = noCounts()
    if (name.startsWith(REFUSED)) counts.refused[name.slice(REFUSED.length)] = Number(value)
    else if (name === 'requests' || name === 'rows' || name === 'computeUs') counts[name] = Number(value)
    return [{ hour: first + Number(ofDay), key, owner, model, ...counts }]
  })
}
