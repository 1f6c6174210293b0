/**
 * What one request is charged: as a request before its body is read (`limits`), then here for its work, and what of it is
 * given back.
 *
 * Compute time is reserved before a run, by what the model is expected to take, and settled when nothing of the request
 * runs any more, whatever became of its caller. So calls that come together overdraw a quota by no more than what their
 * runs took beyond what was reserved for them.
 */
import type { FastifyBaseLogger, FastifyReply, FastifyRequest } from 'fastify'
import type { Decision, RequestRateLimit } from 'ml-api-rate-limiter'
import { Refusal } from '../http/problem.js'
import {
  BackendUnavailable,
  Cancelled,
  DeadlineExceeded,
  InvalidInput,
  Overloaded,
  Stopping,
  WorkerLost,
} from '../inference/errors.js'
import type { ComputeMeter, Model, RunOutcome, RunResult } from '../inference/types.js'
import type { UsageMeter } from '../usage/usage-meter.js'
import type { Identity } from './callers.js'
import type { PlanLimiters } from './limits.js'
import { allowsModel, type Plan, priceOf } from './plans.js'
import type { ScopedLimiter } from './scoped-limiter.js'

/** Callers whose fractions of a millisecond are remembered; the oldest goes first, and is charged so much less. */
const MOST_FRACTIONS = 10_000

/** What the service refused, or lost: its caller is not charged for it where nothing ran. */
const OURS = [Overloaded, DeadlineExceeded, Stopping, BackendUnavailable, WorkerLost]

type Awaitable<T> = T | Promise<T>

/** Goes on at once where nothing has to be waited for: all requests pass here, and each promise costs a turn. */
export function then<T, R>(value: Awaitable<T>, next: (value: T) => Awaitable<R>): Awaitable<R> {
  return value instanceof Promise ? value.then(next) : next(value)
}

/** Whole milliseconds of fractions: what is cut off a charge is added to the next one of the same caller. */
export class Fractions {
  readonly #left = new Map<string, number>()

