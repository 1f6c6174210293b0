/** From the tensors of a request to its result, for both protocols: the one path on which a prediction is charged. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Model, NamedTensors, RunOptions, RunResult } from '../inference/types.js'
import type { Limits } from '../protection/limits.js'
import { deadlineOf, priorityOf } from '../protection/urgency.js'
import { runTraced } from '../tracing/tracing.js'
import { callerOfReply } from './caller.js'

/** What is to be run. */
export interface Task extends Pick<RunOptions, 'rows' | 'outputs' | 'json'> {
  readonly model: Model
  readonly inputs: NamedTensors
  /** Milliseconds from the request's arrival in which its answer is of use. */
  readonly timeoutMs: number
}

/** What charges a run; undefined where nothing is charged. */
export type Charges = Pick<Limits, 'chargeRows' | 'chargeCompute'> | undefined

/**
 * Charges the rows, runs the model, charges what it computed, and says in `server-timing` what took how long. Rejects
 * with QuotaExceeded, Refusal (413) or what the model fails with.
 */
export async function runCharged(
  request: FastifyRequest,
  reply: FastifyReply,
  charges: Charges,
  { model, inputs, timeoutMs, ...options }: Task,
): Promise<RunResult> {
  // Awaited only where there is something to wait for: all predictions pass here, and each promise costs a turn.
  const charged = charges?.chargeRows(request, reply, options.rows)
  if (charged !== undefined) await charged
  const result = await runTraced(request, model, inputs, {
    ...options,
    signal: callerOfReply(reply),
    priority: priorityOf(request),
    partitionKey: request.caller?.key,
    deadline: deadlineOf(request, timeoutMs),
  })
  const { queueMs, computeMs, computeShareMs } = result
  const computed = charges?.chargeCompute(request, computeShareMs)
  if (computed !== undefined) await computed
  reply.header('server-timing', `queue;dur=${queueMs.toFixed(2)}, compute;dur=${computeMs.toFixed(2)}`)
  return result
}
