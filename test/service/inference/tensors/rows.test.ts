import t from 'tap'
import { InvalidInput } from '../../../../service/src/inference/errors.js'
import { encodeInstances, encodeRows } from '../../../../service/src/inference/tensors/rows.js'
import type { Datatype, Dimension, Signature, Tensor } from '../../../../service/src/inference/types.js'
import { valuesOf } from '../../../support/values.js'

const takes = (inputs: Record<string, readonly Dimension[]>, datatype: Datatype = 'FP32'): Signature => ({
  inputs: Object.entries(inputs).map(([name, shape]) => ({ name, datatype, shape })),
  outputs: [],
})

/** Shape and values of the one input, and the rows. */
const encoded = (signature: Signature, features: unknown) => {
  const { inputs, rows } = encodeRows(signature, { features })
  const { shape, ...rest } = inputs.x as Tensor
  return { rows, shape, values: valuesOf({ shape, ...rest }) }
}

const complaint = (signature: Signature, body: { features?: unknown; inputs?: unknown }): string => {
  try {
    encodeRows(signature, body)
    return 'none'
  } catch (error) {
    return error instanceof InvalidInput ? error.message : `not an InvalidInput: ${error}`
  }
}

const four = [1, 2, 3, 4]

t.test('one flat row, one nested row and lists of either are understood', async t => {
  const x = takes({ x: ['batch', 2, 2] })
  const nested = [
    [1, 2],
    [3, 4],
  ]
  const one = { rows: 1, shape: [1, 2, 2], values: four }
  const two = { rows: 2, shape: [2, 2, 2], values: [...four, ...four] }
  t.strictSame(encoded(x, four), one)
  t.strictSame(encoded(x, nested), one)
  t.strictSame(encoded(x, [four]), one)
  t.strictSame(encoded(x, [nested]), one)
  t.strictSame(encoded(x, [four, four]), two)
  t.strictSame(encoded(x, [nested, nested]), two)
  t.strictSame(encoded(x, [four, nested]), two, 'each row in its own way')
  t.strictSame(encoded(takes({ x: ['batch', 4] }), four), { ...one, shape: [1, 4] })
  t.strictSame(encoded(takes({ x: ['batch', 1, 2, 2] }), [four, four]), { ...two, shape: [2, 1, 2, 2] })
  t.strictSame(encoded(takes({ x: [1, 4] }), [four, four]).shape, [2, 4], 'a fixed batch of one takes rows as well')
})

t.test('a model whose row is one value takes a value or a list of them', async t => {
  const x = takes({ x: ['batch'] })
  t.strictSame(encoded(x, 5), { rows: 1, shape: [1], values: [5] })
  t.strictSame(encoded(x, [5, 6]), { rows: 2, shape: [2], values: [5, 6] })
  t.match(complaint(x, { features: [5, 'six'] }), /^features\[1\] is "six"; the model takes a number/)
  t.match(complaint(x, { features: 'six' }), /^features is "six"/)
  t.match(complaint(x, { features: [] }), /^features is an empty list; a row is one number$/)
  t.match(complaint(x, { features: [[5]] }), /^features\[0\] is a list of 1/)
})

t.test('rows of any length are taken where the model leaves it open, all of one length', async t => {
  const x = takes({ x: ['batch', 'length'] })
  t.strictSame(encoded(x, [1, 2, 3]), { rows: 1, shape: [1, 3], values: [1, 2, 3] })
  t.strictSame(
    encoded(x, [
      [1, 2],
      [3, 4],
    ]),
    { rows: 2, shape: [2, 2], values: four },
  )
  t.match(complaint(x, { features: [[1, 2], [3]] }), /^features\[1\] has 1 values where the rows before have 2/)
  const deep = takes({ x: ['batch', 'length', 2] })
  t.strictSame(
    encoded(deep, [
      [1, 2],
      [3, 4],
    ]).shape,
    [1, 2, 2],
  )
  t.strictSame(encoded(deep, [[[1, 2]], [[3, 4]]]).shape, [2, 1, 2])
  t.match(
    complaint(deep, { features: four }),
    /^features is a flat list; a row is numbers in the shape \[length, 2\], nested$/,
  )
  t.match(complaint(deep, { features: [[1, 2, 3]] }), /^features has the shape \[1, 3\]/)
})

