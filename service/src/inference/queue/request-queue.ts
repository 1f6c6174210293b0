/**
 * The requests that wait for one model. Higher priorities go first. Callers of one priority take turns by least attained
 * service: the one that was served least of late is next, whatever the others have waiting. One caller's requests go in
 * the order of arrival or, once the oldest is stale, newest first. Pure: time is an argument.
 */
import { background, fairness } from './admission-constants.js'
import type { Request } from './batch.js'

/** A queue whose head moves, since shifting would move everything each time. */
class Line {
  #requests: Request[] = []
  #head = 0

  get length(): number {
    return this.#requests.length - this.#head
  }

  get oldest(): Request | undefined {
    return this.#requests[this.#head]
  }

  get newest(): Request | undefined {
    return this.length > 0 ? this.#requests.at(-1) : undefined
  }

  push(request: Request): void {
    this.#requests.push(request)
  }

  unshift(request: Request): void {
    if (this.#head > 0) this.#requests[--this.#head] = request
    else this.#requests.unshift(request)
  }

  /** Takes out a request that is the oldest or the newest. */
  drop(request: Request): void {
    if (request === this.oldest) this.#requests[this.#head++] = undefined as unknown as Request
    else this.#requests.pop()
    if (this.length === 0) {
      this.#requests.length = 0
      this.#head = 0
    } else if (this.#head > 1024 && this.#head * 2 > this.#requests.length) this.keep(() => true)
  }

  keep(wanted: (request: Request) => boolean): void {
    this.#requests = this.#requests.slice(this.#head).filter(wanted)
    this.#head = 0
  }

  *[Symbol.iterator](): Iterator<Request> {
    for (let i = this.#head; i < this.#requests.length; i++) yield this.#requests[i] as Request
  }

  *newestFirst(): Iterable<Request> {
    for (let i = this.#requests.length - 1; i >= this.#head; i--) yield this.#requests[i] as Request
  }
}

/** One caller's part in the queue. */
export class Share extends Line {
  /** Rows that wait. */
  rows = 0
  /** Rows that were served of late, and that left without a run, in the unit of `RequestQueue`. */
  served = 0
  missed = 0
  /** Whether it stands in the heap of its level; it stays there until it comes up empty. */
  queued = false

  constructor(readonly level: Level) {
    super()
  }

  /** Whether it has its turn before the other: served less or, where both are equal, its oldest came first. */
  goesBefore(other: Share): boolean {
    if (this.served !== other.served) return this.served < other.served
    return (this.oldest?.order ?? 0) < (other.oldest?.order ?? 0)
  }
}

/** The callers of one priority. */
class Level {
  rows = 0
  readonly shares = new Map<string, Share>()
  /** A binary heap: the share whose turn it is comes first. */
  #heap: Share[] = []

  constructor(readonly priority: number) {}

  /** Callers that have something waiting. */
  get callers(): number {
    return this.#heap.length
  }

  shareOf(key: string): Share {
    let share = this.shares.get(key)
    if (share === undefined) {
      share = new Share(this)
      this.shares.set(key, share)
    }
    return share
  }

  /** The share whose turn it is. */
  first(): Share | undefined {
    for (let share = this.#heap[0]; share !== undefined; share = this.#heap[0]) {
      if (share.length > 0) return share
      share.queued = false
      const last = this.#heap.pop() as Share
      if (last !== share) this.#heap[0] = last
      this.sink()
    }
    return undefined
  }

  /** Lets a share in that has something waiting. */
  enter(share: Share): void {
    if (share.queued) return
    share.queued = true
    const heap = this.#heap
    let at = heap.push(share) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!share.goesBefore(heap[parent] as Share)) break
      heap[at] = heap[parent] as Share
      at = parent
    }
    heap[at] = share
  }

  /** The share in front may have had its turn. */
  sink(): void {
    const heap = this.#heap
    const [share] = heap
    if (share === undefined) return
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child + 1 < heap.length && (heap[child + 1] as Share).goesBefore(heap[child] as Share)) child++
      if (child >= heap.length || !(heap[child] as Share).goesBefore(share)) break
      heap[at] = heap[child] as Share
      at = child
    }
    heap[at] = share
  }

  /** Makes the heap again, after changes in many places. */
  reorder(): void {
    const shares = this.#heap
    this.#heap = []
    for (const share of shares) share.queued = false
    for (const share of shares) if (share.length > 0) this.enter(share)
  }

