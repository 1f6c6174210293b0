import fc from 'fast-check'
import t from 'tap'
import { decimalQuotient } from '../../../../service/src/inference/tensors/decimal.js'

const RUNS = { numRuns: Number(process.env.FC_RUNS ?? 20_000) }

/** What the digits of a text come to, as the reader of bodies splits them. */
function quotientOf(digits: string, decimals: number): number | undefined {
  const counted = digits.replace(/^0+/, '')
  const back = counted.slice(9)
  return decimalQuotient(Number(counted.slice(0, 9)), Number(back), back.length, decimals)
}

const nearest = (digits: string, decimals: number): number => Number(`${digits}e-${decimals}`)

t.test('a fraction of up to 18 digits is the nearest double, or left to others', async t => {
  let told = 0
  const digits = fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 18 }).map(list => list.join(''))
  fc.assert(
    fc.property(digits, fc.nat(44), (text, decimals) => {
      const value = quotientOf(text, decimals)
      if (value !== undefined) told++
      return value === undefined || Object.is(value, nearest(text, decimals))
    }),
    RUNS,
  )
  t.ok(told > RUNS.numRuns * 0.99, `${told} were told`)
})

t.test('doubles and floats come back from the digits they are printed with', async t => {
  let left = 0
  const printed = fc.oneof(
    fc.double({ noNaN: true, noDefaultInfinity: true, min: 1e-15, max: 1e15 }),
    fc.float({ noNaN: true, noDefaultInfinity: true, min: Math.fround(1e-10), max: Math.fround(1e10) }),
  )
  fc.assert(
    fc.property(printed, value => {
      for (const text of [value.toExponential(), value.toExponential(16)]) {
        const [, first = '', more = '', exponent] = /^(\d)(?:\.(\d+))?e([+-]\d+)$/.exec(text) ?? []
        const decimals = more.length - Number(exponent)
        const read = quotientOf(first + more, decimals)
        if (read === undefined) left += decimals < 0 ? 0 : 1
        else if (!Object.is(read, Number(text))) return false
      }
      return true
    }),
    RUNS,
  )
  t.ok(left < RUNS.numRuns / 100, `${left} were left`)
})

t.test('what lies halfway between two doubles is left to others', async t => {
  t.equal(quotientOf('9007199254740993', 0), undefined, '2^53 + 1')
  t.equal(quotientOf('90071992547409930', 1), undefined)
  t.equal(quotientOf('9007199254740992', 0), 2 ** 53)
  t.equal(quotientOf('9007199254740994', 0), 2 ** 53 + 2)
  fc.assert(
    fc.property(fc.bigInt({ min: 2n ** 53n, max: 10n ** 18n - 1n }), whole => {
      // Between 2^k and 2^(k+1) doubles lie 2^(k-52) apart.
      const half = 2n ** BigInt(whole.toString(2).length - 54)
      const middle = (whole / (2n * half)) * 2n * half + half
      for (const near of [middle - 1n, middle, middle + 1n]) {
        const value = quotientOf(`${near}`, 0)
        if (value !== undefined && value !== Number(near)) return false
      }
      return quotientOf(`${middle}`, 0) === undefined
    }),
    RUNS,
  )
})

t.test('what is out of range is left to others', async t => {
  t.equal(decimalQuotient(1, 0, 0, 45), undefined)
  t.equal(decimalQuotient(1, 0, 0, -1), undefined)
  t.equal(decimalQuotient(1, 1, 10, 3), undefined)
})
