/** Which replicas share the quotas, and this one's share of them while Redis cannot be asked. */
import { randomBytes } from 'node:crypto'
import { clearInterval, clearTimeout, monotonic, setImmediate, setInterval, setTimeout } from '../../clock.js'
import type { Check } from '../store.js'
import type { Connection } from './client.js'
import { listIn, numberIn, redisKey } from './codec.js'
import { RANGE } from './nodes.js'
import { ANNOUNCE, run } from './scripts.js'

/** Milliseconds between two announcements, and how long one holds. */
const INTERVAL_MS = 1000
const TTL_MS = 5000
/** Milliseconds without a reply after which Redis may be away. */
const SILENCE_MS = 500
/** Milliseconds between two announcements while this replica waits for the others. */
const IMPATIENT_MS = 100
/** The partition key of what replicas announce. */
export const ANNOUNCED = 'replicas'
/** Milliseconds for which a marker is kept at least. */
const MARKER_MS = 60_000

/** One replica among `count`; `place` counts from 0. */
export interface Place {
  readonly count: number
  readonly place: number
}

/**
 * The part of a limit that a replica may give by itself. The parts of all replicas add up to the limit: what does not
 * divide goes to the first ones, so with a limit below the number of replicas some give nothing.
 */
export function shareOf(limit: number, { count, place }: Place): number {
  return Math.floor(limit / count) + (place < limit % count ? 1 : 0)
}

/**
 * The check with every limit, and the permits, cut to this replica's share. Of a limit, `used` (by policy) is gone for
 * all replicas; of its share of the permits, `held` are taken.
 */
export function shareOfCheck(check: Check, place: Place, used: readonly number[], held: number): Check {
  const { concurrency } = check
  return {
    ...check,
    policies: check.policies.map((policy, index) => {
      const left = Math.max(0, policy.limit - (used[index] ?? 0))
      return { ...policy, limit: shareOf(left, place) }
    }),
    concurrency: concurrency && { ...concurrency, max: Math.max(0, shareOf(concurrency.max, place) - held) },
  }
}

/** Admits on its own while Redis is away, and so has something to tell the other replicas. */
export interface Watcher {
  /** Nodes of which not everything that it admitted by itself is in Redis; the only node is called ''. */
  readonly dirty: readonly string[]
  /** The longest window that it knows, in milliseconds. */
  readonly longestMs: number
  /**
   * Redis may have been away: an announcement has no reply or, for all of its nodes (`isAll`), the client has connected
   * again.
   */
  missed(isAll: boolean): void
  /** Redis has replied to an announcement. `marker`: see `marker.lua`. */
  heard(marker: string): void
}

/** What one reply says. Times are µs by the clock of `announce.lua`. */
interface Reply {
  readonly time: number
  readonly called: number
  readonly changed: number
  readonly marker: string
  /** What each replica has announced, by id; undefined where that has not changed. */
  readonly said: ReadonlyMap<string, string> | undefined
}

/** A call upon all other replicas to say that everything they admitted by themselves is in Redis. */
interface RollCall {
  /** Where: see `Watcher.dirty`. */
  readonly node: string
  /** When Redis first replied to it, by its clock and by ours (ms). */
  since: number
  heardAt: number
  /** Ids of those that have not answered. */
  readonly awaited: Set<string>
  readonly done: () => void
}

/** Announces this replica while it lives. Before Redis has answered once it knows of no others. */
export class Replicas {
  readonly #connection: Connection
  readonly #keys: readonly string[]
  readonly #id: string
  readonly #dirty: () => readonly string[]
  readonly #watchers = new Set<Watcher>()
  readonly #timer: NodeJS.Timeout
  readonly #endReady: () => void
  /** Ids of the replicas that share the quotas, with this one. */
  readonly #known = new Set<string>()
  #seen: Place = { count: 1, place: 0 }
  readonly #calls = new Set<RollCall>()
  #impatient: NodeJS.Timeout | undefined
  #asking: Promise<string> | undefined
  #wasReady: boolean
  /** Of the last reply: its time, and the change of the list that it told of. */
  #lastTime = 0
  #changed = 0
  /**
   * From when on a replica that is not listed counts as missing (our clock, ms): Redis replied again, or there is a call upon
   * all. Undefined while Redis does not reply.
   */
  #heardSince: number | undefined = Number.NEGATIVE_INFINITY
  #closed = false

