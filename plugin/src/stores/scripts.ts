import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

/** A Lua script and the SHA-1 by which Redis remembers it. */
export interface Script {
  readonly source: string
  readonly sha: string
}

const text = (file: string): string => readFileSync(new URL(file, import.meta.url), 'utf8')

function script(...files: string[]): Script {
  const source = files.map(text).join('\n')
  return { source, sha: createHash('sha1').update(source).digest('hex') }
}

export const CHECK = script('log.lua', 'check.lua')
export const REFUND = script('log.lua', 'refund.lua')
export const ANNOUNCE = script('announce.lua')
export const RENEW = script('renew.lua')
