/** Errors as problem documents (RFC 9457): one form for every refusal, and nothing in it that the caller may not know. */
import { STATUS_CODES } from 'node:http'
import type { FastifyReply, FastifyRequest, FastifySchemaValidationError } from 'fastify'
import { QuotaExceeded } from 'ml-api-rate-limiter'
import {
  BackendUnavailable,
  DeadlineExceeded,
  InferenceError,
  type InferenceErrorCode,
  InvalidInput,
  ModelLoading,
  ModelRequired,
  Overloaded,
  Stopping,
  UnknownModel,
  WorkerLost,
} from '../inference/errors.js'

/** What went wrong with one value of a request. */
export interface InvalidValue {
  readonly path: string
  readonly message: string
}

/** A problem document: the members of RFC 9457, a code that never changes, and more by kind. */
export interface Problem {
  readonly type: string
  readonly title: string
  readonly status: number
  readonly detail: string
  /** Names this one answer; the log has the same id. */
  readonly instance: string
  readonly code: string
  readonly errors?: readonly InvalidValue[]
  readonly [extension: string]: unknown
}

/** A problem before it is tied to a request. */
export interface Fault {
  readonly status: number
  readonly code: string
  readonly detail: string
  readonly type?: string
  /** Milliseconds after which the request is worth sending again. */
  readonly retryAfterMs?: number
  readonly headers?: Readonly<Record<string, string | number>>
  readonly members?: Readonly<Record<string, unknown>>
}

/** Names in `available`; a longer list is at `GET /v1/models`. */
const MOST_AVAILABLE = 100

export const MEDIA_TYPE = 'application/problem+json'

const REGISTRY = 'https://iana.org/assignments/http-problem-types'
const QUOTA_EXCEEDED = `${REGISTRY}#quota-exceeded`
const REDUCED_CAPACITY = `${REGISTRY}#temporary-reduced-capacity`

/** A refusal of the service's own: an answer and not a fault, so it carries no stack. */
export class Refusal extends Error {
  readonly statusCode: number
  readonly code: string

  constructor(readonly fault: Fault) {
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0
    super(fault.detail)
    Error.stackTraceLimit = stackTraceLimit
    this.statusCode = fault.status
    this.code = fault.code
  }
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Status of what is refused because the service is overloaded; 429 where an app does not say. */
    overloadStatus?: OverloadStatus
  }
  interface FastifyRequest {
    /** The code of the error that the request was answered with. */
    refusedAs: string | null
  }
}

export type OverloadStatus = 429 | 503

/** 503 with a time to come back. */
export const unavailable = (code: string, detail: string, retryAfterMs: number): Fault => ({
  status: 503,
  code,
  detail,
  type: REDUCED_CAPACITY,
  retryAfterMs,
})

export const badRequest = (code: string, errors: readonly InvalidValue[]): Fault => ({
  status: 400,
  code,
  detail: errors.map(({ path, message }) => (path === '' ? message : `${path} ${message}`)).join('; '),
  members: { errors },
})

/** Refusals that Fastify itself makes, in our words. */
const byFastify: Readonly<Record<string, { code: string; status: number; detail: string }>> = {
  FST_ERR_CTP_INVALID_JSON_BODY: { code: 'INVALID_JSON', status: 400, detail: 'the body is not valid JSON' },
  FST_ERR_CTP_EMPTY_JSON_BODY: {
    code: 'INVALID_JSON',
    status: 400,
    detail: 'the body is empty where a JSON object is needed',
  },
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: {
    code: 'INVALID_CONTENT_LENGTH',
    status: 400,
    detail: 'the body is not as long as content-length says',
  },
  FST_ERR_CTP_BODY_TOO_LARGE: { code: 'BODY_TOO_LARGE', status: 413, detail: 'the body is too long' },
  FST_ERR_CTP_INVALID_MEDIA_TYPE: {
    code: 'UNSUPPORTED_MEDIA_TYPE',
    status: 415,
    detail: 'the body must be JSON, with content-type: application/json',
  },
  FST_ERR_BAD_URL: { code: 'INVALID_URL', status: 400, detail: 'the path of the URL is not validly percent-encoded' },
  FST_ERR_MAX_PARAM_LENGTH: { code: 'URL_TOO_LONG', status: 414, detail: 'a part of the path is too long' },
}

