/** Who has no token, or a wrong one, and what is sent with the right one that nobody would send: fuzzed admin requests. */
import crypto from 'node:crypto'
import { syncBuiltinESMExports } from 'node:module'
import fc from 'fast-check'
import type { InjectOptions } from 'fastify'
import t from 'tap'
import { newId, newKeyText } from '../../../service/src/keys/key-text.js'
import { buildService, IRIS } from '../../support/build.js'
import { AS_ADMIN, adminOf, keysFile, TOKEN } from '../../support/keys.js'
import { limitsFile } from '../../support/limits-file.js'

const RUNS = Number(process.env.FC_RUNS ?? 300)
const LIMITS = {
  anonymous: 'free',
  plans: { free: { policies: [{ name: 'requests', limit: 1_000_000, window: '1 minute' }] } },
}

const { app, ask, predict } = await buildService(t, {
  ...{ KEYS_STORE: keysFile(t), ADMIN_TOKEN: TOKEN, LIMITS_FILE: limitsFile(t, LIMITS).path, BODY_LIMIT: 4096 },
})
const { admin, create } = adminOf(ask)
const { id, key } = await create({ owner: 'acme', plan: 'free' })
const keysNow = async () => (await admin('GET', 'keys?limit=1000')).json().keys

let asked = 0
/** Wrong tokens are counted by address. */
const newAddress = () => `10.${(asked >> 16) & 255}.${(asked >> 8) & 255}.${asked++ & 255}`

const ids = fc.oneof(
  fc.constant(id),
  fc.constant(newId()),
  fc.constantFrom('', '..', '%00', '%2e%2e', 'mlk_', key, id.toLowerCase(), '__proto__', 'constructor', 'x'.repeat(99)),
  fc.string({ maxLength: 40 }).map(text => encodeURIComponent(text)),
)
const paths = fc.oneof(
  fc.constantFrom('keys', 'keys/', 'usage', 'plans', 'reload', '', 'nothing'),
  ids.map(each => `keys/${each}`),
  ids.map(each => `keys/${each}/rotate`),
  ids.map(each => `keys/${each}/limits`),
)
const queries = fc.oneof(
  fc.constant(''),
  fc.constantFrom('?limit=1', '?limit=-1', '?cursor=AAAA', '?owner=a&owner=b', '?by=key&from=x', '?format=csv', '?%'),
  fc.webQueryParameters().map(text => `?${text}`),
)
const values = fc.oneof(
  fc.anything({ maxDepth: 2 }),
  fc.constantFrom('free', 'none', '2030-01-01', '2030-02-30', '0000-00-00', [], ['iris'], true, 0, 1e9, -1, null),
)
const NAMES = [
  'owner',
  'plan',
  'name',
  'expiresAt',
  'models',
  'disabled',
  'overlapSeconds',
  'id',
  '__proto__',
  'secrets',
]
const bodies = fc.oneof(
  fc.constant(undefined),
  fc.dictionary(fc.constantFrom(...NAMES), values).map(body => textOf(body)),
  fc.json({ maxDepth: 3 }),
  fc.string({ maxLength: 50 }),
  fc.constantFrom('{', '[]', 'null', '{"__proto__":{"admin":true}}', `{"owner":"${'x'.repeat(5000)}"}`),
)
const methods = fc.constantFrom('GET', 'POST', 'PATCH', 'DELETE', 'PUT', 'HEAD', 'OPTIONS')
const types = fc.constantFrom('application/json', 'text/plain', 'application/json; charset=utf-16', '')

function textOf(value: unknown): string {
  try {
    return JSON.stringify(value, (_name, each) => (typeof each === 'bigint' ? `${each}` : each)) ?? 'null'
  } catch {
    return '{}'
  }
}

const requests = fc.record({ method: methods, path: paths, query: queries, body: bodies, type: types })
type Fuzzed = typeof requests extends fc.Arbitrary<infer T> ? T : never

const send = ({ method, path, query, body, type }: Fuzzed, headers: Record<string, string>) =>
  ask({
    ...{ method: method as 'GET', url: `/v1/admin/${path}${query}`, remoteAddress: newAddress() },
    headers: { ...(body === undefined || type === '' ? {} : { 'content-type': type }), ...headers },
    ...(body === undefined ? {} : { payload: body }),
  } as InjectOptions)

const wrongTokens = fc.oneof(
  fc.constantFrom('', TOKEN.slice(1), TOKEN.slice(0, -1), `${TOKEN}x`, TOKEN.toUpperCase(), key, 'x'.repeat(2000)),
  fc.string({ maxLength: 64 }).map(text => encodeURIComponent(text)),
)
const wrongCredentials = fc.oneof(
  fc.constant({}),
  wrongTokens.map(token => ({ authorization: `Bearer ${token}` })),
  fc.constantFrom(
    ...[
      { authorization: TOKEN },
      { authorization: `Basic ${Buffer.from(`admin:${TOKEN}`).toString('base64')}` },
      { authorization: `Bearer ${Buffer.from(TOKEN).toString('base64')}` },
      { 'x-api-key': TOKEN },
      { 'x-admin-token': TOKEN },
      { cookie: `token=${TOKEN}` },
    ],
  ),
)

