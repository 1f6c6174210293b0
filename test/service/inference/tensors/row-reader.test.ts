import t from 'tap'
import { readerOf } from '../../../../service/src/inference/tensors/row-reader.js'
import type { Datatype, Feature, ModelInfo } from '../../../../service/src/inference/types.js'

const info = (width: number, features?: readonly Feature[], datatype: Datatype = 'FP32'): ModelInfo => ({
  name: 'm',
  version: '1',
  inputs: [{ name: 'x', datatype, shape: ['n', width] }],
  outputs: [{ name: 'y', datatype: 'FP32', shape: ['n'] }],
  sample: {},
  batching: { enabled: true, maxRows: 8 },
  ...(features === undefined ? {} : { features }),
})

/** All rows of a text that arrives in pieces of so many bytes. */
function read(
  form: 'csv' | 'ndjson',
  of: ModelInfo,
  text: string | Buffer,
  pieceBytes = text.length,
  mostRowBytes = 1000,
) {
  const rows: unknown[][] = []
  const chunks: number[] = []
  const reader = readerOf(form, of, 3, mostRowBytes, chunk => {
    chunks.push(chunk.rows)
    const { data, shape } = chunk.inputs.x as { data: ArrayLike<unknown>; shape: readonly number[] }
    const width = data.length / (shape[0] as number)
    for (let i = 0; i < chunk.rows; i++) rows.push(Array.from(data).slice(i * width, (i + 1) * width))
  })
  const bytes = typeof text === 'string' ? Buffer.from(text) : text
  let failure: { errors?: unknown } | undefined
  try {
    for (let at = 0; at < bytes.length; at += pieceBytes) reader.push(bytes.subarray(at, at + pieceBytes))
    reader.end()
  } catch (error) {
    failure = error as object
  }
  reader.flush()
  return { rows, chunks, count: reader.rows, failure: failure?.errors ?? failure }
}

const csv = (of: ModelInfo, text: string, pieceBytes?: number) => read('csv', of, text, pieceBytes)
const ab = info(2, ['a', 'b'])

t.test('CSV is the same rows in whatever pieces it arrives', async t => {
  const text = 'a,b\r\n1,2\r\n-3.5,4e2\n"5","6"\n\n7,8'
  for (let bytes = 1; bytes <= text.length; bytes++) {
    const { rows, failure, chunks } = csv(ab, text, bytes)
    t.strictSame(
      rows,
      [
        [1, 2],
        [-3.5, 400],
        [5, 6],
        [7, 8],
      ],
      `${bytes} bytes at a time`,
    )
    t.equal(failure, undefined)
    t.strictSame(chunks, [3, 1])
  }
})

t.test('columns go by their names, with any order, quotes, spaces and mark of byte order', async t => {
  t.strictSame(csv(ab, '\ufeff"b", a\n2,1\n').rows, [[1, 2]])
  const strings = info(2, ['a', 'b'], 'BYTES')
  t.strictSame(csv(strings, 'a,b\n"x, ""y""\nz",é\n,"" \n').rows, [
    ['x, "y"\nz', 'é'],
    ['', ''],
  ])
  for (let bytes = 1; bytes < 12; bytes++) {
    t.strictSame(csv(strings, 'a,b\n"1\n2\n3\n4",z\n', bytes).rows, [['1\n2\n3\n4', 'z']])
  }
})

t.test('a row with line breaks in quotes is there with its last byte', async t => {
  for (const row of ['"1\n2\n""3"" \n",z\n', 'x"y,"\n"\n', '"\n""","\n,"\r\n']) {
    for (let first = 1; first < row.length; first++) {
      let taken = 0
      const reader = readerOf('csv', info(2, ['a', 'b'], 'BYTES'), 1, 1000, chunk => {
        taken += chunk.rows
      })
      reader.push(Buffer.from('a,b\n'))
      reader.push(Buffer.from(row.slice(0, first)))
      t.equal(taken, 0)
      reader.push(Buffer.from(row.slice(first)))
      t.equal(taken, 1, `${JSON.stringify(row)} after ${first}`)
    }
  }
})

