import fc from 'fast-check'
import t from 'tap'
import { PlainBodyReader } from '../../../../service/src/inference/tensors/plain-body.js'

const reader = new PlainBodyReader()
const read = (text: string) => reader.read(Buffer.from(text))

t.test('plain bodies are what JSON.parse makes of them', async t => {
  for (const text of [
    '{"model":"digits","features":[0,1,2.5,-3,-0,-0.0,16]}',
    '{"features":[[1,2],[3,4.25]]}',
    '{"features": [1, 2, 30, -4, 5.5, 6]}',
    '{"features":[ 1,  2 ,3, 4 ]}',
    '{"features":[[[[[1]]]]]}',
    ' {\t"version" : "1" ,\r\n"model":"m", "features" : [ 1 , 2 ] } ',
    '{"features":[]}',
    '{"features":[[],[1]]}',
    '{"features":"a text, and {[none]} of its signs"}',
    '{"model":"","features":[123456789,1234567890,123456789012345,0.1,1.10,0.000001,99999.9999999999]}',
    '{"features":[1e3,1E-5,1.5e+2,-2.5e-07,1e400,1e-400,0e5,0.0e-9,1e0000000000000001,12e-99999999999]}',
    '{"features":[1234567890123456,9007199254740993,12345678901234567890,123456789012345678901234567890]}',
    '{"features":[0.1234567890123456,0.30000001192092896,-0.8376536965370178,5e-324,1.7976931348623157e308]}',
    '{"features":[0.000000000000000000000000000000000001,2.2250738585072011e-308,0.1000000000000000055511151231257827]}',
    '{"inputs":{"a":[1,2],"b b":[[3.5]],"":[]},"model":"m"}',
    '{"inputs":{}}',
    '{ "inputs" : { "2" : [ 1 ] , "1" : [ ] , "2" : [ 3 ] } }',
  ]) {
    t.strictSame(read(text), JSON.parse(text), text)
  }
  const body = read('{"features":[-0,0]}') as { features: number[] }
  t.ok(Object.is(body.features[0], -0) && Object.is(body.features[1], 0), 'the sign of a zero is kept')
})

t.test('anything else is left to JSON.parse', async t => {
  for (const text of [
    '',
    '{}',
    '[1]',
    '{"features":[1]',
    '{"features":[1]}}',
    '{"features":[1]},',
    '{"features":[1,]}',
    '{"features":[,1]}',
    '{"features":[1 2]}',
    '{"features":[1, ]}',
    '{"features":[1, ,2]}',
    '{"features":[1, 02]}',
    '{"features":[01]}',
    '{"features":[00,1]}',
    '{"features":[-]}',
    '{"features":[+1]}',
    '{"features":[.5]}',
    '{"features":[1.]}',
    '{"features":[1.,2]}',
    '{"features":[1.2.3]}',
    '{"features":[1e]}',
    '{"features":[1e+]}',
    '{"features":[1e5.5]}',
    '{"features":[e5]}',
    '{"features":[--1]}',
    '{"features":[-]}',
    '{"features":[-,1]}',
    '{"features":[1,-]}',
    '{"features":[1,]}',
    '{"features":[1,2 3]}',
    '{"features":7}',
    '{"inputs":{"a":1}}',
    '{"inputs":{"a":{"b":[1]}}}',
    '{"inputs":{"__proto__":[1]}}',
    '{"inputs":{"constructor":[1]}}',
    '{"inputs":{"a":[1],}}',
    '{"inputs":{"\\u0061":[1]}}',
    '{"inputs":{"a" [1]}}',
    '{"features":[true,null]}',
    '{"features":["1"]}',
    '{"features":[{}]}',
    '{"features":[[[[[[1]]]]]]}',
    '{"features":[1],"features":[2]}',
    '{"features":[1],}',
    '{"features" [1]}',
    '{"other":[1]}',
    '{"__proto__":[1]}',
    '{"Model":"m"}',
    '{"model":"\\u0061"}',
    '{"model":"é"}',
    '{"model":"a\nb"}',
    '{"model":"a}',
    '\ufeff{"features":[1]}',
    '{"features":\u00a0[1]}',
  ]) {
    t.equal(read(text), undefined, text)
  }
})

