import t from 'tap'
import { answersJson, predictionsJson } from '../../../../service/src/inference/tensors/predictions.js'
import { requestSchema, sampleBody } from '../../../../service/src/inference/tensors/request-schema.js'
import { encodeRows } from '../../../../service/src/inference/tensors/rows.js'
import { sliceOutputs } from '../../../../service/src/inference/tensors/stack.js'
import { tensorOf } from '../../../../service/src/inference/tensors/tensor.js'
import type { Datatype, Dimension, TensorSpec } from '../../../../service/src/inference/types.js'
import { predictionsOf } from '../../../support/values.js'

const spec = (name: string, datatype: Datatype, shape: readonly Dimension[]): TensorSpec => ({ name, datatype, shape })
const x = [spec('x', 'FP32', ['batch', 2])]
const labels = ['cat', 'dog', 'owl']

t.test('the label is that of the highest value, and the score is that value', async t => {
  const info = { inputs: x, outputs: [spec('p', 'FP32', ['batch', 3])], labels }
  const p = tensorOf('FP32', [2, 3], [0.1, 0.7, 0.2, 0.5, 0.1, 0.4])
  t.strictSame(predictionsOf(info, { p }, 2), [
    { label: 'dog', score: 0.7, outputs: { p: [0.1, 0.7, 0.2] } },
    { label: 'cat', score: 0.5, outputs: { p: [0.5, 0.1, 0.4] } },
  ])
})

t.test('without labels a prediction is the outputs alone', async t => {
  const info = { inputs: x, outputs: [spec('p', 'FP32', ['batch', 3])] }
  const p = tensorOf('FP32', [1, 3], [0.1, 0.7, 0.2])
  t.strictSame(predictionsOf(info, { p }, 1), [{ outputs: { p: [0.1, 0.7, 0.2] } }])
})

t.test('a label that the model itself gives goes before the highest value', async t => {
  const outputs = [spec('label', 'BYTES', ['?']), spec('p', 'FP32', ['?', 3])]
  const p = tensorOf('FP32', [1, 3], [0.1, 0.7, 0.2])
  const label = tensorOf('BYTES', [1], ['owl'])
  t.match(predictionsOf({ inputs: x, outputs, labels }, { label, p }, 1), [{ label: 'owl', score: 0.2 }])
  t.match(predictionsOf({ inputs: x, outputs }, { label, p }, 1), [{ label: 'owl' }], 'strings need no list')
})

t.test('an integer label is a class itself, or else the index of one', async t => {
  const outputs = [spec('label', 'INT64', ['?']), spec('p', 'FP32', ['?', 3])]
  const p = tensorOf('FP32', [1, 3], [0.1, 0.7, 0.2])
  const nine = tensorOf('INT64', [1], [9])
  const two = tensorOf('INT64', [1], [2])
  const info = { inputs: x, outputs }
  t.match(predictionsOf({ ...info, labels: ['3', '7', '9'] }, { label: nine, p }, 1), [{ label: '9', score: 0.2 }])
  t.match(predictionsOf({ ...info, labels }, { label: two, p }, 1), [{ label: 'owl', score: 0.2 }])
})

t.test('float16 scores are compared as numbers, not as bits', async t => {
  const info = { inputs: x, outputs: [spec('p', 'FP16', ['batch', 3])], labels }
  const p = tensorOf('FP16', [1, 3], [-0.5, 0.25, -0.75])
  t.match(predictionsOf(info, { p }, 1), [{ label: 'dog', score: 0.25 }])
})

t.test('a row without one number among its scores has no label', async t => {
  const info = { inputs: x, outputs: [spec('p', 'FP32', ['batch', 3])], labels }
  const nan = { datatype: 'FP32' as const, shape: [1, 3], data: Float32Array.from([NaN, NaN, NaN]) }
  t.strictSame(predictionsOf(info, { p: nan }, 1), [{ outputs: { p: ['NaN', 'NaN', 'NaN'] } }])
  const some = { ...nan, data: Float32Array.from([NaN, -Infinity, NaN]) }
  t.match(predictionsOf(info, { p: some }, 1), [{ label: 'dog', score: '-Infinity' }])
})

