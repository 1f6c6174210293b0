/** When a request came: read once, and by all that count from it. */
import type { FastifyInstance } from 'fastify'

declare module 'fastify' {
  interface FastifyRequest {
    /** `performance.now()` when its headers had been read. */
    arrivedAt: number
  }
}

/** Notes it for every request of the routes that are made from here on. Does nothing where that is done already. */
export function noteArrivals(app: FastifyInstance): void {
  if (app.hasRequestDecorator('arrivedAt')) return
  app.decorateRequest('arrivedAt', 0)
  app.addHook('onRequest', (request, _reply, done) => {
    request.arrivedAt = performance.now()
    done()
  })
}
