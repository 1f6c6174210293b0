import fc from 'fast-check'
import t from 'tap'
import { AllowList, isAddressOrRange } from '../../plugin/src/allow-list.js'

const WIDTH = { 4: 32, 6: 128 } as const
type Family = keyof typeof WIDTH

/** An address as the number that it is. */
interface Address {
  readonly family: Family
  readonly bits: bigint
}

const text = ({ family, bits }: Address): string => {
  const size = family === 4 ? 8n : 16n
  const parts = Array.from({ length: family === 4 ? 4 : 8 }, (_, index, count = family === 4 ? 4 : 8) =>
    Number((bits >> (size * BigInt(count - 1 - index))) & ((1n << size) - 1n)),
  )
  return family === 4 ? parts.join('.') : parts.map(part => part.toString(16)).join(':')
}

const addressOf = (family: Family) =>
  fc.bigInt({ min: 0n, max: (1n << BigInt(WIDTH[family])) - 1n }).map(bits => ({ family, bits }))
const family = fc.constantFrom<Family>(4, 6)
const address = family.chain(addressOf).filter(({ family, bits }) => family === 4 || bits >> 32n !== 0xffffn)

/** A range, and an address whose first bits are mostly those of the range. */
const pair = address.chain(base =>
  fc
    .record({
      prefix: fc.integer({ min: 0, max: WIDTH[base.family] }),
      changed: fc.integer({ min: 0, max: WIDTH[base.family] }),
      other: addressOf(base.family),
    })
    .map(({ prefix, changed, other }) => {
      const low = (1n << BigInt(WIDTH[base.family] - changed)) - 1n
      return { base, prefix, asked: { family: base.family, bits: (base.bits & ~low) | (other.bits & low) } }
    })
    // A mapped address is an IPv4 address.
    .filter(({ asked }) => asked.family === 4 || asked.bits >> 32n !== 0xffffn),
)

/** Whether two numbers agree in their first bits. */
function contains(base: Address, prefix: number, asked: Address): boolean {
  const rest = BigInt(WIDTH[base.family] - prefix)
  return base.family === asked.family && base.bits >> rest === asked.bits >> rest
}

/** How proxies and sockets may write an address. */
const spellings = (address: Address): string[] =>
  address.family === 4
    ? [text(address), `${text(address)}:80`, `::ffff:${text(address)}`, `[::FFFF:${text(address)}]:80`]
    : [text(address), text(address).toUpperCase(), `[${text(address)}]:80`, `${text(address)}%eth0`]

t.test('a range holds exactly the addresses that share its prefix', async t => {
  fc.assert(
    fc.property(pair, ({ base, prefix, asked }) => {
      const list = new AllowList([`${text(base)}/${prefix}`], false)
      return spellings(asked).every(ip => list.has(ip, 'key') === contains(base, prefix, asked))
    }),
    { numRuns: 3000 },
  )
  const everybody = new AllowList(['::/0'], false)
  t.notOk(everybody.has('192.0.2.1', ''), 'a range of IPv6 has no IPv4 address')
  t.ok(everybody.has('2001:db8::1', ''))
})

t.test('an address is held against the whole address of the client, in every spelling of both', async t => {
  fc.assert(
    fc.property(pair, ({ base, asked }) =>
      spellings(base).every(entry => {
        const list = new AllowList([entry], false)
        return spellings(asked).every(ip => list.has(ip, 'key') === (base.bits === asked.bits))
      }),
    ),
    { numRuns: 500 },
  )
  const list = new AllowList(['2001:db8::', '2001:db8:0:1::5'], false)
  t.ok(list.has('2001:db8:0:1::5', '2001:db8:0:1::'))
  t.notOk(list.has('2001:db8::7', '2001:db8::'), 'not with the key, which is cut to the subnet')
})

t.test('many entries are held against a client in any order', async () => {
  fc.assert(
    fc.property(fc.array(pair, { minLength: 1, maxLength: 20 }), pairs => {
      const list = new AllowList(
        pairs.map(({ base, prefix }) => `${text(base)}/${prefix}`),
        false,
      )
      return pairs.every(({ asked }) => {
        const expected = pairs.some(({ base, prefix }) => contains(base, prefix, asked))
        return list.has(text(asked), '') === expected
      })
    }),
  )
})

t.test('a range of mapped IPv4 addresses is one of IPv4 addresses', async t => {
  const list = new AllowList(['::ffff:10.0.0.0/104', '::ffff:c000:200/120'], false)
  t.ok(list.has('10.1.2.3', ''))
  t.ok(list.has('::ffff:192.0.2.77', ''))
  t.notOk(list.has('11.0.0.1', ''))
})

t.test('where the key is not the address, every entry is a key too', async t => {
  const entries = ['friend', '10.0.0.0/8', '192.0.2.1', '7']
  const list = new AllowList(entries, true)
  for (const key of [...entries, 7]) t.ok(list.has('198.51.100.1', key), String(key))
  t.notOk(list.has('198.51.100.1', 'fri'), 'the whole key')
  t.ok(list.has('10.9.9.9', 'nobody'))
  t.ok(list.has('::ffff:192.0.2.1', 'nobody'))
  t.notOk(new AllowList(entries, false).has('198.51.100.1', '192.0.2.1'), 'and no key where it is')
})

t.test('a client without an address, or with a text that is none, is on no list of addresses', async t => {
  const list = new AllowList(['0.0.0.0/0', '::/0'], false)
  for (const ip of [undefined, '', 'unknown', '_hidden', '1.2.3', ':::']) t.notOk(list.has(ip, ''))
})

t.test('what is neither an address nor a range is told apart', async t => {
  for (const entry of ['192.0.2.1', '192.0.2.0/24', '::1', '[::1]:80', '::/0', 'fe80::1%eth0', '::ffff:1.2.3.4'])
    t.ok(isAddressOrRange(entry), entry)
  for (const entry of [
    ...['', 'friend', '192.0.2', '192.0.2.0/33', '::/129', '192.0.2.0/', '192.0.2.0/x', '192.0.2.0/255.255.255.0'],
    ...['10.0.0.0/-1', '10.0.0.0/8 ', '10.0.0.0/8/8', 'fe80::1%eth0/64', '10.0.0.0-10.0.0.9', '/8'],
  ])
    t.notOk(isAddressOrRange(entry), entry)
})
