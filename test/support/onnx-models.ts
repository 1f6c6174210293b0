/** The models of the tests: each shows one thing that a served model may do. */
import {
  ElementType,
  type ExternalData,
  floats,
  type Initializer,
  int64s,
  type ModelOptions,
  model,
  node,
  type Value,
} from './onnx-builder.js'

const { FLOAT, INT64, STRING, BOOL } = ElementType

const tensor = (name: string, type: ElementType, shape: readonly (number | string)[]): Value => ({ name, type, shape })

/** y = x, for any datatype and shape. */
export const identity = (
  type: ElementType = FLOAT,
  shape: readonly (number | string)[] = ['batch', 3],
  options: ModelOptions = {},
) =>
  model(
    {
      nodes: [node('Identity', ['x'], ['y'])],
      inputs: [tensor('x', type, shape)],
      outputs: [tensor('y', type, shape)],
    },
    options,
  )

/** y = x, for tensors of any rank. */
export const anyRank = (type: ElementType = FLOAT) =>
  model({ nodes: [node('Identity', ['x'], ['y'])], inputs: [{ name: 'x', type }], outputs: [{ name: 'y', type }] })

/** y = the sum of x over its second dimension: one value for each index of the first, also where the second is 0. */
export const rowSums = () =>
  model({
    nodes: [node('ReduceSum', ['x', 'axes'], ['y'], { keepdims: { int: 1 } })],
    inputs: [tensor('x', FLOAT, ['n', 'm'])],
    outputs: [tensor('y', FLOAT, ['n', 1])],
    initializers: [int64s('axes', [1])],
  })

/** all = every row behind the other, without a batch dimension: the answer to n rows would repeat it n times. */
export const flattens = () =>
  model({
    nodes: [node('Reshape', ['x', 'flat'], ['all'])],
    inputs: [tensor('x', FLOAT, ['batch', 4])],
    outputs: [tensor('all', FLOAT, ['length'])],
    initializers: [int64s('flat', [-1])],
  })

/** y = x + (the sum over all rows): what a caller gets depends on who shares the batch. */
export const mixesRows = () =>
  model({
    nodes: [node('ReduceSum', ['x', 'axes'], ['total'], { keepdims: { int: 1 } }), node('Add', ['x', 'total'], ['y'])],
    inputs: [tensor('x', FLOAT, ['batch', 2])],
    outputs: [tensor('y', FLOAT, ['batch', 2])],
    initializers: [int64s('axes', [0])],
  })

/** y = 2x for a batch of exactly `rows`. */
export const fixedBatch = (rows = 1) =>
  model({
    nodes: [node('Add', ['x', 'x'], ['y'])],
    inputs: [tensor('x', FLOAT, [rows, 2])],
    outputs: [tensor('y', FLOAT, [rows, 2])],
  })

/** sum = a + b (row by row), pair = [a, b]: two inputs, two outputs. */
export const twoInputs = () =>
  model({
    nodes: [node('Add', ['a', 'b'], ['sum']), node('Concat', ['a', 'b'], ['pair'], { axis: { int: 1 } })],
    inputs: [tensor('a', FLOAT, ['batch', 2]), tensor('b', FLOAT, ['batch', 2])],
    outputs: [tensor('sum', FLOAT, ['batch', 2]), tensor('pair', FLOAT, ['batch', 4])],
  })

/** y = table[x]: an index beyond the table is an error at run time, so one row can spoil a batch. */
export const lookup = (size = 100) =>
  model({
    nodes: [node('Gather', ['table', 'x'], ['y'], { axis: { int: 0 } })],
    inputs: [tensor('x', INT64, ['batch', 1])],
    outputs: [tensor('y', FLOAT, ['batch', 1])],
    initializers: [
      floats(
        'table',
        Array.from({ length: size }, (_, i) => i * 10),
      ),
    ],
  })

