/** Histories of checks, grants, refunds and permits at times that the test sets, and what must come of them. */
import fc from 'fast-check'
import { type Policy, sharesSlices } from '../../plugin/src/policy.js'
import {
  encodeChecks,
  encodeRefunds,
  type Pending,
  penaltyName,
  type Release,
  Reply,
  redisKey,
} from '../../plugin/src/stores/redis/codec.js'
import { CHECK, REFUND } from '../../plugin/src/stores/redis/scripts.js'
import type { Penalty } from '../../plugin/src/stores/store.js'
import {
  aheadOf,
  type CheckModel,
  checkByModel,
  grantByModel,
  LogModel,
  PenaltyModel,
  PermitsModel,
  type PolicyModel,
} from './log-model.js'
import type { ScriptsAt } from './scripts-at.js'
import { checkOf } from './stores.js'

type Step =
  | { readonly do: 'check' | 'peek' | 'charge'; readonly costs: readonly number[] }
  | { readonly do: 'grant'; readonly waiting: number; readonly wanted: number; readonly share: number }
  /** `of`: which admission so far, counted from the newest; an operator's refund without. */
  | {
      readonly do: 'refund'
      readonly costs: readonly number[]
      readonly of: number | undefined
      /** It was taken ahead and not used. */
      readonly isAhead: boolean
    }
  | { readonly do: 'release'; readonly which: number }
  /** To the end of a wait that was answered last, of a window, a block, a permit, or a slice; and `by` microseconds on. */
  | { readonly do: 'wait'; readonly for: 'retry' | 'reset' | 'permit' | 'slice'; readonly by: number }
  /** By a part of the shortest window. */
  | { readonly do: 'pass'; readonly part: number }
  /** Back, until the newest entry, denial or permit is so many microseconds ahead of where it may be. */
  | { readonly do: 'back'; readonly from: 'entry' | 'denial' | 'permit'; readonly by: number }

const costs = fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 2, maxLength: 2 })
const by = fc.integer({ min: -1, max: 1 })
const from = fc.constantFrom('entry', 'denial', 'permit')
export const history = fc.record({
  policies: fc.array(
    fc.record({
      limit: fc.constantFrom(1, 3, 5, 12, 40),
      windowMs: fc.constantFrom(1, 5, 20, 2000, 60_000, 3_600_000),
    }),
    { minLength: 1, maxLength: 2 },
  ),
  precision: fc.constantFrom(0, 0.25, 0.3),
  penalty: fc.constantFrom<Penalty>('none', 'none', 'count', 'renew', 'backoff'),
  permits: fc.option(fc.integer({ min: 0, max: 3 }), { nil: undefined }),
  permitMs: fc.constantFrom(5, 1000),
  steps: fc.array(
    fc.oneof<fc.MaybeWeightedArbitrary<Step>[]>(
      { weight: 8, arbitrary: fc.record({ do: fc.constant('check' as const), costs }) },
      { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('peek', 'charge'), costs }) },
      {
        weight: 2,
        arbitrary: fc.record({
          do: fc.constant('grant' as const),
          waiting: fc.nat(3),
          wanted: fc.nat(9),
          share: fc.integer({ min: 1, max: 5 }),
        }),
      },
      {
        weight: 3,
        arbitrary: fc.record({
          do: fc.constant('refund' as const),
          costs,
          of: fc.option(fc.nat(6), { nil: undefined, freq: 4 }),
          isAhead: fc.boolean(),
        }),
      },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('release' as const), which: fc.nat(6) }) },
      {
        weight: 4,
        arbitrary: fc.record({
          do: fc.constant('wait' as const),
          for: fc.constantFrom('retry', 'reset', 'permit', 'slice'),
          by,
        }),
      },
      {
        weight: 4,
        arbitrary: fc.record({ do: fc.constant('pass' as const), part: fc.constantFrom(0.0001, 0.01, 0.1, 0.3, 1) }),
      },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('back' as const), from, by }) },
      {
        weight: 1,
        arbitrary: fc.record({ do: fc.constant('back' as const), from, by: fc.constantFrom(-50_000, 5_000_000) }),
      },
    ),
    { minLength: 1, maxLength: 40, size: 'max' },
  ),
})
export type History = typeof history extends fc.Arbitrary<infer T> ? T : never

