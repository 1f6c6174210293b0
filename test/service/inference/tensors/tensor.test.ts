import fc from 'fast-check'
import t from 'tap'
import { fromFloat16Bits, toFloat16Bits } from '../../../../service/src/inference/tensors/float16.js'
import { JsonBytes } from '../../../../service/src/inference/tensors/json-bytes.js'
import { refusal, tensorOf, writeValues } from '../../../../service/src/inference/tensors/tensor.js'
import type { Datatype } from '../../../../service/src/inference/types.js'
import { nestedOf, valuesOf } from '../../../support/values.js'

/** Values that a datatype takes as they are, and values that it must refuse. */
const cases: Readonly<Record<Datatype, { takes: unknown[]; refuses: unknown[] }>> = {
  BOOL: { takes: [true, false], refuses: [2, -1, 0.5, 'true', null, Number.NaN] },
  UINT8: { takes: [0, 255], refuses: [-1, 256, 300, 1.5] },
  UINT16: { takes: [0, 65535], refuses: [-1, 65536] },
  UINT32: { takes: [0, 4294967295], refuses: [-1, 4294967296, 3.5] },
  UINT64: {
    takes: [0, 9007199254740991, '18446744073709551615'],
    refuses: [-1, '-1', 2 ** 53, '18446744073709551616'],
  },
  INT8: { takes: [-128, 127], refuses: [-129, 128] },
  INT16: { takes: [-32768, 32767], refuses: [-32769, 32768] },
  INT32: { takes: [-2147483648, 2147483647], refuses: [3e9, -2147483649] },
  INT64: {
    takes: [-5, 9007199254740991, '9223372036854775807', '-9223372036854775808'],
    refuses: [2 ** 53, '9223372036854775808', '1.0', '0x10', ' 1', '1e3', '', 1.5],
  },
  FP16: { takes: [0.5, -65504, 0], refuses: [65520, -1e6] },
  FP32: { takes: [0.1, -3.4028235e38, 0, 1e-30], refuses: [3.5e38, -1e39, 1e308] },
  FP64: { takes: [0.1, 1e308, -1e-308], refuses: [] },
  BYTES: { takes: ['', 'a', 'ÿ😀', '\u0001'], refuses: ['a\0b', '\ud800', 7, true] },
}

const common = [null, undefined, {}, [], [1]]
const commonNumbers = ['7x', '', Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]

for (const [datatype, { takes, refuses }] of Object.entries(cases) as [Datatype, (typeof cases)[Datatype]][]) {
  t.test(`${datatype} values come back as they went in`, async t => {
    const tensor = tensorOf(datatype, [takes.length], takes)
    t.strictSame(valuesOf(tensor), takes)
  })
  t.test(`${datatype} refuses what it cannot hold, naming the first`, async t => {
    const wrong = [...refuses, ...common, ...(datatype === 'BYTES' ? [] : commonNumbers)]
    for (const value of wrong) {
      const target = tensorOf(datatype, [2], [takes[0], takes[0]]).data
      t.equal(writeValues(datatype, [takes[0], value], target, 0), 1, String(JSON.stringify(value) ?? value))
    }
  })
}

