/**
 * Reads the requests of one connection in front of Node's parser, and answers those that are refused.
 *
 * What is not refused goes to the parser byte by byte as it came. A new connection has no parser before the first such
 * request: where all is refused, it never costs one. The reader has to know where a request begins. So it follows the
 * length of each message that it lets pass. Where it meets anything that it does not understand in full, it gives the
 * connection up, until it is told to begin again. A connection that a parser has read before is taken up only once both
 * have read a whole request alike, from the same first byte: the parser may hold bytes of a request that the reader has
 * not seen.
 */
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { noteEmpty } from '../http/arrival.js'
import { type Head, readHead } from './head.js'
import type { Pausable, ReadingControl } from './reading.js'

/** What a request is answered with, or undefined where it goes to the parser. `arrivedAt`: see `noteEmpty`. */
export type Refuse = (head: Head, reader: SocketReader, arrivedAt: number) => string | undefined

/** What Node's side of the connection is doing. */
export interface Parsed {
  /** The request whose headers the parser has read last. */
  newest(socket: Socket): IncomingMessage | undefined
  /** Whether an answer is still to be sent. */
  isBusy(socket: Socket): boolean
}

type State =
  /** The parser may be anywhere in a request. */
  | 'unsure'
  /** The next byte is the first of a request. */
  | 'boundary'
  /** `rest` bytes of a request that the parser gets are to come. */
  | 'passing'
  /** `rest` bytes of a request that was refused are to come. */
  | 'skipping'
  /** Everything goes to the parser. */
  | 'given-up'

/** Most clients send the same head over and over. */
interface Seen {
  readonly bytes: Buffer
  readonly head: Head
}

type Listener = (chunk: Buffer) => void

/** What Node's server does with a new connection: it makes a parser, which reads the connection. */
export type Parse = (socket: Socket) => void

/** A connection without a parser so far. */
export interface Unparsed {
  readonly parse: Parse
  /** Called when it gets its parser. Says whether the reader goes on to read in front of that. */
  readonly parsed: (reader: SocketReader) => boolean
}

/** The part of a connection's handle that starts and stops reading, as Node's own HTTP server uses it. */
interface Handle {
  reading: boolean
  readStart(): number
  readStop(): number
}

export class SocketReader implements Pausable {
  readonly socket: Socket
  refusalsInRow = 0
  /** For `Refuse`: what it knows of the head that it was last called with. */
  memo: { readonly head: Head } | undefined
  readonly #refuse: Refuse
  readonly #parsed: Parsed
  readonly #control: ReadingControl
  readonly #listener: Listener = chunk => this.#read(chunk)
  /** Undefined while there is no parser. */
  #toParser: Listener | undefined
  #unparsed: Unparsed | undefined
  #state: State = 'unsure'
  #rest = 0
  #endsNext = false
  /** When the connection was last seen empty, where it has not been read since. */
  #emptyAt: number | undefined
  #seen: Seen | undefined
  /** `performance.now()` when the last request began, or the connection opened. */
  #begunAt = performance.now()

  /** A connection that has a parser. Undefined where somebody else reads it. */
  static open(socket: Socket, refuse: Refuse, parsed: Parsed, control: ReadingControl): SocketReader | undefined {
    const listeners = socket.listeners('data')
    if (listeners.length !== 1 || socket.destroyed) return undefined
    const reader = new SocketReader(socket, refuse, parsed, control)
    reader.#readInFrontOf(listeners[0] as Listener)
    return reader
  }

  /** A connection that has only just opened. */
  static hold(
    socket: Socket,
    refuse: Refuse,
    parsed: Parsed,
    control: ReadingControl,
    unparsed: Unparsed,
  ): SocketReader {
    const reader = new SocketReader(socket, refuse, parsed, control)
    reader.#unparsed = unparsed
    reader.#state = 'boundary'
    socket.on('data', reader.#listener)
    socket.on('end', reader.#end)
    socket.on('error', nothing)
    return reader
  }

  private constructor(socket: Socket, refuse: Refuse, parsed: Parsed, control: ReadingControl) {
    this.socket = socket
    this.#refuse = refuse
    this.#parsed = parsed
    this.#control = control
    socket.once('close', () => control.forget(this))
  }

  readonly #end = (): void => {
    this.socket.end(() => this.socket.destroy())
  }

  #readInFrontOf(toParser: Listener): void {
    this.#toParser = toParser
    // Node's server stops reading the connection by itself as soon as somebody else listens.
    this.socket.removeListener('data', toParser)
    this.socket.on('data', this.#listener)
  }

  #pass(bytes: Buffer): void {
    const toParser = this.#toParser ?? this.#handOver()
    toParser?.(bytes)
  }

