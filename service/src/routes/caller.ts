/** What a request says of the one who waits for its answer: whether it still does, and for how long. */
import type { ServerResponse } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { badRequest, Refusal } from '../http/problem.js'
import type { Caller } from '../inference/types.js'
import { timeoutOf } from '../protection/urgency.js'

/**
 * Nobody waits once the answer was sent, or the connection is gone. It is asked, not told: an AbortController for each
 * request, with a listener, was a twentieth of what a prediction costs. (`request.signal` aborts as soon as the body was
 * read.)
 */
class Connected implements Caller {
  readonly #raw: ServerResponse

  constructor(raw: ServerResponse) {
    this.#raw = raw
  }

  get aborted(): boolean {
    return this.#raw.destroyed
  }
}

export const callerOfReply = ({ raw }: FastifyReply): Caller => new Connected(raw)

/**
 * Milliseconds that the caller gives with the header `x-request-timeout-ms`; Infinity where it says nothing. Throws
 * Refusal.
 */
export function timeoutAsked({ headers }: FastifyRequest): number {
  const timeoutMs = timeoutOf(headers)
  if (timeoutMs !== undefined) return timeoutMs
  const message = 'takes milliseconds, 1 or more'
  throw new Refusal(badRequest('INVALID_REQUEST', [{ path: 'headers.x-request-timeout-ms', message }]))
}
