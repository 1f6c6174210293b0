import { POLICIES_OF_BENCH } from './figures.mjs'

/** A denial is remembered for a second at most; see plugin/src/stores/denials.ts. */
const DENY_MEMORY_MS = 1000
/** Entries of one log at most, with the default precision. */
const MOST_ENTRIES = 128
/**
 * Bytes of a key in Redis beyond MEMORY USAGE: its places in the table of keys and in that of expiries, which double
 * as they grow.
 */
const TABLES_BYTES = 68
/** Bytes on the way to Redis and back: of a call, of each policy of it, of each policy of each check. */
const WIRE = { call: 171, policy: 65, check: 64 }

/** Microseconds of the processor that one more policy costs. */
const perPolicy = (figures, part) => (figures.policies[part] - figures.allowed[part]) / (POLICIES_OF_BENCH - 1)

/**
 * Microseconds of a request that asks Redis: of the replica without what it protects, and of Redis. `together`: checks in
 * one call, where that is told: each bears its part of what Redis spends on a call, whatever is in it.
 */
export function costOfCheck(figures, policies = 1, together = undefined) {
  const of = part => figures.allowed[part] + (policies - 1) * perPolicy(figures, part)
  return { serverUs: of('serverUs'), redisUs: of('redisUs') + alone(figures, together) }
}

/** What a check costs Redis more than one of the figures does, since fewer come together; less where more do. */
function alone({ allowed, fewer }, together) {
  if (fewer === undefined || together === undefined) return 0
  const callUs = (fewer.redisUs - allowed.redisUs) / (1 / fewer.together - 1 / allowed.together)
  return callUs * (1 / together - 1 / allowed.together)
}

/** Bytes of one key in Redis whose log has so many entries. Straight between what was measured for 10 and for 100. */
export function bytesOfKey(figures, entries) {
  const [few, many] = [figures.bytes['10 a second'], figures.bytes['100 a minute']]
  const most = Math.max(...Object.values(figures.bytes))
  return Math.min(few + ((Math.min(entries, MOST_ENTRIES) - 10) * (many - few)) / 90, most) + TABLES_BYTES
}

/** Bytes between a replica and Redis for one check, both ways. `together`: checks in one call. */
export function wireBytesOfCheck(policies, together) {
  return (WIRE.call + WIRE.policy * policies) / together + WIRE.check * policies
}

/**
 * What a workload costs by the request.
 *
 * @param {{ denied: number, reaching: number, policies: number, together?: number }} work `denied`: share of requests; `reaching`: share
 *   of requests that ask Redis, which are all that are allowed and the denials that no replica remembers; `together`: as
 *   with costOfCheck
 */
export function costOfRequest(figures, { denied, reaching, policies, together }) {
  const check = costOfCheck(figures, policies, together)
  const remembered = Math.min(denied, 1 - reaching)
  return {
    serverUs: (1 - remembered) * check.serverUs + remembered * figures.denied.serverUs,
    redisUs: reaching * check.redisUs,
  }
}

/**
 * A fleet for a need: how many replicas and shards, and how full each part of it is.
 *
 * @param {{ clients: number, rate: number, denied: number, deniedClients: number, hottest: number, policies: number,
 *   max: number, windowMs: number, denyMemory: boolean, perReplica: number, use: number, shardBytes: number,
 *   networkBytes: number, bytesOfRequest: number, together: number }} need
 *   `rate`: requests a second; `denied`: share of them; `deniedClients`: clients over their quota at a time; `hottest`:
 *   share of requests that the busiest client sends; `perReplica`: what a replica answers of allowed requests a second;
 *   `use`: how full a part is to be at most, from 0 to 1; `networkBytes`: a second, of one machine
 */
export function planOf(figures, need) {
  const { rate, denied, policies, use } = need
  const allowedRate = rate * (1 - denied)
  const deniedUs = figures.denied.serverUs
  const check = costOfCheck(figures, policies)
  const entries = entriesOf(need, allowedRate / need.clients)
  const bytes = {
    expected: need.clients * policies * entries.live * bytesOfKey(figures, entries.each),
    most: need.clients * policies * bytesOfKey(figures, Math.min(need.max, MOST_ENTRIES)),
  }
  const loads = replicas => {
    const reached = need.denyMemory
      ? Math.min(rate * denied, replicas * need.deniedClients * (1000 / DENY_MEMORY_MS))
      : rate * denied
    const checks = allowedRate + reached
    const replicaSeconds = allowedRate / need.perReplica + ((rate * denied - reached) * deniedUs) / 1e6
    return { checks, reached, replicaSeconds: replicaSeconds + (reached * check.serverUs) / 1e6 }
  }
  // More replicas remember each for itself, so that more denials reach Redis; the need grows with them, but slower.
  const networkReplicas = Math.ceil((rate * need.bytesOfRequest) / (need.networkBytes * use))
  let replicas = Math.max(1, networkReplicas)
  while (loads(replicas).replicaSeconds > replicas * use) replicas++
  const { checks, reached, replicaSeconds } = loads(replicas)
  const redisCores = (checks * check.redisUs) / 1e6
  const wire = checks * wireBytesOfCheck(policies, need.together)
  const shards = Math.max(
    1,
    Math.ceil(redisCores / use),
    Math.ceil(bytes.most / (need.shardBytes * use)),
    Math.ceil(wire / (need.networkBytes * use)),
  )
  const hot = hottestChecks(need, replicas)
  const parts = [
    { part: 'processors of the replicas', use: replicaSeconds / replicas, more: 'replicas' },
    {
      part: 'network of the replicas',
      use: (rate * need.bytesOfRequest) / (replicas * need.networkBytes),
      more: 'replicas',
    },
    { part: 'processor of Redis', use: redisCores / shards, more: 'shards' },
    { part: 'memory of Redis, every quota used up', use: bytes.most / (shards * need.shardBytes), more: 'shards' },
    { part: 'network of Redis', use: wire / (shards * need.networkBytes), more: 'shards' },
    { part: 'shard of the busiest client', use: (hot * check.redisUs) / 1e6, more: 'nothing: one log is in one place' },
  ]
  return {
    replicas,
    shards,
    checks,
    reached,
    bytes,
    wire,
    redisUs: checks * check.redisUs,
    parts: parts.sort((one, two) => two.use - one.use),
  }
}

/** Of clients that all ask at the same rate: the share that has a log at a time, and the entries of one. */
function entriesOf({ max, windowMs }, ratePerClient) {
  const expected = (ratePerClient * windowMs) / 1000
  const live = 1 - Math.exp(-expected)
  // What shares a slice shares an entry, where the quota is large.
  const spread = max > 100 ? 100 * (1 - Math.exp(-expected / 100)) : Math.min(expected, max)
  return { live, each: live === 0 ? 0 : Math.max(1, spread / live) }
}

/** Checks a second on the log of the client that asks most. */
function hottestChecks({ rate, hottest, max, windowMs, denyMemory }, replicas) {
  const asked = rate * hottest
  const admitted = Math.min(asked, (max * 1000) / windowMs)
  const remembered = denyMemory ? Math.min(asked - admitted, replicas * (1000 / DENY_MEMORY_MS)) : asked - admitted
  return admitted + remembered
}