/** The status of each error of inference. 499 is what nginx logs for a caller that has gone; nobody receives it. */
const statusOf: Readonly<Record<InferenceErrorCode, number>> = {
  INFERENCE_UNKNOWN_MODEL: 404,
  INFERENCE_MODEL_REQUIRED: 400,
  INFERENCE_MODEL_LOADING: 503,
  INFERENCE_INVALID_INPUT: 400,
  INFERENCE_INPUT_REFUSED: 400,
  INFERENCE_OVERLOADED: 429,
  INFERENCE_WORKER_LOST: 503,
  INFERENCE_BACKEND_UNAVAILABLE: 503,
  INFERENCE_BACKEND_FAILED: 503,
  INFERENCE_STOPPING: 503,
  INFERENCE_DEADLINE_EXCEEDED: 504,
  INFERENCE_CANCELLED: 499,
  INFERENCE_RUN_FAILED: 500,
  INFERENCE_MODEL_BROKEN: 500,
  INFERENCE_NO_MODELS: 500,
}

/** What an error comes to for the caller. What is not known here is a bug: 500, with nothing of it told. */
export function faultOf(error: unknown, overloadStatus: OverloadStatus = 429): Fault {
  if (error instanceof Refusal) return error.fault
  if (error instanceof QuotaExceeded) return quotaExceeded(error)
  if (error instanceof Overloaded) {
    const { code, message, retryAfterMs, served } = error
    // Nobody could have served it: 503, so that balancers send it to another replica.
    return { ...unavailable(code, `overloaded: ${message}`, retryAfterMs), status: served ? overloadStatus : 503 }
  }
  if (error instanceof InferenceError) return ofInference(error)
  const { code, statusCode, validation } = error as {
    code?: string
    statusCode?: number
    validation?: readonly FastifySchemaValidationError[]
  }
  if (validation !== undefined) return badRequest('INVALID_REQUEST', meantErrors(validation).map(invalidValue))
  if (code === 'ML_RATE_STORE_UNAVAILABLE') {
    // Spread, so that not everybody who was refused comes back in the same second.
    return unavailable(code, 'rate limits cannot be checked at the moment', 1000 + Math.random() * 4000)
  }
  const known = code === undefined ? undefined : byFastify[code]
  if (known !== undefined) return known
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return { status: statusCode, code: 'BAD_REQUEST', detail: 'the request cannot be understood' }
  }
  return { status: 500, code: 'INTERNAL_ERROR', detail: 'the service failed; its log tells more under this instance' }
}

/** What a decision tells of a policy that is a budget. */
interface BudgetState {
  readonly name: string
  readonly remaining: number
  readonly period?: string | undefined
  readonly reset: number
}

function quotaExceeded({ decision, statusCode, message }: QuotaExceeded): Fault {
  const { policies = [] } = decision as { policies?: readonly BudgetState[] }
  const budgets = policies.filter(({ name, period }) => period !== undefined && decision.violated.includes(name))
  const told = budgets.map(({ name, period, reset }) => ({
    name,
    period,
    resetsAt: nearestMidnight(Date.now() + reset),
  }))
  const [budget] = told
  const { remaining = 0 } = budgets[0] ?? {}
  const isWhat = remaining > 0 ? `has ${remaining} left, too little for this request,` : 'is used up'
  return {
    status: statusCode,
    code: QuotaExceeded.code,
    detail:
      budget === undefined
        ? message
        : `The budget '${budget.name}' of this ${budget.period} ${isWhat} until ${budget.resetsAt}`,
    type: QUOTA_EXCEEDED,
    retryAfterMs: decision.retryAfterMs,
    members: {
      'violated-policies': decision.violated,
      ...(budget === undefined ? {} : { 'violated-budgets': told }),
    },
  }
}

