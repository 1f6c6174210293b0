/**
 * A second listener for those who watch and steer the service: probes, metrics and admin. It has connections of its own,
 * so that it can be reached while clients hold all of the main one's, and it can be kept from strangers by its port.
 */
import { randomUUID } from 'node:crypto'
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { FurtherListeners, urlOf } from './http/listeners.js'
import type { Malformed } from './http/malformed.js'
import { MEDIA_TYPE, problemOf } from './http/problem.js'
import { SECURITY_HEADERS } from './http/security-headers.js'
import { watchUnfinished } from './http/unfinished.js'

/** What it answers: everything that is never limited and tells of the process, or steers it. */
const SERVED = /^\/(?:v2\/)?health\/|^\/metrics(?:[/?]|$)|^\/v1\/admin\//

export interface Ops {
  /** Resolves with the URL of the first address, once it listens on all. */
  listen(addresses: readonly string[], port: number): Promise<string>
}

/** Routes go on in the app as they are there; it ends with the app. */
export function openOps(app: FastifyInstance, malformed: Malformed): Ops {
  const { headersTimeout, requestTimeout, keepAliveTimeout } = app.server as Server
  const options = { headersTimeout, requestTimeout, keepAliveTimeout, connectionsCheckingInterval: 500 }
  const server = createServer({ ...options, maxHeaderSize: 8192, requireHostHeader: false }, (request, response) => {
    if (SERVED.test(request.url ?? '')) app.routing(request, response)
    else sendUnknown(response)
  })
  server.on('clientError', malformed.handle)
  const closes = watchUnfinished(server, malformed)
  const further = new FurtherListeners(server)
  // As long as the app answers, so does this: it says that the app is stopping.
  app.addHook('onClose', () => {
    if (!server.listening) return undefined
    closes()
    const closed = new Promise<void>(resolve => server.close(() => resolve()))
    server.closeIdleConnections()
    return Promise.all([closed, further.ended()]).then(() => {})
  })
  return {
    listen: async ([host, ...others], port) => {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen(port, host, () => {
          server.off('error', reject)
          resolve()
        })
      })
      await further.listen(others, app.log)
      const { address, port: actual } = server.address() as AddressInfo
      return urlOf(address, actual)
    },
  }
}

function sendUnknown(response: ServerResponse): void {
  const detail = 'this port answers /health, /v2/health, /metrics and /v1/admin, and nothing else'
  const body = JSON.stringify(problemOf({ status: 404, code: 'NOT_FOUND', detail }, randomUUID()))
  const headers = { ...SECURITY_HEADERS, 'content-type': MEDIA_TYPE, 'content-length': Buffer.byteLength(body) }
  response.writeHead(404, headers).end(body)
}
