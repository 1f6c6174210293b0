/** The service put together: settings and models in, an app that can listen out. */
import { randomUUID } from 'node:crypto'
import type { Socket } from 'node:net'
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type FastifyServerOptions,
  LogController,
} from 'fastify'
import { adminOnly, trustIn } from './auth.js'
import type { Config } from './config.js'
import { Front, type FrontOptions } from './front/front.js'
import { noteArrivals } from './http/arrival.js'
import { allowOrigins, corsHeaders, corsHeadersFor } from './http/cors.js'
import { acceptJsonOnly } from './http/json-body.js'
import { type Listen, listenerOf } from './http/listeners.js'
import { type MakeRawAnswer, Malformed } from './http/malformed.js'
import { MEDIA_TYPE, problemOf, Refusal, sendError } from './http/problem.js'
import { requestLog } from './http/request-log.js'
import { SECURITY_HEADERS } from './http/security-headers.js'
import { watchUnfinished } from './http/unfinished.js'
import { discardRest, isUnread } from './http/unread-body.js'
import type { InferenceEvent } from './inference/index.js'
import { readJsonText } from './inference/tensors/json-text.js'
import { PlainBodyReader } from './inference/tensors/plain-body.js'
import type { Models } from './inference/types.js'
import { measureRequests } from './metrics/http.js'
import { Metrics } from './metrics/metrics.js'
import { openKeys } from './open-keys.js'
import { openUsage } from './open-usage.js'
import { ERRORS } from './openapi/errors.js'
import { collectRoutes, documentRoutes } from './openapi/index.js'
import { type Ops, openOps } from './ops.js'
import { countRequests, Stats } from './playground/stats.js'
import type { Peers } from './processes/peers.js'
import type { EarlyRefusals } from './protection/early.js'
import { limitGuesses } from './protection/guesses.js'
import { type Limits, type LimitsParts, registerLimits } from './protection/limits.js'
import { adminRoutes, reload } from './routes/admin.js'
import { eventRoutes } from './routes/events.js'
import { healthRoutes, isServing, type Readiness, readinessOfAll } from './routes/health.js'
import { keyRoutes } from './routes/keys.js'
import { limitRoutes } from './routes/limits.js'
import { metricsRoutes } from './routes/metrics.js'
import { modelRoutes } from './routes/models.js'
import { answerOtherMethods, answerUnknown, rememberRoutes, unknownUrl } from './routes/other-methods.js'
import { consoleRoutes, playgroundRoutes } from './routes/pages.js'
import { predictRoutes } from './routes/predict.js'
import { usageRoutes } from './routes/usage.js'
import { sendV2Error, v2Routes } from './routes/v2.js'
import { errorCodeField, isV2, V2_MEDIA_TYPE, v2ErrorOf } from './routes/v2-error.js'
import { traceRequests } from './tracing/tracing.js'

export interface Dependencies {
  /** Called once; the models are closed with the app, and tell it what happens. */
  openModels(log: FastifyBaseLogger, onEvent: (event: InferenceEvent) => void): Promise<Models>
  /** The other processes of the service; undefined where this is the only one. */
  readonly peers?: Peers | undefined
  /** Whether the code of requests is still being warmed up, so that the service is not ready yet. */
  readonly isWarming?: () => boolean
}

export interface Service {
  readonly app: FastifyInstance
  readonly models: Models
  readonly limits: Limits
  readonly listen: Listen
  /** The second listener. */
  readonly ops: Ops
  /** From now on `/health/ready` says 503, so that balancers look elsewhere. */
  announceStop(): void
}

/** A model that is loaded or unloaded by hand. */
interface LoadedModel {
  readonly name: string
  readonly loaded: boolean
}

/** At the end of a stop in time, which the last traces must not take. */
const LAST_STEPS_MS = 500

/** What is read and thrown away of a refused body, in times `BODY_LIMIT`. */
const MOST_DISCARDED = 64

/** Levels at which every request is logged. */
const LOGS_REQUESTS: readonly string[] = ['debug', 'trace']

const NO_HOST = { status: 400, code: 'INVALID_REQUEST', detail: 'the header host is missing' } as const

