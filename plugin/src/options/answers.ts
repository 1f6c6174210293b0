import { parse as parseDuration } from '@lukeed/ms'
import { isThenable, then } from '../awaitable.js'
import { InvalidAnswer, InvalidOption } from '../errors.js'
import { show } from './kinds.js'

/**
 * A partition key as `keyGenerator` gave it. Callbacks get it unchanged; their types say string, as in
 * `@fastify/rate-limit`, because that is what nearly every generator returns.
 */
export type Key = string | number

/**
 * Whose quotas, by hand: one key for every policy, or a key by policy name (`concurrency` for requests in flight). Policies
 * that are not named are left alone.
 */
export type Keys = string | Readonly<Record<string, string>>

/** Costs of a later charge or refund: for every policy, or by policy name (the others are left alone). */
export type Cost = number | Readonly<Record<string, number>>

/** What Redis can count with, in microseconds. Longer windows are cut to it: 285,000 years are as good as more. */
const LONGEST_WINDOW_MS = Number.MAX_SAFE_INTEGER

/**
 * Keys that were given by hand; a number is its text, as a `keyGenerator` may return one. Throws InvalidOption for anything
 * else, and for a policy that is none of `names`.
 */
export function checkedKeys(given: unknown, names: readonly string[]): Keys {
  if (isKey(given)) return String(given)
  const entries = typeof given === 'object' && given !== null ? Object.entries(given) : []
  const wrong = entries.find(([name, key]) => !names.includes(name) || typeof key !== 'string')
  if (entries.length > 0 && wrong === undefined) return given as Keys
  const what = wrong === undefined ? show(given) : `{ '${wrong[0]}': ${show(wrong[1])} }`
  throw new InvalidOption('key', what, `a string, or an object with a string for any of ${names.join(', ')}`)
}

/** Milliseconds without a fraction, at least 1. */
export function wholeWindow(ms: number): number {
  return Math.min(Math.max(1, Math.trunc(ms)), LONGEST_WINDOW_MS)
}

/** A quota that a function returned. Anything but a number ≥ 0 is an error, and never 'no limit'. */
export function checkedMax(value: unknown): number {
  if (typeof value === 'number' && value >= 0) return Math.trunc(value)
  throw unusable('max', value, 'a number ≥ 0')
}

/** A window that a function returned, in milliseconds; less than one counts as one. */
export function checkedWindow(value: unknown): number {
  if (typeof value === 'number' && value >= 0 && value < Infinity) return wholeWindow(value)
  throw unusable('timeWindow', value, 'milliseconds, a number ≥ 0')
}

/** How long a block lasts, in milliseconds. Throws InvalidOption. */
export function checkedDuration(duration: unknown): number {
  const ms = typeof duration === 'string' ? parseDuration(duration) : duration
  if (typeof ms === 'number' && ms >= 1 && ms < Infinity) return wholeWindow(ms)
  throw new InvalidOption('duration', show(duration), "milliseconds ≥ 1, or a duration such as '1 hour'")
}

/** A cost that a function returned, or that was charged by hand. */
export function checkedCost(value: unknown): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
  throw unusable('cost', value, 'an integer ≥ 0')
}

/**
 * A cost that was charged or given back by hand. Throws InvalidAnswer for anything but integers ≥ 0, and InvalidOption for
 * a policy that is none of `names`.
 */
export function checkedCosts(cost: unknown, names: readonly string[]): Cost {
  const isByName = typeof cost === 'object' && cost !== null && !Array.isArray(cost)
  if (!isByName) {
    if (typeof cost === 'number') return checkedCost(cost)
    throw unusable('cost', cost, 'an integer ≥ 0, or an object of them by policy name')
  }
  for (const [name, units] of Object.entries(cost)) {
    if (!names.includes(name)) {
      throw new InvalidOption(
        'cost',
        `for '${name}'`,
        `a number, or an object with a number for any of ${names.join(', ')}`,
      )
    }
    if (units !== undefined) checkedCost(units)
  }
  return cost as Cost
}

/** The response to a denied request that a function returned. Nothing at all would let the request pass. */
export function checkedResponse(value: object | undefined): object {
  if (isThenable(value)) return then(value, checkedResponse)
  if (typeof value === 'object' && value !== null) return value
  throw unusable('errorResponseBuilder', value, 'an error or an object')
}

/** The hash tag of a key. Throws InvalidAnswer where the function gives none. */
export function tagOf(hashTag: (key: string) => unknown, key: string): string {
  let tag: unknown
  try {
    tag = hashTag(key)
  } catch (cause) {
    const error = new InvalidAnswer('hashTag', 'nothing, because it failed', 'a string')
    throw Object.assign(error, { answer: 'an error', cause })
  }
  if (typeof tag === 'string') return tag
  throw unusable('hashTag', tag, 'a string')
}

/** Whether a function of the options is to blame, also where a store has called it. */
export function isUnusable(reason: unknown): boolean {
  return reason instanceof InvalidAnswer && 'answer' in reason
}

/** A partition key that a function returned. */
export function checkedKey(value: unknown): Key {
  if (isKey(value)) return value
  throw unusable('keyGenerator', value, 'a string or a number')
}

/** What is no number is nobody's key: all whose key could not be read would share one count. */
function isKey(value: unknown): value is Key {
  return typeof value === 'string' || (typeof value === 'number' && !Number.isNaN(value))
}

/**
 * The message may be sent to clients, so it has no text that a callback returned; `answer` has it, for the log.
 */
function unusable(option: string, value: unknown, allowed: string): Error {
  const isText = typeof value === 'string' || typeof value === 'symbol'
  const error = new InvalidAnswer(option, isText ? `a ${typeof value}` : show(value), allowed)
  return Object.assign(error, { answer: show(value) })
}
