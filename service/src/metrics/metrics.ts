/** What the service tells Prometheus of itself. No label holds a key, an address or anything else that a caller sends. */
import type { FastifyRequest } from 'fastify'
import { type Decision, type StoreEvent, StoreForeignKey, StoreTimeout } from 'ml-api-rate-limiter'
import { collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import { type OverloadReason, overloadReasons } from '../inference/errors.js'
import type { InferenceEvent } from '../inference/index.js'
import type { Models } from '../inference/types.js'
import { Counters, Histograms } from './series.js'

/** Bounds in seconds: of whole requests, and of what takes a fraction of a millisecond when all is well. */
const LONG = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
const SHORT = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
const ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]

/** How Redis refuses, by the first word of what it says. */
const REFUSALS: Readonly<Record<string, string>> = {
  OOM: 'out_of_memory',
  READONLY: 'read_only',
  LOADING: 'loading',
  MASTERDOWN: 'no_primary',
  BUSY: 'busy',
  NOAUTH: 'not_authenticated',
}

/** Of the process and not of one app: memory, CPU, event loop, garbage collection. */
let ofProcess: Registry | undefined

function processMetrics(): Registry {
  if (ofProcess === undefined) {
    ofProcess = new Registry()
    collectDefaultMetrics({ register: ofProcess })
  }
  return ofProcess
}

/** What the gate tells of itself: milliseconds and requests. */
export interface GateState {
  readonly delayMs: number
  readonly inside: number
  readonly limit: number
}

type WatchedModels = Pick<Models, 'list' | 'queueRows' | 'ready' | 'routing' | 'versions'>

/** What counters need of a plan. */
export interface WatchedPlan {
  readonly name: string
  readonly policies: readonly { readonly name: string }[]
  readonly concurrency: number | undefined
}

