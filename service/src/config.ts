/** The settings of the service: what there is, what each takes, and the one value that the rest of the service reads. */
import { isIP } from 'node:net'
import { parse as parseDuration } from '@lukeed/ms'
import { Ajv } from 'ajv'
import { type Static, type TSchema, Type } from 'typebox'
import type { OverloadStatus } from './http/problem.js'
import { gate, limit } from './inference/queue/admission-constants.js'
import { usableCores } from './inference/workers/cores.js'
import { parseRedisUrl, type RedisTarget } from './redis-url.js'
import { readTracing, type TracingSettings } from './tracing/settings.js'

/** Beside what JSON Schema knows of a setting: what docs/operations.md and an error message say of it. */
export interface Words {
  /** What it is for. */
  readonly description: string
  /** What it may be. */
  readonly takes: string
  /** What holds when it is left out, where there is no plain default. */
  readonly otherwise?: string
  /** Never shown in a message. */
  readonly secret?: boolean
}

/** As many processes as cores. */
const AUTO = 'auto'
const MOST_PROCESSES = 256

/** Below the folder that the service was started in. */
const DEFAULT_KEYS_FILE = 'data/keys.jsonl'

const milliseconds = (minimum: number, byDefault: number, description: string) =>
  Type.Integer({ minimum, default: byDefault, description, takes: `milliseconds, ${minimum} or more` })

const oneOf = <const T extends string>(values: readonly T[], byDefault: NoInfer<T>, description: string) =>
  Type.Unsafe<T>({ type: 'string', enum: values, default: byDefault, description, takes: values.join(', ') })

const optionalCount = (description: string, otherwise: string) =>
  Type.Optional(Type.Integer({ minimum: 1, description, otherwise, takes: 'an integer, 1 or more' }))

const optionalText = (words: Words, format?: string) =>
  Type.Optional(Type.String({ ...words, ...(format === undefined ? {} : { format }) }))

