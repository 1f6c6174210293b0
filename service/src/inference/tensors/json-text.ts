/** Bodies that JSON.parse would choke on, or spend long on, are refused before it sees them. Pure. */
import { isUtf8 } from 'node:buffer'

/** More than a tensor of any model has; JSON.parse would spend tens of milliseconds on 100,000 levels. */
const maxDepth = 64

const quote = 0x22
const backslash = 0x5c
const openBracket = 0x5b
const closeBracket = 0x5d
const openBrace = 0x7b
const closeBrace = 0x7d

/** Why these bytes are not to be parsed as JSON; undefined where they may be. Whether they are JSON is not checked. */
export function jsonFault(bytes: Uint8Array): string | undefined {
  if (!isUtf8(bytes)) return 'the body is not UTF-8'
  return nestsDeeper(bytes, maxDepth) ? `the body nests deeper than ${maxDepth} levels` : undefined
}

/** Whether the text opens more than `limit` lists and objects inside each other. What is in strings does not count. */
export function nestsDeeper(json: Uint8Array, limit: number): boolean {
  let depth = 0
  for (let i = 0; i < json.length; i++) {
    switch (json[i]) {
      case openBracket:
      case openBrace:
        if (++depth > limit) return true
        break
      case closeBracket:
      case closeBrace:
        depth--
        break
      case quote:
        for (i++; i < json.length && json[i] !== quote; i++) if (json[i] === backslash) i++
        break
    }
  }
  return false
}
