/**
 * The spans of one request. Names and attributes of the first are those of OpenTelemetry's conventions for HTTP
 * (https://opentelemetry.io/docs/specs/semconv/http/http-spans/, stable); nothing holds a key, a header of the caller
 * that could be one, the query or the caller's address. The server span is our own code because `@fastify/otel` puts the
 * query into it, and ends it before the answer is sent, so that it cannot tell of a client that has gone.
 *
 *   POST /v1/predict                 server
 *   ├─ rate limit                    from the question to the decision; one more where rows are counted
 *   ├─ queue iris                    until a worker takes the request
 *   └─ run iris                      its batch; links to the run of the batch's first request
 *      └─ POST                       client, where the model runs elsewhere; `traceparent` goes along
 */
import {
  type Context,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type TextMapGetter,
  type Tracer,
  trace,
} from '@opentelemetry/api'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import type { BasicTracerProvider } from '@opentelemetry/sdk-trace-base'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Decision } from 'ml-api-rate-limiter'
import type { Model, NamedTensors, RunOptions, RunResult, RunTrace } from '../inference/types.js'

/** https://www.w3.org/TR/trace-context/ */
const propagator = new W3CTraceContextPropagator()

type Headers = FastifyRequest['headers']

const headersGetter: TextMapGetter<Headers> = {
  keys: headers => Object.keys(headers),
  get: (headers, name) => headers[name],
}

/** Milliseconds since the epoch, as exact as `performance.now()`, so that the spans of a trace lie in their order. */
type Now = () => number

function clockOfTrace(): Now {
  const offset = Date.now() - performance.now()
  return () => offset + performance.now()
}

const METHODS = new Set(['CONNECT', 'DELETE', 'GET', 'HEAD', 'OPTIONS', 'PATCH', 'POST', 'PUT', 'TRACE'])

/** Begins a trace for each request, or goes on with the caller's. */
export class TraceStarter {
  readonly #tracer: Tracer

  constructor(provider: BasicTracerProvider) {
    this.#tracer = provider.getTracer('ml-api-rate-limiter')
  }

  start(request: FastifyRequest): RequestTrace {
    const { method, headers, url, protocol, hostname, port, raw, routeOptions } = request
    const route = request.is404 ? undefined : routeOptions.url
    const known = METHODS.has(method)
    const name = known ? method : 'HTTP'
    const userAgent = headers['user-agent']
    const now = clockOfTrace()
    const span = this.#tracer.startSpan(
      route === undefined ? name : `${name} ${route}`,
      {
        kind: SpanKind.SERVER,
        startTime: now(),
        attributes: {
          'http.request.method': known ? method : '_OTHER',
          ...(known ? {} : { 'http.request.method_original': method }),
          ...(route === undefined ? {} : { 'http.route': route }),
          'url.path': url.split('?', 1)[0] as string,
          'url.scheme': protocol,
          'server.address': hostname,
          ...(port === null ? {} : { 'server.port': port }),
          'network.protocol.version': raw.httpVersion,
          ...(userAgent === undefined ? {} : { 'user_agent.original': userAgent }),
        },
      },
      propagator.extract(ROOT_CONTEXT, headers, headersGetter),
    )
    return new RequestTrace(this.#tracer, span, now)
  }
}

export class RequestTrace {
  readonly #tracer: Tracer
  readonly #span: Span
  readonly #context: Context
  readonly #now: Now
  #limiting: Span | undefined

  constructor(tracer: Tracer, span: Span, now: Now) {
    this.#tracer = tracer
    this.#span = span
    this.#now = now
    this.#context = trace.setSpan(ROOT_CONTEXT, span)
  }

  /** A limiter is asked now. */
  limiterAsked(): void {
    this.#limiting ??= this.#tracer.startSpan('rate limit', { startTime: this.#now() }, this.#context)
  }

