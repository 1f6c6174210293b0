import { isIP } from 'node:net'
import fc from 'fast-check'
import { Address4, Address6 } from 'ip-address'
import { normalizeIP } from 'ml-api-rate-limiter'
import t from 'tap'

const byte = fc.integer({ min: 0, max: 255 })
const ipv4 = fc.tuple(byte, byte, byte, byte).map(bytes => bytes.join('.'))
/** Zeros are frequent, so that there is something to shorten. */
const group = fc.oneof(fc.constant(0), fc.constant(0), fc.integer({ min: 0, max: 0xffff }))
const port = fc.integer({ min: 0, max: 65535 })
const zone = fc.stringMatching(/^[0-9A-Za-z.-]{1,15}$/)

/** The groups of an address in one of their many spellings. */
const spelt = (groups: readonly number[]): fc.Arbitrary<string> =>
  fc
    .record({
      width: fc.integer({ min: 1, max: 4 }),
      upper: fc.boolean(),
      dotted: fc.boolean(),
      gap: fc.tuple(fc.nat({ max: 8 }), fc.integer({ min: 1, max: 8 })),
    })
    .map(({ width, upper, dotted, gap: [from, length] }) => {
      const parts = groups.map(value => value.toString(16).padStart(width, '0'))
      const [high, low] = groups.slice(6) as [number, number]
      if (dotted) parts.splice(6, 2, `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}`)
      const run = parts.slice(from, from + length)
      const text =
        run.length > 0 && run.every(part => /^0+$/.test(part))
          ? `${parts.slice(0, from).join(':')}::${parts.slice(from + length).join(':')}`
          : parts.join(':')
      return upper ? text.toUpperCase() : text
    })
const ipv6 = fc
  .tuple(group, group, group, group, group, group, group, group)
  .chain(groups => spelt(groups).map(text => ({ groups, text })))

/** What an established library makes of it. */
function oracle(address: string, subnet: number): string {
  if (isIP(address) === 4) return new Address4(address).correctForm()
  const parsed = new Address6(address)
  if (parsed.isMapped4()) return parsed.to4().correctForm()
  return new Address6(`${address}/${subnet}`).startAddress().correctForm()
}

