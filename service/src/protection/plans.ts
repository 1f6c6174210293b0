/** Plans and keys: the limits file read, checked whole, and turned into the one value that the limiters are made of. */
import { readFileSync } from 'node:fs'
import { type Static, Type } from 'typebox'
import { Settings } from 'typebox/system'
import { Check, Errors } from 'typebox/value'
import { ConfigError, durationMs } from '../config.js'

const closed = { additionalProperties: false } as const
const Name = Type.String({ pattern: '^[a-z][a-z0-9-]{0,31}$' })

const ModelNames = Type.Array(Type.String({ minLength: 1 }), { minItems: 1 })
const Per = Type.Union([Type.Literal('key'), Type.Literal('owner')])

const PolicySchema = Type.Object(
  {
    name: Name,
    unit: Type.Optional(
      Type.Union([Type.Literal('requests'), Type.Literal('rows'), Type.Literal('compute-ms'), Type.Literal('credits')]),
    ),
    limit: Type.Integer({ minimum: 0 }),
    window: Type.Union([Type.String(), Type.Integer({ minimum: 1 })]),
    models: Type.Optional(ModelNames),
    per: Type.Optional(Per),
  },
  closed,
)

/** A policy whose period is that of the calendar. */
const BudgetSchema = Type.Object(
  {
    name: Type.Optional(Name),
    unit: PolicySchema.properties.unit,
    limit: Type.Integer({ minimum: 0 }),
    per: Type.Union([Type.Literal('day'), Type.Literal('month')]),
    models: Type.Optional(ModelNames),
    of: Type.Optional(Per),
  },
  closed,
)

