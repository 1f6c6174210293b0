import type { Decision } from 'ml-api-rate-limiter'
import t from 'tap'
import * as errors from '../../plugin/src/errors.js'
import { codeOf, readPage, tableRows } from './markdown.js'

const classes: Readonly<Record<string, unknown>> = { ...errors }

interface Known {
  readonly code: string
  readonly statuses: string
  readonly message: string
}

/** What the class says of itself; `%s` and `%d` stand where a message names something. */
function known(name: string): Known {
  if (name === 'QuotaExceeded') {
    const { code } = errors.QuotaExceeded
    const decision = {} as Decision
    const denials = ([429, 403] as const).map(status => new errors.QuotaExceeded('%s', status, decision))
    return { code, statuses: denials.map(error => error.statusCode).join(', '), message: denials[0]?.message ?? '' }
  }
  // Fastify answers with 500 where an error says nothing.
  if (name === 'StoreClosed') {
    return { code: errors.StoreClosed.code, statuses: '500', message: new errors.StoreClosed().message }
  }
  const Made = classes[name] as new (...args: unknown[]) => Error & { code: string; statusCode: number }
  const { code, statusCode, message } = new Made()
  return { code, statuses: String(statusCode), message }
}

const rows = tableRows(readPage('docs/headers-and-errors.md')).filter(row => 'Code' in row.cells)

t.test('the page has every error, and no other', async t => {
  t.strictSame(rows.map(({ cells }) => codeOf(cells.Export)).sort(), Object.keys(classes).sort())
})

for (const { cells } of rows) {
  const name = codeOf(cells.Export)
  t.test(`${name}: code, status and message are what the class says`, async t => {
    if (name === undefined || !(name in classes)) return t.fail('is exported')
    const message = cells.Message?.replace(/^(`+) ?/, '').replace(/ ?`+$/, '') ?? ''
    return t.strictSame({ code: codeOf(cells.Code), statuses: cells.Status, message }, known(name))
  })
}
