/**
 * Streams of rows: CSV or NDJSON in, one line of NDJSON or CSV a row out, in order and while the rest still arrives. Rows
 * are charged in chunks before they run; memory is bounded by the chunks under way and by the answers that may be held.
 *
 *   body ─ unpack ─ reader ─ chunk ─ charge ─ run ─┐ (several at once)
 *   answer ◀── lines ◀── write, in order ◀─────────┘
 */
import { finished, type Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { createGunzip, type Gunzip } from 'node:zlib'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { QuotaExceeded } from 'ml-api-rate-limiter'
import { prefersCsv } from '../http/accept.js'
import { isPacked } from '../http/body-coding.js'
import { type Fault, faultOf, Refusal } from '../http/problem.js'
import { discardRest } from '../http/unread-body.js'
import { Overloaded } from '../inference/errors.js'
import { type RowReader, readerOf } from '../inference/tensors/row-reader.js'
import type { EncodedRows } from '../inference/tensors/rows.js'
import { sliceOutputs } from '../inference/tensors/stack.js'
import type { Model, RunResult } from '../inference/types.js'
import type { Charges } from '../protection/charges.js'
import { priorityOf } from '../protection/urgency.js'
import { callerOfReply } from './caller.js'
import { type Form, holdsBack, StreamAnswer } from './stream-answer.js'

export interface StreamOptions {
  /** Most bytes of a stream, once unpacked. */
  readonly streamLimit: number
  /** Milliseconds without progress, either way, after which a stream is ended. */
  readonly streamStallMs: number
  /** Most bytes of one row. */
  readonly bodyLimit: number
}

/** Most rows that are charged and run together. */
const CHUNK_ROWS = 256
/** What a chunk may be expected to compute, in milliseconds: a slow model gets fewer rows at once. */
const CHUNK_MS = 500
/** Chunks under way: enough to keep all workers busy while answers are written. */
const CHUNKS_AT_ONCE = 8
/** What is read and thrown away behind an answer that came early, in times `BODY_LIMIT`. */
const MOST_DISCARDED = 64
/** How long a client whose stream has failed may go on sending, in milliseconds. */
const LAST_WORDS_MS = 5000

/** Whether the content type is one of streams. */
export const STREAM_TYPES = ['text/csv', 'application/x-ndjson', 'application/ndjson', 'application/jsonl'] as const

/** Answers a stream of rows. Rejects with what is wrong where nothing was answered so far. */
export function answerStream(
  request: FastifyRequest,
  reply: FastifyReply,
  model: Model,
  version: string | undefined,
  options: StreamOptions,
): Promise<FastifyReply> {
  const type = (request.headers['content-type'] ?? '').split(';')[0]?.trim().toLowerCase()
  const from: Form = type === 'text/csv' ? 'csv' : 'ndjson'
  const to: Form = prefersCsv(request.headers.accept) ? 'csv' : 'ndjson'
  return new RowStream(request, reply, model, version, from, to, options).answer()
}

/** A fault that is told in the stream, with the row that it is about. */
class StreamFault extends Error {
  constructor(
    readonly fault: Fault,
    readonly row: number,
    cause: unknown,
  ) {
    super(fault.detail, { cause })
  }
}

class RowStream {
  readonly #request: FastifyRequest
  readonly #reply: FastifyReply
  readonly #answer: StreamAnswer
  readonly #model: Model
  readonly #version: string | undefined
  readonly #options: StreamOptions
  readonly #reader: RowReader
  readonly #chunkRows: number
  /** Chunks that were read and wait for their turn. */
  readonly #chunks: EncodedRows[] = []
  /** Rows that were handed on to be run. */
  #rows = 0
  /** Chunks whose answers are not written. */
  #underWay = 0
  #written: Promise<void> = Promise.resolve()
  #wake: (() => void) | undefined
  #wakeReader: () => void = () => {}
  #failure: StreamFault | undefined
  /** Whether the model ran for any of it. */
  #hasRun = false
  #progressAt = performance.now()
  /** True while the stream waits for itself: for a run, or for quota. */
  #busy = false

  constructor(
    request: FastifyRequest,
    reply: FastifyReply,
    model: Model,
    version: string | undefined,
    from: Form,
    to: Form,
    options: StreamOptions,
  ) {
    this.#request = request
    this.#reply = reply
    const onProgress = () => {
      this.#progressAt = performance.now()
    }
    // No hook runs behind an answer that never went out as a whole.
    this.#answer = new StreamAnswer(reply, to, holdsBack(request), onProgress, () => {
      request.caller?.countUse(request.refusedAs, true)
    })
    this.#model = model
    this.#version = version
    this.#options = options
    const most = request.caller?.mostRowsOf(model) ?? Number.POSITIVE_INFINITY
    const ms = model.predictedMs?.(CHUNK_ROWS) ?? 0
    const quick = ms > CHUNK_MS ? Math.floor((CHUNK_ROWS * CHUNK_MS) / ms) : CHUNK_ROWS
    this.#chunkRows = Math.max(1, Math.min(CHUNK_ROWS, quick, most))
    this.#reader = readerOf(from, model.info, this.#chunkRows, options.bodyLimit, rows => this.#chunks.push(rows))
  }

  async answer(): Promise<FastifyReply> {
    const body = this.#body()
    const watch = setInterval(() => this.#look(), Math.min(1000, this.#options.streamStallMs / 4))
    try {
      await this.#readAll(body)
      await this.#written
    } finally {
      clearInterval(watch)
      if (body !== this.#request.raw) {
        this.#request.raw.unpipe(body as Gunzip)
        body.destroy()
      }
    }
    if (this.#failure !== undefined) return this.#fail(this.#failure)
    this.#answer.end()
    return this.#reply
  }

  /** The bytes as they are meant, packed or not. */
  #body(): Readable {
    const { raw } = this.#request
    if (!isPacked(raw.headers)) return raw
    const unpacked = createGunzip()
    raw.on('error', error => unpacked.destroy(error))
    // Not `pipeline`, which would destroy the request, and its connection with it, before it was answered.
    return raw.pipe(unpacked)
  }

  async #readAll(body: Readable): Promise<void> {
    let bytes = 0
    try {
      for await (const piece of piecesOf(body, wake => {
        this.#wakeReader = wake
      })) {
        if (this.#isOver()) return
        this.#progressAt = performance.now()
        bytes += piece.length
        if (bytes > this.#options.streamLimit) {
          const detail = `the stream is longer than ${this.#options.streamLimit} bytes, which is STREAM_LIMIT`
          throw new Refusal({ status: 413, code: 'STREAM_TOO_LARGE', detail })
        }
        this.#reader.push(piece)
        // What waits for more rows goes out where none are there yet: somebody may wait for its answers.
        if (body.readableLength === 0) this.#reader.flush()
        await this.#runChunks()
        if (this.#isOver()) return
      }
      if (this.#isOver()) return
      this.#reader.end()
      this.#reader.flush()
      await this.#runChunks()
    } catch (error) {
      if (this.#isOver()) return
      // Rows in front of the wrong one are answered.
      this.#reader.flush()
      await this.#runChunks()
      await this.#written
      this.#failWith(readingFault(error), this.#reader.rows + 1)
    }
  }

  #isOver(): boolean {
    return this.#failure !== undefined || this.#answer.isGone
  }

  async #runChunks(): Promise<void> {
    for (let chunk = this.#chunks.shift(); chunk !== undefined; chunk = this.#chunks.shift()) {
      while (this.#underWay >= CHUNKS_AT_ONCE && !this.#isOver()) await this.#somethingWritten()
      if (this.#isOver()) return
      await this.#runChunk(chunk)
    }
  }

  /** Charges and starts a chunk; resolves when it runs. Where the quota has room for a part of it, that goes first. */
  async #runChunk(chunk: EncodedRows): Promise<void> {
    const row = this.#rows + 1
    const charges = this.#request.caller?.ofPart(this.#rows === 0)
    let rows = chunk.rows
    if (charges !== undefined) {
      const reserved = await this.#reserve(charges, rows, row)
      if (reserved === undefined) return
      rows = reserved
    }
    const part = rows === chunk.rows ? chunk : { rows, inputs: sliceOutputs(chunk.inputs, 0, rows) }
    this.#rows += rows
    this.#underWay++
    const running = this.#run(part, charges)
    running.catch(() => {})
    this.#written = this.#written.then(() => this.#write(running, rows, row))
    if (rows < chunk.rows) {
      const rest = chunk.rows - rows
      await this.#runChunk({ rows: rest, inputs: sliceOutputs(chunk.inputs, rows, rest) })
    }
  }

  /** Reserves as many rows as there is quota for, and waits for it; undefined where the stream is over. */
  async #reserve(charges: Charges, wanted: number, row: number): Promise<number | undefined> {
    let rows = wanted
    for (let waited = 0; ; ) {
      const asked = new AskedPart(this.#request, this.#reply, charges)
      const tell = () => {
        if (row === 1) asked.tell()
      }
      try {
        await charges.reserve(asked.request, asked.reply, this.#model, rows)
        tell()
        return rows
      } catch (error) {
        const isDenied = error instanceof QuotaExceeded
        const some = isDenied ? charges.rowsWithRoom(error.decision) : rows
        if (some >= 1 && some < rows) {
          rows = some
          continue
        }
        const waitMs = isDenied ? error.decision.retryAfterMs : Number.POSITIVE_INFINITY
        waited += waitMs
        if (waited > this.#options.streamStallMs) {
          tell()
          await this.#failBehind(error, row)
          return undefined
        }
        await this.#pause(waitMs)
        if (this.#isOver()) return undefined
        rows = wanted
      }
    }
  }

  /** Runs a chunk, again where the service had no room for it. */
  async #run({ inputs, rows }: EncodedRows, charges: Charges | undefined): Promise<RunResult> {
    const { streamStallMs } = this.#options
    const until = performance.now() + streamStallMs
    for (;;) {
      try {
        const result = await this.#model.run(inputs, {
          rows,
          version: this.#version,
          signal: callerOfReply(this.#reply),
          priority: priorityOf(this.#request),
          partitionKey: charges?.key,
          deadline: until,
          meter: charges,
        })
        this.#hasRun = true
        await charges?.served(result, rows)
        return result
      } catch (error) {
        const wait = error instanceof Overloaded && error.served ? error.retryAfterMs : Number.POSITIVE_INFINITY
        if (performance.now() + wait > until || this.#isOver()) {
          if (charges?.hasRun) this.#hasRun = true
          await charges?.failed(error)
          throw error
        }
        await delay(wait)
      }
    }
  }

  async #write(running: Promise<RunResult>, rows: number, row: number): Promise<void> {
    try {
      const { ran = this.#model.info, outputs } = await running
      if (this.#isOver()) return
      await this.#answer.write(ran, outputs, rows, () => this.#isOver())
      const { caller } = this.#request
      if (caller !== null) caller.servedRows += rows
    } catch (error) {
      this.#failWith(error, row)
    } finally {
      this.#underWay--
      this.#wake?.()
    }
  }

  #somethingWritten(): Promise<void> {
    return new Promise(resolve => {
      this.#wake = resolve
    })
  }

  /** Waits for quota, which is no standstill of the client. */
  async #pause(ms: number): Promise<void> {
    const until = performance.now() + ms
    this.#busy = true
    while (performance.now() < until && !this.#isOver())
      await delay(Math.min(250, Math.ceil(until - performance.now())))
    this.#busy = false
    this.#progressAt = performance.now()
  }

  /** Ends a stream that stands still: neither are rows sent, nor answers read. */
  #look(): void {
    if (this.#answer.isGone) {
      this.#wake?.()
      this.#wakeReader()
      return
    }
    const { streamStallMs } = this.#options
    const { isUnread } = this.#answer
    const isRunning = this.#underWay > 0 && !isUnread
    if (this.#busy || isRunning || performance.now() - this.#progressAt < streamStallMs) return
    const what = isUnread ? 'its answers were not read' : 'no rows arrived'
    const detail = `the stream stood still for ${streamStallMs} ms, which is STREAM_STALL_MS: ${what}`
    this.#failWith(new Refusal({ status: 408, code: 'STREAM_STALLED', detail }), this.#rows + 1)
  }

  /** Fails once the rows in front are answered. */
  async #failBehind(error: unknown, row: number): Promise<void> {
    await this.#written
    this.#failWith(error, row)
  }

  #failWith(error: unknown, row: number): void {
    this.#failure ??= new StreamFault(faultOf(error, this.#request.server.overloadStatus), row, error)
    this.#wake?.()
    this.#wakeReader()
  }

  /** Tells what went wrong: as any answer does, or in the stream where that has begun. */
  async #fail({ fault, row, cause }: StreamFault): Promise<FastifyReply> {
    const hasBegun = this.#answer.begins()
    this.#endSoon(hasBegun)
    if (!this.#hasRun) await this.#request.caller?.failed(cause)
    if (!hasBegun) throw new Refusal({ ...fault, members: { ...fault.members, row } })
    this.#request.refusedAs = fault.code
    this.#answer.fail(fault, row)
    return this.#reply
  }

  /** Throws the rest of the body away while the client reads why it was not needed, and closes where it goes on. */
  #endSoon(hasBegun: boolean): void {
    const { raw } = this.#request
    if (raw.complete) return
    // Before an answer of the usual kind it is done for all routes.
    if (hasBegun) discardRest(raw, MOST_DISCARDED * this.#options.bodyLimit)
    const timer = setTimeout(() => raw.socket.destroy(), Math.min(LAST_WORDS_MS, this.#options.streamStallMs))
    raw.once('close', () => clearTimeout(timer))
  }
}

/**
 * A chunk as its limiters see it. They charge each request once, by what its caller says it costs, and tell the answer what
 * they have decided: of all that happens to a stream, only the decision about its first chunk can be in its headers.
 */
class AskedPart {
  readonly request: FastifyRequest
  readonly reply: FastifyReply
  readonly #answer: FastifyReply
  readonly #fields = new Map<string, unknown>()

  constructor(request: FastifyRequest, reply: FastifyReply, charges: Charges) {
    this.#answer = reply
    const header = (name: string, value: unknown) => this.#fields.set(name, value)
    const getHeader = (name: string) => this.#fields.get(name) ?? reply.getHeader(name)
    this.request = Object.create(request, { caller: { value: charges, writable: true } })
    this.reply = Object.create(reply, { header: { value: header }, getHeader: { value: getHeader } })
  }

  /** Puts what was decided into the headers of the answer. */
  tell(): void {
    for (const [name, value] of this.#fields) this.#answer.header(name, value)
  }
}

/**
 * The pieces of a body. Unlike its own iterator, this leaves the request and its connection alone where nobody reads on.
 * `onWait` is given what ends the wait for more.
 */
async function* piecesOf(body: Readable, onWait: (wake: () => void) => void): AsyncGenerator<Buffer> {
  let wake: () => void = () => {}
  let ended = false
  let failure: unknown
  const onReadable = () => wake()
  const stop = finished(body, { writable: false }, error => {
    ended = true
    failure = error
    wake()
  })
  body.on('readable', onReadable)
  let isOver = false
  onWait(() => {
    isOver = true
    wake()
  })
  try {
    for (;;) {
      const piece = body.read() as Buffer | null
      if (piece !== null) yield piece
      else if (ended) {
        if (failure !== undefined && failure !== null) throw failure
        return
      } else if (isOver) return
      else {
        await new Promise<void>(resolve => {
          wake = resolve
        })
      }
    }
  } finally {
    stop()
    body.off('readable', onReadable)
  }
}

/** What is wrong with bytes that could not be read to their end. */
function readingFault(error: unknown): unknown {
  const { code } = error as NodeJS.ErrnoException
  if (code?.startsWith('Z_') || code === 'ERR_STREAM_PREMATURE_CLOSE') {
    const detail = 'the body is not gzip from beginning to end, as content-encoding says'
    return new Refusal({ status: 400, code: 'INVALID_GZIP', detail })
  }
  return error
}
