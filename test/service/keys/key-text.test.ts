import fc from 'fast-check'
import t from 'tap'
import { isKeyText, newId, newKeyText, shownOf } from '../../../service/src/keys/key-text.js'

t.test('a key shows 8 characters of its id, and no two are alike', async t => {
  const keys = new Set(Array.from({ length: 1000 }, () => newKeyText(newId())))
  t.equal(keys.size, 1000)
  for (const key of keys) t.match(key, /^mlk_[0-9A-Za-z]{8}_[0-9A-Za-z]{38}$/)
  const id = newId()
  t.match(newKeyText(id), `mlk_${id.slice(0, 8)}_`)
  t.equal(shownOf(id), `mlk_${id.slice(0, 8)}_…`)
})

t.test('a key with any one character mistyped, two swapped or one lost is told', async t => {
  const key = newKeyText(newId())
  t.ok(isKeyText(key))
  fc.assert(
    fc.property(fc.nat(key.length - 1), fc.constantFrom(...'0123456789ABCXYZabcxyz_-'), (at, other) => {
      const mistyped = key.slice(0, at) + other + key.slice(at + 1)
      return mistyped === key || !isKeyText(mistyped)
    }),
    { numRuns: 2000 },
  )
  for (let at = 0; at + 1 < key.length; at++) {
    const swapped = key.slice(0, at) + key[at + 1] + key[at] + key.slice(at + 2)
    if (swapped !== key) t.notOk(isKeyText(swapped), `swapped at ${at}`)
    t.notOk(isKeyText(key.slice(0, at) + key.slice(at + 1)), `lost at ${at}`)
  }
  for (const text of ['', 'mlk_', ` ${key}`, `${key}\n`, key.toUpperCase()]) t.notOk(isKeyText(text))
})

t.test('the checksum is the CRC-32 of what stands before it, in base62', async t => {
  // CRC-32 of `mlk_00000000_` and 32 zeros, as Python's zlib has it: 2006378617.
  t.ok(isKeyText(`mlk_00000000_${'0'.repeat(32)}2BmYjR`))
})
