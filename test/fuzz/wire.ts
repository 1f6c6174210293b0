/** A client of HTTP that takes bytes as they are, since no library sends what is malformed, and reads what comes back. */
import { connect } from 'node:net'

export interface Answer {
  readonly status: number
  /** By name in lower case; of several of one name, the last. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer
}

export interface Exchange {
  readonly answers: readonly Answer[]
  /** What came and is no answer, or is only the beginning of one. */
  readonly rest: Buffer
  /** How the connection ended: closed by the service, reset by it, or still open when we lost patience. */
  readonly end: 'closed' | 'reset' | 'open'
  readonly ms: number
}

/** Ends any connection on which a request may begin. */
export const LAST = 'GET /health/live HTTP/1.1\r\nhost: last\r\nconnection: close\r\n\r\n'

/** The service gives a request 5 s to arrive, and looks every half second: then it waits for a new one, if at all. */
const NUDGE_MS = 7000
const PATIENCE_MS = 30_000

/** Sends the pieces, each by itself, and waits until the service closes. */
export function exchange(port: number, pieces: readonly Uint8Array[]): Promise<Exchange> {
  return new Promise(resolve => {
    const since = performance.now()
    const received: Buffer[] = []
    let end: Exchange['end'] = 'closed'
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    const nudge = setTimeout(() => socket.write(LAST), NUDGE_MS)
    const patience = setTimeout(() => {
      end = 'open'
      socket.destroy()
    }, PATIENCE_MS)
    socket.on('data', data => received.push(data))
    socket.on('error', () => {
      end = 'reset'
    })
    socket.on('close', () => {
      clearTimeout(nudge)
      clearTimeout(patience)
      resolve({ ...readAnswers(Buffer.concat(received)), end, ms: performance.now() - since })
    })
    socket.on('connect', async () => {
      for (const piece of pieces) {
        if (!socket.writable) return
        socket.write(piece)
        // Turns of the event loop let each piece go out by itself.
        if (pieces.length > 1) await new Promise(setImmediate)
      }
    })
  })
}

/** The answers that the bytes are, in order. */
function readAnswers(bytes: Buffer): Pick<Exchange, 'answers' | 'rest'> {
  const answers: Answer[] = []
  let at = 0
  for (;;) {
    const end = bytes.indexOf('\r\n\r\n', at)
    if (end < 0) break
    const [first = '', ...lines] = bytes.toString('latin1', at, end).split('\r\n')
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(first)?.[1])
    if (!Number.isInteger(status)) break
    const headers = Object.fromEntries(lines.map(fieldOf))
    if (status < 200) {
      // On the way to an answer.
      at = end + 4
      continue
    }
    const framed = isEmpty(status, bytes.subarray(end + 4))
      ? { body: NOTHING, next: end + 4 }
      : bodyAt(bytes, end + 4, headers)
    if (framed === undefined) break
    answers.push({ status, headers, body: framed.body })
    at = framed.next
  }
  return { answers, rest: bytes.subarray(at) }
}

const NOTHING = Buffer.alloc(0)

/** Answers to HEAD have no body, whatever their headers say; which they are shows in what follows. */
const isEmpty = (status: number, next: Buffer): boolean =>
  status === 204 || status === 304 || next.length === 0 || next.toString('latin1', 0, 9) === 'HTTP/1.1 '

function fieldOf(line: string): [string, string] {
  const colon = line.indexOf(':')
  return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
}

/** The body that begins there and where it ends; undefined where it is not whole. */
function bodyAt(bytes: Buffer, start: number, headers: Readonly<Record<string, string>>) {
  if (headers['transfer-encoding'] !== 'chunked') {
    const length = Number(headers['content-length'] ?? Number.NaN)
    const next = start + length
    return next <= bytes.length ? { body: bytes.subarray(start, next), next } : undefined
  }
  const chunks: Buffer[] = []
  for (let at = start; ; ) {
    const line = bytes.indexOf('\r\n', at)
    if (line < 0) return undefined
    const size = Number.parseInt(bytes.toString('latin1', at, line), 16)
    const next = line + 2 + size + 2
    if (!Number.isInteger(size) || next > bytes.length) return undefined
    chunks.push(bytes.subarray(line + 2, line + 2 + size))
    if (size === 0) return { body: Buffer.concat(chunks), next }
    at = next
  }
}
