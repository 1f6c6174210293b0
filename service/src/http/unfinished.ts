/** Requests that have not arrived when a server closes. From then on Node's server does not time them out any more. */
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import type { Malformed } from './malformed.js'

/** Milliseconds between two checks. */
const CHECK_MS = 500

/** What a connection was waiting for at the last checks: `request` is the newest whose headers have arrived. */
interface Wait {
  readonly request: unknown
  /** `performance.now()` */
  readonly since: number
}

/**
 * Watches the connections of a server, for the time after it has begun to close. Returns a function to call when that
 * begins: from then on, a request still has `headersTimeout` and `requestTimeout` to arrive, and then gets 408. Without
 * this, a single client that never finishes its request would hold up a stop.
 */
export function watchUnfinished(server: Server, malformed: Malformed): () => void {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  return () => {
    const waits = new WeakMap<Socket, Wait>()
    const check = () => {
      // Those whose answer had begun, as streams have, when it could no longer say that their connection ends with it.
      server.closeIdleConnections()
      const now = performance.now()
      for (const socket of sockets) {
        const request = malformed.newest(socket)
        const hasHeaders = request?.complete === false
        // Being answered: the app has its own time limit for that.
        if (!hasHeaders && malformed.isBusy(socket)) continue
        const last = waits.get(socket)
        const mostMs = hasHeaders ? server.requestTimeout : server.headersTimeout
        if (last === undefined || last.request !== request) waits.set(socket, { request, since: now })
        else if (now - last.since > mostMs) malformed.timedOut(socket)
      }
      // The server may be closed while it still has connections of further listeners.
      if (sockets.size === 0 && !server.listening) clearInterval(timer)
    }
    const timer = setInterval(check, CHECK_MS).unref()
    check()
  }
}