export class Metrics {
  readonly contentType = Registry.PROMETHEUS_CONTENT_TYPE
  readonly #registry = new Registry()
  readonly #process = processMetrics()
  readonly requests = new Counters(
    'http_requests_total',
    'Requests that were answered. Those whose client went before are not counted.',
    [...['route', 'method', 'status']],
  )
  readonly duration = new Histograms('http_request_duration_seconds', 'From a request to its whole answer.', LONG, [
    ...['route', 'method', 'status'],
  ])
  readonly #shed = new Counters(
    'http_requests_shed_total',
    'Requests answered with 503 or 504, or as overload, by the code of why.',
    [...['reason', 'status']],
  )
  readonly #overload = new Counters(
    'inference_refused_total',
    'Requests that were not taken, or lost their place, because there was no room or no time, by why.',
    ['reason'],
  )
  readonly inFront = new Counters(
    'front_refusals_total',
    'Requests that were refused before the framework saw them. They are part of the other counts.',
  )
  readonly #decisions = new Counters(
    'rate_limit_decisions_total',
    'Decisions about requests: allowed ones by every policy, denied ones by those that stood in the way.',
    ['plan', 'policy', 'outcome'],
  )
  readonly #store = new Histograms('rate_limit_store_duration_seconds', 'From a check to what Redis answered.', SHORT)
  readonly #storeErrors = new Counters('rate_limit_store_errors_total', 'Checks that Redis did not answer.', ['reason'])
  readonly #wait = new Histograms(
    'inference_queue_wait_seconds',
    'How long the first request of each batch had waited.',
    SHORT,
    ['model', 'version'],
  )
  readonly #rows = new Histograms('inference_batch_rows', 'Rows of each batch.', ROWS, ['model', 'version'])
  readonly #runs = new Histograms('inference_run_duration_seconds', 'Time of each batch in its worker.', SHORT, [
    ...['model', 'version'],
  ])
  readonly #failures = new Counters('inference_batches_failed_total', 'Batches that gave no answer.', [
    ...['model', 'version'],
  ])
  readonly #shadowRows = new Counters(
    'inference_shadow_rows_total',
    'Rows that a shadow ran beside: `same` with the label that callers got, `other` with another, `unlabelled`, and those of requests that it failed as `failed`.',
    ['model', 'version', 'outcome'],
  )
  readonly #workersLost = new Counters('inference_workers_lost_total', 'Workers that ended unasked.')
  #storeUp = true
  #models: WatchedModels | undefined
  #plans: () => readonly WatchedPlan[] = () => []

  constructor() {
    const families = [
      ...[this.requests, this.duration, this.#shed, this.#overload, this.#decisions, this.#store, this.#storeErrors],
      ...[this.#wait, this.#rows, this.#runs, this.#failures, this.#workersLost, this.inFront, this.#shadowRows],
    ]
    for (const family of families) this.#registry.registerMetric(family.asMetric())
    // Known from the start, so that their first rise is seen.
    for (const why of overloadReasons) this.#overload.of(why)
    this.#workersLost.of()
    this.inFront.of()
    this.#store.of()
    for (const reason of ['timeout', 'foreign_key', 'unavailable', ...Object.values(REFUSALS)])
      this.#storeErrors.of(reason)
  }

  // Prometheus sees that a counter rises only if it has seen the counter before. So series begin at 0, before anything
  // happens that they count.

  beginRoute(route: string, method: string): void {
    for (const status of ['2xx', '4xx', '5xx']) this.requests.of(route, method, status)
  }

  beginShed(code: string, status: number): void {
    this.#shed.of(code, classOf(status))
  }

  /** Those of plans and models, which a reload changes. */
  #beginLoaded(): void {
    for (const { info } of this.#models?.list() ?? []) {
      for (const version of this.#models?.versions(info.name) ?? []) this.#failures.of(info.name, version.info.version)
      const shadow = this.#models?.routing?.(info.name)?.shadow
      if (shadow === undefined) continue
      const { version, rows, labelled, agreed, failed } = shadow
      const outcomes = { same: agreed, other: labelled - agreed, unlabelled: rows - labelled, failed }
      for (const [outcome, value] of Object.entries(outcomes)) {
        this.#shadowRows.of(info.name, version, outcome).value = value
      }
    }
    for (const { name: plan, policies, concurrency } of this.#plans()) {
      const names = [...policies.map(({ name }) => name), ...(concurrency === undefined ? [] : ['concurrency'])]
      for (const policy of names)
        for (const outcome of ['allowed', 'denied', 'unchecked']) this.#decisions.of(plan, policy, outcome)
    }
  }

  /** Adds what is read when somebody asks. `usesStore`: limits are counted in Redis. */
  watch(models: WatchedModels, plans: () => readonly WatchedPlan[], usesStore: boolean): void {
    this.#models = models
    this.#plans = plans
    this.#gauge('rate_limit_store_up', '1 while Redis is asked, 0 while it is left alone; 1 without Redis.', () =>
      this.#storeUp ? 1 : 0,
    )
    this.#gauge('rate_limit_store_remote', '1 where limits are counted in Redis, 0 where in this process.', () =>
      usesStore ? 1 : 0,
    )
    this.#gauge('inference_queue_rows', 'Rows that wait, over all models.', () => models.queueRows)
    this.#gauge('inference_models_loaded', 'Models that can be asked.', () => models.list().length)
    const fairness: Gauge = new Gauge({
      name: 'inference_fairness_index',
      help: "Jain's index of how callers shared a model of late: 1 where each had its due, 1/n where one of n had all.",
      labelNames: ['model'],
      registers: [this.#registry],
      collect: () => {
        fairness.reset()
        for (const { info, fairnessIndex = 1 } of models.list()) fairness.set({ model: info.name }, fairnessIndex)
      },
    })
    const difference: Gauge = new Gauge({
      name: 'inference_shadow_largest_difference',
      help: 'Largest difference between a value of a shadow and the one that callers got.',
      labelNames: ['model', 'version'],
      registers: [this.#registry],
      collect: () => {
        difference.reset()
        for (const { info } of models.list()) {
          const shadow = models.routing?.(info.name)?.shadow
          if (shadow !== undefined)
            difference.set({ model: info.name, version: shadow.version }, shadow.largestDifference)
        }
      },
    })
    this.#gauge('inference_ready', '1 while models are loaded and workers up.', () => (models.ready ? 1 : 0))
  }

  /** Adds the gate in front of the body. */
  watchGate(gate: { readonly state: GateState }): void {
    const help = 'How late turns of the event loop were in the last tenth of a second, as the gate sees it.'
    this.#gauge('gate_delay_seconds', help, () => gate.state.delayMs / 1000)
    this.#gauge('gate_requests', 'Requests that are past the gate, and not answered.', () => gate.state.inside)
    this.#gauge(
      'gate_limit_requests',
      'Requests that may be past the gate; +Inf while it is open.',
      () => gate.state.limit,
    )
  }

  /** Adds what reads connections in front of the framework. */
  watchFront(control: { readonly paused: number }): void {
    const help = 'Connections that are not read at present, since what comes over them is refused.'
    this.#gauge('front_paused_connections', help, () => control.paused)
  }

  /** A request was refused, or lost its place. */
  overloaded(why: OverloadReason): void {
    this.#overload.of(why).value++
  }

  /** The code of a request that was answered 503, 504 or as overload: one of the service's own. */
  shed(code: string, status: number): void {
    this.#shed.of(code, classOf(status)).value++
  }

  decided({ caller }: Pick<FastifyRequest, 'caller'>, decision: Decision): void {
    this.decidedBy(caller?.limiters.plan.name ?? 'none', decision)
  }

  /** `plan`: the name of it. */
  decidedBy(plan: string, decision: Decision): void {
    if (!decision.allowed) {
      const outcome = decision.banned ? 'banned' : 'denied'
      for (const policy of decision.violated) this.#decisions.of(plan, policy, outcome).value++
      return
    }
    const outcome = decision.known ? 'allowed' : 'unchecked'
    for (const { name } of decision.policies) this.#decisions.of(plan, name, outcome).value++
  }

  storeTold(event: StoreEvent): void {
    switch (event.type) {
      case 'answered':
        this.#store.of().observe(event.ms / 1000)
        return
      case 'failed':
        this.#storeErrors.of(reasonOf(event.error)).value++
        return
      default:
        this.#storeUp = event.type === 'back'
    }
  }

  ran(event: InferenceEvent): void {
    if (event.type === 'worker-lost') this.#workersLost.of().value++
    if (event.type !== 'batch') return
    this.#wait.of(event.model, event.version).observe(event.queueMs / 1000)
    if (event.failed) {
      this.#failures.of(event.model, event.version).value++
      return
    }
    this.#rows.of(event.model, event.version).observe(event.rows)
    this.#runs.of(event.model, event.version).observe(event.computeMs / 1000)
  }

  async text(): Promise<string> {
    this.#beginLoaded()
    const [own, ofProcess] = await Promise.all([this.#registry.metrics(), this.#process.metrics()])
    return `${own}\n${ofProcess}`
  }

  #gauge(name: string, help: string, read: () => number): void {
    const gauge: Gauge = new Gauge({ name, help, registers: [this.#registry], collect: () => gauge.set(read()) })
  }
}

/** A status as the label `status` has it. */
export const classOf = (status: number): string => `${Math.floor(status / 100)}xx`

function reasonOf(error: Error): string {
  // The client's own limit is as long as the limiter's, and either may be first.
  if (error instanceof StoreTimeout || error.message === 'Command timed out') return 'timeout'
  if (error instanceof StoreForeignKey) return 'foreign_key'
  return REFUSALS[error.message.split(' ', 1)[0] as string] ?? 'unavailable'
}
