/**
 * What processes that share counts say to each other: a batch of calls one way, their results in the same order the other
 * way. All of it can be sent as JSON or as a structured clone. Both ends are of one release: nothing of this is stored.
 */
import type { Policy } from '../../policy.js'
import type { Answer, BlockPlaces, Check, Concurrency, Names, Penalty, PolicyAnswer, Refund } from '../store.js'

/** What the checks of one limiter have in common. */
export interface Shape {
  readonly limiter: string
  readonly policies: readonly Policy[]
  readonly decisive: number
  readonly penalty: Penalty
  readonly concurrency: Concurrency | null
}

/** `id`: under which the shape is kept, 0 for nowhere; `shape`: null where it was sent before. */
export type ShapeSent = readonly [id: number, shape: Shape | null]

/** Until when it may happen, in milliseconds since 1970: one clock tells all processes of a machine. 0: at any time. */
export type Latest = number

export type Call =
  | readonly ['check' | 'peek' | 'charge', key: string, keys: readonly string[] | null, ...ShapeSent]
  | readonly ['refund', key: string, limiter: string, refunds: readonly RefundSent[], latest: Latest]
  | readonly ['reset', key: string, names: Names, latest: Latest]
  | readonly ['block', key: string, places: BlockPlaces, durationMs: number, latest: Latest]
  | readonly ['release', permit: number]

/** Key: null where it is that of the check. Generation and time: of the admission; -1 for an operator's refund. */
export type RefundSent = readonly [
  log: string,
  windowMs: number,
  cost: number,
  generation: number,
  time: number,
  key: string | null,
]

/** An answer as numbers: whether it is allowed, requests in flight, which denied it, the permit, then each policy. */
export type AnswerSent = readonly number[]

/**
 * `too-large`: the charge cannot be counted. `late`: nobody waits for it any more. `unknown`: the shape was sent to counts
 * that are gone. Null: done.
 */
export type Result = AnswerSent | 'too-large' | 'late' | 'unknown' | null

/** A denial of these was remembered somewhere, and holds no longer. */
export interface Freed {
  readonly limiter: string
  readonly key: string
}

const HEAD = 4
const NUMBERS_OF_POLICY = 7
const NONE = -1

/** `permit`: by which the permit is given back; 0 where there is none. */
export function encodeAnswer({ allowed, policies, concurrency }: Answer, permit: number): AnswerSent {
  const sent = [allowed ? 1 : 0, concurrency?.inFlight ?? NONE, concurrency?.violated ? 1 : 0, permit]
  for (const { used, resetMs, retryMs, denials, admission, blockedMs = NONE } of policies) {
    sent.push(used, resetMs, retryMs, denials, admission?.generation ?? NONE, admission?.time ?? NONE, blockedMs)
  }
  return sent
}

export interface Decoded {
  /** Without its lease. */
  readonly answer: Answer
  readonly permit: number
}

/** Undefined where it is not what `encodeAnswer` makes of so many policies: the link is the user's. */
export function decodeAnswer(sent: unknown, policyCount: number): Decoded | undefined {
  if (!isAnswer(sent, policyCount)) return undefined
  const [allowed, inFlight, violated, permit] = sent as readonly [number, number, number, number]
  const policies: PolicyAnswer[] = []
  for (let at = HEAD; at < sent.length; at += NUMBERS_OF_POLICY) {
    const generation = sent[at + 4] as number
    const blockedMs = sent[at + 6] as number
    policies.push({
      used: sent[at] as number,
      resetMs: sent[at + 1] as number,
      retryMs: sent[at + 2] as number,
      denials: sent[at + 3] as number,
      admission: generation === NONE ? undefined : { generation, time: sent[at + 5] as number },
      blockedMs: blockedMs === NONE ? undefined : blockedMs,
    })
  }
  const concurrency = inFlight === NONE ? undefined : { inFlight, violated: violated === 1 }
  return { answer: { allowed: allowed === 1, policies, concurrency }, permit }
}

function isAnswer(sent: unknown, policyCount: number): sent is AnswerSent {
  return Array.isArray(sent) && sent.length === HEAD + policyCount * NUMBERS_OF_POLICY && sent.every(Number.isFinite)
}

export function encodeRefund({ policy: { log, windowMs }, cost, admission, key }: Refund): RefundSent {
  return [log, windowMs, cost, admission?.generation ?? NONE, admission?.time ?? NONE, key ?? null]
}

export function decodeRefund([log, windowMs, cost, generation, time, key]: RefundSent): Refund {
  return {
    // Only the log and its window concern a refund.
    policy: { name: '', limit: 0, windowMs, cost, log, sliceMs: 0, sliced: false },
    cost,
    admission: generation === NONE ? undefined : { generation, time },
    key: key ?? undefined,
  }
}

export const shapeOf = ({ limiter, policies, decisive, penalty, concurrency }: Check): Shape => ({
  ...{ limiter, policies, decisive, penalty },
  concurrency: concurrency ?? null,
})
