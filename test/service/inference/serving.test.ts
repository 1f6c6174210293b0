import t from 'tap'
import { InvalidInput } from '../../../service/src/inference/index.js'
import { predictionsJson } from '../../../service/src/inference/tensors/predictions.js'
import { encodeRows } from '../../../service/src/inference/tensors/rows.js'
import type { Tensor } from '../../../service/src/inference/types.js'
import { ElementType } from '../../support/onnx-builder.js'
import { openFolder, predict } from '../../support/onnx-folder.js'
import {
  fixedBatch,
  identity,
  lookup,
  mixesRows,
  perceptron,
  ratio,
  scalarRows,
  sequences,
  tensorBesideSequence,
  twoInputs,
  withDefault,
  zipMap,
} from '../../support/onnx-models.js'

// Each worker compiles the TypeScript that it runs: seconds on a busy machine, nothing in the built service.
t.setTimeout(300_000)

/** One row of each datatype. */
const rowsByType: Record<string, [ElementType, unknown[]]> = {
  bool: [ElementType.BOOL, [true, false]],
  uint8: [ElementType.UINT8, [0, 255]],
  uint16: [ElementType.UINT16, [0, 65535]],
  uint32: [ElementType.UINT32, [0, 4294967295]],
  uint64: [ElementType.UINT64, [7, '18446744073709551615']],
  int8: [ElementType.INT8, [-128, 127]],
  int16: [ElementType.INT16, [-32768, 32767]],
  int32: [ElementType.INT32, [-2147483648, 2147483647]],
  int64: [ElementType.INT64, ['-9223372036854775808', 9007199254740991]],
  float16: [ElementType.FLOAT16, [0.1, -65504]],
  float32: [ElementType.FLOAT, [0.1, 1e-30]],
  float64: [ElementType.DOUBLE, [0.1, 1e300]],
  string: [ElementType.STRING, ['', 'ÿ😀']],
}

const identities = Object.entries(rowsByType).map(([name, [type]]) => [
  `${name}/1/model.onnx`,
  identity(type, ['batch', 2]),
])

// One engine for all of these tests: two workers, and every model at the same time.
const { models, logged } = await openFolder(
  t,
  {
    ...Object.fromEntries(identities),
    'copy/1/model.onnx': identity(),
    'words/1/model.onnx': zipMap(),
    'numbers/1/model.onnx': zipMap([3, 7, 9]),
    'two/1/model.onnx': twoInputs(),
    'fixed/1/model.onnx': fixedBatch(1),
    'three/1/model.onnx': fixedBatch(3),
    'mixes/1/model.onnx': mixesRows(),
    'off/model.json': { batching: false },
    'off/1/model.onnx': identity(),
    'net/1/model.onnx': perceptron(16, 64),
    'single/model.json': { maxBatchRows: 1 },
    'single/1/model.onnx': perceptron(16, 64),
    'table/1/model.onnx': lookup(100),
    'seq/1/model.onnx': sequences(),
    'scalar/1/model.onnx': scalarRows(),
    'ratio/1/model.onnx': ratio(),
    'beside/1/model.onnx': tensorBesideSequence(),
    'default/1/model.onnx': withDefault(),
    'old-default/1/model.onnx': withDefault({ irVersion: 3 }),
    'none/1/model.onnx': identity(ElementType.FLOAT, [0, 3]),
  },
  { workers: 2 },
)

t.test('each datatype comes back as it went in, also beside others in a batch', async t => {
  for (const [name, [, row]] of Object.entries(rowsByType)) {
    const model = models.get(name)
    t.match(model.info.batching, { enabled: true }, name)
    const swapped = [...row].reverse()
    const answers = await Promise.all([predict(model, row), predict(model, [row, swapped]), predict(model, swapped)])
    t.strictSame(
      answers.flat().map(({ outputs }) => outputs.y),
      [row, row, swapped, swapped],
      name,
    )
  }
})

t.test('an answer says the same as the outputs, whoever shares the run', async t => {
  for (const name of ['net', 'words', 'two', 'mixes', 'three']) {
    const model = models.get(name)
    const { inputs, rows } = encodeRows(model.info, model.info.sample as { features?: unknown })
    const asked = Array.from({ length: 40 }, (_, i) => i % 7 === 3)
    const results = await Promise.all(asked.map(json => model.run(inputs, { rows, json })))
    const texts = results.map(({ json, outputs }) => String(json ?? predictionsJson(model.info, outputs, rows)))
    t.equal(new Set(texts).size, 1, name)
    const [alone] = await Promise.all([model.run(inputs, { rows, json: true })])
    t.equal(String(alone?.json), texts[0])
  }
})

