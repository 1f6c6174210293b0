/** Runs the Lua scripts of the plugin on a real Redis, at a time that the test sets. */
import type { Redis } from 'ioredis'
import type { Script } from '../../plugin/src/stores/redis/scripts.js'
import { readLog, type StoredLog } from './log.js'

/**
 * Goes in front of a script. The last argument is TIME (µs), from which lives of keys are counted: it must be ahead of the
 * real one, so that Redis itself ends no key. The two before it
 * are a command and the error that it is answered with.
 */
const AT_TIME = `
local native, now_us = redis, tonumber(table.remove(ARGV))
local refusal, refused = table.remove(ARGV), table.remove(ARGV)
local writes, has_written = { ZADD = true, ZREM = true, SET = true }, false
local now_ms = math.floor(now_us / 1000)
local function at_time(how, name, ...)
  local args = { ... }
  if name == 'TIME' then
    return { string.format('%d', math.floor(now_us / 1000000)), string.format('%d', now_us % 1000000) }
  end
  if name == refused and not (has_written and string.find(refusal, '^OOM')) then
    refused = nil
    if how == native.pcall then return { err = refusal } end
    error({ err = refusal })
  end
  has_written = has_written or writes[name]
  if name == 'PTTL' then
    local ends = how('PEXPIRETIME', args[1])
    return ends < 0 and ends or ends - now_ms
  end
  if name == 'PEXPIRE' then
    name, args[2] = 'PEXPIREAT', string.format('%d', now_ms + args[2])
  elseif name == 'SET' then
    for i, arg in ipairs(args) do
      if arg == 'PX' then args[i], args[i + 1] = 'PXAT', string.format('%d', now_ms + args[i + 1]) end
    end
  end
  return how(name, unpack(args))
end
for _, key in ipairs(KEYS) do
  local ends = native.call('PEXPIRETIME', key)
  if ends >= 0 and ends < now_ms then native.call('DEL', key) end
end
local redis = {
  call = function(...) return at_time(native.call, ...) end,
  pcall = function(...) return at_time(native.pcall, ...) end,
}
`

let spaces = 0

/** Keys of a name space, seen at a time that only the test changes. */
export class ScriptsAt {
  readonly redis: Redis
  readonly nameSpace = `at${process.pid}.${spaces++}:`
  /** µs since 1970, in the year 2096: a whole number of milliseconds, and not of seconds. */
  now = 4_000_000_000_123_000

  /**
   * A command that Redis answers with an error the first time that a script runs it, and that error. Once a script has
   * written, Redis refuses nothing for want of memory.
   */
  refuses: readonly [command: string, error: string] | undefined
  readonly #change: (source: string) => string

  /** `change`: what becomes of the text of a script before it runs, to see whether an error in it is found. */
  constructor(redis: Redis, change = (source: string): string => source) {
    this.redis = redis
    this.#change = change
  }

  run({ source }: Script, keys: readonly string[], args: readonly (string | number)[]) {
    return this.redis.eval(
      `${AT_TIME}${this.#change(source)}`,
      keys.length,
      ...keys,
      ...args,
      ...(this.refuses ?? ['', '']),
      this.now,
    )
  }

  /** ms at which a key ends; undefined where there is none any more. */
  async endOf(key: string): Promise<number | undefined> {
    const end = Number(await this.redis.call('PEXPIRETIME', key))
    if (end === -1) throw new Error(`${key} never ends`)
    if (end >= Math.floor(this.now / 1000)) return end
    await this.redis.del(key)
    return undefined
  }

  async log(key: string): Promise<StoredLog | undefined> {
    return (await this.endOf(key)) === undefined ? undefined : readLog(this.redis, key)
  }

  /** Everything stored, with the end of each key. */
  async print(): Promise<string> {
    const lines: string[] = []
    for (const key of (await this.redis.keys(`${this.nameSpace}*`)).sort()) {
      const end = await this.endOf(key)
      if (end !== undefined) lines.push(`${key} ${end} ${(await this.redis.dumpBuffer(key)).toString('hex')}`)
    }
    return lines.join('\n')
  }

  async clear(): Promise<void> {
    const left = await this.redis.keys(`${this.nameSpace}*`)
    if (left.length > 0) await this.redis.del(...left)
  }
}
