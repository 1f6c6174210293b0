/**
 * The Open Inference Protocol, version 2, over HTTP. Every answer under /v2 that is no success is `{ "error": text }`.
 * https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
 */
import { readFileSync } from 'node:fs'
import type {
  FastifyContextConfig,
  FastifyInstance,
  FastifyPluginAsync,
  FastifyReply,
  FastifyRequest,
  FastifySchema,
  HTTPMethods,
  preParsingHookHandler,
  RouteHandlerMethod,
} from 'fastify'
import { noteArrivals } from '../http/arrival.js'
import { checkCharset, unpackBody } from '../http/body-coding.js'
import { faultOf, Refusal, setFault, unavailable } from '../http/problem.js'
import { NoModels, UnknownModel } from '../inference/errors.js'
import type { Model, ModelInfo, Models } from '../inference/types.js'
import { headerLengthField } from '../inference/v2-codec/binary.js'
import { timeoutOf } from '../protection/urgency.js'
import { readInferRequest, writeInferResponse } from '../protocol/v2-infer.js'
import { extensions, modelMetadata, readIndexRequest, repositoryIndex, statistics } from '../protocol/v2-metadata.js'
import { schemas } from '../protocol/v2-schema.js'
import { audit } from './audit.js'
import { answerUnknown } from './other-methods.js'
import { runCharged } from './run.js'
import { errorCodeField, V2_MEDIA_TYPE, v2ErrorOf } from './v2-error.js'

export interface V2Options {
  readonly models: Models
  /** Longest time to an answer; a caller may ask for less. */
  readonly requestTimeoutMs: number
  /** Configuration of the `infer` routes, for the limiter. The other routes are not limited. */
  readonly limited?: FastifyContextConfig
  /** True from the moment that a stop was asked for, and before the service is ready. */
  readonly isUnready?: () => boolean
  /** Who may load and unload models; left out: nobody, and there are no such routes. */
  readonly adminOnly?: ((request: FastifyRequest, reply: FastifyReply) => Promise<void>) | undefined
  /** Whether all processes of the service are ready; undefined where this is the only one. */
  readonly othersReady?: (() => Promise<boolean>) | undefined
  /** Loads or unloads a model in all processes of the service; undefined where this is the only one. */
  readonly setLoadedInAll?: ((name: string, loaded: boolean) => Promise<void>) | undefined
  /** Longest body once unpacked, in bytes; left out, as long as one that is not packed may be. */
  readonly unpackedLimit?: number
}

interface ModelParams {
  readonly model: string
  readonly version?: string
}

type ModelRequest = FastifyRequest<{ Params: ModelParams }>

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

const unlimited = { rateLimit: false } as const

/** Media types of the bodies that a route takes. Triton's client sends none with its JSON. */
const jsonOnly: readonly string[] = ['', 'application/json']
const jsonAndBinary: readonly string[] = [...jsonOnly, 'application/octet-stream']

/** Refuses bodies of other types with 415, before they are read. */
const takesOnly =
  (types: readonly string[]): preParsingHookHandler =>
  ({ headers }, _reply, _payload, done) => {
    const [media = ''] = (headers['content-type'] ?? '').split(';')
    if (types.includes(media.trim().toLowerCase())) {
      done(null)
      return
    }
    const detail = `the body must be sent as ${types.filter(each => each !== '').join(' or ')}`
    done(new Refusal({ status: 415, code: 'UNSUPPORTED_MEDIA_TYPE', detail }))
  }

/** Adds everything under /v2, with its own content types, errors and 404. */
export const v2Routes: FastifyPluginAsync<V2Options> = async (app, options) => {
  await app.register(protocol, { ...options, prefix: '/v2' })
}

