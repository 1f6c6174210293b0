/** Real models of every datatype behind /v2, in JSON and in binary; what /v1 gives is the measure. */
import t from 'tap'
import { datatypes, elementBytes } from '../../../service/src/inference/tensors/datatype.js'
import { tensorOf } from '../../../service/src/inference/tensors/tensor.js'
import type { Datatype } from '../../../service/src/inference/types.js'
import { writeElements } from '../../../service/src/inference/v2-codec/binary.js'
import { quoteLongIntegers } from '../../../service/src/inference/v2-codec/json.js'
import { ElementType } from '../../support/onnx-builder.js'
import { openFolder } from '../../support/onnx-folder.js'
import {
  fixedBatch,
  identity,
  lookup,
  negation,
  perceptron,
  ratio,
  sequences,
  twoInputs,
  zipMap,
} from '../../support/onnx-models.js'
import { ask, binaryMessage, infer, input, takeApart, v2App } from './v2-app.js'

const elementTypes: Readonly<Record<Datatype, ElementType>> = {
  BOOL: ElementType.BOOL,
  UINT8: ElementType.UINT8,
  UINT16: ElementType.UINT16,
  UINT32: ElementType.UINT32,
  UINT64: ElementType.UINT64,
  INT8: ElementType.INT8,
  INT16: ElementType.INT16,
  INT32: ElementType.INT32,
  INT64: ElementType.INT64,
  FP16: ElementType.FLOAT16,
  FP32: ElementType.FLOAT,
  FP64: ElementType.DOUBLE,
  BYTES: ElementType.STRING,
}

/** Two rows of two, as text, since JSON.stringify knows no exact integers of 64 bits. */
const rows: Readonly<Record<Datatype, string>> = {
  BOOL: 'true,false,false,true',
  UINT8: '0,255,1,2',
  UINT16: '0,65535,1,2',
  UINT32: '0,4294967295,1,2',
  UINT64: '0,18446744073709551615,9007199254740993,2',
  INT8: '-128,127,1,2',
  INT16: '-32768,32767,1,2',
  INT32: '-2147483648,2147483647,1,2',
  INT64: '-9223372036854775808,9223372036854775807,-9007199254740993,2',
  FP16: '0.1,-65504,-0,6e-8',
  FP32: '0.1,-3.4028235e+38,-0,1e-30',
  FP64: '0.1,1e+300,-0,5e-324',
  BYTES: '"","ÿ\u{1f600}","\\"","12345678901234567890"',
}

const { models } = await openFolder(
  t,
  {
    ...Object.fromEntries(
      datatypes.flatMap(each => [
        [`${each}/1/model.onnx`, identity(elementTypes[each], ['batch', 2])],
        [`${each}-single/1/model.onnx`, identity(elementTypes[each], [1, 2])],
        [`${each}-whole/1/model.onnx`, identity(elementTypes[each], [2, 2])],
      ]),
    ),
    'two/1/model.onnx': twoInputs(),
    'fixed/1/model.onnx': fixedBatch(3),
    'words/1/model.onnx': zipMap(),
    'seq/1/model.onnx': sequences(),
    'ratio/1/model.onnx': ratio(),
    'table/1/model.onnx': lookup(10),
    'not/1/model.onnx': negation(),
    'net/3/model.onnx': perceptron(16, 32),
    'net/12/model.onnx': perceptron(16, 64),
  },
  { workers: 2 },
)
const app = await v2App(t, models)

/** The whole text of an answer with the one output `y`. */
const answered = (model: string, datatype: string, shape: readonly number[], data: string): string =>
  `{"id":"7","model_name":"${model}","model_version":"1","outputs":[{"name":"y","shape":[${shape}],"datatype":"${datatype}","data":[${data}]}]}`

t.test('each datatype comes back as it went in, whether its batch is free, one or none', async t => {
  for (const datatype of datatypes) {
    for (const model of [datatype, `${datatype}-single`, `${datatype}-whole`]) {
      const body = `{"id":"7","inputs":[{"name":"x","shape":[2,2],"datatype":"${datatype}","data":[${rows[datatype]}]}]}`
      t.equal((await infer(app, model, body)).text, answered(model, datatype, [2, 2], rows[datatype]), model)
    }
  }
})

t.test('each datatype comes back in binary as it went in', async t => {
  for (const datatype of datatypes) {
    const values = JSON.parse(quoteLongIntegers(`[${rows[datatype]}]`))
    const bytes = writeElements(tensorOf(datatype, [2, 2], values))
    const parameters = { binary_data_size: bytes.length }
    const inputs = [{ name: 'x', shape: [2, 2], datatype, parameters }]
    const outputs = [{ name: 'y', parameters: { binary_data: true } }]
    const { json, binary } = takeApart(await infer(app, datatype, ...binaryMessage({ inputs, outputs }, bytes)))
    t.strictSame(json.outputs, [{ name: 'y', shape: [2, 2], datatype, parameters }])
    t.ok(binary.equals(bytes), datatype)
    if (datatype === 'BYTES') continue
    t.equal(bytes.length, 4 * elementBytes(datatype))
    const headers = { 'inference-header-content-length': '0', 'content-type': 'application/octet-stream' }
    const row = bytes.subarray(0, bytes.length / 2)
    t.ok(takeApart(await infer(app, datatype, row, headers)).binary.equals(row), `${datatype}, without JSON`)
  }
})

