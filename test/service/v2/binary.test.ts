/** The binary tensor data extension, byte by byte. */
import fc from 'fast-check'
import t from 'tap'
import { elementBytes } from '../../../service/src/inference/tensors/datatype.js'
import type { Datatype } from '../../../service/src/inference/types.js'
import { readElements, splitMessage } from '../../../service/src/inference/v2-codec/binary.js'
import { readJson } from '../../../service/src/inference/v2-codec/json.js'
import { readTensors, writeMessage } from '../../../service/src/inference/v2-codec/tensors.js'
import {
  type Answer,
  binaryMessage,
  echo,
  type FakeModel,
  fakeModels,
  infer,
  spec,
  takeApart,
  v2App,
} from './v2-app.js'

/** One element of each datatype, little-endian. */
const elements: Readonly<Record<Datatype, readonly string[]>> = {
  BOOL: ['00', '01'],
  UINT8: ['00', 'ff'],
  UINT16: ['0100', 'ffff'],
  UINT32: ['01000000', 'ffffffff'],
  UINT64: ['0100000000000000', 'ffffffffffffffff'],
  INT8: ['7f', '80'],
  INT16: ['ff7f', '0080'],
  INT32: ['ffffff7f', '00000080'],
  INT64: ['ffffffffffffff7f', '0000000000000080'],
  FP16: ['003c', '00fe', '007c'],
  FP32: ['0000803f', '0000c07f', '000080ff', '00000080'],
  FP64: ['000000000000f03f', '000000000000f87f', '000000000000f0ff'],
  BYTES: ['00000000', '0300000061c3a9', '04000000f09f9880'],
}

const hex = (text: string): Buffer => Buffer.from(text, 'hex')

const xOf = (datatype: string, shape: readonly number[], size: number) => ({
  name: 'x',
  shape,
  datatype,
  parameters: { binary_data_size: size },
})

const asBinary = [{ name: 'y', parameters: { binary_data: true } }]

t.test('the bytes of every datatype come back as they were, NaNs included', async t => {
  const app = await v2App(t, fakeModels(Object.keys(elements).map(each => echo(each as Datatype, ['n']))))
  for (const [datatype, list] of Object.entries(elements)) {
    const data = hex(list.join(''))
    const inputs = [xOf(datatype, [list.length], data.length)]
    const answer = await infer(app, datatype, ...binaryMessage({ inputs, outputs: asBinary }, data))
    t.equal(answer.status, 200, answer.text)
    t.equal(answer.headers['content-type'], 'application/octet-stream')
    const { json, binary } = takeApart(answer)
    t.strictSame(json.outputs, [
      { name: 'y', shape: [list.length], datatype, parameters: { binary_data_size: data.length } },
    ])
    t.equal(binary.toString('hex'), data.toString('hex'), datatype)
    t.equal(Number(answer.headers['content-length']), answer.bytes.length)
  }
})

t.test('tensors lie where the sizes before them put them, aligned or not', async t => {
  const model: FakeModel = {
    name: 'm',
    inputs: [spec('flags', 'BOOL', ['a']), spec('wide', 'FP64', ['b']), spec('text', 'BYTES', ['c'])],
    outputs: [spec('flags', 'BOOL', ['a']), spec('wide', 'FP64', ['b']), spec('text', 'BYTES', ['c'])],
    run: inputs => inputs,
  }
  const app = await v2App(t, fakeModels([model]))
  for (const pad of ['', ' ', '  ', '   ', '    ', '     ', '      ', '       ']) {
    const flags = Buffer.from([1, 0, 1])
    const wide = Buffer.from(Float64Array.of(0.1, -2.5).buffer)
    const text = hex('0100000061')
    const [body, headers] = binaryMessage(
      {
        id: pad,
        inputs: [
          { name: 'text', shape: [1], datatype: 'BYTES', parameters: { binary_data_size: 5 } },
          { name: 'flags', shape: [3], datatype: 'BOOL', parameters: { binary_data_size: 3 } },
          { name: 'wide', shape: [2], datatype: 'FP64', parameters: { binary_data_size: 16 } },
        ],
        outputs: [{ name: 'wide', parameters: { binary_data: true } }, { name: 'flags' }, { name: 'text' }],
      },
      text,
      flags,
      wide,
    )
    const { json, binary } = takeApart(await infer(app, 'm', body, headers))
    t.equal(binary.toString('hex'), wide.toString('hex'))
    t.strictSame(
      json.outputs.slice(1).map(({ data }: { data: unknown }) => data),
      [[true, false, true], ['a']],
    )
  }
})