const space = fc.constantFrom('', '', '', ' ', '\n', '\t', '\r\n  ')
const digits = (most: number) => fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: most })
const odd = fc
  .record({
    sign: fc.constantFrom('', '-'),
    whole: digits(17).map(list => list.join('')),
    decimals: fc.option(digits(20), { nil: undefined }),
    exponent: fc.option(fc.integer({ min: -330, max: 330 }), { nil: undefined }),
  })
  .map(({ sign, whole, decimals, exponent }) => {
    const fraction = decimals === undefined ? '' : `.${decimals.join('')}`
    return `${sign}${whole}${fraction}${exponent === undefined ? '' : `e${exponent}`}`
  })
const plain = fc.tuple(fc.constantFrom('', '', '-'), fc.nat(99_999), fc.option(digits(10), { nil: undefined }))
const number = fc.oneof(
  { weight: 30, arbitrary: fc.nat(16).map(String) },
  {
    weight: 30,
    arbitrary: plain.map(([sign, whole, rest]) => `${sign}${whole}${rest === undefined ? '' : `.${rest.join('')}`}`),
  },
  { weight: 10, arbitrary: odd },
  { weight: 10, arbitrary: fc.double({ noNaN: true, noDefaultInfinity: true }).map(value => JSON.stringify(value)) },
  { weight: 10, arbitrary: fc.float({ noNaN: true, noDefaultInfinity: true }).map(value => JSON.stringify(value)) },
)
const list = fc.letrec<{ list: string; value: string }>(tie => ({
  value: fc.oneof({ maxDepth: 5 }, number, tie('list')),
  list: fc
    .array(fc.tuple(space, tie('value'), space), { maxLength: 12 })
    .map(values => `[${values.map(parts => parts.join('')).join(',')}]`),
})).list
const inputs = fc
  .array(fc.tuple(fc.constantFrom('a', 'b', '1', '__proto__', 'long name'), space, list), { maxLength: 3 })
  .map(named => `{${named.map(([name, before, value]) => `"${name}":${before}${value}`).join(',')}}`)
const body = fc
  .tuple(space, list, space, fc.constantFrom('"model":"digits",', '"version":"12","model":"m",', ''))
  .chain(parts => fc.tuple(fc.constant(parts), inputs, fc.nat(3)))
  .map(([[before, features, after, others], named, odd]) =>
    odd === 0 ? `{${others}${before}"inputs":${named}${after}}` : `{${before}${others}"features":${features}${after}}`,
  )

const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Bodies that were read, and not left to JSON.parse. */
let taken = 0

/** Never anything but what JSON.parse gives, to the bit. */
const agrees = (bytes: Buffer): boolean => {
  const own = reader.read(bytes)
  if (own === undefined) return true
  taken++
  const other = parsed(bytes.toString('utf8'))
  return (
    other !== undefined &&
    JSON.stringify(own) === JSON.stringify(other) &&
    sameZeros(own.features, (other as typeof own).features) &&
    sameZeros(Object.values(own.inputs ?? {}), Object.values((other as typeof own).inputs ?? {}))
  )
}

const sameZeros = (one: unknown, other: unknown): boolean =>
  Array.isArray(one)
    ? one.every((value, index) => sameZeros(value, (other as unknown[])[index]))
    : Object.is(one, other)

t.test('numbers have the bits that JSON.parse gives them', async t => {
  taken = 0
  fc.assert(
    fc.property(body, text => agrees(Buffer.from(text))),
    { numRuns: Number(process.env.FC_RUNS ?? 5000) },
  )
  t.ok(taken > 100, `${taken} were read`)
})

t.test('no damage makes it read what is no JSON', async t => {
  taken = 0
  const damage = fc.record({ at: fc.nat(), byte: fc.constantFrom(...Buffer.from('{}[]",:-.0e\\ 123456\u00e9')) })
  fc.assert(
    fc.property(body, fc.array(damage, { minLength: 1, maxLength: 3 }), fc.boolean(), (text, all, cut) => {
      const bytes = Buffer.from(text)
      for (const { at, byte } of all) bytes[at % bytes.length] = byte
      return agrees(cut ? bytes.subarray(0, (all[0]?.at ?? 0) % bytes.length) : bytes)
    }),
    { numRuns: Number(process.env.FC_RUNS ?? 5000) },
  )
  t.ok(taken > 10, `${taken} were still whole`)
})
