/** When a request came: read once, and by all that count from it. */
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

declare module 'fastify' {
  interface FastifyRequest {
    /** `performance.now()` when its headers had been read. */
    arrivedAt: number
  }
}

/** On the socket itself, as a weak map would cost more. */
const emptySince = Symbol('ml-api-rate-limiter.empty-since')

interface NotedSocket extends Socket {
  [emptySince]?: number | undefined
}

/**
 * When a connection was last seen empty, for the request that its parser is about to get: it may have waited since then.
 * `performance.now()`.
 */
export function noteEmpty(socket: Socket, at: number | undefined): void {
  ;(socket as NotedSocket)[emptySince] = at
}

/** Milliseconds that a request may have waited, unread, by `arrivedAt`; 0 where its connection is always read. */
export const unreadMs = (socket: Socket, arrivedAt: number): number =>
  arrivedAt - ((socket as NotedSocket)[emptySince] ?? arrivedAt)

/** Notes it for every request of the routes that are made from here on. Does nothing where that is done already. */
export function noteArrivals(app: FastifyInstance): void {
  if (app.hasRequestDecorator('arrivedAt')) return
  app.decorateRequest('arrivedAt', 0)
  app.addHook('onRequest', (request, _reply, done) => {
    request.arrivedAt = performance.now()
    done()
  })
}
