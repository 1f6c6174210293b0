import t from 'tap'
import { readTracing } from '../../../service/src/tracing/settings.js'

const exportersOf = (environment: Record<string, string>) => readTracing(environment)?.exporters

t.test('traces are wanted where an endpoint or an exporter is named', async t => {
  t.equal(readTracing({}), undefined)
  t.equal(readTracing({ OTEL_SERVICE_NAME: 'api', OTEL_TRACES_SAMPLER: 'always_on' }), undefined)
  t.strictSame(exportersOf({ OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318' }), ['otlp'])
  t.strictSame(exportersOf({ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://collector:4318/v1/traces' }), ['otlp'])
  t.strictSame(exportersOf({ OTEL_TRACES_EXPORTER: 'otlp' }), ['otlp'])
  t.strictSame(exportersOf({ OTEL_TRACES_EXPORTER: 'console, otlp' }), ['console', 'otlp'])
})

t.test('they are switched off as everywhere, and what is empty counts as left out', async t => {
  const OTEL_EXPORTER_OTLP_ENDPOINT = 'http://collector:4318'
  t.equal(readTracing({ OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SDK_DISABLED: 'TRUE' }), undefined)
  t.equal(readTracing({ OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER: 'none' }), undefined)
  t.strictSame(exportersOf({ OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SDK_DISABLED: 'false', OTEL_TRACES_EXPORTER: '' }), [
    'otlp',
  ])
  t.equal(readTracing({ OTEL_EXPORTER_OTLP_ENDPOINT: ' ' }), undefined)
})

t.test('the protocol of traces goes before that of all signals', async t => {
  const OTEL_TRACES_EXPORTER = 'otlp'
  t.match(readTracing({ OTEL_TRACES_EXPORTER }), { protocol: 'http/protobuf', problems: [] })
  t.match(readTracing({ OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json' }), { protocol: 'http/json' })
  const both = { OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc', OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: 'http/json' }
  t.match(readTracing({ OTEL_TRACES_EXPORTER, ...both }), { protocol: 'http/json', problems: [] })
})

t.test('what cannot be had is told and left out', async t => {
  t.match(readTracing({ OTEL_TRACES_EXPORTER: 'otlp', OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' }), {
    exporters: [],
    problems: [/'grpc' is not spoken here; it takes http\/protobuf, http\/json/],
  })
  t.match(readTracing({ OTEL_TRACES_EXPORTER: 'zipkin,console' }), {
    exporters: ['console'],
    problems: [/'zipkin'; it takes otlp, console, none/],
  })
})
