/** A value, or anything that gives it later: a promise of any realm, a query builder, a stub of a test runner. */
export type Awaitable<T> = T | PromiseLike<T>

/**
 * Whether a value has to be waited for. Reads `then` and does not call it: some thenables start their work only then,
 * and start it again at each call.
 */
export function isThenable<T>(value: Awaitable<T>): value is PromiseLike<T> {
  if (value === null || (typeof value !== 'object' && typeof value !== 'function')) return false
  return typeof (value as { readonly then?: unknown }).then === 'function'
}

/**
 * Goes on with a value: at once where it is there, since most requests need no waiting, else once it has arrived.
 * A thenable is called exactly once. What comes back is either a value or a promise of this realm.
 */
export function then<T, R>(value: Awaitable<T>, next: (value: T) => R | Promise<R>): R | Promise<R> {
  return isThenable(value) ? Promise.resolve(value).then(next) : next(value)
}
