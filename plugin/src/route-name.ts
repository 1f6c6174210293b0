import { isDeepStrictEqual } from 'node:util'
import type { RouteOptions } from 'fastify'

/** A route that answers GET or HEAD. */
interface Readable {
  readonly constraints: object
  readonly name: Name
  /** It answers HEAD alone. */
  readonly isHead: boolean
}

/** Methods, URL, constraints, and a number that tells constraints apart that read alike. */
type Name = readonly (string | number)[]

/** Names routes: the same name in every replica, and never one name for routes that differ. */
export class RouteNames {
  /** Constraints of the routes that read alike. */
  readonly #constraints = new Map<string, object[]>()
  /** By URL and constraints as text. */
  readonly #readable = new Map<string, Readable[]>()

  /** GET and HEAD of a URL are one route: the one that is declared first names it, whatever else it answers. */
  nameOf(route: RouteOptions): Name {
    const methods = [route.method].flat()
    const [url, constraints] = [urlOf(route), route.constraints ?? {}]
    const place = [url, textOf(constraints)] as const
    const isHead = methods.every(method => method === 'HEAD')
    if (!isHead && !methods.includes('GET')) return this.#name(methods, place, constraints)
    const id = JSON.stringify(place)
    const readable = this.#readable.get(id) ?? []
    this.#readable.set(id, readable)
    const twin = readable.find(known => known.isHead !== isHead && isDeepStrictEqual(known.constraints, constraints))
    const name = twin?.name ?? this.#name(methods, place, constraints)
    readable.push({ constraints, name, isHead })
    return name
  }

  #name(methods: readonly string[], place: readonly [string, string], constraints: object): Name {
    const read = new Set(methods.map(method => (method === 'HEAD' ? 'GET' : method)))
    const name = [[...read].sort().join(','), ...place]
    const id = JSON.stringify(name)
    const alike = this.#constraints.get(id) ?? []
    this.#constraints.set(id, alike)
    let number = alike.findIndex(known => isDeepStrictEqual(known, constraints))
    if (number === -1) number = alike.push(constraints) - 1
    return [...name, number]
  }
}

/** Fastify declares `/` in a scope with a prefix twice, with and without the slash, and the HEAD of each by itself. */
export function urlOf(route: RouteOptions): string {
  const { routePath, prefix } = route as { readonly routePath?: string; readonly prefix?: string }
  return routePath === '/' && prefix ? prefix : route.url
}

/** Constraints as text, in any order of their names. What reads alike may still differ: functions, symbols as names. */
function textOf(constraints: object): string {
  const seen = new Set<unknown>()
  return JSON.stringify(constraints, (_name, value: unknown) => {
    if (typeof value === 'number') return Number.isFinite(value) ? value : String(value)
    if (typeof value !== 'object')
      return typeof value === 'string' || typeof value === 'boolean' ? value : String(value)
    if (value === null || seen.has(value)) return null
    seen.add(value)
    if (value instanceof RegExp) return String(value)
    if (value instanceof Map || value instanceof Set) return [...value]
    if (Array.isArray(value)) return value
    return Object.fromEntries(Object.entries(value).sort(([one], [two]) => (one < two ? -1 : 1)))
  })
}
