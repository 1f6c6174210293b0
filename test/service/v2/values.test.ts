/** Values between JSON and tensors: none is altered, and what a datatype cannot hold is refused by name. */
import fc from 'fast-check'
import t from 'tap'
import { datatypes } from '../../../service/src/inference/tensors/datatype.js'
import type { Datatype } from '../../../service/src/inference/types.js'
import { quoteLongIntegers } from '../../../service/src/inference/v2-codec/json.js'
import { ask, echo, type FakeModel, fakeModels, infer, input, spec, v2App } from './v2-app.js'

const all = datatypes.map(datatype => echo(datatype, ['batch', 'length']))

/** The text of the data of the first output, as it was sent. */
const dataText = (text: string): string => /"data":(\[.*?\])\}\]\}$/.exec(text)?.[1] ?? text

const edges: Readonly<Record<Datatype, readonly [data: string, same?: string]>> = {
  BOOL: ['[true,false,1,0]', '[true,false,true,false]'],
  UINT8: ['[0,255]'],
  UINT16: ['[0,65535]'],
  UINT32: ['[0,4294967295]'],
  UINT64: ['[0,9007199254740993,18446744073709551615]'],
  INT8: ['[-128,127]'],
  INT16: ['[-32768,32767]'],
  INT32: ['[-2147483648,2147483647]'],
  INT64: ['[-9223372036854775808,-9007199254740993,9007199254740993,9223372036854775807]'],
  FP16: ['[65504,-65504,6e-8,0.1,-0]'],
  FP32: ['[3.4028235e+38,1.17549435e-38,0.1,-0,16777217]', '[3.4028235e+38,1.1754944e-38,0.1,-0,16777216]'],
  FP64: [
    '[1.7976931348623157e+308,5e-324,0.1,-0,9007199254740993]',
    '[1.7976931348623157e+308,5e-324,0.1,-0,9007199254740992]',
  ],
  BYTES: ['["","é","\u{1f600}","12345678901234567890","a\\"b\\\\"]'],
}

t.test('the edges of every datatype come back digit by digit, flat and nested', async t => {
  const app = await v2App(t, fakeModels(all))
  for (const [datatype, [data, same = data]] of Object.entries(edges)) {
    const { length } = JSON.parse(data)
    for (const form of [data, `[${data}]`]) {
      const body = `{"inputs":[{"name":"x","shape":[1,${length}],"datatype":"${datatype}","data":${form}}]}`
      const { status, text } = await infer(app, datatype, body)
      t.equal(status, 200, text)
      t.equal(dataText(text), same, `${datatype} ${form}`)
    }
  }
})

t.test('any 64-bit integer survives as a number and as a string of digits', async t => {
  const app = await v2App(t, fakeModels(all))
  const through = async (datatype: string, list: readonly bigint[], quoted: boolean) => {
    const data = list.map(value => (quoted ? `"${value}"` : `${value}`))
    const body = `{"inputs":[{"name":"x","shape":[1,${list.length}],"datatype":"${datatype}","data":[${data}]}]}`
    return dataText((await infer(app, datatype, body)).text)
  }
  await t.resolves(
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), { minLength: 1 }),
        fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { minLength: 1 }),
        fc.boolean(),
        async (signed, unsigned, quoted) =>
          (await through('INT64', signed, quoted)) === `[${signed}]` &&
          (await through('UINT64', unsigned, quoted)) === `[${unsigned}]`,
      ),
      { numRuns: 200 },
    ),
  )
})

t.test('any finite double comes back as the same double, and any string as the same string', async t => {
  const app = await v2App(t, fakeModels(all))
  const through = async (datatype: string, data: readonly unknown[]) =>
    (await infer(app, datatype, input(datatype, [1, data.length], data))).body.outputs[0].data
  await t.resolves(
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.double({ noDefaultInfinity: true, noNaN: true }), { minLength: 1 }),
        fc.array(fc.float({ noDefaultInfinity: true, noNaN: true }), { minLength: 1 }),
        fc.array(fc.string({ unit: 'binary' }), { minLength: 1 }),
        async (doubles, floats, strings) => {
          const texts = strings.map(text => text.replaceAll('\0', ''))
          // JSON.stringify, which writes the request here, drops the sign of a zero.
          const plain = (list: readonly number[]) => list.map(value => value + 0)
          const [a, b, c] = [
            await through('FP64', plain(doubles)),
            await through('FP32', plain(floats)),
            await through('BYTES', texts),
          ]
          return (
            JSON.stringify(a) === JSON.stringify(doubles) &&
            JSON.stringify(b.map(Math.fround)) === JSON.stringify(floats) &&
            JSON.stringify(c) === JSON.stringify(texts)
          )
        },
      ),
      { numRuns: 200 },
    ),
  )
})

