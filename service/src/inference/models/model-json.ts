/** `model.json`: what people say of a model, checked when it is read. Pure. */

import { type BackendJson, backendFault, backendFields } from '../remote/backend-json.js'
import type { Feature, ImageJson, ModelInfo } from '../types.js'
import {
  nameOfProvider,
  optimizationLevels,
  type Provider,
  providerNames,
  type SessionJson,
} from '../workers/session-options.js'

export interface ModelJson {
  readonly description?: string
  /** Names of the values of a row in their order, or of the inputs; each alone or with `categories` and a `default`. */
  readonly features?: readonly Feature[]
  /** Class names by index. */
  readonly labels?: readonly string[]
  /** Share of held-out rows predicted rightly, 0 to 1. */
  readonly testAccuracy?: number
  /** How many held-out rows that was measured on. */
  readonly testRows?: number
  /** One row that the model takes; for several inputs an object of rows by name. */
  readonly sample?: unknown
  readonly source?: string
  readonly license?: string
  /** The output that names the class of a row, where `labels` or the file does not make it plain. */
  readonly labelOutput?: string
  /** The output that has one value a class. */
  readonly scoreOutput?: string
  /** `false`: requests for this model never share a run. `true`: they do, whatever the self-check would find. */
  readonly batching?: boolean
  /** `false`: the model is not run before it serves. */
  readonly selfCheck?: boolean
  /** How pictures become rows. */
  readonly image?: ImageJson
  /** How its sessions are made. */
  readonly session?: SessionJson
  /** Rows of one run at most; found by timing at load when left out. */
  readonly maxBatchRows?: number
  /**
   * Threads of one run. By default 1, since more workers beat more threads in all but large models; where `workers` are
   * fewer than there are, they share the threads of all.
   */
  readonly threads?: number
  /** Workers that load this model (default: all). Fewer save memory, and each run of a large model takes less time. */
  readonly workers?: number
  /** Credits of each request, and of each of its rows. */
  readonly cost?: { readonly request?: number; readonly row?: number }
  /** The version that answers where none is asked for; the newest when left out. */
  readonly defaultVersion?: string
  /** Weights of versions: each caller that asks for none has one of them, and keeps it. */
  readonly split?: Readonly<Record<string, number>>
  /** A version that also runs a share of the requests; its answers are compared, and given to nobody. */
  readonly shadow?: ShadowJson
  /** Where the model runs, when that is not here. */
  readonly backend?: BackendJson
}

export interface ShadowJson {
  readonly version: string
  /** From 0 to 1; all by default. */
  readonly share?: number
}

/** What of model.json says which version answers: no session depends on it. */
export type Routing = Pick<ModelJson, 'defaultVersion' | 'split' | 'shadow'>

export const routingOf = ({ defaultVersion, split, shadow }: ModelJson): Routing => ({
  ...(defaultVersion === undefined ? {} : { defaultVersion }),
  ...(split === undefined ? {} : { split }),
  ...(shadow === undefined ? {} : { shadow }),
})

type Check = (value: unknown) => string | undefined

const text: Check = value => (typeof value === 'string' ? undefined : 'a string')

const integerFrom =
  (min: number, max: number): Check =>
  value =>
    Number.isInteger(value) && (value as number) >= min && (value as number) <= max
      ? undefined
      : `an integer from ${min} to ${max}`

const share: Check = value =>
  typeof value === 'number' && value >= 0 && value <= 1 ? undefined : 'a number from 0 to 1'

const labelList: Check = value =>
  Array.isArray(value) && value.length > 0 && value.every(each => typeof each === 'string')
    ? undefined
    : 'a list of strings, one a class'

const costFault: Check = value => {
  const isCost =
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    Object.entries(value).every(
      ([name, credits]) => ['request', 'row'].includes(name) && integerFrom(0, 1_000_000_000)(credits) === undefined,
    )
  return isCost ? undefined : '{ "request": credits, "row": credits }, each an integer from 0 to 1000000000'
}

const truth: Check = value => (typeof value === 'boolean' ? undefined : 'true or false')

const oneOf =
  (values: readonly string[]): Check =>
  value =>
    values.includes(value as string) ? undefined : `one of ${values.join(', ')}`

/** Checks an object whose members have checks of their own, and that has no others. */
function membersFault(given: unknown, members: Readonly<Record<string, Check>>): string | undefined {
  const names = Object.keys(members).join(', ')
  if (typeof given !== 'object' || given === null || Array.isArray(given)) return `an object with ${names}`
  for (const [key, value] of Object.entries(given)) {
    const check = Object.hasOwn(members, key) ? members[key] : undefined
    if (check === undefined) return `an object with ${names}; '${key}' is none of them`
    const wanted = check(value)
    if (wanted !== undefined) return `as '${key}' ${wanted}`
  }
  return undefined
}

const providerList: Check = value =>
  Array.isArray(value) &&
  value.length > 0 &&
  value.every(each => providerNames.includes(nameOfProvider((each ?? '') as Provider)))
    ? undefined
    : `a list of ${providerNames.join(', ')}, in order, each by its name or as an object with 'name' and its options`

const sessionChecks: Readonly<Record<keyof SessionJson, Check>> = {
  executionProviders: providerList,
  onMissingProvider: oneOf(['fallback', 'refuse']),
  graphOptimizationLevel: oneOf(optimizationLevels),
  threads: integerFrom(1, 256),
  enableCpuMemArena: truth,
  enableMemPattern: truth,
  prepacking: truth,
}