function ofInference(error: InferenceError): Fault {
  const { code, message } = error
  const status = statusOf[code]
  if (error instanceof InvalidInput) return badRequest(code, error.errors)
  if (error instanceof UnknownModel || error instanceof ModelRequired) {
    return { status, code, detail: message, members: { available: error.available.slice(0, MOST_AVAILABLE) } }
  }
  if (error instanceof Stopping || error instanceof ModelLoading || error instanceof BackendUnavailable)
    return unavailable(code, message, error.retryAfterMs)
  if (error instanceof WorkerLost) {
    // Its message tells how the worker died, which is for the log.
    return unavailable(code, 'the worker that ran this request was lost; send it again', error.retryAfterMs)
  }
  if (error instanceof DeadlineExceeded) return { status, code, detail: message }
  if (status < 500) return { status, code, detail: message }
  return { status: 500, code, detail: 'the model failed while it ran on this input' }
}

/** Without what follows from the other errors: that a value is not null, where it may be, and fits no alternative. */
function meantErrors(errors: readonly FastifySchemaValidationError[]): readonly FastifySchemaValidationError[] {
  const meant = errors.filter(
    ({ keyword, params }) => keyword !== 'anyOf' && !(keyword === 'type' && params.type === 'null'),
  )
  return meant.length > 0 ? meant : errors
}

function invalidValue({ instancePath, keyword, message = '', params }: FastifySchemaValidationError): InvalidValue {
  // A JSON pointer as people write paths: /features/0/3 is features[0][3].
  const path = instancePath
    .slice(1)
    .split('/')
    .filter(part => part !== '')
    .map(part => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    .reduce(
      (before, part) => (/^\d+$/.test(part) ? `${before}[${part}]` : before === '' ? part : `${before}.${part}`),
      '',
    )
  if (keyword === 'enum') return { path, message: `takes one of ${[params.allowedValues].flat().join(', ')}` }
  if (keyword !== 'additionalProperties') return { path, message }
  const name = String(params.additionalProperty).slice(0, 64)
  return { path: path === '' ? name : `${path}.${name}`, message: 'is not known here' }
}

export function problemOf(fault: Fault, requestId: string): Problem {
  return {
    type: fault.type ?? 'about:blank',
    title: fault.type === QUOTA_EXCEEDED ? 'Quota exceeded' : (STATUS_CODES[fault.status] ?? 'Error'),
    status: fault.status,
    detail: fault.detail,
    instance: `urn:uuid:${requestId}`,
    code: fault.code,
    ...fault.members,
    ...(fault.retryAfterMs === undefined ? {} : { retryAfter: wholeSeconds(fault.retryAfterMs) }),
  }
}

const DAY_MS = 86_400_000

/** The nearest 00:00 UTC, in ISO 8601. Periods end then by the clock of the store, which may differ from this one. */
const nearestMidnight = (ms: number): string => new Date(Math.round(ms / DAY_MS) * DAY_MS).toISOString()

const wholeSeconds = (ms: number): number => Math.max(1, Math.ceil(ms / 1000))

/** The headers of a fault, which are the same in every form of its body. */
export function faultHeaders({ headers, retryAfterMs }: Fault): Readonly<Record<string, string | number>> {
  const own = { ...headers, 'cache-control': 'no-store' }
  if (retryAfterMs === undefined) return own
  // The second for clients that read it: some wait a whole second where a few milliseconds are enough.
  return {
    ...own,
    'retry-after': wholeSeconds(retryAfterMs),
    'retry-after-ms': Math.max(1, Math.ceil(retryAfterMs)),
  }
}

/** Sets the status and headers of a fault. */
export function setFault(fault: Fault, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  request.refusedAs = fault.code
  return reply.code(fault.status).headers(faultHeaders(fault))
}

export function sendFault(fault: Fault, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  return (
    setFault(fault, request, reply)
      .header('content-type', MEDIA_TYPE)
      // As bytes: to a text Fastify would add a charset, which this media type does not have.
      .send(Buffer.from(JSON.stringify(problemOf(fault, request.id))))
  )
}

/** The error handler of the service. */
export function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const fault = faultOf(error, request.server.overloadStatus)
  if (fault.status === 500) request.log.error({ err: error }, 'request failed')
  return sendFault(fault, request, reply)
}
