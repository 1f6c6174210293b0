/** Bodies are JSON in UTF-8, nested no deeper than a tensor can be, or they are refused before anything reads them. */
import type { FastifyError, FastifyInstance } from 'fastify'
import { checkCharset, unpackBody } from './body-coding.js'
import { Refusal } from './problem.js'

/** Reads the bytes of bodies. `inference/tensors` has the functions, since both protocols need them. */
export interface BodyReader {
  /** The value of a body in the commonest form; undefined where it is left to JSON.parse. */
  readPlain(body: Buffer): unknown
  /** Why these bytes are not to be parsed as JSON; undefined where they may be. */
  faultOf(body: Buffer): string | undefined
}

/** Takes JSON alone on `app` and its plugins, also packed, but no more than `unpackedLimit` bytes of it. */
export function acceptJsonOnly(app: FastifyInstance, reader: BodyReader, unpackedLimit: number): void {
  const parse = app.getDefaultJsonParser('error', 'error')
  app.removeAllContentTypeParsers()
  app.addContentTypeParser<Buffer>('application/json', { parseAs: 'buffer' }, (request, packed, done) => {
    const { headers } = request
    unpackBody(headers, packed, unpackedLimit, (error, body) => {
      let plain: unknown
      try {
        if (error !== null) throw error
        checkCharset(headers['content-type'])
        plain = reader.readPlain(body)
        const fault = plain === undefined ? reader.faultOf(body) : undefined
        if (fault !== undefined) throw new Refusal({ status: 400, code: 'INVALID_JSON', detail: fault })
      } catch (refusal) {
        done(refusal as FastifyError)
        return
      }
      if (plain === undefined) parse(request, body.toString('utf8'), done)
      else done(null, plain)
    })
  })
}
