import { readFileSync } from 'node:fs'
import { runInThisContext } from 'node:vm'
import * as entry from 'ml-api-rate-limiter'
import t from 'tap'
import { parseLimiter, parseRegistration } from '../../plugin/src/options/parse.js'
import * as table from '../../plugin/src/options/table.js'
import {
  byHandOptions,
  concurrencyOptions,
  type LimiterOptions,
  limiterOptions,
  policyOptions,
  prefetchOptions,
  type RateLimitPluginOptions,
  registrationOptions,
} from '../../plugin/src/options/table.js'
import { codeOf, type Row, readPage, root, tableRows } from './markdown.js'

const page = readPage('docs/options.md')
const rows = tableRows(page).filter(row => 'Option' in row.cells)
const NESTED = { Policies: policyOptions, Concurrency: concurrencyOptions, Prefetch: prefetchOptions }

/** Options without a default that could be written down as a value. */
const NO_VALUE = new Set([
  ...['policies', 'concurrency', 'keyGenerator', 'allowList', 'groupId', 'errorResponseBuilder', 'redis', 'nameSpace'],
  ...[
    'store',
    'onExceeding',
    'onExceeded',
    'onBanReach',
    'onDecision',
    'onStoreEvent',
    'refundOn',
    'name',
    'hashTag',
    'counts',
  ],
])

const nameOf = ({ cells }: Row) => codeOf(cells.Option) ?? `not code: ${cells.Option}`
const namesUnder = (heading: string) =>
  rows
    .filter(row => row.heading === heading)
    .map(nameOf)
    .sort()

/** The examples speak of a client and a store. */
class Redis {
  evalsha() {}
  eval() {}
  connect() {}
  on() {}
  off() {}
}
class MyStore {}
Object.assign(globalThis, { Redis, MyStore })

const value = (code: string): unknown => runInThisContext(`(${code})`)

/** Everything that the options say, with all defaults. */
function parsed(options: Record<string, unknown>): unknown {
  const { store, redis, ...rest } = options as LimiterOptions & RateLimitPluginOptions
  const { name, ...registration } = options
  return JSON.parse(
    JSON.stringify({ ...parseLimiter(rest), ...parseRegistration(registration) }, (_name, part: unknown) =>
      typeof part === 'function' ? String(part) : part,
    ),
  )
}

t.test('the tables have every option, and no other', async t => {
  const main = rows.filter(row => !(row.heading in NESTED))
  const all = { ...limiterOptions, ...registrationOptions, ...byHandOptions }
  t.strictSame(main.map(nameOf).sort(), Object.keys(all).sort())
  for (const [heading, schema] of Object.entries(NESTED)) t.strictSame(namesUnder(heading), Object.keys(schema).sort())
})

for (const row of rows) {
  const name = nameOf(row)
  const { Default: shown = '', Meaning: meaning = '', Example: example } = row.cells
  t.test(`${row.heading}: ${name}`, async t => {
    t.ok(meaning.length > 0 && row.cells.Type, 'has a type and a meaning')
    const code = codeOf(example)
    if (code === undefined) return t.fail('has an example')
    const given = value(`{ ${code} }`) as Record<string, unknown>
    t.strictSame(Object.keys(given), [name], 'the example is one of this option')

    const within = (part: Record<string, unknown>): Record<string, unknown> => {
      if (row.heading === 'Policies') return { policies: [{ name: 'p', max: 1, timeWindow: 1, ...part }] }
      if (row.heading === 'Concurrency') return { concurrency: { max: 1, ...part } }
      if (row.heading === 'Prefetch') return { prefetch: { max: 1, ...part } }
      return part
    }
    t.notSame(parsed(within(given)), parsed(within({})), 'the example is accepted and changes something')

    const fallback = codeOf(shown)
    const required = row.cells.Type?.includes('required')
    const isInherited = name === 'keyGenerator'
    if (required || (NO_VALUE.has(name) && (isInherited || !(row.heading in NESTED))))
      return t.notOk(fallback, 'has no default value')
    if (fallback === undefined) return t.fail('has a default value')
    return t.strictSame(parsed(within({ [name]: value(fallback) })), parsed(within({})), `the default is ${fallback}`)
  })
}

t.test('the tables are those that `npm run docs` writes from the tables of the code', async t => {
  const { withOptionTables } = (await import(new URL('scripts/option-tables.mjs', root).href)) as {
    withOptionTables(page: string, tables: object, source: string): string
  }
  t.equal(page, withOptionTables(page, table, readPage('plugin/src/options/table.ts')))
})

t.test('options for the registration alone are marked so', async t => {
  const marked = rows.filter(({ cells }) => cells.Meaning?.includes('Registration only')).map(nameOf)
  t.strictSame(marked.sort(), Object.keys(registrationOptions).sort())
})

t.test('the exports are all that the package exports', async t => {
  const exported = tableRows(page).filter(row => 'Export' in row.cells)
  const named = (type: boolean) =>
    exported
      .filter(({ cells }) => (cells.Kind === 'type') === type)
      .map(({ cells }) => codeOf(cells.Export))
      .sort()
  t.strictSame(named(false), Object.keys(entry).sort())
  const source = readFileSync(new URL('plugin/src/index.ts', root), 'utf8')
  const lists = [...source.matchAll(/^export type \{([^}]*)\}/gm)].flatMap(([, list]) => (list ?? '').split(','))
  const declared = [...source.matchAll(/^export (?:interface|type) (\w+)/gm)].map(([, name]) => name as string)
  const types = [...lists.map(name => name.trim()).filter(name => name !== ''), ...declared]
  t.strictSame(named(true), types.sort())
})

t.test('the decorators are all that the plugin adds', async t => {
  const source = readFileSync(new URL('plugin/src/index.ts', root), 'utf8')
  const decorated = [...source.matchAll(/^ {2}decorate\(app, '(\w+)'/gm)].map(([, name]) => `app.${name}`)
  const documented = tableRows(page).flatMap(({ cells }) => codeOf(cells.Decorator) ?? [])
  for (const name of [...decorated, 'request.rateLimit']) {
    t.ok(
      documented.some(text => text.startsWith(name)),
      name,
    )
  }
  for (const text of documented) {
    t.ok([...decorated, 'request.rateLimit'].includes(text.split(/[.(]/).slice(0, 2).join('.')), text)
  }
})
