/** The quotas in front of everything that costs: of each plan one limiter in requests, and one in the work that they are. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import rateLimit, { type CountsLink, type PolicyState, type RateLimitOptions } from 'ml-api-rate-limiter'
import { addressKey, hashTagOf } from '../auth.js'
import { type Config, ConfigError } from '../config.js'
import { unreadMs } from '../http/arrival.js'
import type { Models } from '../inference/types.js'
import type { Keyring } from '../keys/keyring.js'
import type { Metrics } from '../metrics/metrics.js'
import { ANONYMOUS, type UsageHolder } from '../usage/entry.js'
import type { UsageMeter } from '../usage/usage-meter.js'
import { Callers, type Identity, type Whose } from './callers.js'
import { Charges, Fractions, then } from './charges.js'
import { EarlyRefusals } from './early.js'
import { Gate } from './gate.js'
import { modelsMeant } from './models-meant.js'
import { onePlan, type Plan, type PlanPolicy, type Plans, readPlans, type Scope } from './plans.js'
import { ScopedLimiter } from './scoped-limiter.js'
import { sendSdkHeaders } from './sdk-headers.js'
import { priorityOf, timeoutOf } from './urgency.js'
import { countUse } from './use.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asks, by which plan, and what it is charged; null before it is known, and on routes that are not limited. */
    caller: Charges | null
    /** Who asks, where they are known and have no plan. */
    refusedHolder: UsageHolder | null
    /** Milliseconds that it waited before it was seen, as far as can be told. */
    seenLateMs?: number
  }
}

/** The limiters of one plan. */
export interface PlanLimiters {
  readonly plan: Plan
  /** Of the policies in requests of all models. */
  readonly requests: ScopedLimiter
  /**
   * Of everything that is known once the body was read, for one model; undefined where the plan has no policy in it.
   * `countsRequests`: false for parts of a request that has been counted; true when left out.
   */
  workOf(model: string, countsRequests?: boolean): WorkLimiters | undefined
  /** All of `workOf`, of every model, to be asked where a caller stands. */
  readonly allWork: WorkLimiters | undefined
}

/** The limiters of what a request of one model costs beyond being a request. */
export interface WorkLimiters {
  readonly work: ScopedLimiter
  /** The most that the policies in rows ever admit at once. Infinity where there are none. */
  readonly mostRows: number
  /** The same for compute time. */
  readonly mostComputeMs: number
  /** The same for credits. */
  readonly mostCredits: number
  /** Names of the policies in compute time. */
  readonly computeNames: readonly string[]
}

export interface PolicyStanding extends Omit<PolicyState, 'unit'> {
  readonly unit: string
  readonly per?: Scope
  readonly models?: readonly string[] | undefined
}

export interface Standing {
  readonly plan: string
  readonly policies: readonly PolicyStanding[]
}

/** What limits need besides; undefined where there is none. */
export interface LimitsParts {
  readonly keyring?: Keyring | undefined
  readonly usage?: UsageMeter | undefined
  /** The way to counts that another process holds. */
  readonly counts?: CountsLink | undefined
}

/** What became of reading the limits file again. */
export type LimitsReload = { readonly loaded: true } | { readonly loaded: false; readonly errors: readonly string[] }

export async function registerLimits(
  app: FastifyInstance,
  config: Config,
  models: Models,
  metrics: Metrics | undefined,
  { keyring, usage, counts }: LimitsParts,
): Promise<{ readonly limits: Limits; readonly early: EarlyRefusals }> {
  app.decorateRequest('seenLateMs', 0)
  const gate = config.gateDelayMs === undefined ? undefined : new Gate(config.gateDelayMs)
  if (gate !== undefined) metrics?.watchGate(gate)
  app.addHook('onClose', () => gate?.close())
  const pass = (request: FastifyRequest, reply: FastifyReply) => {
    const timeoutMs = timeoutOf(request, config.requestTimeoutMs)
    const meant = modelsMeant(models, request.params)
    const [model] = meant
    // Of several, the body says which.
    if (meant.length === 1 && model !== undefined && namesModel(request)) request.caller?.checkModel(model.info.name)
    if (gate === undefined) return undefined
    const waitedMs = unreadMs(request.raw.socket, request.arrivedAt)
    request.seenLateMs = Math.max(gate.delayMs, waitedMs)
    const arrivedAt = request.arrivedAt - waitedMs
    const newcomer = {
      models: meant,
      priority: priorityOf(request),
      partitionKey: request.caller?.key,
      arrivedAt,
      timeoutMs,
    }
    return gate.pass(newcomer, reply.raw)
  }
  const limits = await openLimits(app, config, metrics, pass, { keyring, usage, counts })
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
    if (route.config?.rateLimit !== undefined) return
    route.onRequest = [...[route.onRequest ?? []].flat(), hold]
    if (config.sdkHeaders !== 'off') route.onSend = [...[route.onSend ?? []].flat(), sendSdkHeaders]
    if (usage !== undefined) route.onResponse = [...[route.onResponse ?? []].flat(), countUse(usage)]
  })
  return { limits, early: new EarlyRefusals(limits, gate, models) }
}

