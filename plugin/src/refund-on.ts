import type { FastifyReply, FastifyRequest } from 'fastify'
import { logFailure } from './callbacks.js'
import type { RefundOn } from './options/table.js'

/**
 * Asks `refundOn` once the whole response was sent, and gives the request its cost back where it says so. A client that
 * goes away earlier is not asked about, and its request counts: else it could have its work done and not pay for it.
 */
export function refundWhenSent(
  refundOn: RefundOn,
  refund: () => Promise<void>,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  const { raw } = reply
  // A response of HTTP/2 says `finish` also when its client has gone; its stream knows.
  const { stream } = raw as { stream?: { readonly rstCode: number } }
  const decide = async () => {
    if (stream !== undefined && (!raw.writableEnded || stream.rstCode !== 0)) return
    try {
      if (!(await refundOn(request, reply))) return
    } catch (error) {
      logFailure(request.log, 'refundOn', error)
      return
    }
    try {
      await refund()
    } catch (error) {
      request.log.error({ err: error }, 'the cost of a request could not be given back')
    }
  }
  if (raw.writableFinished) void decide()
  else raw.once('finish', decide)
}
