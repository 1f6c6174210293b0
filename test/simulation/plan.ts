/** What a schedule is made of: settings, and what happens when. A seed gives a plan, and a plan can be cut down. */
import { Random, seedOf } from './random.js'

/** What may go wrong in a plan. Each promise holds for some of them; see `oracle.ts`. */
export type Profile = 'calm' | 'network' | 'outage' | 'clocks' | 'forgets'

export interface PlannedPolicy {
  readonly max: number
  readonly windowMs: number
}

export interface Settings {
  readonly profile: Profile
  readonly policies: readonly PlannedPolicy[]
  readonly cost: number
  readonly precision: number
  readonly prefetch: boolean
  readonly denyMemory: number
  readonly storeTimeoutMs: number
  readonly onStoreError: 'local' | 'throw' | 'allow'
  /** Longest way of a call, in µs. */
  readonly wayUs: number
  readonly inOrder: boolean
  /** Whether a client that is alone with its key waits as it was told after a denial. */
  readonly rests: boolean
  /** How fast the clock of each replica is, by its number. */
  readonly rates: readonly number[]
}

/** Times in µs from the start. `replica` counts processes in the order of their starts; one that is not there does nothing. */
export type Step = { readonly at: number } & (
  | { readonly act: 'start' }
  | { readonly act: 'kill' | 'close'; readonly replica: number }
  | {
      readonly act: 'ask'
      readonly replica: number
      readonly key: string
      readonly count: number
      readonly gapUs: number
    }
  | { readonly act: 'refund' | 'charge'; readonly replica: number; readonly pick: number; readonly cost: number }
  | { readonly act: 'status' | 'reset'; readonly replica: number; readonly key: string }
  | { readonly act: 'credit'; readonly replica: number; readonly key: string; readonly cost: number }
  | { readonly act: 'stall'; readonly replica: number; readonly forUs: number }
  | { readonly act: 'loseCalls' | 'loseAnswers' | 'double'; readonly replica: number; readonly count: number }
  | {
      readonly act: 'slow'
      readonly replica: number
      readonly count: number
      readonly thereUs: number
      readonly backUs: number
    }
  | { readonly act: 'hold'; readonly replica: number; readonly forUs: number }
  | { readonly act: 'cut'; readonly replica: number; readonly forUs: number }
  | { readonly act: 'freeze'; readonly forUs: number }
  | { readonly act: 'stop'; readonly forUs: number; readonly empties: boolean }
  | { readonly act: 'refuse'; readonly forUs: number; readonly error: string }
  | { readonly act: 'flush' }
  | { readonly act: 'forgetScripts' }
  /** The clock of the server steps by so much. */
  | { readonly act: 'clock'; readonly byUs: number }
)

export interface Plan {
  readonly seed: number
  readonly settings: Settings
  readonly steps: readonly Step[]
  /** When everything is closed. */
  readonly endUs: number
}

const MS = 1000
const SECOND = 1_000_000

/** Until all replicas know of each other: they announce themselves once a second. */
const ACQUAINTED_US = 2_300_000

export function planOf(seed: number): Plan {
  const random = new Random(seedOf(seed))
  const profile = random.pick<Profile>([
    ...(['calm', 'calm', 'network', 'network', 'network'] as const),
    ...(['outage', 'outage', 'outage', 'clocks', 'forgets'] as const),
  ])
  const settings = settingsOf(random, profile)
  const replicas = settings.rates.length
  const begin = profile === 'outage' ? ACQUAINTED_US : 50 * MS
  const windowUs = (settings.policies[0] as PlannedPolicy).windowMs * MS
  const trafficUs = Math.min(random.int(2, 4) * windowUs, 5 * SECOND)
  const steps: Step[] = []
  for (let replica = 0; replica < replicas; replica++) steps.push({ at: random.int(0, 40) * MS, act: 'start' })
  steps.push(...asks(random, settings, begin, trafficUs))
  let endUs = begin + trafficUs + windowUs
  switch (profile) {
    case 'calm':
      steps.push(...gives(random, settings, begin, trafficUs))
      break
    case 'network':
      steps.push(...gives(random, settings, begin, trafficUs))
      steps.push(...mishaps(random, settings, begin, trafficUs))
      break
    case 'outage': {
      const outage = outageOf(random, begin, trafficUs)
      steps.push(...outage.steps)
      endUs = Math.max(endUs, outage.endUs + windowUs)
      // Some go on to ask right when it is over; or all have used up what they may give by themselves, and go on to ask.
      if (random.isLikely(0.5)) {
        steps.push(...asks(random, settings, outage.endUs - 50 * MS, Math.min(windowUs, 2 * SECOND)))
      } else steps.push(...presses(settings, begin, outage.endUs - windowUs, windowUs + Math.min(windowUs, SECOND)))
      break
    }
    case 'clocks':
      for (let count = random.int(1, 3); count > 0; count--) {
        const by = random.pick([1, 10, 90, 110, 1000, 60_000]) * MS * random.pick([-1, -1, 1])
        steps.push({ at: begin + random.int(0, trafficUs), act: 'clock', byUs: by })
      }
      steps.push(...gives(random, settings, begin, trafficUs))
      break
    case 'forgets':
      for (let count = random.int(1, 2); count > 0; count--) {
        const at = begin + random.int(0, trafficUs)
        if (random.isLikely(0.3)) steps.push({ at, act: 'flush' })
        else steps.push({ at, act: 'reset', replica: random.int(0, replicas - 1), key: keyOf(random, replicas) })
      }
      steps.push(...gives(random, settings, begin, trafficUs))
      break
  }
  steps.sort((a, b) => a.at - b.at)
  return { seed, settings, steps, endUs }
}

