import type { Policy } from '../policy.js'
import type { Answer, Check, Store } from './store.js'

/** A denial is remembered no longer than this, so that a reset made by another replica is seen. */
const LONGEST_MS = 1000

interface Denial {
  readonly answer: Answer
  readonly at: number
  readonly until: number
  /** The policy that frees last: which, what it was asked for and with which quota. */
  readonly index: number
  readonly cost: number
  readonly limit: number
}

/**
 * Remembers denials of another store. A denial carries the exact time at which its cost fits again, and nothing but
 * time frees quota; until then a request of at least that cost is denied here, and the store is not asked.
 *
 * Penalties count every denial, so checks with one pass through.
 */
export class DenyMemory implements Store {
  readonly #store: Store
  readonly #capacity: number
  readonly #denials = new Map<string, Denial>()

  /** `capacity`: denials remembered. One still in force is never forgotten for a newer one. */
  constructor(store: Store, capacity: number) {
    this.#store = store
    this.#capacity = capacity
  }

  check(check: Check): Answer | Promise<Answer> {
    if (check.penalty !== 'none') return this.#store.check(check)
    const id = idOf(check)
    const denial = this.#denials.get(id)
    if (denial !== undefined) {
      const now = performance.now()
      if (now >= denial.until) {
        this.#denials.delete(id)
      } else {
        const policy = check.policies[denial.index] as Policy
        if (policy.cost >= denial.cost && policy.limit <= denial.limit) return later(denial.answer, now - denial.at)
      }
    }
    const answer = this.#store.check(check)
    if (!(answer instanceof Promise)) return answer
    return answer.then(settled => {
      if (!settled.allowed) this.#remember(id, check, settled)
      return settled
    })
  }

  peek(check: Check): Answer | Promise<Answer> {
    return this.#store.peek(check)
  }

  charge(check: Check): void | Promise<void> {
    return this.#store.charge(check)
  }

  refund(check: Check): void | Promise<void> {
    this.#denials.delete(idOf(check))
    return this.#store.refund(check)
  }

  reset(check: Check): void | Promise<void> {
    this.#denials.delete(idOf(check))
    return this.#store.reset(check)
  }

  close(): void {
    this.#denials.clear()
    this.#store.close()
  }

  #remember(id: string, check: Check, answer: Answer): void {
    let index = 0
    let retryMs = 0
    for (const [at, policy] of answer.policies.entries()) {
      if (policy.retryMs > retryMs) {
        index = at
        retryMs = policy.retryMs
      }
    }
    if (retryMs === 0) return // no place among the requests in flight: that may change at any moment
    const now = performance.now()
    if (this.#denials.size >= this.#capacity) this.#forget(now)
    if (this.#denials.size >= this.#capacity) return
    const { cost, limit } = check.policies[index] as Policy
    this.#denials.set(id, { answer, at: now, until: now + Math.min(retryMs, LONGEST_MS), index, cost, limit })
  }

  #forget(now: number): void {
    for (const [id, denial] of this.#denials) if (denial.until <= now) this.#denials.delete(id)
  }
}

function idOf(check: Check): string {
  return `${check.limiter}\n${check.key}`
}

/** The same denial `elapsed` milliseconds later: less to wait. */
function later(answer: Answer, elapsed: number): Answer {
  const policies = answer.policies.map(policy => ({
    used: policy.used,
    resetMs: Math.max(1, policy.resetMs - elapsed),
    retryMs: policy.retryMs === 0 ? 0 : Math.max(1, policy.retryMs - elapsed),
    denials: 0,
  }))
  return { allowed: false, policies, concurrency: answer.concurrency && { ...answer.concurrency, violated: false } }
}