/** The limits in their store, in front of nothing yet. For `pass` see Limits. */
export async function openLimits(
  app: FastifyInstance,
  config: Config,
  metrics: Metrics | undefined,
  pass: Pass,
  { keyring, usage, counts }: LimitsParts = {},
): Promise<Limits> {
  const plans = config.limitsFile === undefined ? onePlan(config.rateLimit) : readPlans(config.limitsFile)
  const store = { lost: false }
  await app.register(rateLimit, {
    // Each request is held against the limiters of its caller's plan instead.
    global: false,
    keyGenerator: addressKey,
    ...(app.hasDecorator('redis') ? { redis: app.redis } : {}),
    nameSpace: config.redisNameSpace,
    hashTag: hashTagOf,
    ...(counts === undefined ? {} : { counts }),
    onStoreError: config.onStoreError,
    storeTimeout: config.storeTimeoutMs,
    onStoreEvent: event => {
      if (event.type === 'lost' || event.type === 'back') store.lost = event.type === 'lost'
      metrics?.storeTold(event)
    },
    ...(metrics === undefined && config.tracing === undefined && config.sdkHeaders === 'off'
      ? {}
      : {
          onDecision: (request, decision) => {
            metrics?.decided(request, decision)
            if (config.sdkHeaders !== 'off') request.caller?.decisions.push(decision)
            request.trace?.decided(request.caller?.limiters.plan.name ?? 'none', decision)
          },
        }),
  })
  app.decorateRequest('caller', null)
  app.decorateRequest('refusedHolder', null)
  return new Limits(app, config, plans, pass, store, keyring, usage)
}

type Pass = (request: FastifyRequest, reply: FastifyReply) => Error | undefined

export class Limits {
  readonly #app: FastifyInstance
  readonly #file: string | undefined
  readonly #callers: Callers
  readonly #pass: Pass
  readonly #store: { readonly lost: boolean }
  readonly #fractions = new Fractions()
  readonly #usage: UsageMeter | undefined
  #plans: Plans
  #limiters: ReadonlyMap<string, PlanLimiters>

  /** `pass` answers with Overloaded where a request that could be charged is not taken at present. */
  constructor(
    app: FastifyInstance,
    config: Config,
    plans: Plans,
    pass: Pass,
    store: { readonly lost: boolean },
    keyring: Keyring | undefined,
    usage: UsageMeter | undefined,
  ) {
    this.#usage = usage
    this.#pass = pass
    this.#store = store
    this.#app = app
    this.#file = config.limitsFile
    this.#callers = new Callers(app, config, keyring)
    this.#plans = plans
    this.#limiters = this.#limitersOfAll(plans, new Map())
  }

  /** Whether the store was given up, because it does not answer or refuses to count. */
  get storeLost(): boolean {
    return this.#store.lost
  }

  /**
   * Before the body: one request, where there is room for it. Gives what it is to be answered with where it is refused:
   * QuotaExceeded or Overloaded. Throws, or rejects with, Refusal: 401 for a key that is not known, 403 for a model that it
   * is not for.
   */
  chargeRequest(request: FastifyRequest, reply: FastifyReply): object | undefined | Promise<object | undefined> {
    return then(this.#callers.identify(request, reply, this.#plans), identity => {
      const caller = new Charges(identity, this.#limitersOf(identity.plan), this.#fractions, request.log, this.#usage)
      request.caller = caller
      return this.#pass(request, reply) ?? caller.chargeRequest(request, reply)
    })
  }