t.test('an address has one spelling, and an IPv6 site one key', async t => {
  for (const [given, expected] of [
    ['192.0.2.1', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['::ffff:c000:201', '192.0.2.1'],
    ['2001:DB8:0:0:0:0:0:1', '2001:db8::'],
    ['2001:db8::ffff:1', '2001:db8::'],
    ['fe80::1%eth0', 'fe80::'],
    ['Example.COM', 'example.com'],
    ['a%b', 'a%b'],
  ] as const) {
    t.equal(normalizeIP(given), expected, given)
  }
  t.equal(normalizeIP('2001:db8::1', 128), '2001:db8::1')
  t.equal(normalizeIP('2001:db8:1:2::1', 48), '2001:db8:1::')
  t.equal(normalizeIP('::1', 0), '::')
})

t.test('every spelling of an IPv6 address becomes the one that RFC 5952 recommends, cut to its subnet', async t => {
  fc.assert(
    fc.property(ipv6, fc.integer({ min: 0, max: 128 }), ({ text }, subnet) => {
      if (isIP(text) !== 6) throw new Error(`the test made ${text}`)
      return normalizeIP(text, subnet) === oracle(text, subnet)
    }),
    { numRuns: 5000 },
  )
  t.equal(normalizeIP('2001:DB8::1:0:0:1', 128), '2001:db8::1:0:0:1')
  t.equal(normalizeIP('1:0:0:2:0:0:0:3', 128), '1:0:0:2::3')
  t.equal(normalizeIP('1:0:2:3:4:5:6:7', 128), '1:0:2:3:4:5:6:7', 'one group of zeros stands as it is')
})

t.test('an address that was seen before is spelt as at first, whatever came between and however it is cut', async t => {
  const addresses = Array.from({ length: 2500 }, (_, index) => `2001:DB8:${index.toString(16)}::1`)
  const first = addresses.map(address => normalizeIP(address))
  t.strictSame(
    addresses.map(address => normalizeIP(address)),
    first,
  )
  for (const subnet of [48, 128, 48]) t.equal(normalizeIP('2001:db8:1:2::3', subnet), oracle('2001:db8:1:2::3', subnet))
})

t.test('IPv4 that is mapped into IPv6 is IPv4, however it is written', async () => {
  fc.assert(
    fc.property(
      ipv4.chain(address => {
        const [a, b, c, d] = address.split('.').map(Number) as [number, number, number, number]
        return spelt([0, 0, 0, 0, 0, 0xffff, a * 256 + b, c * 256 + d]).map(text => ({ address, text }))
      }),
      ({ address, text }) => normalizeIP(text) === address && normalizeIP(`[${text}]:80`) === address,
    ),
    { numRuns: 2000 },
  )
})

t.test('a port, brackets and a zone say nothing of who the client is', async () => {
  fc.assert(
    fc.property(ipv4, port, (address, number) => normalizeIP(`${address}:${number}`) === address),
    { numRuns: 500 },
  )
  fc.assert(
    fc.property(ipv6, port, zone, ({ text }, number, zone) =>
      [`[${text}]`, `[${text}]:${number}`, `${text}%${zone}`, `[${text}%${zone}]:${number}`].every(
        spelling => normalizeIP(spelling) === normalizeIP(text),
      ),
    ),
    { numRuns: 1000 },
  )
})

t.test('an IPv6 address that ends as IPv4 may have a port without brackets, where nothing else can follow', async t => {
  fc.assert(
    fc.property(ipv4, port, (address, number) =>
      ['::ffff:', '::FFFF:', '0:0:0:0:0:ffff:', '::fFfF:'].every(
        mapped => normalizeIP(`${mapped}${address}:${number}`) === address,
      ),
    ),
    { numRuns: 500 },
  )
  t.equal(normalizeIP('64:ff9b::192.0.2.1:80', 128), '64:ff9b::c000:201')
  t.equal(normalizeIP('::ffff:1.2.3.4:80:80'), '::ffff:1.2.3.4:80:80')
  t.equal(normalizeIP('::ffff:1.2.3.4:123456'), '::ffff:1.2.3.4:123456')
})

t.test('what is no address comes back in lower case, and nothing is taken for an address that is none', async t => {
  const like = fc.stringMatching(/^[0-9a-fA-F:.%[\]]{0,30}$/)
  const text = fc.oneof(
    like,
    fc.string(),
    ipv6.chain(({ text }) => fc.nat({ max: 38 }).map(at => text.slice(at))),
  )
  const spelling = /^\[(?<v6>[^\]]*)\](?::\d{1,5})?$|^(?<v4>[\d.]+):\d{1,5}$|^(?<dotted>[^[\]]*:[\d.]+):\d{1,5}$/
  fc.assert(
    fc.property(text, text => {
      const { v6, v4, dotted = '' } = spelling.exec(text)?.groups ?? {}
      const isMixed = dotted.includes('.') && isIP(dotted) === 6
      const isAddress = isIP(text) !== 0 || isIP(v4 ?? '') === 4 || isIP(v6 ?? '') === 6 || isMixed
      return isAddress ? isIP(normalizeIP(text)) !== 0 : normalizeIP(text) === text.toLowerCase()
    }),
    { numRuns: 10_000 },
  )
  for (const odd of ['', ':', '::1::', '1:2:3:4:5:6:7', '1:2:3:4:5:6:7:8:9', '[::1', '[::1]x', '[::1]:', '::1%', 'g::'])
    t.equal(normalizeIP(odd), odd)
  for (const odd of [
    '1.2.3.4:',
    '1.2.3.4:x',
    '1.2.3:80',
    '1.2.3.4:123456',
    '::1.2.3',
    '::ffff:1.2.3.256',
    '::ffff:1.2.3.4:',
    'Ab:80',
  ])
    t.equal(normalizeIP(odd), odd.toLowerCase())
})

t.test('a prefix length that no address has is refused', async t => {
  for (const subnet of [-1, 129, Number.NaN, Infinity]) {
    t.throws(() => normalizeIP('192.0.2.1', subnet), {
      code: 'ML_RATE_INVALID_OPTION',
      message: `option 'ipv6Subnet' is ${subnet}; allowed: a prefix length, 0 to 128`,
    })
  }
  t.equal(normalizeIP('2001:db8:1:2:3::', 63.9), normalizeIP('2001:db8:1:2:3::', 63), 'a fraction is cut off')
})
