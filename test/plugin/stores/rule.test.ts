import fc from 'fast-check'
import { Redis } from 'ioredis'
import t from 'tap'
import type { Answer } from '../../../plugin/src/stores/store.js'
import { checkOf, memoryStore, namesOf, type PolicySpec, redisStore, type TimedStore } from '../../support/stores.js'
import { type OracleAdmission, WindowOracle } from '../../support/window-oracle.js'

const RUNS = Number(process.env.FC_RUNS ?? 0)
const redis = new Redis(process.env.REDIS_URL as string)
t.teardown(() => redis.disconnect())

const KEYS = ['a', 'b', '{a}'] as const
const LIMITS = [1, 2, 5, 12] as const
const WINDOWS = [1000, 60_000, 3_600_000] as const

type Step =
  | { readonly do: 'check' | 'peek' | 'charge'; readonly key: string; readonly costs: readonly number[] }
  /** `of`: which admission so far, counted from the newest; an operator's refund without. */
  | { readonly do: 'refund'; readonly key: string; readonly costs: readonly number[]; readonly of: number | undefined }
  | { readonly do: 'reset'; readonly key: string }
  | { readonly do: 'pass'; readonly share: number }

const costs = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 2, maxLength: 2 })
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ do: fc.constant('check' as const), key: fc.constantFrom(...KEYS), costs }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constantFrom('peek', 'charge'), key: fc.constantFrom(...KEYS), costs }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('refund' as const),
      key: fc.constantFrom(...KEYS),
      costs,
      of: fc.option(fc.nat(8), { nil: undefined, freq: 6 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('reset' as const), key: fc.constantFrom(...KEYS) }) },
  // In shares of the shorter window; never a whole number of them, so that no entry leaves within the test's own pace.
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant('pass' as const), share: fc.double({ min: 0.02, max: 1.3, noNaN: true }) }),
  },
)
const history = fc.record({
  policies: fc.array(fc.record({ limit: fc.constantFrom(...LIMITS), windowMs: fc.constantFrom(...WINDOWS) }), {
    minLength: 1,
    maxLength: 2,
  }),
  steps: fc.array(step, { minLength: 1, maxLength: 40 }),
})

/**
 * Plays a history on a store and on the oracle, step by step. The oracle's clock stands still but for `pass`; a store
 * with a clock of its own may be `toleranceMs` ahead of it, and where that decides, the step is not judged.
 */
async function play(
  timed: TimedStore,
  { policies, steps }: { policies: readonly { limit: number; windowMs: number }[]; steps: readonly Step[] },
  toleranceMs: number,
): Promise<void> {
  const oracles = new Map<string, WindowOracle>()
  const oracleOf = (key: string, index: number) => {
    const id = `${key} ${index}`
    const known = oracles.get(id) ?? new WindowOracle()
    oracles.set(id, known)
    return known
  }
  /** What was admitted or charged, for each key, the newest last, with what the oracle says of it. */
  const admitted = new Map<string, { specs: PolicySpec[]; answer: Answer; told: OracleAdmission[] }[]>()
  const note = (key: string, specs: PolicySpec[], answer: Answer, told: OracleAdmission[]) => {
    admitted.set(key, [...(admitted.get(key) ?? []), { specs, answer, told }])
  }
  const shortest = Math.min(...policies.map(({ windowMs }) => windowMs))
  let now = 1_000_000
  const began = Date.now()
  for (const [index, action] of steps.entries()) {
    if (action.do === 'pass') {
      const ms = Math.round(action.share * shortest)
      now += ms
      await timed.pass(ms)
      continue
    }
    const { key } = action
    if (action.do === 'reset') {
      await timed.store.reset(key, namesOf(checkOf(policies.map((policy, at) => ({ ...policy, name: `p${at}` })))))
      for (const at of policies.keys()) oracleOf(key, at).reset()
      continue
    }
    const specs: PolicySpec[] = policies.map((policy, at) => ({
      ...policy,
      name: `p${at}`,
      cost: action.do === 'peek' ? 0 : (action.costs[at] as number),
    }))
    const check = checkOf(specs, { key })
    if (action.do === 'charge') {
      const answer = await timed.store.charge(check)
      note(
        key,
        specs,
        answer,
        specs.map(({ cost = 1 }, at) => oracleOf(key, at).charge(now, cost)),
      )
      continue
    }
    if (action.do === 'refund') {
      const of = action.of === undefined ? undefined : admitted.get(key)?.at(-1 - action.of)
      if (action.of !== undefined && of === undefined) continue
      const refunds = check.policies.map((policy, at) => {
        const admission = of?.answer.policies[at]?.admission
        return { policy, cost: Math.min(policy.cost, of?.specs[at]?.cost ?? policy.cost), admission }
      })
      const given = await timed.store.refund(check, refunds)
      const wanted = refunds.map(({ cost }, at) =>
        oracleOf(key, at).refund(now, (specs[at] as PolicySpec).windowMs, cost, of?.told[at]),
      )
      if (`${given}` !== `${wanted}`) throw new Error(`step ${index}: ${given} given back instead of ${wanted}`)
      continue
    }
    const waits = specs.map(({ limit, windowMs, cost = 1 }, at) => oracleOf(key, at).wait(now, windowMs, limit, cost))
    const before = action.do === 'peek' || waits.some(wait => wait > 0) ? await timed.print() : undefined
    const answer: Answer = await timed.store[action.do](check)
    const where = `step ${index}, ${JSON.stringify(action)}: ${JSON.stringify(answer)}, waits ${waits}`
    const allowed = waits.every(wait => wait === 0)
    if (answer.allowed !== allowed) throw new Error(`${allowed ? 'denied' : 'admitted'} against the rule at ${where}`)
    if (before !== undefined && before !== (await timed.print())) throw new Error(`something was written at ${where}`)
    const told: OracleAdmission[] = []
    for (const [at, { limit, windowMs, cost = 1 }] of specs.entries()) {
      const oracle = oracleOf(key, at)
      if (allowed && action.do === 'check') {
        told.push(oracle.charge(now, cost))
        if (
          oracle.fullest(windowMs) > Math.max(limit, 0) &&
          !steps.some(one => one.do === 'charge' || (one.do === 'refund' && one.of === undefined))
        ) {
          throw new Error(`a window holds more than ${limit} at ${where}`)
        }
      }
      const state = answer.policies[at] as Answer['policies'][number]
      // What a clock of its own has gone on meanwhile, however busy the machine.
      const tolerance = toleranceMs > 1 ? Date.now() - began + toleranceMs : toleranceMs
      if (state.used !== oracle.used(now, windowMs))
        throw new Error(`used should be ${oracle.used(now, windowMs)} at ${where}`)
      if (Math.abs(state.retryMs - (waits[at] as number)) > tolerance) throw new Error(`wrong wait at ${where}`)
      const reset = oracle.resetsIn(now, windowMs)
      if (Math.abs(state.resetMs - reset) > tolerance) throw new Error(`reset should be ${reset} at ${where}`)
    }
    if (told.length > 0) note(key, specs, answer, told)
  }
}

