/** The quotas in front of everything that costs: of each plan one limiter in requests, and one each in rows and in compute time. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import rateLimit, { type PolicyState, type RateLimitHandler, type RequestRateLimit } from 'ml-api-rate-limiter'
import { addressKey } from '../auth.js'
import { type Config, ConfigError } from '../config.js'
import { Refusal } from '../http/problem.js'
import type { Model, Models } from '../inference/types.js'
import type { Metrics } from '../metrics/metrics.js'
import { Callers, type Identity } from './callers.js'
import { Gate } from './gate.js'
import { onePlan, type Plan, type Plans, readPlans, type Unit } from './plans.js'
import { refundShed } from './refunds.js'
import { priorityOf, timeoutOf } from './urgency.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asks, and by which plan; null before it is known, and on routes that are not limited. */
    caller: LimitedCaller | null
    /** Rows to be charged. */
    rows: number
    /** Milliseconds that it waited before it was seen, as far as can be told. */
    seenLateMs?: number
  }
}

/** A caller and the limiters of its plan, which stay the request's own while others are read from the file. */
interface LimitedCaller {
  readonly key: string
  readonly limiters: PlanLimiters
  /** The decision to which compute time is added; undefined where the plan has no policy in it. */
  compute: RequestRateLimit | undefined
  /** What the request was charged so far, limiter by limiter. */
  readonly charges: RequestRateLimit[]
}

interface PlanLimiters {
  readonly plan: Plan
  readonly requests: RateLimitHandler
  /** Undefined where the plan has no policy in rows. */
  readonly rows: RateLimitHandler | undefined
  /** Undefined where the plan has no policy in compute time. */
  readonly compute: RateLimitHandler | undefined
}

export interface Standing {
  readonly plan: string
  readonly policies: readonly (Omit<PolicyState, 'unit'> & { readonly unit: string })[]
}

/** What became of reading the limits file again. */
export type LimitsReload = { readonly loaded: true } | { readonly loaded: false; readonly errors: readonly string[] }

export async function registerLimits(
  app: FastifyInstance,
  config: Config,
  models: Models,
  metrics: Metrics | undefined,
): Promise<Limits> {
  app.decorateRequest('seenLateMs', 0)
  refundShed(app)
  const gate = config.gateDelayMs === undefined ? undefined : new Gate(config.gateDelayMs)
  if (gate !== undefined) metrics?.watchGate(gate)
  app.addHook('onClose', () => gate?.close())
  const pass = (request: FastifyRequest, reply: FastifyReply) => {
    const timeoutMs = timeoutOf(request, config.requestTimeoutMs)
    if (gate === undefined) return undefined
    request.seenLateMs = gate.delayMs
    const { arrivedAt } = request
    const newcomer = {
      models: modelsMeant(models, request),
      priority: priorityOf(request),
      partitionKey: request.caller?.key,
      arrivedAt,
      timeoutMs,
    }
    return gate.pass(newcomer, reply.raw)
  }
  const limits = await openLimits(app, config, metrics, pass)
  const hold = (request: FastifyRequest, reply: FastifyReply, done: (error?: Error) => void) => {
    let refusal: ReturnType<Limits['chargeRequest']>
    try {
      refusal = limits.chargeRequest(request, reply)
    } catch (error) {
      done(error as Error)
      return
    }
    if (refusal instanceof Promise) refusal.then(settled => done(settled as Error | undefined), done)
    else done(refusal as Error | undefined)
  }
  app.addHook('onRoute', route => {
    if (route.config?.rateLimit === undefined) route.onRequest = [...[route.onRequest ?? []].flat(), hold]
  })
  return limits
}

/** The limits in their store, in front of nothing yet. For `pass` see Limits. */
export async function openLimits(
  app: FastifyInstance,
  config: Config,
  metrics: Metrics | undefined,
  pass: Pass,
): Promise<Limits> {
  const plans = config.limitsFile === undefined ? onePlan(config.rateLimit) : readPlans(config.limitsFile)
  const store = { lost: false }
  await app.register(rateLimit, {
    // Each request is held against the limiters of its caller's plan instead.
    global: false,
    keyGenerator: addressKey,
    ...(app.hasDecorator('redis') ? { redis: app.redis } : {}),
    nameSpace: config.redisNameSpace,
    onStoreError: config.onStoreError,
    storeTimeout: config.storeTimeoutMs,
    onStoreEvent: event => {
      if (event.type === 'lost' || event.type === 'back') store.lost = event.type === 'lost'
      metrics?.storeTold(event)
    },
    ...(metrics === undefined && config.tracing === undefined
      ? {}
      : {
          onDecision: (request, decision) => {
            metrics?.decided(request, decision)
            request.trace?.decided(request.caller?.limiters.plan.name ?? 'none', decision)
          },
        }),
  })
  app.decorateRequest('caller', null)
  app.decorateRequest('rows', 0)
  return new Limits(app, config, plans, pass, store)
}

