import type { RouteOptions } from 'fastify'
import Fastify from 'fastify'
import rateLimit from 'ml-api-rate-limiter'
import t from 'tap'
import { RouteNames } from '../../plugin/src/route-name.js'
import { STORES } from '../support/plugin.js'

function names(...constraints: unknown[]): string[] {
  const routes = new RouteNames()
  return constraints.map(one =>
    JSON.stringify(routes.nameOf({ method: 'GET', url: '/', constraints: one } as RouteOptions)),
  )
}

t.test('routes with constraints that differ in anything have different names', async t => {
  const [even, odd] = [() => 1, () => 1]
  const looped: Record<string, unknown> = { a: 1 }
  looped.self = looped
  const different = [
    undefined,
    { host: 'a' },
    { host: /a/ },
    { host: /a/i },
    { host: /b/ },
    { host: '/a/' },
    { host: even },
    { host: odd },
    { host: null },
    { host: undefined },
    { host: 'undefined' },
    { host: Number.NaN },
    { host: 1 },
    { host: '1' },
    { host: 1n },
    { host: Symbol.for('a') },
    { host: Symbol.for('b') },
    { host: new Map([['a', /a/]]) },
    { host: new Map([['a', /b/]]) },
    { host: new Set(['a']) },
    { host: ['a'] },
    { host: new Date(0) },
    { host: new Date(0).toISOString() },
    { host: { toJSON: () => 'a' } },
    { host: true, version: '1.0.0' },
    { [Symbol.for('host')]: 'a' },
    looped,
  ]
  const all = names(...different)
  t.equal(new Set(all).size, different.length)
  t.strictSame(names(...different), all, 'and the same in the next replica')
})

t.test('routes whose constraints are equal have one name, in whatever order they are given', async t => {
  t.equal(new Set(names(undefined, {})).size, 1)
  t.equal(new Set(names({ host: 'a', version: '1.0.0' }, { version: '1.0.0', host: 'a' })).size, 1)
  t.equal(new Set(names({ host: /a/g }, { host: /a/g })).size, 1)
  t.equal(names({ host: /b/ }, { host: /a/ })[1], names({ host: /a/ })[0], 'whatever was declared before')
})

t.test('a method, and a URL with anything in it, are not taken for constraints', async t => {
  const routes = new RouteNames()
  const nameOf = (route: unknown) => JSON.stringify(routes.nameOf(route as RouteOptions))
  const constraints = { host: 'a' }
  const all = [
    nameOf({ method: 'GET', url: '/', constraints }),
    nameOf({ method: 'GET', url: '/ {"host":"a"}' }),
    nameOf({ method: 'POST', url: '/', constraints }),
    nameOf({ method: ['PUT', 'GET'], url: '/', constraints }),
  ]
  t.equal(new Set(all).size, all.length)
  t.equal(nameOf({ method: ['HEAD', 'GET', 'PUT'], url: '/', constraints }), all[3])
})

t.test(
  'HEAD has the name of the route that answers GET, whatever else that answers and whichever was declared first',
  async t => {
    const named = (...methods: (string | string[])[]) => {
      const routes = new RouteNames()
      return methods.map(method => JSON.stringify(routes.nameOf({ method, url: '/' } as RouteOptions)))
    }
    for (const methods of [['GET', 'POST'], ['PUT', 'GET', 'POST'], ['GET', 'HEAD', 'POST'], 'GET']) {
      t.equal(new Set(named(methods, 'HEAD')).size, 1)
      t.equal(new Set(named('HEAD', methods)).size, 1)
      t.equal(new Set(named(methods, 'HEAD', 'DELETE')).size, 2)
      t.equal(named(methods, 'HEAD')[0], named(methods)[0], 'a HEAD that follows changes no name')
    }
    const routes = new RouteNames()
    const nameOf = (method: string | string[], host: string, url = '/') =>
      JSON.stringify(routes.nameOf({ method, url, constraints: { host } } as RouteOptions))
    const [a, b] = [nameOf(['GET', 'POST'], 'a'), nameOf(['GET', 'POST'], 'b')]
    t.equal(nameOf('HEAD', 'b'), b)
    t.equal(nameOf('HEAD', 'a'), a)
    t.not(nameOf('HEAD', 'a', '/other'), a)
  },
)

/** A strategy of the app: the value of a route is a function of the request's header. */
const tenant = {
  name: 'tenant',
  storage: () => {
    const handlers = new Map<(tenant: string) => boolean, unknown>()
    return {
      get: (tenant: string) => [...handlers].find(([matches]) => matches(tenant))?.[1] ?? null,
      set: (matches: (tenant: string) => boolean, handler: unknown) => void handlers.set(matches, handler),
    } as never
  },
  validate: () => true,
  deriveConstraint: (request: { headers: Record<string, unknown> }) => String(request.headers['x-tenant']),
}

for (const { name, options } of STORES) {
  t.test(`${name}: routes that differ in a regular expression or a function count apart`, async t => {
    const app = Fastify({ routerOptions: { constraints: { tenant } } })
    t.teardown(() => app.close())
    await app.register(rateLimit, { global: false, keyGenerator: () => 'lone', timeWindow: '1 minute', ...options(t) })
    const config = { rateLimit: { max: 1 } }
    for (const host of [/^a\./, /^b\./]) app.get('/', { config, constraints: { host } }, async () => 'ok')
    for (const tenant of ['c', 'd']) {
      app.get('/tenant', { config, constraints: { tenant: (of: string) => of === tenant } }, async () => 'ok')
    }
    const requests = [
      { url: '/', headers: { host: 'a.example' } },
      { url: '/', headers: { host: 'b.example' } },
      { url: '/tenant', headers: { 'x-tenant': 'c' } },
      { url: '/tenant', headers: { 'x-tenant': 'd' } },
    ]
    for (const request of requests) t.equal((await app.inject(request)).statusCode, 200)
    for (const request of requests) t.equal((await app.inject(request)).statusCode, 429)
    for (const request of requests) t.equal((await app.inject({ ...request, method: 'HEAD' })).statusCode, 429)
  })
}
