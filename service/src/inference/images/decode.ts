/** Pictures into rows, in the threads of libvips: nothing is decoded on the event loop. */
import { availableParallelism } from 'node:os'
import type { Sharp, SharpOptions } from 'sharp'
import { InvalidInput } from '../errors.js'
import { allocate, isFloat } from '../tensors/datatype.js'
import { toFloat16Bits } from '../tensors/float16.js'
import type { EncodedRows } from '../tensors/rows.js'
import type { Tensor } from '../types.js'
import { elementsOf, type ImagePlan } from './image-plan.js'

type Library = (input: Buffer, options: SharpOptions) => Sharp

let library: Promise<Library> | undefined

/** Loaded with the first picture: most services have none. */
async function load(): Promise<Library> {
  const { default: sharp } = await import('sharp')
  // One picture is decoded by one thread, and no more at once than there are cores.
  sharp.concurrency(1)
  sharp.cache(false)
  // Whatever else the library reads has no business here.
  sharp.block({ operation: ['VipsForeignLoad'] })
  sharp.unblock({
    operation: ['VipsForeignLoadPngBuffer', 'VipsForeignLoadJpegBuffer', 'VipsForeignLoadWebpBuffer'],
  })
  return sharp
}

const signatures: readonly (readonly [offset: number, bytes: string])[] = [
  [0, '\x89PNG\r\n\x1a\n'],
  [0, '\xff\xd8\xff'],
  [8, 'WEBP'],
]

const isPicture = (bytes: Buffer): boolean =>
  signatures.some(([offset, text]) => bytes.toString('latin1', offset, offset + text.length) === text)

/** Those that are being decoded, and those that wait for it. */
let decoding = 0
const waiting: (() => void)[] = []

/** What holds for the pictures of one request. */
export interface DecodeOptions {
  /** Most pixels of all of them together, as they come and as the model takes them. */
  readonly mostPixels: number
  /** Where each picture is in the request. */
  readonly pathOf: (index: number) => string
  /** Called before each picture is decoded. Throws where nobody waits for it any more. */
  readonly checkWanted?: () => void
}

/**
 * One row a picture. Throws InvalidInput for what is no PNG, JPEG or WebP, is broken, or has more than `mostPixels`: all
 * are looked at before memory is taken for the first.
 */
export async function decodeImages(
  plan: ImagePlan,
  pictures: readonly Buffer[],
  { mostPixels, pathOf, checkWanted = () => {} }: DecodeOptions,
): Promise<EncodedRows> {
  const { spec, shape, width, height } = plan
  let pixels = 0
  const count = (each: number, index: number): void => {
    pixels += each
    if (pixels > mostPixels) throw tooMany(mostPixels, pathOf(index))
  }
  for (const [i, bytes] of pictures.entries()) {
    if (!isPicture(bytes)) throw invalid(pathOf(i), 'is not a picture; it takes PNG, JPEG or WebP')
    count(width * height, i)
  }
  pixels = 0
  // A single one is refused by the library itself.
  if (pictures.length > 1) {
    const sizes = pictures.map((bytes, i) => inTurn(() => sizeOf(bytes, mostPixels, pathOf(i))))
    for (const [i, size] of (await Promise.all(sizes)).entries()) count(size, i)
  }
  const elements = elementsOf(plan)
  const data = allocate(spec.datatype, pictures.length * elements)
  await Promise.all(
    pictures.map(async (bytes, i) => {
      const decoded = await inTurn(() => {
        checkWanted()
        return pixelsOf(plan, bytes, mostPixels, pathOf(i))
      })
      write(plan, decoded, data, i * elements)
    }),
  )
  const tensor: Tensor = { datatype: spec.datatype, shape: [pictures.length, ...shape], data }
  return { inputs: { [spec.name]: tensor }, rows: pictures.length }
}

