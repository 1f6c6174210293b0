import { readFileSync } from 'node:fs'

const modelFolder = new URL('../../models/', import.meta.url)
/** Rows of one piece of a stream: it is sent over and over. */
const PIECE_ROWS = 2048
export const TYPES = { csv: 'text/csv', ndjson: 'application/x-ndjson' }

/** Rows of the held-out data, in turn. */
function rowsOf(model, count) {
  const { inputs } = JSON.parse(readFileSync(new URL(`${model}/1/golden.json`, modelFolder), 'utf8'))
  const rows = Object.values(inputs)[0]
  return Array.from({ length: count }, (_, index) => rows[index % rows.length])
}

/** What a table of the model is headed by. */
function headerOf(model, width) {
  const { features } = JSON.parse(readFileSync(new URL(`${model}/model.json`, modelFolder), 'utf8'))
  return (features ?? Array.from({ length: width }, (_, index) => `pixel${index}`)).join()
}

/**
 * A stream of at least `rows` rows: what it begins with, and a piece of rows that is sent over and over.
 *
 * @param {string} model
 * @param {'csv' | 'ndjson'} form
 * @param {number} rows
 */
export function streamOf(model, form, rows) {
  const list = rowsOf(model, PIECE_ROWS)
  const first = form === 'csv' ? `${headerOf(model, list[0].length)}\n` : ''
  const piece = list.map(row => (form === 'csv' ? `${row.join()}\n` : `${JSON.stringify(row)}\n`)).join('')
  const pieces = Math.ceil(rows / PIECE_ROWS)
  return { first, piece, pieces, rows: pieces * PIECE_ROWS }
}

/** A request of so many rows in JSON, as it goes over the wire. */
export function batchOf(model, rows) {
  const text = JSON.stringify({ features: rowsOf(model, rows) })
  const head = [
    `POST /v1/models/${model}/predict HTTP/1.1`,
    'host: 127.0.0.1',
    'content-type: application/json',
    `content-length: ${Buffer.byteLength(text)}`,
  ]
  return `${head.join('\r\n')}\r\n\r\n${text}`
}

/** A request with a picture as its body: as bytes, each of which is one letter of Latin-1. */
export function pictureOf(model, bytes, format) {
  const head = [
    `POST /v1/models/${model}/predict HTTP/1.1`,
    'host: 127.0.0.1',
    `content-type: image/${format}`,
    `content-length: ${bytes.length}`,
  ]
  return `${head.join('\r\n')}\r\n\r\n${bytes.toString('latin1')}`
}
