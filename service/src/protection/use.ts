/** What is counted of a limited request once it was answered. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { UNKNOWN } from '../usage/entry.js'
import type { UsageMeter } from '../usage/usage-meter.js'

/** For a hook on `onResponse`. A request whose caller has gone before it was answered is not counted. */
export function countUse(usage: UsageMeter) {
  return (request: FastifyRequest, reply: FastifyReply, done: () => void): void => {
    const { caller, refusedAs, refusedHolder } = request
    if (reply.sent) {
      const holder = caller?.identity.holder ?? refusedHolder ?? UNKNOWN
      const model = caller?.model ?? null
      const rows = caller?.servedRows ?? 0
      if (refusedAs === null) usage.served(holder, model, rows)
      // A stream that had begun answered some rows before it was refused.
      else usage.refused(holder, model, refusedAs, reply.raw.statusCode < 400 ? rows : 0)
    }
    done()
  }
}
