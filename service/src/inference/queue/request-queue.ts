/** Requests that wait: higher priorities first, and within one in the order of arrival or, when asked so, newest first. Pure. */
import type { Request } from './batch.js'

/** One priority: a queue whose head moves, since shifting would move everything each time. */
class Level {
  #requests: Request[] = []
  #head = 0

  constructor(readonly priority: number) {}

  get length(): number {
    return this.#requests.length - this.#head
  }

  peek(newest: boolean): Request | undefined {
    return newest && this.length > 0 ? this.#requests.at(-1) : this.#requests[this.#head]
  }

  drop(newest: boolean): void {
    if (newest) {
      this.#requests.pop()
      if (this.length === 0) this.clear()
      return
    }
    this.#requests[this.#head++] = undefined as unknown as Request
    if (this.length === 0) this.clear()
    else if (this.#head > 1024 && this.#head * 2 > this.#requests.length) this.keep(() => true)
  }

  push(request: Request): void {
    this.#requests.push(request)
  }

  /** To where it was taken from. */
  putBack(request: Request, newest: boolean): void {
    if (newest) this.#requests.push(request)
    else if (this.#head > 0) this.#requests[--this.#head] = request
    else this.#requests.unshift(request)
  }

  keep(wanted: (request: Request) => boolean): void {
    this.#requests = this.#requests.slice(this.#head).filter(wanted)
    this.#head = 0
  }

  clear(): void {
    this.#requests = []
    this.#head = 0
  }

  /** Lets go at both ends of requests that have ended and of which nothing is left to run. */
  trim(): void {
    for (const newest of [false, true]) {
      for (let request = this.peek(newest); request?.settled && request.taken === request.rows; ) {
        this.drop(newest)
        request = this.peek(newest)
      }
    }
  }

  *newestFirst(): Iterable<Request> {
    for (let i = this.#requests.length - 1; i >= this.#head; i--) yield this.#requests[i] as Request
  }

  *[Symbol.iterator](): Iterator<Request> {
    for (let i = this.#head; i < this.#requests.length; i++) yield this.#requests[i] as Request
  }
}

export class RequestQueue {
  /** Highest priority first. There are as many as plans differ in it: a handful. */
  #levels: Level[] = []

  /** Requests that wait. */
  get length(): number {
    let length = 0
    for (const level of this.#levels) length += level.length
    return length
  }

  /** When the oldest of all arrived; undefined when none waits. */
  get oldestAt(): number | undefined {
    let oldest: number | undefined
    for (const level of this.#levels) {
      const at = level.peek(false)?.arrivedAt
      if (at !== undefined && (oldest === undefined || at < oldest)) oldest = at
    }
    return oldest
  }

  /** Rows that wait at this priority or above, of `all` that do. */
  rowsBefore(priority: number, all: number): number {
    if ((this.#levels.at(-1)?.priority ?? priority) >= priority) return all
    let rows = 0
    for (const level of this.#levels) {
      if (level.priority < priority) break
      for (const request of level) rows += request.rows - request.taken
    }
    return rows
  }

  push(request: Request): void {
    this.#levelOf(request).push(request)
  }

  /** The next in turn. */
  peek(newestFirst: boolean): Request | undefined {
    for (const level of this.#levels) if (level.length > 0) return level.peek(newestFirst)
    return undefined
  }

  /** Takes out the request that `peek` with the same argument shows. */
  drop(newestFirst: boolean): void {
    this.#levels.find(level => level.length > 0)?.drop(newestFirst)
  }

  /** Puts requests that were dropped, in this order, to where they were. */
  putBack(dropped: readonly Request[], newestFirst: boolean): void {
    for (const request of [...dropped].reverse()) this.#levelOf(request).putBack(request, newestFirst)
  }

  /**
   * The requests that would make room for one of `priority`, if they gave up their place: of lower plans, the lowest
   * and newest first (they have waited least in vain); else of the same, the oldest first, which have come before
   * `staleBefore`. Undefined where they do not add up to so many rows. A request that has begun to run stays.
   */
  victims(rows: number, priority: number, staleBefore: number): readonly Request[] | undefined {
    const victims: Request[] = []
    let found = 0
    for (const level of this.#levels.toReversed()) {
      if (level.priority > priority) break
      const stale = level.priority === priority
      for (const request of stale ? level : level.newestFirst()) {
        if (stale && request.arrivedAt >= staleBefore) break
        if (request.taken > 0 || request.settled) continue
        victims.push(request)
        found += request.rows
        if (found >= rows) return victims
      }
    }
    return undefined
  }

  /** Lets go of requests at the ends of the queue that gave up their place. */
  trim(): void {
    for (const level of this.#levels) level.trim()
  }

  /** Lets go of all that are not wanted. */
  keep(wanted: (request: Request) => boolean): void {
    for (const level of this.#levels) level.keep(wanted)
  }

  clear(): void {
    this.#levels = []
  }

  *[Symbol.iterator](): Iterator<Request> {
    for (const level of this.#levels) yield* level
  }

  #levelOf({ options: { priority = 0 } }: Request): Level {
    const known = this.#levels.find(level => level.priority === priority)
    if (known !== undefined) return known
    const level = new Level(priority)
    this.#levels = [...this.#levels, level].sort((a, b) => b.priority - a.priority)
    return level
  }
}
