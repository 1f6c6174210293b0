import { isDeepStrictEqual } from 'node:util'
import type { RouteOptions } from 'fastify'

/** Names routes: the same name in every replica, and never one name for routes that differ. */
export class RouteNames {
  /** Constraints of the routes that read alike. */
  readonly #constraints = new Map<string, object[]>()

  /** Methods, URL and constraints. GET and HEAD of a URL are one route. */
  nameOf(route: RouteOptions): (string | number)[] {
    const methods = [route.method].flat().map(method => (method === 'HEAD' ? 'GET' : method))
    const constraints: object = route.constraints ?? {}
    const name = [[...new Set(methods)].sort().join(','), urlOf(route), textOf(constraints)]
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
