import t from 'tap'
import { nestsDeeper } from '../../../../service/src/inference/tensors/json-text.js'

t.test('the depth of a body is counted outside of its texts', async t => {
  const deep = (text: string, limit: number) => nestsDeeper(Buffer.from(text), limit)
  t.notOk(deep('[[1],[2],[3]]', 2))
  t.ok(deep('[[1],[2,{}],[3]]', 2))
  t.notOk(deep('["[[[[", "\\"[[[", "\\\\"]', 1))
  t.ok(deep('["\\\\", [1]]', 1))
  t.notOk(deep('"[[[', 1), 'what is no JSON is left to the parser')
})
