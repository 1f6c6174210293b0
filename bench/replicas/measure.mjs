// Replicas that share one key of one Redis, each under full load: what all of them together let through.
import { Redis } from 'ioredis'
import { startChild } from '../child.mjs'

const program = new URL('replica.mjs', import.meta.url)
/** Each announces itself once a second: by then every one has seen all. */
const ACQUAINTED_MS = 3000
const pause = ms => new Promise(resolve => setTimeout(resolve, ms))

/** The most of `times` (sorted) that lie in any window of that length. */
export function mostInWindow(times, windowMs) {
  let most = 0
  let first = 0
  for (let last = 0; last < times.length; last++) {
    while (times[last] - times[first] >= windowMs) first++
    most = Math.max(most, last - first + 1)
  }
  return most
}

/**
 * Runs replicas for `runMs`. `redis` is `{ port, signal(name) }`; with `freeze: { afterMs, forMs }` it is stopped and
 * woken. Resolves with the most that Redis let through in any window (by its own log and clock), the share of what it
 * could have, and what was let through while it was frozen.
 */
export async function measureReplicas({ redis, replicas, max, windowMs, runMs, freeze }) {
  const args = [redis.port, max, windowMs].map(String)
  const children = await Promise.all(Array.from({ length: replicas }, () => startChild(program, args)))
  await pause(ACQUAINTED_MS)
  const start = Date.now()
  const running = children.map(child => child.ask({ end: start + runMs }))
  const log = watchLog(redis.port)
  let frozen
  if (freeze !== undefined) {
    await pause(start + freeze.afterMs - Date.now())
    redis.signal('SIGSTOP')
    frozen = { from: Date.now() }
    await pause(freeze.forMs)
    frozen.to = Date.now()
    redis.signal('SIGCONT')
  }
  const admitted = (await Promise.all(running)).flat().sort((one, two) => one - two)
  const logged = await log.stop()
  await Promise.all(children.map(child => child.stop()))
  const windows = runMs / windowMs
  const result = {
    admitted: admitted.length,
    // The first window is full at once; each later one as the one before it empties.
    share: admitted.length / (max * Math.ceil(windows)),
    mostInLog: mostInWindow(logged, windowMs * 1000),
    logged: logged.length,
  }
  if (frozen === undefined) return result
  const during = admitted.filter(time => time >= frozen.from && time < frozen.to)
  return {
    ...result,
    frozenMs: frozen.to - frozen.from,
    duringFreeze: during.length,
    mostInWindowDuringFreeze: mostInWindow(during, windowMs),
    // By the clocks of the replicas, which see an answer later than Redis gave it.
    mostInWindowIntoFreeze: mostInWindow(
      admitted.filter(time => time < frozen.to),
      windowMs,
    ),
    mostInAnyWindow: mostInWindow(admitted, windowMs),
  }
}

/** Every admission that the log in Redis held at any time, in microseconds of its clock. */
function watchLog(port) {
  const redis = new Redis(port, '127.0.0.1')
  redis.on('error', () => {})
  const seen = new Set()
  let watching = true
  const read = async () => {
    for (const key of await redis.keys('*lone*')) {
      // Another type, or gone in between: no log.
      const entries = await redis.zrange(key, '0', '-1', 'WITHSCORES').catch(() => [])
      // Score = time of the admission; the summary of the log stands at infinity.
      for (let at = 1; at < entries.length; at += 2) if (entries[at] !== 'inf') seen.add(Number(entries[at]))
    }
  }
  const loop = (async () => {
    while (watching) {
      await read()
      await pause(200)
    }
  })()
  return {
    stop: async () => {
      watching = false
      await loop
      await read()
      redis.disconnect()
      return [...seen].sort((one, two) => one - two)
    },
  }
}
