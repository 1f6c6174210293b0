/** A Redis in the process: the scripts of the plugin in Lua 5.1, on the commands of `redis.lua`, at any time. */
import { readFileSync } from 'node:fs'
import { Lua } from 'wasmoon-lua5.1'

const SEPARATOR = '\u0001'

interface Simulate {
  load(sha: string, source: string): void
  run(input: string): string
  clear(): void
  dump(clock: string): string
}

/** An error that Redis answers with. */
export class ReplyError extends Error {}

export class SimulatedRedis {
  readonly #lua: Simulate
  /** Scripts that the Lua has, whether or not the server knows them. */
  readonly #loaded = new Set<string>()

  private constructor(lua: Simulate) {
    this.#lua = lua
  }

  static async create(): Promise<SimulatedRedis> {
    const lua = await Lua.create({})
    lua.doStringSync(readFileSync(new URL('redis.lua', import.meta.url), 'utf8'))
    return new SimulatedRedis(lua.ctx.simulate as Simulate)
  }

  /** Runs a script. `clockUs`: what the clock of the server says. Throws ReplyError. */
  run(
    clockUs: number,
    { sha, source }: { readonly sha: string; readonly source: string },
    keys: readonly string[],
    args: readonly (string | number)[],
  ): unknown {
    if (!this.#loaded.has(sha)) {
      this.#lua.load(sha, source)
      this.#loaded.add(sha)
    }
    const parts = this.#lua.run([clockUs, sha, keys.length, ...keys, ...args].join(SEPARATOR)).split(SEPARATOR)
    let at = 0
    const next = (): unknown => {
      const part = parts[at++] as string
      const rest = part.slice(1)
      switch (part[0]) {
        case ':':
          return Number(rest)
        case '$':
          return rest
        case '*':
          return Array.from({ length: Number(rest) }, next)
        case '-':
          throw new ReplyError(rest)
        default:
          return null
      }
    }
    return next()
  }

  clear(): void {
    this.#lua.clear()
  }

  /** All that is stored, a line for each key. */
  dump(clockUs: number): string {
    return this.#lua.dump(String(clockUs))
  }
}
