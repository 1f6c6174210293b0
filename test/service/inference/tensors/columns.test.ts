import t from 'tap'
import {
  columnsOf,
  encodeRecords,
  encodeTable,
  featuresFault,
} from '../../../../service/src/inference/tensors/columns.js'
import type { Datatype, Feature, NamedTensors, Signature, Tensor } from '../../../../service/src/inference/types.js'

const one = (width: number, features?: readonly Feature[], datatype: Datatype = 'FP32') => ({
  inputs: [{ name: 'x', datatype, shape: ['n', width] }],
  outputs: [{ name: 'y', datatype: 'FP32' as const, shape: ['n'] }],
  ...(features === undefined ? {} : { features }),
})
const table: Signature = {
  inputs: [
    { name: 'age', datatype: 'INT64', shape: ['n', 1] },
    { name: 'city', datatype: 'BYTES', shape: ['n', 1] },
  ],
  outputs: [{ name: 'y', datatype: 'FP32', shape: ['n'] }],
}
const valuesOf = ({ x }: NamedTensors): number[] => Array.from((x as Tensor).data as Float32Array)
const invalid = (path: string, message: RegExp) => ({ errors: [{ path, message }] })

t.test('records become rows, in whatever order their members are', async t => {
  const { inputs, rows } = encodeRecords(
    one(2, ['a', 'b']),
    [
      { a: 1, b: 2 },
      { b: 4, a: 3 },
    ],
    'records',
  )
  t.equal(rows, 2)
  t.strictSame(valuesOf(inputs), [1, 2, 3, 4])
  t.equal(encodeRecords(one(2, ['a', 'b']), { a: 1, b: 2 }, 'records').rows, 1)
})

t.test('the inputs of a pipeline are columns by their own names', async t => {
  const { inputs } = encodeRecords(table, [{ city: 'Bonn', age: 30 }], 'records')
  t.match(inputs, { age: { shape: [1, 1], data: [30n] }, city: { shape: [1, 1], data: ['Bonn'] } })
})

t.test('unknown, missing and wrong values are told by name', async t => {
  const info = one(2, ['a', 'b'])
  t.throws(
    () => encodeRecords(info, [{ a: 1, b: 2, c: 3 }], 'records'),
    invalid('records[0].c', /not a feature; the model takes a, b/),
  )
  t.throws(() => encodeRecords(info, [{ a: 1, b: 2 }, { a: 1 }], 'records'), invalid('records[1].b', /is missing/))
  t.throws(() => encodeRecords(info, [{ a: 1, b: null }], 'records'), invalid('records[0].b', /is null/))
  t.throws(() => encodeRecords(info, [{ a: 'x', b: 1 }], 'records'), invalid('records[0].a', /"x"/))
  t.throws(() => encodeRecords(info, [[1, 2]], 'records'), invalid('records[0]', /a record is an object with a, b/))
  t.throws(() => encodeRecords(info, [], 'records'), invalid('records', /empty/))
  t.throws(() => encodeRecords(one(2), [{ a: 1 }], 'records'), invalid('records', /no 'features'/))
})

t.test('categories and defaults of model.json hold', async t => {
  const info = one(2, [
    { name: 'colour', categories: ['red', 'green'], default: 'green' },
    { name: 'size', default: 7 },
  ])
  const { inputs } = encodeRecords(info, [{ colour: 'red', size: 1 }, {}], 'records')
  t.strictSame(valuesOf(inputs), [0, 1, 1, 7])
  t.throws(
    () => encodeRecords(info, [{ colour: 'blue' }], 'records'),
    invalid('records[0].colour', /"blue"; it takes red, green/),
  )
  t.throws(
    () => encodeRecords(info, [{ colour: 1 }], 'records'),
    invalid('records[0].colour', /is 1; it takes red, green/),
  )
})

t.test('a table has its columns in any order, and is told which are wrong', async t => {
  const info = one(2, ['a', { name: 'b', default: 9 }])
  const split = (columns: unknown, data: unknown) => encodeTable(info, { dataframe_split: { columns, data } })
  t.strictSame(
    valuesOf(
      split(
        ['b', 'a'],
        [
          [2, 1],
          [4, 3],
        ],
      ).inputs,
    ),
    [1, 2, 3, 4],
  )
  t.strictSame(valuesOf(split(['a'], [[5]]).inputs), [5, 9])
  t.throws(() => split(['b'], [[1]]), invalid('dataframe_split.columns', /lacks a/))
  t.throws(() => split(['a', 'z'], [[1, 2]]), invalid('dataframe_split.columns[1]', /"z", which is not a feature/))
  t.throws(() => split(['a', 'a'], [[1, 2]]), invalid('dataframe_split.columns[1]', /there twice/))
  t.throws(() => split(['a', 'b'], [[1]]), invalid('dataframe_split.data[0]', /has 1 values; there are 2 columns/))
  t.throws(() => split(['a', 'b'], []), invalid('dataframe_split.data', /empty/))
  t.throws(() => split('a', [[1]]), invalid('dataframe_split', /takes an object/))
})

t.test('features that do not fit a model are found at its load', async t => {
  t.equal(featuresFault(one(2, ['a', 'b'])), undefined)
  t.match(featuresFault(one(2, ['a'])), /'features' has 1 entries/)
  t.match(featuresFault({ ...table, features: ['age', 'town'] }), /fits neither/)
  t.equal(featuresFault({ ...table, features: ['city', { name: 'age', default: 1 }] }), undefined)
  const images: Signature = { ...table, inputs: [{ name: 'x', datatype: 'FP32', shape: ['n', 'm'] }] }
  t.equal(columnsOf(images), undefined)
})