t.test('a model without a batch dimension takes its tensor as it is', async t => {
  const x = takes({ x: [2, 2] })
  const one = { rows: 1, shape: [2, 2], values: four }
  t.strictSame(
    encoded(x, [
      [1, 2],
      [3, 4],
    ]),
    one,
  )
  t.strictSame(encoded(x, four), one)
  t.match(complaint(x, { features: [1, 2] }), /^features has 2 values; the model takes 4 numbers/)
  t.match(complaint(x, { features: 3 }), /^features is 3; the model takes/)
  const scalar = takes({ x: [] })
  t.strictSame(encoded(scalar, 7), { rows: 1, shape: [], values: [7] })
  t.match(complaint(scalar, { features: [7] }), /^features is a list of 1; the model takes one number$/)
  const any: Signature = { inputs: [{ name: 'x', datatype: 'FP32', shape: [], anyShape: true }], outputs: [] }
  t.strictSame(
    encoded(any, [
      [1, 2],
      [3, 4],
    ]),
    one,
  )
  t.strictSame(encoded(any, 7).shape, [])
})

t.test('what does not fit is named by its path, with what the model takes', async t => {
  const x = takes({ x: ['batch', 4] })
  const says: [unknown, string][] = [
    [undefined, 'features is missing; a row is 4 numbers'],
    [null, 'features is null; a row is 4 numbers, or a list of rows'],
    ['1,2', 'features is "1,2"; a row is 4 numbers, or a list of rows'],
    [{ 0: 1 }, 'features is an object; a row is 4 numbers, or a list of rows'],
    [[], 'features is an empty list; a row is 4 numbers'],
    [[1, 2, 3], 'features has 3 values; a row is 4 numbers'],
    [[[]], 'features[0] has 0 values; a row is 4 numbers'],
    [[four, [1, 2, 3]], 'features[1] has 3 values; a row is 4 numbers'],
    [[four, 5], 'features[1] is 5; a row is 4 numbers'],
    [[[four]], 'features[0] has 1 values; a row is 4 numbers'],
    [
      [1, 2, '3', 4],
      'features[2] is "3"; the model takes a number within ±3.4028235e38 (float32), "NaN", "Infinity" or "-Infinity"',
    ],
    [
      [1, 2, null, 4],
      'features[2] is null; the model takes a number within ±3.4028235e38 (float32), "NaN", "Infinity" or "-Infinity"',
    ],
    [
      [four, [1, 2, 3, 1e39]],
      'features[1][3] is 1e+39; the model takes a number within ±3.4028235e38 (float32), "NaN", "Infinity" or "-Infinity"',
    ],
    [[1, [2], 3, 4], 'features[1] is a list of 1; a row is 4 numbers'],
  ]
  for (const [features, message] of says) t.equal(complaint(x, { features }), message)
  const image = takes({ x: ['batch', 2, 2] })
  t.equal(
    complaint(image, { features: [1, 2, 3] }),
    'features has 3 values; a row is 4 numbers, flat or in the shape [2, 2]',
  )
  t.match(
    complaint(image, {
      features: [
        [1, 2],
        [3, 'x'],
      ],
    }),
    /^features\[1\]\[1\] is "x"/,
  )
  t.match(complaint(image, { features: [[[1, 2], [3]]] }), /^features\[0\]\[1\] has 1 values/)
  t.match(complaint(image, { features: [[[1, 2], 3]] }), /^features\[0\]\[1\] is 3/)
})

t.test('lists nested without end cost no more than a glance', async t => {
  let deep: unknown = 1
  for (let i = 0; i < 100_000; i++) deep = [deep]
  t.not(complaint(takes({ x: ['batch', 4] }), { features: deep }), 'none')
  t.not(complaint(takes({ x: ['batch', 'n', 2] }), { features: deep }), 'none')
  const any: Signature = { inputs: [{ name: 'x', datatype: 'FP32', shape: [], anyShape: true }], outputs: [] }
  t.not(complaint(any, { features: deep }), 'none')
})

