import type { Cost } from './options/answers.js'
import type { Policy } from './policy.js'
import { type Answer, type Check, keyAt, type Refund } from './stores/store.js'

interface Entry {
  readonly policy: Policy
  readonly key: string
  readonly admission: Refund['admission']
  /** Whether it was charged after the decision. */
  readonly isLater: boolean
  left: number
}

/** Which part of a cost concerns a policy. Undefined: none. */
export function costOf(cost: Cost, name: string): number | undefined {
  if (typeof cost === 'number') return cost
  return Object.hasOwn(cost, name) ? cost[name] : undefined
}

/**
 * What one decision was charged and has not given back. A unit is taken out before the store is asked to give it back,
 * so that it is never given back twice, whatever becomes of the call.
 */
export class Ledger {
  /** The newest last. */
  readonly #entries: Entry[] = []

  /** What the decision was charged. */
  admit(check: Check, answer: Answer): void {
    this.#add(check, answer, false)
  }

  /** What was charged after the decision. */
  charge(check: Check, answer: Answer): void {
    this.#add(check, answer, true)
  }

  /** Takes out what the decision was charged; with `cost` up to so much of everything for each policy, the newest first. */
  take(cost?: Cost): Refund[] {
    const refunds: Refund[] = []
    const taken = new Map<string, number>()
    for (const entry of [...this.#entries].reverse()) {
      const { policy, key, admission, isLater, left } = entry
      const before = taken.get(policy.log) ?? 0
      const all = isLater ? 0 : left
      const units = Math.min(left, cost === undefined ? all : (costOf(cost, policy.name) ?? 0) - before)
      if (units <= 0) continue
      entry.left -= units
      taken.set(policy.log, before + units)
      refunds.push({ policy, cost: units, admission, key })
    }
    return refunds
  }

  #add(check: Check, answer: Answer, isLater: boolean): void {
    for (const [index, policy] of check.policies.entries()) {
      const admission = answer.policies[index]?.admission
      if (admission === undefined) continue
      this.#entries.push({ policy, key: keyAt(check, index), admission, isLater, left: policy.cost })
    }
  }
}
