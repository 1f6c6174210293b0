/** Bodies are JSON in UTF-8, nested no deeper than a tensor can be, or they are refused before anything reads them. */
import type { FastifyError, FastifyInstance, FastifyRequest } from 'fastify'
import { Refusal } from './problem.js'

/** Reads the bytes of bodies. `inference/tensors` has the functions, since both protocols need them. */
export interface BodyReader {
  /** The value of a body in the commonest form; undefined where it is left to JSON.parse. */
  readPlain(body: Buffer): unknown
  /** Why these bytes are not to be parsed as JSON; undefined where they may be. */
  faultOf(body: Buffer): string | undefined
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
export function acceptJsonOnly(app: FastifyInstance, reader: BodyReader): void {
  const parse = app.getDefaultJsonParser('error', 'error')
  app.removeAllContentTypeParsers()
  app.addContentTypeParser<Buffer>('application/json', { parseAs: 'buffer' }, (request, body, done) => {
    try {
      checkHeaders(request)
      const read = reader.readPlain(body)
      if (read !== undefined) {
        done(null, read)
        return
      }
      const fault = reader.faultOf(body)
      if (fault !== undefined) throw new Refusal({ status: 400, code: 'INVALID_JSON', detail: fault })
    } catch (error) {
      done(error as FastifyError)
      return
    }
    parse(request, body.toString('utf8'), done)
  })
}