t.test('binary and JSON mix, in the inputs as in the outputs', async t => {
  const model: FakeModel = {
    name: 'm',
    inputs: [spec('a', 'INT32', [2]), spec('b', 'INT32', [2])],
    outputs: [spec('a', 'INT32', [2]), spec('b', 'INT32', [2])],
    run: inputs => inputs,
  }
  const app = await v2App(t, fakeModels([model]))
  const a = { name: 'a', shape: [2], datatype: 'INT32', data: [1, 2] }
  const b = { name: 'b', shape: [2], datatype: 'INT32', parameters: { binary_data_size: 8 } }
  const bytes = Buffer.from(Int32Array.of(3, 4).buffer)
  const outputsOf = async (json: object): Promise<readonly string[]> => {
    const answer = await infer(app, 'm', ...binaryMessage({ inputs: [a, b], ...json }, bytes))
    t.equal(answer.status, 200, answer.text)
    const isBinary = answer.headers['inference-header-content-length'] !== undefined
    const { outputs } = isBinary ? takeApart(answer).json : answer.body
    return outputs.map(({ name, data }: { name: string; data?: unknown }) => (data === undefined ? `${name}*` : name))
  }
  const all = { parameters: { binary_data_output: true } }
  const flag = (name: string, binary_data: boolean) => ({ name, parameters: { binary_data } })
  t.strictSame(await outputsOf({}), ['a', 'b'], 'JSON unless asked')
  t.strictSame(await outputsOf(all), ['a*', 'b*'])
  t.strictSame(await outputsOf({ ...all, outputs: [{ name: 'b' }] }), ['b*'])
  t.strictSame(
    await outputsOf({ ...all, outputs: [flag('b', false), { name: 'a' }] }),
    ['b', 'a*'],
    'its own flag wins',
  )
  t.strictSame(await outputsOf({ outputs: [flag('b', true), { name: 'a' }] }), ['b*', 'a'])
  const parameters = { binary_data_output: false }
  t.strictSame(await outputsOf({ parameters, outputs: [flag('b', true)] }), ['b*'])
})

t.test('a JSON request may ask for binary outputs, whatever its content type', async t => {
  const app = await v2App(t, fakeModels([echo('INT16', ['n'])]))
  const body = JSON.stringify({
    inputs: [{ name: 'x', shape: [2], datatype: 'INT16', data: [1, -1] }],
    parameters: { binary_data_output: true },
  })
  for (const type of ['application/json', 'application/octet-stream', '']) {
    const { binary } = takeApart(await infer(app, 'INT16', body, { 'content-type': type }))
    t.equal(binary.toString('hex'), '0100ffff', type)
  }
})

t.test('binary data without a content type is taken, as Triton sends it', async t => {
  const app = await v2App(t, fakeModels([echo('INT16', ['n'])]))
  const [body, headers] = binaryMessage({ inputs: [xOf('INT16', [1], 2)] }, hex('0200'))
  const answer = await infer(app, 'INT16', body, { ...headers, 'content-type': '' })
  t.match(answer, { status: 200, body: { outputs: [{ data: [2] }] } })
})