/** Resolves when everything is ready to listen. Rejects, with nothing left open, when something cannot be had. */
export async function buildApp(config: Config, dependencies: Dependencies): Promise<Service> {
  const server = createServer(config)
  try {
    return await furnish(server, config, dependencies)
  } catch (error) {
    await server.app.close()
    throw error
  }
}

async function furnish(server: Server, config: Config, dependencies: Dependencies): Promise<Service> {
  const { app, malformed } = server
  const { peers, isWarming = () => false } = dependencies
  let stopBy: number | undefined
  const isStopping = () => stopBy !== undefined
  // Both take their time; neither waits for the other.
  const stats = new Stats()
  const metrics = config.metrics ? new Metrics() : undefined
  const opening = dependencies.openModels(app.log, event => {
    stats.ran(event)
    metrics?.ran(event)
  })
  // What goes wrong is told where it is waited for, below.
  const nothing = () => {}
  opening.catch(nothing)
  // Before all other hooks; its own at the close is the last.
  await traceRequests(app, config.tracing, () => {
    const mostMs = config.stopTimeoutMs / 2
    return stopBy === undefined ? mostMs : Math.max(0, Math.min(mostMs, stopBy - performance.now() - LAST_STEPS_MS))
  })
  // Runs once the last request has been answered.
  app.addHook('onClose', () => opening.then(models => models.close(), nothing))
  // Loaded only where it is used: it takes a tenth of the whole start.
  const redis = config.redis && (await import('./redis.js'))
  if (redis !== undefined && config.redis !== undefined) await redis.registerRedis(app, config, config.redis)
  else if (peers === undefined) app.log.info('REDIS_URL is not set: limits are counted in this process alone')
  const keys = await openKeys(app, config, peers)
  const usage = openUsage(app, config, keys, () => opening.then(models => models.close(), nothing))
  const models = await opening
  const meters = { metrics, stats }
  const front = readRequests(server, config, meters, isStopping)
  if (config.maxConnections !== undefined) limitConnections(app, config.maxConnections)
  if (config.corsOrigins.length > 0) {
    await allowOrigins(app, config.corsOrigins, () => {
      throw new Refusal(unknownUrl(app))
    })
  }
  if (config.docs) await collectRoutes(app)
  rememberRoutes(app)
  const ops = openOps(app, malformed)
  const { limits, early } = await answerPredictions(app, config, models, meters, {
    keyring: keys.keyring,
    usage: usage?.meter,
    counts: config.redis === undefined ? peers?.counts : undefined,
  })
  await app.register(modelRoutes, { models })
  await app.register(limitRoutes, { limits })
  await app.register(healthRoutes, {
    models,
    storeAnswers:
      redis === undefined ? undefined : async () => !limits.storeLost && (await redis.redisAnswers(app.redis)),
    isStopping,
    isWarming,
    keys,
    peers,
  })
  const unpackedLimit = config.unpackedBodyLimit
  peers?.answer('reload', () => reload(models, limits))
  const { requestTimeoutMs, adminToken } = config
  const onRequest = adminToken === undefined ? undefined : adminOnly(adminToken, limitGuesses(app, 'admin-guesses'))
  const othersReady = peers && (async () => isServing(readinessOfAll(await peers.ask<Readiness>('ready'))))
  peers?.answer<LoadedModel>('load', ({ name, loaded }) => models.setLoaded?.(name, loaded))
  // It was done here first, and refused where it cannot be.
  const setLoadedInAll =
    peers &&
    (async (name: string, loaded: boolean) => {
      await peers.ask('load', { name, loaded })
    })
  const isUnready = () => isStopping() || isWarming()
  const v2 = { models, requestTimeoutMs, isUnready, unpackedLimit, adminOnly: onRequest, othersReady, setLoadedInAll }
  await app.register(v2Routes, v2)
  if (onRequest !== undefined) {
    await app.register(adminRoutes, { models, limits, onRequest, peers })
    await app.register(keyRoutes, { models, limits, keys, onRequest })
  }
  if (usage !== undefined) {
    await app.register(usageRoutes, { limits, ...usage, days: config.usage.days, onAdminRequest: onRequest, peers })
  }
  if (metrics !== undefined) {
    metrics.watch(models, () => limits.plans, config.redis !== undefined)
    await app.register(metricsRoutes, { metrics, peers })
  }
  if (config.playground) await app.register(playgroundRoutes)
  if (config.console && adminToken !== undefined) await app.register(consoleRoutes)
  if (config.events) await app.register(eventRoutes, { stats, queueRows: () => models.queueRows, peers })
  if (config.docs) await documentRoutes(app, models)
  await answerUnknown(app, () => unknownUrl(app))
  answerOtherMethods(app)
  const listen = listenerOf(app)
  await app.ready()
  front?.open(early, usage?.meter)
  return {
    app,
    models,
    limits,
    listen,
    ops,
    announceStop: () => {
      front?.close()
      stopBy ??= performance.now() + config.stopTimeoutMs
    },
  }
}

