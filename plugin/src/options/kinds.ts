import { isThenable } from '../awaitable.js'
import { InvalidOption } from '../errors.js'

export type Test = (value: unknown) => boolean

/** What an option takes: the check, the text of its refusal and, as `T`, the type that users see. */
export interface Kind<T> {
  is(value: unknown): value is T
  /** Completes `allowed: …`, and is the option's type in the documentation. */
  readonly allowed: string
}

/** One that may not be left out. */
export interface RequiredKind<T> extends Kind<T> {
  readonly required: true
}

/** The kinds of several options, by name. */
export type Kinds = Readonly<Record<string, Kind<unknown> & { readonly required?: true }>>

type TypeOf<K> = K extends Kind<infer T> ? T : never

/** What users write for a table of kinds. */
export type Options<Table> = {
  readonly [Name in keyof Table as Table[Name] extends RequiredKind<unknown> ? never : Name]?:
    | TypeOf<Table[Name]>
    | undefined
} & {
  readonly [Name in keyof Table as Table[Name] extends RequiredKind<unknown> ? Name : never]: TypeOf<Table[Name]>
}

/** A value that passes one of the tests. That such a value is a `T` is for the table to know. */
export function kind<T>(allowed: string, ...tests: readonly Test[]): Kind<T> {
  const is = (value: unknown): value is T => tests.some(test => test(value))
  return { is, allowed }
}

export function required<T>(kind: Kind<T>): RequiredKind<T> {
  return { ...kind, required: true }
}

/** One of a few names. */
export function oneOf<const Name extends string>(...names: readonly Name[]): Kind<Name> {
  const quoted = names.map(name => `'${name}'`)
  const allowed = `${quoted.slice(0, -1).join(', ')} or ${quoted.at(-1)}`
  return kind(allowed, value => names.includes(value as Name))
}

export const isNull: Test = value => value === null
export const isFlag: Test = value => typeof value === 'boolean'
export const isFunction: Test = value => typeof value === 'function'
export const isObject: Test = value => typeof value === 'object' && value !== null && !Array.isArray(value)

/** A finite number of a range, both ends included. */
export const isNumber =
  (min: number, max = Infinity): Test =>
  value =>
    typeof value === 'number' && Number.isFinite(value) && value >= min && value <= max

/** An integer of a range, both ends included. */
export const isInteger =
  (min: number, max = Infinity): Test =>
  value =>
    Number.isInteger(value) && (value as number) >= min && (value as number) <= max

/** A string of at least `min` characters. */
export const isText =
  (min: number): Test =>
  value =>
    typeof value === 'string' && value.length >= min

/** A list of at least `min` entries, each of which passes. */
export const isListOf =
  (test: Test, min = 0): Test =>
  value =>
    Array.isArray(value) && value.length >= min && value.every(test)

/**
 * Checks every option that is given, and refuses one that does not exist or is missing. `path` stands before names in
 * messages, `ignored` says which unknown names are for somebody else.
 */
export function checkAll(
  given: object,
  kinds: Kinds,
  path = '',
  ignored: (name: string) => boolean = () => false,
): void {
  for (const [name, value] of Object.entries(given)) {
    const kind = Object.hasOwn(kinds, name) ? kinds[name] : undefined
    if (value === undefined || (kind === undefined ? ignored(name) : kind.is(value))) continue
    if (kind !== undefined) throw refusal(path + name, value, kind)
    throw new InvalidOption(path + name, show(value), `one of ${Object.keys(kinds).join(', ')}`)
  }
  for (const [name, kind] of Object.entries(kinds)) {
    if (kind.required && (given as Readonly<Record<string, unknown>>)[name] === undefined) {
      throw refusal(path + name, undefined, kind)
    }
  }
}

/** The error for an option that is not of its kind. */
export function refusal(name: string, value: unknown, { allowed }: Kind<unknown>): Error {
  return new InvalidOption(name, show(value), allowed)
}

/** A value as an error message shows it: short, without the password of a URL, and never a secret's whole length. */
export function show(value: unknown): string {
  if (typeof value === 'string') {
    const shown = value.replace(/\/\/[^/@]*@/, '//…@')
    return `'${shown.length > 40 ? `${shown.slice(0, 40)}…` : shown}'`
  }
  if (typeof value === 'function') return 'a function'
  if (Array.isArray(value)) return `a list of ${value.length}`
  if (isThenable(value)) return 'a promise'
  if (typeof value === 'object' && value !== null) return 'an object'
  if (typeof value === 'bigint') return `${value}n`
  return String(value)
}
