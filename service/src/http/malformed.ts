/** What comes over a connection and never becomes a request of the app: it is answered all the same, and in its turn. */
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'
import type { Fault } from './problem.js'

/** The request that came last over a connection, and the answer before its own where that is not out yet. */
interface Newest {
  readonly request: IncomingMessage
  readonly answer: ServerResponse
  readonly before: ServerResponse | undefined
}

/** On the socket itself: a weak map of all sockets would be gone through at every collection of garbage. */
const newestOf = Symbol('ml-api-rate-limiter.newest')

/** On the socket of a request whose body may take as long as it likes: its route watches over it. */
const hasLongBody = Symbol('ml-api-rate-limiter.long-body')

interface WatchedSocket extends Socket {
  [newestOf]?: Newest
  [hasLongBody]?: IncomingMessage
}

/** Takes a request out of the time that the server gives for a request to arrive. */
export function expectLongBody(request: IncomingMessage): void {
  ;(request.socket as WatchedSocket)[hasLongBody] = request
}

/** The headers and the body of an answer that no hook of the app has a part in. */
export interface RawAnswer {
  readonly headers: Readonly<Record<string, string | number>>
  readonly body: string
}

/** Makes them. `request`: what the answer is to; undefined where its headers have not been read. */
export type MakeRawAnswer = (fault: Fault, request: IncomingMessage | undefined) => RawAnswer

type ClientErrorHandler = (error: Error & { readonly code?: string }, socket: Socket) => void

const isOut = (answer: ServerResponse): boolean => answer.writableFinished || answer.destroyed

/** How long a client may take to read the refusal and close. */
const LINGER_MS = 1000

const TIMED_OUT = 'ERR_HTTP_REQUEST_TIMEOUT'

/** What the parser refuses, by the code of its error. */
const REFUSALS = {
  HPE_HEADER_OVERFLOW: { status: 431, code: 'HEADERS_TOO_LARGE', detail: 'the headers are too long' },
  [TIMED_OUT]: { status: 408, code: 'REQUEST_TIMEOUT', detail: 'the request did not arrive in time' },
} as const
const MALFORMED = { status: 400, code: 'MALFORMED_REQUEST', detail: 'this is not a valid HTTP request' } as const

/**
 * Answers to what the parser refuses. Clients may send requests one behind the other; those that came whole keep their
 * answers, and the refusal goes out after them (RFC 9112, section 9.3.2).
 */
export class Malformed {
  readonly #refused = new WeakSet<Socket>()
  readonly #make: MakeRawAnswer

  constructor(make: MakeRawAnswer) {
    this.#make = make
  }

  /** Answers to expectations (RFC 9110, section 10.1.1) that the app does not know. */
  watch(app: FastifyInstance): void {
    app.server.on('checkContinue', (request: IncomingMessage, answer: ServerResponse) => {
      const before = (request.socket as WatchedSocket)[newestOf]?.answer
      this.remember(request, answer)
      const proceed = () => {
        if (request.socket.destroyed) return
        answer.writeContinue()
        app.server.emit('request', request, answer)
      }
      // Without a socket its turn has not come, and Node would put this between the headers and the body of the answer.
      if (answer.socket === null) before?.once('close', proceed)
      else proceed()
    })
    app.server.on('checkExpectation', (request: IncomingMessage, answer: ServerResponse) => {
      this.remember(request, answer)
      const detail = 'the header expect takes 100-continue and nothing else'
      const fault = { status: 417, code: 'EXPECTATION_FAILED', detail }
      const { headers, body } = this.#make(fault, request)
      answer.writeHead(fault.status, headers).end(body)
    })
  }

  /** To be called for each request as it comes, in front of everything else. */
  remember(request: IncomingMessage, answer: ServerResponse): void {
    const previous = (request.socket as WatchedSocket)[newestOf]?.answer
    if (previous === answer) return
    const before = previous === undefined || isOut(previous) ? undefined : previous
    ;(request.socket as WatchedSocket)[newestOf] = { request, answer, before }
  }

  /** The request that came last over a connection, as far as its headers have been read. */
  newest(socket: Socket): IncomingMessage | undefined {
    return (socket as WatchedSocket)[newestOf]?.request
  }

  /** Whether an answer over the connection is not out yet. */
  isBusy(socket: Socket): boolean {
    const newest = (socket as WatchedSocket)[newestOf]
    return newest !== undefined && !isOut(newest.answer)
  }

  /** Ends a connection whose request did not arrive in time. */
  timedOut(socket: Socket): void {
    this.handle(Object.assign(new Error('the request did not arrive'), { code: TIMED_OUT }), socket)
  }

  /** For Fastify's `clientErrorHandler`. */
  readonly handle: ClientErrorHandler = (error, socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy()
      return
    }
    if (error.code === TIMED_OUT && (socket as WatchedSocket)[hasLongBody]?.complete === false) return
    // Whatever else comes is refused as well, and was told so.
    if (this.#refused.has(socket)) return
    this.#refused.add(socket)
    const newest = (socket as WatchedSocket)[newestOf]
    const isBroken = newest?.request.complete === false
    if (isBroken && newest.answer.headersSent && !newest.answer.writableEnded) {
      // An answer that has begun, as streams do, says no more than that it is cut off.
      socket.destroy()
      return
    }
    const last = isBroken && !newest.answer.writableEnded ? newest.before : newest?.answer
    const end = () => {
      // The rest of a request that was refused by its headers has had its answer.
      const wasAnswered = isBroken && last === newest.answer
      const request = isBroken ? newest.request : undefined
      if (socket.writable) socket.end(wasAnswered ? '' : this.#refusalOf(error.code, request))
      // To close on what is still coming would reset the connection, and take with it what the client has not read.
      const timer = setTimeout(() => socket.destroy(), LINGER_MS)
      socket.once('close', () => clearTimeout(timer))
    }
    if (last === undefined || isOut(last)) end()
    else last.once('close', end)
  }

  #refusalOf(parserCode: string | undefined, request: IncomingMessage | undefined): string {
    const fault = REFUSALS[parserCode as keyof typeof REFUSALS] ?? MALFORMED
    const { headers, body } = this.#make(fault, request)
    const fields = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
    const { status } = fault
    return `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${fields.join('')}connection: close\r\n\r\n${body}`
  }
}