function settingsOf(random: Random, profile: Profile): Settings {
  const windowMs = random.pick([200, 500, 1000, 1000, 2000])
  const precision = random.pick([0.01, 0.05, 0.1, 0.1, 0])
  const max = random.pick([1, 3, 7, 15, 30, 30, 60, 60, 110])
  const replicas = random.pick([1, 2, 2, 3, 4])
  const isDrifting = profile === 'calm' || profile === 'network'
  const policies = [{ max, windowMs }]
  if (random.isLikely(0.2)) policies.push({ max: max * 2, windowMs: windowMs * random.pick([2, 4]) })
  return {
    profile,
    policies,
    cost: random.pick([1, 1, 1, 2]),
    precision,
    prefetch: random.isLikely(0.8),
    denyMemory: random.pick([0, 100]),
    storeTimeoutMs: random.pick([20, 50, 100]),
    onStoreError: profile === 'outage' || random.isLikely(0.6) ? 'local' : random.pick(['throw', 'allow']),
    wayUs: random.pick([200, 1000, 3000]),
    inOrder: random.isLikely(0.7),
    rests: random.isLikely(0.5),
    rates: Array.from({ length: replicas }, () => 1 + (isDrifting ? random.int(-4, 4) / 1000 : 0)),
  }
}

/** Keys that all replicas ask about, and keys that one replica asks about. */
function keyOf(random: Random, replicas: number): string {
  return random.isLikely(0.75) ? 'shared' : `lone-${random.int(0, replicas - 1)}`
}

/** Whether one replica asks about a key. */
export function isLone(key: string, { rates }: Settings): boolean {
  return rates.length === 1 || key.startsWith('lone-')
}

/**
 * Requests in bursts: together somewhat less than the quota, or up to three times as much. At any time, or again and again
 * after about one window, which is when what was admitted before leaves it.
 */
function asks(random: Random, settings: Settings, from: number, forUs: number): Step[] {
  const { policies, rates, cost, precision } = settings
  const { max, windowMs } = policies[0] as PlannedPolicy
  const windowUs = windowMs * MS
  const isEcho = random.isLikely(0.5)
  const rounds = isEcho ? Math.max(1, Math.floor(forUs / windowUs)) : 1
  const most = max > 100 ? 300 : 160
  const wanted = (max / cost) * (forUs / windowUs) * random.pick([0.7, 1.5, 3]) + 5
  let left = Math.ceil(Math.min(most, wanted) / rounds)
  const steps: Step[] = []
  while (left > 0) {
    const count = Math.min(left, random.pick([1, 1, 3, 10, 30]))
    const key = keyOf(random, rates.length)
    const replica = key.startsWith('lone-') ? Number(key.slice('lone-'.length)) : random.int(0, rates.length - 1)
    const gapUs = random.pick([0, 100, 1000, 3000])
    const at = from + random.int(0, isEcho ? Math.min(forUs, windowUs) : forUs)
    for (let round = 0; round < rounds; round++) {
      const about = round === 0 ? 0 : random.int(-1, 2) * random.int(0, Math.ceil(windowUs * precision) + 1000)
      const who = round === 0 || key.startsWith('lone-') ? replica : random.int(0, rates.length - 1)
      // All at once meets what was spent over a time.
      const gap = round === 0 || random.isLikely(0.5) ? gapUs : 0
      steps.push({ at: at + round * windowUs + about, act: 'ask', replica: who, key, count, gapUs: gap })
    }
    left -= count
  }
  return steps
}

