import type { Policy } from '../../policy.js'
import { MemoryStore } from '../memory/memory-store.js'
import type { Answer, Check, Names, Refund, Store } from '../store.js'

/** What is owed for one key. */
interface Debt {
  readonly policies: Map<string, Policy>
  /** When it began, by the clock of the store that admitted: earlier admissions have been written. */
  since: number
  /** The charge that is on its way. */
  payment: Payment | undefined
}

interface Payment {
  readonly done: Promise<void>
  /** What was admitted since the charge was made, which does not contain it: units by log, and when that began. */
  readonly later: Map<string, number>
  since: number
}

/** What this replica admitted by itself and has not yet written to Redis, by key: as much as is in its window. */
export class Owed {
  readonly #capacity: number
  readonly #units: MemoryStore
  readonly #debts = new Map<string, Debt>()

  /** `capacity`: keys at most. Beyond it the oldest are forgotten. */
  constructor(capacity: number) {
    this.#capacity = capacity
    this.#units = new MemoryStore(capacity)
  }

  keys(): readonly string[] {
    return [...this.#debts.keys()]
  }

  /** Adds what the local store has admitted. Returns whether that was anything. */
  add({ key, ...check }: Check, answer: Answer): boolean {
    const policies = check.policies.filter((_policy, index) => answer.policies[index]?.admission !== undefined)
    if (policies.length === 0) return false
    const since = Math.min(...answer.policies.map(({ admission }) => admission?.time ?? Number.POSITIVE_INFINITY))
    let debt = this.#debts.get(key)
    if (debt === undefined) {
      if (this.#debts.size >= this.#capacity) this.forget(this.#debts.keys().next().value as string)
      debt = { policies: new Map(), since, payment: undefined }
      this.#debts.set(key, debt)
    }
    const { payment } = debt
    if (payment !== undefined) payment.since = Math.min(payment.since, since)
    for (const policy of policies) {
      debt.policies.set(policy.log, policy)
      payment?.later.set(policy.log, (payment.later.get(policy.log) ?? 0) + policy.cost)
    }
    this.#units.charge({ ...check, key, policies })
    return true
  }

  /** Takes back what was given back to the local store, unless it has been written already. */
  takeBack(check: Check, refunds: readonly Refund[]): void {
    const since = this.#debts.get(check.key)?.since ?? Number.POSITIVE_INFINITY
    const owed = refunds.filter(({ admission }) => admission !== undefined && admission.time >= since)
    this.#units.refund(check, owed.map(withoutIdentity))
  }

  /**
   * Pays what is owed for a key by a charge of `store`. Rejects where that fails: it is owed as before. While a payment
   * is on its way there is no second one. `onPaid`: called with the charge and its answer.
   */
  pay(key: string, store: Store, onPaid: (check: Check, answer: Answer) => void): Promise<void> {
    const debt = this.#debts.get(key)
    if (debt === undefined) return Promise.resolve()
    if (debt.payment !== undefined) return debt.payment.done
    const charge = this.#charge(key)
    if (charge === undefined) return Promise.resolve()
    const later = new Map<string, number>()
    const done = this.#pay(debt, charge, store, later, onPaid).finally(() => {
      debt.payment = undefined
    })
    debt.payment = { done, later, since: Number.POSITIVE_INFINITY }
    return done
  }

  async #pay(
    debt: Debt,
    charge: Check,
    store: Store,
    later: ReadonlyMap<string, number>,
    onPaid: (check: Check, answer: Answer) => void,
  ): Promise<void> {
    const { key } = charge
    onPaid(charge, await store.charge(charge))
    // Forgotten meanwhile: what is owed now was admitted since.
    if (this.#debts.get(key) !== debt) return
    // Of what was written, some has left the window by now. Of what was admitted since, nothing was written.
    const { policies } = this.#units.peek(charge)
    const paid = charge.policies.flatMap((policy, index) => {
      const left = (policies[index]?.used ?? 0) - (later.get(policy.log) ?? 0)
      const cost = Math.min(policy.cost, left)
      return cost > 0 ? [{ policy, cost, admission: undefined }] : []
    })
    this.#units.refund(charge, paid)
    debt.since = debt.payment?.since ?? debt.since
    if (this.#charge(key) === undefined) this.#debts.delete(key)
  }

  forget(key: string): void {
    const debt = this.#debts.get(key)
    if (debt === undefined) return
    this.#debts.delete(key)
    this.#units.reset(key, { limiters: [], logs: [...debt.policies.keys()], permits: [] })
  }

  /** A key was reset: nothing is owed to these logs any more. */
  reset(key: string, { logs }: Names): void {
    this.#units.reset(key, { limiters: [], logs, permits: [] })
  }

  /** One charge for all policies of a key. Undefined, and the debt is over, where nothing is in its window any more. */
  #charge(key: string): Check | undefined {
    const debt = this.#debts.get(key)
    if (debt === undefined) return undefined
    const known = [...debt.policies.values()]
    const check = { key, limiter: '', decisive: known.length, penalty: 'none' as const }
    const { policies } = this.#units.peek({ ...check, policies: known })
    const owed = known.flatMap((policy, index) => {
      const cost = policies[index]?.used ?? 0
      return cost > 0 ? [{ ...policy, cost }] : []
    })
    if (owed.length > 0) return { ...check, policies: owed }
    this.#debts.delete(key)
    return undefined
  }
}

function withoutIdentity({ policy, cost, key }: Refund): Refund {
  return { policy, cost, key, admission: undefined }
}
