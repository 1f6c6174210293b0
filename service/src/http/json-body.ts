/** Bodies are JSON in UTF-8, nested no deeper than a tensor can be, or they are refused before anything reads them. */
import type { FastifyError, FastifyInstance } from 'fastify'
import { checkCharset, unpackBody } from './body-coding.js'
import { Refusal } from './problem.js'

/** Reads the bytes of bodies. `inference/tensors` has the functions, since both protocols need them. */
export interface BodyReader {
  /** The value of a body in the commonest form; undefined where it is left to `read`. */
  readPlain(body: Buffer): unknown
  /** The value of any other body with its text, or what is wrong with it. */
  read(
    body: Buffer,
  ): { readonly text: string; readonly value: unknown; readonly fault?: undefined } | { readonly fault: string }
}

/** Takes JSON alone on `app` and its plugins, also packed, but no more than `unpackedLimit` bytes of it. */
export function acceptJsonOnly(app: FastifyInstance, reader: BodyReader, unpackedLimit: number): void {
  const parseWary = app.getDefaultJsonParser('error', 'error')
  app.removeAllContentTypeParsers()
  app.addContentTypeParser<Buffer>('application/json', { parseAs: 'buffer' }, (request, packed, done) => {
    const { headers } = request
    unpackBody(headers, packed, unpackedLimit, (error, body) => {
      let read: ReturnType<BodyReader['read']>
      try {
        if (error !== null) throw error
        checkCharset(headers['content-type'])
        const plain = reader.readPlain(body)
        read = plain === undefined ? reader.read(body) : { text: '', value: plain }
        if (read.fault !== undefined) throw new Refusal({ status: 400, code: 'INVALID_JSON', detail: read.fault })
      } catch (refusal) {
        done(refusal as FastifyError)
        return
      }
      if (mayPoison(read.text)) parseWary(request, read.text, done)
      else done(null, read.value)
    })
  })
}

/** Whether a text may have members that JavaScript gives a meaning to. Nearly none has, and to look closer takes as long as to parse. */
const mayPoison = (json: string): boolean =>
  json.includes('__proto__') || json.includes('constructor') || json.includes('\\u')
