import slotOf from 'cluster-key-slot'
import { clearTimeout, monotonic, setImmediate, setTimeout } from '../../clock.js'
import { StoreClosed, StoreTimeout } from '../../errors.js'
import type { Connection } from './client.js'
import type { Pending, Release } from './codec.js'

/**
 * Checks in one script call. Enough to spread the cost of a command, and few enough that Redis answers the first
 * while this process still reads the rest: with 64 connections on two cores, 8 to 16 in a call gave a tenth more
 * throughput than 64, where process and Redis wait for each other in turn.
 */
const MOST = 16

export interface BatcherParts {
  readonly connection: Connection
  readonly timeoutMs: number
  /** Sends checks, or refunds, with permits to give back. All keys are of one slot where that matters. */
  readonly send: (pending: readonly Pending[], releases: readonly Release[]) => void
  readonly release: (releases: readonly Release[]) => void
  /** Fails what has waited in vain for a connection. */
  readonly giveUp: (pending: readonly Pending[], error: Error) => void
}

/**
 * Collects what is asked in one turn of the event loop into few script calls, since the cost of a command, and not
 * Redis, is what bounds throughput. Keeps it while there is no connection: the client's own queue would send it
 * however late.
 */
export class Batcher {
  readonly #parts: BatcherParts
  #waiting: Pending[] = []
  #releases: Release[] = []
  #scheduled = false
  /** Whether a call may hold keys of one slot only. A plain client may lead to a cluster too, as an error then tells. */
  #bySlot: boolean
  #patience: NodeJS.Timeout | undefined
  readonly #endReady: () => void

  constructor(parts: BatcherParts) {
    this.#parts = parts
    this.#bySlot = parts.connection.isCluster
    this.#endReady = parts.connection.onReady(() => this.#schedule())
  }

  add(pending: Pending): void {
    this.#waiting.push(pending)
    // A full call goes out at once, so that Redis works on it while the rest of the turn is read.
    if (this.#waiting.length === MOST && this.#releases.length === 0 && this.#parts.connection.status === 'ready')
      this.#flush()
    else this.#schedule()
  }

  /** Without a connection a permit ends by itself. */
  release(release: Release): void {
    if (this.#parts.connection.status !== 'ready') return
    this.#releases.push(release)
    this.#schedule()
  }

  /**
   * Sends again what Redis refused because its keys are of several slots: by slot from now on. Several calls may be on
   * their way when the first is refused. False where all keys are of one slot, and nothing is sent.
   */
  split(pending: readonly Pending[], releases: readonly Release[]): boolean {
    const slots = new Set([...pending.map(slotOfPending), ...releases.map(({ key }) => slotOf(key))])
    if (slots.size < 2) return false
    this.#bySlot = true
    this.#sendAll(pending, releases)
    return true
  }

  /** Gives up everything that waits for a connection. */
  giveUp(error: Error): void {
    clearTimeout(this.#patience)
    this.#patience = undefined
    const waiting = this.#waiting
    this.#waiting = []
    if (waiting.length > 0) this.#parts.giveUp(waiting, error)
  }

  /** Permits and refunds that wait are sent; all else is given up. */
  close(): void {
    this.#endReady()
    const { connection, release } = this.#parts
    if (connection.status === 'ready') {
      if (this.#releases.length > 0) release(this.#releases)
      const refunds = this.#waiting.filter(({ operation }) => operation === 'refund')
      this.#waiting = this.#waiting.filter(({ operation }) => operation !== 'refund')
      if (refunds.length > 0) this.#sendAll(refunds, [])
    }
    this.#releases = []
    this.giveUp(new StoreClosed())
  }

  /** The end of this turn of the event loop: right after all that has arrived was read. */
  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#flush()
    })
  }

  #flush(): void {
    if (this.#waiting.length === 0 && this.#releases.length === 0) return
    const { connection } = this.#parts
    const { status } = connection
    if (status !== 'ready') {
      this.#releases = []
      if (status === 'closed') this.giveUp(new StoreClosed())
      else this.#wait()
      if (status === 'idle') connection.connect()
      return
    }
    clearTimeout(this.#patience)
    this.#patience = undefined
    const waiting = this.#waiting
    const releases = this.#releases
    this.#waiting = []
    if (releases.length > 0) this.#releases = []
    this.#sendAll(waiting, releases)
  }

  #sendAll(pending: readonly Pending[], releases: readonly Release[]): void {
    if (!this.#bySlot) {
      this.#sendSome(pending, releases)
      return
    }
    const slots = new Map<number, { pending: Pending[]; releases: Release[] }>()
    const at = (slot: number) => {
      let group = slots.get(slot)
      if (group === undefined) {
        group = { pending: [], releases: [] }
        slots.set(slot, group)
      }
      return group
    }
    for (const one of pending) at(slotOfPending(one)).pending.push(one)
    for (const release of releases) at(slotOf(release.key)).releases.push(release)
    for (const group of slots.values()) this.#sendSome(group.pending, group.releases)
  }

  /**
   * Permits go with the first checks. Refunds have calls of their own, because those happen once, and go first: what this
   * replica had taken ahead comes back before it may deny.
   */
  #sendSome(pending: readonly Pending[], releases: readonly Release[]): void {
    const { send, release } = this.#parts
    const hasRefunds = pending.some(({ operation }) => operation === 'refund')
    if (hasRefunds) {
      const refunds = pending.filter(({ operation }) => operation === 'refund')
      for (let from = 0; from < refunds.length; from += MOST) send(refunds.slice(from, from + MOST), [])
    }
    const checks = hasRefunds ? pending.filter(({ operation }) => operation !== 'refund') : pending
    if (checks.length === 0 && releases.length > 0) release(releases)
    for (let from = 0; from < checks.length; from += MOST) {
      send(checks.length <= MOST ? checks : checks.slice(from, from + MOST), from === 0 ? releases : [])
    }
  }

  #wait(): void {
    if (this.#patience !== undefined || this.#waiting.length === 0) return
    const earliest = Math.min(...this.#waiting.map(({ deadline }) => deadline))
    this.#patience = setTimeout(
      () => {
        this.#patience = undefined
        const now = monotonic()
        const late = this.#waiting.filter(({ deadline }) => deadline <= now)
        this.#waiting = this.#waiting.filter(({ deadline }) => deadline > now)
        if (late.length > 0) this.#parts.giveUp(late, new StoreTimeout(this.#parts.timeoutMs))
        this.#wait()
      },
      Math.max(1, Math.ceil(earliest - monotonic())),
    )
  }
}

function slotOfPending({ key }: Pending): number {
  return slotOf(`{${key}}`)
}