type Pass = (request: FastifyRequest, reply: FastifyReply) => Error | undefined

type Awaitable<T> = T | Promise<T>

/** Goes on at once where nothing has to be waited for: all requests pass here, and each promise costs a turn. */
function then<T, R>(value: Awaitable<T>, next: (value: T) => Awaitable<R>): Awaitable<R> {
  return value instanceof Promise ? value.then(next) : next(value)
}

export class Limits {
  readonly #app: FastifyInstance
  readonly #file: string | undefined
  readonly #callers: Callers
  readonly #pass: Pass
  readonly #store: { readonly lost: boolean }
  #plans: Plans
  #limiters: ReadonlyMap<string, PlanLimiters>

  /** `pass` answers with Overloaded where a request that could be charged is not taken at present. */
  constructor(app: FastifyInstance, config: Config, plans: Plans, pass: Pass, store: { readonly lost: boolean }) {
    this.#pass = pass
    this.#store = store
    this.#app = app
    this.#file = config.limitsFile
    this.#callers = new Callers(app, config)
    this.#plans = plans
    this.#limiters = this.#limitersOfAll(plans, new Map())
  }

  /** Whether the store was given up, because it does not answer or refuses to count. */
  get storeLost(): boolean {
    return this.#store.lost
  }

  /**
   * The first charge, before the body: one request, where there is room for it. Gives what it is to be answered with
   * where it is refused: QuotaExceeded or Overloaded. Rejects with Refusal (401) for a key that is not known.
   */
  chargeRequest(request: FastifyRequest, reply: FastifyReply): Awaitable<object | undefined> {
    return then(this.#callers.identify(request, reply, this.#plans), identity =>
      this.#chargeCaller(this.#take(request, identity), request, reply),
    )
  }

  /**
   * The second charge, before the queue; undefined where there is nothing to wait for. Throws, or rejects with,
   * QuotaExceeded; throws Refusal (413) for more rows than any wait could free.
   */
  chargeRows(request: FastifyRequest, reply: FastifyReply, rows: number): Promise<void> | undefined {
    const { caller } = request
    if (caller === null || rows === 0) return undefined
    const { limiters } = caller
    if (limiters.rows === undefined) return undefined
    const most = Math.min(...limiters.plan.policies.filter(isInRows).map(({ limit }) => limit))
    if (rows > most && most > 0) {
      const detail = `a request of ${rows} rows never fits the plan '${limiters.plan.name}'; send at most ${most} at once`
      throw new Refusal({ status: 413, code: 'TOO_MANY_ROWS', detail })
    }
    request.rows = rows
    const denial = charge(caller, limiters.rows, request, reply)
    if (denial instanceof Promise) return denial.then(throwDenial)
    throwDenial(denial)
    return undefined
  }

  /** What the run took, after it: also beyond the quota. Undefined where the plan has no policy in it. */
  chargeCompute({ caller, log }: FastifyRequest, computeMs: number): Promise<void> | undefined {
    if (caller?.compute === undefined) return undefined
    // Whole milliseconds, right on average: rounded up, a run of a tenth of one would count ten times.
    const whole = Math.floor(computeMs + Math.random())
    if (whole === 0) return undefined
    return caller.compute.charge(whole).catch(error => {
      log.warn({ err: error }, 'compute time could not be charged')
    })
  }

