// Replicas that share one key of one Redis, each under full load: what all of them together let through.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { startChild } from '../child.mjs'
import { mostInWindow } from './windows.mjs'

const program = new URL('replica.mjs', import.meta.url)
/** Each announces itself once a second: by then every one has seen all. */
const ACQUAINTED_MS = 3000
const pause = ms => new Promise(resolve => setTimeout(resolve, ms))

/**
 * Runs replicas for `runMs`. `redis` has a `port`. With `outage: { afterMs, forMs, begin, end }` it is taken away and
 * given back; with `killAfterMs`, too, one replica is killed so long after that. Resolves with the most that was let
 * through in any window, by what the replicas say and, without an outage, by the log of Redis (what replicas write when
 * Redis is back is dated later than it happened); and with the share of what could have been.
 */
export async function measureReplicas({ redis, replicas, max, windowMs, runMs, outage, killAfterMs }) {
  const folder = mkdtempSync(join(tmpdir(), 'replicas-'))
  const files = Array.from({ length: replicas }, (_, index) => join(folder, `${index}`))
  const args = [redis.port, max, windowMs].map(String)
  const children = await Promise.all(files.map(file => startChild(program, [...args, file])))
  await pause(ACQUAINTED_MS)
  const start = Date.now()
  const running = children.map(child => child.ask({ end: start + runMs }))
  // The one that is killed ends early.
  if (killAfterMs !== undefined) running[0] = running[0].catch(() => {})
  const log = watchLog(redis.port)
  let away
  let killedAt
  if (outage !== undefined) {
    await pause(start + outage.afterMs - Date.now())
    await outage.begin()
    away = { from: Date.now(), to: 0 }
    if (killAfterMs !== undefined) {
      await pause(killAfterMs)
      await children[0].kill()
      killedAt = Date.now()
    }
    await pause(away.from + outage.forMs - Date.now())
    away.to = Date.now()
    await outage.end()
  }
  await Promise.all(running)
  const logged = await log.stop()
  const alive = killedAt === undefined ? children : children.slice(1)
  await Promise.all(alive.map(child => child.stop()))
  const admitted = files.map(readAdmissions)
  rmSync(folder, { recursive: true })
  const all = admitted.flat()
  const result = {
    admitted: all.length,
    // The first window is full at once; each later one as the one before it empties.
    share: all.length / (max * Math.ceil(runMs / windowMs)),
  }
  if (away === undefined) {
    return { ...result, mostInLog: mostInWindow(logged, windowMs * 1000), mostInWindow: mostInWindow(all, windowMs) }
  }
  const { from, to } = away
  const atEnd = { endsAfter: to }
  const outcome = {
    ...result,
    awayMs: to - from,
    admittedMeanwhile: all.filter(one => one.from >= from && one.to < to).length,
    // Windows across the beginning of the outage, those within it, and those across its end or later.
    atBeginning: mostInWindow(all, windowMs, { before: from, endsAfter: from }),
    inMiddle: mostInWindow(all, windowMs, { begins: from, endsBy: to }),
    atEnd: mostInWindow(all, windowMs, atEnd),
    admittedAfter: all.filter(one => one.from >= to).length,
  }
  if (killedAt === undefined) return outcome
  // What the killed replica let through while Redis was away is known to nobody else.
  const [killed, ...others] = admitted
  const known = [...others.flat(), ...killed.filter(one => one.to < from)]
  return { ...outcome, atEndWithoutKilled: mostInWindow(known, windowMs, atEnd) }
}

function readAdmissions(file) {
  const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1)
  return lines.map(line => {
    const [from, to] = line.split(' ').map(Number)
    return { from, to, units: 1 }
  })
}

/** Every admission that the log in Redis held at any time, in microseconds of its clock. */
function watchLog(port) {
  const redis = new Redis(port, '127.0.0.1', { retryStrategy: () => 100, maxRetriesPerRequest: 0 })
  redis.on('error', () => {})
  const seen = new Map()
  let watching = true
  const read = async () => {
    for (const key of await redis.keys('*lone*').catch(() => [])) {
      // Another type, or gone in between: no log.
      const entries = await redis.zrangeBuffer(key, '0', '-1', 'WITHSCORES').catch(() => [])
      // The summary of the log stands at infinity; see log.lua.
      const summary = entries.at(-2)
      if (summary?.length !== 40) continue
      const oldest = summary.readDoubleBE(16)
      // Member = running total, score = time of the admission.
      let before = summary.readDoubleBE(24)
      for (let at = 0; at < entries.length - 2; at += 2) {
        const [total, time] = [Number(entries[at]), Number(entries[at + 1])]
        if (time < oldest) continue
        if (!seen.has(time)) seen.set(time, { from: time, to: time, units: total - before })
        before = total
      }
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
      return [...seen.values()]
    },
  }
}