t.test('what a datatype cannot hold is refused, with its place and what would fit', async t => {
  const app = await v2App(t, fakeModels(all))
  const cases: readonly (readonly [Datatype, string, RegExp])[] = [
    ['UINT8', '256', /is 256; the model takes an integer from 0 to 255/],
    ['UINT8', '1.5', /is 1.5/],
    ['INT32', '3000000000', /is 3000000000/],
    ['INT32', '"7"', /is "7"/],
    ['INT32', 'null', /is null/],
    ['INT64', '9223372036854775808', /9223372036854775808/],
    ['INT64', '1e18', /is 1000000000000000000/],
    ['INT64', '12345678901234567.5', /data\[1\] is 12345678901234568/],
    ['INT64', '"0x10"', /is "0x10"/],
    ['UINT64', '-1', /is -1/],
    ['UINT64', '18446744073709551616', /18446744073709551616/],
    ['UINT64', '99999999999999999999999999999999', /9999/],
    ['FP16', '65520', /within ±65504/],
    ['FP32', '1e39', /is 1e\+39/],
    ['FP32', '"nan"', /is "nan"/],
    ['FP32', '"+Infinity"', /is "\+Infinity"/],
    ['INT32', '"NaN"', /is "NaN"/],
    ['FP64', '1e999', /is Infinity; the model takes a finite number/],
    ['BOOL', '2', /is 2; the model takes true, false, 0 or 1/],
    ['BOOL', '"true"', /is "true"/],
    ['BYTES', '12345678901234567890', /is 12345678901234567000/],
    ['BYTES', '"a\\u0000b"', /U\+0000/],
    ['BYTES', '"\\ud800"', /half surrogate/],
    ['FP32', '"12345678901234567890"', /is "12345678901234567890"/],
  ]
  for (const [datatype, value, message] of cases) {
    const fits = datatype === 'BYTES' ? '"a"' : '1'
    const body = `{"inputs":[{"name":"x","shape":[1,2],"datatype":"${datatype}","data":[${fits},${value}]}]}`
    const answer = await infer(app, datatype, body)
    t.match(answer, { status: 400, body: { error: message } }, `${datatype} ${value}: ${answer.text}`)
    t.match(answer.body.error, /^inputs\[0\]\.data\[1\] /)
  }
})

t.test('values beside long integers stay what they are', async t => {
  const model: FakeModel = {
    name: 'm',
    inputs: [spec('i', 'INT64', ['n']), spec('f', 'FP64', ['n']), spec('s', 'BYTES', ['n'])],
    outputs: [spec('i', 'INT64', ['n']), spec('f', 'FP64', ['n']), spec('s', 'BYTES', ['n'])],
    run: inputs => inputs,
  }
  const app = await v2App(t, fakeModels([model]))
  const tensors = [
    '{"name":"s","shape":[2],"datatype":"BYTES","data":["[9007199254740993,\\"","\\\\"]}',
    '{"name":"f","shape":[2],"datatype":"FP64","data":[12345678901234567890,0.1234567890123456789]}',
    '{"name":"i","shape":[2],"datatype":"INT64","data":[-9007199254740993,1]}',
  ]
  const { body, text } = await infer(app, 'm', `{"id":"1234567890123456789","inputs":[${tensors}]}`)
  t.match(text, '"data":[-9007199254740993,1]')
  t.equal(body.id, '1234567890123456789')
  t.strictSame(body.outputs[1].data, [12345678901234567000, 0.12345678901234568])
  t.strictSame(body.outputs[2].data, ['[9007199254740993,"', '\\'])
})

t.test('quoting long integers changes nothing else of a JSON text', async t => {
  const quotesOnly = (json: string) =>
    JSON.parse(json, (_key, value) => (typeof value === 'number' ? `${value}` : value))
  fc.assert(
    fc.property(fc.json(), json => t.strictSame(quotesOnly(quoteLongIntegers(json)), quotesOnly(json)) as boolean),
    { numRuns: 500 },
  )
  for (const [json, quoted] of [
    ['1234567890123456', '"1234567890123456"'],
    ['-1234567890123456', '"-1234567890123456"'],
    ['123456789012345', '123456789012345'],
    ['1234567890123456.0', '1234567890123456.0'],
    ['1.1234567890123456', '1.1234567890123456'],
    ['1e1234567890123456', '1e1234567890123456'],
    ['1E-1234567890123456', '1E-1234567890123456'],
    ['"1234567890123456\\"1234567890123456"', '"1234567890123456\\"1234567890123456"'],
    ['["\\\\",1234567890123456]', '["\\\\","1234567890123456"]'],
  ] as const) {
    t.equal(quoteLongIntegers(json), quoted)
  }
})

