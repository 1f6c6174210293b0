/** What may be said of a key, beyond the form of it: plans, models and times that there are. Pure. */

export interface KeyFieldProblem {
  readonly path: string
  readonly message: string
}

/** Characters of an owner or a name at most. */
export const MOST_LABEL = 128
/** No control characters, and no half of a surrogate pair, which UTF-8 cannot hold. */
const LABEL = /^[^\p{Cc}\p{Cs}]+$/u

export interface KnownNames {
  readonly plans: readonly string[]
  readonly models: readonly string[]
  /** Milliseconds since 1970. */
  readonly now: number
}

const MOMENT = /^\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)$/i
/** 10000-01-01, whose year has five digits. */
const FIRST_TOO_LATE = Date.UTC(10_000, 0)
const DAY = /^\d{4}-\d\d-\d\d$/

/** A date or a time with its zone, of ISO 8601, in UTC; a date alone is its beginning. Undefined for anything else. */
export function momentOf(text: string): string | undefined {
  if (!MOMENT.test(text) && !DAY.test(text)) return undefined
  const ms = Date.parse(text)
  // 30 February is no day, and Date would make it one of March.
  const isDay =
    ms < FIRST_TOO_LATE && Number(text.slice(8, 10)) <= daysOf(Number(text.slice(0, 4)), Number(text.slice(5, 7)))
  return isDay ? new Date(ms).toISOString() : undefined
}

const daysOf = (year: number, month: number): number => new Date(Date.UTC(year, month, 0)).getUTCDate()

const isLabel = (text: string): boolean => [...text].length <= MOST_LABEL && LABEL.test(text)

/** What is wrong with the texts that are given of a key. */
function labelProblems(given: { readonly owner?: string; readonly name?: string | null }): KeyFieldProblem[] {
  const takes = `takes 1 to ${MOST_LABEL} characters, and no control characters`
  return (['owner', 'name'] as const).flatMap(path => {
    const text = given[path] ?? undefined
    return text === undefined || isLabel(text) ? [] : [{ path, message: takes }]
  })
}

/** Everything that is wrong with what is said of a key. `isNew`: it cannot have ended already. */
export function fieldProblems(
  given: {
    readonly owner?: string
    readonly name?: string | null
    readonly plan?: string
    readonly models?: readonly string[] | null
    readonly expiresAt?: string | null
  },
  known: KnownNames,
  isNew: boolean,
): readonly KeyFieldProblem[] {
  const problems = labelProblems(given)
  const { plan, models, expiresAt } = given
  if (plan !== undefined && !known.plans.includes(plan)) {
    problems.push({ path: 'plan', message: `is not a plan; there is: ${known.plans.join(', ')}` })
  }
  for (const [index, name] of (models ?? []).entries()) {
    if (models?.indexOf(name) !== index) problems.push({ path: `models[${index}]`, message: 'is there twice' })
    if (known.models.includes(name)) continue
    problems.push({
      path: `models[${index}]`,
      message: `is not a model; there is: ${known.models.slice(0, 100).join(', ')}`,
    })
  }
  if (expiresAt !== undefined && expiresAt !== null) {
    const moment = momentOf(expiresAt)
    if (moment === undefined) {
      problems.push({
        path: 'expiresAt',
        message: 'takes a time of ISO 8601 with its zone, such as 2030-01-31T00:00:00Z',
      })
    } else if (isNew && Date.parse(moment) <= known.now) {
      problems.push({ path: 'expiresAt', message: 'is over already' })
    }
  }
  return problems
}