t.test('first lists that promise more than the body has cost nothing', async t => {
  // Rooms for as many elements as these promise cannot be had on any machine.
  const ragged = [Array.from({ length: 90_000 }, () => 1), ...Array.from({ length: 90_000 }, () => [])]
  const inner = [ragged[0], ...Array.from({ length: 3000 }, () => [])]
  const cube = [inner, ...Array.from({ length: 3000 }, () => [])]
  const words = [ragged[0]?.map(() => 'a'), ...ragged.slice(1)]
  t.match(
    complaint(takes({ x: ['batch', 'n'] }), { features: ragged }),
    /^features\[1\] has 0 values where the rows before/,
  )
  t.match(complaint(takes({ x: ['batch', 'n'] }, 'BYTES'), { features: words }), /^features\[1\] has 0 values/)
  t.match(complaint(takes({ x: ['batch', 'n'] }, 'INT64'), { features: ragged }), /^features\[1\] has 0 values/)
  t.match(complaint(takes({ x: ['batch', 'h', 'w'] }), { features: cube }), /^features\[0\]\[1\] has 0 values/)
  t.match(complaint(takes({ x: ['h', 'w', 3], y: ['n'] }), { inputs: { x: cube, y: [1] } }), /^inputs\.x/)
  const any: Signature = { inputs: [{ name: 'x', datatype: 'FP32', shape: [], anyShape: true }], outputs: [] }
  t.match(complaint(any, { features: cube }), /^features\[0\]\[1\] has 0 values/)
})

t.test('empty tensors are taken where the shape of the model has room for them', async t => {
  const empty = (signature: Signature, features: unknown) => {
    const { shape, values, rows } = encoded(signature, features)
    t.strictSame(values, [])
    return [rows, shape]
  }
  const open = takes({ x: ['batch', 'n'] })
  t.strictSame(empty(open, [[]]), [1, [1, 0]])
  t.strictSame(empty(open, [[], []]), [2, [2, 0]])
  t.match(complaint(open, { features: [] }), /^features is an empty list/, 'no rows are no request')
  t.match(complaint(open, { features: [[], [1]] }), /^features\[1\] has 1 values where the rows before have 0/)
  t.strictSame(empty(takes({ x: ['batch', 'n', 2] }), [[], []]), [2, [2, 0, 2]])
  t.strictSame(empty(takes({ x: ['batch', 'n', 0] }), [[], [], []]), [1, [1, 3, 0]], 'as deep as a row: one row')
  t.strictSame(empty(takes({ x: ['batch', 0] }), []), [1, [1, 0]])
  t.strictSame(empty(takes({ x: ['batch', 0] }), [[], []]), [2, [2, 0]])
  t.strictSame(empty(takes({ x: [1, 0, 3] }), []), [1, [1, 0, 3]])
  t.strictSame(empty(takes({ x: [1, 0, 3] }), [[], []]), [2, [2, 0, 3]])
  t.strictSame(empty(takes({ x: [1, 2, 0] }), [[], []]), [1, [1, 2, 0]])
  t.strictSame(empty(takes({ x: [0, 3] }), []), [1, [0, 3]])
  t.strictSame(empty(takes({ x: [2, 0] }), [[], []]), [1, [2, 0]])
  t.strictSame(empty(takes({ x: [2, 0] }), []), [1, [2, 0]], 'flat as well')
  t.strictSame(empty(takes({ x: [0] }), []), [1, [0]])
  t.strictSame(empty(takes({ x: [2, 'n', 3] }), [[], []]), [1, [2, 0, 3]])
  t.match(complaint(takes({ x: [0, 3] }), { features: [1] }), /^features has 1 values/)
  const any: Signature = { inputs: [{ name: 'x', datatype: 'BYTES', shape: [], anyShape: true }], outputs: [] }
  t.strictSame(empty(any, []), [1, [0]])
  t.strictSame(empty(any, [[], []]), [1, [2, 0]])
})

