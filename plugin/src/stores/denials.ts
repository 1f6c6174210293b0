import { monotonic } from '../clock.js'
import type { Policy } from '../policy.js'
import { type Answer, type Check, keyAt } from './store.js'

/** A denial is remembered no longer than this, so that a reset made by another replica is seen. */
const LONGEST_MS = 1000

interface Denial {
  readonly answer: Answer
  readonly at: number
  readonly until: number
  /** What was asked, and which policy of it frees last. */
  readonly asked: readonly Policy[]
  readonly keys: readonly string[] | undefined
  readonly index: number
}

/**
 * Remembers denials. A denial carries the exact time at which its cost fits again, and nothing but time frees quota;
 * until then a request of at least that cost is denied here, without asking Redis.
 *
 * Penalties count every denial, so checks with a penalty are not remembered.
 */
export class Denials {
  readonly #capacity: number
  readonly #clock: () => number
  readonly #denials = new Map<string, Denial>()

  /**
   * `capacity`: denials remembered, 0 for none. One still in force is never dropped for a newer one. `clock`:
   * milliseconds that never step back.
   */
  constructor(capacity: number, clock: () => number = monotonic) {
    this.#capacity = capacity
    this.#clock = clock
  }

  /** The denial that answers a check, if there is one. */
  find(check: Check): Answer | undefined {
    if (this.#denials.size === 0 || check.penalty !== 'none') return undefined
    if (check.keys === undefined) return this.#findAt(check, check.key)
    for (const key of new Set(check.keys)) {
      const answer = this.#findAt(check, key)
      if (answer !== undefined) return answer
    }
    return undefined
  }

  /**
   * `asked`: when the check was, by the same clock. The store has answered since then, so the denial is over by its
   * wait from then on, however long the answer was on its way. What is left to wait is told from now on, and is enough.
   */
  remember(check: Check, answer: Answer, asked: number): void {
    if (check.penalty !== 'none') return
    let index = 0
    let retryMs = 0
    for (const [at, policy] of answer.policies.entries()) {
      if (policy.retryMs > retryMs) {
        index = at
        retryMs = policy.retryMs
      }
    }
    const now = this.#clock()
    const until = asked + Math.min(retryMs, LONGEST_MS)
    if (until <= now) return // over, or no permit was left: that may change at any moment
    if (this.#denials.size >= this.#capacity) this.#dropExpired(now)
    if (this.#denials.size >= this.#capacity) return
    const id = idOf(check.limiter, keyAt(check, index))
    this.#denials.delete(id)
    this.#denials.set(id, { answer, at: now, until, asked: check.policies, keys: check.keys, index })
  }

  /** The denial of a key, which is that of the policy that denied. */
  #findAt(check: Check, key: string): Answer | undefined {
    const id = idOf(check.limiter, key)
    const denial = this.#denials.get(id)
    if (denial === undefined) return undefined
    const now = this.#clock()
    if (now >= denial.until) {
      this.#denials.delete(id)
      return undefined
    }
    if (keyAt(check, denial.index) !== key || !includes(denial, check.policies)) return undefined
    return later(denial, check, now - denial.at)
  }

  forget(limiter: string, key: string): void {
    this.#denials.delete(idOf(limiter, key))
  }

  /**
   * Does what frees quota of these keys. What is known of them is forgotten before, and once more behind it: a check that
   * was on its way meanwhile may have been denied before.
   */
  async freeing<T>(limiters: readonly string[], keys: readonly string[], free: () => Promise<T>): Promise<T> {
    const forget = () => {
      for (const limiter of limiters) for (const key of keys) this.forget(limiter, key)
    }
    forget()
    const result = await free()
    forget()
    return result
  }

  clear(): void {
    this.#denials.clear()
  }

  /** The oldest come first, and none lasts longer than a second: to look further would cost every denial of a crowd. */
  #dropExpired(now: number): void {
    for (const [id, denial] of this.#denials) {
      if (denial.until > now) return
      this.#denials.delete(id)
    }
  }
}

function idOf(limiter: string, key: string): string {
  return `${limiter}\n${key}`
}

/**
 * Whether what is asked now is denied by what was denied then: the same logs (routes of a group may differ in them,
 * and so may requests), no smaller cost and no larger quota.
 */
function includes({ asked, index }: Denial, policies: readonly Policy[]): boolean {
  if (policies === asked) return true
  const [then, now] = [asked[index] as Policy, policies[index]]
  return (
    now !== undefined &&
    now.cost >= then.cost &&
    now.limit <= then.limit &&
    policies.length === asked.length &&
    policies.every(({ log, windowMs }, at) => log === asked[at]?.log && windowMs === asked[at]?.windowMs)
  )
}

/**
 * The same denial `elapsed` milliseconds later: less to wait. Nothing is known of policies whose key is another one than
 * then; they are shown as unused.
 */
function later({ answer, keys }: Denial, check: Check, elapsed: number): Answer {
  const policies = answer.policies.map((policy, index) => {
    if (keys?.[index] !== check.keys?.[index]) return { used: 0, resetMs: 0, retryMs: 0, denials: 0 }
    const { used, blockedMs } = policy
    const left = {
      used,
      resetMs: Math.max(1, policy.resetMs - elapsed),
      retryMs: policy.retryMs === 0 ? 0 : Math.max(1, policy.retryMs - elapsed),
      denials: 0,
    }
    return blockedMs === undefined ? left : { ...left, blockedMs: Math.max(1, blockedMs - elapsed) }
  })
  return { allowed: false, policies, concurrency: answer.concurrency && { ...answer.concurrency, violated: false } }
}