/** What counts requests, for those who watch the service. */
interface Meters {
  readonly metrics: Metrics | undefined
  readonly stats: Stats
}

/** How requests are read, and how errors are answered. */
function readRequests(
  { app, malformed }: Server,
  config: Config,
  meters: Meters,
  isStopping: () => boolean,
): Front | undefined {
  const front = usesFront(config) ? new Front(app, malformed, frontOptions(config), meters) : undefined

  app.addHook('onSend', (request, reply, _payload, done) => {
    // Else a connection that is busy when the server closes stays open, idle, until its client goes.
    if (isStopping()) reply.header('connection', 'close')
    // Fastify closes behind every body that it refuses. There may be requests behind it that have been taken.
    else if (reply.statusCode >= 400) {
      reply.removeHeader('connection')
      front?.refused(request)
    }
    if (isUnread(request.raw)) discardRest(request.raw, MOST_DISCARDED * config.bodyLimit)
    done()
  })
  app.decorate('overloadStatus', config.overloadStatus)
  app.decorateRequest('refusedAs', null)
  app.setErrorHandler(sendErrorInForm)
  const plain = new PlainBodyReader()
  acceptJsonOnly(app, { readPlain: body => plain.read(body), read: readJsonText }, config.unpackedBodyLimit)
  // Schemas of answers are for the OpenAPI document.
  app.setSerializerCompiler(() => data => JSON.stringify(data))
  return front
}

/** Adds the limits, and the routes of `/v1` that predict behind them. */
async function answerPredictions(
  app: FastifyInstance,
  config: Config,
  models: Models,
  { metrics, stats }: Meters,
  parts: LimitsParts,
): Promise<{ readonly limits: Limits; readonly early: EarlyRefusals }> {
  if (config.events) countRequests(app, stats)
  if (metrics !== undefined) measureRequests(app, metrics, ERRORS)
  const made = await registerLimits(app, config, models, metrics, parts)
  const { requestTimeoutMs, bodyLimit, streamLimit, streamStallMs, imagePixelLimit } = config
  const limits = { bodyLimit, unpackedLimit: config.unpackedBodyLimit, streamLimit, streamStallMs, imagePixelLimit }
  await app.register(predictRoutes, { models, requestTimeoutMs, ...limits })
  return made
}

/** An app that predicts and refuses as the service does, and has nothing else of it. Its counts are its own. */
export async function buildPredictions(config: Config, models: Models): Promise<FastifyInstance> {
  const server = createServer(config)
  const { app } = server
  const meters = { stats: new Stats(), metrics: config.metrics ? new Metrics() : undefined }
  const front = readRequests(server, config, meters, () => false)
  const { early } = await answerPredictions(app, config, models, meters, {})
  await app.ready()
  front?.open(early, undefined)
  return app
}

interface Server {
  readonly app: FastifyInstance
  readonly malformed: Malformed
}

