/** What the service did not serve, it does not charge: nobody is refused twice for one overload. */
import type { FastifyInstance } from 'fastify'
import type { RequestRateLimit } from 'ml-api-rate-limiter'
import { BackendFailed, BackendUnavailable, DeadlineExceeded, Overloaded, Stopping } from '../inference/errors.js'

/** A refusal by the queue, by the deadline, or for want of anything to run on. */
function isShed(error: unknown): boolean {
  if (error instanceof BackendFailed) return false
  return [Overloaded, DeadlineExceeded, Stopping, BackendUnavailable].some(kind => error instanceof kind)
}

/** Gives all charges of such a request back before it is answered, so that the caller finds its quota whole. */
export function refundShed(app: FastifyInstance): void {
  app.addHook('onError', ({ caller, log }, _reply, error, done) => {
    // Most were refused before they were charged.
    if (caller === null || caller.charges.length === 0 || !isShed(error)) {
      done()
      return
    }
    void Promise.allSettled(caller.charges.map((charge: RequestRateLimit) => charge.refund())).then(given => {
      const failed = given.find(({ status }) => status === 'rejected')
      // The store is away; what was charged leaves with its window.
      if (failed !== undefined) log.debug({ err: (failed as PromiseRejectedResult).reason }, 'a charge stays')
      done()
    })
  })
}
