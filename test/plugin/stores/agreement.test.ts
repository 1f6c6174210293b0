import fc from 'fast-check'
import { Redis } from 'ioredis'
import t from 'tap'
import type { Answer, Check, Lease, Penalty } from '../../../plugin/src/stores/store.js'
import {
  checkOf,
  memoryStore,
  namesOf,
  type PolicySpec,
  redisStore,
  refundsOf,
  sharedStore,
  type TimedStore,
} from '../../support/stores.js'

/**
 * What the oracle of the rule does not know of, the two stores are asked alike: penalties, requests in flight, quotas
 * and windows that change from request to request, resets, blocks.
 */
const RUNS = Number(process.env.FC_RUNS ?? 200)
const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
t.teardown(() => redis.disconnect())

const SHORT = 6_000_000
const LONG = 36_000_000
/** Of a step. What the clock of Redis has gone on since a history began comes on top of it. */
const TOLERANCE_MS = 500

type Step =
  | { readonly do: 'check' | 'peek' | 'charge' | 'refund' | 'reset'; readonly key: string; readonly asked: Asked[] }
  | { readonly do: 'release'; readonly which: number }
  | { readonly do: 'block'; readonly key: string; readonly tenths: number; readonly asked: Asked[] }
  | { readonly do: 'pass'; readonly tenths: number }
interface Asked {
  readonly limit: number
  readonly cost: number
  readonly long: boolean
}
interface History {
  readonly penalty: Penalty
  readonly places: number | undefined
  /** The window is a function of the request, and each has a log; else each policy has one window. */
  readonly changing: boolean
  readonly windows: readonly boolean[]
  readonly steps: readonly Step[]
}

const asked = fc.array(
  fc.record({ limit: fc.constantFrom(0, 1, 2, 5, 12), cost: fc.integer({ min: 0, max: 4 }), long: fc.boolean() }),
  { minLength: 2, maxLength: 2 },
)
const key = fc.constantFrom('a', 'b')
const history: fc.Arbitrary<History> = fc.record({
  penalty: fc.constantFrom<Penalty>('none', 'count', 'renew', 'backoff'),
  places: fc.option(fc.integer({ min: 0, max: 3 }), { nil: undefined }),
  changing: fc.boolean(),
  windows: fc.array(fc.boolean(), { minLength: 1, maxLength: 2 }),
  steps: fc.array(
    fc.oneof(
      { weight: 8, arbitrary: fc.record({ do: fc.constant('check' as const), key, asked }) },
      { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('peek', 'charge', 'refund', 'reset'), key, asked }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('release' as const), which: fc.nat(20) }) },
      {
        weight: 1,
        arbitrary: fc.record({
          do: fc.constant('block' as const),
          key,
          asked,
          tenths: fc.integer({ min: 1, max: 30 }),
        }),
      },
      {
        weight: 5,
        arbitrary: fc.record({ do: fc.constant('pass' as const), tenths: fc.integer({ min: 1, max: 13 }) }),
      },
    ),
    { minLength: 1, maxLength: 30 },
  ),
})

function checkAt(given: History, step: Extract<Step, { readonly asked: readonly Asked[] }>): Check {
  const policies = given.windows.map((long, index): PolicySpec => {
    const { limit, cost, ...now } = step.asked[index] as Asked
    return {
      name: given.changing && now.long ? `p${index}.long` : `p${index}`,
      limit,
      cost,
      windowMs: (given.changing ? now.long : long) ? LONG : SHORT,
    }
  })
  return checkOf(policies, {
    key: step.key,
    penalty: step.do === 'charge' ? 'none' : given.penalty,
    ...(given.places !== undefined &&
      step.do !== 'charge' && { concurrency: { max: given.places, ttlMs: LONG * 100 } }),
  })
}

const near = (one: number, two: number, toleranceMs: number) => Math.abs(one - two) <= toleranceMs

/** How long a denial counts towards a ban while windows change is said of no store, so it is not compared then. */
function alike(one: Answer, two: Answer, denials: boolean, toleranceMs: number): boolean {
  return (
    one.allowed === two.allowed &&
    one.concurrency?.inFlight === two.concurrency?.inFlight &&
    one.concurrency?.violated === two.concurrency?.violated &&
    one.policies.every((state, index) => {
      const other = two.policies[index] as Answer['policies'][number]
      return (
        state.used === other.used &&
        (!denials || state.denials === other.denials) &&
        near(state.blockedMs ?? 0, other.blockedMs ?? 0, toleranceMs) &&
        near(state.resetMs, other.resetMs, toleranceMs) &&
        near(state.retryMs, other.retryMs, toleranceMs)
      )
    })
  )
}

async function play(given: History, memory: TimedStore, remote: TimedStore): Promise<void> {
  const leases: [Lease, Lease][] = []
  /** The check that took a permit last. */
  let last: Check | undefined
  const began = performance.now()
  for (const [index, step] of given.steps.entries()) {
    if (step.do === 'pass') {
      // Tenths of the shorter window and a bit, within which nothing leaves: thirty bits are less than another tenth.
      const ms = (step.tenths * SHORT) / 10 + 15_000
      await memory.pass(ms)
      await remote.pass(ms)
    } else if (step.do === 'release') {
      const released = leases.splice(step.which % (leases.length + 1), 1).flat()
      for (const lease of released) lease.release()
      const inFlight = async ({ store }: TimedStore, check: Check) => (await store.peek(check)).concurrency?.inFlight
      while (last !== undefined && (await inFlight(memory, last)) !== (await inFlight(remote, last)));
    } else {
      const check = checkAt(given, step)
      if (step.do === 'block') {
        const places = { limiters: [check.limiter], logs: check.policies }
        for (const { store } of [memory, remote]) await store.block(check.key, places, (step.tenths * SHORT) / 10)
        continue
      }
      if (step.do === 'refund' || step.do === 'reset') {
        const act = async ({ store }: TimedStore) =>
          step.do === 'refund' ? store.refund(check, refundsOf(check)) : store.reset(check.key, namesOf(check))
        const given = [await act(memory), await act(remote)]
        if (`${given[0]}` !== `${given[1]}`) throw new Error(`step ${index}: ${given[0]} given back, and ${given[1]}`)
        continue
      }
      const [one, two] = [await memory.store[step.do](check), await remote.store[step.do](check)]
      const toleranceMs = performance.now() - began + TOLERANCE_MS
      if (!alike(one, two, !(given.changing && given.penalty === 'count'), toleranceMs)) {
        throw new Error(`step ${index}: in process ${JSON.stringify(one)}, elsewhere ${JSON.stringify(two)}`)
      }
      const [mine, theirs] = [one.concurrency?.lease, two.concurrency?.lease]
      if (mine && theirs) {
        leases.push([mine, theirs])
        last = check
      }
    }
  }
}

for (const [name, open] of [
  ['in Redis', () => redisStore(redis)],
  ['in another process', () => sharedStore()],
] as const) {
  t.test(`in process and ${name} every history is answered alike`, async t => {
    await fc.assert(
      fc.asyncProperty(history, async given => {
        const [memory, remote] = [memoryStore(), open()]
        try {
          await play(given, memory, remote)
        } finally {
          await memory.close()
          await remote.close()
        }
      }),
      { numRuns: RUNS },
    )
    t.pass(`${RUNS} histories`)
  })
}