  decided(plan: string, decision: Decision): void {
    this.limiterAsked()
    const { policies, allowed, banned, known, violated, binding } = decision
    this.#limiting?.setAttributes({
      'rate_limit.plan': plan,
      'rate_limit.policies': policies.map(({ name }) => name),
      'rate_limit.outcome': allowed ? (known ? 'allowed' : 'unchecked') : banned ? 'banned' : 'denied',
      ...(allowed ? {} : { 'rate_limit.violated_policies': [...violated] }),
      ...(known ? { 'rate_limit.binding_policy': binding.name, 'rate_limit.remaining': binding.remaining } : {}),
    })
    this.#limiting?.end(this.#now())
    this.#limiting = undefined
  }

  /** Runs the model, and tells of the wait and of the run. */
  async run(model: Model, inputs: NamedTensors, options: RunOptions): Promise<RunResult> {
    const spans = new RunSpans(this.#tracer, this.#context, this.#now, model, options.rows)
    try {
      const result = await model.run(inputs, { ...options, trace: spans })
      spans.end(result)
      return result
    } catch (error) {
      spans.fail(error)
      throw error
    }
  }

  end({ refusedAs }: FastifyRequest, { statusCode, headersSent, writableFinished }: FastifyReply['raw']): void {
    if (this.#limiting !== undefined) {
      // The store did not answer, and nothing was decided.
      failed(this.#limiting, refusedAs ?? 'undecided')
      this.#limiting.end(this.#now())
    }
    if (headersSent) this.#span.setAttribute('http.response.status_code', statusCode)
    if (!writableFinished) this.#span.setAttribute('error.type', 'client_gone')
    // By the conventions, what a caller did wrong is no error of the server's.
    else if (statusCode >= 500) failed(this.#span, refusedAs ?? String(statusCode))
    this.#span.end(this.#now())
  }
}

/** From admission to the queue to the end of the run. */
class RunSpans implements RunTrace {
  readonly #tracer: Tracer
  readonly #parent: Context
  readonly #now: Now
  readonly #name: string
  readonly #attributes: Readonly<Record<string, string | number>>
  readonly #queue: Span
  #run: Span | undefined
  #call: Span | undefined

  constructor(tracer: Tracer, parent: Context, now: Now, { info: { name, version } }: Model, rows: number) {
    this.#tracer = tracer
    this.#parent = parent
    this.#now = now
    this.#name = name
    this.#attributes = { 'inference.model': name, 'inference.version': version, 'inference.rows': rows }
    this.#queue = tracer.startSpan(`queue ${name}`, { attributes: this.#attributes, startTime: now() }, parent)
  }

  started(batchRows: number, first: RunTrace): void {
    // The rest of a request that was split, or one that is run again.
    if (this.#run !== undefined) return
    const startTime = this.#now()
    this.#queue.end(startTime)
    const others = first instanceof RunSpans && first !== this ? first.#run : undefined
    const attributes = { ...this.#attributes, 'inference.batch.rows': batchRows }
    const links = others === undefined ? [] : [{ context: others.spanContext() }]
    this.#run = this.#tracer.startSpan(`run ${this.#name}`, { attributes, links, startTime }, this.#parent)
  }

  sent(url: string): Record<string, string> {
    const startTime = this.#now()
    this.#call?.end(startTime)
    const { hostname, port, protocol } = new URL(url)
    this.#call = this.#tracer.startSpan(
      'POST',
      {
        kind: SpanKind.CLIENT,
        startTime,
        attributes: {
          'http.request.method': 'POST',
          'server.address': hostname,
          'server.port': port === '' ? (protocol === 'https:' ? 443 : 80) : Number(port),
        },
      },
      this.#run === undefined ? this.#parent : trace.setSpan(ROOT_CONTEXT, this.#run),
    )
    const headers: Record<string, string> = {}
    propagator.inject(trace.setSpan(ROOT_CONTEXT, this.#call), headers, {
      set: (carrier, name, value) => {
        carrier[name] = value
      },
    })
    return headers
  }

  end({ computeMs, batchRows }: RunResult): void {
    this.#run?.setAttributes({ 'inference.batch.rows': batchRows, 'inference.compute_ms': computeMs })
    const endTime = this.#now()
    this.#call?.end(endTime)
    this.#run?.end(endTime)
  }

  fail(error: unknown): void {
    const { code } = error as { code?: string }
    const endTime = this.#now()
    for (const span of [this.#call, this.#run ?? this.#queue]) {
      if (span === undefined) continue
      failed(span, code ?? 'INTERNAL_ERROR')
      span.end(endTime)
    }
  }
}

function failed(span: Span, type: string): void {
  span.setAttribute('error.type', type)
  span.setStatus({ code: SpanStatusCode.ERROR })
}
