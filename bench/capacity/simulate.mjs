import { SlidingLog } from '../../plugin/dist/window.js'
import { randomOf } from '../arrivals.mjs'
import { zipf } from './zipf.mjs'

/** A denial is remembered for a second at most; see plugin/src/stores/denials.ts. */
const DENY_MEMORY_MS = 1000
/** The default of the plugin: where the quota is larger than 1 / precision, a slice shares an entry. */
const PRECISION = 0.01

/**
 * Replicas that share one Redis, in time that is only counted. Requests come at random (Poisson) to any replica; the
 * windows are the plugin's own (`SlidingLog`), and each replica remembers denials as the plugin does, from when it
 * has the answer. Redis decides at once, in the order of arrival: what it can take is for the reader to compare.
 *
 * Counting starts after `settleMs`, when the first quotas are used up.
 *
 * @param {{ replicas: number, keys: number, rate: number, max: number, windowMs: number, denyMemory: boolean,
 *   runMs: number, settleMs: number, roundTripMs?: number, seed?: number }} given `keys`: asked for by Zipf; `rate`:
 *   requests a second of all replicas
 * @returns {{ requests: number, admitted: number, denied: number, checks: number, seconds: number }} `checks`:
 *   questions to Redis
 */
export function simulate(given) {
  const { replicas, keys, rate, max, windowMs, denyMemory, runMs, settleMs, roundTripMs = 1, seed = 1 } = given
  const random = randomOf(seed)
  const keyOf = keys === 1 ? () => 0 : zipf(keys)
  const logs = new Map()
  /** What a replica knows of a key: when it learnt of the denial, and until when it holds. */
  const known = new Map()
  const sliceMs = max > 1 / PRECISION ? windowMs * PRECISION : 0
  const counted = { requests: 0, admitted: 0, denied: 0, checks: 0, seconds: runMs / 1000 }
  const end = settleMs + runMs
  for (let now = gap(); now < end; now += gap()) {
    const key = keyOf(random)
    const replica = replicas === 1 ? 0 : Math.floor(random() * replicas)
    const counts = now >= settleMs ? 1 : 0
    counted.requests += counts
    const id = replica * keys + key
    const denial = denyMemory ? known.get(id) : undefined
    if (denial !== undefined) {
      if (now >= denial.until) known.delete(id)
      else if (now >= denial.from) {
        counted.denied += counts
        continue
      }
    }
    counted.checks += counts
    let log = logs.get(key)
    if (log === undefined) {
      log = new SlidingLog()
      logs.set(key, log)
    }
    const { retryMs } = log.read(now, windowMs, max, 1)
    if (retryMs === 0) {
      log.append(now, 1, sliceMs)
      counted.admitted += counts
      continue
    }
    counted.denied += counts
    if (!denyMemory) continue
    // Until the answer is there, others ask as well; the first answer is what the replica goes by from then on.
    const from = denial !== undefined && now < denial.from ? denial.from : now + roundTripMs
    known.set(id, { from, until: from + Math.min(retryMs, DENY_MEMORY_MS) })
  }
  return counted

  function gap() {
    return (-Math.log(random()) / rate) * 1000
  }
}
