/**
 * Reads the requests of one connection in front of Node's parser, and answers those that are refused.
 *
 * What is not refused goes to the parser byte by byte as it came. The reader has to know where a request begins, so it
 * follows the length of each message that it lets pass, and gives the connection up, until it is told to begin again,
 * where it meets anything that it does not understand in full. It begins only once it and the parser have read a whole
 * request alike, from the same first byte: before that, bytes of a request that it has not seen may be in the parser.
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
  readonly #toParser: Listener
  #state: State = 'unsure'
  #rest = 0
  #passesNext = false
  /** When the connection was last seen empty, where it has not been read since. */
  #emptyAt: number | undefined
  #seen: Seen | undefined
  /** `performance.now()` since when the body of a refused request is skipped. */
  #skippingSince = 0

  /** Undefined where somebody else reads the connection. */
  static open(socket: Socket, refuse: Refuse, parsed: Parsed, control: ReadingControl): SocketReader | undefined {
    const listeners = socket.listeners('data')
    if (listeners.length !== 1 || socket.destroyed) return undefined
    return new SocketReader(socket, refuse, parsed, control, listeners[0] as Listener)
  }

  private constructor(socket: Socket, refuse: Refuse, parsed: Parsed, control: ReadingControl, toParser: Listener) {
    this.socket = socket
    this.#refuse = refuse
    this.#parsed = parsed
    this.#control = control
    this.#toParser = toParser
    // Node's server stops reading the connection by itself as soon as somebody else listens.
    socket.removeListener('data', toParser)
    socket.on('data', chunk => this.#read(chunk))
    socket.once('close', () => control.forget(this))
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

  /**
   * Nothing was sent over the connection so far. Its first request goes to the parser, which would otherwise take it for a
   * connection that has sent nothing, and close it.
   */
  beginAtFirstByte(): void {
    this.#state = 'boundary'
    this.#passesNext = true
  }

  /** Milliseconds for which it has been waiting for the rest of a refused request; 0 where it is not. */
  skippingMs(now: number): number {
    return this.#state === 'skipping' ? now - this.#skippingSince : 0
  }

  /** Whether it stands between two requests, and none is being answered. */
  get isIdle(): boolean {
    return this.#state === 'boundary' && !this.#parsed.isBusy(this.socket)
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
    else this.#toParser(bytes)
  }

  #skipped(count: number): void {
    this.#rest -= count
    if (this.#rest === 0) this.#state = 'boundary'
  }

  #begins(bytes: Buffer): void {
    const head = this.#headOf(bytes)
    const rest = head === undefined ? -1 : head.headBytes + head.bodyBytes - bytes.length
    // Not understood, or with another request behind it.
    if (head === undefined || rest < 0) {
      this.#state = 'given-up'
      this.#toParser(bytes)
      return
    }
    this.#rest = rest
    const from = performance.now()
    // What waited while the connection was not read may have waited for all of that time.
    const arrivedAt = this.#emptyAt ?? from
    this.#emptyAt = undefined
    const passes = this.#passesNext || this.#parsed.isBusy(this.socket)
    this.#passesNext = false
    const answer = passes ? undefined : this.#refuse(head, this, arrivedAt)
    if (answer === undefined) {
      this.refusalsInRow = 0
      this.#state = rest === 0 ? 'boundary' : 'passing'
      noteEmpty(this.socket, arrivedAt)
      this.#toParser(bytes)
      noteEmpty(this.socket, undefined)
      return
    }
    this.refusalsInRow++
    if (rest > 0) {
      this.#state = 'skipping'
      this.#skippingSince = from
    }
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
    this.#toParser(bytes)
  }

  /** Lets a request pass, and sees whether the parser began it with the same byte. */
  #compares(bytes: Buffer): void {
    const head = this.#headOf(bytes)
    const before = this.#parsed.newest(this.socket)
    const isOver = before === undefined || before.complete
    this.#toParser(bytes)
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
