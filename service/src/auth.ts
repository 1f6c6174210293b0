/** Who asks: the caller whose quota a request counts against, and the holder of the admin token. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { isIP } from 'node:net'
import type { FastifyRequest } from 'fastify'
import { normalizeIP } from 'ml-api-rate-limiter'
import { Refusal } from './problem.js'

export interface Caller {
  /** Partition key of the caller's quota. */
  readonly key: string
  readonly plan: 'anonymous'
}

/**
 * The client address, IPv6 by its /64. No keys are known to this service, and one that is not known must not open a
 * fresh quota: what a caller sends as a key changes nothing.
 */
export function callerOf(request: FastifyRequest): Caller {
  return { key: `ip:${normalizeIP(addressOf(request))}`, plan: 'anonymous' }
}

/** What a trusted proxy says of the client, unless it is no address; then the proxy's own. */
function addressOf(request: FastifyRequest): string {
  return isIP(request.ip) === 0 ? (request.socket.remoteAddress ?? '') : request.ip
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()

/** A check for the admin token that takes the same time for every wrong one. Throws a 401. */
export function adminOnly(token: string): (request: FastifyRequest) => Promise<void> {
  const expected = digest(token)
  return async ({ headers }) => {
    const [, given] = /^bearer +(\S+)\s*$/i.exec(headers.authorization ?? '') ?? []
    if (given !== undefined && timingSafeEqual(digest(given), expected)) return
    throw new Refusal({
      status: 401,
      code: 'UNAUTHORIZED',
      detail: 'this needs the admin token, as authorization: Bearer <token>',
      headers: { 'www-authenticate': 'Bearer' },
    })
  }
}
