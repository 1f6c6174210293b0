/**
 * The gate in front of everything: refuses before a byte of body is read. What it looks at is whether the model has room,
 * and whether the main thread keeps up: at thousands of refusals a second that is what fills up, and what waits in its
 * sockets is seen by no queue.
 *
 * How many requests may be past the gate follows the delay of the event loop by additive increase and multiplicative
 * decrease (D. Chiu, R. Jain, Analysis of the Increase and Decrease Algorithms for Congestion Avoidance, 1989; for
 * servers M. Welsh, D. Culler, Adaptive Overload Control for Busy Internet Servers, USITS 2003).
 */
import type { ServerResponse } from 'node:http'
import { Overloaded } from '../inference/errors.js'
import type { Model } from '../inference/types.js'

const windowMs = 100
/** How often it is looked how late the event loop is. */
const tickMs = 10

/** A turn of the event loop is to take no longer: every request waits for one or two before it is seen. */
const targetDelayMs = 15
const decrease = 0.8
const increase = 8
/** As many may always pass: fewer would not be what fills the main thread. */
const fewest = 32
/** More asked than this many times what was answered in the window: else a slow turn is not the callers' doing. */
const excess = 1.5

/** The rule alone: no clock, no server. */
export class GateLimit {
  #limit = Number.POSITIVE_INFINITY
  #inside = 0
  #peak = 0
  #asked = 0
  #served = 0
  #refused = 0

  /** Requests that may be inside at once; Infinity while the event loop keeps up. */
  get limit(): number {
    return this.#limit
  }

  /** One more has come, and may or may not pass. */
  hasRoom(): boolean {
    this.#asked++
    if (this.#inside < this.#limit) return true
    this.#refused++
    return false
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

  /** Ends a window, in which a turn of the event loop came so much too late. */
  adapt(delayMs: number): void {
    if (delayMs <= targetDelayMs) {
      this.#limit = this.#refused > 0 ? this.#limit + increase : this.#limit * 2
      // Beyond what a process has sockets for.
      if (this.#limit > 65_536) this.#limit = Number.POSITIVE_INFINITY
    } else if (this.#asked > Math.max(fewest, excess * this.#served)) {
      this.#limit = Math.max(fewest, Math.min(this.#limit, this.#peak) * decrease)
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
  /** `performance.now()` when it was seen. */
  readonly arrivedAt: number
  /** Milliseconds that its caller waits for an answer. */
  readonly timeoutMs: number
}

export class Gate {
  readonly #limit = new GateLimit()
  readonly #timer: NodeJS.Timeout
  readonly #left: (this: ServerResponse) => void
  /** When the timer last came, and by how much it came too late in this window, and how often. */
  #tickedAt = performance.now()
  #windowFrom = this.#tickedAt
  #lateMs = 0
  #ticks = 0
  #delayMs = 0

  constructor() {
    const limit = this.#limit
    this.#left = function () {
      limit.leave(this.statusCode < 429)
    }
    // (A histogram of `monitorEventLoopDelay` has no sample in a window that a single turn has filled.)
    this.#timer = setInterval(() => this.#tick(), tickMs).unref()
  }

  /** Milliseconds that a request has waited for its turn by now, unseen; 0 while the event loop keeps up. */
  get delayMs(): number {
    return this.#limit.limit === Number.POSITIVE_INFINITY ? 0 : this.#delayMs
  }

  /** Lets a request in until its response is over, or gives what to refuse it with: Overloaded. */
  pass({ models, priority, arrivedAt, timeoutMs }: Newcomer, response: ServerResponse): Error | undefined {
    const hasRoom = this.#limit.hasRoom()
    let full: Error | undefined
    for (const model of models) {
      full = refusalOf(model, priority, arrivedAt + timeoutMs - this.delayMs)
      // It may be this one that is meant.
      if (full === undefined) break
    }
    if (full !== undefined) return full
    // What is late already when it is seen would cost as much as one that is served, and make the next ones later.
    if (!hasRoom || timeoutMs <= this.delayMs)
      return new Overloaded('more requests come than can be read', 1000 + Math.random() * 4000)
    this.#limit.enter()
    // One listener for all responses, which is called on each of them once.
    response.on('close', this.#left)
    return undefined
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #tick(): void {
    const now = performance.now()
    this.#lateMs += Math.max(0, now - this.#tickedAt - tickMs)
    this.#ticks++
    this.#tickedAt = now
    if (now - this.#windowFrom < windowMs) return
    this.#delayMs = this.#lateMs / this.#ticks
    this.#windowFrom = now
    this.#lateMs = 0
    this.#ticks = 0
    this.#limit.adapt(this.#delayMs)
  }
}

function refusalOf(model: Model, priority: number, deadline: number): Error | undefined {
  try {
    return model.refusalAt?.(priority, deadline)
  } catch (error) {
    return error as Error
  }
}
