import sharp from 'sharp'
import t from 'tap'
import { decodeImages, picturesOf } from '../../../../service/src/inference/images/decode.js'
import { type ImagePlan, planImage } from '../../../../service/src/inference/images/image-plan.js'
import type { Datatype, Dimension, ImageJson, Signature } from '../../../../service/src/inference/types.js'

const signature = (shape: readonly Dimension[], datatype: Datatype = 'FP32'): Signature => ({
  inputs: [{ name: 'x', datatype, shape }],
  outputs: [{ name: 'y', datatype: 'FP32', shape: ['n'] }],
})
const plan = (shape: readonly Dimension[], image: ImageJson = {}, datatype: Datatype = 'FP32'): ImagePlan => {
  const found = planImage(signature(shape, datatype), image)
  if (typeof found === 'string') throw new Error(found)
  return found
}

/** Two pixels: one of these colours beside the other. */
const two = (left: readonly number[], right: readonly number[]) =>
  sharp(Buffer.from([...left, ...right]), { raw: { width: 2, height: 1, channels: left.length as 3 | 4 } })

const png = await two([255, 0, 51], [0, 102, 204]).png().toBuffer()
const values = async (of: ImagePlan, picture = png) => {
  const { inputs, rows } = await decodeImages(of, [picture], { mostPixels: 1000, pathOf: () => 'image' })
  t.equal(rows, 1)
  return {
    shape: inputs.x?.shape,
    data: Array.from(inputs.x?.data as Float32Array, each => Math.round(each * 1000) / 1000),
  }
}

t.test('channels, layout, scale and normalisation are as model.json has them', async t => {
  t.strictSame(await values(plan(['n', 3, 1, 2])), { shape: [1, 3, 1, 2], data: [1, 0, 0, 0.4, 0.2, 0.8] })
  t.strictSame(await values(plan(['n', 1, 2, 3])), { shape: [1, 1, 2, 3], data: [1, 0, 0.2, 0, 0.4, 0.8] })
  t.strictSame((await values(plan(['n', 1, 2, 3], { channels: 'bgr' }))).data, [0.2, 0, 1, 0.8, 0.4, 0])
  t.strictSame((await values(plan(['n', 1, 2, 3], { invert: true, scale: 1 }))).data, [0, 255, 204, 255, 153, 51])
  const normal = { mean: [0.5, 0.5, 0.5], std: [0.5, 0.25, 0.1] }
  t.strictSame((await values(plan(['n', 1, 2, 3], normal))).data, [1, -2, -3, -1, -0.4, 3])
  t.strictSame(await values(plan(['n', 1, 2, 3], {}, 'UINT8')), {
    shape: [1, 1, 2, 3],
    data: [255, 0, 51, 0, 102, 204],
  })
})

t.test('sizes come from the shape, or from model.json where it is open or flat', async t => {
  t.match(plan(['n', 3, 'h', 'w'], { width: 4, height: 2 }), { width: 4, height: 2, shape: [3, 2, 4], layout: 'nchw' })
  t.match(plan(['n', 'h', 'w', 3], { width: 4, height: 2 }), { shape: [2, 4, 3], layout: 'nhwc' })
  t.match(plan(['n', 64], { width: 8, height: 8 }), { shape: [64], channels: 1, order: 'gray' })
  t.match(plan(['n', 28, 28]), { shape: [28, 28], channels: 1 })
  const fault = (shape: readonly Dimension[], image: ImageJson, message: RegExp, datatype?: Datatype) =>
    t.match(planImage(signature(shape, datatype), image), message)
  fault(['n', 3, 'h', 'w'], {}, /needs 'width' and 'height'/)
  fault(['n', 3, 8, 8], { width: 4, height: 8 }, /does not fit/)
  fault(['n', 64], { width: 8, height: 7 }, /56 values/)
  fault(['n', 3, 8, 8], { channels: 'gray' }, /a row of the model has 3/)
  fault(['n', 3, 8, 8], { mean: [1] }, /'mean' of 1 values/)
  fault(['n', 3, 8, 8], {}, /numbers/, 'BYTES')
  fault(['n', 3, 8, 8], { input: 'z' }, /'z', which the model does not have/)
})

