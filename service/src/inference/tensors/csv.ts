/**
 * Rows of CSV (RFC 4180) from the pieces in which they arrive, straight into tensors: most cells are numbers, which are
 * read from their bytes without a string between. Our own code because no library of the registry keeps up with the
 * models: csv-parse gives strings, at less than a tenth of the rate.
 */
import { isUtf8 } from 'node:buffer'
import { clip, InvalidInput } from '../errors.js'
import { type Column, type Columns, namesOf, orderOf, TableRows } from './columns.js'
import { isFloat } from './datatype.js'
import { decimalQuotient } from './decimal.js'
import type { EncodedRows } from './rows.js'

const LINE_FEED = 0x0a
const CARRIAGE_RETURN = 0x0d
const SPACE = 0x20
const QUOTE = 0x22
const COMMA = 0x2c
const MINUS = 0x2d
const POINT = 0x2e
const ZERO = 0x30
const NINE = 0x39

/** Below this a number takes another digit and has nine at most. */
const mostFront = 10 ** 8

const numberPattern = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/
const wordOf: Readonly<Record<string, string>> = {
  nan: 'NaN',
  inf: 'Infinity',
  infinity: 'Infinity',
  '+inf': 'Infinity',
  '-inf': '-Infinity',
  '-infinity': '-Infinity',
}

/** Receives rows as soon as there are enough of them. */
export type TakeRows = (rows: EncodedRows) => void

export class CsvReader {
  /** Rows that were read, the header not among them. */
  rows = 0
  readonly #columns: Columns
  readonly #mostRowBytes: number
  readonly #take: TakeRows
  readonly #chunkRows: number
  readonly #table: TableRows
  #order: readonly Column[] | undefined
  /** What stands for columns that the header does not have. */
  #left: readonly Column[] = []
  /** Of a row that is not whole: in pieces, since to join them with each new one would take far longer than to read them. */
  #rest: Buffer[] = []
  #restBytes = 0
  /** Where `#rest` has line breaks, which are in quotes: finds the end of its row, without reading all of it again. */
  #rowEnd: RowEnd | undefined
  #at = 0

  /** `take` gets `chunkRows` rows at a time, and fewer at `flush`. A row has at most `mostRowBytes`. */
  constructor(columns: Columns, chunkRows: number, mostRowBytes: number, take: TakeRows) {
    this.#columns = columns
    this.#chunkRows = chunkRows
    this.#mostRowBytes = mostRowBytes
    this.#take = take
    this.#table = new TableRows(columns, chunkRows)
  }

  /** Reads all rows that are whole by now. Throws InvalidInput; rows before the wrong one were taken, or are at `flush`. */
  push(bytes: Buffer): void {
    this.#rest.push(bytes)
    this.#restBytes += bytes.length
    if (this.#rowEnd === undefined ? bytes.includes(LINE_FEED) : this.#rowEnd.isIn(bytes)) {
      const all = this.#rest.length === 1 ? bytes : Buffer.concat(this.#rest)
      this.#readRows(all, all.lastIndexOf(LINE_FEED) + 1)
    }
    this.#checkRest()
  }