/** Every setting, by the name of its environment variable. An empty one counts as left out. */
export const settings = {
  HOST: Type.String({
    default: '0.0.0.0',
    description: 'Address to listen on.',
    takes: 'an address or host name; localhost for each of its addresses, :: for IPv6 as well',
  }),
  PORT: Type.Integer({
    minimum: 0,
    maximum: 65535,
    default: 3000,
    description: 'Port to listen on.',
    takes: 'an integer, 0 (any free port) to 65535',
  }),
  OPS_PORT: Type.Optional(
    Type.Integer({
      minimum: 0,
      maximum: 65535,
      description:
        'Port of a second listener for `/health`, `/metrics` and `/v1/admin`, which clients of the first one cannot keep busy. `PORT` answers them as well.',
      otherwise: 'there is none',
      takes: 'an integer, 0 (any free port) to 65535; not the one of PORT',
    }),
  ),
  WEB_PROCESSES: Type.String({
    format: 'processes',
    default: '1',
    description:
      'Processes that serve on one port, for more requests than one main thread can take; see docs/deployment.md. `INFERENCE_THREADS` and `MAX_CONNECTIONS` are divided among them.',
    takes: 'an integer, 1 to 256, or `auto`: one for each core of the CPU quota, and no more than `INFERENCE_THREADS`',
  }),
  MAX_CONNECTIONS: optionalCount('Most connections to `PORT` at once; further ones are closed.', 'any number'),
  LOG_LEVEL: oneOf(
    ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'],
    'info',
    'Lowest level that is logged. `debug` and `trace` log every request.',
  ),
  REDIS_URL: optionalText(
    {
      description:
        'Where the limits are counted for all replicas: one Redis, a Redis Cluster (one endpoint or several nodes), or a primary that Sentinels watch; see docs/deployment.md.',
      takes:
        'redis://[user:password@]host[:port][/database]; host,host or redis+cluster://host for a cluster; redis+sentinel://host,host/name for Sentinels; rediss for TLS in each',
      otherwise: 'counted in this process',
      secret: true,
    },
    'redis-url',
  ),
  REDIS_NAMESPACE: Type.String({
    default: 'ml-api:',
    description: 'Prefix of every key in Redis. Services that share a Redis but not their limits need one each.',
    takes: 'a text',
  }),
  RATE_LIMIT_MAX: Type.Integer({
    minimum: 0,
    default: 100,
    description: 'Predictions allowed to one client in any one window.',
    takes: 'an integer, 0 (nothing is allowed) or more',
  }),
  RATE_LIMIT_WINDOW: Type.String({
    format: 'duration-text',
    default: '1 minute',
    description: 'Length of the sliding window.',
    takes: 'a duration such as 10s, 1 minute or 2h, or milliseconds',
  }),
  LIMITS_FILE: optionalText({
    description: 'Plans, and API keys with their plan; see docs/limits.md.',
    takes: 'a JSON file',
    otherwise: 'one plan, of `RATE_LIMIT_MAX` in `RATE_LIMIT_WINDOW`',
  }),
  KEYS_STORE: optionalText(
    {
      description:
        'Where API keys made at run time and usage are stored: a file, or a separate Redis that all replicas share; see docs/keys.md.',
      takes: 'a file, or redis://… in the forms of `REDIS_URL`',
      otherwise: 'the file `data/keys.jsonl`',
      secret: true,
    },
    'keys-store',
  ),
  KEYS_MAX_STALE: optionalText(
    {
      description:
        'How long a replica goes on with the keys that it knows while `KEYS_STORE` is away; then requests with such a key get 503.',
      takes: 'a duration such as 10s, 1 minute or 2h, or milliseconds',
      otherwise: 'without an end',
    },
    'duration-text',
  ),
  USAGE_DAYS: Type.Integer({
    minimum: 1,
    maximum: 3660,
    default: 93,
    description: 'How long usage is stored.',
    takes: 'days, 1 to 3660',
  }),
  USAGE_FLUSH_MS: milliseconds(
    100,
    2000,
    'How often usage is written to `KEYS_STORE`. A killed process loses at most so much of it.',
  ),
  SDK_HEADERS: oneOf(
    ['off', 'openai'],
    'off',
    'Limit headers for client libraries of other APIs, beside the IETF ones: `openai` adds `x-ratelimit-limit-requests` and similar ones.',
  ),
  BEARER_KEYS: oneOf(
    ['off', 'on'],
    'off',
    'Whether `authorization: Bearer` can carry an API key, besides `x-api-key`. Off: the header is ignored, for example because a proxy uses it to sign users in.',
  ),
  ON_STORE_ERROR: oneOf(
    ['local', 'allow', 'deny'],
    'local',
    'What happens while Redis cannot be asked: each replica counts against its part of the limits, all requests pass, or all get 503.',
  ),
  STORE_TIMEOUT_MS: milliseconds(1, 100, 'How long Redis may take to answer before `ON_STORE_ERROR` applies.'),
  TRUST_PROXY: optionalText(
    {
      description: 'Proxies whose `X-Forwarded-For` is trusted.',
      takes:
        'addresses and CIDR ranges, comma-separated, such as 10.0.0.0/8,::1; not `true`, a number of hops or a range ' +
        'of everything, with which a client could forge its address',
      otherwise: 'none: the peer of the connection is the client',
    },
    'proxies',
  ),
  MODELS_DIR: optionalText({
    description: 'Folder with `<name>/<version>/model.onnx`.',
    takes: 'a folder',
    otherwise: '`models` in the current folder',
  }),
  DEFAULT_MODEL: optionalText({
    description: 'The model for requests that name none.',
    takes: 'the name of a model',
    otherwise: 'none; not needed with a single model',
  }),
  INFERENCE_THREADS: optionalCount(
    'Workers that run models.',
    'one per core; in a container one per core of its CPU quota',
  ),
  INFERENCE_ISOLATION: oneOf(
    ['thread', 'process'],
    'thread',
    'What a worker is. With `process`, a native crash of a model does not end the service.',
  ),
  BATCH_MAX_SIZE: optionalCount('Most rows in one run.', 'found for each model by measuring'),
  BATCH_MAX_DELAY_MS: Type.Number({
    minimum: 0,
    default: 0,
    description: 'How long a request may wait for others to join its batch while a worker is free.',
    takes: 'milliseconds, 0 or more',
  }),
  QUEUE_MAX: Type.Integer({
    minimum: 1,
    default: 10_000,
    description: 'Most rows that wait for one model; further requests are refused as overload.',
    takes: 'an integer, 1 or more',
  }),
  ADMISSION: oneOf(
    ['on', 'off'],
    'on',
    'Whether requests that would wait too long are refused at once. Off: only `QUEUE_MAX` and deadlines apply.',
  ),
  ADMISSION_WAIT_MS: milliseconds(
    1,
    limit.mostWaitMs,
    'Longest wait to aim for while a model gets more requests than it can run.',
  ),
  ADMISSION_DELAY_MS: milliseconds(
    1,
    gate.delayMs,
    'How late a turn of the event loop may be before fewer requests are read at once.',
  ),
  REQUEST_TIMEOUT_MS: milliseconds(
    1,
    5000,
    'Longest time to an answer. A caller asks for less with the header `x-request-timeout-ms`.',
  ),
  UPLOAD_TIMEOUT_MS: milliseconds(
    1,
    5000,
    'How long a request may take to arrive completely; then it gets 408. Its headers may take three seconds at most.',
  ),
  RUN_TIMEOUT_MS: milliseconds(
    1,
    60_000,
    'How long a run may take. A worker process that takes longer is replaced; a worker thread makes the service not ready.',
  ),
  TRIAL_TIMEOUT_MS: milliseconds(
    1,
    60_000,
    'How long it may take to load and check a model in a separate process before it serves. A model that takes longer is refused.',
  ),
  OVERLOAD_STATUS: Type.Unsafe<OverloadStatus>({
    type: 'integer',
    enum: [429, 503],
    default: 429,
    description:
      'Status of refusals under overload. Many balancers take out a replica that answers 503. If no worker or backend is up, the status is always 503.',
    takes: '429, 503',
  }),
  BODY_LIMIT: Type.Integer({
    minimum: 1024,
    maximum: 268_435_456,
    default: 1_048_576,
    description: 'Longest request body.',
    takes: 'bytes, 1024 to 268435456',
  }),
  UNPACKED_BODY_LIMIT: Type.Optional(
    Type.Integer({
      minimum: 1024,
      maximum: 268_435_456,
      description: 'Longest body of a request with `content-encoding: gzip`, once unpacked.',
      otherwise: 'as `BODY_LIMIT`',
      takes: 'bytes, 1024 to 268435456',
    }),
  ),
  STREAM_LIMIT: Type.Integer({
    minimum: 1024,
    default: 1_073_741_824,
    description: 'Longest stream of rows (CSV or NDJSON), once unpacked.',
    takes: 'bytes, 1024 or more',
  }),
  STREAM_STALL_MS: milliseconds(
    100,
    30_000,
    'How long a stream may wait, for rows, for its answers to be read or for quota, before it is ended.',
  ),
  IMAGE_PIXEL_LIMIT: Type.Integer({
    minimum: 1,
    default: 16_777_216,
    description:
      'Most pixels in the pictures of a request, as they come and as the model takes them. With more, they are refused before they are decoded.',
    takes: 'an integer, 1 or more',
  }),
  CORS_ORIGINS: optionalText(
    {
      description: 'Origins whose browser apps may read the answers, limit headers included.',
      takes: 'origins, comma-separated, such as https://app.example,http://localhost:5173, or * for all',
      otherwise: 'none: only pages of this service',
    },
    'origins',
  ),
  CONSOLE: oneOf(
    ['on', 'off'],
    'on',
    'Whether the page at `/console` is served: keys, usage and denials. It needs an `ADMIN_TOKEN`.',
  ),
  PLAYGROUND: oneOf(['on', 'off'], 'on', 'Whether the page at `/` is served.'),
  DOCS: oneOf(['on', 'off'], 'on', 'Whether the API reference at `/docs` and `/openapi.json` are served.'),
  EVENTS: oneOf(['on', 'off'], 'on', 'Whether `GET /v1/events` is served: the figures for the charts of the page.'),
  METRICS: oneOf(['on', 'off'], 'on', 'Whether `GET /metrics` is served, and its figures are counted.'),
  ADMIN_TOKEN: optionalText(
    {
      description: 'Bearer token of `/v1/admin`.',
      takes: 'a long random text of visible ASCII, without spaces',
      otherwise: 'there are no admin routes',
      secret: true,
    },
    'token',
  ),
  STOP_DELAY_MS: milliseconds(
    0,
    500,
    'How long requests are still accepted after a stop was asked for and `/health/ready` says 503, so that balancers can see it.',
  ),
  STOP_TIMEOUT_MS: milliseconds(1, 10_000, 'Time for the requests in flight at a stop; unfinished ones are lost.'),
}

