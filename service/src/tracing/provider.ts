/** Where spans are made and sent. Loaded only where traces are wanted. */
import { readFileSync } from 'node:fs'
import { DiagLogLevel, diag } from '@opentelemetry/api'
import { type ExportResult, ExportResultCode } from '@opentelemetry/core'
import { OTLPTraceExporter as JsonExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { OTLPTraceExporter as ProtobufExporter } from '@opentelemetry/exporter-trace-otlp-proto'
import {
  defaultResource,
  detectResources,
  envDetector,
  resourceFromAttributes,
  serviceInstanceIdDetector,
} from '@opentelemetry/resources'
import {
  BasicTracerProvider,
  BatchSpanProcessor,
  ConsoleSpanExporter,
  type ReadableSpan,
  type SpanExporter,
} from '@opentelemetry/sdk-trace-base'
import type { FastifyBaseLogger } from 'fastify'
import type { TracingSettings } from './settings.js'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

/** Spans wait in a bounded queue and go out in batches; what the queue cannot hold is dropped. */
export function openProvider(settings: TracingSettings, log: FastifyBaseLogger): BasicTracerProvider {
  const told = (details: unknown[], message: string) => log.warn({ details }, `OpenTelemetry: ${message}`)
  const quiet = () => {}
  // Failed exports are errors, which the exporter below tells once and not each time.
  diag.setLogger(
    { error: quiet, warn: (message, ...details) => told(details, message), info: quiet, debug: quiet, verbose: quiet },
    { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true },
  )
  const exporters = settings.exporters.map(name => {
    if (name === 'console') return new ConsoleSpanExporter()
    return new ToldExporter(settings.protocol === 'http/json' ? new JsonExporter() : new ProtobufExporter(), log)
  })
  return new BasicTracerProvider({
    resource: defaultResource()
      .merge(resourceFromAttributes({ 'service.name': 'ml-api-rate-limiter', 'service.version': version }))
      .merge(detectResources({ detectors: [serviceInstanceIdDetector, envDetector] })),
    spanProcessors: exporters.map(exporter => new BatchSpanProcessor(exporter)),
  })
}

/** Tells when spans cannot be sent any more, and when they can again. */
class ToldExporter implements SpanExporter {
  readonly #exporter: SpanExporter
  readonly #log: FastifyBaseLogger
  #lost = false

  constructor(exporter: SpanExporter, log: FastifyBaseLogger) {
    this.#exporter = exporter
    this.#log = log
  }

  export(spans: ReadableSpan[], done: (result: ExportResult) => void): void {
    this.#exporter.export(spans, result => {
      this.#tell(result)
      done(result)
    })
  }

  shutdown(): Promise<void> {
    return this.#exporter.shutdown()
  }

  async forceFlush(): Promise<void> {
    await this.#exporter.forceFlush?.()
  }

  #tell({ code, error }: ExportResult): void {
    const lost = code === ExportResultCode.FAILED
    if (lost === this.#lost) return
    this.#lost = lost
    if (lost) this.#log.warn({ reason: error?.message }, 'traces cannot be sent')
    else this.#log.info('traces are sent again')
  }
}
