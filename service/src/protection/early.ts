/**
 * What a request is refused with before the framework sees it: by its head alone, and as far as it is known at once. It
 * charges nothing, and lets everything pass that it knows nothing of: the hooks of the framework decide about that.
 */
import type { Decision } from 'ml-api-rate-limiter'
import { Overloaded } from '../inference/errors.js'
import type { Model, Models } from '../inference/types.js'
import type { Identity } from './callers.js'
import type { Gate } from './gate.js'
import type { Limits, PlanLimiters } from './limits.js'
import { modelsMeant } from './models-meant.js'
import { allowsModel } from './plans.js'

/** What the head of a request says. */
export interface EarlyRequest {
  /** SHA-256 of its API key, in hex; undefined where it carries none. */
  readonly digest: string | undefined
  /** Partition key of its address. */
  readonly address: string
  /** Parameters of its URL. */
  readonly params: Readonly<Record<string, string>>
  /** Milliseconds that its caller waits for an answer. */
  readonly timeoutMs: number
}

/** Over a quota, or no room; of whose request, and for which model, as far as that is known. */
export type EarlyRefusal = { readonly identity: Identity; readonly model: string | null } & (
  | { readonly denial: Decision; readonly limiters: PlanLimiters }
  | { readonly denial: undefined; readonly error: Overloaded }
)

export class EarlyRefusals {
  readonly #limits: Limits
  readonly #gate: Gate | undefined
  readonly #models: Models

  constructor(limits: Limits, gate: Gate | undefined, models: Models) {
    this.#limits = limits
    this.#gate = gate
    this.#models = models
  }

  /** Whether there is more for the main thread to do than to refuse. */
  get isServing(): boolean {
    return this.#gate === undefined ? this.#models.queueRows > 0 : this.#gate.isServing
  }

  /** Undefined where the request may be admitted. `arrivedAt`: `performance.now()` when it came. */
  of({ digest, address, params, timeoutMs }: EarlyRequest, arrivedAt: number): EarlyRefusal | undefined {
    this.#models.takeResults?.()
    const caller = this.#limits.callerOf(digest, address)
    if (caller === undefined) return undefined
    const { identity, limiters } = caller
    const named = params.name ?? params.model
    // Its route says that the key, or the plan, is not for this model.
    if (named !== undefined && (identity.models?.includes(named) === false || !allowsModel(identity.plan, named))) {
      return undefined
    }
    // The quota first: that costs least, and who is over it is no part of the load that the gate answers to.
    const denial = limiters.requests.knownDenial(identity)
    if (denial === undefined && this.#gate === undefined) return undefined
    const models: readonly Model[] = modelsMeant(this.#models, params)
    const model = named === undefined ? null : (models[0]?.info.name ?? null)
    if (denial !== undefined) return { identity, model, denial, limiters }
    if (this.#gate === undefined) return undefined
    const { priority } = limiters.plan
    const error = this.#gate.look({ models, priority, partitionKey: identity.key, arrivedAt, timeoutMs })
    return error instanceof Overloaded ? { identity, model, denial: undefined, error } : undefined
  }
}
