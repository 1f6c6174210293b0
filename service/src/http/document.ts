/** Documents about the models: written once for each state of the catalog, with a validator that spares sending them again. */
import { createHash } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Model, Models } from '../inference/types.js'

/** JSON as it is sent. */
export interface Document {
  readonly bytes: Buffer
  /** Of RFC 9110, section 8.8.3, in its quotes. */
  readonly etag: string
}

/** A document that is made for one answer. */
export function documentOf(value: unknown): Document {
  const bytes = Buffer.from(JSON.stringify(value, numbersInWords))
  return { bytes, etag: `"${createHash('sha256').update(bytes).digest('base64url').slice(0, 27)}"` }
}

/** Numbers without a form in JSON, as predictions have them. */
const numbersInWords = (_: string, value: unknown): unknown =>
  typeof value === 'number' && !Number.isFinite(value) ? String(value) : value

/** The documents that were asked for since the models last changed. */
export class Documents {
  readonly #models: Pick<Models, 'list'>
  readonly #made = new Map<string, Document>()
  #list: readonly Model[] | undefined

  constructor(models: Pick<Models, 'list'>) {
    this.#models = models
  }

  /** The document of this key; `build` is called where it has not been made of the models as they are now. */
  get(key: string, build: () => unknown): Document {
    const list = this.#models.list()
    if (list !== this.#list) {
      this.#list = list
      this.#made.clear()
    }
    let document = this.#made.get(key)
    if (document === undefined) {
      document = documentOf(build())
      this.#made.set(key, document)
    }
    return document
  }
}

/** Sends a document, or 304 where the caller has it already. */
export function sendDocument(
  { bytes, etag }: Document,
  { headers }: FastifyRequest,
  reply: FastifyReply,
): FastifyReply {
  reply.header('etag', etag).header('cache-control', 'no-cache')
  if (hasIt(headers['if-none-match'], etag)) return reply.code(304).send()
  return reply.type('application/json; charset=utf-8').send(bytes)
}

/** Weak comparison, as RFC 9110, section 13.1.2, has it. */
const hasIt = (field: string | undefined, etag: string): boolean =>
  field !== undefined && (field.trim() === '*' || field.split(',').some(tag => tag.trim().replace(/^W\//, '') === etag))
