/**
 * Whether a program said what a page says that it says. `…` stands for anything, and times may be others: a number of
 * seconds or milliseconds depends on the machine and the moment.
 */

const escaped = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')

/** A pattern for what may stand where the page has this text. */
function patternOf(expected: string): string {
  return expected
    .split('…')
    .map(part => escaped(part).replace(/\d+(?:\\\.\d+)?(?= (?:ms|s|seconds?)\b)/g, '\\d+(?:\\.\\d+)?'))
    .join('[\\s\\S]*?')
}

const lines = (text: string): string =>
  text
    .split('\n')
    .map(line => line.trimEnd())
    .join('\n')
    .trim()

/** What a command printed last, which is all of it but for what npm says first. */
export const printed = (actual: string, expected: string): boolean =>
  new RegExp(`(?:^|\\n)${patternOf(lines(expected))}$`).test(lines(actual))

/** What a service has logged so far: the lines of the page in their order, others may lie between. */
export function logged(actual: string, expected: string): boolean {
  const pattern = lines(expected).split('\n').map(patternOf).join('[\\s\\S]*?\\n')
  return new RegExp(`(?:^|\\n)${pattern}`).test(lines(actual))
}

const HEADER_TIMES = /((?:retry-after|x-ratelimit-reset): |;t=)\d+/gi

/** Status line and headers of an answer: each line of the page is among them, whatever the case of its name. */
export function answered(actual: string, expected: string): boolean {
  const plain = (text: string) => lines(text).replace(HEADER_TIMES, '$1').split('\n')
  const given = plain(actual)
  return plain(expected).every(
    line => line === '' || given.some(each => new RegExp(`^${patternOf(line)}$`, 'i').test(each)),
  )
}

/**
 * A value like the one of the page: a text with `…` is a pattern, a member or entry `"…"` stands for any more of them,
 * members that tell of seconds are any number, and other numbers may differ in their last digits, as a model's do from
 * one processor to another.
 */
export function alike(actual: unknown, expected: unknown): boolean {
  if (typeof expected === 'string' && expected.includes('…')) {
    return expected === '…' || (typeof actual === 'string' && printed(actual, expected))
  }
  if (typeof expected === 'string') return typeof actual === 'string' && printed(actual, expected)
  if (Array.isArray(expected)) {
    if (!Array.isArray(actual)) return false
    const open = expected.at(-1) === '…'
    const wanted = open ? expected.slice(0, -1) : expected
    return (open || actual.length === wanted.length) && wanted.every((value, index) => alike(actual[index], value))
  }
  if (typeof expected === 'number') return typeof actual === 'number' && isClose(actual, expected)
  if (typeof expected !== 'object' || expected === null) return actual === expected
  if (typeof actual !== 'object' || actual === null) return false
  const { '…': more, ...wanted } = expected as Record<string, unknown>
  const given = actual as Record<string, unknown>
  if (more === undefined && Object.keys(given).some(name => !(name in wanted))) return false
  return Object.entries(wanted).every(([name, value]) =>
    /^(?:retryAfter|resetSeconds)$/.test(name) ? typeof given[name] === 'number' : alike(given[name], value),
  )
}

const isClose = (one: number, other: number): boolean => Math.abs(one - other) <= 1e-4 * Math.max(1e-6, Math.abs(other))
