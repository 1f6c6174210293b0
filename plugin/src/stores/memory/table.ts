import { SlidingLog } from '../../window.js'

/** Denials of one policy and one key: what `ban`, `continueExceeding` and `exponentialBackoff` go by. */
export interface Denials {
  /** Denials in a row (`renew`, `backoff`). */
  count: number
  last: number
  blockedUntil: number
  /** Denials inside the window (`count`). */
  readonly log: SlidingLog
}

/** Everything kept about one policy and one key. */
export interface Row {
  readonly log: SlidingLog
  denials: Denials | undefined
  /** Until when the key is being denied: it is not forgotten before. */
  deniedUntil: number
}

/** Denied keys may outnumber the keys kept by this factor before the first of them is given up. */
const DENIED_FACTOR = 10

/**
 * The rows of one log name. The `capacity` most recently used are always there, and at most as many again: rows live
 * in two generations, and when the younger is full the older is forgotten. That is nearly the order of an LRU list,
 * and a hit costs no more than a look-up. A key that is being denied outlives its generation, so that a crowd of new
 * keys cannot buy it a fresh quota.
 */
export class Table {
  /** The longest window in which its entries count, in milliseconds. */
  windowMs = 0
  readonly #capacity: number
  #young = new Map<string, Row>()
  #old = new Map<string, Row>()

  constructor(capacity: number) {
    this.#capacity = capacity
  }

  get(key: string, now: number): Row | undefined {
    const young = this.#young.get(key)
    if (young !== undefined) return young
    const old = this.#old.get(key)
    if (old !== undefined) this.#put(key, old, now)
    return old
  }

  add(key: string, now: number): Row {
    const row = { log: new SlidingLog(), denials: undefined, deniedUntil: 0 }
    this.#put(key, row, now)
    return row
  }

  delete(key: string): void {
    this.#young.delete(key)
    this.#old.delete(key)
  }

  get size(): number {
    let size = this.#young.size
    for (const key of this.#old.keys()) if (!this.#young.has(key)) size++
    return size
  }

  /** Whether anything in it still counts, or is denied. */
  isInUse(now: number): boolean {
    const edge = now - this.windowMs
    for (const [, { log, denials, deniedUntil }] of this.entries()) {
      if (log.newest > edge || deniedUntil > now || (denials !== undefined && denials.log.newest > edge)) return true
    }
    return false
  }

  /** Whether one of its keys is being denied. */
  isDenying(now: number): boolean {
    for (const [, { deniedUntil }] of this.entries()) if (deniedUntil > now) return true
    return false
  }

  /** Every key, with its row. */
  *entries(): Iterable<[string, Row]> {
    yield* this.#young
    for (const entry of this.#old) if (!this.#young.has(entry[0])) yield entry
  }

  #put(key: string, row: Row, now: number): void {
    if (this.#young.size >= this.#capacity) this.#age(now)
    this.#young.set(key, row)
  }

  #age(now: number): void {
    const forgotten = this.#old
    this.#old = this.#young
    this.#young = new Map()
    for (const [key, row] of forgotten) {
      if (row.deniedUntil > now && this.#old.size < this.#capacity * DENIED_FACTOR) this.#old.set(key, row)
    }
  }
}
