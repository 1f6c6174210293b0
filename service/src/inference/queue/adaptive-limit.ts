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

/** A request may be under way for so many times its run: one runs while one waits, so that no worker does. */
const tolerance = 2
/** Besides, it may wait this part of the time that its caller gives, so that bursts are taken; and never more than that. */
const slackPart = 1 / 8
const mostSlackMs = 250
const mostPart = 1 / 2
const windowMs = 100
/** What has waited so many times what it is meant to be under way, and this part of the time it was given, is stale. */
const staleAfter = 2
const stalePart = 0.85
const mostGivenMs = 5000
/** A queue gets shorter where, beside what leaves at once, this part of what was answered was not followed by more. */
const drainingPart = 0.2
/** Samples by which a window is judged, unless it takes a second to have them. */
const enoughSamples = 8

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

export class AdaptiveLimit {
  readonly #most: number
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
  #targetMs = mostSlackMs
  #givenMs = mostGivenMs

  /** `most`: rows that it never goes beyond. It starts there, and comes down once rows wait for long. */
  constructor(most: number) {
    this.#most = most
    this.#limit = most
  }

  /** Rows that may be under way. */
  get rows(): number {
    return this.#limit
  }

  /** Milliseconds after which a request has waited too long: most of what it was given, by the last window. */
  get staleMs(): number {
    return Math.max(staleAfter * this.#targetMs, stalePart * this.#givenMs)
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
    this.#target += targetOf(serviceMs, givenMs)
    this.#given += Math.min(givenMs ?? mostGivenMs, mostGivenMs)
    const elapsed = now - this.#since
    if (elapsed >= windowMs && (this.#count >= enoughSamples || elapsed >= 1000))
      this.#endWindow(elapsed, busyRows, now)
  }

  #endWindow(elapsed: number, busyRows: number, now: number): void {
    const gradient = Math.max(0.5, this.#target / this.#sojourn)
    this.#targetMs = this.#target / this.#count
    this.#givenMs = this.#given / this.#count
    // A queue that gets shorter by itself, as after a burst, needs nobody to be refused.
    const growing = this.#peak - busyRows <= this.#answered * drainingPart + 2 * this.#batchRows
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
    for (let i = Math.min(100, Math.floor(elapsed / windowMs)); i > 0; i--) this.#limit += Math.sqrt(this.#limit)
    this.#limit = Math.min(this.#limit, this.#most)
  }
}

function targetOf(serviceMs: number, givenMs: number | undefined): number {
  const given = givenMs ?? Number.POSITIVE_INFINITY
  return Math.min(tolerance * serviceMs + Math.min(given * slackPart, mostSlackMs), given * mostPart)
}
