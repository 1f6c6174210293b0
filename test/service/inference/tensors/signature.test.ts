import t from 'tap'
import { InvalidInput } from '../../../../service/src/inference/errors.js'
import {
  checkInputs,
  rowLayout,
  signatureOf,
  unbatchable,
} from '../../../../service/src/inference/tensors/signature.js'
import { tensorOf } from '../../../../service/src/inference/tensors/tensor.js'
import type { Dimension, NamedTensors, Signature } from '../../../../service/src/inference/types.js'

const floats = (name: string, shape: readonly (number | string)[]) => ({ name, isTensor: true, type: 'float32', shape })

const signature = (
  inputs: Record<string, readonly Dimension[]>,
  outputs: Record<string, readonly Dimension[]> = { y: ['batch', 1] },
): Signature => {
  const specs = (shapes: Record<string, readonly Dimension[]>) =>
    Object.entries(shapes).map(([name, shape]) => ({ name, datatype: 'FP32' as const, shape }))
  return { inputs: specs(inputs), outputs: specs(outputs) }
}

const tensor = (...shape: number[]) =>
  tensorOf('FP32', shape, new Array(shape.reduce((product, each) => product * each, 1)).fill(0))

/** The first thing that does not fit, as a caller reads it. */
const complaint = (of: Signature, inputs: NamedTensors): string => {
  try {
    checkInputs(of, inputs)
    return 'none'
  } catch (error) {
    return error instanceof InvalidInput ? error.message : String(error)
  }
}

t.test('names, datatypes and dimensions come from the runtime, unnamed dimensions as ?', async t => {
  const { inputs, outputs } = signatureOf([floats('x', ['batch', 4])], [floats('y', ['', 'n'])])
  t.strictSame(inputs, [{ name: 'x', datatype: 'FP32', shape: ['batch', 4] }])
  t.strictSame(outputs, [{ name: 'y', datatype: 'FP32', shape: ['?', 'n'] }])
})

t.test('what cannot be served is refused by name', async t => {
  const x = [floats('x', ['n', 1])]
  t.throws(() => signatureOf(x, []), /no outputs/)
  t.throws(() => signatureOf(x, [{ name: 'y', isTensor: false }]), /output 'y' is not a tensor/)
  t.throws(
    () => signatureOf([{ name: 'x', isTensor: true, type: 'int4', shape: [1] }], x),
    /input 'x' has the datatype int4/,
  )
})

t.test('rows lie along a first dimension that all inputs share', async t => {
  const layouts: [Record<string, readonly Dimension[]>, string][] = [
    [{ a: ['batch', 2], b: ['batch'] }, 'dynamic'],
    [{ a: ['?', 2] }, 'dynamic'],
    [{ a: [1, 2], b: [1] }, 'single'],
    [{ a: ['batch', 2], b: ['other', 2] }, 'whole'],
    [{ a: ['batch', 2], b: [] }, 'whole'],
    [{ a: [5, 2] }, 'whole'],
    [{}, 'whole'],
  ]
  for (const [inputs, layout] of layouts) t.equal(rowLayout(signature(inputs)), layout, JSON.stringify(inputs))
})

t.test('a signature that rules out batches says why', async t => {
  const reasons: [Signature, RegExp | undefined][] = [
    [signature({ a: ['batch', 2] }), undefined],
    [signature({ a: [1, 2] }), /fixed at 1/],
    [signature({ a: [5, 2] }), /input 'a' has a fixed first dimension of 5/],
    [signature({ a: ['batch', 2], b: [] }), /input 'b' has no batch dimension/],
    [signature({ a: ['batch', 2], b: ['other', 2] }), /do not share one batch dimension/],
    [signature({}), /no inputs/],
    [signature({ a: ['batch', 2] }, { y: [1, 2] }), /output 'y' has a fixed first dimension of 1/],
  ]
  for (const [each, reason] of reasons) {
    if (reason === undefined) t.equal(unbatchable(each), undefined)
    else t.match(unbatchable(each), reason)
  }
})

t.test('tensors that fit are counted in rows', async t => {
  t.equal(checkInputs(signature({ a: ['batch', 2], b: ['batch'] }), { a: tensor(3, 2), b: tensor(3) }), 3)
  t.equal(checkInputs(signature({ a: [5, 2] }), { a: tensor(5, 2) }), 1)
  t.equal(checkInputs(signature({ a: ['batch', 'n'], b: ['batch', 'n'] }), { a: tensor(2, 7), b: tensor(2, 7) }), 2)
  t.equal(checkInputs(signature({ a: ['batch', '?'] }), { a: tensor(2, 0) }), 2, 'an inner dimension may be empty')
  const anyShape = { inputs: [{ name: 'a', datatype: 'FP32' as const, shape: [], anyShape: true }], outputs: [] }
  t.equal(checkInputs(anyShape, { a: tensor(2, 3) }), 1)
})

t.test('tensors that do not fit are refused, which the runtime would not always do', async t => {
  const one = signature({ x: ['batch', 2] })
  const two = signature({ a: ['batch', 'n'], b: ['batch', 'n'] })
  t.match(complaint(one, {}), /^inputs\.x is missing; the model takes x FP32 \[batch, 2\]$/)
  t.match(
    complaint(one, { x: tensor(1, 3) }),
    /^inputs\.x has the shape \[1, 3\]; the model takes x FP32 \[batch, 2\]$/,
  )
  t.match(complaint(one, { x: tensor(2) }), /has the shape \[2\]/)
  t.match(complaint(one, { x: tensor(0, 2) }), /has no rows/)
  t.match(complaint(one, { x: tensorOf('FP64', [1, 2], [0, 0]) }), /is FP64/)
  t.match(complaint(one, { x: { ...tensor(1, 2), shape: [2, 2] } }), /has 2 values for the shape \[2, 2\]/)
  t.match(complaint(one, { x: tensor(1, 2), z: tensor(1) }), /^inputs\.z is not an input; the model takes x$/)
  t.match(complaint(two, { a: tensor(3, 1), b: tensor(1, 1) }), /^inputs\.b has 1 rows where another has 3/)
  t.match(complaint(two, { a: tensor(1, 3), b: tensor(1, 4) }), /^inputs\.b has the shape \[1, 4\]/)
})
