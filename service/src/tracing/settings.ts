/**
 * What the environment says of traces, by the names that OpenTelemetry gives.
 * https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
 * What is not read here (sampler, limits, batches, endpoint, headers, resource), the OpenTelemetry packages read.
 */

type Exporter = 'otlp' | 'console'
type Protocol = 'http/protobuf' | 'http/json'

export interface TracingSettings {
  /** Where spans go; nowhere where nothing that was asked for can be had. */
  readonly exporters: readonly Exporter[]
  readonly protocol: Protocol
  /** What was asked for and cannot be had: told, and left out. */
  readonly problems: readonly string[]
}

type Environment = Readonly<Record<string, string | undefined>>

/** Undefined where nobody asks for traces: neither an endpoint nor an exporter is named, or all are switched off. */
export function readTracing(environment: Environment): TracingSettings | undefined {
  const read = (...names: readonly string[]): string | undefined =>
    names.map(name => environment[name]?.trim()).find(value => value !== undefined && value !== '')

  if (read('OTEL_SDK_DISABLED')?.toLowerCase() === 'true') return undefined
  const endpoint = read('OTEL_EXPORTER_OTLP_TRACES_ENDPOINT', 'OTEL_EXPORTER_OTLP_ENDPOINT')
  const asked = read('OTEL_TRACES_EXPORTER') ?? (endpoint === undefined ? 'none' : 'otlp')
  const exporters = new Set(asked.split(',').map(each => each.trim()))
  exporters.delete('none')
  if (exporters.size === 0) return undefined

  const problems: string[] = []
  const protocol = read('OTEL_EXPORTER_OTLP_TRACES_PROTOCOL', 'OTEL_EXPORTER_OTLP_PROTOCOL') ?? 'http/protobuf'
  if (exporters.has('otlp') && !isProtocol(protocol)) {
    problems.push(`the protocol '${protocol}' is not spoken here; it takes http/protobuf, http/json`)
    exporters.delete('otlp')
  }
  for (const exporter of exporters) {
    if (!isExporter(exporter)) problems.push(`OTEL_TRACES_EXPORTER names '${exporter}'; it takes otlp, console, none`)
  }
  return {
    exporters: [...exporters].filter(isExporter),
    protocol: isProtocol(protocol) ? protocol : 'http/protobuf',
    problems,
  }
}

const isExporter = (name: string): name is Exporter => name === 'otlp' || name === 'console'

const isProtocol = (name: string): name is Protocol => name === 'http/protobuf' || name === 'http/json'
