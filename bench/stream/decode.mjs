import { availableParallelism } from 'node:os'
import sharp from 'sharp'
import { answerParent } from '../child.mjs'
import { useOf } from '../inference/use.mjs'

/** Decodes a picture over and over, as the service does for `digits`, and does nothing else. */
sharp.concurrency(1)
sharp.cache(false)

const decode = bytes =>
  sharp(bytes, { failOn: 'error', pages: 1 })
    .rotate()
    .flatten({ background: '#fff' })
    .resize(8, 8, { fit: 'fill', background: '#000' })
    .grayscale()
    .removeAlpha()
    .raw({ depth: 'uchar' })
    .toBuffer()

answerParent({}, async ({ picture, ms }) => {
  const bytes = Buffer.from(picture, 'base64')
  const before = useOf().cpu
  const from = performance.now()
  let count = 0
  const loop = async () => {
    while (performance.now() - from < ms) {
      await decode(bytes)
      count++
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, loop))
  const took = performance.now() - from
  return { perSecond: (count / took) * 1000, us: (useOf().cpu - before) / count }
})
