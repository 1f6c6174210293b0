/**
 * The gate in front of everything: refuses before a byte of body is read. What it looks at is whether the model has room,
 * and whether the main thread keeps up: at thousands of refusals a second that is what fills up, and what waits in its
 * sockets is seen by no queue.
 *
 * How many requests may be past the gate follows the delay of the event loop by additive increase and multiplicative
 * decrease (D. Chiu, R. Jain, Analysis of the Increase and Decrease Algorithms for Congestion Avoidance, 1989; for
 * servers M. Welsh, D. Culler, Adaptive Overload Control for Busy Internet Servers, USITS 2003). A delay is compared with
 * the time that each caller gives: a burst that is worked off in time is let in, one that keeps on coming is not.
 */
import type { ServerResponse } from 'node:http'
import { Overloaded } from '../inference/errors.js'
import { gate as rules } from '../inference/queue/admission-constants.js'
import type { Asked, Model } from '../inference/types.js'
import type { GateState } from '../metrics/metrics.js'

/** The rule alone: no clock, no server. */
export class GateLimit {
  readonly #targetMs: number
  #limit = Number.POSITIVE_INFINITY
  #delayMs = 0
  /** When the event loop began to be late; undefined while it keeps up. */
  #lateSince: number | undefined
  #inside = 0
  #peak = 0
  #asked = 0
  #served = 0
  #refused = 0

  /** `targetMs`: how late a turn of the event loop may be. */
  constructor(targetMs: number = rules.delayMs) {
    this.#targetMs = targetMs
  }

  /** Requests that are inside. */
  get inside(): number {
    return this.#inside
  }

  /** Requests that may be inside at once; Infinity while the event loop keeps up. */
  get limit(): number {
    return this.#limit
  }

  /** One more has come, whose caller gives so many milliseconds, and may or may not pass. */
  hasRoom(timeoutMs: number, now: number): boolean {
    this.#asked++
    if (this.wouldHaveRoom(timeoutMs, now)) return true
    this.#refused++
    return false
  }

  /** Whether one that came now would find room. Counts nothing. */
  wouldHaveRoom(timeoutMs: number, now: number): boolean {
    return this.#inside < this.#limit || this.#isBurst(timeoutMs * rules.burstPart, now)
  }

  /** One has come and was refused. */
  refuse(): void {
    this.#asked++
    this.#refused++
  }

  /** Whether the delay is so short, and has lasted for so short a time, that it takes none from who can wait for `mostMs`. */
  #isBurst(mostMs: number, now: number): boolean {
    const lateForMs = now - (this.#lateSince ?? now)
    return lateForMs < Math.min(mostMs, rules.mostBurstMs) && this.#delayMs < mostMs
  }

