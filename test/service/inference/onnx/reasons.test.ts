import t from 'tap'
import { ElementType, ExternalData, floats, type Graph, model, node } from '../../../support/onnx-builder.js'
import { openFolder } from '../../../support/onnx-folder.js'
import { identity } from '../../../support/onnx-models.js'

t.setTimeout(300_000)

const graph = (op: string, more: Partial<Graph> = {}, domain = '', type: ElementType = ElementType.FLOAT): Graph => ({
  nodes: [node(op, ['x'], ['y'], {}, domain)],
  inputs: [{ name: 'x', type, shape: ['n'] }],
  outputs: [{ name: 'y', type, shape: ['n'] }],
  ...more,
})

t.test('why a model cannot be served is said in words, without the insides of the runtime', async t => {
  const locale = node('StringNormalizer', ['x'], ['y'], {
    locale: { string: 'xx_YY.UTF-8' },
    case_change_action: { string: 'LOWER' },
  })
  const files = {
    'good/1/model.onnx': identity(),
    'opset/1/model.onnx': model(graph('Identity'), { opsets: { '': 99 } }),
    'ml-opset/1/model.onnx': model(graph('Normalizer', {}, 'ai.onnx.ml'), { opsets: { 'ai.onnx.ml': 99 } }),
    'ir/1/model.onnx': model(graph('Identity'), { irVersion: 99 }),
    'custom/1/model.onnx': model(graph('Foo', {}, 'my.ops'), { opsets: { 'my.ops': 1 } }),
    'undeclared/1/model.onnx': model(graph('Foo', {}, 'my.ops')),
    'operator/1/model.onnx': model(graph('NoSuch')),
    'weights/1/model.onnx': model(graph('Identity', { initializers: [floats('w', [1])] }), {
      external: new ExternalData('weights.bin'),
    }),
    'ort/1/model.onnx': Buffer.from('\x20\0\0\0ORTM and more'),
    'locale/1/model.onnx': model(graph('', { nodes: [locale] }, '', ElementType.STRING)),
    'shapes/1/model.onnx': model(
      graph('', { nodes: [node('MatMul', ['x', 'w'], ['y'])], initializers: [floats('w', [1, 2, 3, 4], [2, 2, 1])] }),
    ),
  }
  const { models } = await openFolder(t, files)
  const reasons = Object.fromEntries(models.broken.map(({ name, reason }) => [name, reason]))
  t.match(reasons, {
    opset: /^uses version 99 of the operator set ai.onnx, and this runtime knows it up to \d+: export/,
    'ml-opset': /^uses version 99 of the operator set ai.onnx.ml/,
    ir: /^has the format version \(IR\) 99/,
    custom: /^needs the operator Foo of my.ops, .*custom operators cannot be served/,
    undeclared: /^uses operators of 'my.ops' and does not say which version/,
    operator: /^needs the operator NoSuch, which version 17/,
    weights: /^its weights: .*weights.bin does not exist$/,
    ort: /^is in the ORT format \(\.ort\)/,
    locale: /^needs the locale xx_YY.UTF-8 of the operating system/,
  })
  for (const [name, reason] of Object.entries(reasons)) {
    t.notMatch(reason, /Fatal error|onnxruntime|\.cc:|\.h:|ENOENT/, `${name}: ${reason}`)
  }
})
