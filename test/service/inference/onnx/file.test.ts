import t from 'tap'
import { prepareModel } from '../../../../service/src/inference/onnx/edit.js'
import { readOnnx, unservable } from '../../../../service/src/inference/onnx/file.js'
import { labelsFromMetadata } from '../../../../service/src/inference/onnx/labels.js'
import { ElementType, ExternalData, floats, model, node } from '../../../support/onnx-builder.js'
import { identity, sequenceOutput, tensorBesideSequence, zipMap } from '../../../support/onnx-models.js'

t.test('a file tells its producer, operator sets, metadata and values', async t => {
  const file = readOnnx(identity(ElementType.INT8, ['batch', 3], { producer: 'me', metadata: { labels: 'a,b' } }))
  t.equal(file.irVersion, 8)
  t.equal(file.producer, 'me')
  t.strictSame([...file.opsets], [['', 17]])
  t.equal(file.metadata.get('labels'), 'a,b')
  t.strictSame(file.inputs, [{ name: 'x', kind: 'tensor', elementType: ElementType.INT8, rank: 2 }])
  t.equal(readOnnx(model({ nodes: [], inputs: [{ name: 'x', type: 1 }], outputs: [] })).inputs[0]?.rank, undefined)
})

t.test('weights that old exports list among the inputs are not inputs', async t => {
  const w = floats('w', [1])
  const bytes = model({
    nodes: [node('Add', ['x', 'w'], ['y'])],
    inputs: [
      { name: 'x', type: ElementType.FLOAT, shape: ['n'] },
      { name: 'w', type: ElementType.FLOAT, shape: [1] },
    ],
    outputs: [{ name: 'y', type: ElementType.FLOAT, shape: ['n'] }],
    initializers: [w],
  })
  t.strictSame(
    readOnnx(bytes).inputs.map(({ name }) => name),
    ['x'],
  )
})

t.test('what is no model is said to be none, however it ends', async t => {
  const whole = identity()
  const not = /is not an ONNX model/
  t.throws(() => readOnnx(new Uint8Array()), { message: /the file is empty/ })
  t.throws(() => readOnnx(new TextEncoder().encode('<html>404</html>')), { message: not })
  t.throws(() => readOnnx(Uint8Array.of(0x0b)), { message: not })
  t.throws(() => readOnnx(Uint8Array.of(0, 0)), { message: not })
  t.throws(() => readOnnx(new Uint8Array(12).fill(255)), { message: not })
  for (let length = 1; length < whole.length; length++) {
    try {
      readOnnx(whole.subarray(0, length))
    } catch (error) {
      if (!not.test((error as Error).message)) t.fail(`cut at ${length}: ${error}`)
    }
  }
})

t.test('values that no request can carry are named', async t => {
  t.equal(unservable(readOnnx(identity())), undefined)
  t.match(unservable(readOnnx(sequenceOutput())), /output 'y' is a sequence; only tensors/)
  t.equal(unservable(readOnnx(tensorBesideSequence())), undefined, 'one output is enough')
  t.match(unservable(readOnnx(identity(ElementType.BFLOAT16))), /input 'x' is bfloat16/)
})

t.test('ZipMap leaves the graph and its labels stay', async t => {
  const { bytes, labels } = prepareModel(zipMap(['ant', 'bee', 'cow']))
  t.strictSame(labels, ['ant', 'bee', 'cow'])
  const file = readOnnx(bytes)
  t.equal(unservable(file), undefined)
  t.strictSame(file.outputs[1], { name: 'output_probability', kind: 'tensor', elementType: ElementType.FLOAT, rank: 2 })
  t.strictSame(prepareModel(zipMap([3, 7, -9])).labels, ['3', '7', '-9'])
})

t.test('without the default operators the probabilities come under their own name', async t => {
  const { bytes } = prepareModel(
    model(
      {
        nodes: [node('ZipMap', ['p'], ['z'], { classlabels_int64s: { ints: [0, 1] } }, 'ai.onnx.ml')],
        inputs: [{ name: 'p', type: ElementType.FLOAT, shape: ['n', 2] }],
        outputs: [{ name: 'z', sequenceOf: { mapFrom: ElementType.INT64, to: ElementType.FLOAT } }],
      },
      { opsets: { '': 0, 'ai.onnx.ml': 2 } },
    ),
  )
  t.match(readOnnx(bytes).outputs, [{ name: 'p', kind: 'tensor', rank: 2 }])
})

t.test('an ordinary model is loaded as it lies on disk', async t => {
  const bytes = identity()
  t.equal(prepareModel(bytes).bytes, bytes)
})

t.test('files that hold weights are named, also those of constants and of graphs inside the graph', async t => {
  const file = (location: string) => ({ tensor: { ...floats('w', [1, 2]), external: new ExternalData(location) } })
  const inner = {
    nodes: [node('Constant', [], ['inner'], { value: file('inner.bin') })],
    inputs: [],
    outputs: [{ name: 'inner', type: ElementType.FLOAT, shape: [2] }],
  }
  const bytes = model(
    {
      nodes: [
        node('Constant', [], ['c'], { value: file('constant.bin') }),
        node('If', ['condition'], ['y'], { then_branch: { graph: inner }, else_branch: { graph: inner } }),
      ],
      inputs: [{ name: 'condition', type: ElementType.BOOL, shape: [] }],
      outputs: [{ name: 'y', type: ElementType.FLOAT, shape: [2] }],
      initializers: [floats('w', [1, 2])],
    },
    { external: new ExternalData('weights.bin') },
  )
  t.strictSame(readOnnx(bytes).externalFiles.toSorted(), ['constant.bin', 'inner.bin', 'weights.bin'])
})

t.test('class names are found in the metadata as exporters write them', async t => {
  const labels = (text: string, key = 'labels') => labelsFromMetadata(new Map([[key, text]]))
  t.strictSame(labels('["a", "b"]'), ['a', 'b'])
  t.strictSame(labels('a, b,c', 'classes'), ['a', 'b', 'c'])
  t.strictSame(labels("{0: 'person', 1: \"dog's\"}", 'names'), ['person', "dog's"])
  t.strictSame(labels('{"0": "a", "1": "b"}', 'class_names'), ['a', 'b'])
  for (const text of ['', 'one', '[', '{}', '{"a": "b", "c": "d"}', '[1']) t.equal(labels(text), undefined, text)
  t.equal(labelsFromMetadata(new Map([['task', 'a,b']])), undefined)
})
