/** How long the caller of a request waits for its answer, and which requests go first. */
import type { FastifyRequest } from 'fastify'
import { badRequest, Refusal } from '../http/problem.js'

const HEADER = 'x-request-timeout-ms'

/**
 * Milliseconds that the caller gives with the header `x-request-timeout-ms`, at most `longestMs`, which is also what it
 * gives without the header. Throws Refusal (400) for what is no integer of 1 or more.
 */
export function timeoutOf({ headers }: Pick<FastifyRequest, 'headers'>, longestMs: number): number {
  const given = headers[HEADER]
  if (given === undefined) return longestMs
  if (typeof given === 'string' && /^\d+$/.test(given) && Number(given) >= 1) return Math.min(Number(given), longestMs)
  const message = 'takes milliseconds, an integer of 1 or more'
  throw new Refusal(badRequest('INVALID_REQUEST', [{ path: `headers.${HEADER}`, message }]))
}

/** Latest time for the answer to a request whose caller gives so many milliseconds. */
export const deadlineOf = ({ arrivedAt, seenLateMs = 0 }: FastifyRequest, timeoutMs: number): number =>
  arrivedAt - seenLateMs + timeoutMs

/** Whose requests go first while some wait. */
export const priorityOf = ({ caller }: FastifyRequest): number => caller?.limiters.plan.priority ?? 0