t.test('metadata tell of every model what an infer request takes', async t => {
  for (const name of (await ask(app, 'GET', '/v2/models')).body.models) {
    const { body } = await ask(app, 'GET', `/v2/models/${name}`)
    const inputs = body.inputs.map(
      ({ name, datatype, shape }: { name: string; datatype: Datatype; shape: number[] }) => {
        const dimensions = shape.map(size => (size === -1 ? 1 : size))
        const count = dimensions.reduce((a, b) => a * b, 1)
        const data = Array.from({ length: count }, () => (datatype === 'BYTES' ? 'a' : datatype === 'BOOL' ? true : 1))
        return { name, datatype, shape: dimensions, data }
      },
    )
    const answer = await infer(app, name, { inputs })
    t.equal(answer.status, 200, `${name}: ${answer.text}`)
    t.strictSame(
      answer.body.outputs.map(({ name, datatype }: { name: string; datatype: string }) => [name, datatype]),
      body.outputs.map(({ name, datatype }: { name: string; datatype: string }) => [name, datatype]),
    )
    for (const [i, { shape }] of answer.body.outputs.entries()) {
      const stated = body.outputs[i].shape
      t.ok(
        stated.every((size: number, d: number) => size === -1 || size === shape[d]),
        `${name}: ${shape} for ${stated}`,
      )
    }
  }
})

t.test('several inputs, some of the outputs, and versions', async t => {
  const a = {
    name: 'a',
    shape: [2, 2],
    datatype: 'FP32',
    data: [
      [1, 2],
      [3, 4],
    ],
  }
  const b = { name: 'b', shape: [2, 2], datatype: 'FP32', data: [10, 20, 30, 40] }
  t.strictSame((await infer(app, 'two', { inputs: [b, a], outputs: [{ name: 'pair' }] })).body.outputs, [
    { name: 'pair', shape: [2, 4], datatype: 'FP32', data: [1, 2, 10, 20, 3, 4, 30, 40] },
  ])
  t.match(await infer(app, 'two', { inputs: [a, { ...b, shape: [1, 2], data: [1, 2] }] }), {
    status: 400,
    body: { error: /inputs\.b has 1 rows where another has 2/ },
  })
  t.strictSame((await ask(app, 'GET', '/v2/models/net')).body.versions, ['12', '3'])
  const row = input(
    'FP32',
    [1, 16],
    Array.from({ length: 16 }, (_, i) => i),
  )
  t.equal((await infer(app, 'net', row)).body.model_version, '12')
  t.equal((await infer(app, 'net/versions/3', row)).body.model_version, '3')
})

t.test('a scikit-learn export gives labels and probabilities as tensors', async t => {
  const { body } = await infer(app, 'words', input('FP32', [2, 3], [5, 1, 1, 0, 0, 9]))
  const [label, probability] = body.outputs
  t.match(label, { datatype: 'BYTES', shape: [2], data: ['ant', 'cow'] })
  t.match(probability, { datatype: 'FP32', shape: [2, 3] })
  t.ok(probability.data[0] > 0.9 && probability.data[5] > 0.9)
  const strings = binaryMessage({
    ...input('FP32', [1, 3], [5, 1, 1]),
    outputs: [{ name: 'label', parameters: { binary_data: true } }],
  })
  t.equal(takeApart(await infer(app, 'words', ...strings)).binary.toString('latin1'), '\x03\0\0\0ant')
})

t.test('what a model cannot compute is told as such', async t => {
  t.match(await infer(app, 'ratio', input('FP32', [1, 2], [0, 1])), {
    status: 200,
    body: { outputs: [{ data: ['NaN', 1] }] },
  })
  t.match(await infer(app, 'table', input('INT64', [1, 1], [99])), {
    status: 500,
    body: { error: 'the model failed while it ran on this input' },
  })
  t.match(await infer(app, 'fixed', input('FP32', [2, 2], [1, 2, 3, 4])), {
    status: 400,
    body: { error: /inputs\.x has the shape \[2, 2\]/ },
  })
})

t.test('rows of many callers at once, in JSON and in binary, each come back to their own', async t => {
  const ask1 = async (i: number) => {
    const length = 1 + (i % 7)
    const values = Float32Array.from({ length }, (_, j) => i * 10 + j)
    if (i % 2 === 0) {
      const { body } = await infer(app, 'seq', input('FP32', [1, length], [...values]))
      return JSON.stringify(body.outputs[0].data) === JSON.stringify([...values])
    }
    const message = binaryMessage(
      {
        inputs: [{ name: 'x', shape: [1, length], datatype: 'FP32', parameters: { binary_data_size: 4 * length } }],
        parameters: { binary_data_output: true },
      },
      Buffer.from(values.buffer),
    )
    return takeApart(await infer(app, 'seq', ...message)).binary.equals(Buffer.from(values.buffer))
  }
  const right = await Promise.all(Array.from({ length: 1000 }, (_, i) => ask1(i)))
  t.equal(right.filter(Boolean).length, 1000)
})