/**
 * Plays a history with the scripts and with the plain model of `log-model.ts`. Throws where a reply or a log is not the
 * same to the microsecond.
 */
export async function play(at: ScriptsAt, given: History): Promise<void> {
  const { precision, penalty } = given
  const specs = given.policies.map((policy, index) => ({ ...policy, name: `p${index}` }))
  const base = checkOf(specs, { precision })
  const models = base.policies.map(
    (policy): PolicyModel => ({
      limit: policy.limit,
      window: policy.windowMs * 1000,
      slice: policy.sliceMs * 1000,
      shared: sharesSlices(policy.limit, precision),
      log: new LogModel(),
      penalty: new PenaltyModel(),
    }),
  )
  const permits = given.permits === undefined ? undefined : { max: given.permits, ttlMs: given.permitMs }
  const permitsModel = new PermitsModel()
  const permitsKey = redisKey(at.nameSpace, 'client', 'permits')
  const keyOf = (policy: Policy) => redisKey(at.nameSpace, 'client', policy.log)
  const penaltyKey = (policy: Policy) => redisKey(at.nameSpace, 'client', penaltyName(policy.log, penalty))
  const shortest = Math.min(...models.map(({ window }) => window))
  const admitted: { costs: readonly number[]; of: readonly (readonly [number, number] | undefined)[] }[] = []
  const releases: Release[] = []
  const waits = { retry: 0, reset: 0, permit: 0 }

  const nextSlice = () => {
    const { slice, log } = models[0] as PolicyModel
    return slice === 0 ? at.now : (Math.floor((at.now + log.shift) / slice) + 1) * slice - log.shift
  }
  /** When the newest was made, by the clock of Redis, less what it may be ahead of that. */
  const newestOf = (what: 'entry' | 'denial' | 'permit'): number | undefined => {
    const [model] = models as [PolicyModel]
    const { block, log: denials } = model.penalty
    if (what === 'permit') return permitsModel.ends.size > 0 ? Math.max(...permitsModel.ends.keys()) : undefined
    if (what === 'denial' && block !== undefined) return block.last
    const log = what === 'entry' ? model.log : denials
    const slices = what === 'entry' ? model : { slice: model.window / 100, shared: true }
    return log.last === undefined ? undefined : log.last - log.shift - aheadOf(slices)
  }

  const pendingOf = (operation: Pending['operation'], costs: readonly number[], more: object = {}): Pending => ({
    operation,
    check: checkOf(
      specs.map((spec, index) => ({ ...spec, cost: costs[index] as number })),
      operation === 'take' ? { precision } : { precision, penalty, ...(permits && { concurrency: permits }) },
    ),
    key: 'client',
    refunds: [],
    since: 0,
    deadline: 0,
    settled: false,
    resolve: () => {},
    reject: () => {},
    ...more,
  })
  const ask = async (pending: Pending, given: readonly Release[] = []) => {
    const { keys, args } = encodeChecks(at.nameSpace, [pending], given, 0)
    const reply = new Reply((await at.run(CHECK, keys, args)) as unknown[])
    if (reply.time !== at.now) throw new Error(`the reply is of ${reply.time} and not of ${at.now}`)
    return reply
  }

  for (const [index, step] of given.steps.entries()) {
    /** Whether something was charged to the log of a policy. */
    let isCharged = (_policy: number) => false
    /** Whether the oldest units were given back. */
    let hasLess = (_policy: number) => false
    const equal = (what: string, found: unknown, wanted: unknown) => {
      const [one, two] = [JSON.stringify(found), JSON.stringify(wanted)]
      if (one !== two) throw new Error(`step ${index}, ${JSON.stringify(step)}: ${what} is ${one} instead of ${two}`)
    }
    if (step.do === 'pass') {
      at.now += Math.round(step.part * shortest)
    } else if (step.do === 'wait') {
      const until = (step.for === 'slice' ? nextSlice() : waits[step.for]) + step.by
      if (until > at.now) at.now = until
    } else if (step.do === 'back') {
      const newest = newestOf(step.from)
      if (newest === undefined) continue
      const edge = newest - 100_000 - step.by
      if (edge < at.now) at.now = edge
    } else if (step.do === 'release') {
      // Goes with the next check.
      const [number] = [...permitsModel.ends.keys()].slice(step.which)
      if (number !== undefined) releases.push({ key: permitsKey, number })
    } else if (step.do === 'refund') {
      const of = step.of === undefined ? undefined : admitted.at(-1 - step.of)
      if (step.of !== undefined && of === undefined) continue
      const refunds = base.policies.map((policy, at) => {
        const [generation, time] = of?.of[at] ?? [0, 0]
        const isAhead = of !== undefined && step.isAhead
        return { policy, cost: (of ?? step).costs[at] as number, admission: of && { generation, time }, isAhead }
      })
      const pending = pendingOf('refund', step.costs, { refunds })
      const { keys, args } = encodeRefunds(at.nameSpace, [pending], `${index}`, at.now, 1000)
      const found = await at.run(REFUND, keys, args)
      const wanted = refunds.map(({ policy, cost, admission, isAhead }, at_) => {
        const model = models[at_] as PolicyModel
        const { generation = 0, time = 0 } = admission ?? {}
        const args = [at.now, policy.windowMs * 1000, aheadOf(model), cost, generation, time] as const
        return isAhead ? model.log.refundAhead(...args) : model.log.refund(...args)
      })
      equal('what was given back', found, [at.now, ...wanted])
      hasLess = index => !refunds[index]?.isAhead && (wanted[index] as number) > 0
    } else if (step.do === 'grant') {
      if (!models.every(({ shared }) => shared)) continue
      const [life, cost] = [Math.min(1000, Math.floor(shortest / 4 / 1000)), index % 2 === 0 ? 1 : 2]
      const { waiting, wanted, share } = step
      const take = { riders: { length: waiting }, wanted, share, lifeMs: life }
      const pending = pendingOf('take', [cost, cost], take)
      const wantedReply = grantByModel(
        at.now,
        models.map(model => ({ ...model, cost })),
        { waiting, wanted, share, life: life * 1000 },
      )
      const found = (await ask(pending)).nextTake(pending.check)
      equal('the grant', found, {
        ...wantedReply,
        policies: wantedReply.policies.map(({ used, reset, retry, generation, time }) => ({
          used,
          resetMs: reset / 1000,
          retryMs: retry / 1000,
          admission: { generation, time },
        })),
      })
      if (wantedReply.admitted + wantedReply.ahead > 0) {
        isCharged = () => true
        const charged = cost * (wantedReply.admitted + wantedReply.ahead)
        admitted.push({
          costs: models.map(() => charged),
          of: wantedReply.policies.map(({ generation, time }) => [generation, time] as const),
        })
      }
    } else {
      for (const { number } of releases) permitsModel.ends.delete(number)
      const model: CheckModel = {
        operation: step.do,
        penalty,
        policies: models.map((policy, at) => ({ ...policy, cost: step.costs[at] as number })),
        permits: permits && { of: permitsModel, max: permits.max, life: permits.ttlMs * 1000 },
      }
      const before = step.do === 'peek' && releases.length === 0 ? await at.print() : undefined
      const releasing = releases.splice(0)
      const wanted = checkByModel(at.now, model)
      const pending = pendingOf(step.do, step.costs)
      const found = (await ask(pending, releasing)).next(pending)
      if (wanted === 'too large' || typeof found === 'string') throw new Error(`${found}`)
      equal(
        'the answer',
        found.answer.policies.map(({ used, resetMs, retryMs, denials, ahead, admission }) => ({
          used,
          reset: Math.round(resetMs * 1000),
          wait: Math.round(retryMs * 1000),
          denials,
          ahead: ahead ?? 0,
          charged: admission && [admission.generation, admission.time],
        })),
        wanted.policies.map(policy => ({ ...policy, ahead: step.do === 'peek' ? policy.ahead : 0 })),
      )
      if (permits !== undefined) {
        equal('what is in flight', found.answer.concurrency?.inFlight, wanted.inFlight)
        equal('the permit', found.permit, Math.max(0, wanted.permit))
        equal('whether permits stood in the way', found.answer.concurrency?.violated, wanted.permit < 0)
      }
      if (before !== undefined) equal('what is stored', await at.print(), before)
      const charged = wanted.policies.map(({ charged }) => charged)
      isCharged = policy => charged[policy] !== undefined
      if (charged.some(one => one !== undefined)) {
        admitted.push({ costs: step.costs.map((cost, at) => (charged[at] ? cost : 0)), of: charged })
      }
      const [first] = wanted.policies
      waits.retry = at.now + Math.max(...wanted.policies.map(({ wait }) => wait))
      waits.reset = at.now + (first?.reset ?? 0)
    }

    for (const [at_, policy] of base.policies.entries()) {
      const { log, window, penalty: denied } = models[at_] as PolicyModel
      if (denied.block !== undefined) {
        const end = await at.endOf(penaltyKey(policy))
        if (end !== undefined) equal('the end of the block', end, denied.block.end)
        else {
          equal('the block that is gone', denied.block.till > at.now, false)
          denied.block = undefined
        }
      }
      const logs = [
        [keyOf(policy), log] as const,
        ...(penalty === 'count' ? [[penaltyKey(policy), denied.log] as const] : []),
      ]
      for (const [key, model] of logs) {
        const stored = await at.log(key)
        if (stored === undefined) {
          if (model.last !== undefined && model.last - model.shift + window > at.now)
            throw new Error(`step ${index}, ${JSON.stringify(step)}: a log has ended whose newest entry counts`)
          model.forget()
          continue
        }
        equal('the summary', [stored.summary?.generation, stored.summary?.shift], [model.generation, model.shift])
        const totals = stored.entries.map(({ total }, at) => total - (stored.entries[at - 1]?.total ?? 0))
        const costs = new Map(stored.entries.map(({ time }, at) => [time, totals[at] as number]))
        const edge = at.now + model.shift - window
        const counted = model.entries.filter(({ time }) => time > edge)
        equal(
          'what the log holds',
          stored.entries.filter(({ time }) => time > edge && time >= (counted[0]?.time ?? 0)).map(({ time }) => time),
          counted.map(({ time }) => time),
        )
        if (key === keyOf(policy) && hasLess(at_))
          equal('the oldest that is kept', stored.entries[0]?.time, counted[0]?.time)
        if (key === keyOf(policy) && isCharged(at_))
          equal('what has left the window', stored.entries.filter(({ time }) => time <= edge).length, 0)
        // Of the oldest, a part may have been given back.
        for (const { time, cost } of counted.slice(1)) equal('the cost of an entry', costs.get(time), cost)
        equal('the end of the log', await at.endOf(key), model.end)
      }
    }
    if (permits === undefined) continue
    const ends = new Map<number, number>()
    const permitsEnd = await at.endOf(permitsKey)
    if (permitsEnd !== undefined) {
      equal('the end of the permits', permitsEnd, permitsModel.end)
      const flat = await at.redis.zrange(permitsKey, '0', '-1', 'WITHSCORES')
      for (let at = 0; at < flat.length; at += 2) ends.set(Number(flat[at]), Number(flat[at + 1]))
    } else {
      // Permits that were taken before the clock went back end with the life of those that were taken after it.
      const isOver = ([number, end]: [number, number]) => end <= at.now || number > permitsModel.lastTaken
      equal(
        'the permits that are gone',
        [...permitsModel.ends].filter(one => !isOver(one)),
        [],
      )
      permitsModel.ends.clear()
    }
    const sorted = (map: Map<number, number>) => [...map].sort(([a], [b]) => a - b)
    if (releases.length === 0) equal('the permits', sorted(ends), sorted(permitsModel.ends))
    waits.permit = Math.min(...ends.values(), Number.MAX_SAFE_INTEGER)
    if (waits.permit === Number.MAX_SAFE_INTEGER) waits.permit = 0
  }
}
