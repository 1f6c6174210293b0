/** Whatever nested lists are sent for whatever signature: no more memory is allocated than their values need. */
import fc from 'fast-check'
import t from 'tap'
import { InvalidInput } from '../../../../service/src/inference/errors.js'
import { datatypes, elementCount } from '../../../../service/src/inference/tensors/datatype.js'
import { encodeRows } from '../../../../service/src/inference/tensors/rows.js'
import { checkInputs } from '../../../../service/src/inference/tensors/signature.js'
import type { Dimension, Signature, TensorSpec } from '../../../../service/src/inference/types.js'
import { elementsFromJson } from '../../../../service/src/inference/v2-codec/json.js'

const RUNS = { numRuns: Number(process.env.FC_RUNS ?? 2000) }

const dimension: fc.Arbitrary<Dimension> = fc.oneof(
  fc.constantFrom<Dimension>('n', 'm', '?', 'batch'),
  fc.constantFrom<Dimension>(0, 1, 2, 3),
)
const spec = (name: string): fc.Arbitrary<TensorSpec> =>
  fc
    .record({
      datatype: fc.constantFrom(...datatypes),
      shape: fc.array(dimension, { maxLength: 4 }),
      batched: fc.boolean(),
      anyShape: fc.nat(6).map(odd => odd === 0),
    })
    .map(({ datatype, shape, batched, anyShape }) => ({
      name,
      datatype,
      shape: anyShape ? [] : batched ? ['batch', ...shape] : shape,
      ...(anyShape ? { anyShape } : {}),
    }))
const signature: fc.Arbitrary<Signature> = fc
  .tuple(spec('x'), fc.option(spec('y'), { nil: undefined }))
  .map(inputs => ({ inputs: inputs.filter(each => each !== undefined), outputs: [] }))

const element = fc.constantFrom<unknown>(0, 1, 0.5, -1, true, 'a', '1', null, 2 ** 40)
/** Lists as a shape has them, of which some are then longer, shorter, or no lists. */
const lists = fc.letrec<{ list: unknown; ragged: unknown; shaped: unknown }>(tie => ({
  shaped: fc
    .tuple(fc.array(fc.nat(3), { maxLength: 4 }), fc.constantFrom<unknown>(0, 1, 0.5, true, 'a'))
    .map(([shape, value]) => shape.reduceRight<unknown>((inner, length) => Array(length).fill(inner), value)),
  // The first promises much, the others are empty.
  ragged: fc
    .array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 4 })
    .map(shape =>
      shape.reduceRight<unknown>((inner, length) => [inner, ...Array.from({ length: length - 1 }, () => [])], 1),
    ),
  list: fc.oneof({ maxDepth: 5 }, element, fc.array(tie('list'), { maxLength: 5 }), tie('shaped'), tie('ragged')),
})).list

/** A tensor that fits, where `rows` are those of the batch and `n` is every other open dimension. */
function fitting({ shape, datatype }: TensorSpec, rows: number, n: number): unknown {
  const value = datatype === 'BYTES' ? 'a' : datatype === 'BOOL' ? true : 1
  const sizes = shape.map(size => (size === 'batch' ? rows : typeof size === 'string' ? n : size))
  return sizes.reduceRight<unknown>((inner, length) => Array(length).fill(inner), value)
}

/** A model and a body for it, of which any input may be anything. */
const asked = signature.chain(model => {
  const fits = fc.tuple(fc.integer({ min: 1, max: 3 }), fc.nat(3))
  const value = (each: TensorSpec) =>
    fc.oneof(
      fits.map(([rows, n]) => fitting(each, rows, n)),
      lists,
    )
  const [x, y] = model.inputs
  const features = value(x as TensorSpec).map(features => ({ features }))
  const inputs = fc.record({ x: value(x as TensorSpec), ...(y && { y: value(y) }) }).map(inputs => ({ inputs }))
  return fc.tuple(fc.constant(model), y === undefined ? features : inputs)
})

/** Bytes of typed arrays that a call allocates. A collection in between can only make it less. */
function allocated(work: () => void): number {
  const before = process.memoryUsage().arrayBuffers
  work()
  return process.memoryUsage().arrayBuffers - before
}

/** Memory that small tensors share is allocated in pieces of this size. */
const SLACK = 2 * 65_536

t.test('tensors of /v1 are as large as what was sent, or there are none', async t => {
  let taken = 0
  fc.assert(
    fc.property(asked, ([model, sent]) => {
      const { length } = JSON.stringify(sent)
      const bytes = allocated(() => {
        try {
          const { inputs } = encodeRows(model, sent)
          for (const { shape, data } of Object.values(inputs)) {
            if (data.length !== elementCount(shape) || data.length > length) throw new Error('not what was sent')
          }
          checkInputs(model, inputs)
          taken++
        } catch (error) {
          if (!(error instanceof InvalidInput)) throw error
        }
      })
      return bytes <= 8 * length + SLACK
    }),
    RUNS,
  )
  t.ok(taken > 50, `${taken} fitted`)
})

t.test('tensors of /v2 are as large as what was sent, whatever shape was sent with it', async t => {
  const size = fc.oneof(fc.nat(4), fc.constantFrom(400, 90_000, 2 ** 31, Number.MAX_SAFE_INTEGER))
  let taken = 0
  fc.assert(
    fc.property(fc.constantFrom(...datatypes), fc.array(size, { maxLength: 5 }), lists, (datatype, shape, sent) => {
      if (!Array.isArray(sent)) return true
      const { length } = JSON.stringify(sent)
      const bytes = allocated(() => {
        try {
          const data = elementsFromJson(sent, { datatype, shape }, 'data', () => sent)
          if (data.length > length) throw new Error('not what was sent')
          taken++
        } catch (error) {
          if (!(error instanceof InvalidInput)) throw error
        }
      })
      return bytes <= 8 * length + SLACK
    }),
    RUNS,
  )
  t.ok(taken > 5, `${taken} fitted`)
})