t.test('what is no UTF-8 is refused, and never read as other characters', async t => {
  const strings = info(1, ['a'], 'BYTES')
  for (const [form, text] of [
    ['csv', 'a\nM\u00fcller\n'],
    ['csv', 'a\n"M\u00fcller"\n'],
    ['csv', 'M\u00fcller\n'],
    ['ndjson', '["M\u00fcller"]\n'],
    ['ndjson', '{"a":"M\u00fcller"}'],
  ] as const) {
    const { rows, failure } = read(form, strings, Buffer.from(text, 'latin1'))
    t.strictSame(rows, [])
    t.match(failure, [{ message: 'is not in UTF-8' }], `${form}: ${text}`)
  }
  t.strictSame(read('ndjson', strings, '["M\u00fcller"]\n', 1).rows, [['M\u00fcller']], 'in whatever pieces')
})

t.test('an empty cell stands for the default, and an empty text of JSON for itself', async t => {
  const strings = info(2, [{ name: 'a', default: 'none' }, 'b'], 'BYTES')
  t.strictSame(read('csv', strings, 'a,b\n,\n').rows, [['none', '']])
  const lines = '{"a":"","b":""}\n{"b":"x"}\n{"a":null,"b":"y"}\n'
  t.strictSame(read('ndjson', strings, lines).rows, [
    ['', ''],
    ['none', 'x'],
    ['none', 'y'],
  ])
})

t.test('numbers are those that JSON would have given', async t => {
  const doubles = info(1, ['a'], 'FP64')
  const texts = ['0.1', '-0', '1e-7', '123456789012345678', '0.30000000000000004', '+5', '.5', '5.', '1E3', ' 7 ']
  const { rows, failure } = csv(doubles, `a\n${texts.join('\n')}\n`)
  t.equal(failure, undefined)
  t.strictSame(rows.flat(), texts.map(Number))
  t.strictSame(csv(doubles, 'a\nNaN\n-inf\n').rows.flat(), [Number.NaN, Number.NEGATIVE_INFINITY])
  t.strictSame(csv(info(1, ['a'], 'INT64'), 'a\n9007199254740993\n-3\n').rows.flat(), [9007199254740993n, -3n])
  const integers = csv(info(1, ['a'], 'INT64'), 'a\n+5\n1e3\n7.0\n+9007199254740993\n')
  t.strictSame(integers.rows.flat(), [5n, 1000n, 7n, 9007199254740993n])
  t.match(csv(info(1, ['a'], 'INT64'), 'a\n1.5\n').failure, [{ path: 'a', message: /^is 1.5; / }])
  t.strictSame(csv(info(1, ['a'], 'BOOL'), 'a\ntrue\n0\n').rows.flat(), [1, 0])
})

t.test('an empty line of a table of one column is a row, also where the model has more', async t => {
  const strings = info(2, ['a', { name: 'b', default: 'none' }], 'BYTES')
  t.strictSame(csv(strings, 'a\nx\n\ny\n').rows, [
    ['x', 'none'],
    ['', 'none'],
    ['y', 'none'],
  ])
  t.strictSame(csv(strings, 'a,b\nx,1\n\ny,2\n').rows.length, 2, 'of a table of two it is none')
})

t.test('a row is as long as it may be in whatever pieces it arrives', async t => {
  const strings = info(1, ['a'], 'BYTES')
  for (const form of ['csv', 'ndjson'] as const) {
    const textOf = (length: number) =>
      form === 'csv' ? `a\n${'x'.repeat(length)}\n` : `["${'x'.repeat(length - 4)}"]\n`
    for (const bytes of [7, 100, 1000]) {
      t.equal(read(form, strings, textOf(50), bytes, 50).failure, undefined)
      t.match(read(form, strings, textOf(51), bytes, 50), { rows: [], failure: [{ message: /longer than 50 bytes/ }] })
    }
  }
})