  enter(): void {
    this.#inside++
    if (this.#inside > this.#peak) this.#peak = this.#inside
  }

  /** `served`: it was not refused behind the gate. */
  leave(served: boolean): void {
    this.#inside--
    if (served) this.#served++
  }

  /** Ends a window, which began at `since` and in which turns of the event loop came so much too late. */
  adapt(delayMs: number, since: number): void {
    this.#delayMs = delayMs
    if (delayMs <= this.#targetMs) {
      this.#lateSince = undefined
      this.#limit = this.#refused > 0 ? this.#limit + rules.increase : this.#limit * 2
      if (this.#limit > rules.most) this.#limit = Number.POSITIVE_INFINITY
    } else if (this.#asked > Math.max(rules.fewest, rules.excess * this.#served)) {
      this.#lateSince ??= since
      this.#limit = Math.max(rules.fewest, Math.min(this.#limit, this.#peak) * rules.decrease)
    }
    this.#peak = this.#inside
    this.#asked = 0
    this.#served = 0
    this.#refused = 0
  }
}

/** What a request says of itself before its body is read. */
export interface Newcomer {
  /** Every model that may be meant. */
  readonly models: readonly Model[]
  readonly priority: number
  readonly partitionKey: string | undefined
  /** `performance.now()` when it was seen. */
  readonly arrivedAt: number
  /** Milliseconds that its caller waits for an answer. */
  readonly timeoutMs: number
}

export class Gate {
  readonly #limit: GateLimit
  readonly #timer: NodeJS.Timeout
  readonly #left: (this: ServerResponse) => void
  /** When the timer last came, and by how much it came too late in this window, and how often. */
  #tickedAt = performance.now()
  #windowFrom = this.#tickedAt
  #lateMs = 0
  #ticks = 0
  #delayMs = 0
  /** When a request was last answered that had passed, to the tick. */
  #servedAt = Number.NEGATIVE_INFINITY

  /** `targetMs`: how late a turn of the event loop may be. */
  constructor(targetMs?: number) {
    const limit = new GateLimit(targetMs)
    this.#limit = limit
    const served = () => {
      this.#servedAt = this.#tickedAt
    }
    this.#left = function () {
      const isServed = this.statusCode < 429
      limit.leave(isServed)
      if (isServed) served()
    }
    // (A histogram of `monitorEventLoopDelay` has no sample in a window that a single turn has filled.)
    this.#timer = setInterval(() => this.#tick(), rules.tickMs).unref()
  }

  /** Milliseconds that a request has waited for its turn by now, unseen; 0 while the event loop keeps up. */
  get delayMs(): number {
    return this.#limit.limit === Number.POSITIVE_INFINITY ? 0 : this.#delayMs
  }

  /** Whether requests have passed of late, and been answered with more than a refusal. */
  get isServing(): boolean {
    return this.#tickedAt - this.#servedAt < rules.servingMs
  }

  /** For metrics: milliseconds that turns of the event loop were late in the last window; requests inside, and at most. */
  get state(): GateState {
    return { delayMs: this.#delayMs, inside: this.#limit.inside, limit: this.#limit.limit }
  }

  /** Lets a request in until its response is over, or gives what to refuse it with: Overloaded. */
  pass(newcomer: Newcomer, response: ServerResponse): Error | undefined {
    const hasRoom = this.#limit.hasRoom(newcomer.timeoutMs, newcomer.arrivedAt)
    const refusal = this.#refusalOf(newcomer, hasRoom)
    if (refusal !== undefined) return refusal
    this.#limit.enter()
    // One listener for all responses, which is called on each of them once.
    response.on('close', this.#left)
    return undefined
  }

  /** What `pass` would refuse a request with: counted as refused then, and not at all where it would pass. */
  look(newcomer: Newcomer): Error | undefined {
    const hasRoom = this.#limit.wouldHaveRoom(newcomer.timeoutMs, newcomer.arrivedAt)
    const refusal = this.#refusalOf(newcomer, hasRoom)
    if (refusal !== undefined) this.#limit.refuse()
    return refusal
  }

  #refusalOf({ models, priority, partitionKey, arrivedAt, timeoutMs }: Newcomer, hasRoom: boolean): Error | undefined {
    const asked = { rows: 1, priority, partitionKey, deadline: arrivedAt + timeoutMs - this.delayMs }
    let full: Error | undefined
    for (const model of models) {
      full = refusalOf(model, asked)
      // It may be this one that is meant.
      if (full === undefined) break
    }
    if (full !== undefined) return full
    // What is late already when it is seen would cost as much as one that is served, and make the next ones later.
    if (hasRoom && timeoutMs > this.delayMs) return undefined
    const backMs = rules.backMs + Math.random() * rules.backSpreadMs
    return new Overloaded('main-thread', 'more requests come than can be read', backMs)
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #tick(): void {
    const now = performance.now()
    this.#lateMs += Math.max(0, now - this.#tickedAt - rules.tickMs)
    this.#ticks++
    this.#tickedAt = now
    if (now - this.#windowFrom < rules.windowMs) return
    this.#delayMs = this.#lateMs / this.#ticks
    this.#limit.adapt(this.#delayMs, this.#windowFrom)
    this.#windowFrom = now
    this.#lateMs = 0
    this.#ticks = 0
  }
}

function refusalOf(model: Model, asked: Asked): Error | undefined {
  try {
    return model.refusalOf?.(asked)
  } catch (error) {
    return error as Error
  }
}
