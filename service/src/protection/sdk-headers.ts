/** The limits in the headers that the client libraries of OpenAI read: one of each policy that binds, by what it counts. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Decision, PolicyState } from 'ml-api-rate-limiter'
import type { Unit } from './plans.js'

/** How OpenAI's headers would name a unit. Credits have no such header. */
const NAMES: Readonly<Partial<Record<Unit, string>>> = { requests: 'requests', rows: 'rows', 'compute-ms': 'compute' }

/** For a hook on `onSend` of limited routes. */
export function sendSdkHeaders(
  { caller }: FastifyRequest,
  reply: FastifyReply,
  _payload: unknown,
  done: (error?: Error) => void,
): void {
  if (caller !== null) reply.headers(sdkHeaders(caller.decisions, caller.limiters.plan.policies))
  done()
}

/** `decisions`: of one request. `policies`: of the plan that they were made by. */
export function sdkHeaders(
  decisions: readonly Pick<Decision, 'policies' | 'known'>[],
  policies: readonly { readonly name: string; readonly unit: Unit }[],
): Record<string, string> {
  const units = new Map(policies.map(({ name, unit }) => [name, unit]))
  const binding = new Map<string, PolicyState>()
  for (const state of decisions.flatMap(({ known, policies }) => (known ? policies : []))) {
    const unit = units.get(state.name)
    const name = unit && NAMES[unit]
    if (name === undefined) continue
    const before = binding.get(name)
    if (before === undefined || bindsMore(state, before)) binding.set(name, state)
  }
  const headers: Record<string, string> = {}
  for (const [name, { limit, remaining, reset }] of binding) {
    headers[`x-ratelimit-limit-${name}`] = `${limit}`
    headers[`x-ratelimit-remaining-${name}`] = `${remaining}`
    headers[`x-ratelimit-reset-${name}`] = inGoForm(reset)
  }
  return headers
}

const bindsMore = (a: PolicyState, b: PolicyState): boolean =>
  a.remaining < b.remaining || (a.remaining === b.remaining && a.reset > b.reset)

/** A duration as Go writes it, in whole seconds, rounded up: 0s, 1s, 6m0s, 1h0m0s. */
export function inGoForm(ms: number): string {
  const seconds = Math.ceil(ms / 1000)
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60]
  return h > 0 ? `${h}h${m}m${s}s` : m > 0 ? `${m}m${s}s` : `${s}s`
}
