/** `model.json`: what people say of a model, checked when it is read. Pure. */
import { type BackendJson, backendFault } from '../remote/backend-json.js'

export interface ModelJson {
  readonly description?: string
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
  /** `false`: requests for this model never share a run. */
  readonly batching?: boolean
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
  /** Where the model runs, when that is not here. */
  readonly backend?: BackendJson
}

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
    Object.entries(value).every(
      ([name, credits]) => ['request', 'row'].includes(name) && integerFrom(0, 1_000_000_000)(credits) === undefined,
    )
  return isCost ? undefined : '{ "request": credits, "row": credits }, each an integer from 0 to 1000000000'
}

const checks: Readonly<Record<keyof ModelJson, Check>> = {
  description: text,
  labels: labelList,
  testAccuracy: share,
  testRows: integerFrom(0, Number.MAX_SAFE_INTEGER),
  sample: value => (value === null || value === undefined ? 'one row that the model takes' : undefined),
  source: text,
  license: text,
  batching: value => (typeof value === 'boolean' ? undefined : 'true or false'),
  maxBatchRows: integerFrom(1, 65536),
  threads: integerFrom(1, 256),
  workers: integerFrom(1, 256),
  cost: costFault,
  backend: backendFault,
}

/** Fields that are nobody's but the trainer's are kept out, and named in `unknown`. Throws Error naming what is wrong. */
export function parseModelJson(source: string): { json: ModelJson; unknown: readonly string[] } {
  let parsed: unknown
  try {
    parsed = JSON.parse(source)
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
