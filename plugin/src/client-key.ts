import type { FastifyRequest } from 'fastify'
import { normalizeIP } from './address.js'

/** Servers that have logged the warning below. */
const warned = new WeakSet<object>()

/**
 * The client's address as a partition key. It is empty where there is none: once the client has gone and, unless a
 * proxy names the client, on a Unix socket. There all clients share one count, which is logged once for each server.
 */
export function clientKey(request: FastifyRequest, ipv6Subnet: number): string {
  const ip = request.ip as string | undefined
  if (ip) return normalizeIP(ip, ipv6Subnet)
  const { server } = request.server
  if (!request.socket.destroyed && !warned.has(server)) {
    warned.add(server)
    request.log.warn(
      'requests have no client address, as on a Unix socket, and share one rate limit: set trustProxy or keyGenerator',
    )
  }
  return ''
}
