import Fastify from 'fastify'
import t from 'tap'
import { storedKey, storedNameSpace } from '../../plugin/src/key.js'
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
  t.equal(storedNameSpace('my{app}%:'), 'my%7bapp%7d%25:')
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
  for (const key of keys) t.match(key.slice(shared.nameSpace?.length), /^\{lone\}[A-Za-z0-9_-]{8}:(a:)?b$/)
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
