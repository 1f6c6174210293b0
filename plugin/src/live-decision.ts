import type { Decision } from './decision.js'
import { Ledger } from './ledger.js'
import type { Decided, Limiter } from './limiter.js'
import type { Cost } from './options/answers.js'

/** What `request.rateLimit` holds once a limiter has decided. */
export interface RequestRateLimit extends Decision {
  /**
   * Adds cost that is known only after the work (rows, tokens, milliseconds of compute). It may overdraw the quota;
   * later requests wait the longer. A number is charged to every policy of the limiter, an object by policy name.
   */
  charge(cost: Cost): Promise<void>
  /**
   * Gives cost back, for a request that was not served, or that cost less than it was charged: without an argument what
   * the decision was charged and has not given back, with one up to so much of that and of what `charge` added (a number
   * for every policy, an object by policy name). Never more than was charged, and nothing once the admission has left
   * its window. Does nothing for a denied request, or where nothing was counted. Rejects when the store gives no answer
   * (with `onStoreError` 'allow' and 'local' it resolves, and nothing is given back).
   */
  refund(cost?: Cost): Promise<void>
}

/** A decision as its caller holds it: enumerable data, and the ways to charge more and to give back. */
export class LiveDecision implements RequestRateLimit {
  readonly key: string
  readonly allowed: boolean
  readonly policies: Decision['policies']
  readonly binding: Decision['binding']
  readonly retryAfterMs: number
  readonly violated: readonly string[]
  readonly banned: boolean
  readonly known: boolean
  readonly #limiter: Limiter
  readonly #outcome: Decided
  #charged: Ledger | undefined

  constructor(limiter: Limiter, outcome: Decided) {
    const { decision } = outcome
    this.key = decision.key
    this.allowed = decision.allowed
    this.policies = decision.policies
    this.binding = decision.binding
    this.retryAfterMs = decision.retryAfterMs
    this.violated = decision.violated
    this.banned = decision.banned
    this.known = decision.known
    this.#limiter = limiter
    this.#outcome = outcome
  }

  charge(cost: Cost): Promise<void> {
    return this.#limiter.charge(this.#outcome, cost, this.#ledger())
  }

  refund(cost?: Cost): Promise<void> {
    return this.#limiter.refundDecision(this.#outcome, this.#ledger(), cost)
  }

  /** Made when it is first needed: most requests are neither charged more nor given anything back. */
  #ledger(): Ledger {
    if (this.#charged === undefined) {
      const { check, answer, decision } = this.#outcome
      this.#charged = new Ledger()
      if (answer !== undefined && decision.allowed) this.#charged.admit(check, answer)
    }
    return this.#charged
  }
}
