/** Readers of rows that arrive in pieces. */
import { isUtf8 } from 'node:buffer'
import { clip, InvalidInput } from '../errors.js'
import type { ModelInfo } from '../types.js'
import { columnsOf, encodeRecords } from './columns.js'
import { CsvReader, type TakeRows } from './csv.js'
import { type EncodedRows, encodeRows } from './rows.js'
import { stackInputs } from './stack.js'

export interface RowReader {
  /** Rows that were read so far. */
  readonly rows: number
  /** Reads all rows that are whole by now. Throws InvalidInput for the first that is wrong. */
  push(bytes: Buffer): void
  /** Nothing follows. Throws InvalidInput where the last row is wrong. */
  end(): void
  /** Hands out the rows that are there, however few. */
  flush(): void
}

/**
 * A reader that hands out `chunkRows` rows at a time. Throws InvalidInput where the rows of the model cannot come in this
 * form.
 */
export function readerOf(
  form: 'csv' | 'ndjson',
  info: ModelInfo,
  chunkRows: number,
  mostRowBytes: number,
  take: TakeRows,
): RowReader {
  if (form === 'ndjson') return new LineReader(info, chunkRows, mostRowBytes, take)
  const columns = columnsOf(info)
  if (columns !== undefined) return new CsvReader(columns, chunkRows, mostRowBytes, take)
  throw new InvalidInput([
    { path: '', message: 'a row of this model is not a row of a table: send it as JSON, or as lines of JSON' },
  ])
}

/** NDJSON: in each line a row, as a list, a record, or an object with `features` or `inputs`. */
class LineReader implements RowReader {
  rows = 0
  readonly #info: ModelInfo
  readonly #chunkRows: number
  readonly #mostRowBytes: number
  readonly #take: TakeRows
  #rest: Buffer[] = []
  #restBytes = 0
  #parts: EncodedRows[] = []
  #shape = ''

  constructor(info: ModelInfo, chunkRows: number, mostRowBytes: number, take: TakeRows) {
    this.#info = info
    this.#chunkRows = chunkRows
    this.#mostRowBytes = mostRowBytes
    this.#take = take
  }

  push(bytes: Buffer): void {
    let from = 0
    for (let at = bytes.indexOf(0x0a); at !== -1; at = bytes.indexOf(0x0a, from)) {
      const line = bytes.subarray(from, at)
      from = at + 1
      if (this.#rest.length === 0) this.#line(line)
      else {
        const whole = Buffer.concat([...this.#rest, line])
        this.#rest = []
        this.#restBytes = 0
        this.#line(whole)
      }
    }
    if (from === bytes.length) return
    this.#rest.push(bytes.subarray(from))
    this.#restBytes += bytes.length - from
    this.#checkLength(this.#restBytes)
  }

  end(): void {
    const last = Buffer.concat(this.#rest)
    this.#rest = []
    this.#line(last)
  }

  flush(): void {
    const parts = this.#parts
    if (parts.length === 0) return
    this.#parts = []
    const [only] = parts
    if (parts.length === 1) this.#take(only as EncodedRows)
    else {
      const inputs = stackInputs(
        parts.map(part => ({ inputs: part.inputs, from: 0, rows: 1 })),
        parts.length,
      )
      this.#take({ inputs, rows: parts.length })
    }
  }

  #checkLength(bytes: number): void {
    if (bytes <= this.#mostRowBytes) return
    throw invalid('', `is longer than ${this.#mostRowBytes} bytes, which is BODY_LIMIT`)
  }

  #line(bytes: Buffer): void {
    this.#checkLength(bytes.length)
    if (!isUtf8(bytes)) throw invalid('', 'is not in UTF-8')
    const text = bytes.toString('utf8').trim()
    if (text === '') return
    const part = this.#rowOf(parse(text))
    const shape = shapeOf(part)
    if (this.#parts.length > 0 && (shape !== this.#shape || this.#parts.length === this.#chunkRows)) this.flush()
    this.#shape = shape
    this.#parts.push(part)
    this.rows++
    if (this.#parts.length === this.#chunkRows) this.flush()
  }

  #rowOf(value: unknown): EncodedRows {
    const isList = typeof value !== 'object' || value === null || Array.isArray(value)
    const body = isList ? { features: value } : bodyOf(value)
    if (body === undefined) return encodeRecords(this.#info, value, 'row')
    const row = encodeRows(this.#info, body)
    if (row.rows !== 1) throw invalid('', `has ${row.rows} rows; a line has one`)
    return row
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw invalid('', `is not JSON: ${clip(text)}`)
  }
}

/** An object that has a row in one of the members of a request, and is no record. */
function bodyOf(value: object): { features?: unknown; inputs?: unknown } | undefined {
  const keys = Object.keys(value)
  return keys.length === 1 && (keys[0] === 'features' || keys[0] === 'inputs') ? value : undefined
}

function shapeOf({ inputs }: EncodedRows): string {
  let shape = ''
  for (const name in inputs) shape += `${inputs[name]?.shape.join()};`
  return shape
}

const invalid = (path: string, message: string): InvalidInput => new InvalidInput([{ path, message }])
