/**
 * JSON of bodies into values, for both protocols. What JSON.parse would spend long on is refused before it sees it: it
 * takes half a second for a megabyte of nested lists. Pure.
 */
import { isUtf8 } from 'node:buffer'

/** More than a tensor of any model has. */
const maxDepth = 64

/** The value of a body with its text, or what is wrong with it. */
export type JsonRead =
  | { readonly text: string; readonly value: unknown; readonly fault?: undefined }
  | { readonly fault: string }

/** Parses bytes as JSON in UTF-8 that nests no deeper than a tensor can. A byte order mark is no fault. */
export function readJsonText(bytes: Buffer): JsonRead {
  if (bytes.length === 0) return { fault: 'the body is empty where a JSON object is needed' }
  if (!isUtf8(bytes)) return { fault: 'the body is not UTF-8' }
  if (nestsDeeper(bytes, maxDepth)) return { fault: `the body nests deeper than ${maxDepth} levels` }
  const isMarked = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf
  const text = bytes.toString('utf8', isMarked ? 3 : 0)
  try {
    return { text, value: JSON.parse(text) }
  } catch (error) {
    const [, place] = /at position (\d+)/.exec((error as Error).message) ?? []
    return { fault: `the body is not valid JSON${place === undefined ? '' : ` from character ${place} on`}` }
  }
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d

const QUOTES = 0x22222222
const BACKSLASHES = 0x5c5c5c5c
/** The bit that brackets and braces have, and digits, signs and blanks have not. */
const LETTERS = 0x40404040
const ONES = 0x01010101
const TOPS = 0x80808080

/** Texts up to this length are looked through here; for longer ones a native search is worth its call. */
const SHORT_TEXT = 64

/**
 * Whether JSON opens more than `limit` lists and objects inside each other. What is in texts does not count. Whether it is
 * JSON is not checked. Numbers, most of most bodies, are passed over four bytes at a time.
 */
export function nestsDeeper(json: Uint8Array, limit: number): boolean {
  const { length } = json
  if (length <= limit) return false
  const shift = json.byteOffset & 3
  // Words of the memory that the bytes lie in: the byte at `at` is in the word at `(at + shift) / 4`.
  const words = new Int32Array(json.buffer, json.byteOffset - shift, (length + shift) >> 2)
  let depth = 0
  let at = 0
  while (at < length) {
    if (((at + shift) & 3) === 0) {
      let word = (at + shift) >> 2
      for (; word < words.length; word++) {
        const four = words[word] as number
        if ((four & LETTERS) !== 0 || hasZero(four ^ QUOTES)) break
      }
      at = (word << 2) - shift
      if (at >= length) return false
    }
    switch (json[at++]) {
      case OPEN_BRACKET:
      case OPEN_BRACE:
        if (++depth > limit) return true
        break
      case CLOSE_BRACKET:
      case CLOSE_BRACE:
        depth--
        break
      case QUOTE:
        at = endOfText(json, words, shift, at)
        break
    }
  }
  return false
}

/** Whether one of the four bytes of a word is zero (Hacker's Delight, section 6-1). */
const hasZero = (four: number): boolean => ((four - ONES) & ~four & TOPS) !== 0

/** Where a text ends whose first character is at `from`: behind its quote, or at the end of everything. */
function endOfText(json: Uint8Array, words: Int32Array, shift: number, from: number): number {
  const { length } = json
  const near = Math.min(length, from + SHORT_TEXT)
  let at = from
  while (at < near) {
    if (((at + shift) & 3) === 0) {
      const four = words[(at + shift) >> 2]
      if (four !== undefined && !hasZero(four ^ QUOTES) && !hasZero(four ^ BACKSLASHES)) {
        at += 4
        continue
      }
    }
    const byte = json[at++]
    if (byte === QUOTE) return at
    if (byte === BACKSLASH) at++
  }
  for (;;) {
    const quote = json.indexOf(QUOTE, at)
    if (quote < 0) return length
    let escapes = 0
    while (quote - escapes > at && json[quote - escapes - 1] === BACKSLASH) escapes++
    at = quote + 1
    if ((escapes & 1) === 0) return at
  }
}