t.test('a tensor beside a sequence is served, and the sequence is left out', async t => {
  const model = models.get('beside')
  t.strictSame(
    model.info.outputs.map(({ name }) => name),
    ['y'],
  )
  t.match(model.info.batching, { enabled: true })
  t.strictSame(
    await predict(model, [
      [1, 2],
      [3, 4],
    ]),
    [{ outputs: { y: [1, 2] } }, { outputs: { y: [3, 4] } }],
  )
  const warning = logged.find(({ message }) => /left out/.test(message))
  t.match(warning, { level: 'warn', details: { model: 'beside', outputs: ['parts (sequence)'] } })
})

t.test('an input that has an initializer is left out', async t => {
  for (const name of ['default', 'old-default']) {
    t.strictSame(await predict(models.get(name), [1, 2]), [{ outputs: { y: [2, 4] } }], name)
  }
})

t.test('a dimension fixed at 0 is served', async t => {
  t.strictSame(await predict(models.get('none'), []), [{ outputs: { y: [] } }])
})

t.test('rows without numbers JSON knows come back as they went in', async t => {
  const row = ['NaN', 'Infinity', '-Infinity']
  t.strictSame(await predict(models.get('copy'), [row, [1, 2, 3]]), [
    { outputs: { y: row } },
    { outputs: { y: [1, 2, 3] } },
  ])
})

t.test('a scikit-learn export gives labels and probabilities', async t => {
  const rows = [
    [9, 0, 0],
    [0, 0, 9],
  ]
  const words = await predict(models.get('words'), rows)
  t.strictSame(models.get('words').info.labels, ['ant', 'bee', 'cow'])
  t.match(words, [{ label: 'ant', outputs: { label: 'ant' } }, { label: 'cow' }])
  t.ok((words[0]?.score as number) > 0.99)
  t.match(words[0]?.outputs.output_probability, [Number, Number, Number])
  t.match(await predict(models.get('numbers'), rows), [{ label: '3', outputs: { label: 3 } }, { label: '9' }])
})

t.test('several inputs and outputs are served by name, and one output alone when asked', async t => {
  const model = models.get('two')
  const row = (a: number[], b: number[]) => ({
    a: { datatype: 'FP32' as const, shape: [1, 2], data: Float32Array.from(a) },
    b: { datatype: 'FP32' as const, shape: [1, 2], data: Float32Array.from(b) },
  })
  const both = await model.run(row([1, 2], [3, 4]), { rows: 1 })
  t.strictSame([...((both.outputs.sum?.data ?? []) as Float32Array)], [4, 6])
  t.strictSame([...((both.outputs.pair?.data ?? []) as Float32Array)], [1, 2, 3, 4])
  const one = await model.run(row([1, 2], [3, 4]), { rows: 1, outputs: ['pair'] })
  t.strictSame(Object.keys(one.outputs), ['pair'])
  t.strictSame(Object.keys((await model.run(row([1, 2], [3, 4]), { rows: 1, outputs: [] })).outputs), ['sum', 'pair'])
  await t.rejects(model.run(row([1, 2], [3, 4]), { rows: 1, outputs: ['nope'] }), {
    errors: [{ path: 'outputs[0]', message: 'is "nope"; the model gives sum, pair' }],
  })
  const { a } = row([1, 2], [3, 4])
  const three = { datatype: 'FP32' as const, shape: [3, 2], data: new Float32Array(6) }
  await t.rejects(model.run({ a, b: three }, { rows: 1 }), InvalidInput, 'a batch of one is not spread over three')
})

t.test('a caller’s tensors are left as they were', async t => {
  const x = { datatype: 'FP32' as const, shape: [1, 3], data: Float32Array.of(1, 2, 3) }
  for (let i = 0; i < 2; i++) await models.get('copy').run({ x }, { rows: 1 })
  t.strictSame([...x.data], [1, 2, 3])
})

t.test('models that cannot be batched are served all the same, and say why they are not', async t => {
  const reason = (name: string) => models.get(name).info.batching
  t.match(reason('fixed'), { reason: 'the batch dimension is fixed at 1' })
  t.match(reason('three'), { reason: "input 'x' has a fixed first dimension of 3" })
  t.match(reason('mixes'), { reason: /depends on the other rows/ })
  t.match(reason('off'), { reason: 'switched off in model.json' })
  t.strictSame(
    await predict(models.get('fixed'), [
      [1, 2],
      [3, 4],
    ]),
    [{ outputs: { y: [2, 4] } }, { outputs: { y: [6, 8] } }],
  )
  const three = [
    [1, 2],
    [3, 4],
    [5, 6],
  ]
  t.strictSame(await predict(models.get('three'), three), [
    {
      outputs: {
        y: [
          [2, 4],
          [6, 8],
          [10, 12],
        ],
      },
    },
  ])
  t.strictSame(await predict(models.get('off'), [1, 2, 3]), [{ outputs: { y: [1, 2, 3] } }])
})

