/** From the tensors of a request to its result, for both protocols: the one path on which a prediction is charged. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Model, NamedTensors, RunOptions, RunResult } from '../inference/types.js'
import { deadlineOf, priorityOf } from '../protection/urgency.js'
import { runTraced } from '../tracing/tracing.js'
import { callerOfReply } from './caller.js'

/** What is to be run. */
export interface Task extends Pick<RunOptions, 'rows' | 'outputs' | 'json' | 'version'> {
  readonly model: Model
  /** Or how to make them, where that costs so much that nobody should have it done who cannot pay for the rows. */
  readonly inputs: NamedTensors | (() => Promise<NamedTensors>)
  /** Milliseconds from the request's arrival in which its answer is of use. */
  readonly timeoutMs: number
}

/**
 * Reserves rows and compute time, runs the model, settles what it computed, and says in `server-timing` what took how
 * long. Rejects with QuotaExceeded, Refusal (413) or what the model fails with; what did not run is given back by then.
 */
export async function runCharged(request: FastifyRequest, reply: FastifyReply, task: Task): Promise<RunResult> {
  const { model, rows } = task
  const { caller } = request
  try {
    // Awaited only where there is something to wait for: all predictions pass here, and each promise costs a turn.
    const reserved = caller?.reserve(request, reply, model, rows)
    if (reserved !== undefined) await reserved
    const inputs = typeof task.inputs === 'function' ? await task.inputs() : task.inputs
    // Field by field: `...` of an object makes one of a slow kind, at 5 % of a prediction.
    const result = await runTraced(request, model, inputs, {
      rows,
      outputs: task.outputs,
      json: task.json,
      version: task.version,
      signal: callerOfReply(reply),
      priority: priorityOf(request),
      partitionKey: caller?.key,
      deadline: deadlineOf(request, task.timeoutMs),
      meter: caller ?? undefined,
    })
    const settled = caller?.served(result, rows)
    if (settled !== undefined) await settled
    const { queueMs, computeMs } = result
    reply.header('server-timing', `queue;dur=${queueMs.toFixed(2)}, compute;dur=${computeMs.toFixed(2)}`)
    return result
  } catch (error) {
    const given = caller?.failed(error)
    if (given !== undefined) await given
    throw error
  }
}
