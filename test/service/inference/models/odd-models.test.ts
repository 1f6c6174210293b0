import { execFileSync } from 'node:child_process'
import { mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { encodeRows } from '../../../../service/src/inference/tensors/rows.js'
import {
  type Attribute,
  type ElementType,
  ExternalData,
  floats,
  type Graph,
  int64s,
  type ModelOptions,
  model,
  type Node,
  node,
  type Value,
} from '../../../support/onnx-builder.js'
import { modelsFolder, openFolder, writeModels } from '../../../support/onnx-folder.js'
import { identity } from '../../../support/onnx-models.js'

t.setTimeout(300_000)

const FLOAT = 1
const tensor = (name: string, type: number, shape?: readonly (number | string)[]): Value => ({
  name,
  type: type as ElementType,
  ...(shape === undefined ? {} : { shape }),
})
const x = tensor('x', FLOAT, ['n', 2])
const y = tensor('y', FLOAT, ['n', 2])
const of = (nodes: readonly Node[], more: Partial<Graph> = {}, options: ModelOptions = {}) =>
  model({ nodes, inputs: [x], outputs: [y], ...more }, options)
const same = (type: number, shape: readonly (number | string)[], options: ModelOptions = {}) =>
  identity(type as ElementType, shape, options)
const body = (nodes: readonly Node[], output: Value, inputs: readonly Value[] = []): Attribute => ({
  graph: { nodes, inputs, outputs: [output] },
})
const copy = [node('Identity', ['x'], ['y'])]

/** What serves, and answers its own sample. */
const serves: Record<string, Uint8Array> = {
  'zero-rows': same(FLOAT, [0, 3]),
  'zero-columns': same(FLOAT, ['n', 0]),
  scalar: same(FLOAT, []),
  'negative-dimension': same(FLOAT, [-1, 3]),
  'one-name-twice': same(FLOAT, ['n', 'n']),
  'names-of-objects': same(FLOAT, ['constructor', '__proto__']),
  'eight-dimensions': same(FLOAT, ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']),
  'no-rank': of(copy, { inputs: [tensor('x', FLOAT)], outputs: [tensor('y', FLOAT)] }),
  'rank-that-is-not': of(copy, { outputs: [tensor('y', FLOAT, ['n', 2, 4])] }),
  'no-nodes': of([], { outputs: [x] }),
  'no-inputs': of([node('Constant', [], ['y'], { value: { tensor: floats('v', [1, 2], [1, 2]) } })], { inputs: [] }),
  'unused-input': of(copy, { inputs: [x, tensor('u', FLOAT, ['n', 2])] }),
  'output-twice': of(copy, { outputs: [y, y] }),
  'input-with-a-value': of([node('Add', ['x', 'w'], ['y'])], {
    inputs: [x, tensor('w', FLOAT, [2])],
    initializers: [floats('w', [1, 2])],
  }),
  'outputs-of-other-batches': of(
    [...copy, node('Concat', ['x', 'x'], ['z'], { axis: { int: 0 } }), node('Shape', ['x'], ['s'])],
    { outputs: [y, tensor('z', FLOAT, ['m', 2]), tensor('s', 7, [2])] },
  ),
  'tensor-beside-int4': of(
    [node('Cast', ['x'], ['z'], { to: { int: 22 } }), ...copy],
    { outputs: [tensor('z', 22, ['n', 2]), y] },
    { opsets: { '': 21 }, irVersion: 10 },
  ),
  branches: of(
    [
      node('ReduceMax', ['x'], ['m'], { keepdims: { int: 0 } }),
      node('Greater', ['m', 'zero'], ['c']),
      node('If', ['c'], ['y'], {
        then_branch: body([node('Neg', ['x'], ['a'])], tensor('a', FLOAT, ['n', 2])),
        else_branch: body([node('Identity', ['x'], ['b'])], tensor('b', FLOAT, ['n', 2])),
      }),
    ],
    { initializers: [floats('zero', [0], [])] },
  ),
  'old-opset': same(FLOAT, ['n', 2], { opsets: { '': 1 }, irVersion: 3 }),
  'contributed-operator': of([node('Gelu', ['x'], ['y'], {}, 'com.microsoft')], {}, { opsets: { 'com.microsoft': 1 } }),
  'too-large-for-a-sample': same(FLOAT, ['n', 1_000_000_000]),
}

/** What is refused, and why. */
const refused: Record<string, readonly [Uint8Array | string, RegExp]> = {
  empty: ['', /^is not an ONNX model.*the file is empty/],
  text: ['this is no model', /^is not an ONNX model, or only a part of one/],
  zeros: [new Uint8Array(1000), /^is not an ONNX model/],
  half: [same(FLOAT, ['n', 2]).subarray(0, 60), /or only a part of one/],
  lfs: [
    'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n',
    /^is not an ONNX model but a pointer of Git LFS/,
  ],
  html: ['<!DOCTYPE html><title>404</title>', /^is not an ONNX model but a web page/],
  zip: ['PK\x03\x04 and more', /^is not an ONNX model but a ZIP archive/],
  ort: ['\x20\0\0\0ORTM and more', /^is in the ORT format/],
  'length-of-2-gb': [Buffer.from([8, 8, 0x3a, 0xff, 0xff, 0xff, 0xff, 7, 1]), /^is not an ONNX model/],
  'no-outputs': [of(copy, { outputs: [] }), /^the model has no outputs$/],
  nothing: [model({ nodes: [], inputs: [], outputs: [] }), /^the model has no outputs$/],
  'sequence-in': [
    of([node('SequenceAt', ['x', 'i'], ['y'])], {
      inputs: [{ name: 'x', sequenceOf: FLOAT }],
      initializers: [int64s('i', [0], [])],
    }),
    /^input 'x' is a sequence; only tensors/,
  ],
  complex: [same(14, ['n', 2]), /^input 'x' is complex64/],
  bfloat16: [same(16, ['n', 2]), /^input 'x' is bfloat16/],
  'no-such-datatype': [same(29, ['n', 2]), /^has a tensor of the datatype 29/],
  prototype: [
    of([node('Identity', ['__proto__'], ['y'])], { inputs: [tensor('__proto__', FLOAT, ['n', 2])] }),
    /^input '__proto__' has a name that JavaScript does not allow/,
  ],
  'prototype-out': [
    of([node('Identity', ['x'], ['__proto__'])], { outputs: [tensor('__proto__', FLOAT, ['n', 2])] }),
    /^output '__proto__'/,
  ],
  circle: [
    of([node('Add', ['x', 'b'], ['a']), node('Add', ['x', 'a'], ['b'])], { outputs: [tensor('b', FLOAT, ['n', 2])] }),
    /not acyclic/,
  ],
  'unknown-input': [of([node('Add', ['x', 'ghost'], ['y'])]), /'ghost' is not a graph input/],
  'input-twice': [of(copy, { inputs: [x, x] }), /Duplicate definition/],
  'wrong-weights': [
    of([node('Add', ['x', 'w'], ['y'])], { initializers: [floats('w', [1, 2], [1_000_000, 1_000_000])] }),
    /./,
  ],
  'division-by-zero': [
    of([node('Div', ['x', 'zero'], ['y'])], {
      inputs: [tensor('x', 6, ['n', 2])],
      outputs: [tensor('y', 6, ['n', 2])],
      initializers: [{ name: 'zero', type: 6, dims: [2], data: Int32Array.of(0, 0) }],
    }),
    /division by zero/i,
  ],
  'unknown-output': [of([node('Identity', ['x'], ['z'])]), /output \(y\) does not exist/],
  'weights-in-a-pipe': [weightsIn('pipe'), /pipe is a device or a pipe, not a file$/],
  'weights-in-a-link': [weightsIn('link'), /^its weights in 'link' are a link that leads out of the folder/],
  'weights-in-part': [weightsIn('part'), /^its weights are not whole: 'w' ends at byte 8 of a file that has 4$/],
  'weights-elsewhere': [weightsIn('../part'), /^its weights are in '..\/part', outside/],
  'weights-without-a-name': [weightsIn('a\0b'), /name has a byte 0/],
}

function weightsIn(location: string): Uint8Array {
  return of(
    [node('Add', ['x', 'w'], ['y'])],
    { initializers: [floats('w', [1, 2])] },
    { external: new ExternalData(location) },
  )
}

const files = (all: Readonly<Record<string, Uint8Array | string>>) =>
  Object.fromEntries(Object.entries(all).map(([name, bytes]) => [`${name}/1/model.onnx`, bytes]))

const dir = modelsFolder(t, {})
writeModels(dir, files(serves))
writeModels(dir, files(Object.fromEntries(Object.entries(refused).map(([name, [bytes]]) => [name, bytes]))))
writeModels(dir, { 'weights-in-part/1/part': '1234', elsewhere: '12345678' })
symlinkSync(join(dir, 'elsewhere'), join(dir, 'weights-in-a-link/1/link'))
if (process.platform !== 'win32') execFileSync('mkfifo', [join(dir, 'weights-in-a-pipe/1/pipe')])
mkdirSync(join(dir, 'folder/1/model.onnx'), { recursive: true })
const { models, logged } = await openFolder(t, {}, { dir })

t.test('every odd model that the runtime takes serves, and answers its own sample', async t => {
  for (const name of Object.keys(serves)) {
    const { info } = models.get(name)
    if (name === 'too-large-for-a-sample') {
      t.match(info.batching, { reason: /at most; model.json may give a 'sample'/ })
      continue
    }
    const { inputs, rows } = encodeRows(info, info.sample)
    const { outputs } = await models.get(name).run(inputs, { rows })
    t.strictSame(Object.keys(outputs), [...new Set(info.outputs.map(output => output.name))], name)
  }
})

t.test('every other one is refused, with a reason that says what is wrong with it', async t => {
  const reasons = new Map(models.broken.map(({ name, reason }) => [name, reason]))
  t.strictSame([...reasons.keys()].sort(), Object.keys(refused).sort())
  for (const [name, [, wanted]] of Object.entries(refused)) {
    t.match(reasons.get(name), wanted, name)
    t.notMatch(reasons.get(name), /::|\.cc:|\.h:|ONNXRuntimeError|ENOENT|undefined/, name)
  }
  t.ok(logged.some(({ message }) => /folder\/1\/model.onnx does not serve: it is a folder, not a file/.test(message)))
})
