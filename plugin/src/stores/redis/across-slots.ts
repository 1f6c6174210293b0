/**
 * Checks whose policies have keys in several slots of a cluster, where no script reaches all of them. Each slot is asked
 * for its policies; where one denies, the others get back what they were charged, by its identity. So no policy ever
 * admits more than its quota, and a request is charged by all or by none. But a denied check counts while it is in
 * flight, or for a window if its refund is lost, and checks at the same time may be denied early.
 */
import slotOf from 'cluster-key-slot'
import { type Policy, UNLIMITED } from '../../policy.js'
import { type Answer, type Check, keyAt, type PolicyAnswer, type Refund } from '../store.js'

/** Asks for policies of one slot. */
export interface Ask {
  (operation: 'check' | 'peek' | 'charge', check: Check): Promise<Answer>
  (operation: 'refund', check: Check, refunds: readonly Refund[]): Promise<readonly number[]>
}

/** The policies of one slot. */
interface Part {
  readonly check: Check
  /** Where they stand among all policies. */
  readonly places: readonly number[]
  /** Policies of other slots, whose penalties are in this one; they stand behind its own in the check. */
  readonly watched: readonly number[]
}

/** `stored`: a key as it stands in Redis. */
export function isAcrossSlots(check: Check, refunds: readonly Refund[], stored: (key: string) => string): boolean {
  const keys = [...(check.keys ?? []), ...refunds.map(({ key = check.key }) => key)]
  if (check.concurrency !== undefined || check.penalty !== 'none') keys.push(check.key)
  return new Set(keys.map(key => slotOf(`{${stored(key)}}`))).size > 1
}

export class AcrossSlots {
  readonly #ask: Ask
  readonly #stored: (key: string) => string

  constructor(ask: Ask, stored: (key: string) => string) {
    this.#ask = ask
    this.#stored = stored
  }

