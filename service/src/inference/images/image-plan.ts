/** How a picture becomes a row: `image` of model.json, completed by the shape of the input. Pure. */
import { elementCount, isFloat } from '../tensors/datatype.js'
import { rowLayout, rowShape, showShape } from '../tensors/signature.js'
import type { Dimension, ImageJson, Signature, TensorSpec } from '../types.js'

export interface ImagePlan {
  readonly spec: TensorSpec
  /** One row, without the batch dimension. */
  readonly shape: readonly number[]
  readonly width: number
  readonly height: number
  readonly channels: 1 | 3
  readonly order: 'rgb' | 'bgr' | 'gray'
  readonly layout: 'nchw' | 'nhwc'
  readonly fit: 'fill' | 'cover' | 'contain'
  readonly invert: boolean
  /** A value is (pixel × scale − mean) / std, a pixel being 0 to 255. */
  readonly scale: number
  readonly mean: readonly number[]
  readonly std: readonly number[]
}

const plans = new WeakMap<object, ImagePlan | null>()

/** The plan of a model that takes pictures; undefined for any other. It must have been checked at load. */
export function imagePlanOf(info: Signature & { readonly image?: ImageJson }): ImagePlan | undefined {
  const { image } = info
  if (image === undefined) return undefined
  let plan = plans.get(image)
  if (plan === undefined) {
    const found = planImage(info, image)
    plan = typeof found === 'string' ? null : found
    plans.set(image, plan)
  }
  return plan ?? undefined
}

/** The plan, or what is wrong with `image` of model.json. */
export function planImage(signature: Signature, image: ImageJson): ImagePlan | string {
  const { inputs } = signature
  const spec = image.input === undefined ? inputs[0] : inputs.find(({ name }) => name === image.input)
  if (spec === undefined) return `'image' has the input '${image.input}', which the model does not have`
  if (inputs.length !== 1) return "'image' needs a model of one input"
  const layout = rowLayout(signature)
  if (layout === 'whole' || spec.datatype === 'BYTES' || spec.datatype === 'BOOL') {
    return `'image' needs an input of numbers whose first dimension is the batch; '${spec.name}' is ${spec.datatype} ${showShape(spec.shape)}`
  }
  const row = rowShape(spec, layout)
  const found = arrange(row, image)
  if (typeof found === 'string') return found
  const { width, height, channels } = found
  const order = image.channels ?? (channels === 1 ? 'gray' : 'rgb')
  if ((order === 'gray') !== (channels === 1))
    return `'image' has channels '${order}', and a row of the model has ${channels}`
  for (const key of ['mean', 'std'] as const) {
    const values = image[key]
    if (values !== undefined && values.length !== channels)
      return `'image' has '${key}' of ${values.length} values; there are ${channels} channels`
  }
  return {
    spec,
    width,
    height,
    channels,
    order,
    layout: found.layout,
    shape: row.length === 1 ? [width * height * channels] : found.shape,
    fit: image.fit ?? 'cover',
    invert: image.invert ?? false,
    scale: image.scale ?? (isFloat(spec.datatype) ? 1 / 255 : 1),
    mean: image.mean ?? new Array(channels).fill(0),
    std: image.std ?? new Array(channels).fill(1),
  }
}

interface Arrangement {
  readonly width: number
  readonly height: number
  readonly channels: 1 | 3
  readonly layout: 'nchw' | 'nhwc'
  readonly shape: readonly number[]
}

/** Which dimension of a row is what, by its length and by what model.json says. */
function arrange(row: readonly Dimension[], image: ImageJson): Arrangement | string {
  const wanted = image.channels === undefined ? undefined : image.channels === 'gray' ? 1 : 3
  const where = `'image' does not fit rows of the shape ${showShape(row)}`
  if (row.length === 1) {
    const { width, height } = image
    if (width === undefined || height === undefined) return `${where}: it needs 'width' and 'height'`
    const channels = wanted ?? (row[0] === width * height * 3 ? 3 : 1)
    const all = width * height * channels
    if (typeof row[0] === 'number' && row[0] !== all)
      return `${where}: ${width} × ${height} × ${channels} are ${all} values`
    return { width, height, channels, layout: image.layout ?? 'nchw', shape: [all] }
  }
  const isPlain = row.length === 2
  if (!isPlain && row.length !== 3) return where
  const layout = image.layout ?? (isPlain ? 'nchw' : layoutOf(row))
  const [c, h, w] = isPlain ? [1, row[0], row[1]] : layout === 'nchw' ? row : [row[2], row[0], row[1]]
  const channels = typeof c === 'number' ? c : (wanted ?? 3)
  if (channels !== 1 && channels !== 3) return `${where}: it has ${channels} channels in the layout ${layout}`
  const height = typeof h === 'number' ? h : image.height
  const width = typeof w === 'number' ? w : image.width
  if (height === undefined || width === undefined) return `${where}: it needs 'width' and 'height'`
  if ((image.height ?? height) !== height || (image.width ?? width) !== width)
    return `${where}: it says ${image.width ?? width} × ${image.height ?? height}`
  const shape = isPlain ? [height, width] : layout === 'nchw' ? [channels, height, width] : [height, width, channels]
  return { width, height, channels, layout, shape }
}

/** By where the one or three channels are; before the pixels where it could be either. */
function layoutOf([first, , last]: readonly Dimension[]): 'nchw' | 'nhwc' {
  if (first === 3 || (first === 1 && last !== 3)) return 'nchw'
  return last === 3 || last === 1 ? 'nhwc' : 'nchw'
}

/** Elements of one picture. */
export const elementsOf = ({ shape }: ImagePlan): number => elementCount(shape)
