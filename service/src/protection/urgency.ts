/** How long the caller of a request waits for its answer, and which requests go first. */
import type { FastifyRequest } from 'fastify'

/**
 * Milliseconds that the caller gives with the header `x-request-timeout-ms`; Infinity where it says nothing, undefined
 * where what it says is no time.
 */
export function timeoutOf(headers: FastifyRequest['headers']): number | undefined {
  const given = headers['x-request-timeout-ms']
  if (given === undefined) return Number.POSITIVE_INFINITY
  return typeof given === 'string' && /^0*[1-9]\d{0,8}$/.test(given) ? Number(given) : undefined
}

/** Latest time for the answer to a request that was seen at `since`. */
export const deadlineOf = ({ seenLateMs = 0 }: FastifyRequest, since: number, timeoutMs: number): number =>
  since - seenLateMs + timeoutMs

/** Whose requests go first while some wait. */
export const priorityOf = ({ caller }: FastifyRequest): number => caller?.limiters.plan.priority ?? 0