t.test('what JSON has no number for comes as a word, and a negative zero keeps its sign', async t => {
  const floats = Float32Array.of(NaN, Infinity, -Infinity, -0, 0.1)
  const model: FakeModel = {
    name: 'm',
    inputs: [],
    outputs: [spec('y', 'FP32', [5]), spec('z', 'FP64', [5])],
    run: () => ({
      y: { datatype: 'FP32', shape: [5], data: floats },
      z: { datatype: 'FP64', shape: [5], data: Float64Array.of(NaN, Infinity, -Infinity, -0, 0.1) },
    }),
  }
  const app = await v2App(t, fakeModels([model]))
  const { text } = await infer(app, 'm', { inputs: [] })
  t.equal(text.match(/\["NaN","Infinity","-Infinity",-0,0\.1\]/g)?.length, 2, text)
})

t.test('data is flat, or nested as the shape; anything between is refused', async t => {
  const app = await v2App(t, fakeModels([echo('INT8', ['n', 2, 3]), echo('FP32', [], 'scalar')]))
  const send = (shape: readonly unknown[], data: unknown) => infer(app, 'INT8', input('INT8', shape, data))
  const flat = [1, 2, 3, 4, 5, 6]
  for (const data of [flat, [[flat.slice(0, 3), flat.slice(3)]]]) {
    t.match(await send([1, 2, 3], data), { status: 200, body: { outputs: [{ shape: [1, 2, 3], data: flat }] } })
  }
  const refused: readonly (readonly [readonly unknown[], unknown, RegExp])[] = [
    [[1, 2, 3], [flat], /data\[0\] has 6 values; the shape \[1, 2, 3\] has 2 here/],
    [
      [1, 2, 3],
      [
        [1, 2],
        [3, 4],
        [5, 6],
      ],
      /data has 3 values/,
    ],
    [
      [1, 2, 3],
      [
        [
          [1, 2, 3],
          [4, 5],
        ],
      ],
      /data\[0\]\[1\] has 2 values/,
    ],
    [[1, 2, 3], [[[1, 2, 3], 4]], /data\[0\]\[1\] is not a list/],
    [
      [1, 2, 3],
      [
        [
          [1, 2, 3],
          [4, 5, [6]],
        ],
      ],
      /data\[0\]\[1\]\[2\] is a list of 1/,
    ],
    [[1, 2, 3], [1, 2, 3, 4, 5, [6]], /data\[5\] is a list of 1/],
    [[1, 2, 3], [1, 2, 3], /data has 3 values; the shape \[1, 2, 3\] has 6/],
    [[1, 2, 3], [...flat, 7], /data has 7 values/],
    [[1, 2, 3], [], /data has 0 values/],
    [[1, 2, 3], 5, /data is 5; it takes a list/],
    [[1, 2, 3], { 0: 1 }, /data is an object/],
    [[1, 2, 3], null, /data is null/],
    [[1, 2, 3], '1,2,3', /data is "1,2,3"/],
  ]
  for (const [shape, data, message] of refused) {
    t.match(await send(shape, data), { status: 400, body: { error: message } }, JSON.stringify(data))
  }
  t.match(await infer(app, 'scalar', input('FP32', [], [5])), {
    status: 200,
    body: { outputs: [{ shape: [], data: [5] }] },
  })
})

t.test('a shape that cannot be is refused before anything of its size is made', async t => {
  const app = await v2App(t, fakeModels([echo('INT8', ['n', 'm']), echo('BYTES', [], 'any')]))
  const refused: readonly (readonly [unknown, RegExp])[] = [
    [[-1, 3], /shape\[0\] is -1; a dimension is an integer, 0 or more/],
    [[1.5, 3], /shape\[0\] is 1.5/],
    [['1', 3], /shape\[0\] is "1"/],
    [[null, 3], /shape\[0\] is null/],
    [[1, 2 ** 53], /shape\[1\] is 9007199254740992/],
    [[2 ** 52, 2 ** 52], /data has 3 values; the shape \[4503599627370496, 4503599627370496\] has/],
    // 2^32 * 2^32 is 0 in 64 bits.
    [[2 ** 32, 2 ** 32], /data has 3 values; the shape/],
    [[4_000_000_000, 1], /data has 3 values; the shape \[4000000000, 1\] has 4000000000/],
    // No values are needed for these, and a model that sums over the second dimension answers with the first.
    [[2 ** 52, 0], /shape is \[4503599627370496, 0\]; the dimensions of an empty tensor multiply to 16384 at most/],
    [[3], /shape has 1 dimensions; the model has x INT8 \[n, m\]/],
    [[1, 3, 1], /shape has 3 dimensions/],
    [Array.from({ length: 10_000 }, () => 1), /shape has 10000 dimensions/],
    ['1,3', /shape is "1,3"; it takes a list of dimensions/],
    [undefined, /shape is missing/],
    [[0, 3], /has 3 values/],
  ]
  for (const [shape, message] of refused) {
    const body = { inputs: [{ name: 'x', shape, datatype: 'INT8', data: [1, 2, 3] }] }
    const answer = await infer(app, 'INT8', body)
    t.match(answer, { status: 400, body: { error: message } }, answer.text.slice(0, 200))
    t.ok(answer.text.length < 500, 'the error stays short')
  }
  t.match(await infer(app, 'INT8', input('INT8', [0, 3], [])), { status: 400, body: { error: /no rows|empty|has 0/ } })
})

