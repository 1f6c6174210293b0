import { isThenable } from '../awaitable.js'
import { monotonic } from '../clock.js'
import type { Policy } from '../policy.js'
import type { Answer, Check, Store } from './store.js'

/** A denial is remembered no longer than this, so that a reset made by another replica is seen. */
const LONGEST_MS = 1000

interface Denial {
  readonly answer: Answer
  readonly at: number
  readonly until: number
  /** What was asked, and which policy of it frees last. */
  readonly asked: readonly Policy[]
  readonly index: number
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
      const now = monotonic()
      if (now >= denial.until) this.#denials.delete(id)
      else if (includes(denial, check.policies)) return later(denial.answer, now - denial.at)
    }
    const answer = this.#store.check(check)
    if (!isThenable(answer)) return answer
    return Promise.resolve(answer).then(settled => {
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

  refund(check: Check): Promise<void> {
    return this.#free(check, () => this.#store.refund(check))
  }

  reset(check: Check): Promise<void> {
    return this.#free(check, () => this.#store.reset(check))
  }

  close(): void {
    this.#denials.clear()
    this.#store.close()
  }

  /** Forgets the denial at once, and again afterwards: a check on its way meanwhile may have been denied before. */
  async #free(check: Check, free: () => void | Promise<void>): Promise<void> {
    const id = idOf(check)
    this.#denials.delete(id)
    await free()
    this.#denials.delete(id)
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
    const now = monotonic()
    if (this.#denials.size >= this.#capacity) this.#forget(now)
    if (this.#denials.size >= this.#capacity) return
    this.#denials.delete(id)
    const until = now + Math.min(retryMs, LONGEST_MS)
    this.#denials.set(id, { answer, at: now, until, asked: check.policies, index })
  }

  /** The oldest come first, and none lasts longer than a second: to look further would cost every denial of a crowd. */
  #forget(now: number): void {
    for (const [id, denial] of this.#denials) {
      if (denial.until > now) return
      this.#denials.delete(id)
    }
  }
}

function idOf(check: Check): string {
  return `${check.limiter}\n${check.key}`
}

/**
 * Whether what is asked now is denied by what was denied then: the same windows of the same logs (routes of a group
 * may differ in them, and so may requests), no smaller cost and no larger quota.
 */
function includes({ asked, index }: Denial, policies: readonly Policy[]): boolean {
  if (policies === asked) return true
  if (policies.length !== asked.length) return false
  return policies.every(({ log, windowMs, cost, limit }, at) => {
    const then = asked[at] as Policy
    if (log !== then.log || windowMs !== then.windowMs) return false
    return at !== index || (cost >= then.cost && limit <= then.limit)
  })
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
