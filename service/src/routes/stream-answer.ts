/** The answer to a stream of rows: a line a row, as fast as the client reads, with bounded memory for one that does not. */
import type { ServerResponse } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { type Fault, Refusal } from '../http/problem.js'
import { csvHeader, predictionLines, predictionsCsv } from '../inference/tensors/predictions.js'
import type { ModelInfo, NamedTensors } from '../inference/types.js'
import { sdkHeaders } from '../protection/sdk-headers.js'

export type Form = 'csv' | 'ndjson'

/** Answers that are held for a client which does not read yet: of one stream, and of all together. In bytes. */
const HELD_BYTES = 16 * 1024 * 1024
const ALL_HELD_BYTES = 128 * 1024 * 1024
const LEAST_HELD_BYTES = 64 * 1024

/** Bytes of answers that all streams hold. */
let allHeld = 0

/**
 * Whether nothing may be answered before the whole body was read. Proxies that pass on one way at a time ask for it:
 * nginx stops to send a body once the answer has begun, as soon as the service is slower than the client.
 */
export const holdsBack = ({ headers }: FastifyRequest): boolean => headers['x-stream-answer'] === 'after-body'

export class StreamAnswer {
  readonly #reply: FastifyReply
  readonly #raw: ServerResponse
  readonly #to: Form
  readonly #onProgress: () => void
  /** Lines that wait until the body was read; undefined where they go out at once. */
  #pending: Buffer[] | undefined
  #pendingBytes = 0
  #hasHeader = false
  #started = false
  #held = 0

  /**
   * `onProgress` is called whenever the client has read something. `onLeft` is called once nobody is there to read any more,
   * and the answer has begun and not gone out as a whole.
   */
  constructor(reply: FastifyReply, to: Form, isHeldBack: boolean, onProgress: () => void, onLeft: () => void) {
    this.#reply = reply
    this.#raw = reply.raw
    this.#to = to
    this.#pending = isHeldBack ? [] : undefined
    this.#onProgress = onProgress
    reply.raw.once('close', () => {
      this.#count(0)
      if (this.#started && !reply.raw.writableFinished) onLeft()
    })
  }

  /** Nobody is there to read any more. */
  get isGone(): boolean {
    return this.#raw.destroyed
  }

  /** Some of it was not read so far. */
  get isUnread(): boolean {
    return this.#raw.writableLength > 0
  }

  /**
   * The answers to so many rows. Resolves once there is room for more, or `isOver`. Throws Refusal (413) where they must
   * be held back and are too long for that.
   */
  async write(info: ModelInfo, outputs: NamedTensors, rows: number, isOver: () => boolean): Promise<void> {
    if (!this.#hasHeader && this.#to === 'csv') this.#send(Buffer.from(csvHeader(info, outputs, rows)))
    this.#hasHeader = true
    this.#send(this.#to === 'csv' ? predictionsCsv(info, outputs, rows) : predictionLines(info, outputs, rows))
    this.#onProgress()
    while (this.#raw.writableLength > this.#mostHeld() && !isOver()) await this.#drained(isOver)
  }

  /** That was all. */
  end(): void {
    this.begins()
    this.#start()
    this.#raw.end()
  }

  /** Sends what was held back; whether any of the answer has gone out. */
  begins(): boolean {
    const pending = this.#pending ?? []
    this.#pending = undefined
    for (const bytes of pending) this.#send(bytes)
    return this.#started
  }

  /** Says in an answer that has begun why it ends here. */
  fail({ code, detail, retryAfterMs }: Fault, row: number): void {
    const raw = this.#raw
    if (raw.destroyed) return
    // Who does not read gets no last words.
    if (raw.writableLength > this.#mostHeld()) raw.destroy()
    // A table has no place for words: that it is cut off is all that can be said, and is said for certain.
    else if (this.#to === 'csv') this.#cut()
    else {
      const retryAfter = retryAfterMs === undefined ? {} : { retryAfter: Math.max(1, Math.ceil(retryAfterMs / 1000)) }
      raw.end(`${JSON.stringify({ error: { code, detail, row, ...retryAfter } })}\n`)
    }
  }

  #start(): void {
    if (this.#started) return
    this.#started = true
    const type = this.#to === 'csv' ? 'text/csv; charset=utf-8' : 'application/x-ndjson; charset=utf-8'
    this.#reply.header('content-type', type).header('cache-control', 'no-store')
    // No hook runs before an answer that is written by hand.
    const { caller } = this.#reply.request
    if (caller !== null) this.#reply.headers(sdkHeaders(caller.decisions, caller.limiters.plan.policies))
    this.#reply.hijack()
    this.#raw.writeHead(200, this.#reply.getHeaders() as Record<string, string>)
  }

  #send(bytes: Buffer): void {
    if (this.#pending !== undefined) {
      this.#hold(bytes)
      return
    }
    this.#start()
    this.#raw.write(bytes, () => {
      this.#onProgress()
      this.#count(this.#raw.writableLength)
    })
    this.#count(this.#raw.writableLength)
  }

  #hold(bytes: Buffer): void {
    this.#pendingBytes += bytes.length
    if (this.#pendingBytes > this.#mostHeld()) {
      this.#pending = []
      this.#count(0)
      const detail = `the answers are held back until all rows were read, as x-stream-answer asks for, and are longer than ${this.#mostHeld()} bytes: send fewer rows at once, or straight to the service`
      throw new Refusal({ status: 413, code: 'STREAM_TOO_LARGE', detail })
    }
    this.#pending?.push(bytes)
    this.#count(this.#pendingBytes)
  }

  #count(bytes: number): void {
    const held = this.#raw.destroyed ? 0 : bytes
    allHeld += held - this.#held
    this.#held = held
  }

  #mostHeld(): number {
    return allHeld > ALL_HELD_BYTES ? LEAST_HELD_BYTES : HELD_BYTES
  }

  /** Resolves once the client has read, or `isOver`. */
  #drained(isOver: () => boolean): Promise<void> {
    return new Promise(resolve => {
      const look = setInterval(() => {
        if (this.#raw.writableLength > this.#mostHeld() / 2 && !isOver()) return
        clearInterval(look)
        resolve()
      }, 20)
    })
  }

  /** Closes the connection behind what was written, and without the last chunk that a whole answer has. */
  #cut(): void {
    const { socket } = this.#reply.request.raw
    this.#raw.chunkedEncoding = false
    this.#raw.end()
    socket.end(() => socket.destroy())
  }
}