const protocol: FastifyPluginAsync<V2Options> = async (
  app,
  { models, requestTimeoutMs, limited, isUnready, unpackedLimit, adminOnly, othersReady, setLoadedInAll },
) => {
  app.setErrorHandler(sendV2Error)
  noteArrivals(app)
  const known: string[] = []
  await answerUnknown(app, () => {
    const detail = `there is no such URL under /v2; there is: ${known.join(', ')}`
    return { status: 404, code: 'NOT_FOUND', detail }
  })
  app.addHook('onRoute', ({ method, url }) => {
    // A list of methods is a route that refuses them.
    if (method === 'GET' || method === 'POST') known.push(`${method} ${url}`)
  })
  // The codec checks bodies and writes answers; the schemas are for the OpenAPI document.
  app.setValidatorCompiler(() => () => true)
  app.setSerializerCompiler(() => data => JSON.stringify(data))
  takeBodies(app, unpackedLimit ?? app.initialConfig.bodyLimit ?? 0)
  const ready = () => models.ready && isUnready?.() !== true

  const modelOf = ({ params, caller }: ModelRequest): Model => models.get(params.model, params.version, caller?.key)
  const versionsOf = (name: string): string[] => models.versions(name).map(({ info }) => info.version)

  const get = routes(app, 'GET', unlimited)
  get('/', schemas.server, async () => ({
    name: 'ml-api-rate-limiter',
    version,
    extensions: extensions(adminOnly !== undefined),
  }))
  get('/health/live', schemas.live, async () => ({ live: true }))
  get('/health/ready', schemas.ready, async (_request, reply) => {
    const isReady = ready() && (othersReady === undefined || (await othersReady()))
    return readiness(reply, { live: true }, isReady, 'models or their workers are not up, or the service is stopping')
  })
  get('/models', schemas.models, async () => ({ models: models.list().map(({ info }) => info.name) }))
  routes(app, 'POST', unlimited)('/repository/index', schemas.index, async request => {
    const { readyOnly } = readIndexRequest(bodyOf(request))
    return repositoryIndex(models).filter(({ state }) => !readyOnly || state === 'READY')
  })

  if (adminOnly !== undefined) {
    const post = routes(app, 'POST', unlimited)
    for (const [verb, schema, loaded] of [
      ['load', schemas.load, true],
      ['unload', schemas.unload, false],
    ] as const) {
      post(`/repository/models/:model/${verb}`, schema, async (request, reply) => {
        await adminOnly(request, reply)
        const { model } = (request as ModelRequest).params
        await setLoaded(models, model, loaded)
        await setLoadedInAll?.(model, loaded)
        audit(request, `model.${verb}`, { model })
        return {}
      })
    }
  }
  for (const url of ['/models/:model', '/models/:model/versions/:version']) {
    const named = <S extends { operationId: string }>(schema: S): S =>
      url.includes(':version') ? { ...schema, operationId: `${schema.operationId}Version` } : schema
    get(`${url}/stats`, named(schemas.stats), async request => {
      const { params } = request as ModelRequest
      models.get(params.model, params.version)
      const all = models.stats?.(params.model) ?? []
      return statistics(all.filter(each => params.version === undefined || each.version === params.version))
    })
  }

  for (const url of ['/models/:model', '/models/:model/versions/:version']) {
    const named = <S extends { operationId: string }>(schema: S): S =>
      url.includes(':version') ? { ...schema, operationId: `${schema.operationId}Version` } : schema
    get(url, named(schemas.model), async request => {
      const { info } = modelOf(request as ModelRequest)
      return modelMetadata(info, versionsOf(info.name))
    })
    get(`${url}/ready`, named(schemas.modelReady), async (request, reply) => {
      const { params } = request as ModelRequest
      const model = loadedModel(models, params)
      const isReady = model !== undefined && model.ready !== false && ready()
      const why = model ? 'no worker or backend of it is up, or the service is stopping' : 'it could not be loaded'
      return readiness(reply, { name: params.model }, isReady, `model '${params.model}' is not ready: ${why}`)
    })
    const post = routes(app, 'POST', limited ?? {}, jsonAndBinary)
    post(`${url}/infer`, named(schemas.infer), async (request, reply) => {
      const model = modelOf(request as ModelRequest)
      request.caller?.checkModel(model.info.name)
      const headerLength = request.headers[headerLengthField] as string | undefined
      const readFor = (info: ModelInfo) => readInferRequest(bodyOf(request), headerLength, info)
      const asked = readFor(model.info)
      const { ran = model.info, outputs } = await runCharged(request, reply, {
        model,
        inputs: asked.inputs,
        rows: asked.rows,
        version: (request as ModelRequest).params.version,
        ...(asked.someOutputs ? { outputs: asked.outputs.map(({ name }) => name) } : {}),
        timeoutMs: Math.min(timeoutOf(request, requestTimeoutMs), asked.timeoutMs ?? Infinity),
      })
      // After a reload in between it may have other outputs.
      const answer = writeInferResponse(ran, ran === model.info ? asked : readFor(ran), outputs)
      if (answer.headerLength === undefined) return reply.type('application/json').send(answer.body)
      return reply.type('application/octet-stream').header(headerLengthField, answer.headerLength).send(answer.body)
    })
  }
}