/** y = row, after multiplying a matrix `steps` times: as slow as a test wants. */
export const slow = (width = 512, steps = 8) => {
  const weights: Initializer = floats(
    'w',
    Array.from({ length: width * width }, (_, i) => (i % (width + 1) === 0 ? 1 : 0)),
    [width, width],
  )
  const chain = Array.from({ length: steps }, (_, i) => node('MatMul', ['w', i === 0 ? 'w' : `m${i - 1}`], [`m${i}`]))
  return model({
    nodes: [
      // The product must hang on the input, or the runtime computes it once and for all at load.
      node('ReduceMean', ['x'], ['mean'], { keepdims: { int: 0 } }),
      node('Mul', ['mean', 'zero'], ['nothing']),
      node('Add', ['w', 'nothing'], ['start']),
      ...chain.map((each, i) => (i === 0 ? node('MatMul', ['w', 'start'], ['m0']) : each)),
      node('ReduceMax', [`m${steps - 1}`], ['one'], { keepdims: { int: 0 } }),
      node('Mul', ['x', 'one'], ['y']),
    ],
    inputs: [tensor('x', FLOAT, ['batch', 1])],
    outputs: [tensor('y', FLOAT, ['batch', 1])],
    initializers: [weights, floats('zero', [0], [])],
  })
}

/** y = x and length = the number of positions, for rows of any length. */
export const sequences = () =>
  model({
    nodes: [node('Identity', ['x'], ['y'])],
    inputs: [tensor('x', FLOAT, ['batch', 'length'])],
    outputs: [tensor('y', FLOAT, ['batch', 'length'])],
  })

/** `['batch']` in, `['batch']` out: a row is one number. */
export const scalarRows = () => identity(FLOAT, ['batch'])

/**
 * What scikit-learn's converter writes by default: an integer or string label, and the probabilities as a sequence of
 * maps made by ZipMap. The classifier here is a softmax over the three inputs.
 */
export const zipMap = (labels: readonly string[] | readonly number[] = ['ant', 'bee', 'cow']) => {
  const names = typeof labels[0] === 'string' ? (labels as readonly string[]) : undefined
  const numbers = names === undefined ? (labels as readonly number[]) : undefined
  const labelType = names === undefined ? INT64 : STRING
  return model(
    {
      nodes: [
        node('Softmax', ['x'], ['probabilities'], { axis: { int: 1 } }),
        node('ArgMax', ['probabilities'], ['index'], { axis: { int: 1 }, keepdims: { int: 0 } }),
        names === undefined
          ? node('Gather', ['classes', 'index'], ['label'])
          : node(
              'LabelEncoder',
              ['index'],
              ['label'],
              { keys_int64s: { ints: names.map((_, i) => i) }, values_strings: { strings: names } },
              'ai.onnx.ml',
            ),
        node(
          'ZipMap',
          ['probabilities'],
          ['output_probability'],
          names === undefined
            ? { classlabels_int64s: { ints: numbers as readonly number[] } }
            : { classlabels_strings: { strings: names } },
          'ai.onnx.ml',
        ),
      ],
      inputs: [tensor('x', FLOAT, ['', 3])],
      outputs: [
        tensor('label', labelType, ['']),
        { name: 'output_probability', sequenceOf: { mapFrom: labelType, to: FLOAT } },
      ],
      ...(numbers === undefined ? {} : { initializers: [int64s('classes', numbers)] }),
    },
    { opsets: { 'ai.onnx.ml': 2 }, producer: 'skl2onnx' },
  )
}

/** An output that is a sequence of tensors, which no request could be answered with. */
export const sequenceOutput = () =>
  model({
    nodes: [node('SequenceConstruct', ['x', 'x'], ['y'])],
    inputs: [tensor('x', FLOAT, ['batch', 2])],
    outputs: [{ name: 'y', sequenceOf: FLOAT }],
  })

/** y = x, and besides its columns as a sequence of tensors. */
export const tensorBesideSequence = () =>
  model({
    nodes: [node('Identity', ['x'], ['y']), node('SplitToSequence', ['x'], ['parts'], { axis: { int: 1 } })],
    inputs: [tensor('x', FLOAT, ['batch', 2])],
    outputs: [{ name: 'parts', sequenceOf: FLOAT }, tensor('y', FLOAT, ['batch', 2])],
  })

