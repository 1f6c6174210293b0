/** What a request says of its caller: its address, an API key, or the admin token. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { BlockList, isIP, type Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
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
  const key = keyOfClient(ip, socket)
  socket[addressSeen] = { ip, key }
  return key
}

/** What a trusted proxy says of the client, unless it is no address; then the proxy's own. */
function keyOfClient(ip: string, { remoteAddress = '' }: Socket): string {
  const address = normalizeIP(ip)
  return isIP(address) === 0 ? keyOfAddress(remoteAddress) : `ip:${address}`
}

/**
 * The same as `addressKey` where there is no request. `forwardedFor`: its one header `x-forwarded-for`; `trusted`: see
 * `trustIn`.
 */
export function addressKeyOf(socket: Socket, forwardedFor: string | undefined, trusted: ReturnType<typeof trustIn>) {
  const peer = socket.remoteAddress ?? ''
  if (forwardedFor === undefined || trusted === false) return keyOfClient(peer, socket)
  // From the nearest on: the first that is not trusted is the client, or the last one.
  const hops = [...forwardedFor.split(',').map(hop => hop.trim()), peer].reverse()
  return keyOfClient(hops.find(hop => !trusted(hop)) ?? (hops.at(-1) as string), socket)
}

/**
 * For Fastify's `trustProxy`: whether an entry of `X-Forwarded-For` is one of these proxies. Some proxies write a port
 * behind each address, which Fastify's own check takes for no address.
 */
export function trustIn(proxies: readonly string[]): false | ((address: string) => boolean) {
  if (proxies.length === 0) return false
  const trusted = new BlockList()
  for (const proxy of proxies) {
    const [address = '', prefix] = proxy.split('/')
    const family = isIP(address) === 6 ? 'ipv6' : 'ipv4'
    trusted.addSubnet(address, prefix === undefined ? (family === 'ipv6' ? 128 : 32) : Number(prefix), family)
  }
  return given => {
    const address = normalizeIP(given, 128)
    if (isIP(address) === 6) return trusted.check(address, 'ipv6')
    return isIP(address) === 4 && (trusted.check(address) || trusted.check(`::ffff:${address}`, 'ipv6'))
  }
}

/**
 * The API key that a request carries in `x-api-key`, or else, with `bearerKeys`, as `authorization: Bearer`; undefined
 * where it carries none.
 */
export function keyTextOf({ headers }: { readonly headers: KeyHeaders }, bearerKeys: boolean): string | undefined {
  const given = headers['x-api-key'] ?? (bearerKeys ? bearerOf(headers.authorization) : undefined)
  return given === undefined ? undefined : String(given)
}

/** The headers that may carry an API key. */
interface KeyHeaders {
  readonly 'x-api-key'?: string | readonly string[] | undefined
  readonly authorization?: string | undefined
}

/** SHA-256 of an API key, in hex, as the limits file has it. */
export const digestOfKey = (key: string): string => digest(key).toString('hex')

/** Partition keys: an address, as it stands in one of its spellings, an API key by its digest or its id, or an owner. */
export const keyOfAddress = (address: string): string => `ip:${normalizeIP(address)}`
export const keyOfDigest = (sha256: string): string => `key:${sha256}`
export const keyOfId = (id: string, owner: string): string => `key:${id}/${keyOfOwner(owner)}`
export const keyOfOwner = (owner: string): string => `owner:${owner}`

/** The part of a partition key that chooses its slot in a Redis Cluster. An API key lies where its owner does. */
export const hashTagOf = (key: string): string => (key.startsWith('key:') ? key.slice(key.indexOf('/') + 1) : key)

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()

const bearerOf = (authorization = ''): string | undefined => /^bearer +(\S+)\s*$/i.exec(authorization)?.[1]

type Hook = (request: FastifyRequest, reply: FastifyReply) => Promise<void>

/**
 * A check for the admin token that takes the same time for every wrong one. Rejects with a 401, or with what `onWrong`
 * rejects with: it counts wrong tokens.
 */
export function adminOnly(token: string, onWrong: Hook): Hook {
  const expected = digest(token)
  return async (request, reply) => {
    const given = bearerOf(request.headers.authorization)
    if (given !== undefined && timingSafeEqual(digest(given), expected)) return
    await onWrong(request, reply)
    throw new Refusal({
      status: 401,
      code: 'UNAUTHORIZED',
      detail: 'this needs the admin token, as authorization: Bearer <token>',
      headers: { 'www-authenticate': 'Bearer' },
    })
  }
}
