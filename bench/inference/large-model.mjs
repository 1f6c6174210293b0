import { chance, modelFolder, onnxBuilder } from '../onnx.mjs'

/**
 * A folder with one model, `large`: a perceptron of two hidden layers of `width`, with weights of chance, that takes
 * rows of `inputs` numbers. At 4,096 it has 17 million weights, and a row takes some milliseconds.
 *
 * @param {{ inputs: number, width: number }} size
 */
export async function largeModel({ inputs, width }) {
  const { ElementType, floats, model, node } = await onnxBuilder()
  const weights = (name, from, to) => floats(name, chance(from * to, Math.sqrt(2 / from)), [from, to])
  const tensor = (name, size) => ({ name, type: ElementType.FLOAT, shape: ['batch', size] })
  const bytes = model({
    nodes: [
      node('MatMul', ['x', 'first'], ['a']),
      node('Relu', ['a'], ['b']),
      node('MatMul', ['b', 'second'], ['c']),
      node('Relu', ['c'], ['d']),
      node('MatMul', ['d', 'third'], ['scores']),
      node('Softmax', ['scores'], ['y'], { axis: { int: 1 } }),
    ],
    inputs: [tensor('x', inputs)],
    outputs: [tensor('y', 10)],
    initializers: [weights('first', inputs, width), weights('second', width, width), weights('third', width, 10)],
  })
  return modelFolder('large', bytes)
}