t.test('several inputs come by name, with as many rows each', async t => {
  const ab = takes({ a: ['batch', 2], b: ['batch'] })
  const { inputs, rows } = encodeRows(ab, {
    inputs: {
      a: [
        [1, 2],
        [3, 4],
      ],
      b: [5, 6],
    },
  })
  t.equal(rows, 2)
  t.strictSame(inputs.a?.shape, [2, 2])
  t.strictSame(inputs.b?.shape, [2])
  t.equal(encodeRows(ab, { inputs: { a: [1, 2], b: 5 } }).rows, 1)
  t.equal(complaint(ab, { inputs: { a: [[1, 2]], b: [5, 6] } }), 'inputs.b has 2 rows where inputs.a has 1')
  t.equal(complaint(ab, { inputs: { a: [1, 2] } }), "inputs.b is missing; the model takes 'a', 'b'")
  t.equal(complaint(ab, { inputs: { a: [1, 2], b: 1, c: 1 } }), "inputs.c is not an input; the model takes 'a', 'b'")
  t.equal(complaint(ab, { inputs: [1] }), "inputs is a list of 1; the model takes an object with 'a', 'b'")
  t.equal(complaint(ab, {}), "inputs is missing; the model takes 'a', 'b'")
  t.match(complaint(ab, { features: [1, 2] }), /^features fits a model of one input/)
  t.match(complaint(ab, { features: [1], inputs: {} }), /exclude each other/)
  t.equal(encodeRows(takes({ x: ['batch', 2] }), { inputs: { x: [1, 2] } }).rows, 1, 'one input may be named too')
})

t.test('instances have a row of every input by name, as other servers take them', async t => {
  const signature: Signature = {
    inputs: [
      { name: 'a', datatype: 'FP32', shape: ['n', 2] },
      { name: 'b', datatype: 'INT64', shape: ['n', 1] },
      { name: 'c', datatype: 'BYTES', shape: ['n'] },
    ],
    outputs: [{ name: 'y', datatype: 'FP32', shape: ['n'] }],
  }
  const { inputs, rows } = encodeInstances(signature, [
    { a: [1, 2], b: [5], c: 'x' },
    { c: 'y', b: 6, a: [3, 4] },
  ])
  t.equal(rows, 2)
  t.match(inputs.a, { shape: [2, 2], data: Float32Array.of(1, 2, 3, 4) })
  t.match(inputs.b, { shape: [2, 1], data: BigInt64Array.of(5n, 6n) })
  t.match(inputs.c, { shape: [2], data: ['x', 'y'] })
  for (const [wrong, path] of [
    [{ a: [1, 2], b: 5 }, 'instances[1].c'],
    [{ a: [1, 2], b: 5, c: 'x', d: 1 }, 'instances[1].d'],
    [[1, 2], 'instances[1]'],
    [{ a: [1], b: 5, c: 'x' }, 'instances.a[1]'],
  ] as const) {
    t.throws(() => encodeInstances(signature, [{ a: [1, 2], b: [5], c: 'x' }, wrong]), { errors: [{ path }] })
  }
})

t.test('names that JavaScript gives a meaning to are names like others', async t => {
  const odd = takes({ constructor: ['batch', 1] })
  t.equal(complaint(odd, { inputs: {} }), "inputs.constructor is missing; the model takes 'constructor'")
  const proto = takes({ ['__proto__']: ['batch', 1] })
  const { inputs } = encodeRows(proto, { features: [1] })
  t.strictSame(Object.keys(inputs), ['__proto__'])
})

t.test('strings and booleans are told from numbers', async t => {
  t.match(complaint(takes({ x: ['batch', 1] }, 'BYTES'), { features: [1] }), /takes a string/)
  t.match(complaint(takes({ x: ['batch', 1] }, 'BOOL'), { features: ['yes'] }), /takes true, false, 0 or 1/)
  t.match(complaint(takes({ x: ['batch', 2] }, 'BOOL'), { features: [true] }), /a row is 2 booleans/)
})
