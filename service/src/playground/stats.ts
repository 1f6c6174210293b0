/** What the live charts show, counted as it happens: a few additions a request, and nothing kept of any caller. */
import type { FastifyInstance } from 'fastify'
import type { InferenceEvent } from '../inference/index.js'

/** What happened between two samples. */
export interface Sample {
  /** Length of the interval, in milliseconds. */
  readonly intervalMs: number
  /** Limited requests by what became of them: answered, whatever the answer; over a quota; overload or 503. */
  readonly allowed: number
  readonly denied: number
  readonly shed: number
  /** Milliseconds to the answer of those that were allowed; null where there were none. */
  readonly p50Ms: number | null
  readonly p95Ms: number | null
  /** Mean rows of a run; null where nothing ran. */
  readonly batchRows: number | null
  /** The longest that a batch had waited, in milliseconds; null where nothing ran. */
  readonly queueMs: number | null
}

/** The same as it was counted, so that those of several processes can be summed. */
export interface Counted extends Pick<Sample, 'intervalMs' | 'allowed' | 'denied' | 'shed'> {
  /** How many latencies lay in each bucket that has some. */
  readonly latency: readonly (readonly [bucket: number, count: number])[]
  readonly batches: number
  readonly rows: number
  readonly queueMs: number
}

/** Latencies in buckets a twelfth of a doubling wide, from 0.05 ms to 54 s: their error is at most 3%. */
const STEPS = 12
const BUCKETS = 20 * STEPS
const LEAST_MS = 0.05

export class Stats {
  #since = performance.now()
  #allowed = 0
  #denied = 0
  #shed = 0
  #batches = 0
  #rows = 0
  #queueMs = 0
  readonly #latency = new Uint32Array(BUCKETS)

  /** A limited request was answered with this status, and this code where it failed, after so many milliseconds. */
  answered(status: number, code: string | null, ms: number): void {
    if (status === 503 || code === 'INFERENCE_OVERLOADED') this.#shed++
    else if (status === 429) this.#denied++
    else {
      this.#allowed++
      const bucket = ms <= LEAST_MS ? 0 : Math.round(Math.log2(ms / LEAST_MS) * STEPS)
      this.#latency[Math.min(bucket, BUCKETS - 1)] = (this.#latency[Math.min(bucket, BUCKETS - 1)] as number) + 1
    }
  }

  ran(event: InferenceEvent): void {
    if (event.type !== 'batch' || event.failed) return
    this.#batches++
    this.#rows += event.rows
    if (event.queueMs > this.#queueMs) this.#queueMs = event.queueMs
  }

  /** What happened since the last call, which is forgotten. */
  take(): Counted {
    const now = performance.now()
    const latency: [number, number][] = []
    this.#latency.forEach((count, bucket) => {
      if (count > 0) latency.push([bucket, count])
    })
    const counted = {
      ...{ intervalMs: now - this.#since, allowed: this.#allowed, denied: this.#denied, shed: this.#shed },
      ...{ latency, batches: this.#batches, rows: this.#rows, queueMs: this.#queueMs },
    }
    this.#since = now
    this.#allowed = this.#denied = this.#shed = 0
    this.#batches = this.#rows = this.#queueMs = 0
    this.#latency.fill(0)
    return counted
  }
}

/** The sample of what one process, or several, counted in one interval. */
export function sampleOf(all: readonly Counted[]): Sample {
  const sum = (value: (counted: Counted) => number) => all.reduce((total, each) => total + value(each), 0)
  const most = (value: (counted: Counted) => number) => Math.max(0, ...all.map(value))
  const latency = new Map<number, number>()
  for (const [bucket, count] of all.flatMap(each => each.latency)) {
    latency.set(bucket, (latency.get(bucket) ?? 0) + count)
  }
  const buckets = [...latency].sort(([a], [b]) => a - b)
  const batches = sum(each => each.batches)
  return {
    intervalMs: most(each => each.intervalMs),
    allowed: sum(each => each.allowed),
    denied: sum(each => each.denied),
    shed: sum(each => each.shed),
    p50Ms: quantile(buckets, 0.5),
    p95Ms: quantile(buckets, 0.95),
    batchRows: batches > 0 ? sum(each => each.rows) / batches : null,
    queueMs: batches > 0 ? most(each => each.queueMs) : null,
  }
}

/** `buckets`: with their counts, in their order. */
function quantile(buckets: readonly (readonly [bucket: number, count: number])[], share: number): number | null {
  let left = Math.ceil(buckets.reduce((sum, [, count]) => sum + count, 0) * share)
  if (left === 0) return null
  for (const [bucket, count] of buckets) {
    left -= count
    if (left <= 0) return LEAST_MS * 2 ** (bucket / STEPS)
  }
  return null
}

/** Counts the requests of every limited route made from here on, from when they came. */
export function countRequests(app: FastifyInstance, stats: Stats): void {
  app.addHook('onRoute', route => {
    if ((route.config as { rateLimit?: unknown } | undefined)?.rateLimit === false) return
    route.onSend = [
      ...[route.onSend ?? []].flat(),
      (request, reply, _payload, done) => {
        stats.answered(reply.statusCode, request.refusedAs, performance.now() - request.arrivedAt)
        done()
      },
    ]
  })
}
