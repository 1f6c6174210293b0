/** Traces of requests, where the environment asks for them; else nothing of OpenTelemetry is loaded. */
import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyBaseLogger, FastifyInstance, FastifyRequest } from 'fastify'
import type { Model, NamedTensors, RunOptions, RunResult } from '../inference/types.js'
import type { RequestTrace } from './request-trace.js'
import type { TracingSettings } from './settings.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** Null where the request is not traced. */
    trace: RequestTrace | null
  }
}

/** Asked by machines every few seconds, or for as long as a page is open: nobody looks for these. */
const UNTRACED = /^(\/v2)?\/health\/|^\/metrics$|^\/v1\/events$/

/**
 * Traces the requests of the routes that are made from here on. When the app closes, what has not been sent yet is, in
 * at most `flushMs()` milliseconds. Nothing that fails here is the fault of a request.
 */
export async function traceRequests(
  app: FastifyInstance,
  settings: TracingSettings | undefined,
  flushMs: () => number,
): Promise<void> {
  app.decorateRequest('trace', null)
  if (settings === undefined) return
  for (const problem of settings.problems) app.log.warn({ problem }, 'a setting of OpenTelemetry is not supported')
  if (settings.exporters.length === 0) return
  const tracing = await openTracing(settings, app.log)
  if (tracing === undefined) return
  const { provider, starter } = tracing
  app.addHook('onRequest', (request, reply, done) => {
    if (!UNTRACED.test(request.routeOptions.url ?? '')) {
      const trace = starter.start(request)
      request.trace = trace
      // Tells of answers that were sent, and of clients that went before.
      reply.raw.once('close', () => trace.end(request, reply.raw))
    }
    done()
  })
  app.addHook('onClose', async () => {
    const waiting = new AbortController()
    const flushed = provider.shutdown().catch((error: unknown) => {
      app.log.warn({ reason: String(error) }, 'the last traces were not sent')
    })
    await Promise.race([flushed, delay(flushMs(), undefined, { signal: waiting.signal })])
    waiting.abort()
  })
}

async function openTracing(settings: TracingSettings, log: FastifyBaseLogger) {
  try {
    const [{ openProvider }, { TraceStarter }] = await Promise.all([
      import('./provider.js'),
      import('./request-trace.js'),
    ])
    const provider = openProvider(settings, log)
    return { provider, starter: new TraceStarter(provider) }
  } catch (error) {
    log.error({ err: error }, 'OpenTelemetry cannot be set up; there are no traces')
    return undefined
  }
}

/** Runs a model, as part of the request's trace where there is one. */
export function runTraced(
  { trace }: FastifyRequest,
  model: Model,
  inputs: NamedTensors,
  options: RunOptions,
): Promise<RunResult> {
  return trace ? trace.run(model, inputs, options) : model.run(inputs, options)
}