  take(key: string, ms: number): number {
    const all = ms + (this.#left.get(key) ?? 0)
    const whole = Math.floor(all)
    this.#left.delete(key)
    const [oldest] = this.#left.keys()
    if (oldest !== undefined && this.#left.size >= MOST_FRACTIONS) this.#left.delete(oldest)
    this.#left.set(key, all - whole)
    return whole
  }
}

/** A caller, the limiters of its plan, which stay the request's own while others are read, and its charges. */
export class Charges implements ComputeMeter {
  readonly identity: Identity
  readonly limiters: PlanLimiters
  /** Costs of the work, for the functions that its policies have. */
  rows = 0
  reservedMs = 0
  credits = 0
  /** The decisions on this request. Collected only if `SDK_HEADERS` is on. */
  readonly decisions: Decision[]
  /** What is reported of its use: the model, once that is known, and the rows that were answered. */
  model: string | null = null
  servedRows = 0
  readonly #usage: UsageMeter | undefined
  readonly #fractions: Fractions
  readonly #log: FastifyBaseLogger
  /** What was decided, to be given back or settled. */
  #requests: RequestRateLimit | null = null
  #work: RequestRateLimit | null = null
  #computeNames: readonly string[] = []
  /** What became of its runs; undefined before, and while one goes on. */
  #outcome: RunOutcome | undefined
  /** Whether what was reserved is still to be brought to what ran. */
  #isOpen = false
  #settled: Promise<void> | undefined
  #isPart = false
  #paysForRequest = true

  constructor(
    identity: Identity,
    limiters: PlanLimiters,
    fractions: Fractions,
    log: FastifyBaseLogger,
    usage?: UsageMeter,
    decisions: Decision[] = [],
  ) {
    this.decisions = decisions
    this.#usage = usage
    this.identity = identity
    this.limiters = limiters
    this.#fractions = fractions
    this.#log = log
  }

  /** Partition key. */
  get key(): string {
    return this.identity.key
  }

  /** Throws Refusal (403) for a model that the caller may not ask. Before anything is charged for it. */
  checkModel(name: string): void {
    this.model = name
    const { models, plan } = this.identity
    if (models !== undefined && models !== null && !models.includes(name)) {
      const detail = `this API key is not for the model '${name}'; it is for ${models.join(', ')}`
      throw notAllowed(detail, models)
    }
    if (allowsModel(plan, name)) return
    const { allowedModels, deniedModels } = plan
    const others = allowedModels?.filter(each => !deniedModels.includes(each))
    const rest = others === undefined ? `all but ${deniedModels.join(', ')}` : others.join(', ') || 'none'
    throw notAllowed(`the plan '${plan.name}' is not for the model '${name}'; it is for ${rest}`, others)
  }

  /**
   * Charges of the same caller for a part of its request, which are reserved and given back by themselves, also where the
   * caller has gone before it ran. `isFirst`: it counts as a request, and pays for one; the parts behind it pay for their
   * rows alone.
   */
  ofPart(isFirst: boolean): Charges {
    // The headers of the answer tell of the first part.
    const decisions = isFirst ? this.decisions : []
    const part = new Charges(this.identity, this.limiters, this.#fractions, this.#log, this.#usage, decisions)
    part.model = this.model
    part.#isPart = true
    part.#paysForRequest = isFirst
    return part
  }

  /** The most rows that one reservation can have; Infinity where nothing bounds them. */
  mostRowsOf({ info }: Model): number {
    const work = this.limiters.workOf(info.name)
    if (work === undefined) return Number.POSITIVE_INFINITY
    const price = priceOf(this.limiters.plan, info.name, info.cost)
    const byCredits = price.row === 0 ? Number.POSITIVE_INFINITY : (work.mostCredits - price.request) / price.row
    return Math.max(1, Math.floor(Math.min(work.mostRows, byCredits)))
  }

  /** Its request was answered; `refusedAs`: the code of its refusal. `hasBegun`: some of its rows may have been answered before. */
  countUse(refusedAs: string | null, hasBegun: boolean): void {
    const { holder } = this.identity
    if (refusedAs === null) this.#usage?.served(holder, this.model, this.servedRows)
    else this.#usage?.refused(holder, this.model, refusedAs, hasBegun ? this.servedRows : 0)
  }

  /** One request. Gives the QuotaExceeded of a request that is denied. */
  chargeRequest(request: FastifyRequest, reply: FastifyReply): Awaitable<object | undefined> {
    return then(check(this.limiters.requests, request, reply), denial => {
      if (denial === undefined) this.#requests = request.rateLimit
      return denial
    })
  }

  /**
   * The rows of a request, and what the model is expected to compute for them, in one decision. Undefined where there is
   * nothing to wait for. Throws, or rejects with, QuotaExceeded; throws Refusal (413) for more rows than any wait could
   * free.
   */
  reserve(request: FastifyRequest, reply: FastifyReply, model: Model, rows: number): Promise<void> | undefined {
    const { plan } = this.limiters
    const { info } = model
    const work = this.limiters.workOf(info.name, this.#paysForRequest)
    if (work === undefined) return undefined
    const { mostRows, mostComputeMs, mostCredits, computeNames } = work
    if (rows > mostRows && mostRows > 0) throw neverFits(rows, plan, mostRows)
    const price = priceOf(plan, info.name, info.cost)
    this.credits = (this.#paysForRequest ? price.request : 0) + price.row * rows
    if (this.credits > mostCredits && mostCredits > 0) {
      throw neverFits(
        rows,
        plan,
        price.row === 0 ? 0 : Math.max(0, Math.floor((mostCredits - price.request) / price.row)),
      )
    }
    this.rows = rows
    // At least one, so that nothing runs once all is used up; at most the quota, or it would never run.
    this.reservedMs = Math.max(1, Math.min(Math.ceil(model.predictedMs?.(rows) ?? 0), mostComputeMs))
    const denial = check(work.work, request, reply)
    const end = (denied: object | undefined): void => {
      if (denied !== undefined) throw denied
      this.#work = request.rateLimit
      this.#computeNames = computeNames
      this.#isOpen = computeNames.length > 0
    }
    if (denial instanceof Promise) return denial.then(end)
    end(denial)
    return undefined
  }

  /** Rows of a reservation that was denied for which there was room: the part of them for which each quota has enough. */
  rowsWithRoom({ policies }: Decision): number {
    const costs = { requests: 1, rows: this.rows, 'compute-ms': this.reservedMs, credits: this.credits }
    let part = 1
    for (const { name, remaining } of policies) {
      const unit = this.limiters.plan.policies.find(policy => policy.name === name)?.unit
      const cost = unit === undefined ? 0 : costs[unit]
      if (cost > 0) part = Math.min(part, remaining / cost)
    }
    return Math.floor(this.rows * part)
  }

  /** Whether the model ran for it, as far as that is known. */
  get hasRun(): boolean {
    return this.#outcome !== undefined && this.#outcome !== 'not-run'
  }

  /** The model says what ran for the request, once. */
  ended(outcome: RunOutcome, computeMs: number): void {
    if (computeMs > 0) this.#usage?.computed(this.identity.holder, this.model, computeMs)
    this.#outcome = outcome
    // Its caller is about to learn why, and `failed` what is given back.
    if (outcome !== 'not-run') this.#settle(computeMs, outcome === 'unknown')
  }

  /** The run has answered. Undefined where there is nothing to wait for. */
  served({ computeShareMs }: RunResult, rows: number): Promise<void> | undefined {
    this.servedRows = rows
    this.#settle(computeShareMs, false)
    return this.#settled
  }

  /** The run has failed, or there was none: gives back what did not run. Undefined where there is nothing to wait for. */
  failed(error: unknown): Promise<void> | undefined {
    const goesOn = error instanceof Cancelled || (error instanceof DeadlineExceeded && error.running)
    const ran = this.#outcome === undefined ? goesOn : this.hasRun
    if (ran) return this.#settled
    const isOurs = OURS.some(kind => error instanceof kind)
    if (isOurs || error instanceof InvalidInput || (this.#isPart && error instanceof Cancelled)) {
      this.#isOpen = false
      // What its caller did wrong has cost a request, as it does where that is found before anything is reserved.
      return this.#giveBack(isOurs ? [this.#requests, this.#work] : [this.#work])
    }
    this.#settle(0, false)
    return this.#settled
  }

  #giveBack(charges: readonly (RequestRateLimit | null)[]): Promise<void> {
    return Promise.all(charges.map(each => each?.refund())).then(
      () => {},
      // The store is away; what was charged leaves with its window.
      reason => this.#log.debug({ err: reason }, 'a charge could not be given back'),
    )
  }

  /** Brings what was reserved to what ran. `atLeast`: nobody knows how much it was, so the reservation stays. */
  #settle(computeMs: number, atLeast: boolean): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    const whole = atLeast ? Math.ceil(computeMs) : this.#fractions.take(this.key, computeMs)
    const more = whole - this.reservedMs
    if (more === 0 || (more < 0 && atLeast)) return
    const cost = Object.fromEntries(this.#computeNames.map(name => [name, Math.abs(more)]))
    const settling = more > 0 ? this.#work?.charge(cost) : this.#work?.refund(cost)
    this.#settled = settling?.then(
      () => {},
      error => this.#log.warn({ err: error }, 'compute time could not be charged'),
    )
  }
}

const notAllowed = (detail: string, available: readonly string[] | undefined): Refusal =>
  new Refusal({
    status: 403,
    code: 'MODEL_NOT_ALLOWED',
    detail,
    ...(available === undefined ? {} : { members: { available } }),
  })

/** `most`: rows that fit at once; 0: not even one does. */
function neverFits(rows: number, plan: Plan, most: number): Refusal {
  const instead = most > 0 ? `send at most ${most} at once` : 'not even one row does'
  const detail = `a request of ${rows} rows never fits the plan '${plan.name}'; ${instead}`
  return new Refusal({ status: 413, code: 'TOO_MANY_ROWS', detail })
}

function check(
  { limiter }: ScopedLimiter,
  request: FastifyRequest,
  reply: FastifyReply,
): Awaitable<object | undefined> {
  request.trace?.limiterAsked()
  return limiter.check(request, reply)
}
