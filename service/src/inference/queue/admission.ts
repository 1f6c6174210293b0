/**
 * Whether a request is taken into the queue of its model, and what it is told where it is not. This is the one place where
 * requests are admitted: the gate in front of the body asks it before anything is read, the scheduler when the rows are
 * known. What was admitted is dispatched: `scheduler.ts`. All its constants: `admission-constants.ts`.
 *
 *   1. Nothing waits: it is taken, unless a run would take longer than its caller gives.
 *   2. The rows under way are at the limit (`adaptive-limit.ts`), or `queueMaxRows` wait: it is refused, unless others
 *      give up their place for it: of a lower priority, stale, or of a caller that has more waiting.
 *   3. The answer is expected too late for its deadline: it is refused.
 *
 * Who is refused is told when to come back (`come-back.ts`). Pure: time is an argument.
 */
import { DeadlineExceeded, Overloaded, type OverloadReason } from '../errors.js'
import type { Asked } from '../types.js'
import { AdaptiveLimit, type LimitOptions } from './adaptive-limit.js'
import { deadline as deadlineRules, limit as limitRules, queue as queueRules } from './admission-constants.js'
import type { Request } from './batch.js'
import type { Batcher } from './batcher.js'
import { ComeBack } from './come-back.js'

export interface AdmissionOptions {
  /** `off`: whatever fits into `queueMaxRows` is taken, and waits until it is run or its deadline has passed. */
  readonly mode: 'on' | 'off'
  /** Rows that may wait for one model. */
  readonly queueMaxRows: number
  /** Of the adaptive limit. */
  readonly limit?: Partial<LimitOptions> | undefined
}

/** The workers that can run a model, and what else they have to do. */
export interface Contention {
  /** Workers that are up. */
  readonly workers: number
  /** Expected milliseconds until one of them has done what it runs and what waits for it of other models. */
  busyMs(now: number): number
}

/** Those that give up their place, and when the answer is expected. */
interface Place {
  readonly victims: readonly Request[]
  readonly sojournMs: number
}

/** Up to two digits: estimates are no better, and answers that say the same need to be made only once. */
function rounded(value: number): number {
  const unit = 10 ** Math.max(0, Math.floor(Math.log10(value)) - 1)
  return Math.ceil(value / unit) * unit
}

export class Admission {
  readonly limit: AdaptiveLimit
  readonly #options: AdmissionOptions
  readonly #batcher: Batcher
  readonly #contention: Contention
  readonly #comeBack = new ComeBack()
  /** When a request was last taken for which, as it seems, there is no time. */
  #triedAt = Number.NEGATIVE_INFINITY
  #sweptAt = Number.NEGATIVE_INFINITY

  constructor(batcher: Batcher, contention: Contention, options: AdmissionOptions) {
    this.#batcher = batcher
    this.#contention = contention
    this.#options = options
    this.limit = new AdaptiveLimit(options.limit)
    batcher.onAnswered = (sample, now) => this.limit.observe(sample, batcher.busyRows, now)
  }

  /** Whether requests for which a run would end too late leave the queue. */
  get shedsLate(): boolean {
    return this.#options.mode === 'on'
  }

  /** Requests that came before are stale: others go first. */
  staleBefore(now: number): number {
    return this.#options.mode === 'on' ? now - this.limit.staleMs : Number.NEGATIVE_INFINITY
  }

  /** What such a request would be refused with if it came now; undefined where it would be taken. Changes nothing. */
  refusalOf(asked: Asked, now: number): Overloaded | undefined {
    const place = this.#placeFor(asked, now)
    return place instanceof Overloaded ? place : undefined
  }

