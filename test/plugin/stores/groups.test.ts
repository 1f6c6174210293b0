/**
 * Histories of a group: routes with windows of different lengths, one of them a function, with quotas on both sides of
 * 1/precision, and refunds, also such that come after their admission has left its window.
 */

import fc from 'fast-check'
import type { FastifyRequest } from 'fastify'
import { Redis } from 'ioredis'
import t from 'tap'
import { Group } from '../../../plugin/src/group.js'
import { Ledger } from '../../../plugin/src/ledger.js'
import { type Decided, Limiter } from '../../../plugin/src/limiter.js'
import { overlay, parseLimiter } from '../../../plugin/src/options/parse.js'
import { memoryStore, redisStore, type TimedStore } from '../../support/stores.js'
import { type OracleAdmission, WindowOracle } from '../../support/window-oracle.js'

const RUNS = Number(process.env.FC_RUNS ?? 0)
const redis = new Redis(process.env.REDIS_URL as string)
t.teardown(() => redis.disconnect())

const PRECISION = 0.01
/** Milliseconds. What passes is never a whole number of twentieths of any of them, so nothing leaves at the edge. */
const WINDOWS = [600_000, 1_800_000, 3_600_000] as const
const TWENTIETH = WINDOWS[0] / 20
const QUOTAS = [4, 60, 150, 400] as const

interface Route {
  readonly max: number
  readonly windowMs: number
}
type Step =
  | { readonly do: 'request'; readonly route: number; readonly cost: number; readonly window: number }
  /** `of`: which admission so far, counted from the newest. `part`: of its cost. */
  | { readonly do: 'refund'; readonly of: number; readonly part: number }
  | { readonly do: 'reset' }
  | { readonly do: 'pass'; readonly twentieths: number }

const history = fc.record({
  routes: fc.array(fc.record({ max: fc.constantFrom(...QUOTAS), windowMs: fc.constantFrom(...WINDOWS) }), {
    minLength: 2,
    maxLength: 3,
  }),
  /** The quota of one more route, whose window is a function; none without. */
  changing: fc.option(fc.constantFrom(...QUOTAS), { nil: undefined }),
  steps: fc.array(
    fc.oneof<fc.MaybeWeightedArbitrary<Step>[]>(
      {
        weight: 8,
        arbitrary: fc.record({
          do: fc.constant('request' as const),
          route: fc.nat(3),
          cost: fc.integer({ min: 1, max: 50 }),
          window: fc.constantFrom(...WINDOWS),
        }),
      },
      {
        weight: 4,
        arbitrary: fc.record({
          do: fc.constant('refund' as const),
          of: fc.nat(8),
          part: fc.constantFrom(0.3, 1),
        }),
      },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('reset' as const) }) },
      {
        weight: 6,
        arbitrary: fc.record({ do: fc.constant('pass' as const), twentieths: fc.integer({ min: 1, max: 30 }) }),
      },
    ),
    { minLength: 1, maxLength: 40 },
  ),
})
type History = typeof history extends fc.Arbitrary<infer T> ? T : never

const requestWith = (values: { cost: number; window: number }) => values as unknown as FastifyRequest
const valuesOf = (request: FastifyRequest) => request as unknown as { cost: number; window: number }

/** What one log should hold: at least this, and at the most what a window one slice longer would hold. */
class Bounds {
  readonly #windowMs: number
  readonly #least = new WindowOracle()
  readonly #most = new WindowOracle()

  constructor(windowMs: number) {
    this.#windowMs = windowMs
  }

  least(now: number): number {
    return this.#least.used(now, this.#windowMs)
  }

  most(now: number, toleranceMs: number): number {
    return this.#most.used(now, this.#windowMs * (1 + PRECISION) + toleranceMs)
  }

  charge(now: number, cost: number): OracleAdmission {
    this.#most.charge(now, cost)
    return this.#least.charge(now, cost)
  }

  refund(now: number, cost: number, admission: OracleAdmission): void {
    const given = this.#least.refund(now, this.#windowMs, cost, admission)
    this.#most.refund(now, this.#windowMs * (1 + PRECISION), given)
  }

  reset(): void {
    this.#least.reset()
    this.#most.reset()
  }
}

