/** docs/http-api.md beside the OpenAPI document, which is made from the routes themselves, and the source. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { ERRORS } from '../../service/src/openapi/errors.js'
import { buildService } from '../support/build.js'
import { codeOf, readPage, root, tableRows } from './markdown.js'

interface Operation {
  readonly responses: Readonly<Record<string, { readonly headers?: object }>>
}

const page = readPage('docs/http-api.md')
const rows = tableRows(page).map(({ cells }) => cells)
const routeRows = rows.filter(cells => 'Route' in cells)
const codeRows = rows.filter(cells => '`code`' in cells)

/** Routes that answer pages, which are not in the document. */
const PAGES = ['GET /', 'GET /console', 'GET /docs', 'GET /openapi.json']

const { app, ask } = await buildService(t, { ADMIN_TOKEN: 'a-token-that-nobody-knows' })
const { paths } = (await ask('/openapi.json')).json() as { paths: Record<string, Record<string, Operation>> }
const operations = Object.entries(paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({
    route: `${method.toUpperCase()} ${path.replaceAll(/\{(\w+)\}/g, ':$1')}`,
    statuses: Object.keys(operation.responses),
    headers: Object.values(operation.responses).flatMap(({ headers }) => Object.keys(headers ?? {})),
  })),
)

t.test('every route is in the table, with its statuses, and no other', async t => {
  const told = new Map(routeRows.map(cells => [codeOf(cells.Route), cells.Statuses]))
  const routes = operations.filter(({ route }) => app.knownRoutes.includes(route))
  t.strictSame([...told.keys()].sort(), [...routes.map(({ route }) => route), ...PAGES].sort())
  for (const { route, statuses } of routes) t.equal(told.get(route), statuses.join(' '), route)
})

t.test('every header of an answer that the document knows is in a table', async t => {
  const told = rows.flatMap(({ Header = '' }) => [...Header.matchAll(/`([^`]+)`/g)].map(([, name]) => name))
  const headers = new Set(operations.flatMap(each => each.headers))
  t.ok(headers.size > 5)
  for (const header of headers) t.ok(told.includes(header), header)
})

t.test('every error code of the service is in the table, once, and no other', async t => {
  const sources = [
    'http/problem',
    'http/malformed',
    'http/body-coding',
    'http/json-body',
    'auth',
    'app',
    'routes/predict',
    'routes/stream',
    'routes/health',
    'routes/admin',
    'routes/keys',
    'routes/usage',
  ]
    .concat(['routes/other-methods', 'routes/events', 'protection/callers', 'protection/charges', 'inference/errors'])
    .map(name => readFileSync(new URL(`service/src/${name}.ts`, root), 'utf8'))
    .join('\n')
  const codes = new Set([...sources.matchAll(/'([A-Z][A-Z_]{5,})'/g)].map(([, code]) => code as string))
  // No codes; and what is never sent: the caller has gone, or the start fails.
  for (const word of ['ECONNRESET', 'OPTIONS', 'DELETE']) codes.delete(word)
  for (const code of ['INFERENCE_CANCELLED', 'INFERENCE_MODEL_BROKEN', 'INFERENCE_NO_MODELS']) codes.delete(code)
  codes.add('ML_RATE_QUOTA_EXCEEDED') // named by the plugin
  const own = [...codes].filter(code => !/^(?:FST|ERR|HPE)_/.test(code))
  const told = codeRows.flatMap(cells => [...(cells['`code`'] ?? '').matchAll(/`([^`]+)`/g)].map(([, code]) => code))
  t.strictSame(told.sort(), own.sort())
})

t.test('the document tells of the same errors as the page', async t => {
  const told = codeRows.map(cells => [Number(cells.Status), codeOf(cells['`code`']), cells['When, and what to do']])
  t.strictSame(told, ERRORS)
})

t.test('refusals that the document knows have a code in the table', async t => {
  const statuses = new Set(operations.flatMap(each => each.statuses).filter(status => Number(status) >= 400))
  const told = new Set(codeRows.map(({ Status }) => Status))
  t.strictSame(
    [...statuses].filter(status => !told.has(status)),
    [],
  )
})

t.test('the kinds of problems are those that are sent', async t => {
  const source = readFileSync(new URL('service/src/http/problem.ts', root), 'utf8')
  const registry = /'(https:.*http-problem-types)'/.exec(source)?.[1]
  const sent = [...source.matchAll(/`\$\{REGISTRY\}(#[a-z-]+)`/g)].map(([, kind]) => `${registry}${kind}`)
  t.strictSame(rows.flatMap(cells => codeOf(cells['`type`']) ?? []).sort(), ['about:blank', ...sent].sort())
})
