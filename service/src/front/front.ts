/**
 * The front: answers requests that cannot be admitted before Node's parser and the framework see them, at a fraction of
 * what they cost there. It reads the first request of each connection, and all requests of those over which requests are
 * refused. All others are as fast as without it. It knows nothing by itself: `EarlyRefusals` says what is refused,
 * `Answers` has the bytes.
 */
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { addressKeyOf, digestOfKey, keyTextOf, trustIn } from '../auth.js'
import type { Malformed } from '../http/malformed.js'
import type { OverloadStatus } from '../http/problem.js'
import { type ObserveRefusal, refusalsOf } from '../metrics/http.js'
import type { Metrics } from '../metrics/metrics.js'
import type { Stats } from '../playground/stats.js'
import { isMistyped } from '../protection/callers.js'
import type { EarlyRefusal, EarlyRefusals, EarlyRequest } from '../protection/early.js'
import { timeoutOf } from '../protection/urgency.js'
import { isV2 } from '../routes/v2-error.js'
import type { UsageMeter } from '../usage/usage-meter.js'
import { type Answer, Answers } from './answers.js'
import type { Head } from './head.js'
import { ReadingControl } from './reading.js'
import { RouteTable } from './route-table.js'
import { type Parse, SocketReader, type Unparsed } from './socket-reader.js'

/** One refusal of so many goes the long way, so that logs and traces show some. */
const SAMPLE = 500

/** Milliseconds between two looks for connections over which nothing more comes. */
const SWEEP_MS = 500

/** A connection that gets its parser within so many milliseconds after a refusal is read in front of that. */
const RECENT_MS = 1000

/** Refusals that are an answer to load, by their code. */
const OVERLOADED = 'INFERENCE_OVERLOADED'
const REFUSED = ['ML_RATE_QUOTA_EXCEEDED', OVERLOADED]

/** Idle connections that begin to be read in one turn of the event loop. */
const SPREAD_AT_ONCE = 50

export interface FrontOptions {
  readonly trustProxy: readonly string[]
  readonly bearerKeys: boolean
  readonly requestTimeoutMs: number
  /** Milliseconds that the body of a refused request may take to arrive. */
  readonly uploadTimeoutMs: number
  /** Bytes of such a body that are read and thrown away. */
  readonly mostSkippedBytes: number
  readonly overloadStatus: OverloadStatus
  /** Header fields of all answers. */
  readonly headers: Readonly<Record<string, string>>
  /** Whether answers have the headers of limits that the clients of OpenAI read. */
  readonly hasSdkHeaders: boolean
  /** Whether answers depend on the header `origin`. */
  readonly readsOrigin: boolean
}

/** What is told of each refusal. */
export interface FrontWatchers {
  readonly metrics: Metrics | undefined
  readonly stats: Stats | undefined
}

/** What a head comes to, which is the same each time that it is sent over a connection. */
interface Target {
  readonly head: Head
  /** Undefined where such a request goes to the framework. */
  readonly asked: EarlyRequest | undefined
  readonly isV2: boolean
  readonly observe: ObserveRefusal | undefined
}

const readerOf = Symbol('ml-api-rate-limiter.reader')

interface ReadSocket extends Socket {
  [readerOf]?: SocketReader | undefined
}

export class Front {
  readonly #options: FrontOptions
  readonly #watchers: FrontWatchers
  readonly #malformed: Malformed
  readonly #answers: Answers
  readonly #trusted: ReturnType<typeof trustIn>
  readonly #routes = new RouteTable()
  readonly #observers = new Map<string, ObserveRefusal>()
  readonly #readers = new Set<SocketReader>()
  /** Connections that nobody reads in front of the parser. */
  readonly #unread = new Set<Socket>()
  #isSpreading = false
  readonly #control = new ReadingControl(() => this.#early?.isServing === true)
  #early: EarlyRefusals | undefined
  #usage: UsageMeter | undefined
  #refusedAt = Number.NEGATIVE_INFINITY
  #refusals = 0
  #isClosing = false