const Price = Type.Object(
  {
    request: Type.Optional(Type.Integer({ minimum: 0, maximum: 1_000_000_000 })),
    row: Type.Optional(Type.Integer({ minimum: 0, maximum: 1_000_000_000 })),
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
          budget: Type.Optional(Type.Union([BudgetSchema, Type.Array(BudgetSchema)])),
          per: Type.Optional(Per),
          models: Type.Optional(
            Type.Object({ allow: Type.Optional(ModelNames), deny: Type.Optional(ModelNames) }, closed),
          ),
          costs: Type.Optional(Type.Record(Type.String(), Price)),
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

/**
 * What a policy counts; `compute-ms` is milliseconds that the model ran for the caller, known only afterwards, `credits`
 * what the model costs.
 */
export type Unit = 'requests' | 'rows' | 'compute-ms' | 'credits'

/** Whose quota it is: that of each API key, or one for all keys of an owner. */
export type Scope = 'key' | 'owner'

/** Credits of each request, and of each of its rows. */
export interface Price {
  readonly request: number
  readonly row: number
}

/** The longest that a period may be, in milliseconds. */
const LONGEST_MS: Readonly<Record<'day' | 'month', number>> = { day: 86_400_000, month: 31 * 86_400_000 }

/** Of a model that has no price. */
const DEFAULT_PRICE: Price = { request: 1, row: 0 }

export interface PlanPolicy {
  readonly name: string
  readonly unit: Unit
  /** Units allowed in any one window. */
  readonly limit: number
  readonly windowMs: number
  /** Of a budget: its calendar period, of which `windowMs` is the longest that it may be. Undefined: a window. */
  readonly period?: 'day' | 'month' | undefined
  /** Models whose requests it counts; undefined: all. */
  readonly models: readonly string[] | undefined
  readonly per: Scope
}

export interface Plan {
  readonly name: string
  /** One or more in requests, and any number in the other units. */
  readonly policies: readonly PlanPolicy[]
  /** Requests in flight at most; undefined: any number. */
  readonly concurrency: number | undefined
  /** While requests wait, those of the higher go first. */
  readonly priority: number
  /** Models that it is for; undefined: all. */
  readonly allowedModels: readonly string[] | undefined
  readonly deniedModels: readonly string[]
  /** Prices that differ from those of the models. */
  readonly costs: Readonly<Record<string, Partial<Price>>>
}

/** Credits of a model for the callers of a plan. `own`: what its model.json says. */
export function priceOf({ costs }: Plan, model: string, own: Partial<Price> | undefined): Price {
  return { ...DEFAULT_PRICE, ...own, ...(Object.hasOwn(costs, model) ? costs[model] : undefined) }
}

/** Whether the callers of a plan may ask a model. */
export const allowsModel = ({ allowedModels, deniedModels }: Plan, model: string): boolean =>
  (allowedModels === undefined || allowedModels.includes(model)) && !deniedModels.includes(model)

/** Models that plans name and `known` has not, each with the plans that name it. */
export function unknownModels(plans: readonly Plan[], known: ReadonlySet<string>): Map<string, readonly string[]> {
  const unknown = new Map<string, readonly string[]>()
  for (const { name, policies, allowedModels = [], deniedModels, costs } of plans) {
    const named = [allowedModels, deniedModels, Object.keys(costs), ...policies.map(({ models = [] }) => models)].flat()
    for (const model of new Set(named)) {
      if (!known.has(model)) unknown.set(model, [...(unknown.get(model) ?? []), name])
    }
  }
  return unknown
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
  const policies = [
    { name: 'requests', unit: 'requests', limit: max, windowMs, models: undefined, per: 'key' },
  ] as const
  const rest = { concurrency: undefined, priority: 0, allowedModels: undefined, deniedModels: [], costs: {} }
  const anonymous: Plan = { name: 'anonymous', policies, ...rest }
  return { anonymous, all: [anonymous], keys: undefined }
}

// Every wrong place is named: by default the library stops looking after eight.
Settings.Set({ maxErrors: 1000 })

/** One line for each wrong place, with what it takes. */
function problemsOf(given: unknown): readonly string[] {
  const words = new Map<string, string[]>()
  const errors = Errors(FileSchema, given)
  const at = (path: string): string[] => {
    const known = words.get(path) ?? []
    words.set(path, known)
    return known
  }
  for (const { keyword, instancePath, message, params } of errors) {
    // Told at the place of each property that is not known, and of each alternative.
    if (keyword === 'additionalProperties' || keyword === 'anyOf') continue
    const allowed = keyword === 'const' ? (params as { readonly allowedValue: unknown }).allowedValue : undefined
    at(instancePath).push(
      allowed !== undefined ? `must be '${allowed}'` : keyword === 'boolean' ? 'is not known here' : message,
    )
  }
  // Where one alternative is wrong further inside, it is the one that is meant.
  for (const { keyword, instancePath } of errors) {
    const isMeant = [...words.keys()].some(path => path.startsWith(`${instancePath}/`))
    if (keyword === 'anyOf' && isMeant) words.delete(instancePath)
  }
  return [...words].map(([path, texts]) => `${path || 'the whole'} ${[...new Set(texts)].join(' or ')}`)
}

/** Reads a limits file. Throws ConfigError, which names each wrong place by its path and never shows a value. */
export function readPlans(file: string): Plans {
  const wrong = (...problems: string[]) => new ConfigError(problems.map(problem => `LIMITS_FILE ${file}: ${problem}`))
  let given: unknown
  try {
    // Editors of Windows begin a file with a mark.
    given = JSON.parse(readFileSync(file, 'utf8').replace(/^\ufeff/, ''))
  } catch (error) {
    // What JSON.parse says quotes the text, which may hold a key that somebody wrote there.
    throw wrong(
      error instanceof SyntaxError ? 'is not valid JSON' : `cannot be read (${(error as { code?: string }).code})`,
    )
  }
  if (!Check(FileSchema, given)) throw wrong(...problemsOf(given))
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
  { policies, concurrency, priority = 0, per = 'key', models = {}, costs = {}, budget = [] }: PlanGiven,
  problem: (text: string) => void,
): Plan {
  const path = `/plans/${name}`
  if (!Check(Name, name)) problem(`${path} is not a name: a-z, then a-z, 0-9 and -, at most 32`)
  const names = new Set<string>()
  /** `twice`: the problem if another policy has the name. */
  const take = (name: string, at: string, twice = `${at}/name is there twice`) => {
    if (names.has(name)) problem(twice)
    if (name === 'concurrency') problem(`${at}/name is the name of what limits requests in flight`)
    names.add(name)
  }
  const read = policies.map((policy, index): PlanPolicy => {
    const { name, unit = 'requests', limit, window } = policy
    const at = `${path}/policies/${index}`
    const windowMs = durationMs(String(window))
    if (windowMs === undefined) problem(`${at}/window takes a duration such as 10s or 1 minute, or milliseconds`)
    take(name, at)
    return { name, unit, limit, windowMs: windowMs ?? 1, models: policy.models, per: policy.per ?? per }
  })
  for (const [index, given] of [budget].flat().entries()) {
    const { unit = 'requests', limit, per: period } = given
    const budgetName = given.name ?? (unit === 'requests' ? 'budget' : `budget-${unit}`)
    const at = `${path}/budget/${index}`
    take(budgetName, at, `${at} needs a name: '${budgetName}' is there twice`)
    const windowMs = LONGEST_MS[period]
    read.push({ name: budgetName, unit, limit, windowMs, period, models: given.models, per: given.of ?? per })
  }
  if (!read.some(({ unit, models }) => unit === 'requests' && models === undefined)) {
    problem(`${path}/policies needs one in requests of all models`)
  }
  const { allow, deny = [] } = models
  return { name, policies: read, concurrency, priority, allowedModels: allow, deniedModels: deny, costs }
}