t.test('without the token nobody is let in, learns anything or breaks anything, whatever is sent', async t => {
  const before = await keysNow()
  const texts = new Set<string>()
  await fc.assert(
    fc.asyncProperty(requests, wrongCredentials, async (request, headers) => {
      const { statusCode, body } = await send(request, headers)
      // Which methods a route takes is no secret.
      if (request.method === 'OPTIONS' && statusCode === 204 && body === '') return
      if (statusCode < 400 || statusCode >= 500) throw new Error(`${statusCode}: ${body}`)
      if (statusCode === 401 && body !== '') texts.add(JSON.stringify({ ...JSON.parse(body), instance: '' }))
    }),
    { numRuns: RUNS },
  )
  t.equal(texts.size, 1, 'every refusal has the same text')
  t.strictSame(await keysNow(), before)
})

t.test('with the token nothing that is sent is an error of the service', async t => {
  await fc.assert(
    fc.asyncProperty(requests, async request => {
      if (request.path === 'reload') return
      const { statusCode, headers, body } = await send(request, AS_ADMIN)
      if (statusCode >= 500) throw new Error(`${statusCode}: ${body}`)
      if (statusCode < 400 || body === '') return
      const problem = JSON.parse(body)
      if (problem.status !== statusCode || typeof problem.code !== 'string') throw new Error(`${headers} ${body}`)
    }),
    { numRuns: RUNS },
  )
  for (const each of await keysNow()) {
    t.match(each, { id: /^[0-9A-Za-z]{16}$/, owner: /./, plan: 'free', standing: /^(?:active|disabled|expired)$/ })
    t.notOk('key' in each || 'secrets' in each)
  }
})

t.test('a wrong token is compared by its digest, in the same time whatever it is and however long', async t => {
  const { timingSafeEqual } = crypto
  const compared: number[][] = []
  crypto.timingSafeEqual = ((a: Buffer, b: Buffer) => {
    compared.push([a.byteLength, b.byteLength])
    return timingSafeEqual(a, b)
  }) as typeof timingSafeEqual
  syncBuiltinESMExports()
  t.teardown(() => {
    crypto.timingSafeEqual = timingSafeEqual
    syncBuiltinESMExports()
  })
  const wrong = ['x', TOKEN.slice(1), `x${TOKEN.slice(1)}`, `${TOKEN.slice(0, -1)}x`, `${TOKEN}x`, 'y'.repeat(5000)]
  for (const token of wrong) {
    for (const path of ['keys', `keys/${id}`, `keys/${newId()}`, `keys/${id}/rotate`, 'usage']) {
      compared.length = 0
      const method = path.endsWith('rotate') ? 'POST' : 'GET'
      const headers = { authorization: `Bearer ${token}` }
      const refused = await ask({ method, url: `/v1/admin/${path}`, headers, remoteAddress: newAddress() })
      t.equal(refused.statusCode, 401)
      t.strictSame(compared, [[32, 32]], `${path}, ${token.length} characters`)
    }
  }
})

t.test('an API key that opens nothing gets one and the same answer, whatever is the matter with it', async t => {
  const other = await create({ owner: 'acme', plan: 'free' })
  const disabled = await create({ owner: 'acme', plan: 'free' })
  await admin('PATCH', `keys/${disabled.id}`, { disabled: true })
  const revoked = await create({ owner: 'acme', plan: 'free' })
  await admin('DELETE', `keys/${revoked.id}`)
  const rotated = await create({ owner: 'acme', plan: 'free' })
  await admin('POST', `keys/${rotated.id}/rotate`)
  const ended = await create({ owner: 'acme', plan: 'free' })
  await admin('PATCH', `keys/${ended.id}`, { expiresAt: '2001-01-01' })
  const wrong = {
    ...{ disabled: disabled.key, revoked: revoked.key, rotated: rotated.key, ended: ended.key },
    ...{ 'of nobody': newKeyText(newId()), 'of an id that there is': newKeyText(other.id) },
    ...{ mistyped: `${other.key.slice(0, -1)}${other.key.endsWith('0') ? 1 : 0}`, short: 'x', long: 'x'.repeat(5000) },
  }
  const texts = new Map<string, string>()
  for (const [what, text] of Object.entries(wrong)) {
    const refused = await predict(IRIS, { headers: { 'x-api-key': text }, remoteAddress: newAddress() })
    t.equal(refused.statusCode, 401, what)
    const { date, ...headers } = refused.headers
    texts.set(
      JSON.stringify([
        { ...refused.json(), instance: '' },
        { ...headers, 'content-length': '' },
      ]),
      what,
    )
  }
  t.equal(texts.size, 1, [...texts.values()].join())
  t.equal((await predict(IRIS, { headers: { 'x-api-key': other.key } })).statusCode, 200)
  await app.close()
})
