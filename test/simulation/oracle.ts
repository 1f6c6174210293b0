/**
 * The rule over a whole history: no window (t − W, t] of true time holds more units than the limit. What docs/exactness.md
 * excepts is excepted here, and nothing else.
 */
import type { Plan, Step } from './plan.js'

/** What was admitted or charged, in µs of true time. */
export interface Unit {
  readonly key: string
  readonly cost: number
  readonly at: number
  readonly replica: number
  /** By a script call, from quota that the replica had taken ahead, or by the replica itself. */
  readonly kind: 'store' | 'ahead' | 'local'
  /** Charged without asking: it may overdraw, and counts for what comes after. */
  readonly isCharge: boolean
  /** Whether its replica had reached the store before. */
  readonly hasSeenStore: boolean
  /** By policy. */
  readonly admissions: readonly ({ readonly generation: number; readonly time: number } | undefined)[]
  /** What may have been given back, and from when on. */
  readonly refunds: { readonly at: number; readonly cost: number }[]
}

interface Forgotten {
  readonly key: string | undefined
  readonly at: number
  readonly clockUs: number
}

/** A grant that was taken before a reset, or a loss of data, may be spent until its end: one second at most. */
const LONGEST_GRANT_US = 1_000_000

/** A window across the beginning of an outage may hold so many times the limit, or more if replicas know less. */
const BEGINNING = 1.25

export class History {
  readonly units: Unit[] = []
  readonly #plan: Plan
  readonly #outages: { readonly from: number; readonly to: number; readonly empties: boolean }[] = []
  readonly #jumps: number[] = []
  readonly #forgotten: Forgotten[] = []
  readonly #credits: { readonly key: string; readonly policy: number; readonly at: number; readonly cost: number }[] =
    []
  /** What went back to the store by identity. */
  readonly #returned: { readonly key: string; readonly policy: number; readonly at: number; readonly cost: number }[] =
    []
  readonly #answers: { readonly replica: number; readonly key: string; readonly at: number }[] = []
  readonly #denials: { readonly key: string; readonly since: number; readonly at: number }[] = []
  /** When each replica was killed or closed. */
  readonly #gone = new Map<number, number>()

  /** Whether there is one replica only, from the beginning to the end. */
  readonly #isAlone: boolean

  /** How far grants are dated ahead, and how long they may be spent: a slice of the shortest window, a second at most. */
  readonly #lifeUs: number

  constructor(plan: Plan) {
    this.#plan = plan
    const { policies, precision } = plan.settings
    this.#lifeUs = Math.min(LONGEST_GRANT_US, ...policies.map(({ windowMs }) => windowMs * 1000 * precision))
    const { profile, onStoreError, rates } = plan.settings
    const count = (act: Step['act']) => plan.steps.filter(step => step.act === act).length
    const lives = count('kill') + count('close') === 0
    // What a replica counts by itself goes by its own clock.
    const isTrue = rates.every(rate => rate === 1)
    this.#isAlone = isTrue && profile === 'network' && onStoreError === 'local' && count('start') === 1 && lives
  }

  outage(from: number, to: number, empties: boolean): void {
    this.#outages.push({ from, to, empties })
  }

  /** The clock of the server went forward. */
  jumped(at: number): void {
    this.#jumps.push(at)
  }

  /** The store has answered a replica about a key. */
  answered(replica: number, key: string, at: number): void {
    this.#answers.push({ replica, key, at })
  }

  flushed(at: number, clockUs: number): void {
    this.#forgotten.push({ key: undefined, at, clockUs })
  }

  reset(key: string, at: number, clockUs: number): void {
    this.#forgotten.push({ key, at, clockUs })
  }

  credited(key: string, policy: number, at: number, cost: number): void {
    this.#credits.push({ key, policy, at, cost })
  }

  returned(key: string, policy: number, at: number, cost: number): void {
    this.#returned.push({ key, policy, at, cost })
  }