t.test('a default stands for what is empty or not there, and categories for their places', async t => {
  const features = [
    { name: 'a', default: 4 },
    { name: 'b', categories: ['low', 'high'] },
  ]
  t.strictSame(csv(info(2, features), 'b\nhigh\n').rows, [[4, 1]])
  t.strictSame(csv(info(2, features), 'a,b\n,low\n').rows, [[4, 0]])
  t.match(csv(info(2, features), 'b\nmid\n').failure, [{ path: 'b', message: /"mid"; it takes low, high/ }])
})

t.test('without features the columns have the order of the values', async t => {
  t.strictSame(csv(info(2), 'any,thing\n1,2\n').rows, [[1, 2]])
  t.match(csv(info(2), '1,2\n3,4\n').failure, [{ path: 'header', message: /numbers alone/ }])
  t.match(csv(info(2), 'a\n3\n').failure, [{ path: 'header', message: /has 1 columns; a row is 2 values/ }])
})

t.test('what is wrong is told, after the rows before it', async t => {
  const wrong = (text: string, message: RegExp, path = '') => {
    const { rows, failure } = csv(ab, `a,b\n1,2\n${text}`)
    t.strictSame(rows, [[1, 2]], text)
    t.match(failure, [{ path, message }], text)
  }
  wrong('3\n', /has 1 values; the header has 2/)
  wrong('3,4,5\n', /has more values; the header has 2/)
  wrong('3,x\n', /"x"/, 'b')
  wrong('3,\n', /""/, 'b')
  wrong('"3"x,4\n', /behind the quotes/)
  wrong('"3,4\n', /ends within quotes/)
  wrong(`3,${'4'.repeat(2000)}`, /longer than 1000 bytes/)
  t.match(csv(ab, 'a,c\n').failure, [
    { path: 'header[1]', message: /"c", which is not a feature; the model takes a, b/ },
  ])
  t.match(csv(ab, 'a\n').failure, [{ path: 'header', message: /lacks b/ }])
  t.match(csv(ab, '').failure, [{ message: /there is no header/ }])
})

t.test('lines of JSON are lists, records, or what a request has', async t => {
  const text = '[1,2]\n{"a":3,"b":4}\n\n{"features":[5,6]}\r\n{"inputs":{"x":[7,8]}}\n{"b":10,"a":9}'
  for (let bytes = 1; bytes <= text.length; bytes += 3) {
    const { rows, failure } = read('ndjson', ab, text, bytes)
    t.equal(failure, undefined)
    t.strictSame(
      rows,
      [
        [1, 2],
        [3, 4],
        [5, 6],
        [7, 8],
        [9, 10],
      ],
      `${bytes} bytes at a time`,
    )
  }
})

t.test('a wrong line is told, after those before it', async t => {
  const wrong = (text: string, error: object) => {
    const { rows, failure, count } = read('ndjson', ab, `[1,2]\n${text}`)
    t.strictSame(rows, [[1, 2]])
    t.equal(count, 1)
    t.match(failure, [error])
  }
  wrong('[1,2', { message: /is not JSON/ })
  wrong('[1,2,3]', { path: 'features', message: /has 3 values/ })
  wrong('{"a":1}', { path: 'row.b', message: /is missing/ })
  wrong('[[1,2],[3,4]]', { message: /has 2 rows; a line has one/ })
  wrong(`[${'1'.repeat(2000)}`, { message: /longer than 1000 bytes/ })
})

t.test('rows of different lengths are not put into one chunk', async t => {
  const open: ModelInfo = { ...info(2), inputs: [{ name: 'x', datatype: 'FP32', shape: ['n', 'm'] }] }
  const { rows, chunks } = read('ndjson', open, '[1]\n[2]\n[3,4]\n[5]\n')
  t.strictSame(rows, [[1], [2], [3, 4], [5]])
  t.strictSame(chunks, [2, 1, 1])
  t.throws(() => read('csv', open, 'a\n'), { errors: [{ message: /not a row of a table/ }] })
})