t.test('a body without JSON is one row of the only input, and is answered in binary', async t => {
  const models: readonly FakeModel[] = [
    echo('FP32', ['batch', 2, 2], 'fixed'),
    echo('FP32', ['batch', 'n', 2], 'open'),
    echo('INT16', [1, 3], 'single'),
    echo('INT16', ['n'], 'rows'),
    echo('BYTES', ['batch', 1], 'text'),
    echo('FP32', ['batch', 'n', 'm'], 'loose'),
    echo('FP32', ['batch', 0, 'n'], 'nothing'),
    echo('BYTES', ['batch', 2], 'pair'),
    { ...echo('FP32', [], 'any'), inputs: [spec('x', 'FP32', [], true)] },
    { ...echo('FP32', [1], 'two'), inputs: [spec('x', 'FP32', [1]), spec('z', 'FP32', [1])] },
  ]
  const app = await v2App(t, fakeModels(models))
  const headers = { 'inference-header-content-length': '0', 'content-type': 'application/octet-stream' }
  const send = (name: string, bytes: Buffer) => infer(app, name, bytes, headers)
  const floats = Buffer.from(Float32Array.of(1, 2, 3, 4).buffer)
  const shapeOf = (answer: Answer) => {
    const { json, binary } = takeApart(answer)
    return [json.outputs[0].shape, binary.toString('hex')]
  }
  t.strictSame(shapeOf(await send('fixed', floats)), [[1, 2, 2], floats.toString('hex')])
  t.strictSame(shapeOf(await send('open', floats)), [[1, 2, 2], floats.toString('hex')])
  t.strictSame(shapeOf(await send('single', hex('010002000300'))), [[1, 3], '010002000300'])
  t.strictSame(shapeOf(await send('rows', hex('0100'))), [[1], '0100'])
  t.strictSame(shapeOf(await send('text', Buffer.from('é'))), [[1, 1], '02000000c3a9'])
  const refused: readonly (readonly [string, Buffer, RegExp])[] = [
    ['fixed', floats.subarray(1), /the body has 15 bytes; 4 values of FP32 take 16/],
    ['fixed', Buffer.alloc(0), /the body has 0 bytes/],
    ['open', floats.subarray(4), /the body has 12 bytes; 2 values of FP32 take 8/],
    ['rows', hex('01000200'), /4 bytes; 1 values of INT16 take 2/],
    ['loose', floats, /does not tell the shape of x FP32 \[batch, n, m\]/],
    ['nothing', floats, /has 16 bytes/],
    ['pair', Buffer.from('a'), /does not tell the shape/],
    ['text', hex('ff'), /not UTF-8/],
    ['text', hex('00'), /U\+0000/],
    ['any', floats, /one input of known rank/],
    ['two', floats, /one input of known rank/],
  ]
  for (const [name, bytes, message] of refused) {
    const answer = await send(name, bytes)
    t.match(answer, { status: 400, body: { error: message } }, `${name}: ${answer.text}`)
  }
})

t.test('every way to be malformed is told as such', async t => {
  const shapes: Readonly<Record<string, FakeModel>> = {
    bool: echo('BOOL', ['n'], 'bool'),
    text: echo('BYTES', ['n'], 'text'),
    int: echo('INT32', ['n'], 'int'),
  }
  const app = await v2App(t, fakeModels(Object.values(shapes)))
  const refusal = async (name: string, json: object, bytes: Buffer, message: RegExp, extra: object = {}) => {
    const [body, headers] = binaryMessage(json, bytes)
    const answer = await infer(app, name, body, { ...headers, ...extra })
    t.match(answer, { status: 400, body: { error: message } }, answer.text)
  }
  const int = (size: unknown, more: object = {}) => ({
    inputs: [{ name: 'x', shape: [2], datatype: 'INT32', parameters: { binary_data_size: size }, ...more }],
  })
  const eight = Buffer.alloc(8)
  await refusal('int', int(8), Buffer.alloc(9), /1 bytes are left after the binary data/)
  await refusal('int', int(8), Buffer.alloc(7), /binary_data_size is 8; 7 bytes are left of the body/)
  await refusal('int', int(4), Buffer.alloc(4), /has 4 bytes; 2 values of INT32 take 8/)
  await refusal('int', int(-1), eight, /binary_data_size is -1; it takes a number of bytes/)
  await refusal('int', int('8'), eight, /binary_data_size is "8"/)
  await refusal('int', int(8.5), eight, /binary_data_size is 8.5/)
  await refusal('int', int(2 ** 60), eight, /it takes a number of bytes/)
  await refusal('int', int(null), eight, /binary_data_size is null/)
  await refusal('int', int(8, { data: [1, 2] }), eight, /exclude each other/)
  await refusal('int', int(8, { parameters: {} }), eight, /inputs\[0\]\.data is missing/)
  await refusal('int', int(8, { shape: [2 ** 40] }), eight, /has 8 bytes; 1099511627776 values/)
  await refusal(
    'int',
    { ...int(8), parameters: { binary_data_output: 1 } },
    eight,
    /binary_data_output is 1; it takes true or/,
  )
  await refusal('int', { ...int(8), outputs: [{ name: 'y', parameters: { binary_data: 'yes' } }] }, eight, /is "yes"/)
  for (const length of ['x', '-1', '1.5', '1e2', ' ', '99999', '99999999999999999999', '0x10', '12, 12']) {
    const [body] = binaryMessage(int(8), eight)
    const answer = await infer(app, 'int', body, { 'inference-header-content-length': length })
    t.match(answer, { status: 400, body: { error: /^headers\.inference-header-content-length takes/ } }, length)
  }
  const [body, headers] = binaryMessage(int(8), eight)
  t.match(await infer(app, 'int', body, { ...headers, 'inference-header-content-length': '10' }), {
    status: 400,
    body: { error: /not valid JSON/ },
  })
  t.match(await infer(app, 'int', JSON.stringify(int(8))), {
    status: 400,
    body: { error: /no header Inference-Header-Content-Length says where that ends/ },
  })
  const bool = (size: number) => ({ inputs: [xOf('BOOL', [size], size)] })
  await refusal('bool', bool(3), hex('000102'), /has the byte 2 as value 2; a BOOL is 0 or 1/)
  const text = (count: number, size: number) => ({ inputs: [xOf('BYTES', [count], size)] })
  await refusal('text', text(1, 3), hex('010000'), /ends within the length of value 0/)
  await refusal('text', text(1, 5), hex('0200000061'), /ends within value 0, which says it has 2 bytes/)
  await refusal('text', text(1, 4), hex('ffffffff'), /ends within value 0, which says it has 4294967295 bytes/)
  await refusal('text', text(2, 5), hex('0100000061'), /has 1 values; the shape has 2/)
  await refusal('text', text(1, 8), hex('0000000000000000'), /goes on after the 1 values/)
  await refusal('text', text(0, 4), hex('00000000'), /goes on after the 0 values|no rows/)
  await refusal('text', text(1, 5), hex('01000000ff'), /bytes that are not UTF-8 in value 0/)
  await refusal('text', text(1, 5), hex('0100000000'), /U\+0000 in value 0/)
  await refusal('text', text(2 ** 50, 4), hex('00000000'), /has 1 values/)
})

