/** `backend` of model.json: where a model runs that does not run here, checked when it is read. Pure. */

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
}

/** The same with every default in place. */
export interface BackendSettings extends Required<Omit<BackendJson, 'version'>> {
  readonly version: string | undefined
}

export function backendSettings(name: string, json: BackendJson): BackendSettings {
  return {
    urls: json.urls.map(url => url.replace(/\/+$/, '')),
    model: json.model ?? name,
    version: json.version,
    lanes: json.lanes ?? 4,
    retry: json.retry ?? 'unsent',
    healthIntervalMs: json.healthIntervalMs ?? 1000,
  }
}

const isName = (value: unknown): boolean => typeof value === 'string' && value !== ''

const isInteger = (value: unknown, min: number, max: number): boolean =>
  Number.isInteger(value) && (value as number) >= min && (value as number) <= max

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
  for (const [name, each] of Object.entries(given)) {
    const member = Object.hasOwn(members, name) ? members[name as keyof BackendJson] : undefined
    if (member === undefined) return `no '${name}', but ${Object.keys(members).join(', ')}`
    if (!member.holds(each)) return `as '${name}' ${member.takes}`
  }
  return undefined
}