  /** Gives a held connection its parser. Undefined if the parser does not listen. */
  #handOver(): Listener | undefined {
    const { socket } = this
    const { parse, parsed } = this.#unparsed as Unparsed
    this.#unparsed = undefined
    socket.off('data', this.#listener)
    socket.off('end', this.#end)
    socket.off('error', nothing)
    parse(socket)
    const toParser = socket.listeners('data').at(-1) as Listener | undefined
    if (toParser !== undefined && parsed(this)) this.#readInFrontOf(toParser)
    return toParser
  }

  pause(now: number): boolean {
    const handle = handleOf(this.socket)
    if (handle === undefined || this.#state !== 'boundary' || this.#parsed.isBusy(this.socket)) return false
    handle.reading = false
    handle.readStop()
    this.#emptyAt = now
    return true
  }

  resume(): void {
    const handle = handleOf(this.socket)
    if (handle === undefined || handle.reading) return
    handle.reading = true
    handle.readStart()
  }

  settle(): void {
    this.#emptyAt = undefined
  }

  /** Looks for the beginning of a request again, where the connection was given up. */
  begin(): void {
    if (this.#state === 'given-up') this.#state = 'unsure'
  }

  /** Whether it has no parser so far. */
  get isHeld(): boolean {
    return this.#unparsed !== undefined
  }

  /** Whether it is held, and no request has begun over it. */
  get isSilent(): boolean {
    return this.isHeld && this.#state === 'boundary' && this.refusalsInRow === 0
  }

  /** Milliseconds since a request over it began, or since it opened; 0 while one is under way. */
  idleMs(now: number): number {
    return this.#state === 'boundary' ? now - this.#begunAt : 0
  }

  /** Ends a held connection, once what was refused over it has come as a whole, or within so many milliseconds. */
  end(mostMs: number): void {
    if (this.#state === 'boundary') this.#end()
    else {
      this.#endsNext = true
      this.socket.setTimeout(mostMs, () => this.socket.destroy())
    }
  }

  /** Milliseconds for which it has been waiting for the rest of a refused request; 0 where it is not. */
  skippingMs(now: number): number {
    return this.#state === 'skipping' ? now - this.#begunAt : 0
  }

  #read(chunk: Buffer): void {
    let bytes = chunk
    if (this.#state === 'skipping') {
      if (bytes.length <= this.#rest) {
        this.#skipped(bytes.length)
        return
      }
      bytes = bytes.subarray(this.#rest)
      this.#state = 'boundary'
    }
    if (this.#state === 'boundary') this.#begins(bytes)
    else if (this.#state === 'passing') this.#passes(bytes)
    else if (this.#state === 'unsure') this.#compares(bytes)
    else this.#pass(bytes)
  }

  #skipped(count: number): void {
    this.#rest -= count
    if (this.#rest > 0) return
    this.#state = 'boundary'
    if (this.#endsNext) this.#end()
  }

  #begins(bytes: Buffer): void {
    const head = this.#headOf(bytes)
    const rest = head === undefined ? -1 : head.headBytes + head.bodyBytes - bytes.length
    // Not understood, or with another request behind it.
    if (head === undefined || rest < 0) {
      this.#state = 'given-up'
      this.#pass(bytes)
      return
    }
    this.#rest = rest
    const from = performance.now()
    this.#begunAt = from
    // What waited while the connection was not read may have waited for all of that time.
    const arrivedAt = this.#emptyAt ?? from
    this.#emptyAt = undefined
    const answer = this.#parsed.isBusy(this.socket) ? undefined : this.#refuse(head, this, arrivedAt)
    if (answer === undefined) {
      this.refusalsInRow = 0
      this.#state = rest === 0 ? 'boundary' : 'passing'
      noteEmpty(this.socket, arrivedAt)
      this.#pass(bytes)
      noteEmpty(this.socket, undefined)
      return
    }
    this.refusalsInRow++
    if (rest > 0) this.#state = 'skipping'
    // A client that reads no answers gets no more of them, so that they do not pile up.
    if (!this.socket.write(answer, 'latin1')) {
      this.socket.pause()
      this.socket.once('drain', () => this.socket.resume())
    }
    this.#control.refused(this, from, performance.now())
  }

  #passes(bytes: Buffer): void {
    if (bytes.length > this.#rest) this.#state = 'given-up'
    else this.#skipped(bytes.length)
    this.#pass(bytes)
  }

  /** Lets a request pass, and sees whether the parser began it with the same byte. */
  #compares(bytes: Buffer): void {
    const head = this.#headOf(bytes)
    const before = this.#parsed.newest(this.socket)
    const isOver = before === undefined || before.complete
    this.#pass(bytes)
    if (head === undefined || !isOver) return
    const request = this.#parsed.newest(this.socket)
    if (request === undefined || request === before || !isSame(request, head, bytes)) return
    const rest = head.headBytes + head.bodyBytes - bytes.length
    if (rest < 0) return
    this.#rest = rest
    this.#state = rest === 0 ? 'boundary' : 'passing'
  }

  #headOf(bytes: Buffer): Head | undefined {
    const seen = this.#seen
    if (seen !== undefined) {
      const { length } = seen.bytes
      if (bytes.length >= length && seen.bytes.compare(bytes, 0, length) === 0) return seen.head
    }
    const head = readHead(bytes)
    if (head !== undefined) this.#seen = { head, bytes: Buffer.from(bytes.subarray(0, head.headBytes)) }
    return head
  }
}

/** A held connection that fails is closed by itself, and nobody else has to know. */
const nothing = (): void => {}

/** Undefined where the connection is gone, or is none of the system's. */
function handleOf(socket: Socket): Handle | undefined {
  const handle = (socket as unknown as { readonly _handle?: Partial<Handle> | null })._handle
  return typeof handle?.readStop === 'function' && typeof handle.readStart === 'function'
    ? (handle as Handle)
    : undefined
}

/** Whether the parser has read these very bytes as this request. */
function isSame({ method, url, rawHeaders }: IncomingMessage, head: Head, bytes: Buffer): boolean {
  if (method !== head.method || url !== head.url || rawHeaders.length !== 2 * head.fields) return false
  const lines = bytes
    .toString('latin1', 0, head.headBytes - 4)
    .split('\r\n')
    .slice(1)
  return lines.every((line, index) => {
    const colon = line.indexOf(':')
    const [name, value] = [line.slice(0, colon), line.slice(colon + 1)]
    return rawHeaders[2 * index] === name && rawHeaders[2 * index + 1] === value.trim()
  })
}
