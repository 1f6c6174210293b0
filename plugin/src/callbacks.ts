import type { FastifyBaseLogger } from 'fastify'
import { isThenable } from './awaitable.js'

/**
 * Calls a function of the options that only hears of something. What it returns is not used and not waited for. That it
 * throws or rejects is logged and changes nothing: the request is answered as it was decided.
 */
export function notify<One, Two>(
  log: FastifyBaseLogger,
  option: string,
  callback: (one: One, two: Two) => unknown,
  one: One,
  two: Two,
): void {
  try {
    const returned = callback(one, two)
    if (isThenable(returned)) Promise.resolve(returned).catch(error => logFailure(log, option, error))
  } catch (error) {
    logFailure(log, option, error)
  }
}

export function logFailure(log: FastifyBaseLogger, option: string, error: unknown): void {
  log.error({ err: error }, `the rate limiter's option '${option}' failed`)
}
