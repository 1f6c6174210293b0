import t from 'tap'
import {
  bytesField,
  concatBytes,
  fields,
  integers,
  intField,
  textField,
} from '../../../../service/src/inference/onnx/protobuf.js'

const only = (bytes: Uint8Array) => {
  const [field] = fields(bytes)
  if (field === undefined) throw new Error('no field')
  return field
}

t.test('what is written is read again', async t => {
  const bytes = concatBytes([intField(1, 300), textField(2, 'ÿ'), bytesField(1000, Uint8Array.of(1, 2))])
  const read = [...fields(bytes)]
  t.strictSame(
    read.map(({ number, wire }) => [number, wire]),
    [
      [1, 0],
      [2, 2],
      [1000, 2],
    ],
  )
  t.equal(read[0]?.value, 300n)
  t.strictSame(
    read.map(({ from, end }) => end - from).reduce((sum, size) => sum + size, 0),
    bytes.length,
  )
})

t.test('repeated integers are read one by one and packed, with their sign', async t => {
  t.strictSame([...integers(intField(8, -7), only(intField(8, -7)))], [-7n])
  const packed = bytesField(8, Uint8Array.of(1, 0xfe, ...Array(8).fill(0xff), 1, 0xac, 2))
  t.strictSame([...integers(packed, only(packed))], [1n, -2n, 300n])
  const cut = bytesField(8, Uint8Array.of(0x80))
  t.throws(() => [...integers(cut, only(cut))])
})

t.test('fixed numbers are passed over by their size', async t => {
  const bytes = concatBytes([
    Uint8Array.of(8 + 5, 0, 0, 0, 0),
    Uint8Array.of(16 + 1, ...new Uint8Array(8)),
    intField(3, 1),
  ])
  t.strictSame(
    [...fields(bytes)].map(({ number, wire }) => [number, wire]),
    [
      [1, 5],
      [2, 1],
      [3, 0],
    ],
  )
})

t.test('bytes that end too early or make no sense are refused', async t => {
  const wrong = [
    Uint8Array.of(0x80),
    Uint8Array.of(0x08),
    Uint8Array.of(0x0a, 5, 1),
    Uint8Array.of(0x0d, 1),
    Uint8Array.of(0x00, 1),
    Uint8Array.of(0x0b),
    Uint8Array.of(0x08, ...new Array(11).fill(0xff)),
  ]
  for (const bytes of wrong) t.throws(() => [...fields(bytes)], Error, Buffer.from(bytes).toString('hex'))
})