  /** `id`: who announces itself. `dirty`: of all that announce this id, see `Watcher`. */
  constructor(connection: Connection, nameSpace: string, id: string, dirty: () => readonly string[]) {
    this.#connection = connection
    this.#id = id
    this.#dirty = dirty
    this.#known.add(id)
    this.#keys = ['~alive', '~said', '~marker'].map(name => redisKey(nameSpace, ANNOUNCED, name))
    this.#wasReady = connection.status === 'ready'
    this.#endReady = connection.onReady(() => {
      if (this.#wasReady) this.#missed(true)
      this.#wasReady = true
      // What was sent before may never be answered.
      this.#asking = undefined
      void this.#announce()
    })
    this.#timer = setInterval(() => this.#beat(), INTERVAL_MS).unref()
    void this.#announce()
  }

  get seen(): Place {
    return this.#seen
  }

  /** Whether this replica has seen no other. */
  get isAlone(): boolean {
    return this.#known.size === 1
  }

  watch(watcher: Watcher): void {
    this.#watchers.add(watcher)
  }

  unwatch(watcher: Watcher): void {
    this.#watchers.delete(watcher)
  }

  /** What the watchers say. */
  get dirty(): readonly string[] {
    return [...this.#watchers].flatMap(({ dirty }) => dirty)
  }

  /** Announces this replica now. Resolves with the marker of the data; rejects where Redis gives no reply. */
  announce(): Promise<string> {
    return this.#send()
  }

  /**
   * Resolves once every replica that was seen before has said, after the first reply from now on, that everything it
   * admitted by itself is in this node of Redis; or has been gone since then for as long as an announcement holds.
   */
  allClean(node: string): Promise<void> {
    return new Promise(done => {
      this.#calls.add({ node, since: 0, heardAt: 0, awaited: new Set(this.#known), done })
      void this.#announce()
      this.#hurry()
    })
  }

  /** Announces no more. `withdraw`: takes the announcement back, where Redis can be reached. */
  close(withdraw = true): void {
    this.#closed = true
    clearInterval(this.#timer)
    clearTimeout(this.#impatient)
    this.#endReady()
    for (const { done } of this.#calls) done()
    this.#calls.clear()
    if (withdraw && this.#connection.status === 'ready') this.#run(0, false).catch(() => {})
  }

  #beat(): void {
    if (this.#connection.status === 'ready') void this.#announce()
    else if (this.#wasReady) this.#missed(false)
  }

  /** Announcements that nobody waits for. */
  async #announce(): Promise<void> {
    if (this.#closed || this.#asking !== undefined || this.#connection.status !== 'ready') return
    try {
      await this.#send()
    } catch {
      // What was last seen stands. Redis refuses what it took before: others may admit by themselves meanwhile.
      if (this.#lastTime > 0 && !this.#closed) this.#missed(false)
    }
  }

  #send(): Promise<string> {
    const calls = [...this.#calls]
    // A reply that has arrived while this process was busy is read first.
    const isLate = () => setImmediate(() => this.#asking === asking && this.#missed(false))
    const timer = setTimeout(isLate, SILENCE_MS).unref()
    const asking = this.#run(
      TTL_MS,
      calls.some(({ since }) => since === 0),
    )
      .then(reply => this.#observe(readReply(listIn(reply)), calls))
      .finally(() => {
        clearTimeout(timer)
        if (this.#asking === asking) this.#asking = undefined
      })
    this.#asking = asking
    return asking
  }

  /** `calls`: those that stood when the announcement was sent. */
  #observe(reply: Reply, calls: readonly RollCall[]): string {
    const now = monotonic()
    this.#heardSince ??= now
    const isNews = reply.called > this.#lastTime
    this.#lastTime = reply.time
    if (reply.said !== undefined) this.#list(reply, now)
    for (const call of calls) this.#answer(call, reply, now)
    for (const watcher of this.#watchers) watcher.heard(reply.marker)
    // Whoever calls waits for a word that this replica says after it has heard of the call.
    if (isNews && this.#calls.size === 0) setImmediate(() => void this.#announce())
    return reply.marker
  }

  #list({ said, changed }: Reply, now: number): void {
    const listed = said as ReadonlyMap<string, string>
    for (const id of listed.keys()) this.#known.add(id)
    for (const id of this.#known) {
      // After an outage all announcements may have expired: each replica has time to come back.
      if (!listed.has(id) && id !== this.#id && now - (this.#heardSince as number) >= TTL_MS) this.#known.delete(id)
    }
    this.#changed = this.#known.size === listed.size ? changed : 0
    const ids = [...this.#known].sort()
    this.#seen = { count: ids.length, place: ids.indexOf(this.#id) }
  }

  #answer(call: RollCall, { time, said }: Reply, now: number): void {
    if (call.since === 0) {
      call.since = time
      call.heardAt = now
      this.#heardSince = now
      for (const id of said?.keys() ?? []) call.awaited.add(id)
      call.awaited.delete(this.#id)
    }
    for (const id of said === undefined ? [] : call.awaited) {
      const word = said?.get(id)
      const isDone = word === undefined ? now - call.heardAt >= TTL_MS : isCleanSince(word, call)
      if (isDone) call.awaited.delete(id)
    }
    if (call.awaited.size > 0) return
    this.#calls.delete(call)
    call.done()
  }

  /** Announces often, and asks for the whole list, while there are calls. */
  #hurry(): void {
    if (this.#impatient !== undefined) return
    this.#impatient = setTimeout(() => {
      this.#impatient = undefined
      if (this.#calls.size === 0) return
      void this.#announce()
      this.#hurry()
    }, IMPATIENT_MS).unref()
  }

  #missed(isAll: boolean): void {
    this.#heardSince = undefined
    this.#changed = 0
    for (const watcher of this.#watchers) watcher.missed(isAll)
  }

  #run(ttlMs: number, calls: boolean): Promise<unknown> {
    const watchers = [...this.#watchers]
    const word = [this.#lastTime, ...new Set(this.#dirty())].join('\n')
    const changed = this.#calls.size > 0 ? 0 : this.#changed
    const life = watchers.length === 0 ? 0 : markerLife(Math.max(...watchers.map(({ longestMs }) => longestMs)))
    const marker = newMarker()
    return run(this.#connection, ANNOUNCE, this.#keys, [this.#id, ttlMs, word, calls ? 1 : 0, changed, marker, life])
  }
}

/**
 * Milliseconds for which a marker is kept after an announcement. When it expires, the known usage of the longest window
 * has expired before.
 */
export function markerLife(longestMs: number): number {
  return Math.max(MARKER_MS, 2 * longestMs)
}

/** A marker that no other data has. */
export function newMarker(): string {
  return randomBytes(9).toString('base64url')
}

/** Whether a replica has announced, with a reply in hand that is no older than the call, that it owes this node nothing. */
function isCleanSince(word: string, { node, since }: RollCall): boolean {
  const [heard, ...dirty] = word.split('\n')
  // A client that cannot tell its nodes has other names for them.
  const isDirty = dirty.some(name => name === node || name.startsWith(RANGE) || node.startsWith(RANGE))
  return !isDirty && Number(heard) >= since
}

function readReply([time, called, changed, marker, ...list]: readonly unknown[]): Reply {
  const said = new Map<string, string>()
  for (let at = 0; at < list.length; at += 2) said.set(String(list[at]), String(list[at + 1]))
  return {
    time: numberIn(time),
    called: numberIn(called),
    changed: numberIn(changed),
    marker: String(marker),
    said: list.length > 0 ? said : undefined,
  }
}