t.test('JPEG, WebP, transparency and the turn of a camera are taken', async t => {
  const plain = plan(['n', 1, 2, 3], { scale: 1 })
  const clear = await two([255, 0, 0, 255], [0, 0, 0, 0]).png().toBuffer()
  t.strictSame((await values(plain, clear)).data, [255, 0, 0, 255, 255, 255])
  t.strictSame(
    (await values(plain, await two([0, 0, 0], [9, 9, 9]).webp({ lossless: true }).toBuffer())).data,
    [0, 0, 0, 9, 9, 9],
  )
  const turned = await two([0, 0, 0], [255, 255, 255])
    .jpeg({ quality: 100 })
    .withMetadata({ orientation: 3 })
    .toBuffer()
  t.strictSame((await values(plain, turned)).data, [255, 255, 255, 0, 0, 0])
})

t.test('what is no picture, broken or too large is refused by name', async t => {
  const of = plan(['n', 3, 1, 2])
  const refused = (picture: Buffer, message: RegExp, most = 1000) =>
    t.rejects(decodeImages(of, [picture], { mostPixels: most, pathOf: () => 'images[0]' }), {
      errors: [{ path: 'images[0]', message }],
    })
  await refused(Buffer.from('hello'), /is not a picture/)
  await refused(Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>'), /is not a picture/)
  await refused(png.subarray(0, png.length - 30), /cannot be decoded/)
  // A small file of very many pixels.
  const bomb = await sharp({ create: { width: 8000, height: 8000, channels: 3, background: '#000' } })
    .png()
    .toBuffer()
  t.ok(bomb.length < 1_000_000)
  await refused(bomb, /more pixels than the 1000000 that IMAGE_PIXEL_LIMIT/, 1_000_000)
  t.throws(() => picturesOf('%%%'), { errors: [{ path: 'images', message: /base64/ }] })
  t.throws(() => picturesOf([png.toString('base64'), 3]), { errors: [{ path: 'images[1]' }] })
  t.throws(() => picturesOf([]), { errors: [{ path: 'images' }] })
  t.strictSame(picturesOf(`data:image/png;base64,${png.toString('base64')}`), [png])
  const inLines = png.toString('base64').replace(/.{76}/g, '$&\r\n')
  t.strictSame(picturesOf(`${inLines}\n`), [png], 'as many programs write it')
})

t.test('many small pictures take no more memory than one large picture', async t => {
  const many = (count: number, each = png) => Array.from({ length: count }, () => each)
  const pathOf = (i: number) => `images[${i}]`
  const decode = (of: ImagePlan, pictures: readonly Buffer[], mostPixels: number) =>
    decodeImages(of, pictures, { mostPixels, pathOf })
  const large = plan(['n', 3, 224, 224])
  const before = process.memoryUsage().arrayBuffers
  const most = 4 * 224 * 224
  await t.rejects(decode(large, many(100_000), most), { errors: [{ path: 'images[4]', message: /more pixels/ }] })
  await t.rejects(decode(large, many(100_000, Buffer.alloc(0)), most), { errors: [{ path: 'images[0]' }] })
  t.ok(process.memoryUsage().arrayBuffers < before + 2 ** 24)
  t.match(await decode(large, many(4), most), { rows: 4 })
  const wide = await sharp({ create: { width: 50, height: 2, channels: 3, background: '#000' } })
    .png()
    .toBuffer()
  const small = plan(['n', 3, 1, 2])
  t.match(await decode(small, many(3, wide), 300), { rows: 3 })
  await t.rejects(decode(small, many(3, wide), 299), { errors: [{ path: 'images[2]', message: /more pixels/ }] })
})

t.test('a picture that nobody waits for is not decoded', async t => {
  const checkWanted = () => {
    throw new Error('the caller has gone')
  }
  const options = { mostPixels: 1000, pathOf: () => 'image', checkWanted }
  await t.rejects(decodeImages(plan(['n', 3, 1, 2]), [png, png], options), /the caller has gone/)
})