  gone(replica: number, at: number): void {
    this.#gone.set(replica, at)
  }

  /** A lone client was denied. */
  denied(key: string, since: number, at: number): void {
    this.#denials.push({ key, since, at })
  }

  /** What broke a promise, in words. */
  wrong(): string[] {
    const wrong: string[] = []
    const keys = new Set(this.units.map(({ key }) => key))
    for (const key of keys) {
      for (const [index] of this.#plan.settings.policies.entries()) wrong.push(...this.#overfull(key, index))
    }
    wrong.push(...this.#deniedEarly())
    return wrong
  }

  #overfull(key: string, index: number): string[] {
    const { policies } = this.#plan.settings
    const { max, windowMs } = policies[index] as (typeof policies)[number]
    const windowUs = windowMs * 1000
    const units = this.units.filter(unit => unit.key === key && this.#counts(unit)).sort((a, b) => a.at - b.at)
    const credits = this.#credits.filter(credit => credit.key === key && credit.policy === index)
    const wrong: string[] = []
    for (const [last, unit] of units.entries()) {
      // Of what was admitted at one instant the last one counts all.
      if (unit.isCharge || units[last + 1]?.at === unit.at) continue
      const { at } = unit
      const inWindow = units.slice(0, last + 1).filter(one => one.at > at - windowUs && !this.#isForgotten(one, at))
      // What was overdrawn before the clock of the server went forward has left with the rest.
      const jumpedAt = this.#jumps.findLast(jump => jump <= at) ?? 0
      // A charge of the same instant may have come after it, and one of the life of a grant after that was taken.
      const decidedAt = unit.kind === 'ahead' ? at - this.#lifeUs : at
      const counted = inWindow.filter(one => !one.isCharge || (one.at > jumpedAt && one.at < decidedAt))
      const own = counted.reduce((sum, one) => sum + left(one, at), 0)
      // A request whose units it took may be refunded up to a window later, and then takes those of others.
      const given = credits.filter(credit => credit.at > at - 2 * windowUs && credit.at <= at)
      const used = own - given.reduce((sum, { cost }) => sum + cost, 0)
      const most = this.#most(max, at - windowUs, at, inWindow)
      if (used <= most) continue
      const kinds = inWindow.map(one => `${one.at / 1000} ${one.kind} ${one.replica}`)
      wrong.push(
        `${key} had ${used} of ${max} in the window of ${windowMs} ms that ends at ${at / 1000}: ${kinds.join(', ')}`,
      )
      break
    }
    return wrong
  }

  /** The limit, and what is excepted. */
  #most(max: number, from: number, to: number, units: readonly Unit[]): number {
    // What was taken ahead before a jump may be spent until its end, and no longer counts.
    const isTouched = (jump: number) =>
      jump > from || units.some(({ kind, at }) => kind === 'ahead' && at <= jump + this.#lifeUs)
    const jumps = this.#jumps.filter(jump => jump <= to && isTouched(jump)).length
    const outage = this.#outages.find(
      outage =>
        from < outage.from && units.some(({ at }) => at <= outage.from) && units.some(({ at }) => at >= outage.from),
    )
    if (outage === undefined) return max * (1 + jumps)
    return max * jumps + Math.max(max * BEGINNING, max + this.#unknown(outage.from, units, to - from))
  }

  /**
   * What replicas may admit beyond the limit: each its share of what others were admitted since it was last answered, and
   * of what came unnoticed before that, while as many left the window between two of its answers.
   */
  #unknown(outageAt: number, units: readonly Unit[], windowUs: number): number {
    const { length } = this.#plan.settings.rates
    const { key } = units[0] as Unit
    const ofKey = this.units.filter(unit => unit.key === key && unit.kind !== 'local')
    let sum = 0
    for (let replica = 0; replica < length; replica++) {
      const answers = this.#answers.filter(one => one.replica === replica && one.key === key && one.at <= outageAt)
      const times = [...new Set([0, ...answers.map(({ at }) => at)])].sort((a, b) => a - b)
      const last = times.at(-1) as number
      let unknown = sumOf(units.filter(({ at, kind }) => at > last && kind !== 'local'))
      for (const [index, until] of times.slice(1).entries()) {
        const since = times[index] as number
        const isBetween = (at: number) => at > since && at <= until
        const came = sumOf(
          units.filter(({ at, kind, replica: who }) => isBetween(at) && kind !== 'local' && who !== replica),
        )
        const left = came === 0 ? 0 : sumOf(ofKey.filter(({ at }) => isBetween(at + windowUs)))
        unknown += Math.min(came, left)
      }
      sum += Math.ceil(unknown / length)
    }
    return sum
  }

  /** Whether a unit counts in any window. */
  #counts(unit: Unit): boolean {
    if (unit.kind !== 'local') return true
    const { profile, rates } = this.#plan.settings
    const gone = this.#gone.get(unit.replica)
    // A replica that is alone knows all, as long as it lives.
    if (this.#isAlone) return true
    // Where only some replicas were cut off, the others do not know what those admitted until they have written it.
    if (profile !== 'outage') return false
    const outage = this.#outages[0]
    if (outage === undefined) return false
    // Died before it could report, or never saw the store.
    if (gone !== undefined && gone <= outage.to + 1_000_000) return false
    if (!unit.hasSeenStore) return false
    // One that never asked about a key does not know its usage.
    if (!this.#answers.some(one => one.replica === unit.replica && one.key === unit.key && one.at <= outage.from))
      return false
    // A replica that was asked nothing does not notice a short outage.
    if (outage.to - outage.from < 1_500_000 && rates.length > 1) return false
    return true
  }

  /** Whether a unit is out of the count at a time: its key was reset, or the data was thrown away. */
  #isForgotten(unit: Unit, at: number): boolean {
    return this.#forgotten.some(({ key, at: when, clockUs }) => {
      if ((key !== undefined && key !== unit.key) || when > at) return false
      if (unit.at <= when) return true
      // The log may have been made by the grant, and is of its date then.
      const isOld = unit.admissions.some(
        one => one !== undefined && (one.generation < clockUs || one.time - this.#lifeUs < clockUs),
      )
      return unit.kind === 'ahead' && isOld && unit.at <= when + LONGEST_GRANT_US
    })
  }

  /**
   * Lone clients that were denied although there was room. Slices and grants may count longer, by a slice each. A remembered
   * denial ends by the clock of the replica, which may be slow. What a request gives back is taken off the oldest units, so as
   * much stays that is newer, for up to a window.
   */
  #deniedEarly(): string[] {
    const { policies, cost, precision } = this.#plan.settings
    const wrong: string[] = []
    for (const { key, since, at } of this.#denials) {
      const isFull = policies.some(({ max, windowMs }, index) => {
        const from = since - windowMs * 1000 * (1 + 2 * precision + 0.006) - 1000
        const units = this.units.filter(unit => unit.key === key && unit.at > from && unit.at <= at)
        const returned = this.#returned.filter(one => one.key === key && one.policy === index && one.at > from)
        return sumOf(units) + sumOf(returned.filter(one => one.at <= at)) + cost > max
      })
      if (!isFull) wrong.push(`${key} was denied at ${at / 1000} (asked at ${since / 1000}) although there was room`)
    }
    return wrong
  }
}

function sumOf(all: readonly { readonly cost: number }[]): number {
  return all.reduce((sum, { cost }) => sum + cost, 0)
}

/** Units of it that count at a time. */
function left(unit: Unit, at: number): number {
  const given = unit.refunds.filter(refund => refund.at <= at).reduce((sum, { cost }) => sum + cost, 0)
  return Math.max(0, unit.cost - given)
}