/** A server that gives up on slow, large and malformed requests before they cost anything. */
function createServer(config: Config): Server {
  const malformed = new Malformed(rawAnswersOf(config))
  const app = Fastify({
    logger: {
      level: config.logLevel,
      // Errors of the Redis client bring along the command: with the password where it was AUTH, with the callers else.
      redact: { paths: ['err.command', 'err.*.command'], remove: true },
    },
    // Two lines a request are most of the cost of a cheap one.
    logController: new LogController({ disableRequestLogging: !LOGS_REQUESTS.includes(config.logLevel) }),
    childLoggerFactory: requestLog,
    // Names the answer in problem documents and the request in the log.
    genReqId: () => randomUUID(),
    trustProxy: trustIn(config.trustProxy),
    bodyLimit: config.bodyLimit,
    // To receive a request whole; the time to answer it is REQUEST_TIMEOUT_MS.
    requestTimeout: config.uploadTimeoutMs,
    http: {
      headersTimeout: Math.min(3000, config.uploadTimeoutMs),
      connectionsCheckingInterval: 500,
      maxHeaderSize: 8192,
      // Refused by a hook instead, which can say why.
      requireHostHeader: false,
    },
    // What comes on an open connection while the app closes is still answered; Fastify asks the client to close it.
    return503OnClosing: false,
    ajv: {
      customOptions: {
        coerceTypes: false,
        removeAdditional: false,
        useDefaults: false,
        allErrors: false,
        // They are ours. To check them takes time at each start.
        validateSchema: false,
      },
    },
    routerOptions: {
      // One route whatever the spelling of its URL.
      ignoreTrailingSlash: true,
      ignoreDuplicateSlashes: true,
    },
    frameworkErrors: (error, request, reply) => {
      // No hook runs before these.
      malformed.remember(request.raw, reply.raw)
      reply.headers({ ...SECURITY_HEADERS, ...corsHeadersFor(config.corsOrigins, request.headers.origin) })
      sendErrorInForm(error, request, reply)
    },
    clientErrorHandler: malformed.handle as NonNullable<FastifyServerOptions['clientErrorHandler']>,
  })
  malformed.watch(app)
  const closes = watchUnfinished(app.server, malformed)
  app.addHook('preClose', done => {
    closes()
    done()
  })
  noteArrivals(app)
  // Each hook has its price, so these three are one.
  app.addHook('onRequest', (request, reply, done) => {
    malformed.remember(request.raw, reply.raw)
    // Here, so that a route with pages can say otherwise.
    reply.headers(SECURITY_HEADERS)
    done(hasHost(request) ? undefined : new Refusal(NO_HOST))
  })
  return { app, malformed }
}

/**
 * Closes connections beyond so many. `server.maxConnections` would not count those of further listeners, and with several
 * processes the first one would offer a connection that is refused here to another one, again and again.
 */
function limitConnections({ server }: FastifyInstance, most: number): void {
  let open = 0
  server.prependListener('connection', (socket: Socket) => {
    open++
    socket.once('close', () => open--)
    if (open > most) socket.destroy()
  })
}

/** Where every request is logged, each has to become one. */
const usesFront = ({ logLevel }: Config): boolean => !LOGS_REQUESTS.includes(logLevel)

function frontOptions(config: Config): FrontOptions {
  const { trustProxy, bearerKeys, requestTimeoutMs, uploadTimeoutMs, overloadStatus, bodyLimit, corsOrigins } = config
  const mostSkippedBytes = MOST_DISCARDED * bodyLimit
  const headers = { ...SECURITY_HEADERS, ...corsHeaders(corsOrigins) }
  const readsOrigin = corsOrigins.length > 0 && !corsOrigins.includes('*')
  return {
    ...{ trustProxy, bearerKeys, requestTimeoutMs, uploadTimeoutMs, overloadStatus },
    ...{ mostSkippedBytes, headers, readsOrigin, hasSdkHeaders: config.sdkHeaders !== 'off' },
  }
}

/** Answers to what never becomes a request of the app: in the form of its URL, as far as that was read. */
const rawAnswersOf =
  ({ corsOrigins }: Config): MakeRawAnswer =>
  (fault, request) => {
    const inV2 = request?.url !== undefined && isV2(request.url)
    const body = inV2 ? v2ErrorOf(fault) : JSON.stringify(problemOf(fault, randomUUID()))
    const headers = {
      ...SECURITY_HEADERS,
      ...corsHeadersFor(corsOrigins, request?.headers.origin),
      ...(inV2 ? { [errorCodeField]: fault.code } : {}),
      'content-type': inV2 ? V2_MEDIA_TYPE : MEDIA_TYPE,
      'content-length': Buffer.byteLength(body),
    }
    return { headers, body }
  }

/** Each protocol has its own form of errors, also for what no route was found for. */
function sendErrorInForm(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  return isV2(request.url) ? sendV2Error(error, request, reply) : sendError(error, request, reply)
}

/** Whether the request names its host, as RFC 9112, section 3.2, demands. */
const hasHost = ({ raw }: FastifyRequest): boolean => raw.headers.host !== undefined || raw.httpVersion === '1.0'
