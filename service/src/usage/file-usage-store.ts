/** Usage in files, one for each day (UTC), in a folder beside the file of the keys. */
import { readdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { Journal } from '../storage/journal.js'
import { dayOf, daysBetween, hourOf, type UsageBatch, type UsageEntry, UsageSum } from './entry.js'
import type { UsageStore } from './usage-store.js'

/** A file is rewritten once it has this many lines: its sum is far shorter. */
const MOST_LINES = 2000

/** One line: a batch as it came, or the sum of many with the last number of each replica. */
interface Line {
  readonly sequences: Readonly<Record<string, number>>
  readonly entries: readonly UsageEntry[]
  readonly isSum?: true
}

/** What is used in one day. */
class Day {
  readonly journal: Journal
  #sum = new UsageSum()
  #sequences = new Map<string, number>()

  constructor(path: string) {
    this.journal = new Journal(path, {
      apply: line => this.#apply(line as Line),
      reset: () => {
        this.#sum = new UsageSum()
        this.#sequences = new Map()
      },
    })
  }

  get entries(): readonly UsageEntry[] {
    return this.#sum.entries
  }

  async add({ replica, sequence, entries }: UsageBatch): Promise<void> {
    const isKnown = () => (this.#sequences.get(replica) ?? 0) >= sequence
    await this.journal.append(() => (isKnown() ? [] : [{ sequences: { [replica]: sequence }, entries } satisfies Line]))
    if (this.journal.entries >= MOST_LINES) await this.shorten()
  }

  async shorten(): Promise<void> {
    await this.journal.rewrite(() => [
      { sequences: Object.fromEntries(this.#sequences), entries: this.#sum.entries, isSum: true } satisfies Line,
    ])
  }

  #apply({ sequences, entries, isSum }: Line): void {
    for (const [replica, sequence] of Object.entries(sequences)) {
      if (!isSum && (this.#sequences.get(replica) ?? 0) >= sequence) return
      this.#sequences.set(replica, sequence)
    }
    for (const entry of entries) this.#sum.add(entry)
  }
}

export class FileUsageStore implements UsageStore {
  readonly #folder: string
  readonly #days: number
  /** The one that is written to; others are read when somebody asks. */
  #today: { readonly name: string; readonly day: Day } | undefined

  /** `days`: how long usage is kept. */
  constructor(folder: string, days: number) {
    this.#folder = folder
    this.#days = days
  }

  async add(batch: UsageBatch): Promise<void> {
    for (const name of new Set(batch.entries.map(({ hour }) => dayOf(hour)))) {
      const entries = batch.entries.filter(({ hour }) => dayOf(hour) === name)
      const day = await this.#dayOf(name)
      await day.add({ ...batch, entries })
    }
  }

  async read(from: number, to: number, key: string | undefined): Promise<readonly UsageEntry[]> {
    const found: UsageEntry[] = []
    for (const name of daysBetween(from, to)) {
      const day = this.#today?.name === name ? this.#today.day : new Day(this.#pathOf(name))
      await day.journal.read()
      for (const entry of day.entries) {
        if (entry.hour >= from && entry.hour < to && (key === undefined || entry.key === key)) found.push(entry)
      }
    }
    return found
  }

  async #dayOf(name: string): Promise<Day> {
    const known = this.#today
    if (known?.name === name) return known.day
    const day = new Day(this.#pathOf(name))
    await day.journal.read()
    if (known !== undefined && known.name > name) return day
    this.#today = { name, day }
    if (known !== undefined) await known.day.shorten()
    await this.#removeOld()
    return day
  }

  async #removeOld(): Promise<void> {
    const oldest = dayOf(hourOf(Date.now()) - this.#days * 24)
    for (const file of await this.#files()) if (file.slice(0, 10) < oldest) await unlink(join(this.#folder, file))
  }

  async #files(): Promise<string[]> {
    try {
      return (await readdir(this.#folder)).filter(name => /^\d{4}-\d\d-\d\d\.jsonl$/.test(name))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
      throw error
    }
  }

  #pathOf(day: string): string {
    return join(this.#folder, `${day}.jsonl`)
  }
}