  /** Nothing follows. */
  end(): void {
    if (this.#restBytes > 0) {
      const all = Buffer.concat([...this.#rest, Buffer.from('\n')])
      this.#readRows(all, all.length)
    }
    if (this.#restBytes > 0) throw invalid('', 'ends within quotes')
    if (this.#order === undefined)
      throw invalid('', `there is no header; it must have the columns ${namesOf(this.#columns)}`)
  }

  /** Hands out the rows that are there. */
  flush(): void {
    if (this.#table.rows === 0) return
    this.#take(this.#table.take())
    this.#table.renew()
  }

  #checkRest(): void {
    if (this.#restBytes > this.#mostRowBytes) throw tooLong(this.#mostRowBytes)
  }

  #readRows(all: Buffer, end: number): void {
    let start = 0
    if (this.#order === undefined && all[0] === 0xef && all[1] === 0xbb && all[2] === 0xbf) start = 3
    this.#rowEnd = undefined
    while (start < end) {
      this.#at = start
      const first = all[start]
      const isEmpty = first === LINE_FEED || (first === CARRIAGE_RETURN && all[start + 1] === LINE_FEED)
      // In a table of one column it is a row with an empty cell.
      if (isEmpty && this.#order?.length !== 1) {
        start += first === LINE_FEED ? 1 : 2
        continue
      }
      const isWhole = this.#order === undefined ? this.#readHeader(all, end) : this.#readRow(all, end)
      if (!isWhole) {
        this.#rowEnd = new RowEnd()
        this.#rowEnd.isIn(all.subarray(start))
        break
      }
      if (this.#at - 1 - start > this.#mostRowBytes) throw tooLong(this.#mostRowBytes)
      start = this.#at
    }
    this.#rest = start < all.length ? [all.subarray(start)] : []
    this.#restBytes = all.length - start
  }

  #readHeader(all: Buffer, end: number): boolean {
    const names: string[] = []
    for (;;) {
      const cell = this.#cell(all, end)
      if (cell === undefined) return false
      names.push(cell.trim())
      const byte = all[this.#at++]
      if (byte === LINE_FEED) break
    }
    const columns = this.#columns
    if (columns.named) this.#order = orderOf(columns, names, 'header')
    else {
      if (names.length !== columns.list.length) {
        throw invalid('header', `has ${names.length} columns; a row is ${columns.list.length} values`)
      }
      if (names.every(name => numberPattern.test(name))) {
        throw invalid('header', 'has numbers alone: the first line names the columns')
      }
      this.#order = columns.list
    }
    const given = new Set(this.#order)
    this.#left = columns.list.filter(column => !given.has(column))
    return true
  }

  /** A row into the table; false where it is not whole. */
  #readRow(all: Buffer, end: number): boolean {
    const order = this.#order as readonly Column[]
    const table = this.#table
    const last = order.length - 1
    for (let i = 0; i <= last; i++) {
      const column = order[i] as Column
      if (column.categories !== undefined || !isFloat(column.spec.datatype) || !this.#readNumber(all, column)) {
        const cell = this.#cell(all, end)
        if (cell === undefined) return false
        this.#put(column, cell)
      }
      const byte = all[this.#at++]
      if (byte === COMMA ? i === last : i < last) {
        throw invalid('', `has ${byte === COMMA ? 'more' : i + 1} values; the header has ${order.length}`)
      }
    }
    for (const column of this.#left) table.put(column, undefined, column.name)
    table.rows++
    this.rows++
    if (table.rows === this.#chunkRows) this.flush()
    return true
  }

  /** A plain decimal number in front of a comma or line break; false, with nothing read, where it is something else. */
  #readNumber(all: Buffer, { spec, width, place }: Column): boolean {
    let at = this.#at
    let byte = all[at] as number
    const isNegative = byte === MINUS
    if (isNegative) byte = all[++at] as number
    const from = at
    let front = 0
    let back = 0
    let backDigits = 0
    let decimals = 0
    while (byte >= ZERO && byte <= NINE) {
      if (front < mostFront) front = Math.imul(front, 10) + byte - ZERO
      else {
        back = Math.imul(back, 10) + byte - ZERO
        if (++backDigits > 9) return false
      }
      byte = all[++at] as number
    }
    if (at === from) return false
    if (byte === POINT) {
      const point = at
      byte = all[++at] as number
      while (byte >= ZERO && byte <= NINE) {
        if (front < mostFront) front = Math.imul(front, 10) + byte - ZERO
        else {
          back = Math.imul(back, 10) + byte - ZERO
          if (++backDigits > 9) return false
        }
        byte = all[++at] as number
      }
      decimals = at - point - 1
    }
    if (byte === CARRIAGE_RETURN && all[at + 1] === LINE_FEED) byte = all[++at] as number
    if (byte !== COMMA && byte !== LINE_FEED) return false
    if (spec.datatype === 'FP16') return false
    const value = decimals === 0 && backDigits === 0 ? front : decimalQuotient(front, back, backDigits, decimals)
    if (value === undefined) return false
    const data = this.#table.dataOf({ spec } as Column) as Float32Array
    data[this.#table.rows * width + place] = isNegative ? -value : value
    this.#at = at
    return true
  }

  #put(column: Column, text: string): void {
    const { spec, categories, fallback } = column
    const cell = spec.datatype === 'BYTES' || categories !== undefined ? text : text.trim()
    // A table has no other way to leave a value out.
    const isMissing = cell === '' && fallback !== undefined
    const value = categories === undefined ? cellValue(cell, spec.datatype) : cell
    this.#table.put(column, isMissing ? undefined : value, column.name)
  }

  /** The text of a cell; undefined where it is not whole. What stands behind it, a comma or line feed, is next. */
  #cell(all: Buffer, end: number): string | undefined {
    if (all[this.#at] === QUOTE) return this.#quoted(all, end)
    let at = this.#at
    while (at < end && all[at] !== COMMA && all[at] !== LINE_FEED) at++
    if (at >= end) return undefined
    const to = all[at] === LINE_FEED && all[at - 1] === CARRIAGE_RETURN && at > this.#at ? at - 1 : at
    const text = textOf(all, this.#at, to)
    this.#at = at
    return text
  }

  #quoted(all: Buffer, end: number): string | undefined {
    let text = ''
    let from = this.#at + 1
    for (;;) {
      const quote = all.indexOf(QUOTE, from)
      if (quote === -1 || quote + 1 >= end) return undefined
      text += textOf(all, from, quote)
      let next = quote + 1
      if (all[next] === QUOTE) {
        text += '"'
        from = next + 1
        continue
      }
      while (all[next] === SPACE || all[next] === CARRIAGE_RETURN) next++
      if (all[next] !== COMMA && all[next] !== LINE_FEED) {
        throw invalid('', `has something behind the quotes of '${clip(text)}'`)
      }
      this.#at = next
      return text
    }
  }
}

/** Finds the end of a row that arrives in pieces: the first line break that is not in quotes. */
class RowEnd {
  #isQuoted = false
  /** Whether a quote that comes next begins quoted text, as it does at the start of a cell and behind another one. */
  #mayQuote = true

  /** Whether the row ends in these bytes, which follow those before. */
  isIn(bytes: Buffer): boolean {
    for (let at = 0; at < bytes.length; at++) {
      if (this.#isQuoted) {
        at = bytes.indexOf(QUOTE, at)
        if (at === -1) return false
        this.#isQuoted = false
        this.#mayQuote = true
        continue
      }
      const byte = bytes[at]
      if (byte === LINE_FEED) return true
      this.#isQuoted = byte === QUOTE && this.#mayQuote
      this.#mayQuote = byte === COMMA
    }
    return false
  }
}

const invalid = (path: string, message: string): InvalidInput => new InvalidInput([{ path, message }])

const tooLong = (mostBytes: number): InvalidInput =>
  invalid('', `is longer than ${mostBytes} bytes, which is BODY_LIMIT`)

/** Throws InvalidInput rather than have other characters stand for what is no text. */
function textOf(all: Buffer, from: number, to: number): string {
  if (!isUtf8(all.subarray(from, to))) throw invalid('', 'is not in UTF-8')
  return all.toString('utf8', from, to)
}

/** What a cell stands for: a number, or the text itself, which is refused where it does not fit. */
function cellValue(cell: string, datatype: string): unknown {
  if (datatype === 'BYTES' || cell === '') return cell
  if (datatype === 'BOOL') return { true: true, false: false, '1': true, '0': false }[cell.toLowerCase()] ?? cell
  // Digits alone stay text where a number would not hold them all.
  if ((datatype === 'INT64' || datatype === 'UINT64') && /^[+-]?\d{16,}$/.test(cell)) return cell.replace('+', '')
  return numberPattern.test(cell) ? Number(cell) : (wordOf[cell.toLowerCase()] ?? cell)
}