t.test('a model whose rows mix gives each of 200 callers its own answer', async t => {
  const answers = await Promise.all(Array.from({ length: 200 }, (_, i) => predict(models.get('mixes'), [i, -i])))
  t.strictSame(
    answers,
    Array.from({ length: 200 }, (_, i) => [{ outputs: { y: [2 * i, -2 * i] } }]),
  )
})

t.test('thousands of callers at once get their own rows, whatever they share a run with', async t => {
  const model = models.get('copy')
  // Single rows and lists up to three times a batch, all told apart by their values.
  const requests = Array.from({ length: 4000 }, (_, i) =>
    Array.from({ length: i % 97 === 0 ? 150 : 1 + (i % 3) }, (_, row) => [i, row, i * 0.5]),
  )
  const answers = await Promise.all(requests.map(rows => predict(model, rows)))
  const wrong = answers.filter(
    (answer, i) => JSON.stringify(answer.map(({ outputs }) => outputs.y)) !== JSON.stringify(requests[i]),
  )
  t.equal(wrong.length, 0)
  t.ok(model.info.batching.enabled)
})

t.test('answers are the session’s own to the bit, and alike in batches of any size', async t => {
  const rows = Array.from({ length: 64 }, (_, i) => Array.from({ length: 16 }, (_, j) => Math.sin(i * 16 + j)))
  const data = Float32Array.from(rows.flat())
  const whole = () => models.get('net').run({ x: { datatype: 'FP32', shape: [64, 16], data } }, { rows: 64 })
  const bits = async (run: ReturnType<typeof whole>) => {
    const { outputs } = await run
    const { data } = outputs.probabilities as Tensor
    return Buffer.from((data as Float32Array).slice().buffer)
  }
  t.ok((await bits(whole())).equals(await bits(whole())), 'the same batch twice')
  const together = await predict(models.get('net'), rows)
  const alone = await Promise.all(rows.map(row => predict(models.get('single'), row)))
  const mixed = await Promise.all(rows.map(row => predict(models.get('net'), row)))
  for (const [i, { outputs }] of together.entries()) {
    for (const answer of [alone[i], mixed[i]]) {
      const other = answer?.[0]?.outputs.probabilities as number[] | undefined
      const difference = (outputs.probabilities as number[]).map((value, j) =>
        Math.abs(value - (other?.[j] ?? Number.NaN)),
      )
      if (!(Math.max(...difference) <= 1e-5)) t.fail(`row ${i} differs by ${Math.max(...difference)}`)
    }
  }
  t.pass('64 rows, three ways')
})

t.test('a poisoned row fails its own request, not its neighbours’', async t => {
  const results = await Promise.allSettled(
    Array.from({ length: 200 }, (_, i) => predict(models.get('table'), [i % 50 === 7 ? 100 + i : i % 100])),
  )
  for (const [i, result] of results.entries()) {
    if (i % 50 === 7) {
      t.match(result, { status: 'rejected', reason: { code: 'INFERENCE_RUN_FAILED', detail: /out of data bounds/ } })
    } else if (
      JSON.stringify(result) !== JSON.stringify({ status: 'fulfilled', value: [{ outputs: { y: [(i % 100) * 10] } }] })
    ) {
      t.fail(`request ${i}: ${JSON.stringify(result)}`)
    }
  }
})

t.test('rows of different lengths are served side by side', async t => {
  const rows = Array.from({ length: 300 }, (_, i) => Array.from({ length: 1 + (i % 7) }, (_, j) => i + j))
  const answers = await Promise.all(rows.map(row => predict(models.get('seq'), row)))
  t.strictSame(
    answers,
    rows.map(row => [{ outputs: { y: row } }]),
  )
  t.strictSame(await predict(models.get('scalar'), [1, 2]), [{ outputs: { y: 1 } }, { outputs: { y: 2 } }])
})

t.test('what JSON has no number for comes as a word', async t => {
  t.strictSame(await predict(models.get('ratio'), [0, 1]), [{ outputs: { y: ['NaN', 1] } }])
  t.strictSame(await predict(models.get('ratio'), [-1, 1]), [{ outputs: { y: ['-Infinity', 1] } }])
})