const featureChecks: Readonly<Record<string, Check>> = {
  name: text,
  categories: value =>
    labelList(value) === undefined && new Set(value as string[]).size === (value as string[]).length
      ? undefined
      : 'a list of different texts',
  default: value =>
    ['string', 'number', 'boolean'].includes(typeof value) ? undefined : 'a text, a number, true or false',
}

function featuresFault(given: unknown): string | undefined {
  const takes = 'a list of names, each as a text or as an object with name, categories and default'
  if (!Array.isArray(given) || given.length === 0) return takes
  const names = new Set<string>()
  for (const each of given) {
    const fault = typeof each === 'string' ? undefined : membersFault(each, featureChecks)
    if (fault !== undefined) return `${takes}; one of them takes ${fault}`
    const name = typeof each === 'string' ? each : each.name
    if (typeof name !== 'string' || name === '' || names.has(name)) return `${takes}, each of its own`
    names.add(name)
  }
  return undefined
}

const number: Check = value => (typeof value === 'number' && Number.isFinite(value) ? undefined : 'a number')

const numbers =
  (isRight: (value: number) => boolean, what: string): Check =>
  value =>
    Array.isArray(value) && value.length > 0 && value.every(each => number(each) === undefined && isRight(each))
      ? undefined
      : what

const imageChecks: Readonly<Record<keyof ImageJson, Check>> = {
  input: text,
  width: integerFrom(1, 8192),
  height: integerFrom(1, 8192),
  channels: oneOf(['rgb', 'bgr', 'gray']),
  layout: oneOf(['nchw', 'nhwc']),
  fit: oneOf(['fill', 'cover', 'contain']),
  invert: truth,
  scale: number,
  mean: numbers(() => true, 'a list of numbers, one a channel'),
  std: numbers(each => each !== 0, 'a list of numbers other than 0, one a channel'),
}

const versionName: Check = value =>
  typeof value === 'string' && /^[1-9]\d*$/.test(value) ? undefined : 'a version as a text, such as "2"'

const splitFault: Check = value => {
  const takes = 'an object of weights by version, such as { "1": 90, "2": 10 }'
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return takes
  const weights = Object.values(value)
  const areWeights = weights.every(each => typeof each === 'number' && Number.isFinite(each) && each >= 0)
  const isSplit = areWeights && weights.some(each => each > 0)
  return isSplit && Object.keys(value).every(key => versionName(key) === undefined) ? undefined : takes
}

const checks: Readonly<Record<keyof ModelJson, Check>> = {
  description: text,
  features: featuresFault,
  labels: labelList,
  testAccuracy: share,
  testRows: integerFrom(0, Number.MAX_SAFE_INTEGER),
  sample: value => (value === null || value === undefined ? 'one row that the model takes' : undefined),
  source: text,
  license: text,
  labelOutput: text,
  scoreOutput: text,
  batching: truth,
  selfCheck: truth,
  image: value => membersFault(value, imageChecks),
  session: value => membersFault(value, sessionChecks),
  maxBatchRows: integerFrom(1, 65536),
  threads: integerFrom(1, 256),
  workers: integerFrom(1, 256),
  cost: costFault,
  defaultVersion: versionName,
  split: splitFault,
  shadow: value =>
    membersFault(value, { version: versionName, share }) ??
    ((value as ShadowJson).version === undefined ? "an object with 'version'" : undefined),
  backend: backendFault,
}

/** Names of all fields, and of those inside them. */
export const modelJsonFields: Readonly<Record<'model.json' | 'session' | 'image' | 'backend', readonly string[]>> = {
  'model.json': Object.keys(checks),
  session: Object.keys(sessionChecks),
  image: Object.keys(imageChecks),
  backend: backendFields,
}

/** Fields that are nobody's but the trainer's are kept out, and named in `unknown`. Throws Error naming what is wrong. */
export function parseModelJson(source: string): { json: ModelJson; unknown: readonly string[] } {
  let parsed: unknown
  try {
    // Editors of Windows begin a file with a mark.
    parsed = JSON.parse(source.replace(/^\ufeff/, ''))
  } catch (error) {
    throw new Error(`model.json is not JSON: ${(error as Error).message}`)
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new Error('model.json is not an object')
  }
  const json: Record<string, unknown> = {}
  const unknown: string[] = []
  for (const [key, value] of Object.entries(parsed)) {
    const check = Object.hasOwn(checks, key) ? checks[key as keyof ModelJson] : undefined
    const wanted = check?.(value)
    // A backend may have a token, which no log shows.
    const is = key === 'backend' ? 'is not usable' : `is ${short(value)}`
    if (wanted !== undefined) throw new Error(`model.json: '${key}' ${is}; it takes ${wanted}`)
    if (check === undefined) unknown.push(key)
    else json[key] = value
  }
  return { json: json as ModelJson, unknown }
}

function short(value: unknown): string {
  const json = JSON.stringify(value)
  return json.length > 60 ? `${json.slice(0, 60)}…` : json
}

/** What model.json says to people. */
const TOLD = [
  ...['description', 'features', 'image', 'labels', 'labelOutput', 'scoreOutput'],
  ...['testAccuracy', 'testRows', 'license', 'source', 'cost'],
] as readonly (keyof ModelJson & keyof ModelInfo)[]

export function toldOf(json: ModelJson): Partial<ModelInfo> {
  const told = TOLD.map(name => [name, json[name]] as const)
  return Object.fromEntries(told.filter(([, value]) => value !== undefined && value !== ''))
}
