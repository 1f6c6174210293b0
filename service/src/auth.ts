/** Who asks: an address, an API key, or the holder of the admin token. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { isIP, type Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import { normalizeIP } from 'ml-api-rate-limiter'
import { Refusal } from './http/problem.js'

/** What requests over one connection have in common, mostly. On the socket itself, as a weak map would cost more. */
const addressSeen = Symbol('ml-api-rate-limiter.address')

interface SeenSocket extends Socket {
  [addressSeen]?: { readonly ip: string; readonly key: string }
}

/** Partition key of a caller without a key: its address, IPv6 by its /64. */
export function addressKey(request: FastifyRequest): string {
  const socket = request.raw.socket as SeenSocket
  const { ip } = request
  const seen = socket[addressSeen]
  if (seen !== undefined && seen.ip === ip) return seen.key
  const key = keyOfAddress(addressOf(request))
  socket[addressSeen] = { ip, key }
  return key
}

/**
 * SHA-256, in hex, of the API key that a request carries, as `x-api-key` or else as `authorization: Bearer`; undefined
 * where it carries none. The key itself goes no further.
 */
export function keyDigestOf({ headers }: FastifyRequest): string | undefined {
  const [, bearer] = /^bearer +(\S+)\s*$/i.exec(headers.authorization ?? '') ?? []
  const given = headers['x-api-key'] ?? bearer
  return given === undefined ? undefined : digestOfKey(String(given))
}

/** SHA-256 of an API key, in hex, as the limits file has it. */
export const digestOfKey = (key: string): string => digest(key).toString('hex')

/** Partition keys: an address, as it stands in one of its spellings, or an API key by its digest. */
export const keyOfAddress = (address: string): string => `ip:${normalizeIP(address)}`
export const keyOfDigest = (sha256: string): string => `key:${sha256}`

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
