/** Requests by route, method and class of status, counted once the answer is out. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { Overloaded } from '../inference/errors.js'
import { classOf, type Metrics } from './metrics.js'
import type { Count, Distribution } from './series.js'

/** What all URLs without a route have in common, so that nobody makes up series. */
const UNKNOWN = 'unknown'

/** Methods whose counters appear with their first request. Nobody waits for a fault of theirs. */
const UNCOUNTED = ['HEAD', 'OPTIONS']

/**
 * Counts requests of the routes that are made from here on, and of unknown URLs. `errors`: status and code of all that
 * there are.
 */
export function measureRequests(
  app: FastifyInstance,
  metrics: Metrics,
  errors: readonly (readonly [status: number, code: string, ...more: readonly unknown[]])[],
): void {
  for (const [status, code] of errors) if (isShed(status, code)) metrics.beginShed(code, status)
  app.addHook('onRoute', route => {
    // A list of methods is a route that refuses them.
    if (typeof route.method === 'string' && !UNCOUNTED.includes(route.method))
      metrics.beginRoute(route.url, route.method)
    const observe = observerOf(route.url, metrics)
    route.onResponse = [
      ...[route.onResponse ?? []].flat(),
      (request, reply, done) => {
        observe(request, reply)
        done()
      },
    ]
  })
  app.addHook('onError', (_request, _reply, error, done) => {
    if (error instanceof Overloaded) metrics.overloaded(error.why)
    done()
  })
  const observeUnknown = observerOf(UNKNOWN, metrics)
  app.addHook('onResponse', (request, reply, done) => {
    if (request.is404) observeUnknown(request, reply)
    done()
  })
}

/** A request of a route that was refused as soon as its head was read, with this status and code. */
export type ObserveRefusal = (status: number, code: string) => void

/** Counts the refusals of a route and method that no hook sees. */
export function refusalsOf(route: string, method: string, metrics: Metrics): ObserveRefusal {
  const byClass: { readonly count: Count; readonly duration: Distribution }[] = []
  return (status, code) => {
    const series = seriesIn(byClass, route, method, status, metrics)
    series.count.value++
    // It took microseconds, and is not timed.
    series.duration.observe(0)
    if (isShed(status, code)) metrics.shed(code, status)
  }
}

function seriesIn(
  byClass: { readonly count: Count; readonly duration: Distribution }[],
  route: string,
  method: string,
  status: number,
  metrics: Metrics,
) {
  const hundreds = Math.floor(status / 100)
  let series = byClass[hundreds]
  if (series === undefined) {
    const labels = [route, method, classOf(status)]
    series = { count: metrics.requests.of(...labels), duration: metrics.duration.of(...labels) }
    byClass[hundreds] = series
  }
  return series
}

function observerOf(route: string, metrics: Metrics) {
  const byMethod = new Map<string, { readonly count: Count; readonly duration: Distribution }[]>()
  return (request: FastifyRequest, { statusCode, elapsedTime }: FastifyReply): void => {
    let byClass = byMethod.get(request.method)
    if (byClass === undefined) {
      byClass = []
      byMethod.set(request.method, byClass)
    }
    const series = seriesIn(byClass, route, request.method, statusCode, metrics)
    series.count.value++
    series.duration.observe(elapsedTime / 1000)
    if (isShed(statusCode, request.refusedAs)) metrics.shed(request.refusedAs as string, statusCode)
  }
}

/** Overload may be answered with 429 as well, where the setting says so. */
const isShed = (status: number, code: string | null): boolean =>
  code !== null && (status === 503 || status === 504 || code === 'INFERENCE_OVERLOADED')