/** All replicas know one key, and later ask for it all the time. */
function presses({ rates }: Settings, knownAt: number, from: number, forUs: number): Step[] {
  const gapUs = 10 * MS
  const count = forUs / gapUs
  return rates.flatMap((_rate, replica) => [
    { at: knownAt, act: 'ask', replica, key: 'shared', count: 1, gapUs: 0 },
    { at: from, act: 'ask', replica, key: 'shared', count, gapUs },
  ])
}

/** Refunds, charges, looks and credits. */
function gives(random: Random, { rates, cost }: Settings, from: number, forUs: number): Step[] {
  const steps: Step[] = []
  for (let count = random.pick([0, 2, 6, 12]); count > 0; count--) {
    const at = from + random.int(0, forUs)
    const replica = random.int(0, rates.length - 1)
    const pick = random.int(0, random.pick([5, 20, 100]))
    const act = random.pick(['refund', 'refund', 'refund', 'charge', 'status', 'credit'] as const)
    if (act === 'refund') {
      steps.push({ at, act, replica, pick, cost: random.pick([cost, cost, 1]) })
      // Somebody spends at once what was given back.
      if (random.isLikely(0.5)) {
        const who = random.int(0, rates.length - 1)
        steps.push({ at: at + 5 * MS, act: 'ask', replica: who, key: 'shared', count: 3, gapUs: 0 })
      }
    }
    if (act === 'charge') steps.push({ at, act, replica, pick, cost: random.int(1, 5) })
    if (act === 'status') steps.push({ at, act, replica, key: 'shared' })
    if (act === 'credit') steps.push({ at, act, replica, key: 'shared', cost: random.int(1, 5) })
  }
  return steps
}

function mishaps(random: Random, { rates, storeTimeoutMs }: Settings, from: number, forUs: number): Step[] {
  const steps: Step[] = []
  for (let count = random.int(1, 5); count > 0; count--) {
    const at = from + random.int(0, forUs)
    const replica = random.int(0, rates.length - 1)
    const some = random.pick([1, 1, 2, 5])
    const timeoutUs = storeTimeoutMs * MS
    const around = () => random.int(0, 2 * timeoutUs)
    steps.push(
      random.pick<() => Step>([
        () => ({ at, act: 'loseCalls', replica, count: some }),
        () => ({ at, act: 'loseAnswers', replica, count: some }),
        () => ({ at, act: 'double', replica, count: some }),
        () => ({ at, act: 'slow', replica, count: some, thereUs: around(), backUs: around() }),
        () => ({ at, act: 'slow', replica, count: some, thereUs: 0, backUs: around() }),
        () => ({ at, act: 'hold', replica, forUs: around() }),
        () => ({ at, act: 'cut', replica, forUs: random.int(1, 3) * timeoutUs }),
        () => ({ at, act: 'stall', replica, forUs: random.int(1, 300) * MS }),
        () => ({ at, act: 'kill', replica }),
        () => ({ at, act: 'close', replica }),
        () => ({ at, act: 'start' }),
        () => ({ at, act: 'forgetScripts' }),
      ])(),
    )
  }
  return steps
}

function outageOf(
  random: Random,
  from: number,
  forUs: number,
): { readonly steps: readonly Step[]; readonly endUs: number } {
  const at = from + random.int(0, forUs)
  const long = random.pick([300, 1700, 2500, 4000, 12_000]) * MS
  const steps: Step[] = [
    random.pick<() => Step>([
      () => ({ at, act: 'freeze', forUs: long }),
      () => ({ at, act: 'stop', forUs: long, empties: false }),
      () => ({ at, act: 'stop', forUs: long, empties: true }),
      () => ({ at, act: 'refuse', forUs: long, error: "READONLY You can't write against a read only replica." }),
    ])(),
  ]
  if (random.isLikely(0.2)) steps.push({ at: at + random.int(0, long), act: 'kill', replica: random.int(0, 3) })
  if (random.isLikely(0.1)) steps.push({ at: at + random.int(0, long), act: 'close', replica: random.int(0, 3) })
  if (random.isLikely(0.1)) steps.push({ at: at + random.int(0, long), act: 'start' })
  return { steps, endUs: at + long }
}
