/** What an OpenTelemetry collector is to a service: takes spans over OTLP/HTTP, and misbehaves on demand. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { until } from './redis-fleet.js'

/** A span as it came, its attributes as a plain object. */
export interface ReceivedSpan {
  readonly name: string
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId: string | undefined
  /** 1 internal, 2 server, 3 client. */
  readonly kind: number
  /** Nanoseconds. */
  readonly startedAt: bigint
  readonly endedAt: bigint
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it freely
  readonly attributes: any
  readonly links: readonly { readonly traceId: string; readonly spanId: string }[]
  readonly isError: boolean
}

export interface OtlpReceiver {
  readonly url: string
  readonly spans: ReceivedSpan[]
  /** Bodies as they came, and their content types. */
  readonly bodies: Buffer[]
  readonly types: (string | undefined)[]
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it freely
  readonly resource: any
  /** Waits for a span. */
  find(what: string, matches: (span: ReceivedSpan) => boolean): Promise<ReceivedSpan>
}

type Respond = (response: ServerResponse) => void

const accept: Respond = response => {
  response.writeHead(200, { 'content-type': 'application/json' })
  response.end('{}')
}

export async function startOtlpReceiver(t: Test, respond: Respond = accept): Promise<OtlpReceiver> {
  const spans: ReceivedSpan[] = []
  const bodies: Buffer[] = []
  const types: (string | undefined)[] = []
  let resource = {}
  const server = createServer(async (request: IncomingMessage, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const body = Buffer.concat(chunks)
    bodies.push(body)
    types.push(request.headers['content-type'])
    if (request.headers['content-type'] === 'application/json') {
      for (const { resource: told, scopeSpans } of JSON.parse(body.toString()).resourceSpans) {
        resource = plain(told.attributes)
        for (const scope of scopeSpans) spans.push(...scope.spans.map(readSpan))
      }
    }
    respond(response)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(
    () =>
      new Promise<void>(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  )
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    spans,
    bodies,
    types,
    get resource() {
      return resource
    },
    find: async (what, matches) => {
      await until(what, async () => spans.some(matches))
      return spans.find(matches) as ReceivedSpan
    },
  }
}

type Wire = Record<string, unknown>

function readSpan(wire: Wire): ReceivedSpan {
  const { startTimeUnixNano, endTimeUnixNano, attributes, links, status, parentSpanId, ...rest } = wire
  return {
    ...(rest as unknown as ReceivedSpan),
    parentSpanId: (parentSpanId as string | undefined) || undefined,
    startedAt: BigInt(startTimeUnixNano as string),
    endedAt: BigInt(endTimeUnixNano as string),
    attributes: plain(attributes as Wire[]),
    links: (links ?? []) as ReceivedSpan['links'],
    isError: (status as { code?: number } | undefined)?.code === 2,
  }
}

function plain(attributes: readonly Wire[]): Record<string, unknown> {
  return Object.fromEntries(attributes.map(({ key, value }) => [key, plainValue(value as Wire)]))
}

function plainValue(value: Wire): unknown {
  const { arrayValue } = value as { arrayValue?: { values: Wire[] } }
  if (arrayValue !== undefined) return arrayValue.values.map(plainValue)
  if (value.intValue !== undefined) return Number(value.intValue)
  return Object.values(value)[0]
}