  async check(check: Check): Promise<Answer> {
    const parts = this.#partsOf(check)
    const results = await Promise.allSettled(parts.map(part => this.#ask('check', part.check)))
    const answers = results.map(result => (result.status === 'fulfilled' ? result.value : undefined))
    if (answers.every(answer => answer?.allowed)) return combined(check, parts, answers as Answer[])
    await Promise.allSettled(parts.map((part, index) => this.#giveBack(part.check, answers[index])))
    const failed = results.find(result => result.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    const left = parts.map((part, index) => withoutCharge(part.check, answers[index] as Answer))
    return this.#punished(check, parts, combined(check, parts, left))
  }

  async peek(check: Check): Promise<Answer> {
    const parts = this.#partsOf(check)
    return combined(check, parts, await Promise.all(parts.map(part => this.#ask('peek', part.check))))
  }

  async charge(check: Check): Promise<Answer> {
    const parts = this.#partsOf(check)
    return combined(check, parts, await Promise.all(parts.map(part => this.#ask('charge', part.check))))
  }

  async refund(check: Check, refunds: readonly Refund[]): Promise<readonly number[]> {
    const given = refunds.map(() => 0)
    const slots = new Map<number, number[]>()
    for (const [place, { key = check.key }] of refunds.entries()) push(slots, this.#slotOf(key), place)
    await Promise.all(
      [...slots.values()].map(async places => {
        const own = places.map(place => refunds[place] as Refund)
        const part = { ...check, key: own[0]?.key ?? check.key }
        for (const [index, cost] of (await this.#ask('refund', part, own)).entries())
          given[places[index] as number] = cost
      }),
    )
    return given
  }

  #slotOf(key: string): number {
    return slotOf(`{${this.#stored(key)}}`)
  }

  /** Penalties and permits go by the key of the check, whose slot is asked for those of all policies. */
  #partsOf(check: Check): Part[] {
    const main = this.#slotOf(check.key)
    const hasPenalty = check.penalty !== 'none'
    const slots = new Map<number, number[]>()
    if (hasPenalty || check.concurrency !== undefined) slots.set(main, [])
    for (const place of check.policies.keys()) {
      push(slots, this.#slotOf(keyAt(check, place)), place)
    }
    return [...slots].map(([slot, places]) => {
      const isMain = slot === main
      const isWatched = (place: number) => !places.includes(place) && check.policies[place]?.decides !== false
      const watched = isMain && hasPenalty ? [...check.policies.keys()].filter(isWatched) : []
      const keys = places.map(place => keyAt(check, place))
      const policies = places.map(place => check.policies[place] as Policy)
      return {
        places,
        watched,
        check: {
          ...check,
          key: isMain ? check.key : (keys[0] as string),
          keys: [...keys, ...watched.map(() => check.key)],
          policies: [...policies, ...watched.map(place => watching(check.policies[place] as Policy, UNLIMITED, 0))],
          decisive: places.length,
          penalty: isMain ? check.penalty : 'none',
          concurrency: isMain ? check.concurrency : undefined,
        },
      }
    })
  }

  async #giveBack(check: Check, answer: Answer | undefined): Promise<void> {
    if (!answer?.allowed) return
    answer.concurrency?.lease?.release()
    const refunds = check.policies.flatMap((policy, index): Refund[] => {
      const admission = answer.policies[index]?.admission
      return admission === undefined ? [] : [{ policy, cost: policy.cost, admission, key: keyAt(check, index) }]
    })
    if (refunds.length > 0) await this.#ask('refund', check, refunds)
  }

  /** Records the denials of policies whose penalties are in another slot than their logs. */
  async #punished(check: Check, parts: readonly Part[], answer: Answer): Promise<Answer> {
    const main = parts.find(({ watched }) => watched.length > 0)
    const denying = (main?.watched ?? []).filter(place => (answer.policies[place]?.retryMs ?? 0) > 0)
    if (main === undefined || denying.length === 0) return answer
    const punished = await this.#ask('check', {
      ...main.check,
      keys: denying.map(() => check.key),
      policies: denying.map(place => watching(check.policies[place] as Policy, 0, 1)),
      concurrency: undefined,
    })
    const policies = [...answer.policies]
    for (const [index, place] of denying.entries()) {
      policies[place] = withPenalty(check, policies[place] as PolicyAnswer, punished.policies[index] as PolicyAnswer)
    }
    return { ...answer, policies }
  }
}

/**
 * Stands for a policy where its penalties are; its log is never written, and no name of a log begins so. With limit 0 and
 * cost 1 it denies.
 */
function watching(policy: Policy, limit: number, cost: number): Policy {
  return { ...policy, limit, cost, log: `%${policy.log}`, penaltyLog: policy.log, blockLog: undefined }
}

function withPenalty({ penalty }: Check, policy: PolicyAnswer, watched: PolicyAnswer): PolicyAnswer {
  const { denials } = watched
  if (penalty === 'count' || watched.retryMs === 0) return { ...policy, denials }
  const blockMs = watched.retryMs
  return {
    ...policy,
    denials,
    used: Math.max(policy.used, watched.used),
    resetMs: blockMs,
    retryMs: Math.max(policy.retryMs, blockMs),
  }
}

/** As it stands once the charge was given back. */
function withoutCharge(check: Check, answer: Answer): Answer {
  const policies = answer.policies.map((policy, index) => {
    const cost = policy.admission === undefined ? 0 : (check.policies[index] as Policy).cost
    return { ...policy, used: policy.used - cost, admission: undefined }
  })
  const { concurrency } = answer
  const isHeld = concurrency?.lease !== undefined
  return {
    ...answer,
    policies,
    concurrency: concurrency && {
      inFlight: concurrency.inFlight - (isHeld ? 1 : 0),
      violated: concurrency.violated,
    },
  }
}

function push(groups: Map<number, number[]>, name: number, value: number): void {
  const group = groups.get(name)
  if (group === undefined) groups.set(name, [value])
  else group.push(value)
}

function combined(check: Check, parts: readonly Part[], answers: readonly Answer[]): Answer {
  const policies: PolicyAnswer[] = []
  for (const [index, { places }] of parts.entries()) {
    for (const [at, place] of places.entries()) policies[place] = answers[index]?.policies[at] as PolicyAnswer
  }
  for (const [index, { places, watched }] of parts.entries()) {
    for (const [at, place] of watched.entries()) {
      const watcher = answers[index]?.policies[places.length + at] as PolicyAnswer
      policies[place] = withPenalty(check, policies[place] as PolicyAnswer, watcher)
    }
  }
  const concurrency = answers.find(answer => answer.concurrency !== undefined)?.concurrency
  return { allowed: answers.every(({ allowed }) => allowed), policies, concurrency }
}
