import { createHash } from 'node:crypto'
import { isIP, isIPv6 } from 'node:net'
import { Address6 } from 'ip-address'

export const DEFAULT_IPV6_SUBNET = 64

/**
 * One spelling for one client: IPv4 as it is, IPv4 mapped into IPv6 as IPv4, IPv6 cut to its subnet and without
 * a zone. What is not an address comes back in lower case.
 *
 * `ipv6Subnet`: prefix length, 0 to 128; one site usually holds a whole /64.
 */
export function normalizeIP(ip: string, ipv6Subnet: number = DEFAULT_IPV6_SUBNET): string {
  const zone = ip.indexOf('%')
  const address = zone > 0 && isIP(ip) === 6 ? ip.slice(0, zone) : ip
  if (!isIPv6(address)) return address.toLowerCase()
  const parsed = new Address6(address)
  if (parsed.isMapped4()) return parsed.to4().correctForm()
  if (ipv6Subnet >= 128) return parsed.correctForm()
  return new Address6(`${address}/${ipv6Subnet}`).startAddress().correctForm()
}

/** Keys made of these, and no longer than this, are readable in the store; all others are hashed. */
const PLAIN_KEY = /^[A-Za-z0-9._:@/|+-]{1,64}$/

/**
 * A partition key as it stands in the store. A hashed one begins with `#`, which no plain one has, so two keys never
 * meet; neither has a brace, so a key cannot choose its slot in a cluster.
 */
export function storedKey(key: string): string {
  return PLAIN_KEY.test(key) ? key : `#${digest(key, 22)}`
}

/** The first `length` characters of the SHA-256 in base64url; 22 hold 132 bits. */
export function digest(text: string, length: number): string {
  return createHash('sha256').update(text).digest('base64url').slice(0, length)
}

/** A user's name space as it stands in front of the key: without braces, which belong to the key alone. */
export function storedNameSpace(nameSpace: string): string {
  return nameSpace.replace(/[{}%]/g, character => `%${character.charCodeAt(0).toString(16)}`)
}
