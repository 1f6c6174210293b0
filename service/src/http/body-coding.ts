/** What the headers of a body say of its bytes: the charset of its text, and whether it is packed. */
import type { IncomingHttpHeaders } from 'node:http'
import { gunzip } from 'node:zlib'
import { Refusal } from './problem.js'

const gzip: ReadonlySet<string> = new Set(['gzip', 'x-gzip'])

/** Throws Refusal (415) where the text is not in UTF-8. */
export function checkCharset(type: string | undefined): void {
  // What nearly everybody sends.
  if (type === undefined || type === 'application/json') return
  for (const [, charset] of type.matchAll(/;\s*charset\s*=\s*"?([^\s;"]*)/gi)) {
    if (!/^utf-?8$/i.test(charset as string)) {
      throw new Refusal({ status: 415, code: 'UNSUPPORTED_CHARSET', detail: 'the body must be in UTF-8' })
    }
  }
}

/** Whether the body is packed by gzip. Throws Refusal (415) where it is packed by something else. */
export function isPacked({ 'content-encoding': coding }: IncomingHttpHeaders): boolean {
  if (coding === undefined) return false
  const name = coding.trim().toLowerCase()
  if (gzip.has(name)) return true
  if (name === 'identity') return false
  throw new Refusal({
    status: 415,
    code: 'UNSUPPORTED_CONTENT_ENCODING',
    detail: 'the body must not be compressed, or compressed by gzip alone',
    headers: { 'accept-encoding': 'gzip, identity' },
  })
}

/** Receives the bytes that a body stands for, or why there are none. */
type Unpacked = (error: Refusal | null, body: Buffer) => void

/** Unpacks a body where its headers say that it is packed; more than `limit` bytes are refused. Never throws. */
export function unpackBody(headers: IncomingHttpHeaders, body: Buffer, limit: number, done: Unpacked): void {
  let packed: boolean
  try {
    packed = isPacked(headers)
  } catch (error) {
    done(error as Refusal, body)
    return
  }
  if (packed) unpack(body, limit, done)
  else done(null, body)
}

/** Off the event loop. */
function unpack(body: Buffer, limit: number, done: Unpacked): void {
  gunzip(body, { maxOutputLength: limit }, (error, unpacked) => {
    if (error === null) {
      done(null, unpacked)
      return
    }
    const tooLong = (error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE'
    const fault = tooLong
      ? { status: 413, code: 'UNPACKED_BODY_TOO_LARGE', detail: `the body unpacks to more than ${limit} bytes` }
      : {
          status: 400,
          code: 'INVALID_GZIP',
          detail: 'the body is not gzip from beginning to end, as content-encoding says',
        }
    done(new Refusal(fault), body)
  })
}