const memory = { open: () => memoryStore(), tolerance: 0.001, runs: RUNS || 1000 }
const overRedis = { open: () => redisStore(redis), tolerance: 400, runs: RUNS || 300 }

for (const { open, tolerance, runs } of [memory, overRedis]) {
  t.test(`${open().name}: any history is answered as the rule says, and a denial writes nothing`, async t => {
    await fc.assert(
      fc.asyncProperty(history, async given => {
        // The clock of Redis goes on while a history is played, so nothing may leave its window, or a key end, within
        // that time: the shares are twentieths and a bit, and forty bits are less than another twentieth.
        const policies = given.policies.map(policy =>
          tolerance > 1 ? { ...policy, windowMs: Math.max(policy.windowMs, 600_000) } : policy,
        )
        const steps = given.steps.map(action =>
          action.do === 'pass' && tolerance > 1
            ? { ...action, share: Math.round(action.share * 20) / 20 + 0.0012 }
            : action,
        )
        const timed = open()
        try {
          await play(timed, { policies, steps }, tolerance)
        } finally {
          await timed.close()
        }
      }),
      { numRuns: runs },
    )
    t.pass(`${runs} histories`)
  })

  t.test(
    `${open().name}: with the default precision no window is ever above its quota, and none is 2% short`,
    async t => {
      await fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 101, max: 5000 }),
          fc.array(
            fc.record({ cost: fc.integer({ min: 1, max: 400 }), share: fc.double({ min: 0, max: 0.3, noNaN: true }) }),
            {
              minLength: 5,
              maxLength: 30,
            },
          ),
          async (limit, steps) => {
            const timed = open()
            const windowMs = 600_000
            const oracle = new WindowOracle()
            let now = 1_000_000
            try {
              for (const { cost, share } of steps) {
                const ms = Math.round(share * windowMs)
                now += ms
                await timed.pass(ms)
                const check = checkOf([{ limit, windowMs, cost }], { precision: 0.01 })
                const { allowed } = await timed.store.check(check)
                if (allowed) {
                  if (!oracle.fits(now, windowMs, limit, cost)) throw new Error('admitted above the quota')
                  oracle.charge(now, cost)
                } else if (oracle.fits(now, windowMs * 1.011 + tolerance, limit, cost)) {
                  throw new Error('denied although even a window 1% longer has room')
                }
              }
            } finally {
              await timed.close()
            }
          },
        ),
        { numRuns: runs },
      )
      t.pass(`${runs} histories`)
    },
  )
}
