import { isIPv4 } from 'node:net'
import { InvalidOption } from './errors.js'

export const DEFAULT_IPV6_SUBNET = 64

/** What stands before an IPv4 address that is written as IPv6. */
const MAPPED = '::ffff:'

/**
 * One spelling for one client. IPv4 stays as it is, IPv4 mapped into IPv6 becomes IPv4, and IPv6 is cut to its subnet
 * and spelt as RFC 5952 recommends, without a zone. A port is left out: `192.0.2.1:4711`, `[2001:db8::1]:4711`,
 * `::ffff:192.0.2.1:4711`. What is not an address comes back in lower case.
 *
 * `ipv6Subnet`: prefix length, 0 to 128; one site usually holds a whole /64. Throws InvalidOption for any other.
 */
export function normalizeIP(ip: string, ipv6Subnet: number = DEFAULT_IPV6_SUBNET): string {
  if (!(ipv6Subnet >= 0 && ipv6Subnet <= 128)) {
    throw new InvalidOption('ipv6Subnet', String(ipv6Subnet), 'a prefix length, 0 to 128')
  }
  const colon = ip.indexOf(':')
  // IPv4, most of the time.
  if (colon === -1) return ip.toLowerCase()
  if (ip.startsWith(MAPPED) && isIPv4(ip.slice(MAPPED.length))) return ip.slice(MAPPED.length)
  if (ip.indexOf(':', colon + 1) === -1) {
    const host = ip.slice(0, colon)
    return isIPv4(host) && isPort(ip.slice(colon + 1)) ? host : ip.toLowerCase()
  }
  const known = recent.get(ip)
  if (known?.ipv6Subnet === ipv6Subnet) return known.spelt
  const spelt = spell(ip, ipv6Subnet)
  if (ip.length <= LONGEST) {
    if (recent.size === MOST_RECENT) recent.clear()
    // As a string of its own: a part of a header would keep the whole header in memory.
    recent.set(` ${ip}`.slice(1), { ipv6Subnet, spelt })
  }
  return spelt
}

/** IPv6 addresses seen lately: clients come back, and a look costs a fraction of reading one. Forgotten when it is full. */
const recent = new Map<string, { readonly ipv6Subnet: number; readonly spelt: string }>()
const MOST_RECENT = 1000
/** Characters of an IPv6 address with brackets, port and a usual zone. */
const LONGEST = 64

function spell(ip: string, ipv6Subnet: number): string {
  const groups = parseIPv6(bareIPv6(ip))
  if (groups === undefined) return ip.toLowerCase()
  const ipv4 = mappedIPv4(groups)
  if (ipv4 !== undefined) return ipv4
  cut(groups, Math.trunc(ipv6Subnet))
  return formatIPv6(groups)
}

/** Behind an IPv6 address that ends as IPv4 is written: nothing but a port can follow there without brackets. */
const PORT_BEHIND_DOTS = /(?<=\.\d+):\d{1,5}$/

/** Without brackets, port and zone, where they are well-formed; else as it was given. */
function bareIPv6(ip: string): string {
  let address = ip.replace(PORT_BEHIND_DOTS, '')
  if (ip.charCodeAt(0) === 0x5b) {
    const end = ip.lastIndexOf(']')
    if (end === -1 || (end !== ip.length - 1 && !(ip[end + 1] === ':' && isPort(ip.slice(end + 2))))) return ip
    address = ip.slice(1, end)
  }
  const zone = address.indexOf('%')
  return zone !== -1 && /^[-.:0-9A-Za-z]+$/.test(address.slice(zone + 1)) ? address.slice(0, zone) : address
}

function isPort(text: string): boolean {
  return /^\d{1,5}$/.test(text)
}

/** The eight groups of an IPv6 address; undefined for anything else. */
export function parseIPv6(text: string): number[] | undefined {
  const groups = [0, 0, 0, 0, 0, 0, 0, 0]
  const { length } = text
  let count = 0
  /** Groups before the `::`; -1 before it was seen. */
  let gap = -1
  let at = 0
  if (text.startsWith('::')) {
    gap = 0
    at = 2
  }
  while (at < length) {
    const start = at
    let group = 0
    let digit = hexDigit(text.charCodeAt(at))
    while (digit !== -1) {
      group = group * 16 + digit
      digit = ++at < length ? hexDigit(text.charCodeAt(at)) : -1
    }
    if (at < length && text.charCodeAt(at) !== 0x3a) {
      // The last 32 bits may be written as IPv4.
      const ipv4 = text.slice(start)
      if (count > 6 || !isIPv4(ipv4)) return undefined
      const [a, b, c, d] = ipv4.split('.').map(Number) as [number, number, number, number]
      groups[count++] = a * 256 + b
      groups[count++] = c * 256 + d
      break
    }
    if (at === start || at - start > 4 || count === 8) return undefined
    groups[count++] = group
    if (at === length) break
    if (++at === length) return undefined
    if (text.charCodeAt(at) === 0x3a) {
      if (gap !== -1) return undefined
      gap = count
      at++
    }
  }
  if (gap === -1) return count === 8 ? groups : undefined
  if (count === 8) return undefined
  for (let to = 7, from = count - 1; to >= gap; to--, from--) groups[to] = from >= gap ? (groups[from] as number) : 0
  return groups
}

/** The value of a hexadecimal digit by its character code; -1 for any other character. */
function hexDigit(code: number): number {
  if (code >= 0x30 && code <= 0x39) return code - 0x30
  const lower = code | 0x20
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : -1
}

/** The IPv4 address that these groups stand for (`::ffff:0:0/96`), if they do. */
export function mappedIPv4(groups: readonly number[]): string | undefined {
  if (
    groups[5] !== 0xffff ||
    groups[0] !== 0 ||
    groups[1] !== 0 ||
    groups[2] !== 0 ||
    groups[3] !== 0 ||
    groups[4] !== 0
  )
    return undefined
  const [high, low] = [groups[6] as number, groups[7] as number]
  return `${high >> 8}.${high & 0xff}.${low >> 8}.${low & 0xff}`
}

/** Makes zeros of all bits behind the prefix. */
function cut(groups: number[], subnet: number): void {
  const last = subnet >> 4
  if (last === 8) return
  groups[last] = (groups[last] as number) & (0xffff << (16 - (subnet & 15)))
  groups.fill(0, last + 1)
}

/** As RFC 5952, section 4 spells it: the longest run of zeros, from two groups on, is `::`. */
function formatIPv6(groups: readonly number[]): string {
  let zeros = 8
  let length = 1
  let run = 0
  for (let index = 0; index < 8; index++) {
    run = groups[index] === 0 ? run + 1 : 0
    if (run > length) {
      length = run
      zeros = index + 1 - run
    }
  }
  let text = ''
  for (let index = 0; index < 8; index++) {
    if (index === zeros) {
      text += '::'
      index += length - 1
    } else {
      if (index !== 0 && index !== zeros + length) text += ':'
      text += (groups[index] as number).toString(16)
    }
  }
  return text
}