t.test('a refusal says the value and what the model takes', async t => {
  t.equal(refusal('UINT8', 300), 'is 300; the model takes an integer from 0 to 255')
  t.equal(
    refusal('FP32', '7'),
    'is "7"; the model takes a number within ±3.4028235e38 (float32), "NaN", "Infinity" or "-Infinity"',
  )
  t.equal(
    refusal('FP32', null),
    'is null; the model takes a number within ±3.4028235e38 (float32), "NaN", "Infinity" or "-Infinity"',
  )
  t.match(refusal('BYTES', 'x'.repeat(100)), /^is "x{39}…; /, 'long values are cut')
})

t.test('numbers that JSON lacks are taken as they are given out', async t => {
  const words = ['NaN', 'Infinity', '-Infinity', 1]
  for (const datatype of ['FP16', 'FP32', 'FP64'] as const) {
    t.strictSame(valuesOf(tensorOf(datatype, [4], words)), words, datatype)
    for (const word of ['nan', 'inf', '+Infinity', ' NaN', 'infinity']) {
      t.equal(writeValues(datatype, [word], tensorOf(datatype, [1], [1]).data, 0), 0, `${datatype}: ${word}`)
    }
  }
  for (const datatype of ['INT32', 'INT64', 'BOOL'] as const) {
    t.equal(writeValues(datatype, ['NaN'], tensorOf(datatype, [1], [1]).data, 0), 0, datatype)
  }
})

t.test('0 and 1 stand for false and true', async t => {
  t.strictSame(valuesOf(tensorOf('BOOL', [2], [1, 0])), [true, false])
})

t.test('64-bit integers beyond what JSON readers keep exact are written as strings', async t => {
  const tensor = tensorOf('INT64', [3], ['9007199254740991', '9007199254740992', '-9007199254740992'])
  t.strictSame(valuesOf(tensor), [9007199254740991, '9007199254740992', '-9007199254740992'])
})

t.test('NaN and the infinities are written as strings, never as null', async t => {
  const values = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
  const words = ['NaN', 'Infinity', '-Infinity']
  t.strictSame(valuesOf({ datatype: 'FP32', shape: [3], data: Float32Array.from(values) }), words)
  t.strictSame(valuesOf({ datatype: 'FP64', shape: [3], data: Float64Array.from(values) }), words)
  t.strictSame(valuesOf({ datatype: 'FP16', shape: [3], data: Uint16Array.of(0x7e00, 0x7c00, 0xfc00) }), words)
})

t.test('float32 answers have the fewest digits that read back as the same value', async t => {
  const out = new JsonBytes()
  const float32Text = (value: number) => out.clear().float32(value).text()
  t.equal(float32Text(Math.fround(0.1)), '0.1')
  t.equal(float32Text(Math.fround(0.3)), '0.3')
  t.equal(float32Text(-0), '-0')
  t.equal(float32Text(Math.fround(3.4028235e38)), '3.4028235e+38')
  t.equal(float32Text(Math.fround(1e-45)), String(Number(Math.fround(1e-45).toPrecision(6))))
  const property = (value: number) => {
    const text = float32Text(value)
    const digits = text.replace(/e.*$/, '').replace('.', '').replace(/^-?0*/, '')
    // Nine digits always suffice; fewer than the shortest would not read back.
    return Math.fround(Number(text)) === value && text === javaScript(Number(text)) && digits.length <= 9
  }
  const javaScript = (number: number) => (Object.is(number, -0) ? '-0' : String(number))
  const noWords = { noNaN: true, noDefaultInfinity: true }
  const isWhole = (value: number) => Number.isInteger(value)
  const reads = (value: number) => Math.fround(Number(float32Text(value))) === value
  fc.assert(
    fc.property(fc.float(noWords), value => (isWhole(value) ? reads(value) : property(value))),
    { numRuns: 20_000 },
  )
  fc.assert(fc.property(fc.float({ min: -1, max: 1, noNaN: true }), property), { numRuns: 20_000 })
  for (const value of [0, 1, 9, 10, 99_999, 100_000, 9_999_999, 16_777_215, 16_777_216]) {
    t.equal(float32Text(value), `${value}`)
    if (value !== 0) t.equal(float32Text(-value), `-${value}`)
  }
  // Ten times as large each: every way to write a number, and every border between two.
  for (let exponent = -45; exponent < 38; exponent++) {
    for (const start of [1, 1.5, 9.999999, 9.9999999, 1.2345678]) {
      const value = Math.fround(start * 10 ** exponent)
      t.ok(value === 0 || isWhole(value) || (property(value) && property(-value)), `${value}`)
    }
  }
})

t.test('float16 rounds to the nearest value, ties to even', async t => {
  const nearest = (value: number): number => {
    // The oracle: search all finite halves.
    let best = 0
    for (let bits = 0; bits < 0x7c00; bits++) {
      const distance = Math.abs(fromFloat16Bits(bits) - value)
      const shortest = Math.abs(fromFloat16Bits(best) - value)
      if (distance < shortest || (distance === shortest && (bits & 1) === 0)) best = bits
    }
    return best
  }
  const ties = [1 + 2 ** -11, 1 + 3 * 2 ** -11, 2 ** -25, 3 * 2 ** -25, 65519.999, 2049, 2051, 0.1, 2 ** -24 * 1.5]
  const nearTies = [1 + 2 ** -11 + 2 ** -40, 1 + 2 ** -11 - 2 ** -40, 1 + 3 * 2 ** -11 - 2 ** -45]
  for (const value of [...ties, ...nearTies]) t.equal(toFloat16Bits(value), nearest(value), String(value))
  t.equal(toFloat16Bits(65520), 0x7c00, 'half a unit beyond the largest is Infinity')
  t.equal(toFloat16Bits(-0), 0x8000)
  t.equal(toFloat16Bits(Number.NaN) & 0x7c00, 0x7c00)
})

t.test('values nest as the shape says', async t => {
  const tensor = tensorOf('INT32', [2, 1, 2], [1, 2, 3, 4])
  t.strictSame(nestedOf(tensor), [[[1, 2]], [[3, 4]]])
  t.equal(nestedOf(tensorOf('INT32', [], [7])), 7)
  t.throws(() => tensorOf('UINT8', [1], [300]), RangeError)
})