/** Throws Refusal where the last model would go, or there is no such model to load. */
async function setLoaded(models: Models, name: string, loaded: boolean): Promise<void> {
  if (!loaded) models.get(name)
  try {
    await models.setLoaded?.(name, loaded)
  } catch (error) {
    if (!(error instanceof NoModels)) throw error
    throw new Refusal({ status: 400, code: 'NO_MODELS', detail: 'nothing would be left that can be served' })
  }
  // Throws where the folder has no such model, or it cannot be loaded.
  if (loaded) models.get(name)
}

/** Not a thing to document. */
const hidden = { hide: true } as FastifySchema

/** Adds routes of one method that take bodies of `types`; what their URLs answer to other methods comes with them. */
function routes(app: FastifyInstance, method: 'GET' | 'POST', config: FastifyContextConfig, types = jsonOnly) {
  const preParsing = method === 'GET' ? [] : [takesOnly(types)]
  const allow = method === 'GET' ? 'GET, HEAD, OPTIONS' : 'OPTIONS, POST'
  const others = app.supportedMethods.filter(each => !allow.split(', ').includes(each)) as HTTPMethods[]
  const refuse = async () => {
    throw new Refusal({
      status: 405,
      code: 'METHOD_NOT_ALLOWED',
      detail: `this URL takes ${allow}`,
      headers: { allow },
    })
  }
  const tell = async (_request: FastifyRequest, reply: FastifyReply) => reply.code(204).header('allow', allow).send()
  return (url: string, schema: FastifySchema, handler: RouteHandlerMethod): void => {
    // After the limiter: a request that is refused for its type has cost its one.
    app.route({ method, url, config, schema, preParsing, handler })
    // Before a body is read.
    app.route({ method: others, url, schema: hidden, config: unlimited, onRequest: refuse, handler: refuse })
    app.route({ method: 'OPTIONS', url, schema: hidden, config: unlimited, onRequest: tell, handler: refuse })
  }
}

/** A request without a body has no parsed one either. */
const bodyOf = ({ body }: FastifyRequest): Buffer => (body as Buffer | undefined) ?? Buffer.alloc(0)

/** Bodies stay bytes: what is JSON in them, and what is not, the codec finds out. */
function takeBodies(app: FastifyInstance, unpackedLimit: number): void {
  app.removeAllContentTypeParsers()
  app.addContentTypeParser<Buffer>('*', { parseAs: 'buffer' }, ({ headers }, packed, done) => {
    unpackBody(headers, packed, unpackedLimit, (error, body) => {
      try {
        if (error !== null) throw error
        checkCharset(headers['content-type'])
      } catch (refusal) {
        done(refusal as Error)
        return
      }
      done(null, body)
    })
  })
}

/** One body for all clients: some look at the status, some at the member, some show the error. */
function readiness(reply: FastifyReply, body: object, ready: boolean, error: string) {
  reply.header('cache-control', 'no-store')
  if (ready) return { ...body, ready }
  setFault(unavailable('NOT_READY', error, 1000), reply.request, reply).header(errorCodeField, 'NOT_READY')
  return { ...body, ready, error }
}

/** Undefined for a model of the folder that could not be loaded. Throws UnknownModel for what is not there at all. */
function loadedModel(models: Models, params: ModelParams): Model | undefined {
  try {
    return models.get(params.model, params.version)
  } catch (error) {
    const isBroken = models.broken.some(
      ({ name, version }) => name === params.model && (params.version ?? version) === version,
    )
    if (error instanceof UnknownModel && isBroken) return undefined
    throw error
  }
}

/** The error handler of /v2, for whoever meets one of its URLs outside of its routes (`isV2`) as well. */
export function sendV2Error(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const fault = faultOf(error, request.server.overloadStatus)
  const { status, code } = fault
  if (status === 500) request.log.error({ err: error }, 'request failed')
  return setFault(fault, request, reply)
    .type(V2_MEDIA_TYPE)
    .header(errorCodeField, code)
    .send(v2ErrorOf(fault, more(code, request)))
}

/** What a problem document would say in members of its own. */
function more(code: string, { id, server }: FastifyRequest): string {
  if (code === 'BODY_TOO_LARGE') return `; at most ${server.initialConfig.bodyLimit} bytes are taken`
  return code === 'INTERNAL_ERROR' ? `: ${id}` : ''
}
