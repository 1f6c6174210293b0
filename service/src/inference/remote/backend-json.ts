/** `backend` of model.json: where a model runs that does not run here, checked when it is read. Pure. */
import type { Signature } from '../types.js'
import { readSignature } from './metadata.js'

export interface BackendJson {
  /** Servers of the Open Inference Protocol v2 over HTTP; a path before `/v2` is kept. */
  readonly urls: readonly string[]
  /** The model's name there; the folder's name when left out. */
  readonly model?: string
  /** The version there; the server chooses when left out. */
  readonly version?: string
  /** Calls on their way to one url at most: what it can take at once. */
  readonly lanes?: number
  /**
   * `unsent`: a call goes to another url only where it cannot have reached the first. `safe`: also after a lost
   * connection or a 503, since running this model twice does no harm.
   */
  readonly retry?: 'unsent' | 'safe'
  /** How often each url is asked whether the model is ready, in milliseconds. */
  readonly healthIntervalMs?: number
  /** Sent with every request to the urls. A value may hold `${NAME}`, which stands for that environment variable. */
  readonly headers?: Readonly<Record<string, string>>
  /** Sent as `authorization: Bearer`. May hold `${NAME}` as well. */
  readonly token?: string
  /** Inputs and outputs as the protocol's metadata has them, for servers whose metadata lists none. */
  readonly signature?: { readonly inputs: unknown; readonly outputs: unknown }
}

/** The same with every default in place. */
export interface BackendSettings extends Required<Omit<BackendJson, 'version' | 'token' | 'signature'>> {
  readonly version: string | undefined
  readonly signature: Signature | undefined
}

/** Throws Error naming an environment variable that is not set. */
export function backendSettings(
  name: string,
  json: BackendJson,
  env: Readonly<Record<string, string | undefined>> = process.env,
): BackendSettings {
  const { token, signature } = json
  const headers = { ...json.headers, ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) }
  return {
    urls: json.urls.map(url => url.replace(/\/+$/, '')),
    model: json.model ?? name,
    version: json.version,
    lanes: json.lanes ?? 4,
    retry: json.retry ?? 'unsent',
    healthIntervalMs: json.healthIntervalMs ?? 1000,
    headers: Object.fromEntries(Object.entries(headers).map(([field, value]) => [field, fillIn(value, env)])),
    signature: signature && readSignature(signature.inputs, signature.outputs),
  }
}

function fillIn(value: string, env: Readonly<Record<string, string | undefined>>): string {
  return value.replaceAll(/\$\{(\w+)\}/g, (_, name: string) => {
    const found = env[name]
    if (found === undefined) throw new Error(`model.json: the environment variable '${name}' is not set`)
    return found.trim()
  })
}

const isName = (value: unknown): boolean => typeof value === 'string' && value !== ''

const isInteger = (value: unknown, min: number, max: number): boolean =>
  Number.isInteger(value) && (value as number) >= min && (value as number) <= max

/** What the service or the connection sets itself. */
const OWN_HEADERS = [
  ...['accept-encoding', 'connection', 'content-encoding', 'content-length', 'content-type', 'expect', 'keep-alive'],
  ...['te', 'trailer', 'transfer-encoding', 'upgrade', 'x-request-timeout-ms', 'inference-header-content-length'],
]

const isObject = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const isFieldValue = (value: unknown): boolean => typeof value === 'string' && /^[\x20-\x7e]+$/.test(value)

const isField = (name: string, value: unknown): boolean =>
  /^[\w!#$%&'*+.^`|~-]+$/.test(name) && !OWN_HEADERS.includes(name.toLowerCase()) && isFieldValue(value)

const members: Readonly<Record<keyof BackendJson, { holds: (value: unknown) => boolean; takes: string }>> = {
  urls: {
    holds: value =>
      Array.isArray(value) && value.length > 0 && value.every(isHttpUrl) && new Set(value).size === value.length,
    takes: 'a list of different http:// or https:// urls, without user, query or fragment',
  },
  model: { holds: isName, takes: 'the name of the model there' },
  version: { holds: isName, takes: 'the version there, as a string' },
  lanes: { holds: value => isInteger(value, 1, 1024), takes: 'an integer from 1 to 1024' },
  retry: { holds: value => value === 'unsent' || value === 'safe', takes: "'unsent' or 'safe'" },
  healthIntervalMs: { holds: value => isInteger(value, 50, 60_000), takes: 'an integer from 50 to 60000' },
  headers: {
    holds: value => isObject(value) && Object.entries(value).every(([name, text]) => isField(name, text)),
    takes: `an object of texts by header name, without ${OWN_HEADERS.join(', ')}`,
  },
  token: { holds: value => isName(value) && isFieldValue(value), takes: 'a token, in visible ASCII' },
  signature: {
    holds: isSignature,
    takes: 'an object with "inputs" and "outputs", each a list of { "name", "datatype", "shape" }',
  },
}

export const backendFields: readonly string[] = Object.keys(members)

function isSignature(value: unknown): boolean {
  if (!isObject(value)) return false
  const { inputs, outputs, ...more } = value as { inputs?: unknown; outputs?: unknown }
  try {
    readSignature(inputs, outputs)
    return Object.keys(more).length === 0
  } catch {
    return false
  }
}

function isHttpUrl(value: unknown): boolean {
  if (typeof value !== 'string' || !URL.canParse(value)) return false
  const { protocol, username, password, search, hash } = new URL(value)
  return (protocol === 'http:' || protocol === 'https:') && `${username}${password}${search}${hash}` === ''
}

/** What `backend` takes where `value` is something else; undefined where it fits. */
export function backendFault(value: unknown): string | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return 'an object with "urls", as { "urls": ["http://triton:8000"], "model": "resnet" }'
  }
  const given = value as Readonly<Record<string, unknown>>
  if (given.urls === undefined) return '"urls"'
  const names = Object.keys(isObject(given.headers) ? given.headers : {}).map(name => name.toLowerCase())
  if (given.token !== undefined && names.includes('authorization')) return "one of 'token' and 'headers.authorization'"
  for (const [name, each] of Object.entries(given)) {
    const member = Object.hasOwn(members, name) ? members[name as keyof BackendJson] : undefined
    if (member === undefined) return `no '${name}', but ${Object.keys(members).join(', ')}`
    if (!member.holds(each)) return `as '${name}' ${member.takes}`
  }
  return undefined
}
