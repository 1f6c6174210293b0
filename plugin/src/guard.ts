import { format as formatDuration } from '@lukeed/ms'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { isThenable } from './awaitable.js'
import { notify } from './callbacks.js'
import { type Decision, seconds } from './decision.js'
import { QuotaExceeded } from './errors.js'
import { limitField, policyField } from './headers.js'
import type { Limiter, Outcome } from './limiter.js'
import { LiveDecision } from './live-decision.js'
import { checkedResponse } from './options/answers.js'
import { refundWhenSent } from './refund-on.js'
import type { Lease } from './stores/store.js'

/** The limiters a request has met, so that each charges it once. */
const met = Symbol('ml-api-rate-limiter.met')

interface Guarded extends FastifyRequest {
  [met]?: readonly Limiter[] | null
}

/** Name of the request decorator that `guard` needs. */
export const MET: symbol = met

/**
 * Holds a request against a limiter: headers, callbacks, and the error to answer with, if it is denied. A limiter
 * that has seen the request before lets it pass. Answers at once where nothing has to be waited for.
 */
export function guard(
  limiter: Limiter,
  request: Guarded,
  reply: FastifyReply,
): object | undefined | Promise<object | undefined> {
  const others = request[met]
  if (others?.includes(limiter)) return undefined
  request[met] = others ? [...others, limiter] : limiter.alone
  const outcome = limiter.decide(request, false)
  if (isThenable(outcome)) return outcome.then(settled => conclude(limiter, settled, request, reply, !others))
  return conclude(limiter, outcome, request, reply, !others)
}

function conclude(
  limiter: Limiter,
  outcome: Outcome,
  request: FastifyRequest,
  reply: FastifyReply,
  first: boolean,
): object | undefined {
  if (outcome.listed) return undefined
  const { config } = limiter
  const { decision, lease } = outcome
  const key = outcome.key as string
  if (lease !== undefined) releaseWithReply(lease, reply)
  const limited = new LiveDecision(limiter, outcome)
  request.rateLimit = limited
  if (config.refundOn !== undefined && decision.allowed) {
    refundWhenSent(config.refundOn, () => limited.refund(), request, reply)
  }
  if (config.onDecision !== undefined) notify(request.log, 'onDecision', config.onDecision, request, decision)
  if (config.standardHeaders) setStandardHeaders(limiter, decision, reply, first)
  if (decision.allowed) {
    setHeaders(limiter, decision, reply, config.addHeadersOnExceeding)
    if (config.onExceeding !== undefined) notify(request.log, 'onExceeding', config.onExceeding, request, key)
    return undefined
  }
  if (config.onExceeded !== undefined) notify(request.log, 'onExceeded', config.onExceeded, request, key)
  if (decision.banned && config.onBanReach !== undefined) {
    notify(request.log, 'onBanReach', config.onBanReach, request, key)
  }
  if (config.report) {
    setHeaders(limiter, decision, reply, config.addHeadersOnExceeding)
    request.log.warn({ rateLimit: { violated: decision.violated } }, 'rate limit exceeded, let through in report mode')
    return undefined
  }
  setHeaders(limiter, decision, reply, config.addHeaders)
  const retryAfter = retryAfterOf(decision)
  if (config.addHeaders[config.labels.retryAfter]) reply.header(config.labels.retryAfter, retryAfter)
  if (config.errorResponseBuilder === undefined) return denialOf(decision)
  const response = config.errorResponseBuilder(request, {
    statusCode: statusOf(decision),
    ban: decision.banned,
    max: decision.binding.limit,
    ttl: decision.retryAfterMs,
    after: inWords(retryAfter),
  })
  return checkedResponse(response)
}

/** What a denied request is answered with: the error, and the header fields. */
export interface RateLimitRefusal {
  readonly error: InstanceType<typeof QuotaExceeded>
  readonly headers: Readonly<Record<string, string | number>>
}

/** The same as `guard` answers a request with that this decision denies, where there is no request. */
export function refusalOf(limiter: Limiter, decision: Decision): RateLimitRefusal {
  const headers: Record<string, string | number> = {}
  const { addHeaders, labels, standardHeaders } = limiter.config
  const fields: Fields = { header: (name, value) => (headers[name] = value), getHeader: name => headers[name] }
  if (standardHeaders) setStandardHeaders(limiter, decision, fields, true)
  setHeaders(limiter, decision, fields, addHeaders)
  if (addHeaders[labels.retryAfter]) headers[labels.retryAfter] = retryAfterOf(decision)
  return { error: denialOf(decision), headers }
}

const denialOf = (decision: Decision) =>
  new QuotaExceeded(inWords(retryAfterOf(decision)), statusOf(decision), decision)

const statusOf = ({ banned }: Decision): 403 | 429 => (banned ? 403 : 429)

const retryAfterOf = ({ retryAfterMs }: Decision): number => Math.max(1, seconds(retryAfterMs))

/** The part of a reply that header fields are set on. */
interface Fields {
  header(name: string, value: string | number): unknown
  getHeader(name: string): string | number | string[] | undefined
}

/** Those who are denied are mostly denied alike, so the last text serves again. */
let lastSeconds = 0
let lastWords = ''

function inWords(seconds: number): string {
  if (seconds !== lastSeconds) {
    lastSeconds = seconds
    lastWords = formatDuration(seconds * 1000, true)
  }
  return lastWords
}

/** The response is over when it was sent, when it failed and when the client has gone: `close` tells all three. */
function releaseWithReply(lease: Lease, reply: FastifyReply): void {
  const { raw } = reply
  // A response of HTTP/2 does not say that the client has gone; its stream does.
  const { stream } = raw as { stream?: { readonly destroyed: boolean } }
  if (raw.destroyed || raw.closed || raw.writableEnded || stream?.destroyed === true) lease.release()
  else raw.once('close', () => lease.release())
}

function setHeaders(
  { config }: Limiter,
  { binding, allowed, retryAfterMs }: Decision,
  reply: Fields,
  shown: Readonly<Record<string, boolean>>,
): void {
  const { labels } = config
  if (shown[labels.limit]) reply.header(labels.limit, binding.limit)
  if (shown[labels.remaining]) reply.header(labels.remaining, allowed ? binding.remaining : 0)
  if (shown[labels.reset]) reply.header(labels.reset, seconds(allowed ? binding.reset : retryAfterMs))
}

/** Most limiters have the same quotas for every request, and so the same text that tells of them. */
const policyFields = new WeakMap<Limiter, string>()

/** A further limiter on the same request adds its policies to those of the first. */
function setStandardHeaders(limiter: Limiter, { policies, known }: Decision, reply: Fields, first: boolean): void {
  let field = policyFields.get(limiter)
  if (field === undefined) {
    field = policyField(policies)
    if (limiter.isFixed) policyFields.set(limiter, field)
  }
  const set = first ? setHeader : appendHeader
  set(reply, 'ratelimit-policy', field)
  if (known) set(reply, 'ratelimit', limitField(policies))
}

function setHeader(reply: Fields, name: string, field: string): void {
  reply.header(name, field)
}

function appendHeader(reply: Fields, name: string, field: string): void {
  const before = reply.getHeader(name)
  reply.header(name, before === undefined ? field : `${before}, ${field}`)
}