/** y = kx; k is an input that has an initializer, which is its default. */
export const withDefault = (options: ModelOptions = {}) =>
  model(
    {
      nodes: [node('Mul', ['x', 'k'], ['y'])],
      inputs: [tensor('x', FLOAT, ['batch', 2]), tensor('k', FLOAT, [1])],
      outputs: [tensor('y', FLOAT, ['batch', 2])],
      initializers: [floats('k', [2])],
    },
    options,
  )

/** y = not x. */
export const negation = () =>
  model({
    nodes: [node('Not', ['x'], ['y'])],
    inputs: [tensor('x', BOOL, ['batch', 2])],
    outputs: [tensor('y', BOOL, ['batch', 2])],
  })

/** y = x / x: NaN for 0. */
export const ratio = () =>
  model({
    nodes: [node('Div', ['x', 'd'], ['y'])],
    inputs: [tensor('x', FLOAT, ['batch', 2])],
    outputs: [tensor('y', FLOAT, ['batch', 2])],
    initializers: [floats('d', [0, 1], [2])],
  })

/** A perceptron of three layers with pseudo-random weights and a softmax over ten classes. */
export const perceptron = (inputs = 64, width = 256, options: ModelOptions = {}) => {
  let state = 1
  const random = () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff
    return state / 0x7fffffff - 0.5
  }
  const weights = (name: string, rows: number, columns: number) =>
    floats(
      name,
      Array.from({ length: rows * columns }, () => random() / Math.sqrt(rows)),
      [rows, columns],
    )
  return model(
    {
      nodes: [
        node('MatMul', ['x', 'w1'], ['h1']),
        node('Relu', ['h1'], ['r1']),
        node('MatMul', ['r1', 'w2'], ['h2']),
        node('Relu', ['h2'], ['r2']),
        node('MatMul', ['r2', 'w3'], ['h3']),
        node('Softmax', ['h3'], ['probabilities'], { axis: { int: 1 } }),
      ],
      inputs: [tensor('x', FLOAT, ['batch', inputs])],
      outputs: [tensor('probabilities', FLOAT, ['batch', 10])],
      initializers: [weights('w1', inputs, width), weights('w2', width, width), weights('w3', width, 10)],
    },
    options,
  )
}

/** y = x, in a run that never ends where a value is above `limit`. */
export const endless = (limit: number) =>
  model({
    nodes: [
      node('ReduceMax', ['x'], ['most'], { keepdims: { int: 0 } }),
      node('Greater', ['most', 'limit'], ['above']),
      node('Loop', ['trips', 'above', 'x'], ['y'], {
        body: {
          graph: {
            nodes: [node('Identity', ['goes'], ['goesOn']), node('Add', ['value', 'nothing'], ['next'])],
            inputs: [tensor('trip', INT64, []), tensor('goes', BOOL, []), tensor('value', FLOAT, ['batch', 1])],
            outputs: [tensor('goesOn', BOOL, []), tensor('next', FLOAT, ['batch', 1])],
            initializers: [floats('nothing', [0], [1])],
          },
        },
      }),
    ],
    inputs: [tensor('x', FLOAT, ['batch', 1])],
    outputs: [tensor('y', FLOAT, ['batch', 1])],
    initializers: [floats('limit', [limit], []), int64s('trips', [Number.MAX_SAFE_INTEGER], [])],
  })

/** y = table[x] with so many rows of 4 numbers, for files of any size. x is the index. */
export const table = (rows: number, add = 0, external?: ExternalData) =>
  model(
    {
      nodes: [node('Gather', ['table', 'x'], ['y'])],
      inputs: [tensor('x', INT64, ['batch'])],
      outputs: [tensor('y', FLOAT, ['batch', 4])],
      initializers: [
        floats(
          'table',
          Float32Array.from({ length: rows * 4 }, (_, i) => i + add),
          [rows, 4],
        ),
      ],
    },
    external === undefined ? {} : { external },
  )