t.test('what is written can be read back by the same rules, as a client of another server would', async t => {
  const outputs = Object.keys(elements).map(datatype => spec(`of ${datatype}`, datatype as Datatype, ['n']))
  const tensors = outputs.map(({ name, datatype }, i) => {
    const { length } = elements[datatype]
    const data = readElements(datatype, length, hex(elements[datatype].join('')), name)
    // The floats here are NaN and the like, which a model takes in binary only.
    return { name, tensor: { datatype, shape: [length], data }, binary: i % 2 === 0 || datatype.startsWith('FP') }
  })
  const { body, headerLength } = writeMessage({ model_name: 'm' }, 'outputs', tensors)
  const { json, binary } = splitMessage(body as Buffer, String(headerLength))
  const read = readTensors({ document: readJson(json), binary }, 'outputs', outputs)
  for (const { name, tensor } of tensors) t.strictSame(read[name], tensor, name)
  t.equal(writeMessage({}, 'inputs', []).body, '{"inputs":[]}')
})

t.test('no bytes after the JSON, mutated as they may be, are more than a refusal', async t => {
  const app = await v2App(t, fakeModels(Object.keys(elements).map(each => echo(each as Datatype, ['n', 2]))))
  await t.resolves(
    fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...(Object.keys(elements) as Datatype[])),
        fc.uint8Array({ maxLength: 64 }),
        fc.nat(40),
        fc.nat(8),
        fc.integer({ min: -8, max: 80 }),
        async (datatype, bytes, size, rows, shift) => {
          const [body, headers] = binaryMessage({ inputs: [xOf(datatype, [rows, 2], size)], outputs: asBinary }, bytes)
          const right = Number(headers['inference-header-content-length'])
          const length = String(shift < 4 ? right : right + shift - 40)
          const answer = await infer(app, datatype, body, { ...headers, 'inference-header-content-length': length })
          const fits = rows > 0 && size === bytes.length && size === rows * 2 * elementBytes(datatype)
          if (answer.status === 200 && datatype !== 'BYTES') return fits && takeApart(answer).binary.equals(bytes)
          return answer.status === 200 || (answer.status === 400 && typeof answer.body.error === 'string')
        },
      ),
      { numRuns: 1000 },
    ),
  )
})
