/** Plans and keys: the limits file read, checked whole, and turned into the one value that the limiters are made of. */
import { readFileSync } from 'node:fs'
import { type Static, Type } from 'typebox'
import { Value } from 'typebox/value'
import { ConfigError, durationMs } from '../config.js'

const closed = { additionalProperties: false } as const
const Name = Type.String({ pattern: '^[a-z][a-z0-9-]{0,31}$' })

const PolicySchema = Type.Object(
  {
    name: Name,
    unit: Type.Optional(Type.Union([Type.Literal('requests'), Type.Literal('rows'), Type.Literal('compute-ms')])),
    limit: Type.Integer({ minimum: 0 }),
    window: Type.Union([Type.String(), Type.Integer({ minimum: 1 })]),
  },
  closed,
)

const FileSchema = Type.Object(
  {
    anonymous: Type.Union([Name, Type.Null()]),
    plans: Type.Record(
      Type.String(),
      Type.Object(
        {
          policies: Type.Array(PolicySchema, { minItems: 1 }),
          concurrency: Type.Optional(Type.Integer({ minimum: 1 })),
          priority: Type.Optional(Type.Integer({ minimum: -1000, maximum: 1000 })),
        },
        closed,
      ),
    ),
    keys: Type.Optional(
      Type.Array(
        Type.Object(
          {
            sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
            plan: Name,
            revoked: Type.Optional(Type.Boolean()),
          },
          closed,
        ),
      ),
    ),
  },
  closed,
)

/** What a policy counts; `compute-ms` is milliseconds that the model ran for the caller, known only afterwards. */
export type Unit = 'requests' | 'rows' | 'compute-ms'

export interface PlanPolicy {
  readonly name: string
  readonly unit: Unit
  /** Units allowed in any one window. */
  readonly limit: number
  readonly windowMs: number
}

export interface Plan {
  readonly name: string
  /** One or more in requests, and any number in the other units. */
  readonly policies: readonly PlanPolicy[]
  /** Requests in flight at most; undefined: any number. */
  readonly concurrency: number | undefined
  /** While requests wait, those of the higher go first. */
  readonly priority: number
}

export interface Plans {
  /** Plan of callers without a key; undefined where a key is required. */
  readonly anonymous: Plan | undefined
  readonly all: readonly Plan[]
  /** Plan by the SHA-256 of a key, in hex; undefined where no file says which keys there are. */
  readonly keys: ReadonlyMap<string, Plan> | undefined
}

/** What holds without a file: one plan, and no keys. */
export function onePlan({ max, windowMs }: { readonly max: number; readonly windowMs: number }): Plans {
  const policies = [{ name: 'requests', unit: 'requests', limit: max, windowMs }] as const
  const anonymous: Plan = { name: 'anonymous', policies, concurrency: undefined, priority: 0 }
  return { anonymous, all: [anonymous], keys: undefined }
}

/** Reads a limits file. Throws ConfigError, which names each wrong place by its path and never shows a value. */
export function readPlans(file: string): Plans {
  const wrong = (...problems: string[]) => new ConfigError(problems.map(problem => `LIMITS_FILE ${file}: ${problem}`))
  let given: unknown
  try {
    given = JSON.parse(readFileSync(file, 'utf8'))
  } catch (error) {
    // What JSON.parse says quotes the text, which may hold a key that somebody wrote there.
    throw wrong(
      error instanceof SyntaxError ? 'is not valid JSON' : `cannot be read (${(error as { code?: string }).code})`,
    )
  }
  if (!Value.Check(FileSchema, given)) {
    const errors = Value.Errors(FileSchema, given)
    throw wrong(...new Set(errors.map(({ instancePath, message }) => `${instancePath || 'the whole'} ${message}`)))
  }
  const problems: string[] = []
  const plans = new Map(
    Object.entries(given.plans).map(([name, plan]) => [name, planOf(name, plan, problem => problems.push(problem))]),
  )
  const planNamed = (name: string, path: string): Plan | undefined => {
    const plan = plans.get(name)
    if (plan === undefined) problems.push(`${path} names no plan; there are ${[...plans.keys()].join(', ') || 'none'}`)
    return plan
  }
  const keys = new Map<string, Plan>()
  const seen = new Set<string>()
  for (const [index, { sha256, plan: name, revoked }] of (given.keys ?? []).entries()) {
    const plan = planNamed(name, `/keys/${index}/plan`)
    if (seen.has(sha256)) problems.push(`/keys/${index}/sha256 is there twice`)
    seen.add(sha256)
    if (plan !== undefined && revoked !== true) keys.set(sha256, plan)
  }
  const anonymous = given.anonymous === null ? undefined : planNamed(given.anonymous, '/anonymous')
  if (problems.length > 0) throw wrong(...problems)
  return { anonymous, all: [...plans.values()], keys }
}

type PlanGiven = Static<typeof FileSchema>['plans'][string]

function planOf(
  name: string,
  { policies, concurrency, priority = 0 }: PlanGiven,
  problem: (text: string) => void,
): Plan {
  const path = `/plans/${name}`
  if (!Value.Check(Name, name)) problem(`${path} is no name: a-z, then a-z, 0-9 and -, at most 32`)
  const names = new Set<string>()
  const read = policies.map(({ name, unit = 'requests', limit, window }, index): PlanPolicy => {
    const at = `${path}/policies/${index}`
    const windowMs = durationMs(String(window))
    if (windowMs === undefined) problem(`${at}/window takes a duration such as 10s or 1 minute, or milliseconds`)
    if (names.has(name)) problem(`${at}/name is there twice`)
    if (name === 'concurrency') problem(`${at}/name is the name of what limits requests in flight`)
    names.add(name)
    return { name, unit, limit, windowMs: windowMs ?? 1 }
  })
  if (!read.some(({ unit }) => unit === 'requests')) problem(`${path}/policies needs one in requests`)
  return { name, policies: read, concurrency, priority }
}