  /** Who asks, and the limiters of its plan, as far as that is known at once: see `Callers.known`. */
  callerOf(digest: string | undefined, address: string): Pick<Charges, 'identity' | 'limiters'> | undefined {
    const identity = this.#callers.known(digest, address, this.#plans)
    return identity && { identity, limiters: this.#limitersOf(identity.plan) }
  }

  /** By what name the use of a caller is reported. Rejects with Refusal (401) for one without a key, as for a wrong one. */
  async keyOf(request: FastifyRequest, reply: FastifyReply): Promise<string> {
    const { holder } = await this.#callers.identify(request, reply, this.#plans)
    return holder === ANONYMOUS ? this.#callers.refuseWithoutKey() : holder.key
  }

  /** Where the caller stands with every policy of its plan. Counts nothing but a key that is not known. */
  async standing(request: FastifyRequest, reply: FastifyReply): Promise<Standing> {
    const identity = await this.#callers.identify(request, reply, this.#plans)
    return standingWith(this.#limitersOf(identity.plan), identity)
  }

  /** Who the holder of an API key is, by its SHA-256; undefined where it is not known. Throws Refusal as `chargeRequest`. */
  identityOf(sha256: string): Identity | undefined {
    return this.#callers.identityOf(sha256, this.#plans)
  }

  /** The plan of callers without an API key; undefined where a key is required. */
  get anonymous(): Plan | undefined {
    return this.#plans.anonymous
  }

  /** Where a partition key stands with every policy of a plan, and an address with wrong keys. Counts nothing. */
  async standingOf(whose: Whose & Pick<Identity, 'plan'>): Promise<Standing> {
    const { key, plan } = whose
    const standing = await standingWith(this.#limitersOf(plan), whose)
    if (!this.#callers.haveMeaning(this.#plans) || !key.startsWith('ip:')) return standing
    return { ...standing, policies: [...standing.policies, await this.#callers.guesses(key)] }
  }

  /** Gives a caller its whole quota back, with every plan, and with it what all keys of its owner share. */
  async reset({ key, ownerKey }: Whose): Promise<void> {
    for (const each of new Set([key, ownerKey])) await this.#app.rateLimiter.reset(each)
  }

  /** The plans that callers have now. */
  get plans(): readonly Plan[] {
    return this.#plans.all
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
    const { concurrency, policies } = plan
    const scoped = (some: readonly PlanPolicy[], inFlight: number | undefined, headers: RateLimitOptions) =>
      new ScopedLimiter(some, inFlight, options =>
        this.#app.rateLimit({ groupId: `plan:${plan.name}`, ...options, ...headers }),
      )
    const rest = policies.filter(policy => !isKnownAtOnce(policy))
    const made = new Map<string, WorkLimiters>()
    const byModel = new Map<string, WorkLimiters | undefined>()
    const workOf = (some: readonly PlanPolicy[]): WorkLimiters | undefined => {
      if (some.length === 0) return undefined
      const id = some.map(({ name }) => name).join()
      let work = made.get(id)
      if (work === undefined) {
        const most = (unit: PlanPolicy['unit']) =>
          Math.min(...some.flatMap(policy => (policy.unit === unit ? policy.limit : [])))
        work = {
          work: scoped(some, undefined, { addHeadersOnExceeding: NO_HEADERS }),
          mostRows: most('rows'),
          mostComputeMs: most('compute-ms'),
          mostCredits: most('credits'),
          computeNames: some.flatMap(({ unit, name }) => (unit === 'compute-ms' ? name : [])),
        }
        made.set(id, work)
      }
      return work
    }
    return {
      plan,
      requests: scoped(policies.filter(isKnownAtOnce), concurrency, {}),
      workOf: (model, countsRequests = true) => {
        if (rest.length === 0) return undefined
        const id = countsRequests ? model : `part of ${model}`
        const known = byModel.get(id)
        if (known !== undefined || byModel.has(id)) return known
        const ofModel = rest.filter(({ models }) => models === undefined || models.includes(model))
        const work = workOf(countsRequests ? ofModel : ofModel.filter(({ unit }) => unit !== 'requests'))
        byModel.set(id, work)
        return work
      },
      allWork: workOf(rest),
    }
  }
}

/** Whether a policy can be asked before the body is read: it needs neither the rows nor the model. */
const isKnownAtOnce = ({ unit, models }: PlanPolicy): boolean => unit === 'requests' && models === undefined

/** The x-ratelimit fields go on speaking of requests, unless it is rows or compute time that are denied. */
const NO_HEADERS = { 'x-ratelimit-limit': false, 'x-ratelimit-remaining': false, 'x-ratelimit-reset': false }

/** Whether the URL of a request says which model it is about. */
function namesModel({ params }: FastifyRequest): boolean {
  const { name, model = name } = params as Readonly<Record<string, string | undefined>>
  return model !== undefined
}

async function standingWith({ plan, requests, allWork }: PlanLimiters, whose: Whose): Promise<Standing> {
  const asked = allWork === undefined ? [requests] : [requests, allWork.work]
  const told = await Promise.all(asked.map(limiter => limiter.status(whose)))
  const own = new Map(plan.policies.map(policy => [policy.name, policy]))
  const policies = told.flatMap(each => each?.policies ?? [])
  return {
    plan: plan.name,
    policies: policies.map(each => {
      const policy = own.get(each.name)
      return { ...each, unit: policy?.unit ?? each.unit, per: policy?.per ?? requests.per, models: policy?.models }
    }),
  }
}