const SettingsSchema = Type.Object(settings)
type Settings = Static<typeof SettingsSchema>

/** The settings as the service reads them: complete, checked, durations in milliseconds. */
export interface Config {
  readonly host: string
  readonly port: number
  /** Port of the second listener; undefined where there is none. */
  readonly opsPort: number | undefined
  /** Processes that serve. */
  readonly webProcesses: number
  /** Connections at once; undefined: any number. */
  readonly maxConnections: number | undefined
  readonly logLevel: Settings['LOG_LEVEL']
  /** Where limits are counted; undefined: in this process. */
  readonly redis: RedisTarget | undefined
  readonly redisNameSpace: string
  readonly rateLimit: { readonly max: number; readonly windowMs: number }
  /** Where plans and keys are read from; undefined: `rateLimit` is the plan of everybody. */
  readonly limitsFile: string | undefined
  readonly keys: {
    /** A file, or a Redis. */
    readonly store: string | RedisTarget
    /** Whether a setting names the store. */
    readonly isGiven: boolean
    /** How long keys are good without a word from the store; Infinity: for ever. */
    readonly maxStaleMs: number
  }
  readonly usage: {
    /** How long it is kept. */
    readonly days: number
    /** How often it is brought to the store. */
    readonly flushMs: number
  }
  readonly sdkHeaders: Settings['SDK_HEADERS']
  /** Whether `authorization: Bearer` may carry an API key. */
  readonly bearerKeys: boolean
  readonly onStoreError: Settings['ON_STORE_ERROR']
  readonly storeTimeoutMs: number
  readonly trustProxy: readonly string[]
  readonly models: {
    readonly dir: string
    readonly defaultModel: string | undefined
    readonly workers: number | undefined
    readonly isolation: Settings['INFERENCE_ISOLATION']
    readonly batchMaxRows: number | undefined
    readonly batchMaxDelayMs: number
    readonly admission: Settings['ADMISSION']
    readonly admissionWaitMs: number
    readonly queueMaxRows: number
    readonly stuckAfterMs: number
    readonly trialTimeoutMs: number
    readonly bodyLimit: number
  }
  /** Milliseconds that a turn of the event loop may be late; undefined: the gate in front of the body is off. */
  readonly gateDelayMs: number | undefined
  readonly requestTimeoutMs: number
  readonly uploadTimeoutMs: number
  readonly overloadStatus: OverloadStatus
  readonly bodyLimit: number
  readonly unpackedBodyLimit: number
  readonly streamLimit: number
  readonly streamStallMs: number
  readonly imagePixelLimit: number
  /** `*` among them: all. */
  readonly corsOrigins: readonly string[]
  readonly console: boolean
  readonly playground: boolean
  readonly docs: boolean
  readonly events: boolean
  readonly metrics: boolean
  /** Undefined where no traces are asked for. */
  readonly tracing: TracingSettings | undefined
  readonly adminToken: string | undefined
  readonly stopDelayMs: number
  readonly stopTimeoutMs: number
}