t.test('outputs are cut by row; what has no batch dimension is given whole', async t => {
  const info = {
    inputs: x,
    outputs: [spec('y', 'INT32', ['batch', 2, 1]), spec('s', 'INT32', ['batch']), spec('n', 'INT32', [])],
  }
  const y = tensorOf('INT32', [2, 2, 1], [1, 2, 3, 4])
  const s = tensorOf('INT32', [2], [5, 6])
  const n = tensorOf('INT32', [], [7])
  t.strictSame(predictionsOf(info, { y, s, n }, 2), [
    { outputs: { y: [[1], [2]], s: 5, n: 7 } },
    { outputs: { y: [[3], [4]], s: 6, n: 7 } },
  ])
  const whole = { inputs: [spec('x', 'FP32', [3])], outputs: [spec('y', 'FP32', [3])] }
  t.strictSame(predictionsOf(whole, { y: tensorOf('FP32', [1], [1]) }, 1), [{ outputs: { y: [1] } }])
})

t.test('what belongs to all rows together is not repeated without bound', async t => {
  const info = { name: 'm', version: '1', inputs: x, outputs: [spec('all', 'FP32', ['length'])] }
  const all = (rows: number) => tensorOf('FP32', [4 * rows], Array(4 * rows).fill(1))
  t.equal(JSON.parse(predictionsJson(info, { all: all(500) }, 500).toString()).predictions.length, 500)
  t.throws(() => predictionsJson(info, { all: all(4096) }, 4096), {
    name: 'InvalidInput',
    message: /^the request has 4096 rows, and the model gives 16384 values for all of them together/,
  })
  t.equal(answersJson(info, { all: all(4096) }, [4096]), undefined, 'a worker leaves it to those who can refuse')
})

t.test('answers to requests that shared a run are what each would be told of its own rows', async t => {
  const outputs = [
    spec('p', 'FP32', ['batch', 3]),
    spec('label', 'BYTES', ['batch']),
    spec('n', 'INT64', ['batch', 1, 2]),
  ]
  const info = { name: 'm', version: '7', inputs: x, outputs, labels }
  const all = {
    p: tensorOf('FP32', [4, 3], [0.1, 0.7, 0.2, 1, 0, 0, 1e-9, 1 / 3, -2, 0, 0, 1]),
    label: tensorOf('BYTES', [4], ['dog', 'cat', 'ö', 'owl']),
    n: tensorOf('INT64', [4, 1, 2], [1, 2, 3, 4, 5, '9007199254740993', 7, 8]),
  }
  for (const counts of [[4], [1, 1, 1, 1], [2, 1, 1], [1, 3]]) {
    const answers = answersJson(info, all, counts)
    let row = 0
    let at = 0
    for (const [index, count] of counts.entries()) {
      const end = answers?.ends[index] as number
      const own = predictionsJson(info, sliceOutputs(all, row, count), count)
      t.equal(Buffer.from(answers?.bytes.subarray(at, end) ?? []).toString(), own.toString())
      row += count
      at = end
    }
    t.equal(answers?.bytes.length, at)
  }
  const short = { ...all, label: tensorOf('BYTES', [3], ['dog', 'cat', 'owl']) }
  t.equal(answersJson(info, short, [2, 2]), undefined, 'whose is what?')
  t.ok(answersJson(info, short, [4]), 'a single request has it all')
  const long = tensorOf('BYTES', [2], ['a'.repeat(50_000), 'b'.repeat(50_000)])
  const texts = { ...info, outputs: [spec('t', 'BYTES', ['batch'])] }
  t.equal(answersJson(texts, { t: long }, [1, 1])?.ends[1], answersJson(texts, { t: long }, [1, 1])?.bytes.length)
})

