/**
 * API keys as their holders see them: `mlk_<8 of the id>_<32 of secret><6 of checksum>`, all base62. The checksum is the
 * CRC-32 of everything before it, so that a mistyped key is refused without a look-up, and scanners can tell a leaked key
 * from text that only looks like one. Pure but for the randomness.
 */
import { randomInt } from 'node:crypto'
import { crc32 } from 'node:zlib'

const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

const ID_LENGTH = 16
/** How much of the id stands in the key. */
const SHOWN = 8
/** 190 bits. */
const SECRET_LENGTH = 32
const CHECKSUM_LENGTH = 6

const FORM = /^(mlk_[0-9A-Za-z]{8}_[0-9A-Za-z]{32})([0-9A-Za-z]{6})$/
const ID = /^[0-9A-Za-z]{16}$/

/** A new id: 95 bits, of letters and digits. */
export const newId = (): string => randomText(ID_LENGTH)

/** A new key of this id. */
export function newKeyText(id: string): string {
  const body = `mlk_${id.slice(0, SHOWN)}_${randomText(SECRET_LENGTH)}`
  return body + checksumOf(body)
}

/** What may be shown of the keys of an id. */
export const shownOf = (id: string): string => `mlk_${id.slice(0, SHOWN)}_…`

export const isId = (text: string): boolean => ID.test(text)

/** Whether a text is meant as a key of this form. Such a text is a key only if `isKeyText` says so. */
export const claimsKeyText = (text: string): boolean => text.startsWith('mlk_')

/** Whether a text has the form of a key and the checksum that it must have. */
export function isKeyText(text: string): boolean {
  const [, body, checksum] = FORM.exec(text) ?? []
  return body !== undefined && checksumOf(body) === checksum
}

function checksumOf(body: string): string {
  let rest = crc32(body)
  let text = ''
  for (let index = 0; index < CHECKSUM_LENGTH; index++) {
    text = DIGITS[rest % DIGITS.length] + text
    rest = Math.floor(rest / DIGITS.length)
  }
  return text
}

const randomText = (length: number): string =>
  Array.from({ length }, () => DIGITS[randomInt(DIGITS.length)] as string).join('')
