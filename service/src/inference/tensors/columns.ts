/** Rows whose values have names: which column of a table goes to which place of which input. */

import { clip, InvalidInput, listed } from '../errors.js'
import type { Feature, ModelInfo, NamedTensors, Signature, Tensor, TensorSpec } from '../types.js'
import { allocate, elementCount } from './datatype.js'
import type { EncodedRows } from './rows.js'
import { isFixed, rowLayout, rowShape } from './signature.js'
import { refusal, show, writeValues } from './tensor.js'

/** Where the values of one column go. */
export interface Column {
  readonly name: string
  readonly spec: TensorSpec
  /** Elements of a row of its input, and which of them it is. */
  readonly width: number
  readonly place: number
  /** What stands for each text, where the feature has categories. */
  readonly categories: ReadonlyMap<string, unknown> | undefined
  /** What stands for a value that is missing; undefined where none does. */
  readonly fallback: unknown
}

export interface Columns {
  readonly list: readonly Column[]
  readonly byName: ReadonlyMap<string, Column>
  /** The names are known; false where columns only have their order. */
  readonly named: boolean
  readonly inputs: readonly { readonly spec: TensorSpec; readonly width: number; readonly shape: readonly number[] }[]
}

type Tabular = Signature & Pick<ModelInfo, 'features'>

const known = new WeakMap<Tabular, Columns | null>()

/** The columns of a model; undefined where its rows are no rows of a table. */
export function columnsOf(info: Tabular): Columns | undefined {
  let columns = known.get(info)
  if (columns === undefined) {
    columns = find(info) ?? null
    known.set(info, columns)
  }
  return columns ?? undefined
}

/** What is wrong with the features that model.json gives; undefined where they fit the signature, and their defaults too. */
export function featuresFault(info: Tabular): string | undefined {
  const { features, inputs } = info
  if (features === undefined) return undefined
  const columns = find(info)
  if (columns !== undefined) return defaultFault(columns)
  const widths = inputs.map(spec => `'${spec.name}' with ${width(spec, info) ?? 'rows of no fixed length'}`)
  return `'features' has ${features.length} entries, which fits neither the values of a row nor the inputs: ${listed(widths)}`
}

/** What is wrong with a default: a request that leaves its value out would be refused for it. */
function defaultFault(columns: Columns): string | undefined {
  const row = new TableRows(columns, 1)
  try {
    for (const column of columns.list) {
      if (column.fallback !== undefined) row.put(column, undefined, `the default of '${column.name}' in 'features'`)
    }
  } catch (error) {
    return (error as InvalidInput).message
  }
  return undefined
}

const width = (spec: TensorSpec, info: Signature): number | undefined => {
  const row = rowShape(spec, rowLayout(info))
  return isFixed(row) && !spec.anyShape ? elementCount(row) : undefined
}

function find(info: Tabular): Columns | undefined {
  const { inputs, features } = info
  if (rowLayout(info) === 'whole') return undefined
  const widths = inputs.map(spec => width(spec, info))
  if (widths.some(each => each === undefined || each === 0)) return undefined
  const shapes = inputs.map((spec, i) => ({
    spec,
    width: widths[i] as number,
    shape: rowShape(spec, rowLayout(info)) as number[],
  }))
  const [only] = shapes
  if (only !== undefined && shapes.length === 1 && only.width !== 1) {
    if (features !== undefined && features.length !== only.width) return undefined
    const named = features ?? Array.from({ length: only.width }, (_, i) => `${only.spec.name}[${i}]`)
    const list = named.map((feature, place) => columnOf(feature, only.spec, only.width, place))
    return columnsFrom(list, shapes, features !== undefined)
  }
  if (widths.some(each => each !== 1)) return undefined
  // A table by the names of its inputs, as pipelines of scikit-learn have it.
  const byName = new Map((features ?? []).map(feature => [nameOfFeature(feature), feature]))
  const isOne = shapes.length === 1 && features?.length === 1
  if (
    features !== undefined &&
    !isOne &&
    !sameNames(
      [...byName.keys()],
      inputs.map(({ name }) => name),
    )
  )
    return undefined
  const list = inputs.map(spec => columnOf((isOne ? features?.[0] : byName.get(spec.name)) ?? spec.name, spec, 1, 0))
  return columnsFrom(list, shapes, true)
}