  constructor(app: FastifyInstance, malformed: Malformed, options: FrontOptions, watchers: FrontWatchers) {
    this.#options = options
    this.#watchers = watchers
    this.#malformed = malformed
    this.#answers = new Answers(options.overloadStatus, options.headers, options.hasSdkHeaders)
    this.#trusted = trustIn(options.trustProxy)
    app.addHook('onRoute', ({ method, url, config }) => {
      if (method === 'POST' && config?.rateLimit === undefined) this.#routes.add(url)
    })
    // Node's own listener, and those of the app, follow when the connection gets its parser.
    const parsers = app.server.listeners('connection') as Parse[]
    app.server.removeAllListeners('connection')
    const parse = (socket: Socket) => {
      for (const parser of parsers) parser.call(app.server, socket)
    }
    const unparsed: Unparsed = { parse, parsed: reader => this.#parsed(reader) }
    app.server.on('connection', (socket: Socket) => this.#opened(socket, unparsed))
    const sweep = setInterval(() => this.#sweep(app.server), SWEEP_MS).unref()
    watchers.metrics?.watchFront(this.#control)
    app.addHook('preClose', done => {
      this.#isClosing = true
      for (const reader of this.#readers) {
        // Its first request may be on its way, and is answered. (If it had a parser, Node.js 26 would close it now.)
        if (reader.isSilent) this.#endSilent(reader, app.server.headersTimeout)
        else if (reader.isHeld) reader.end(options.uploadTimeoutMs)
      }
      done()
    })
    app.addHook('onClose', () => {
      clearInterval(sweep)
      this.#control.close()
    })
  }

  /** Begins to refuse, and tells `usage` whom. */
  open(early: EarlyRefusals, usage: UsageMeter | undefined): void {
    this.#early = early
    this.#usage = usage
  }

  /** Stops to refuse: from now on everything goes to the framework. */
  close(): void {
    this.#early = undefined
    this.#control.close()
  }

  /** To be called for each request that the framework refuses: the next ones over its connection may be refused here. */
  refused({ raw, refusedAs }: FastifyRequest): void {
    if (this.#early === undefined || !REFUSED.includes(refusedAs ?? '')) return
    this.#refusedAt = performance.now()
    const { socket } = raw
    const reader = (socket as ReadSocket)[readerOf]
    if (reader !== undefined) reader.begin()
    // Not while the parser is at work on that very request.
    else queueMicrotask(() => this.#read(socket))
    if (refusedAs === OVERLOADED) this.#noRoom()
  }

  /** All connections are about to be refused: those that are idle are read from now on, a few a turn. */
  #noRoom(): void {
    if (this.#isSpreading || this.#unread.size === 0) return
    this.#isSpreading = true
    setImmediate(() => this.#spread())
  }

  #spread(): void {
    let left = SPREAD_AT_ONCE
    for (const socket of this.#unread) {
      if (left-- === 0) break
      this.#unread.delete(socket)
      if (!this.#malformed.isBusy(socket)) this.#read(socket)
    }
    this.#isSpreading = this.#unread.size > 0
    if (this.#isSpreading) setImmediate(() => this.#spread())
  }

  #endSilent(reader: SocketReader, mostMs: number): void {
    reader.socket.setTimeout(mostMs, () => {
      if (reader.isSilent) this.#malformed.timedOut(reader.socket)
    })
  }

  #opened(socket: ReadSocket, unparsed: Unparsed): void {
    if (this.#isClosing) {
      unparsed.parse(socket)
      return
    }
    const reader = SocketReader.hold(socket, this.#refuse, this.#malformed, this.#control, unparsed)
    this.#keep(reader)
    this.#control.opened(reader, performance.now())
  }

  /** Whether a connection that has got its parser is still read in front of that. */
  #parsed(reader: SocketReader): boolean {
    if (performance.now() - this.#refusedAt < RECENT_MS) return true
    const socket: ReadSocket = reader.socket
    socket[readerOf] = undefined
    this.#readers.delete(reader)
    this.#unread.add(socket)
    socket.once('close', () => this.#unread.delete(socket))
    return false
  }

  #read(socket: ReadSocket): void {
    if (socket[readerOf] !== undefined) return
    const reader = SocketReader.open(socket, this.#refuse, this.#malformed, this.#control)
    if (reader === undefined) return
    this.#unread.delete(socket)
    this.#keep(reader)
  }

  #keep(reader: SocketReader): void {
    const socket: ReadSocket = reader.socket
    socket[readerOf] = reader
    this.#readers.add(reader)
    socket.once('close', () => this.#readers.delete(reader))
  }

  readonly #refuse = (head: Head, reader: SocketReader, arrivedAt: number): string | undefined => {
    const early = this.#early
    if (early === undefined) return undefined
    let target = reader.memo as Target | undefined
    if (target?.head !== head) {
      target = this.#targetOf(head, reader.socket)
      reader.memo = target
    }
    if (target.asked === undefined) return undefined
    const refusal = early.of(target.asked, arrivedAt)
    if (refusal === undefined || ++this.#refusals % SAMPLE === 0) return undefined
    this.#refusedAt = performance.now()
    if (refusal.denial === undefined) this.#noRoom()
    const answer = this.#answerTo(refusal, target.isV2)
    this.#count(refusal, answer, target)
    return answer.text
  }

  #answerTo(refusal: EarlyRefusal, isV2: boolean): Answer {
    return refusal.denial === undefined
      ? this.#answers.overloaded(refusal.error, isV2)
      : this.#answers.denied(refusal.limiters, refusal.denial, isV2)
  }

  #count(refusal: EarlyRefusal, { status, code }: Answer, { observe }: Target): void {
    const { metrics, stats } = this.#watchers
    stats?.answered(status, code, 0)
    this.#usage?.refused(refusal.identity.holder, refusal.model, code)
    if (metrics === undefined) return
    observe?.(status, code)
    metrics.inFront.of().value++
    if (refusal.denial === undefined) metrics.overloaded(refusal.error.why)
    else metrics.decidedBy(refusal.limiters.plan.name, refusal.denial)
  }

  #targetOf(head: Head, socket: Socket): Target {
    const { bearerKeys, requestTimeoutMs, mostSkippedBytes, readsOrigin } = this.#options
    const elsewhere = { head, asked: undefined, isV2: false, observe: undefined }
    const match = head.method === 'POST' ? this.#routes.match(head.url) : undefined
    if (match === undefined || head.bodyBytes > mostSkippedBytes) return elsewhere
    if (readsOrigin && head.origin !== undefined) return elsewhere
    const headers = { 'x-api-key': head.apiKey, authorization: head.authorization }
    const key = keyTextOf({ headers }, bearerKeys)
    if (key !== undefined && isMistyped(key)) return elsewhere
    let timeoutMs: number
    try {
      timeoutMs = timeoutOf({ headers: { 'x-request-timeout-ms': head.timeout } }, requestTimeoutMs)
    } catch {
      return elsewhere
    }
    const asked = {
      digest: key === undefined ? undefined : digestOfKey(key),
      address: addressKeyOf(socket, head.forwardedFor, this.#trusted),
      params: match.params,
      timeoutMs,
    }
    return { head, asked, isV2: isV2(match.route), observe: this.#observerOf(match.route) }
  }

  #observerOf(route: string): ObserveRefusal | undefined {
    const { metrics } = this.#watchers
    let observe = this.#observers.get(route)
    if (observe === undefined && metrics !== undefined) {
      observe = refusalsOf(route, 'POST', metrics)
      this.#observers.set(route, observe)
    }
    return observe
  }

  /** Ends connections over which what is due does not come. Node watches over those that have a parser. */
  #sweep({ headersTimeout, keepAliveTimeout }: Server): void {
    const now = performance.now()
    for (const reader of this.#readers) {
      const isOverdue = reader.skippingMs(now) > this.#options.uploadTimeoutMs
      if (isOverdue || (reader.isHeld && reader.idleMs(now) > keepAliveTimeout)) reader.socket.destroy()
      else if (reader.isSilent && reader.idleMs(now) > headersTimeout) this.#malformed.timedOut(reader.socket)
    }
  }
}
