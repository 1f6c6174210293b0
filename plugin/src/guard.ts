import { format as formatDuration } from '@lukeed/ms'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { type Decision, seconds } from './decision.js'
import { QuotaExceeded } from './errors.js'
import { limitField, policyField } from './headers.js'
import type { Cost, Limiter, Outcome } from './limiter.js'
import type { Check, Lease } from './stores/store.js'

/** What `request.rateLimit` holds once a limiter has decided. */
export interface RequestRateLimit extends Decision {
  /**
   * Adds cost that is known only after the work (rows, tokens, milliseconds of compute). It may overdraw the quota;
   * later requests wait the longer. A number is charged to every policy of the limiter, an object by policy name.
   */
  charge(cost: Cost): Promise<void>
}

/** The limiters a request has met, so that each charges it once. */
const met = Symbol('ml-api-rate-limiter.met')

interface Guarded extends FastifyRequest {
  [met]?: Limiter[]
}

/** Name of the request decorator that `meet` needs. */
export const MET: symbol = met

/** True for the first time that this limiter sees the request. */
function meet(request: Guarded, limiter: Limiter): boolean {
  const limiters = request[met]
  if (limiters === undefined || limiters === null) {
    request[met] = [limiter]
    return true
  }
  if (limiters.includes(limiter)) return false
  limiters.push(limiter)
  return true
}

/**
 * Holds a request against a limiter: headers, callbacks, and the error to answer with, if it is denied. Answers at
 * once where nothing has to be waited for.
 */
export function guard(
  limiter: Limiter,
  request: FastifyRequest,
  reply: FastifyReply,
): object | undefined | Promise<object | undefined> {
  if (!meet(request, limiter)) return undefined
  const outcome = limiter.decide(request, false)
  if (outcome instanceof Promise) return outcome.then(settled => conclude(limiter, settled, request, reply))
  return conclude(limiter, outcome, request, reply)
}

function conclude(
  limiter: Limiter,
  outcome: Outcome,
  request: FastifyRequest,
  reply: FastifyReply,
): object | undefined {
  if (outcome.listed) return undefined
  const { config } = limiter
  const { decision, check, lease } = outcome
  const key = outcome.key as string
  if (lease !== undefined) releaseWithReply(lease, reply)
  request.rateLimit = new Limited(decision, limiter, check)
  if (config.standardHeaders) setStandardHeaders(limiter, decision, reply)
  if (decision.allowed) {
    setHeaders(limiter, decision, reply, config.addHeadersOnExceeding)
    config.onExceeding?.(request, key)
    return undefined
  }
  config.onExceeded?.(request, key)
  if (decision.banned) config.onBanReach?.(request, key)
  if (config.report) {
    setHeaders(limiter, decision, reply, config.addHeadersOnExceeding)
    request.log.warn({ rateLimit: { violated: decision.violated } }, 'rate limit exceeded, let through in report mode')
    return undefined
  }
  setHeaders(limiter, decision, reply, config.addHeaders)
  const retryAfter = Math.max(1, seconds(decision.retryAfterMs))
  if (config.addHeaders[config.labels.retryAfter]) reply.header(config.labels.retryAfter, retryAfter)
  const statusCode = decision.banned ? 403 : 429
  const after = formatDuration(retryAfter * 1000, true)
  if (config.errorResponseBuilder === undefined) return new QuotaExceeded(after, statusCode, decision)
  const max = decision.binding.limit
  return config.errorResponseBuilder(request, {
    statusCode,
    ban: decision.banned,
    max,
    ttl: decision.retryAfterMs,
    after,
  })
}

/** A decision as the request carries it: enumerable data, and the way to charge more. */
class Limited implements RequestRateLimit {
  readonly key: string
  readonly allowed: boolean
  readonly policies: Decision['policies']
  readonly binding: Decision['binding']
  readonly retryAfterMs: number
  readonly violated: readonly string[]
  readonly banned: boolean
  readonly known: boolean
  readonly #limiter: Limiter
  readonly #check: Check

  constructor(decision: Decision, limiter: Limiter, check: Check) {
    this.key = decision.key
    this.allowed = decision.allowed
    this.policies = decision.policies
    this.binding = decision.binding
    this.retryAfterMs = decision.retryAfterMs
    this.violated = decision.violated
    this.banned = decision.banned
    this.known = decision.known
    this.#limiter = limiter
    this.#check = check
  }

  charge(cost: Cost): Promise<void> {
    return this.#limiter.charge(this.#check, cost)
  }
}

/** The response is over when it was sent, when it failed and when the client has gone: `close` tells all three. */
function releaseWithReply(lease: Lease, reply: FastifyReply): void {
  const { raw } = reply
  if (raw.destroyed || raw.closed || raw.writableEnded) lease.release()
  else raw.once('close', () => lease.release())
}

function setHeaders(
  { config }: Limiter,
  { binding, allowed, retryAfterMs }: Decision,
  reply: FastifyReply,
  shown: Readonly<Record<string, boolean>>,
): void {
  const { labels } = config
  if (shown[labels.limit]) reply.header(labels.limit, binding.limit)
  if (shown[labels.remaining]) reply.header(labels.remaining, allowed ? binding.remaining : 0)
  if (shown[labels.reset]) reply.header(labels.reset, seconds(allowed ? binding.reset : retryAfterMs))
}

/** The policies of most limiters never change, and so neither does the text that tells of them. */
const policyFields = new WeakMap<Limiter, { readonly quotas: string; readonly field: string }>()

/** A second limiter on the same request adds its policies to those of the first. */
function setStandardHeaders(limiter: Limiter, decision: Decision, reply: FastifyReply): void {
  const quotas = decision.policies.reduce((text, { limit, windowMs }) => `${text}${limit}/${windowMs} `, '')
  let cached = policyFields.get(limiter)
  if (cached?.quotas !== quotas) {
    cached = { quotas, field: policyField(decision.policies) }
    policyFields.set(limiter, cached)
  }
  append(reply, 'ratelimit-policy', cached.field)
  if (decision.known) append(reply, 'ratelimit', limitField(decision.policies))
}

function append(reply: FastifyReply, name: string, field: string): void {
  const before = reply.getHeader(name)
  reply.header(name, before === undefined ? field : `${before}, ${field}`)
}
