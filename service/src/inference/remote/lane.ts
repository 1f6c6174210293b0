/** One call at a time to one url: what a worker is to a model that runs here. */

import { BackendFailed, BackendUnavailable, InferenceError } from '../errors.js'
import type { RunControl } from '../queue/batch.js'
import type { BatchResult, Runner } from '../queue/scheduler.js'
import type { NamedTensors } from '../types.js'
import type { Backend, Place } from './backend.js'
import { readAnswer, writeCall } from './message.js'

export class Lane implements Runner {
  readonly keys: ReadonlySet<string>
  readonly #backend: Backend
  readonly #place: Place

  constructor(backend: Backend, place: Place) {
    this.#backend = backend
    this.#place = place
    this.keys = new Set([backend.key])
  }

  get lost(): boolean {
    return this.#place.state !== 'up'
  }

  async run(
    _key: string,
    inputs: NamedTensors,
    outputs: readonly string[] | undefined,
    control: RunControl,
  ): Promise<BatchResult> {
    const { signature } = this.#backend.metadata
    const { endpoint, binary, timeoutParameter } = this.#place
    const wanted = outputs ?? signature.outputs.map(({ name }) => name)
    const startedAt = performance.now()
    const timeoutMs = control.deadline === undefined ? undefined : Math.max(1, control.deadline - startedAt)
    const abandoned = new AbortController()
    control.onAbandoned = () => abandoned.abort()
    try {
      const call = writeCall(inputs, wanted, { binary, timeoutMs, timeoutParameter })
      const { body, headerLength } = await endpoint.infer(call, abandoned.signal, control.trace?.sent(endpoint.url))
      const rows = signature.inputs[0]?.shape[0] === 'batch' ? Object.values(inputs)[0]?.shape[0] : undefined
      const outputs = checked(() => readAnswer(body, headerLength, signature, wanted, rows))
      this.#backend.succeeded(this.#place)
      return { outputs, computeMs: performance.now() - startedAt }
    } catch (error) {
      const failure = this.#backend.failed(this.#place, error as Error)
      if (failure instanceof InferenceError) failure.ranMs = ranMs(error, performance.now() - startedAt)
      throw failure
    }
  }
}

/** A backend that is busy or cannot be reached has not run it; any other answer took as long as the call. */
function ranMs(error: unknown, callMs: number): number | undefined {
  const isAnswer = error instanceof BackendFailed || !(error instanceof BackendUnavailable)
  return isAnswer ? callMs : error.ranMs
}

function checked(read: () => NamedTensors): NamedTensors {
  try {
    return read()
  } catch (error) {
    throw new BackendFailed((error as Error).message)
  }
}
