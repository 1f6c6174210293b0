/** Which limited route a URL is, without the router: only for URLs in their plain spelling. Others go the long way. */

export interface RouteMatch {
  /** As it was declared, `/v1/models/:name/predict`. */
  readonly route: string
  readonly params: Readonly<Record<string, string>>
}

/** A name that every router takes as it is, no longer than Fastify's own limit. */
const PLAIN = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/

export class RouteTable {
  readonly #routes: { readonly route: string; readonly parts: readonly string[] }[] = []

  add(route: string): void {
    this.#routes.push({ route, parts: route.split('/') })
  }

  match(url: string): RouteMatch | undefined {
    const given = url.split('/')
    for (const { route, parts } of this.#routes) {
      if (parts.length !== given.length) continue
      const params: Record<string, string> = {}
      const fits = parts.every((part, index) => {
        const text = given[index] as string
        if (!part.startsWith(':')) return part === text
        params[part.slice(1)] = text
        return PLAIN.test(text)
      })
      if (fits) return { route, params }
    }
    return undefined
  }
}
