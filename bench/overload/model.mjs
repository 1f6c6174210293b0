import { InferenceSession, Tensor } from 'onnxruntime-node'
import { chance, modelFolder, onnxBuilder } from '../onnx.mjs'
import { median } from '../summary.mjs'

/** Rows are pictures of this many pixels a side. */
const SIDE = 8
export const INPUTS = SIDE * SIDE

/** Layers have their weights in common in turn, so that a slow model need not be a large one. */
const KERNELS = 8

/**
 * A folder with one model, `busy`: a convolutional network with weights of chance over pictures of 8 × 8, of as many
 * layers as it takes for a row to run so many milliseconds on this machine, alone in a session as it comes. Its work is
 * arithmetic, the same for each row: rows that run together are hardly quicker than one by one, so that batches cannot
 * hide an overload.
 *
 * @param {{ rowMs: number, channels: number }} wanted
 */
export async function busyModel({ rowMs, channels }) {
  let layers = 8
  for (let attempt = 0; attempt < 3; attempt++) {
    layers = Math.max(1, Math.round((layers * rowMs) / (await timedRow(await network(layers, channels)))))
  }
  return modelFolder('busy', await network(layers, channels))
}

/** Milliseconds of a row that runs alone. */
async function timedRow(bytes) {
  const session = await InferenceSession.create(bytes)
  const x = new Tensor('float32', new Float32Array(INPUTS), [1, INPUTS])
  const times = []
  for (const end = performance.now() + 500; performance.now() < end; ) {
    const from = performance.now()
    await session.run({ x })
    times.push(performance.now() - from)
  }
  await session.release()
  return median(times)
}

async function network(layers, channels) {
  const { ElementType, floats, int64s, model, node } = await onnxBuilder()
  const kernel = (name, from, to) => floats(name, chance(to * from * 9, Math.sqrt(2 / (from * 9))), [to, from, 3, 3])
  const pads = { pads: { ints: [1, 1, 1, 1] } }
  const hidden = Array.from({ length: layers }, (_, index) => index)
  const weights = index => (index === 0 ? 0 : 1 + ((index - 1) % KERNELS))
  return model({
    nodes: [
      node('Reshape', ['x', 'picture'], ['h0']),
      ...hidden.flatMap(index => [
        node('Conv', [`h${index}`, `w${weights(index)}`], [`c${index}`], pads),
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
      ...hidden.slice(0, 1 + KERNELS).map(index => kernel(`w${index}`, index === 0 ? 1 : channels, channels)),
      floats('last', chance(channels * 10, Math.sqrt(1 / channels)), [channels, 10]),
    ],
  })
}