  /** Where the caller stands with every policy of its plan. Counts nothing but a key that is not known. */
  async standing(request: FastifyRequest, reply: FastifyReply): Promise<Standing> {
    const { key, plan } = await this.#callers.identify(request, reply, this.#plans)
    return standingWith(this.#limitersOf(plan), key)
  }

  /** The plan of an API key, by its SHA-256, or of callers without one; undefined where they are not served. */
  planOf(sha256: string | undefined): Plan | undefined {
    const { keys, anonymous } = this.#plans
    return sha256 === undefined ? anonymous : keys?.get(sha256)
  }

  /** Where a partition key stands with every policy of a plan, and an address with wrong keys. Counts nothing. */
  async standingOf(key: string, plan: Plan): Promise<Standing> {
    const standing = await standingWith(this.#limitersOf(plan), key)
    if (this.#plans.keys === undefined || !key.startsWith('ip:')) return standing
    return { ...standing, policies: [...standing.policies, await this.#callers.guesses(key)] }
  }

  /** Gives a partition key its whole quota back, with every plan. */
  reset(key: string): Promise<void> {
    return this.#app.rateLimiter.reset(key)
  }

  /** Reads the file again and takes all of it or, where something is wrong, nothing. Undefined where there is no file. */
  reload(): LimitsReload | undefined {
    if (this.#file === undefined) return undefined
    try {
      const plans = readPlans(this.#file)
      this.#limiters = this.#limitersOfAll(plans, this.#limiters)
      this.#plans = plans
      this.#app.log.info({ plans: plans.all.length, keys: plans.keys?.size }, 'the limits were read again')
      return { loaded: true }
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error
      this.#app.log.error({ errors: error.problems }, 'the limits file is wrong; the limits stay as they were')
      return { loaded: false, errors: error.problems }
    }
  }

  #chargeCaller(caller: LimitedCaller, request: FastifyRequest, reply: FastifyReply): Awaitable<object | undefined> {
    const { requests, compute } = caller.limiters
    const refusal = this.#pass(request, reply)
    if (refusal !== undefined) return refusal
    if (compute === undefined) return charge(caller, requests, request, reply)
    // First, since it costs nothing: a request that is denied for it is charged nothing else.
    request.trace?.limiterAsked()
    return then(compute.check(request, reply), denial => {
      if (denial !== undefined) return denial
      caller.compute = request.rateLimit ?? undefined
      return charge(caller, requests, request, reply)
    })
  }

  #take(request: FastifyRequest, { key, plan }: Identity): LimitedCaller {
    request.caller = { key, limiters: this.#limitersOf(plan), compute: undefined, charges: [] }
    return request.caller
  }

  #limitersOf(plan: Plan): PlanLimiters {
    return this.#limiters.get(plan.name) ?? this.#limitersOfPlan(plan)
  }

  /** A plan that has not changed keeps its limiters. */
  #limitersOfAll(plans: Plans, before: ReadonlyMap<string, PlanLimiters>): Map<string, PlanLimiters> {
    return new Map(
      plans.all.map(plan => {
        const known = before.get(plan.name)
        const same = known !== undefined && JSON.stringify(known.plan) === JSON.stringify(plan)
        return [plan.name, same ? known : this.#limitersOfPlan(plan)]
      }),
    )
  }

  #limitersOfPlan(plan: Plan): PlanLimiters {
    const keyGenerator = ({ caller }: FastifyRequest) => (caller as LimitedCaller).key
    const policiesIn = (unit: Unit) =>
      plan.policies
        .filter(policy => policy.unit === unit)
        .map(({ name, limit, windowMs }) => ({ name, max: limit, timeWindow: windowMs }))
    const { concurrency } = plan
    const requests = this.#app.rateLimit({
      groupId: `plan:${plan.name}`,
      policies: policiesIn('requests'),
      keyGenerator,
      ...(concurrency === undefined ? {} : { concurrency: { max: concurrency } }),
    })
    const inUnit = (unit: Unit, cost: number | ((request: FastifyRequest) => number)) => {
      const policies = policiesIn(unit)
      if (policies.length === 0) return undefined
      return this.#app.rateLimit({
        groupId: `plan:${plan.name}`,
        policies,
        cost,
        keyGenerator,
        // The x-ratelimit fields go on speaking of requests, unless it is these that are denied.
        addHeadersOnExceeding: {
          'x-ratelimit-limit': false,
          'x-ratelimit-remaining': false,
          'x-ratelimit-reset': false,
        },
      })
    }
    return { plan, requests, rows: inUnit('rows', request => request.rows), compute: inUnit('compute-ms', 0) }
  }
}

/** Every model that a request may be about, as its URL tells. */
function modelsMeant(models: Models, { params }: FastifyRequest): readonly Model[] {
  const { name, model = name, version } = params as Readonly<Record<string, string | undefined>>
  if (model === undefined) return models.list()
  try {
    return [models.get(model, version)]
  } catch {
    // Its route says so.
    return []
  }
}

/** Gives the QuotaExceeded of a request that is denied. */
function charge(
  { charges }: LimitedCaller,
  limiter: RateLimitHandler,
  request: FastifyRequest,
  reply: FastifyReply,
): Awaitable<object | undefined> {
  request.trace?.limiterAsked()
  return then(limiter.check(request, reply), denial => {
    if (denial === undefined && request.rateLimit !== null) charges.push(request.rateLimit)
    return denial
  })
}

function throwDenial(denial: object | undefined): void {
  if (denial !== undefined) throw denial
}

async function standingWith({ plan, requests, rows, compute }: PlanLimiters, key: string): Promise<Standing> {
  const [inRequests, inRows, inCompute] = await Promise.all([
    requests.status(key),
    rows?.status(key),
    compute?.status(key),
  ])
  const within = (standing: typeof inRows, unit: Unit) => standing?.policies.map(policy => ({ ...policy, unit })) ?? []
  return {
    plan: plan.name,
    policies: [...within(inRequests, 'requests'), ...within(inRows, 'rows'), ...within(inCompute, 'compute-ms')],
  }
}

const isInRows = ({ unit }: { readonly unit: string }): boolean => unit === 'rows'