t.test('the sample body of a signature is one that it takes', async t => {
  const all: TensorSpec[][] = [
    [spec('x', 'FP32', ['batch', 4])],
    [spec('x', 'BYTES', ['batch', 'n', 2])],
    [spec('x', 'BOOL', ['batch'])],
    [spec('x', 'INT64', [3, 'n'])],
    [spec('x', 'FP16', [])],
    [spec('a', 'FP64', ['batch', 1]), spec('b', 'UINT8', ['batch', 2, 2])],
    [{ ...spec('x', 'FP32', []), anyShape: true }],
  ]
  for (const inputs of all) {
    const info = { name: 'm', inputs, outputs: [] }
    t.equal(encodeRows(info, sampleBody(info)).rows, 1, JSON.stringify(inputs))
  }
  const one = { name: 'm', inputs: x, outputs: [] }
  t.strictSame(sampleBody(one, [1, 2]), { model: 'm', features: [1, 2] })
})

t.test('the schema of a request speaks of the model’s own shapes', async t => {
  const items = { anyOf: [{ type: 'number' }, { type: 'string', enum: ['NaN', 'Infinity', '-Infinity'] }] }
  const flat = { type: 'array', items, minItems: 4, maxItems: 4 }
  const pair = { type: 'array', items, minItems: 2, maxItems: 2 }
  const nested = { type: 'array', items: pair, minItems: 2, maxItems: 2 }
  const info = { name: 'm', inputs: [spec('x', 'FP32', ['batch', 2, 2])], outputs: [] }
  t.match(requestSchema(info), {
    type: 'object',
    properties: {
      model: { enum: ['m'] },
      features: { anyOf: [flat, nested, { type: 'array', items: flat }, { type: 'array', items: nested }] },
    },
    anyOf: [{ required: ['features'] }, { required: ['inputs'] }],
  })
  const two = { name: 'm', inputs: [spec('a', 'UINT8', ['batch']), spec('b', 'INT64', ['batch', 1])], outputs: [] }
  t.match(requestSchema(two), {
    anyOf: [{ required: ['inputs'] }, { required: ['records'] }, { required: ['instances'] }],
    properties: { inputs: { required: ['a', 'b'], properties: { a: { anyOf: [{ minimum: 0, maximum: 255 }] } } } },
  })
  const named = {
    ...info,
    inputs: [spec('x', 'FP32', ['batch', 2])],
    features: ['a', { name: 'b', default: 1 }],
    image: {},
  }
  t.match(requestSchema(named), {
    properties: {
      records: { anyOf: [{ required: ['a'], properties: { a: items, b: { default: 1 } } }, { type: 'array' }] },
      dataframe_split: { properties: { columns: { items: { enum: ['a', 'b'] } } } },
      images: {},
    },
  })
  t.match(requestSchema({ name: 'm', inputs: [{ ...spec('x', 'FP32', []), anyShape: true }], outputs: [] }), {
    properties: { features: { description: /any shape/ } },
  })
})

t.test('integers beside scores are no label, unless model.json or their name says so', async t => {
  const labels = ['cat', 'dog', 'cow']
  const info = (id: string, more: object = {}) => ({
    name: 'm',
    version: '1',
    inputs: [{ name: 'x', datatype: 'FP32' as const, shape: ['n', 1] }],
    outputs: [
      { name: id, datatype: 'INT64' as const, shape: ['n'] },
      { name: 'scores', datatype: 'FP32' as const, shape: ['n', 3] },
    ],
    labels,
    ...more,
  })
  const answer = (of: ReturnType<typeof info>, id: string) =>
    predictionsOf(of, { [id]: tensorOf('INT64', [1], [0]), scores: tensorOf('FP32', [1, 3], [0.25, 0.25, 0.5]) }, 1)[0]
  t.match(answer(info('cluster'), 'cluster'), { label: 'cow', score: 0.5 })
  t.match(answer(info('label'), 'label'), { label: 'cat', score: 0.25 })
  t.match(answer(info('cluster', { labelOutput: 'cluster' }), 'cluster'), { label: 'cat', score: 0.25 })
  t.match(answer(info('label', { scoreOutput: 'scores' }), 'label'), { label: 'cat' })
})