/** Settings that cannot be met: one line for each, with its value and what it takes. */
export class ConfigError extends Error {
  constructor(readonly problems: readonly string[]) {
    super(
      `${problems.length === 1 ? 'a setting is' : `${problems.length} settings are`} wrong\n  ${problems.join('\n  ')}`,
    )
    this.name = 'ConfigError'
  }
}

const commaSeparated = (text: string): string[] => text.split(',').map(part => part.trim())

/** A duration in words, or a plain number of milliseconds; undefined where it is neither or not above 0. */
export function durationMs(text: string): number | undefined {
  const ms = parseDuration(text.trim())
  return ms !== undefined && ms >= 1 && Number.isFinite(ms) ? Math.trunc(ms) : undefined
}

function isProxy(text: string): boolean {
  const [address = '', prefix, ...more] = text.split('/')
  const family = isIP(address)
  if (family === 0 || more.length > 0) return false
  // A prefix of 0 is everybody, which is what `true` would be.
  return (
    prefix === undefined ||
    (/^\d{1,3}$/.test(prefix) && Number(prefix) >= 1 && Number(prefix) <= (family === 4 ? 32 : 128))
  )
}

/** As browsers send it: scheme and host, in lower case, and no path. */
const isOrigin = (text: string): boolean =>
  text === '*' || (/^https?:\/\//.test(text) && URL.canParse(text) && new URL(text).origin === text)

const formats: Readonly<Record<string, (text: string) => boolean>> = {
  processes: text => text === AUTO || (/^[1-9]\d{0,2}$/.test(text) && Number(text) <= MOST_PROCESSES),
  'duration-text': text => durationMs(text) !== undefined,
  origins: text => commaSeparated(text).every(isOrigin),
  proxies: text => commaSeparated(text).every(isProxy),
  'keys-store': text => !text.includes('://') || parseRedisUrl(text) !== undefined,
  'redis-url': text => parseRedisUrl(text) !== undefined,
  token: text => /^[\x21-\x7e]+$/.test(text),
}

export type Environment = Readonly<Record<string, string | undefined>>

/** What an environment sets: an empty value counts as left out. */
export function givenSettings(environment: Environment): Record<string, string> {
  const given: Record<string, string> = {}
  for (const name of Object.keys(settings)) {
    const value = environment[name]
    if (value !== undefined && value.trim() !== '') given[name] = value
  }
  return given
}

/** What a setting says of itself. */
export const wordsOf = (name: string): Words & { readonly default?: unknown } =>
  (settings as Readonly<Record<string, TSchema>>)[name] as unknown as Words

/** Reads the settings. Throws ConfigError, which names every wrong one. */
export function readConfig(environment: Environment): Config {
  const given = givenSettings(environment)
  // To check the schema itself would take a tenth of the whole start.
  const ajv = new Ajv({ allErrors: true, useDefaults: true, coerceTypes: true, validateSchema: false })
  for (const word of ['takes', 'otherwise', 'secret']) ajv.addKeyword(word)
  for (const [name, check] of Object.entries(formats)) ajv.addFormat(name, check)
  const values: Record<string, unknown> = { ...given }
  const check = ajv.compile(structuredClone(SettingsSchema))
  if (!check(values)) throw new ConfigError(problemsOf(check.errors ?? [], given))
  const read = values as Settings
  if (read.OPS_PORT !== undefined && read.OPS_PORT === read.PORT && read.PORT !== 0)
    throw new ConfigError([problemOf('OPS_PORT', given)])
  refuseTooManyProcesses(read)
  return toConfig(read, readTracing(environment))
}

/** Each process has a part of these, and cannot do without one. */
function refuseTooManyProcesses({ WEB_PROCESSES, INFERENCE_THREADS, MAX_CONNECTIONS }: Settings): void {
  if (WEB_PROCESSES === AUTO) return
  const problems = Object.entries({ INFERENCE_THREADS, MAX_CONNECTIONS }).flatMap(([name, whole]) =>
    whole === undefined || whole >= Number(WEB_PROCESSES)
      ? []
      : [
          `WEB_PROCESSES is '${WEB_PROCESSES}', and ${name} '${whole}' is divided among them; it takes ${whole} at most`,
        ],
  )
  if (problems.length > 0) throw new ConfigError(problems)
}

function processesOf({ WEB_PROCESSES, INFERENCE_THREADS, MAX_CONNECTIONS }: Settings): number {
  if (WEB_PROCESSES !== AUTO) return Number(WEB_PROCESSES)
  return Math.min(usableCores(), INFERENCE_THREADS ?? MOST_PROCESSES, MAX_CONNECTIONS ?? MOST_PROCESSES, MOST_PROCESSES)
}

function problemsOf(
  errors: readonly { readonly instancePath: string }[],
  given: Readonly<Record<string, string>>,
): string[] {
  const names = new Set(errors.map(({ instancePath }) => instancePath.slice(1)))
  return [...names].map(name => problemOf(name, given))
}

function problemOf(name: string, given: Readonly<Record<string, string>>): string {
  const { takes, secret } = wordsOf(name)
  return `${name} is ${secret ? 'not usable' : `'${clip(given[name] ?? '')}'`}; it takes ${takes}`
}

const clip = (text: string): string => (text.length > 80 ? `${text.slice(0, 80)}…` : text)

function toConfig(read: Settings, tracing: TracingSettings | undefined): Config {
  return {
    host: read.HOST,
    port: read.PORT,
    opsPort: read.OPS_PORT,
    webProcesses: processesOf(read),
    maxConnections: read.MAX_CONNECTIONS,
    logLevel: read.LOG_LEVEL,
    redis: read.REDIS_URL === undefined ? undefined : parseRedisUrl(read.REDIS_URL),
    redisNameSpace: read.REDIS_NAMESPACE,
    rateLimit: { max: read.RATE_LIMIT_MAX, windowMs: durationMs(read.RATE_LIMIT_WINDOW) as number },
    limitsFile: read.LIMITS_FILE,
    keys: {
      store: (read.KEYS_STORE && parseRedisUrl(read.KEYS_STORE)) || (read.KEYS_STORE ?? DEFAULT_KEYS_FILE),
      isGiven: read.KEYS_STORE !== undefined,
      maxStaleMs:
        read.KEYS_MAX_STALE === undefined ? Number.POSITIVE_INFINITY : (durationMs(read.KEYS_MAX_STALE) as number),
    },
    usage: { days: read.USAGE_DAYS, flushMs: read.USAGE_FLUSH_MS },
    sdkHeaders: read.SDK_HEADERS,
    bearerKeys: read.BEARER_KEYS === 'on',
    onStoreError: read.ON_STORE_ERROR,
    storeTimeoutMs: read.STORE_TIMEOUT_MS,
    trustProxy: read.TRUST_PROXY === undefined ? [] : commaSeparated(read.TRUST_PROXY),
    models: {
      dir: read.MODELS_DIR ?? 'models',
      defaultModel: read.DEFAULT_MODEL,
      workers: read.INFERENCE_THREADS,
      isolation: read.INFERENCE_ISOLATION,
      batchMaxRows: read.BATCH_MAX_SIZE,
      batchMaxDelayMs: read.BATCH_MAX_DELAY_MS,
      admission: read.ADMISSION,
      admissionWaitMs: read.ADMISSION_WAIT_MS,
      queueMaxRows: read.QUEUE_MAX,
      stuckAfterMs: read.RUN_TIMEOUT_MS,
      trialTimeoutMs: read.TRIAL_TIMEOUT_MS,
      bodyLimit: read.UNPACKED_BODY_LIMIT ?? read.BODY_LIMIT,
    },
    gateDelayMs: read.ADMISSION === 'on' ? read.ADMISSION_DELAY_MS : undefined,
    requestTimeoutMs: read.REQUEST_TIMEOUT_MS,
    uploadTimeoutMs: read.UPLOAD_TIMEOUT_MS,
    overloadStatus: read.OVERLOAD_STATUS,
    bodyLimit: read.BODY_LIMIT,
    unpackedBodyLimit: read.UNPACKED_BODY_LIMIT ?? read.BODY_LIMIT,
    streamLimit: read.STREAM_LIMIT,
    streamStallMs: read.STREAM_STALL_MS,
    imagePixelLimit: read.IMAGE_PIXEL_LIMIT,
    corsOrigins: read.CORS_ORIGINS === undefined ? [] : commaSeparated(read.CORS_ORIGINS),
    console: read.CONSOLE === 'on',
    playground: read.PLAYGROUND === 'on',
    docs: read.DOCS === 'on',
    events: read.EVENTS === 'on',
    metrics: read.METRICS === 'on',
    tracing,
    adminToken: read.ADMIN_TOKEN,
    stopDelayMs: read.STOP_DELAY_MS,
    stopTimeoutMs: read.STOP_TIMEOUT_MS,
  }
}