const sameNames = (a: readonly string[], b: readonly string[]): boolean =>
  a.length === b.length && a.every(name => b.includes(name))

export const nameOfFeature = (feature: Feature): string => (typeof feature === 'string' ? feature : feature.name)

function columnOf(feature: Feature, spec: TensorSpec, width: number, place: number): Column {
  const { name, categories, default: fallback } = typeof feature === 'string' ? { name: feature } : feature
  // A text stays itself, and is a number where the model takes numbers: its place in the list.
  const values = categories?.map((category, i) => [category, spec.datatype === 'BYTES' ? category : i] as const)
  return { name, spec, width, place, categories: values && new Map(values), fallback }
}

const columnsFrom = (list: Column[], inputs: Columns['inputs'], named: boolean): Columns => ({
  list,
  inputs,
  named,
  byName: new Map(list.map(column => [column.name, column])),
})

const invalid = (path: string, message: string): InvalidInput => new InvalidInput([{ path, message }])

export const namesOf = ({ list }: Columns): string => listed(list.map(({ name }) => name))

/** Rows that are filled value by value, and become the tensors of a request. */
export class TableRows {
  rows = 0
  readonly #columns: Columns
  #data: Record<string, Tensor['data']> = {}
  #capacity = 0
  readonly #one: unknown[] = [undefined]

  constructor(columns: Columns, capacity: number) {
    this.#columns = columns
    this.#reserve(capacity)
  }

  get columns(): Columns {
    return this.#columns
  }

  /** Memory of an input, `width` elements a row. */
  dataOf(column: Column): Tensor['data'] {
    return this.#data[column.spec.name] as Tensor['data']
  }

