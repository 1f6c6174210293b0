/** Whether the caller of a request still waits for its answer. */
import type { ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import type { Caller } from '../inference/types.js'

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
