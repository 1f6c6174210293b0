import { mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Fastify, { type FastifyServerOptions } from 'fastify'
import t from 'tap'
import { storedKey, storedKeys, storedNameSpace } from '../../plugin/src/key.js'
import { ask, inRedis, limited, redisClient, STORES, statuses } from '../support/plugin.js'

t.test('without a key generator the client is its address', async t => {
  const app = await limited(t, { max: 1, keyGenerator: undefined as never })
  const from = (remoteAddress: string) => ask(app, { url: '/', remoteAddress })
  t.equal((await from('2001:db8::1')).statusCode, 200)
  t.equal((await from('2001:db8::2')).statusCode, 429)
  t.equal((await from('::ffff:192.0.2.1')).statusCode, 200)
  t.equal((await from('192.0.2.1')).statusCode, 429)
})

t.test('plain keys can be read in the store, all others are hashed to a fixed length', async t => {
  t.equal(storedKey('192.0.2.1'), '192.0.2.1')
  t.equal(storedKey('user@example.com'), 'user@example.com')
  for (const odd of ['', '{x}', 'a b', 'ü', 'x'.repeat(65), 'a\r\nb', '#abc', '\u0000']) {
    t.match(storedKey(odd), /^#[A-Za-z0-9_-]{22}$/, JSON.stringify(odd))
  }
  t.not(storedKey('a '), storedKey('a  '))
  t.match(storedKey('192.0.2.1', true), /^#[A-Za-z0-9_-]{22}$/)
  t.equal(storedNameSpace('my{app}%:'), 'my%7bapp%7d%25:')
})

t.test('a hash tag stands in front of its key, and no key is taken for another with a tag', async t => {
  const stored = storedKeys(false, key => key.split('/', 1)[0] as string)
  t.equal(stored('acme'), 'acme')
  t.equal(stored('acme/ann'), 'acme}=acme/ann')
  t.match(stored('a c/ann'), /^#[A-Za-z0-9_-]{22}\}=#[A-Za-z0-9_-]{22}$/)
  t.match(stored('a}=b'), /^#[A-Za-z0-9_-]{22}$/)
  t.match(storedKeys(true, () => 'acme')('ann'), /^#[A-Za-z0-9_-]{22}\}=#[A-Za-z0-9_-]{22}$/)
})

for (const { name, options } of STORES) {
  t.test(`${name}: any bytes, any length: each key has a quota of its own`, async t => {
    let key: string | number = ''
    const app = await limited(t, { ...options(t), max: 1, keyGenerator: () => key })
    for (const next of [
      '',
      '{',
      '}',
      '{a}',
      'a',
      '#a',
      'a\r\nb',
      'ключ',
      '\u0000',
      'y'.repeat(9000),
      42,
      '*',
      'a:b',
      'a:b:default',
    ]) {
      key = next
      t.strictSame(await statuses(app, 2), [200, 429], JSON.stringify(next).slice(0, 20))
    }
  })
}

t.test('names in the store keep name space, limiter, policy and key apart', async t => {
  const shared = inRedis(t)
  const app = await limited(t, { ...shared, policies: [{ name: 'a:b', max: 9, timeWindow: '1 minute' }] }, app => {
    app.get(
      '/',
      { config: { rateLimit: { policies: [{ name: 'b', max: 9, timeWindow: '1 minute' }] } } },
      async () => 'ok',
    )
    app.get('/else', async () => 'ok')
  })
  await ask(app)
  await ask(app, '/else')
  const keys = await redisClient(t).keys(`${shared.nameSpace}*`)
  t.equal(keys.length, 2)
  for (const key of keys) t.match(key.slice(shared.nameSpace?.length), /^\{lone\}2\.[A-Za-z0-9_-]{8}:(a:)?b$/)
})

t.test('with hashKeys no key can be read in Redis, and each keeps its quota', async t => {
  const shared = inRedis(t)
  const app = await limited(t, {
    ...shared,
    hashKeys: true,
    max: 2,
    ban: 9,
    concurrency: { max: 5 },
    keyGenerator: request => request.headers['x-api-key'] as string,
  })
  const as = (key: string) => ({ url: '/', headers: { 'x-api-key': key } })
  t.strictSame(await statuses(app, 3, as('secret-key-1')), [200, 200, 429])
  t.strictSame(await statuses(app, 1, as('secret-key-2')), [200])
  const keys = await redisClient(t).keys(`${shared.nameSpace}*`)
  t.ok(keys.length >= 2)
  for (const key of keys) t.notMatch(key, /secret/)
  t.equal((await app.rateLimiter.status('secret-key-1'))?.policies[0]?.remaining, 0)
  await app.rateLimiter.reset('secret-key-1')
  t.strictSame(await statuses(app, 1, as('secret-key-1')), [200])
})

t.test('clients of a Unix socket share one count, and the log says so once', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'socket-')) // a short path: a socket's has 107 bytes at most
  t.teardown(() => rmSync(folder, { recursive: true }))
  const serve = async (options: FastifyServerOptions) => {
    const lines: string[] = []
    const stream = { write: (line: string) => void lines.push((JSON.parse(line) as { msg: string }).msg) }
    const app = Fastify({ ...options, logger: { level: 'warn', stream } })
    t.teardown(() => app.close())
    await app.register((await import('ml-api-rate-limiter')).default, { max: 1 })
    app.get('/', async () => 'ok')
    const path = join(folder, `${Object.keys(options).join()}.sock`)
    await app.listen({ path })
    const from = (address: string) =>
      new Promise<number | undefined>((resolve, reject) => {
        const headers = { 'x-forwarded-for': address }
        request({ socketPath: path, headers }, response => resolve(response.resume().statusCode))
          .on('error', reject)
          .end()
      })
    return { from, lines }
  }
  const bare = await serve({})
  t.strictSame([await bare.from('192.0.2.1'), await bare.from('192.0.2.2')], [200, 429])
  t.equal(bare.lines.length, 1)
  t.match(bare.lines[0], /no client address, as on a Unix socket, .*: set trustProxy or keyGenerator/)
  const behind = await serve({ trustProxy: true })
  t.strictSame([await behind.from('192.0.2.1'), await behind.from('192.0.2.2')], [200, 200])
  t.strictSame(behind.lines, [])
})

t.test('the default key generator is asked behind a proxy that is trusted', async t => {
  const app = Fastify({ trustProxy: '127.0.0.1' })
  t.teardown(() => app.close())
  await app.register((await import('ml-api-rate-limiter')).default, { max: 1 })
  app.get('/', async () => 'ok')
  const from = (address: string) => app.inject({ url: '/', headers: { 'x-forwarded-for': address } })
  t.strictSame([(await from('192.0.2.1')).statusCode, (await from('192.0.2.2')).statusCode], [200, 200])
  t.equal((await from('192.0.2.2')).statusCode, 429)
})

t.test('a port that a proxy adds to the address of a client makes no other client of it', async t => {
  const app = Fastify({ trustProxy: true })
  t.teardown(() => app.close())
  await app.register((await import('ml-api-rate-limiter')).default, { max: 1 })
  app.get('/', async () => 'ok')
  const from = async (address: string) =>
    (await app.inject({ url: '/', headers: { 'x-forwarded-for': address } })).statusCode
  t.strictSame([await from('192.0.2.1:50001'), await from('192.0.2.1:50002'), await from('192.0.2.1')], [200, 429, 429])
  t.strictSame([await from('[2001:db8::1]:50001'), await from('[2001:db8::1]:50002')], [200, 429])
})
