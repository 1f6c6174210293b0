import fc from 'fast-check'
import t from 'tap'
import { nestsDeeper, readJsonText } from '../../../../service/src/inference/tensors/json-text.js'

const deep = (text: string, limit: number) => nestsDeeper(Buffer.from(text), limit)

t.test('the depth of a body is counted outside of its texts', async t => {
  t.notOk(deep('[[1],[2],[3]]', 2))
  t.ok(deep('[[1],[2,{}],[3]]', 2))
  t.notOk(deep('["[[[[", "\\"[[[", "\\\\"]', 1))
  t.ok(deep('["\\\\", [1]]', 1))
  t.notOk(deep('"[[[', 1), 'what is no JSON is left to the parser')
  t.ok(deep(`["${'long '.repeat(100)}\\\\",[1]]`, 1), 'behind a long text')
  t.notOk(deep(`["${'long '.repeat(100)}\\",[[[["]`, 1), 'in a long text')
})

/** The plain way, byte by byte. */
function depthOver(json: Uint8Array, limit: number): boolean {
  let depth = 0
  for (let i = 0; i < json.length; i++) {
    const character = String.fromCharCode(json[i] as number)
    if ('[{'.includes(character) && ++depth > limit) return true
    if (']}'.includes(character)) depth--
    if (character !== '"') continue
    for (i++; i < json.length && json[i] !== 0x22; i++) if (json[i] === 0x5c) i++
  }
  return false
}

t.test('the depth is that of a plain count, wherever the bytes lie in memory', async t => {
  const piece = fc.oneof(
    fc.constantFrom('[', '[', ']', '{', '}', '"', '\\', '\\"', ',', ':', ' ', '1', '-0.5e7', 'true', '\u0080', 'ü'),
    fc.nat(80).map(length => '1,'.repeat(length)),
    fc.tuple(fc.nat(90), fc.constantFrom('a', '\\\\', '[')).map(([length, text]) => `"${text.repeat(length)}"`),
    fc.nat(90).map(length => `"${'a'.repeat(length)}\\`),
  )
  let over = 0
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 40 }), fc.nat(7), fc.nat(6), (pieces, offset, limit) => {
      const text = Buffer.from(pieces.join(''))
      const memory = Buffer.alloc(text.length + offset + 9, '[')
      text.copy(memory, offset)
      const bytes = memory.subarray(offset, offset + text.length)
      const expected = depthOver(bytes, limit)
      if (expected) over++
      return nestsDeeper(bytes, limit) === expected
    }),
    { numRuns: Number(process.env.FC_RUNS ?? 10_000) },
  )
  t.ok(over > 500, `${over} went too deep`)
})

t.test('a body is the value that JSON.parse gives, or what is wrong with it', async t => {
  const read = (text: string | Buffer) => readJsonText(Buffer.from(text as string))
  t.strictSame(read('{"a":[1,"ü"]}'), { text: '{"a":[1,"ü"]}', value: { a: [1, 'ü'] } })
  t.strictSame(read('\ufeff[1]'), { text: '[1]', value: [1] }, 'without a byte order mark')
  t.match(read(''), { fault: /is empty/ })
  t.match(read(Buffer.from([0x22, 0xff, 0x22])), { fault: /is not UTF-8/ })
  t.match(read('['.repeat(65)), { fault: /deeper than 64/ })
  t.match(read('[1 2]'), { fault: /is not valid JSON from character 3 on/ })
  t.match(read('[1'), { fault: /is not valid JSON/ })
  t.match(read('nonsense'), { fault: /is not valid JSON/ })
})
