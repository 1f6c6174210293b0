import { createHash } from 'node:crypto'
import { StoreClosed } from '../../errors.js'
import type { Connection } from './client.js'
import * as lua from './lua.js'

/** A Lua script and the SHA-1 by which Redis remembers it. */
export interface Script {
  readonly source: string
  readonly sha: string
}

function script(...parts: string[]): Script {
  const source = parts.join('\n')
  return { source, sha: createHash('sha1').update(source).digest('hex') }
}

export const CHECK: Script = script(lua.log, lua.check)
export const REFUND: Script = script(lua.log, lua.refund)
export const RELEASE: Script = script(lua.release)
export const RENEW: Script = script(lua.renew)
export const RESET: Script = script(lua.reset)
export const BLOCK: Script = script(lua.log, lua.block)
export const PROBE: Script = script(lua.probe)
export const ANNOUNCE: Script = script(lua.marker, lua.announce)
export const MARK: Script = script(lua.marker, lua.mark)
export const RESTORE: Script = script(lua.log, lua.restore)

/** By hash; with its source when Redis has lost it (restart, failover, SCRIPT FLUSH). Sent again for no other error. */
export async function run(
  connection: Connection,
  script: Script,
  keys: readonly string[],
  args: readonly (string | number)[],
): Promise<unknown> {
  try {
    return await connection.evalsha(script.sha, keys, args)
  } catch (error) {
    if (connection.status === 'closed') throw new StoreClosed()
    if (!(error as Error | undefined)?.message?.startsWith('NOSCRIPT')) throw error
    return connection.eval(script.source, keys, args)
  }
}
