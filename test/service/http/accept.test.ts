import t from 'tap'
import { prefersCsv } from '../../../service/src/http/accept.js'

t.test('an answer is CSV where accept names it, and nothing that it likes better', async t => {
  for (const accept of ['text/csv', 'Text/CSV', ' text/csv; charset=utf-8', 'text/csv, */*', '*/*, text/csv;q=0.5']) {
    t.ok(prefersCsv(accept), accept)
  }
  t.ok(prefersCsv('text/csv, application/json'), 'of two alike')
  t.ok(prefersCsv('application/x-ndjson;q=0.5, text/csv;q=0.9'))
  for (const accept of [undefined, '', '*/*', 'text/*', 'text/csv-schema', 'text/csv;q=0', 'text/csv;q=x']) {
    t.notOk(prefersCsv(accept), `${accept}`)
  }
  t.notOk(prefersCsv('application/x-ndjson, text/csv;q=0.5'))
})
