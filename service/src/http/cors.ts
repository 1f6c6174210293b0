/** Browser apps of other origins: which may read the answers of the service, and which headers of them. */
import cors from '@fastify/cors'
import type { FastifyInstance, FastifyRequest } from 'fastify'

/** Headers of answers that a script may read besides those that it always may. */
const EXPOSED = [
  ...['ratelimit', 'ratelimit-policy', 'x-ratelimit-limit', 'x-ratelimit-remaining', 'x-ratelimit-reset'],
  // With `SDK_HEADERS`.
  ...['requests', 'rows', 'compute'].flatMap(unit =>
    ['limit', 'remaining', 'reset'].map(what => `x-ratelimit-${what}-${unit}`),
  ),
  ...['retry-after', 'retry-after-ms', 'server-timing', 'x-error-code', 'inference-header-content-length', 'etag'],
]

/** How long a browser remembers what a preflight was answered, in seconds. */
const MAX_AGE_SECONDS = 600

/** The fields of all answers while these origins are allowed, but for those to requests that name an origin of a list. */
export function corsHeaders(origins: readonly string[]): Readonly<Record<string, string>> {
  if (origins.length === 0) return {}
  return {
    vary: 'Origin',
    ...(origins.includes('*') ? { 'access-control-allow-origin': '*' } : {}),
    'access-control-expose-headers': EXPOSED.join(', '),
  }
}

/** The same for an answer to a request that is known as far as its header `origin`, if at all. */
export function corsHeadersFor(
  origins: readonly string[],
  origin: string | undefined,
): Readonly<Record<string, string>> {
  const named = origin !== undefined && !origins.includes('*') && origins.includes(origin)
  return { ...corsHeaders(origins), ...(named ? { 'access-control-allow-origin': origin } : {}) }
}

/** A preflight as the Fetch standard has it. Any other OPTIONS asks which methods a URL has. */
const isPreflight = ({ method, headers }: FastifyRequest): boolean =>
  method === 'OPTIONS' && headers.origin !== undefined && headers['access-control-request-method'] !== undefined

/**
 * Lets scripts of these origins, or of all with `*`, read the answers of routes that are made from here on. Preflights
 * are answered before any limit. `notFound` answers OPTIONS of unknown URLs.
 */
export async function allowOrigins(app: FastifyInstance, origins: readonly string[], notFound: () => never) {
  const origin = origins.includes('*') ? '*' : [...origins]
  const shared = { origin, exposedHeaders: EXPOSED, maxAge: MAX_AGE_SECONDS }
  const [answer, pass] = [true, false].map(preflight => ({ ...shared, preflight }))
  app.addHook('onRoute', route => {
    // The plugin's own route for OPTIONS of any URL. Its preflights are answered by now.
    if (route.url === '*' && route.method === 'OPTIONS') route.onRequest = notFound
  })
  await app.register(cors, {
    delegator: (request, callback) => callback(null, isPreflight(request) ? answer : pass),
  })
}
