import { chance, modelFolder, onnxBuilder } from '../onnx.mjs'

/** Rows are pictures of this many pixels a side. */
const SIDE = 8
export const INPUTS = SIDE * SIDE

/**
 * A folder with one model, `busy`: a convolutional network of so many layers, with weights of chance, over pictures of
 * 8 × 8. Its work is arithmetic, the same for each row: rows that run together are hardly quicker than one by one, so
 * that batches cannot hide an overload.
 *
 * @param {{ layers: number, channels: number }} size
 */
export async function busyModel({ layers, channels }) {
  const { ElementType, floats, int64s, model, node } = await onnxBuilder()
  const kernel = (name, from, to) => floats(name, chance(to * from * 9, Math.sqrt(2 / (from * 9))), [to, from, 3, 3])
  const pads = { pads: { ints: [1, 1, 1, 1] } }
  const hidden = Array.from({ length: layers }, (_, index) => index)
  const bytes = model({
    nodes: [
      node('Reshape', ['x', 'picture'], ['h0']),
      ...hidden.flatMap(index => [
        node('Conv', [`h${index}`, `w${index}`], [`c${index}`], pads),
        node('Relu', [`c${index}`], [`h${index + 1}`]),
      ]),
      node('GlobalAveragePool', [`h${layers}`], ['means']),
      node('Flatten', ['means'], ['flat']),
      node('MatMul', ['flat', 'last'], ['scores']),
      node('Softmax', ['scores'], ['y'], { axis: { int: 1 } }),
    ],
    inputs: [{ name: 'x', type: ElementType.FLOAT, shape: ['batch', INPUTS] }],
    outputs: [{ name: 'y', type: ElementType.FLOAT, shape: ['batch', 10] }],
    initializers: [
      int64s('picture', [-1, 1, SIDE, SIDE]),
      ...hidden.map(index => kernel(`w${index}`, index === 0 ? 1 : channels, channels)),
      floats('last', chance(channels * 10, Math.sqrt(1 / channels)), [channels, 10]),
    ],
  })
  return modelFolder('busy', bytes)
}
