import t from 'tap'
import { JsonBytes } from '../../../../service/src/inference/tensors/json-bytes.js'

t.test('texts of every length and script come out as they went in', async t => {
  const out = new JsonBytes()
  const texts = ['', 'a', 'é', 'ab€', '𝄞', 'x'.repeat(48), 'x'.repeat(49), `${'x'.repeat(20)}é${'y'.repeat(20)}`]
  for (const text of texts) t.equal(out.clear().json(text).text(), text)
  out.clear()
  for (const text of texts) out.json(text)
  t.equal(out.take().toString('utf8'), texts.join(''))
})

t.test('a text larger than what is kept for it is whole, and the next one is not touched by it', async t => {
  const out = new JsonBytes()
  const piece = '"Übergröße",'
  const large = piece.repeat(100_000)
  out.clear()
  for (let i = 0; i < 100_000; i++) out.json(piece)
  const taken = out.take()
  out.clear().json('0'.repeat(40))
  t.equal(out.take().toString('utf8'), '0'.repeat(40))
  t.equal(taken.toString('utf8'), large)
  out.clear()
  for (let i = 0; i < 100_000; i++) out.json(piece)
  t.equal(out.text(), large)
})

t.test('what was taken stays while others are written', async t => {
  const out = new JsonBytes()
  const first = out.clear().json('[1,2,3]').take()
  out.clear().json('[4,5,6]')
  t.equal(first.toString('utf8'), '[1,2,3]')
})
