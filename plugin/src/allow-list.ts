import { BlockList, isIPv4, isIPv6 } from 'node:net'
import { mappedIPv4, normalizeIP, parseIPv6 } from './address.js'

type Family = 'ipv4' | 'ipv6'
interface Range {
  readonly address: string
  readonly prefix: number
  readonly family: Family
}

/** Clients that are not limited: by address, by range of addresses and, where the key is not the address, by key. */
export class AllowList {
  readonly #keys: ReadonlySet<string>
  readonly #addresses = new Set<string>()
  /** Apart, because a BlockList takes every IPv4 address for a part of `::/0`. */
  readonly #ranges: Partial<Record<Family, BlockList>> = {}

  /** `byKey`: keys are something else than addresses, so that each entry is a key too. See `isAddressOrRange`. */
  constructor(entries: readonly string[], byKey: boolean) {
    this.#keys = new Set(byKey ? entries : [])
    for (const entry of entries) {
      const range = parseRange(entry)
      if (range !== undefined) {
        this.#ranges[range.family] ??= new BlockList()
        this.#ranges[range.family]?.addSubnet(range.address, range.prefix, range.family)
      } else if (familyOf(whole(entry)) !== undefined) {
        this.#addresses.add(whole(entry))
      }
    }
  }

  /** `ip`: the client's address, in any spelling, where it has one; never cut to its subnet. */
  has(ip: string | undefined, key: string | number): boolean {
    if (this.#keys.has(String(key))) return true
    if (ip === undefined) return false
    const address = whole(ip)
    if (this.#addresses.has(address)) return true
    const family = this.#ranges.ipv4 || this.#ranges.ipv6 ? familyOf(address) : undefined
    return family !== undefined && this.#ranges[family]?.check(address, family) === true
  }
}

/** Whether a text is an IP address, or a range of them in CIDR notation: `10.0.0.0/8`, `2001:db8::/32`. */
export function isAddressOrRange(entry: string): boolean {
  return familyOf(whole(entry)) !== undefined || parseRange(entry) !== undefined
}

/** A range of IPv4 addresses that are mapped into IPv6 is one of IPv4 addresses. */
function parseRange(entry: string): Range | undefined {
  const [, address = '', digits = ''] = /^([^/%]+)\/(\d{1,3})$/.exec(entry) ?? []
  const prefix = Number(digits)
  if (isIPv4(address)) return prefix <= 32 ? { address, prefix, family: 'ipv4' } : undefined
  if (!isIPv6(address) || prefix > 128) return undefined
  const ipv4 = mappedIPv4(parseIPv6(address) as number[])
  if (ipv4 !== undefined && prefix >= 96) return { address: ipv4, prefix: prefix - 96, family: 'ipv4' }
  return { address, prefix, family: 'ipv6' }
}

function whole(ip: string): string {
  return normalizeIP(ip, 128)
}

function familyOf(address: string): Family | undefined {
  if (isIPv4(address)) return 'ipv4'
  return isIPv6(address) ? 'ipv6' : undefined
}