  /** The share whose newest request has its turn last, as far as can be told now. `rowServed`: what one row counts. */
  last(rowServed: number): Share | undefined {
    let last: Share | undefined
    let most = Number.NEGATIVE_INFINITY
    for (const share of this.#heap) {
      const served = share.served + share.rows * rowServed
      if (share.rows === 0 || served < most) continue
      most = served
      last = share
    }
    return last
  }

  /** Shares that have something waiting; some of them may be empty by now. */
  waiting(): readonly Share[] {
    return this.#heap
  }
}

export class RequestQueue {
  /** Highest priority first. There are as many as plans differ in it: a handful. */
  #levels: Level[] = []
  #length = 0
  #order = 0
  /**
   * What was served is forgotten exponentially. Not to multiply all of it all the time, what is served later counts for
   * more: `e` to the power of the time since `#epoch` over the time constant.
   */
  #epoch = 0
  #forgottenAt = 0

  /** Requests that wait. */
  get length(): number {
    return this.#length
  }

  /** Rows that wait. */
  get rows(): number {
    let rows = 0
    for (const level of this.#levels) rows += level.rows
    return rows
  }

  /** Rows that wait in the background. */
  get backgroundRows(): number {
    const last = this.#levels.at(-1)
    return last !== undefined && last.priority <= background.priority ? last.rows : 0
  }

  /**
   * When the oldest of all arrived; undefined when none waits. Those in the background count only where no others wait.
   * Looks at every caller.
   */
  get oldestAt(): number | undefined {
    let oldest: number | undefined
    for (const level of this.#levels) {
      if (oldest !== undefined && level.priority <= background.priority) break
      for (const share of level.waiting()) {
        const at = share.oldest?.arrivedAt
        if (at !== undefined && (oldest === undefined || at < oldest)) oldest = at
      }
    }
    return oldest
  }

  /** Rows that would be run before those of such a request, as an estimate from above. */
  rowsBefore(rows: number, priority: number, key: string, staleBefore: number): number {
    let before = 0
    for (const level of this.#levels) {
      if (level.priority < priority) break
      if (level.priority > priority) before += level.rows
      else {
        const share = level.shares.get(key)
        // It passes those of its own caller that are stale. Every other caller may be served as much until then.
        const own = share === undefined || (share.oldest?.arrivedAt ?? 0) < staleBefore ? 0 : share.rows
        before += Math.min(level.rows, own + (own + rows) * level.callers)
      }
    }
    return before
  }

  push(request: Request): void {
    const { options, rows, taken } = request
    const share = request.share ?? this.#levelOf(options.priority ?? 0).shareOf(options.partitionKey ?? '')
    request.share = share
    request.order = this.#order++
    share.push(request)
    this.#count(share, 1, rows - taken)
    share.level.enter(share)
  }

  /** Notes that a caller's rows were refused, or left the queue without a run that they needed. */
  missed({ rows, priority = 0, partitionKey = '' }: Request['options'], now: number): void {
    this.#levelOf(priority).shareOf(partitionKey).missed += rows * this.#weight(now)
    this.#forget(now)
  }

  /** The next in turn. Where its caller's oldest came before `staleBefore`, that is its newest. */
  next(staleBefore: number): Request | undefined {
    for (const level of this.#levels) {
      const share = level.first()
      if (share === undefined) continue
      const oldest = share.oldest as Request
      return oldest.arrivedAt < staleBefore ? share.newest : oldest
    }
    return undefined
  }

  /** Takes out the request that `next` has given. `served`: rows that run now; 0 where none does. */
  take(request: Request, served: number, now: number): void {
    const share = request.share as Share
    share.drop(request)
    this.#count(share, -1, request.taken - request.rows)
    if (served > 0) share.served += served * this.#weight(now)
    share.level.sink()
    this.#forget(now)
  }

  /** Takes out requests that `victims` has given. One between others stays, and counts for nothing. */
  remove(requests: readonly Request[]): void {
    for (const request of requests) {
      const share = request.share as Share
      const rows = request.rows - request.taken
      request.taken = request.rows
      if (request !== share.oldest && request !== share.newest) this.#count(share, 0, -rows)
      else {
        share.drop(request)
        this.#count(share, -1, -rows)
      }
    }
  }

  /** Puts requests that were taken, in this order, to where they were. */
  putBack(taken: readonly Request[]): void {
    for (let i = taken.length - 1; i >= 0; i--) {
      const request = taken[i] as Request
      const share = request.share as Share
      if (share.newest === undefined || request.order < share.newest.order) share.unshift(request)
      else share.push(request)
      this.#count(share, 1, request.rows - request.taken)
      share.level.enter(share)
    }
    if (taken.length > 0) for (const level of this.#levels) level.reorder()
  }

  /**
   * The requests that would make room for one of this priority and caller, if they gave up their place: of lower
   * priorities, the lowest first; else of the same, those that came before `staleBefore`, then the newest of the caller
   * whose turn is last, as long as they would have had their turn after this one. Undefined where they do not add up to
   * `missing` rows. A request that has begun to run stays.
   */
  victims(
    missing: number,
    asked: Request['options'],
    staleBefore: number,
    now: number,
  ): readonly Request[] | undefined {
    const victims: Request[] = []
    let found = 0
    for (const request of this.#mayLeave(asked, staleBefore, this.#weight(now))) {
      if (request.taken > 0 || request.settled || victims.includes(request)) continue
      victims.push(request)
      found += request.rows
      if (found >= missing) return victims
    }
    return undefined
  }

  /** Lets go of all that have ended. */
  purge(): void {
    for (const level of this.#levels) {
      for (const share of level.waiting()) {
        const before = share.length
        share.keep(({ settled }) => !settled)
        let rows = 0
        for (const request of share) rows += request.rows - request.taken
        this.#count(share, share.length - before, rows - share.rows)
      }
      level.reorder()
    }
  }

  /**
   * Jain's index of what each caller was served of late, measured by what a max-min fair division of the same rows would
   * have given it: 1 where all have their due, 1/n where one of n callers has everything.
   * R. Jain, D. Chiu, W. Hawe, A Quantitative Measure of Fairness and Discrimination (DEC-TR-301, 1984).
   */
  fairnessIndex(): number {
    let index = 1
    for (const { shares } of this.#levels) {
      const all = [...shares.values()]
        .map(({ served, missed }) => ({ served, asked: served + missed }))
        .filter(({ asked }) => asked > 0)
        .sort((a, b) => a.asked - b.asked)
      let left = all.reduce((sum, { served }) => sum + served, 0)
      if (left === 0) continue
      let [sum, squares] = [0, 0]
      for (const [i, { asked, served }] of all.entries()) {
        const due = Math.min(asked, left / (all.length - i))
        left -= due
        sum += served / due
        squares += (served / due) ** 2
      }
      index = Math.min(index, sum ** 2 / (all.length * squares))
    }
    return index
  }

  *[Symbol.iterator](): Iterator<Request> {
    for (const share of this.#waiting()) yield* share
  }

  *#waiting(): Iterable<Share> {
    for (const level of this.#levels) yield* level.waiting()
  }

  *#mayLeave(
    { rows, priority = 0, partitionKey = '' }: Request['options'],
    staleBefore: number,
    rowServed: number,
  ): Iterable<Request> {
    for (const level of this.#levels.toReversed()) {
      if (level.priority > priority) return
      const last = level.last(rowServed)
      if (level.priority < priority) {
        if (last !== undefined) yield* last.newestFirst()
        for (const share of level.waiting()) if (share !== last) yield* share.newestFirst()
        continue
      }
      for (const share of level.waiting()) {
        for (const request of share) {
          if (request.arrivedAt >= staleBefore) break
          yield request
        }
      }
      if (last === undefined) return
      const own = level.shares.get(partitionKey)
      const turn = (own?.served ?? 0) + ((own?.rows ?? 0) + rows) * rowServed
      let left = last.served + last.rows * rowServed
      for (const request of last.newestFirst()) {
        if (left <= turn) return
        yield request
        left -= request.rows * rowServed
      }
    }
  }

  #count(share: Share, requests: number, rows: number): void {
    this.#length += requests
    share.rows += rows
    share.level.rows += rows
  }

  #weight(now: number): number {
    const age = (now - this.#epoch) / fairness.memoryMs
    if (age <= 30) return Math.exp(age)
    const factor = Math.exp(-age)
    for (const { shares } of this.#levels) {
      for (const share of shares.values()) {
        share.served *= factor
        share.missed *= factor
      }
    }
    this.#epoch = now
    return 1
  }

  /** Now and then, forgets callers that asked for next to nothing of late. */
  #forget(now: number): void {
    if (now - this.#forgottenAt < fairness.memoryMs) return
    this.#forgottenAt = now
    const least = this.#weight(now) / 10
    for (const { shares } of this.#levels) {
      for (const [key, share] of shares) if (!share.queued && share.served + share.missed < least) shares.delete(key)
    }
  }

  #levelOf(priority: number): Level {
    const known = this.#levels.find(level => level.priority === priority)
    if (known !== undefined) return known
    const level = new Level(priority)
    this.#levels = [...this.#levels, level].sort((a, b) => b.priority - a.priority)
    return level
  }
}
