/** A server of the Open Inference Protocol v2, written by hand after Triton's and KServe's documents, with faults on demand. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { freePort } from './redis-fleet.js'

/** What an inference call carried. */
export interface Call {
  readonly url: string
  readonly headers: IncomingMessage['headers']
  /** The JSON of it, as text: numbers keep their digits. */
  readonly text: string
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it freely
  readonly json: any
  readonly binary: Buffer
}

export interface V2Server {
  readonly url: string
  readonly port: number
  readonly calls: Call[]
  /** Calls at once, at most so far; and those that were given up by the client. */
  peak: number
  aborted: number
  /** Ends it, with every connection. */
  stop(): Promise<void>
}

export interface V2Behaviour {
  readonly port?: number
  readonly extensions?: readonly string[]
  /** `empty` as Triton's, `told` as KServe's. */
  readonly health?: 'empty' | 'told'
  readonly ready?: () => boolean
  readonly metadata?: object | (() => object)
  /** Whether a request is taken, by its headers; others get 401. */
  readonly admits?: (headers: IncomingMessage['headers']) => boolean
  /** Answers an inference call; `y = 2x` of FP32 by default. */
  readonly infer?: (call: Call, response: ServerResponse) => void | Promise<void>
}

export const doubling = {
  name: 'double',
  versions: ['1', '3'],
  platform: 'tensorflow_savedmodel',
  inputs: [{ name: 'x', datatype: 'FP32', shape: [-1, 2] }],
  outputs: [{ name: 'y', datatype: 'FP32', shape: [-1, 2] }],
}

/** y = 2x, in the form that was asked for. */
export function answerDouble(call: Call, response: ServerResponse): void {
  const [x] = call.json.inputs
  const size = x.parameters?.binary_data_size
  const values: number[] =
    size === undefined
      ? x.data.flat()
      : [...new Float32Array(call.binary.buffer.slice(call.binary.byteOffset, call.binary.byteOffset + size))]
  const doubled = values.map(value => value * 2)
  if (call.json.outputs?.[0]?.parameters?.binary_data !== true) {
    sendJson(response, 200, outputOf({ shape: x.shape, data: doubled }))
    return
  }
  const bytes = Buffer.from(new Float32Array(doubled).buffer)
  sendBinary(response, outputOf({ shape: x.shape, parameters: { binary_data_size: bytes.length } }), bytes)
}

export const outputOf = (output: object) => ({
  model_name: 'double',
  model_version: '3',
  outputs: [{ name: 'y', datatype: 'FP32', ...output }],
})

export function sendJson(response: ServerResponse, status: number, body: object | string, headers = {}): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers })
  response.end(typeof body === 'string' ? body : JSON.stringify(body))
}

export function sendBinary(response: ServerResponse, json: object | string, bytes: Buffer): void {
  const head = Buffer.from(typeof json === 'string' ? json : JSON.stringify(json))
  response.writeHead(200, {
    'content-type': 'application/octet-stream',
    'inference-header-content-length': head.length,
  })
  response.end(Buffer.concat([head, bytes]))
}

async function readCall(request: IncomingMessage): Promise<Call> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  const body = Buffer.concat(chunks)
  const length = Number(request.headers['inference-header-content-length'] ?? body.length)
  const text = body.toString('utf8', 0, length)
  const { url = '', headers } = request
  return { url, headers, text, json: JSON.parse(text), binary: body.subarray(length) }
}

export async function startV2Server(t: Test, behaviour: V2Behaviour = {}): Promise<V2Server> {
  const {
    port = await freePort(),
    extensions = [],
    health = 'empty',
    ready = () => true,
    metadata = doubling,
  } = behaviour
  const infer = behaviour.infer ?? answerDouble
  let running = 0
  const server = createServer(async (request, response) => {
    const { url = '' } = request
    if (behaviour.admits?.(request.headers) === false) {
      sendJson(response, 401, { error: 'who are you?' })
    } else if (url.endsWith('/infer')) {
      const call = await readCall(request)
      fake.calls.push(call)
      fake.peak = Math.max(fake.peak, ++running)
      response.once('close', () => {
        running--
        if (!response.writableFinished) fake.aborted++
      })
      await infer(call, response)
    } else if (url === '/v2') {
      sendJson(response, 200, { name: 'triton', version: '2.50.0', extensions })
    } else if (url.endsWith('/ready')) {
      response.writeHead(ready() ? 200 : 400)
      response.end(health === 'empty' ? '' : JSON.stringify({ name: 'double', ready: ready() }))
    } else if (url.startsWith('/v2/models/double')) {
      sendJson(response, 200, typeof metadata === 'function' ? metadata() : metadata)
    } else {
      sendJson(response, 404, { error: `Request for unknown model: '${url}' is not found` })
    }
  })
  await new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve))
  const stop = () =>
    new Promise<void>(resolve => {
      server.close(() => resolve())
      server.closeAllConnections()
    })
  t.teardown(stop)
  const bound = (server.address() as AddressInfo).port
  const fake: V2Server = { url: `http://127.0.0.1:${bound}`, port: bound, calls: [], peak: 0, aborted: 0, stop }
  return fake
}
