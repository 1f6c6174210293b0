import t from 'tap'
import { RequestIds } from '../../../service/src/http/request-id.js'

/** Version 8, variant 10: RFC 9562. */
const FORM = /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

t.test('ids of requests are UUIDs, and none comes twice', async t => {
  const [one, other] = [new RequestIds(), new RequestIds()]
  const ids = Array.from({ length: 100_000 }, () => [one.next(), other.next()]).flat()
  t.ok(ids.every(id => FORM.test(id)))
  t.equal(new Set(ids).size, ids.length)
})
