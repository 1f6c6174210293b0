/** The clock of Redis, as the scripts of one client see it, set by a test. */
import type { Redis } from 'ioredis'
import * as scripts from '../../plugin/src/stores/redis/scripts.js'

/** What TIME answers is shifted by the last argument (µs), or is just that, behind a `=`. */
const SHIFTED = `
local given, real = table.remove(ARGV), redis
local stopped = given:sub(1, 1) == '=' and tonumber(given:sub(2))
local redis = { pcall = real.pcall, call = function(name, ...)
  if name ~= 'TIME' then return real.call(name, ...) end
  local time = real.call('TIME')
  local us = stopped or tonumber(time[1]) * 1000000 + tonumber(time[2]) + tonumber(given)
  return { string.format('%d', math.floor(us / 1000000)), string.format('%d', us % 1000000) }
end }
`

/**
 * From now on the client's scripts see the time that `set` said last, which goes on from there, or stands where `stop` said.
 * Keys expire by the true clock, so only times to come can be set.
 */
export function storeClock(redis: Redis) {
  const sources = new Map(
    Object.values(scripts).flatMap(one => (typeof one === 'function' ? [] : [[one.sha, one.source] as const])),
  )
  let given = '0'
  const run = redis.eval.bind(redis) as (...args: unknown[]) => Promise<unknown>
  redis.evalsha = ((sha: string, ...args: unknown[]) => run(`${SHIFTED}${sources.get(sha)}`, ...args, given)) as never
  return {
    /** Milliseconds since 1970. */
    set: async (ms: number): Promise<void> => {
      const [seconds, us] = await redis.time()
      given = `${Math.round(ms * 1000) - Number(seconds) * 1_000_000 - Number(us)}`
    },
    stop: (ms: number): void => {
      given = `=${Math.round(ms * 1000)}`
    },
  }
}