t.test('names, datatypes and rows that do not fit the model are refused, naming what it has', async t => {
  const two: FakeModel = {
    name: 'two',
    inputs: [spec('a', 'FP32', ['batch', 2]), spec('b', 'INT64', ['batch'])],
    outputs: [spec('sum', 'FP32', ['batch'])],
    run: (_inputs, { rows }) => ({ sum: { datatype: 'FP32', shape: [rows], data: new Float32Array(rows) } }),
  }
  const app = await v2App(t, fakeModels([two]))
  const a = { name: 'a', shape: [2, 2], datatype: 'FP32', data: [1, 2, 3, 4] }
  const b = { name: 'b', shape: [2], datatype: 'INT64', data: [1, 2] }
  const takes = /a FP32 \[batch, 2\], b INT64 \[batch\]/
  t.match(await infer(app, 'two', { inputs: [b, a] }), { status: 200, body: { outputs: [{ shape: [2] }] } })
  const refused: readonly (readonly [unknown, RegExp])[] = [
    [{ inputs: [a] }, /^inputs\.b is missing; the model takes/],
    [{ inputs: [a, b, { ...b, name: 'c' }] }, /^inputs\[2\]\.name is "c"; the model has/],
    [{ inputs: [a, { ...b, name: 'toString' }] }, /^inputs\[1\]\.name is "toString"/],
    [{ inputs: [a, { ...b, name: '__proto__' }] }, /^inputs\[1\]\.name is "__proto__"/],
    [{ inputs: [a, { shape: [2], datatype: 'INT64', data: [1, 2] }] }, /^inputs\[1\]\.name is missing/],
    [{ inputs: [a, b, b] }, /^inputs\[2\]\.name is 'b' once more/],
    [{ inputs: [{ ...a, datatype: 'FP64' }, b] }, /^inputs\[0\]\.datatype is "FP64"; the model has a FP32/],
    [{ inputs: [{ ...a, datatype: 'fp32' }, b] }, /^inputs\[0\]\.datatype is "fp32"/],
    [{ inputs: [{ ...a, shape: [4, 1] }, b] }, /^inputs\.a has the shape \[4, 1\]; the model takes/],
    [{ inputs: [a, { ...b, shape: [1], data: [1] }] }, /^inputs\.b has 1 rows where another has 2/],
    [
      { inputs: [a, b], outputs: [{ name: 'difference' }] },
      /^outputs\[0\]\.name is "difference"; the model has sum FP32/,
    ],
    [{ inputs: [a, b], outputs: [{}] }, /^outputs\[0\]\.name is missing/],
    [{ inputs: [a, b], outputs: ['sum'] }, /^outputs\[0\] is "sum"; it takes an object/],
    [{ inputs: [a, b], outputs: { name: 'sum' } }, /^outputs is an object; it takes a list/],
    [{ inputs: { a, b } }, /^inputs is an object; it takes a list/],
    [{ inputs: [a, null] }, /^inputs\[1\] is null; it takes an object/],
    [{ inputs: [a, b], parameters: [] }, /^parameters is a list of 0; it takes an object/],
    [{ inputs: [a, { ...b, parameters: 1 }] }, /^inputs\[1\]\.parameters is 1/],
    [[], /^the body is a list of 0 where an object is needed/],
    ['"text"', /^the body is "text"/],
    ['null', /^the body is null/],
  ]
  for (const [body, message] of refused) {
    const answer = await infer(app, 'two', body)
    t.match(answer, { status: 400, body: { error: message } }, answer.text)
  }
  t.match((await infer(app, 'two', { inputs: [a] })).body.error, takes)
  t.strictSame(Object.keys((await ask(app, 'POST', '/v2/models/two/infer', { inputs: [a] })).body), ['error'])
})
