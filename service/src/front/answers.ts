/**
 * Refusals as bytes, made beforehand. Most of them are alike: what differs from one to the next is the id, the date and
 * the milliseconds to wait. The rest is made by the same code as the answers of the routes, and kept.
 */
import { randomUUID } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import type { Decision } from 'ml-api-rate-limiter'
import { type Fault, faultHeaders, faultOf, MEDIA_TYPE, type OverloadStatus, problemOf } from '../http/problem.js'
import type { Overloaded } from '../inference/errors.js'
import type { PlanLimiters } from '../protection/limits.js'
import { sdkHeaders } from '../protection/sdk-headers.js'
import { errorCodeField, V2_MEDIA_TYPE, v2ErrorOf } from '../routes/v2-error.js'

/** Answers that are kept; when there are more, all are made again. */
const MOST_KEPT = 1000

type Headers = Readonly<Record<string, string | number>>

/** An answer without what is its own. */
interface Prepared {
  readonly status: number
  readonly code: string
  readonly head: string
  readonly beforeId: string
  readonly afterId: string
}

/** As long as any id, and nothing that a message could hold. */
const ID_PLACE = '\u{f8ff}'.repeat(4)
const UUID_LENGTH = 36

/** A refusal: its status and code, and the whole answer. */
export interface Answer {
  readonly status: number
  readonly code: string
  readonly text: string
}

export class Answers {
  readonly #overloadStatus: OverloadStatus
  readonly #headers: Headers
  /** By plan, since two plans may have policies of one name. */
  readonly #denials = new WeakMap<PlanLimiters, Map<string, Prepared>>()
  readonly #overloads = new Map<string, Prepared>()
  #date = ''
  #dateSecond = -1

  readonly #hasSdkHeaders: boolean

  /** `headers`: fields of all answers. `hasSdkHeaders`: whether denials have those of OpenAI too. */
  constructor(overloadStatus: OverloadStatus, headers: Headers, hasSdkHeaders: boolean) {
    this.#hasSdkHeaders = hasSdkHeaders
    this.#overloadStatus = overloadStatus
    this.#headers = headers
  }

  /** To a request over its quota. */
  denied(limiters: PlanLimiters, denial: Decision, isV2: boolean): Answer {
    let kept = this.#denials.get(limiters)
    if (kept === undefined) {
      kept = new Map()
      this.#denials.set(limiters, kept)
    }
    let key = isV2 ? 'v2' : 'v1'
    for (const { remaining, reset } of denial.policies) key += `,${remaining}:${Math.ceil(reset / 1000)}`
    key += `,${Math.ceil(denial.retryAfterMs / 1000)},${denial.binding.name}`
    for (const name of denial.violated) key += `,${name}`
    const prepared = keptIn(kept, key, () => {
      const { error, headers } = limiters.requests.limiter.refusalOf(denial)
      const more = this.#hasSdkHeaders ? sdkHeaders([denial], limiters.plan.policies) : {}
      return preparedOf(faultOf(error), { ...this.#headers, ...headers, ...more }, isV2)
    })
    return this.#answer(prepared, denial.retryAfterMs)
  }

  /** To a request for which there is no room. */
  overloaded(error: Overloaded, isV2: boolean): Answer {
    const { message, retryAfterMs, served } = error
    const key = `${isV2 ? 'v2' : 'v1'},${served},${Math.ceil(retryAfterMs / 1000)},${message}`
    const prepared = keptIn(this.#overloads, key, () =>
      preparedOf(faultOf(error, this.#overloadStatus), this.#headers, isV2),
    )
    return this.#answer(prepared, retryAfterMs)
  }

  #answer({ status, code, head, beforeId, afterId }: Prepared, retryAfterMs: number): Answer {
    const ms = Math.max(1, Math.ceil(retryAfterMs))
    const id = afterId === '' ? '' : randomUUID()
    const text = `${head}retry-after-ms: ${ms}\r\nDate: ${this.#now()}\r\n\r\n${beforeId}${id}${afterId}`
    return { status, code, text }
  }

  #now(): string {
    const now = Date.now()
    const second = Math.floor(now / 1000)
    if (second !== this.#dateSecond) {
      this.#dateSecond = second
      this.#date = new Date(now).toUTCString()
    }
    return this.#date
  }
}

function keptIn(kept: Map<string, Prepared>, key: string, make: () => Prepared): Prepared {
  let prepared = kept.get(key)
  if (prepared === undefined) {
    if (kept.size >= MOST_KEPT) kept.clear()
    prepared = make()
    kept.set(key, prepared)
  }
  return prepared
}

function preparedOf(fault: Fault, own: Headers, isV2: boolean): Prepared {
  const { status, code } = fault
  const body = isV2 ? v2ErrorOf(fault) : JSON.stringify(problemOf(fault, ID_PLACE))
  const [beforeId = '', afterId = ''] = body.split(ID_PLACE)
  const length = Buffer.byteLength(beforeId) + (afterId === '' ? 0 : UUID_LENGTH + Buffer.byteLength(afterId))
  const { 'retry-after-ms': _differs, ...headers }: Headers = {
    ...own,
    ...faultHeaders(fault),
    'content-type': isV2 ? V2_MEDIA_TYPE : MEDIA_TYPE,
    ...(isV2 ? { [errorCodeField]: code } : {}),
    'content-length': length,
  }
  const fields = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${fields.join('')}`
  return { status, code, head, beforeId, afterId }
}