  /** Makes room for a request that is about to be put into the queue. Throws Overloaded or DeadlineExceeded. */
  admit(asked: Asked, now: number): void {
    const { rows, deadline } = asked
    if (deadline !== undefined && deadline <= now) throw new DeadlineExceeded(false)
    const place = this.#placeFor(asked, now)
    if (place instanceof Overloaded) {
      this.#batcher.refused(asked, now)
      throw place
    }
    if (place === 'try') this.#triedAt = now
    else if (place !== undefined) {
      this.#batcher.evict(place.victims, () => this.#comeBackMs(now), now)
      const serviceMs = this.#batcher.requestMs(rows)
      const givenMs = deadline === undefined ? undefined : deadline - now
      const expected = { sojournMs: place.sojournMs, serviceMs, givenMs, answeredRows: 0, batchRows: 0 }
      this.limit.observe(expected, this.#batcher.busyRows, now)
    }
    this.limit.occupied(this.#batcher.busyRows + rows)
  }

  /** Expected milliseconds until such a request would be answered if it came now. */
  sojournMs(asked: Asked, now: number): number {
    const aheadMs = this.#batcher.aheadMs(asked, this.staleBefore(now))
    return aheadMs / this.#workers + this.#contention.busyMs(now) + this.#batcher.requestMs(asked.rows)
  }

  get #workers(): number {
    return Math.max(1, this.#contention.workers)
  }

  /**
   * Undefined where a request goes to the front of the queue, `try` where it does though it seems to have no chance.
   * Overloaded is given and not thrown: to throw takes longer than to answer, and it is what happens to most requests
   * when it happens at all.
   */
  #placeFor(asked: Asked, now: number): Place | 'try' | Overloaded | undefined {
    const batcher = this.#batcher
    const { rows, deadline } = asked
    const givenMs = deadline === undefined ? Number.POSITIVE_INFINITY : deadline - now
    // While nothing waits, everything is taken: a request larger than the queue, or one that the estimate gives no
    // chance, which only a run can put right. But of these one a second: they are charged nothing when they fail, and a
    // caller that gives no time would have the workers for itself.
    if (batcher.queueRows === 0) {
      const runMs = this.#options.mode === 'on' ? batcher.requestMs(rows) : 0
      if (runMs <= givenMs) return undefined
      if (now >= Math.max(batcher.ranAt, this.#triedAt) + deadlineRules.retryMs) return 'try'
      return this.#refusal('too-late', `a run takes ${rounded(runMs)} ms, too long for the deadline`, runMs)
    }
    // Callers that have gone and deadlines that have passed hold no place.
    if (this.#missingRows(rows) > 0) this.#sweep(now)
    if (batcher.queueRows === 0) return undefined
    const victims = batcher.victims(this.#missingRows(rows), asked, this.staleBefore(now), now)
    if (victims === undefined) {
      const text = `${rounded(batcher.queueRows)} rows wait already, and no more are taken at present`
      const isFull = batcher.queueRows + rows > this.#options.queueMaxRows
      return this.#refusal(isFull ? 'queue-full' : 'limit', text, this.#comeBackMs(now))
    }
    if (this.#options.mode === 'off') return { victims, sojournMs: 0 }
    const sojournMs = this.sojournMs(asked, now)
    if (sojournMs * deadlineRules.safety <= givenMs) return { victims, sojournMs }
    const text = `the answer is expected in ${rounded(sojournMs)} ms, too late for the deadline`
    return this.#refusal('too-late', text, Math.max(sojournMs - givenMs, this.#comeBackMs(now)))
  }

  #refusal(why: OverloadReason, text: string, retryAfterMs: number): Overloaded {
    return new Overloaded(this.#contention.workers === 0 ? 'unserved' : why, text, retryAfterMs)
  }

  /** Rows that would have to leave for a request of `rows` to be taken; 0 or less where none. */
  #missingRows(rows: number): number {
    const { mode, queueMaxRows } = this.#options
    const batcher = this.#batcher
    const overQueue = batcher.queueRows + rows - queueMaxRows
    if (mode === 'off') return overQueue
    // Below a run and one that waits for each worker, they would have to wait for work.
    const limit = Math.max(this.limit.rows, limitRules.runsPerWorker * this.#contention.workers * batcher.runRows)
    // One that is larger than what is left is taken all the same, or none would be while smaller ones come.
    const overLimit = batcher.busyRows >= limit ? batcher.busyRows + 1 - limit : 0
    return Math.ceil(Math.max(overLimit, overQueue))
  }

  /** Often enough: while a queue stays full, each look at all of it would be for one request. */
  #sweep(now: number): void {
    if (now < this.#sweptAt + queueRules.fullSweepMs) return
    this.#sweptAt = now
    this.#batcher.sweep(now)
  }

  /** Milliseconds until one more of those that were refused is to come back. */
  #comeBackMs(now: number): number {
    const batcher = this.#batcher
    const { maxRows } = batcher.options
    const rows = Number.isFinite(maxRows) ? maxRows : 1
    const eachMs = batcher.requestMs(rows) / rows / this.#workers
    const last = { rows: 1, priority: Number.NEGATIVE_INFINITY }
    return this.#comeBack.next(now, eachMs, this.sojournMs(last, now))
  }
}
