/** `REDIS_URL` in all its forms. Pure. */
import { isIPv6 } from 'node:net'

/** Where Redis is, and how it is spoken to. */
export interface RedisTarget {
  /** `single`: one server, which may turn out to be a node of a cluster. `sentinel`: the hosts are Sentinels. */
  readonly kind: 'single' | 'cluster' | 'sentinel'
  /** One or more. */
  readonly hosts: readonly RedisHost[]
  readonly tls: boolean
  readonly username?: string | undefined
  readonly password?: string | undefined
  readonly database: number
  /** Of Sentinels: the name of the primary that they watch. */
  readonly primary?: string | undefined
  readonly sentinelUsername?: string | undefined
  readonly sentinelPassword?: string | undefined
  /** 4 or 6: the kind of address that host names are resolved to. */
  readonly family?: number | undefined
}

export interface RedisHost {
  readonly host: string
  readonly port: number
}

/** Scheme · user and password · hosts · path · parameters. */
const ENTRY = /^(rediss?)(?:\+(cluster|sentinel))?:\/\/(?:([^/?#]*)@)?([^@/?#]+)(?:\/([^?#]*))?(?:\?([^#]*))?$/

/**
 * Reads
 *
 *   redis://[user:password@]host[:port][/database]           one server
 *   redis://host[:port],host[:port]…                         nodes of a cluster; `redis://` may stand before each
 *   redis+cluster://[user:password@]host[:port]              the one endpoint of a cluster
 *   redis+sentinel://[user:password@]host[:port],…/name[/database]   Sentinels that watch a primary of that name
 *
 * each with `rediss` for TLS, and with parameters such as `?family=6`. Undefined for anything else.
 */
export function parseRedisUrl(text: string): RedisTarget | undefined {
  const targets = text
    .trim()
    .split(/,\s*(?=rediss?[+:])/)
    .map(parseEntry)
  const [first] = targets
  if (first === undefined) return undefined
  if (targets.length === 1) return first
  const alike = targets.every(
    each =>
      each !== undefined &&
      each.tls === first.tls &&
      each.database === first.database &&
      each.primary === first.primary &&
      (each.kind === 'sentinel') === (first.kind === 'sentinel'),
  )
  if (!alike || (first.kind !== 'sentinel' && first.database !== 0)) return undefined
  const hosts = targets.flatMap(each => (each as RedisTarget).hosts)
  return { ...first, kind: first.kind === 'sentinel' ? 'sentinel' : 'cluster', hosts }
}

function parseEntry(text: string): RedisTarget | undefined {
  const [, protocol, form, user, places = '', path = '', query] = ENTRY.exec(text) ?? []
  if (protocol === undefined) return undefined
  const list = places.split(',').map(place => place.trim())
  const kind = (form as 'cluster' | 'sentinel' | undefined) ?? (list.length > 1 ? 'cluster' : 'single')
  const hosts = list.map(place => parseHost(place, kind === 'sentinel' ? 26_379 : 6379))
  const [primary, number] = kind === 'sentinel' ? path.split(/\/(?=[^/]*$)/) : [undefined, path]
  const database = /^\d{0,9}$/.test(number ?? '') ? Number(number ?? 0) : Number.NaN
  const credentials = parseUser(user)
  const more = parseQuery(query, kind)
  const isWhole =
    hosts.every(host => host !== undefined) &&
    (kind !== 'cluster' || database === 0) &&
    !Number.isNaN(database) &&
    primary !== '' &&
    credentials !== undefined &&
    more !== undefined
  if (!isWhole) return undefined
  const name = primary === undefined ? undefined : decoded(primary)
  if (primary !== undefined && name === undefined) return undefined
  return {
    kind,
    hosts: hosts as RedisHost[],
    tls: protocol === 'rediss',
    database,
    ...credentials,
    ...(name === undefined ? {} : { primary: name }),
    ...more,
  }
}

function parseHost(text: string, defaultPort: number): RedisHost | undefined {
  const [, name = '', address = '', digits] = /^(?:([\w.-]+)|\[([^\]]+)\])(?::(\d{1,5}))?$/.exec(text) ?? []
  const port = digits === undefined ? defaultPort : Number(digits)
  if ((name === '' && !isIPv6(address)) || port < 1 || port > 65_535) return undefined
  return { host: name || address, port }
}

function parseUser(text: string | undefined): Pick<RedisTarget, 'username' | 'password'> | undefined {
  if (text === undefined || text === '') return {}
  const colon = text.indexOf(':')
  const username = decoded(colon === -1 ? text : text.slice(0, colon))
  const password = decoded(colon === -1 ? '' : text.slice(colon + 1))
  if (username === undefined || password === undefined) return undefined
  return { ...(username === '' ? {} : { username }), ...(password === '' ? {} : { password }) }
}

function parseQuery(text: string | undefined, kind: RedisTarget['kind']): Partial<RedisTarget> | undefined {
  const more: Record<string, string | number> = {}
  for (const [name, value] of new URLSearchParams(text ?? '')) {
    if (name === 'family' && /^[46]$/.test(value)) more.family = Number(value)
    else if (kind === 'sentinel' && /^sentinel(?:Username|Password)$/.test(name)) more[name] = value
    else return undefined
  }
  return more
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}