async function play({ store, pass }: TimedStore, { routes, changing, steps }: History, toleranceMs: number) {
  const group = new Group(PRECISION)
  const limiterOf = (max: number, timeWindow: Route['windowMs'] | ((request: FastifyRequest) => number)) =>
    new Limiter({
      config: parseLimiter(
        overlay(
          { precision: PRECISION, keyGenerator: () => 'client' },
          { max, timeWindow, groupId: 'g', cost: request => valuesOf(request).cost },
        ),
      ),
      id: 'group-id',
      group,
      store,
      local: store,
      share: undefined,
      outage: undefined,
    })
  const limiters = routes.map(({ max, windowMs }) => limiterOf(max, windowMs))
  if (changing !== undefined) limiters.push(limiterOf(changing, request => valuesOf(request).window))
  const fixed = new Set(routes.map(({ windowMs }) => windowMs))
  /** Logs without slices are held to the letter. */
  const isSliced = (windowMs: number) =>
    changing !== undefined || routes.some(route => route.windowMs === windowMs && route.max > 1 / PRECISION)
  const logs = new Map(WINDOWS.map(windowMs => [windowMs as number, new Bounds(windowMs)]))
  const admitted: {
    limiter: Limiter
    decided: Decided
    ledger: Ledger
    cost: number
    of: Map<number, OracleAdmission>
    left: Map<number, number>
  }[] = []
  let now = 1_000_000

  for (const [index, step] of steps.entries()) {
    const where = `step ${index}, ${JSON.stringify(step)}`
    if (step.do === 'pass') {
      const ms = step.twentieths * TWENTIETH + 700
      now += ms
      await pass(ms)
    } else if (step.do === 'reset') {
      const names = limiters.map(limiter => limiter.names('client'))
      await store.reset('client', { limiters: ['group-id'], logs: names.flatMap(({ logs }) => logs), permits: [] })
      for (const bounds of logs.values()) bounds.reset()
    } else if (step.do === 'request') {
      const limiter = limiters[step.route % limiters.length] as Limiter
      const route = routes[step.route % limiters.length]
      const [max, windowMs] = [route?.max ?? (changing as number), route?.windowMs ?? step.window]
      const outcome = await limiter.decide(requestWith({ cost: step.cost, window: step.window }), false)
      if (outcome.listed) throw new Error('nobody is on a list')
      const bounds = logs.get(windowMs) as Bounds
      const before = { least: bounds.least(now), most: bounds.most(now, toleranceMs) }
      const { allowed, policies } = outcome.decision
      if (allowed && before.least + step.cost > max) throw new Error(`${where}: admitted above ${max}: ${before.least}`)
      const room = (isSliced(windowMs) ? before.most : before.least) + step.cost <= max
      if (!allowed && room)
        throw new Error(`${where}: denied although there is room: ${JSON.stringify({ before, max, policies })}`)
      if (!allowed) continue
      const of = new Map<number, OracleAdmission>()
      for (const window of new Set([...fixed, windowMs]))
        of.set(window, (logs.get(window) as Bounds).charge(now, step.cost))
      const ledger = new Ledger()
      if (outcome.answer) ledger.admit(outcome.check, outcome.answer)
      const left = new Map([...of.keys()].map(window => [window, step.cost]))
      admitted.push({ limiter, decided: outcome, ledger, cost: step.cost, of, left })
    } else {
      const one = admitted.at(-1 - step.of)
      if (one === undefined) continue
      const cost = Math.ceil(one.cost * step.part)
      await one.limiter.refundDecision(one.decided, one.ledger, cost)
      for (const [window, admission] of one.of) {
        const left = one.left.get(window) as number
        const given = Math.min(left, cost)
        one.left.set(window, left - given)
        ;(logs.get(window) as Bounds).refund(now, given, admission)
      }
    }
  }
}

const STORES = [
  { open: () => memoryStore(), tolerance: 1, runs: RUNS || 1000 },
  // The clock of Redis goes on while a history is played.
  { open: () => redisStore(redis, 60_000), tolerance: 6000, runs: RUNS || 200 },
]
for (const { open, tolerance, runs } of STORES) {
  t.test(`${open().name}: no history overfills a window of a group, or denies what there is room for`, async t => {
    await fc.assert(
      fc.asyncProperty(history, async given => {
        const timed = open()
        try {
          await play(timed, given, tolerance)
        } finally {
          await timed.close()
        }
      }),
      { numRuns: runs },
    )
    t.pass(`${runs} histories`)
  })
}
