/** Bodies are JSON in UTF-8, nested no deeper than a tensor can be, or they are refused before anything reads them. */
import { isUtf8 } from 'node:buffer'
import type { FastifyError, FastifyInstance, FastifyRequest } from 'fastify'
import { PlainBodyReader } from '../inference/tensors/plain-body.js'
import { Refusal } from './problem.js'

/** More than a tensor of any model has; JSON.parse would spend tens of milliseconds on 100,000 levels. */
const MAX_DEPTH = 64

const QUOTE = 0x22
const BACKSLASH = 0x5c
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d

/** Whether the text opens more than `limit` lists and objects inside each other. What is in strings does not count. */
export function nestsDeeper(json: Uint8Array, limit: number): boolean {
  let depth = 0
  for (let i = 0; i < json.length; i++) {
    switch (json[i]) {
      case OPEN_BRACKET:
      case OPEN_BRACE:
        if (++depth > limit) return true
        break
      case CLOSE_BRACKET:
      case CLOSE_BRACE:
        depth--
        break
      case QUOTE:
        for (i++; i < json.length && json[i] !== QUOTE; i++) if (json[i] === BACKSLASH) i++
        break
    }
  }
  return false
}

/** Refuses what the headers say of a body that is not JSON in UTF-8, as it is. */
function checkHeaders({ headers }: FastifyRequest): void {
  const coding = headers['content-encoding']
  if (coding !== undefined && coding.toLowerCase() !== 'identity') {
    throw new Refusal({
      status: 415,
      code: 'UNSUPPORTED_CONTENT_ENCODING',
      detail: 'the body must not be compressed',
      headers: { 'accept-encoding': 'identity' },
    })
  }
  const type = headers['content-type']
  // What nearly everybody sends.
  if (type === undefined || type === 'application/json') return
  for (const [, charset] of type.matchAll(/;\s*charset\s*=\s*"?([^\s;"]*)/gi)) {
    if (!/^utf-?8$/i.test(charset as string)) {
      throw new Refusal({ status: 415, code: 'UNSUPPORTED_CHARSET', detail: 'the body must be JSON in UTF-8' })
    }
  }
}

/** Takes JSON alone on `app` and its plugins. */
export function acceptJsonOnly(app: FastifyInstance): void {
  const parse = app.getDefaultJsonParser('error', 'error')
  const plain = new PlainBodyReader()
  app.removeAllContentTypeParsers()
  app.addContentTypeParser<Buffer>('application/json', { parseAs: 'buffer' }, (request, body, done) => {
    try {
      checkHeaders(request)
      const read = plain.read(body)
      if (read !== undefined) {
        done(null, read)
        return
      }
      if (!isUtf8(body)) {
        throw new Refusal({ status: 400, code: 'INVALID_JSON', detail: 'the body is not UTF-8' })
      }
      if (nestsDeeper(body, MAX_DEPTH)) {
        throw new Refusal({
          status: 400,
          code: 'INVALID_JSON',
          detail: `the body nests deeper than ${MAX_DEPTH} levels`,
        })
      }
    } catch (error) {
      done(error as FastifyError)
      return
    }
    parse(request, body.toString('utf8'), done)
  })
}
