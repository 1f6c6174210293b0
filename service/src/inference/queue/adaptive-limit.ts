/**
 * How many rows of one model may be under way, found from what they wait: a gradient controller, as Envoy's adaptive
 * concurrency filter and Netflix's Gradient2 have it,
 *
 *   limit ← gradient · limit + √limit,   gradient = (tolerance · service + slack) / sojourn,  ½ … 1
 *
 * once a window. Those have to guess what a request takes without a queue, by letting the service run dry now and then;
 * here each batch tells how long it ran, and what a request will wait is known when it comes. Pure: time is an argument.
 *
 * https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/adaptive_concurrency_filter
 * https://github.com/Netflix/concurrency-limits
 */
import { limit as rules, stale } from './admission-constants.js'

export interface Sample {
  /** Milliseconds from the request's arrival in the queue to its answer. */
  readonly sojournMs: number
  /** Milliseconds of that in which it ran. */
  readonly serviceMs: number
  /** Milliseconds that it had from its arrival; undefined: any number. */
  readonly givenMs: number | undefined
  /** Its rows, if it was answered; 0 where this is what is expected of one that was admitted. */
  readonly answeredRows: number
  /** Rows of the batch it ran in, which all leave at once. */
  readonly batchRows: number
}

export interface LimitOptions {
  /** Rows that it never goes beyond. It starts there, and comes down once rows wait for long. */
  readonly mostRows: number
  /** Milliseconds that a request is meant to wait at most, however much time it was given. */
  readonly mostWaitMs: number
}

export class AdaptiveLimit {
  readonly #options: LimitOptions
  #limit: number
  #since: number | undefined
  #count = 0
  #answered = 0
  #batchRows = 1
  /** Whether the queue grew in the window before, or stayed as it was. */
  #grew = false
  #sojourn = 0
  #target = 0
  /** Most rows that were under way in this window. */
  #peak = 0
  #given = 0
  #targetMs: number
  #givenMs: number = stale.mostGivenMs

  constructor(options: Partial<LimitOptions> = {}) {
    this.#options = { mostRows: rules.mostRows, mostWaitMs: rules.mostWaitMs, ...options }
    this.#limit = this.#options.mostRows
    this.#targetMs = this.#options.mostWaitMs
  }

  /** Rows that may be under way. */
  get rows(): number {
    return this.#limit
  }

  /** Milliseconds after which a request has waited too long: most of what it was given, by the last window. */
  get staleMs(): number {
    return Math.max(stale.targets * this.#targetMs, stale.givenPart * this.#givenMs)
  }

  /** So many rows are under way. */
  occupied(rows: number): void {
    if (rows > this.#peak) this.#peak = rows
  }

  /** A request was answered, or one was admitted of which this is expected. `busyRows`: so many are under way now. */
  observe({ sojournMs, serviceMs, givenMs, answeredRows, batchRows }: Sample, busyRows: number, now: number): void {
    this.#since ??= now
    this.#count++
    this.#answered += answeredRows
    if (batchRows > this.#batchRows) this.#batchRows = batchRows
    this.#sojourn += sojournMs
    this.#target += this.#targetOf(serviceMs, givenMs)
    this.#given += Math.min(givenMs ?? stale.mostGivenMs, stale.mostGivenMs)
    const elapsed = now - this.#since
    if (elapsed >= rules.windowMs && (this.#count >= rules.enoughSamples || elapsed >= rules.slowWindowMs))
      this.#endWindow(elapsed, busyRows, now)
  }

  #endWindow(elapsed: number, busyRows: number, now: number): void {
    const gradient = Math.max(rules.lowestGradient, this.#target / this.#sojourn)
    this.#targetMs = this.#target / this.#count
    this.#givenMs = this.#given / this.#count
    // A queue that gets shorter by itself, as after a burst, needs nobody to be refused.
    const growing = this.#peak - busyRows <= this.#answered * rules.drainingPart + 2 * this.#batchRows
    if (gradient < 1) {
      if (growing && this.#grew) this.#lower(gradient)
    } else this.#raise(elapsed)
    this.#grew = growing
    this.#since = now
    this.#count = 0
    this.#answered = 0
    this.#batchRows = 1
    this.#sojourn = 0
    this.#target = 0
    this.#given = 0
    this.#peak = busyRows
  }

  #lower(gradient: number): void {
    const used = Math.min(this.#limit, Math.max(1, this.#peak))
    this.#limit = Math.min(this.#limit, used * gradient + Math.sqrt(used))
  }

  /** A service that was asked little has had as much time to show that it is well. */
  #raise(elapsed: number): void {
    for (let i = Math.min(100, Math.floor(elapsed / rules.windowMs)); i > 0; i--) this.#limit += Math.sqrt(this.#limit)
    this.#limit = Math.min(this.#limit, this.#options.mostRows)
  }

  #targetOf(serviceMs: number, givenMs = Number.POSITIVE_INFINITY): number {
    const waitMs = Math.min(givenMs * rules.waitPart, this.#options.mostWaitMs)
    return Math.min(rules.tolerance * serviceMs + waitMs, givenMs * rules.mostPart)
  }
}