async function inTurn<T>(work: () => Promise<T>): Promise<T> {
  if (decoding >= availableParallelism()) await new Promise<void>(resolve => waiting.push(resolve))
  else decoding++
  try {
    return await work()
  } finally {
    const next = waiting.shift()
    if (next === undefined) decoding--
    else next()
  }
}

const optionsOf = (mostPixels: number): SharpOptions => ({ limitInputPixels: mostPixels, failOn: 'error', pages: 1 })

/** Pixels of a picture, by its header. */
function sizeOf(bytes: Buffer, mostPixels: number, path: string): Promise<number> {
  return withLibrary(mostPixels, path, async sharp => {
    const { width = 0, height = 0 } = await sharp(bytes, optionsOf(mostPixels)).metadata()
    return width * height
  })
}

/** The picture in the size and the channels of the model, a byte a value, row by row. */
function pixelsOf(plan: ImagePlan, bytes: Buffer, mostPixels: number, path: string): Promise<Buffer> {
  return withLibrary(mostPixels, path, sharp => {
    const picture = sharp(bytes, optionsOf(mostPixels))
      // As cameras mean it.
      .rotate()
      .flatten({ background: '#fff' })
      .resize(plan.width, plan.height, { fit: plan.fit, background: '#000' })
    const coloured = plan.channels === 1 ? picture.grayscale() : picture.toColourspace('srgb')
    return coloured.removeAlpha().raw({ depth: 'uchar' }).toBuffer()
  })
}

async function withLibrary<T>(mostPixels: number, path: string, work: (sharp: Library) => Promise<T>): Promise<T> {
  library ??= load()
  const sharp = await library
  try {
    return await work(sharp)
  } catch (error) {
    const { message } = error as Error
    if (/pixel limit/i.test(message)) throw tooMany(mostPixels, path)
    throw invalid(path, `is a picture that cannot be decoded (${message.split('\n')[0]?.slice(0, 120)})`)
  }
}

const tooMany = (mostPixels: number, path: string): InvalidInput =>
  invalid(path, `has more pixels than the ${mostPixels} that IMAGE_PIXEL_LIMIT allows for all pictures of a request`)

function write(plan: ImagePlan, pixels: Buffer, data: Tensor['data'], offset: number): void {
  const { spec, width, height, channels, layout, order, invert, scale, mean, std } = plan
  const target = data as Float32Array
  const plane = width * height
  const float = isFloat(spec.datatype)
  const half = spec.datatype === 'FP16'
  const big = spec.datatype === 'INT64' || spec.datatype === 'UINT64'
  for (let at = 0; at < plane; at++) {
    for (let c = 0; c < channels; c++) {
      const byte = pixels[at * channels + (order === 'bgr' ? 2 - c : c)] as number
      const value = ((invert ? 255 - byte : byte) * scale - (mean[c] as number)) / (std[c] as number)
      const place = offset + (layout === 'nchw' ? c * plane + at : at * channels + c)
      if (float) target[place] = half ? toFloat16Bits(value) : value
      else if (big) (data as unknown as BigInt64Array)[place] = BigInt(Math.round(value))
      else target[place] = Math.round(value)
    }
  }
}

// Also in lines, as many programs write it.
const base64 = /^(?:data:image\/[a-z+.-]+;base64,)?([A-Za-z0-9+/_\s-]*(?:=\s*){0,2})$/

/** The bytes of pictures in JSON: base64, also as a `data:` URL. Throws InvalidInput. */
export function picturesOf(given: unknown): readonly Buffer[] {
  const list = Array.isArray(given) ? given : [given]
  if (list.length === 0) throw invalid('images', 'is an empty list')
  return list.map((each, i) => {
    const match = typeof each === 'string' ? base64.exec(each) : null
    if (match === null) throw invalid(Array.isArray(given) ? `images[${i}]` : 'images', 'is not a picture in base64')
    return Buffer.from(match[1] as string, 'base64')
  })
}

const invalid = (path: string, message: string): InvalidInput => new InvalidInput([{ path, message }])
