/** What is counted of a limited request once it was answered. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { UNKNOWN } from '../usage/entry.js'
import type { UsageMeter } from '../usage/usage-meter.js'

/**
 * For a hook on `onResponse`. A request whose caller has gone before it was answered is not counted. (Of a stream that has
 * begun to answer, its route counts what was answered.)
 */
export function countUse(usage: UsageMeter) {
  return (request: FastifyRequest, reply: FastifyReply, done: () => void): void => {
    const { caller, refusedAs, refusedHolder } = request
    if (reply.sent) {
      // Only a stream has begun with another status than that of its refusal.
      if (caller !== null) caller.countUse(refusedAs, reply.raw.statusCode < 400)
      else if (refusedAs === null) usage.served(refusedHolder ?? UNKNOWN, null, 0)
      else usage.refused(refusedHolder ?? UNKNOWN, null, refusedAs)
    }
    done()
  }
}