  /** Puts a value into the row that is being filled. Throws InvalidInput under `path`. */
  put(column: Column, given: unknown, path: string): void {
    const { spec, width, place, categories, fallback } = column
    let value = given
    if (value === undefined || value === null) {
      if (fallback === undefined) {
        throw invalid(
          path,
          value === null ? 'is null, and the feature has no default' : 'is missing, and has no default',
        )
      }
      value = fallback
    }
    if (categories !== undefined && typeof value === 'string') {
      if (!categories.has(value)) throw invalid(path, `is ${show(value)}; it takes ${listed([...categories.keys()])}`)
      value = categories.get(value)
    } else if (categories !== undefined && value !== fallback) {
      throw invalid(path, `is ${show(value)}; it takes ${listed([...categories.keys()])}`)
    }
    this.#one[0] = value
    const bad = writeValues(spec.datatype, this.#one, this.dataOf(column), this.rows * width + place)
    if (bad !== -1) throw invalid(path, refusal(spec.datatype, value))
  }

  /** A row by the names of its values. */
  putRecord(record: unknown, path: string): void {
    if (typeof record !== 'object' || record === null || Array.isArray(record)) {
      throw invalid(path, `is ${show(record)}; a record is an object with ${namesOf(this.#columns)}`)
    }
    const given = record as Readonly<Record<string, unknown>>
    for (const name in given) {
      if (this.#columns.byName.has(name)) continue
      throw invalid(`${path}.${clip(name)}`, `is not a feature; the model takes ${namesOf(this.#columns)}`)
    }
    for (const column of this.#columns.list) {
      const value = Object.hasOwn(given, column.name) ? given[column.name] : undefined
      this.put(column, value, `${path}.${column.name}`)
    }
    this.rows++
  }

  /** The tensors of all rows. Views: later rows would be seen in them. */
  take(): EncodedRows {
    const { rows } = this
    const inputs: Record<string, Tensor> = {}
    for (const { spec, width, shape } of this.#columns.inputs) {
      const data = this.#data[spec.name] as Tensor['data']
      const part = data.length === rows * width ? data : data.slice(0, rows * width)
      inputs[spec.name] = { datatype: spec.datatype, shape: [rows, ...shape], data: part as Tensor['data'] }
    }
    return { inputs: inputs as NamedTensors, rows }
  }

  /** Begins again with memory of its own. */
  renew(): void {
    this.rows = 0
    this.#reserve(this.#capacity)
  }

  #reserve(capacity: number): void {
    this.#capacity = capacity
    this.#data = {}
    for (const { spec, width } of this.#columns.inputs) {
      this.#data[spec.name] = allocate(spec.datatype, capacity * width)
    }
  }
}

/** A body in one of the forms of tables. */
export interface TableBody {
  readonly records?: unknown
  readonly instances?: unknown
  readonly dataframe_split?: unknown
}

/**
 * The tensors of `records` (objects by the names of the features), or of `dataframe_split` (`columns` and `data`). Throws
 * InvalidInput, which names columns that are missing or unknown.
 */
export function encodeTable(info: Tabular, body: TableBody): EncodedRows {
  if (body.records !== undefined) return encodeRecords(info, body.records, 'records')
  return encodeSplit(info, body.dataframe_split)
}

export function encodeRecords(info: Tabular, given: unknown, path: string): EncodedRows {
  const columns = columnsFor(info, path)
  const records = Array.isArray(given) ? given : [given]
  if (records.length === 0) throw invalid(path, 'is an empty list')
  const table = new TableRows(columns, records.length)
  for (const [i, record] of records.entries()) table.putRecord(record, Array.isArray(given) ? `${path}[${i}]` : path)
  return table.take()
}

function columnsFor(info: Tabular, path: string): Columns {
  const columns = columnsOf(info)
  if (columns?.named) return columns
  throw invalid(
    path,
    "needs names of the model's values, and its model.json has no 'features'; send 'features' in their order",
  )
}

function encodeSplit(info: Tabular, given: unknown): EncodedRows {
  const path = 'dataframe_split'
  const { columns: names, data } = (given ?? {}) as { columns?: unknown; data?: unknown }
  if (!Array.isArray(names) || !Array.isArray(data)) {
    throw invalid(path, `is ${show(given)}; it takes an object with 'columns' and 'data'`)
  }
  const columns = columnsFor(info, path)
  const order = orderOf(columns, names, `${path}.columns`)
  if (data.length === 0) throw invalid(`${path}.data`, 'is an empty list')
  const table = new TableRows(columns, data.length)
  const places = new Map(order.map((column, at) => [column, at]))
  const placed = columns.list.map(column => [column, places.get(column)] as const)
  for (const [i, row] of data.entries()) {
    if (!Array.isArray(row) || row.length !== names.length) {
      const is = Array.isArray(row) ? `has ${row.length} values` : `is ${show(row)}`
      throw invalid(`${path}.data[${i}]`, `${is}; there are ${names.length} columns`)
    }
    for (const [column, at] of placed) {
      if (at === undefined) table.put(column, undefined, column.name)
      else table.put(column, row[at], `${path}.data[${i}][${at}]`)
    }
    table.rows++
  }
  return table.take()
}

/** The column of each name of a header. Throws InvalidInput that names what is unknown, twice there or missing. */
export function orderOf(columns: Columns, names: readonly unknown[], path: string): readonly Column[] {
  const seen = new Set<Column>()
  const order = names.map((name, i) => {
    const column = columns.byName.get(name as string)
    if (column !== undefined && !seen.has(column)) {
      seen.add(column)
      return column
    }
    const twice = column !== undefined
    throw invalid(
      `${path}[${i}]`,
      `is ${show(name)}, which is ${twice ? 'there twice' : 'not a feature'}; the model takes ${namesOf(columns)}`,
    )
  })
  const missing = columns.list.filter(column => column.fallback === undefined && !seen.has(column))
  if (missing.length === 0) return order
  throw invalid(path, `lacks ${listed(missing.map(({ name }) => name))}; the model takes ${namesOf(columns)}`)
}
