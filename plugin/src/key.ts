import { createHash } from 'node:crypto'

/** Keys made of these, and no longer than this, are readable in the store; all others are hashed. */
const PLAIN_KEY = /^[A-Za-z0-9._:@/|+-]{1,64}$/

/**
 * A partition key as it stands in the store; `hashed`, never readable. A hashed one begins with `#`, which no plain one
 * has, so two keys never meet; neither has a brace, so a key cannot choose its slot in a cluster.
 */
export function storedKey(key: string, hashed = false): string {
  return !hashed && PLAIN_KEY.test(key) ? key : `#${digest(key, 22)}`
}

/**
 * How partition keys stand in the store. `hashTag`: the part of a key that chooses its slot in a cluster. The result is
 * put in braces, and Redis takes what is between the first brace and the next one for the hash tag.
 */
export function storedKeys(hashed: boolean, hashTag?: (key: string) => string): (key: string) => string {
  if (hashTag === undefined) return key => storedKey(key, hashed)
  return key => {
    const tag = hashTag(key)
    // No stored key has '}' or '=', so no two pairs of tag and key meet.
    return tag === key ? storedKey(key, hashed) : `${storedKey(tag, hashed)}}=${storedKey(key, hashed)}`
  }
}

/** The first `length` characters of the SHA-256 in base64url; 22 hold 132 bits. */
export function digest(text: string, length: number): string {
  return createHash('sha256').update(text).digest('base64url').slice(0, length)
}

/** A user's name space as it stands in front of the key: without braces, which belong to the key alone. */
export function storedNameSpace(nameSpace: string): string {
  return nameSpace.replace(/[{}%]/g, character => `%${character.charCodeAt(0).toString(16)}`)
}
