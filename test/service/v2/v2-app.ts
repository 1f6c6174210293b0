/** An app with nothing but /v2, over models that are made up, or over a folder of real ones. */
import Fastify, { type FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import { UnknownModel } from '../../../service/src/inference/errors.js'
import type {
  BrokenModel,
  Datatype,
  Dimension,
  Model,
  Models,
  NamedTensors,
  RunOptions,
  RunResult,
  TensorSpec,
} from '../../../service/src/inference/types.js'
import { type V2Options, v2Routes } from '../../../service/src/routes/v2.js'

export const spec = (name: string, datatype: Datatype, shape: readonly Dimension[], anyShape = false): TensorSpec =>
  anyShape ? { name, datatype, shape, anyShape } : { name, datatype, shape }

export interface FakeModel {
  readonly name: string
  readonly version?: string
  readonly inputs: readonly TensorSpec[]
  readonly outputs: readonly TensorSpec[]
  readonly run: (inputs: NamedTensors, options: RunOptions) => NamedTensors | Promise<NamedTensors>
}

const made = ({ name, version = '1', inputs, outputs, run }: FakeModel): Model => ({
  info: { name, version, inputs, outputs, sample: {}, batching: { enabled: false, reason: 'made up' } },
  run: async (tensors, options): Promise<RunResult> => ({
    outputs: await run(tensors, options),
    queueMs: 0.5,
    computeMs: 1.25,
    computeShareMs: 0,
    batchRows: options.rows,
  }),
})

/** y = x. */
export const echo = (
  datatype: Datatype,
  shape: readonly Dimension[] = ['batch', 3],
  name: string = datatype,
): FakeModel => ({
  name,
  inputs: [spec('x', datatype, shape)],
  outputs: [spec('y', datatype, shape)],
  run: ({ x }) => ({ y: x as NonNullable<typeof x> }),
})

export interface FakeModels extends Models {
  ready: boolean
}

export function fakeModels(list: readonly FakeModel[], broken: readonly BrokenModel[] = []): FakeModels {
  const models = list.map(made)
  const versions = (name: string) => models.filter(({ info }) => info.name === name).reverse()
  const names = [...new Set(models.map(({ info }) => info.name))]
  return {
    broken,
    ready: true,
    list: () => names.map(name => versions(name)[0] as Model),
    versions,
    get: (name = '', version) => {
      const known = versions(name)
      const found = version === undefined ? known[0] : known.find(({ info }) => info.version === version)
      if (found !== undefined) return found
      throw known.length === 0
        ? new UnknownModel(name, undefined, names)
        : new UnknownModel(
            name,
            version,
            known.map(({ info }) => info.version),
          )
    },
    queueRows: 0,
    reload: async () => ({ loaded: [], unchanged: [], removed: [], broken: [] }),
    close: async () => {},
  }
}

export async function v2App(t: Test, models: Models, options: Partial<V2Options> = {}): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(v2Routes, { models, requestTimeoutMs: 5000, ...options })
  await app.ready()
  return app
}

export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, unknown>>
  readonly text: string
  readonly bytes: Buffer
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it freely
  readonly body: any
}

type Headers = Readonly<Record<string, string>>

/** A request whose body is sent as it is; JSON of what is neither text nor bytes. */
export async function ask(
  app: FastifyInstance,
  method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE' | 'OPTIONS' | 'PATCH',
  url: string,
  payload?: unknown,
  headers: Headers = {},
): Promise<Answer> {
  const body =
    payload === undefined || typeof payload === 'string' || Buffer.isBuffer(payload) ? payload : JSON.stringify(payload)
  const type = body === undefined || Buffer.isBuffer(body) ? {} : { 'content-type': 'application/json' }
  const given = Object.fromEntries(Object.entries({ ...type, ...headers }).filter(([, value]) => value !== ''))
  const response = await app.inject({ method, url, headers: given, ...(body === undefined ? {} : { payload: body }) })
  let json: unknown
  try {
    json = JSON.parse(response.payload)
  } catch {
    json = undefined
  }
  const { statusCode: status, payload: text, rawPayload: bytes } = response
  return { status, headers: response.headers, text, bytes, body: json }
}

export const infer = (app: FastifyInstance, model: string, payload: unknown, headers: Headers = {}) =>
  ask(app, 'POST', `/v2/models/${model}/infer`, payload, headers)

/** One input `x` as JSON. */
export const input = (datatype: string, shape: readonly unknown[], data: unknown, name = 'x') => ({
  inputs: [{ name, shape, datatype, data }],
})

/** A message with tensors after its JSON, and the header that says so. */
export function binaryMessage(json: object, ...parts: readonly Uint8Array[]): [Buffer, Headers] {
  const head = Buffer.from(JSON.stringify(json))
  return [
    Buffer.concat([head, ...parts]),
    { 'inference-header-content-length': String(head.length), 'content-type': 'application/octet-stream' },
  ]
}

/** The JSON of an answer, and the bytes after it. */
export function takeApart({ bytes, headers }: Answer) {
  const length = Number(headers['inference-header-content-length'])
  return { json: JSON.parse(bytes.subarray(0, length).toString()), binary: bytes.subarray(length) }
}
