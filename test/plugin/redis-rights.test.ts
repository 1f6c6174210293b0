/** What docs/compatibility.md says of users with few rights, and of Unix sockets. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit from 'ml-api-rate-limiter'
import t from 'tap'
import { limited, statuses } from '../support/plugin.js'
import { startRedis, until } from '../support/redis-fleet.js'

const page = readFileSync('docs/compatibility.md', 'utf8')
const [, rule = ''] = /^ACL SETUSER (limiter .*)$/m.exec(page) ?? []
const SCRIPTS = 'plugin/src/stores/redis'

t.test('the rights in the docs are those that the scripts use, and what runs them', async t => {
  const used = readdirSync(SCRIPTS)
    .filter(file => file.endsWith('.lua'))
    .flatMap(file => [...readFileSync(join(SCRIPTS, file), 'utf8').matchAll(/\bcall\('([A-Z]+)'/g)])
    .map(([, command = '']) => command.toLowerCase())
  const given = [...rule.matchAll(/\+([a-z]+)/g)].map(([, command]) => command as string)
  t.strictSame(given.sort(), [...new Set([...used, 'eval', 'evalsha', 'info'])].sort())
})

t.test('a user with just these rights can do everything, and is kept out of other keys', async t => {
  const server = await startRedis(t)
  const admin = server.client()
  await admin.call('ACL', 'SETUSER', ...rule.split(' '))
  const redis = new Redis(server.port, '127.0.0.1', { username: 'limiter', password: 'secret' })
  const failures: Error[] = []
  redis.on('error', error => failures.push(error))
  t.teardown(() => redis.disconnect())
  await until('the client is ready', async () => redis.status === 'ready')
  const shared = { redis, nameSpace: 'app:', storeTimeout: 5000 }
  const app = await limited(t, {
    ...shared,
    policies: [
      { name: 'few', max: 3, timeWindow: '1 minute' },
      { name: 'many', max: 1000, timeWindow: '1 hour' },
    ],
    concurrency: { max: 5, ttl: 300 },
    onStoreError: 'local',
    ban: 2,
  })
  t.strictSame(await statuses(app, 6), [200, 200, 200, 429, 429, 403])
  await app.rateLimiter.refund('lone', 1)
  await app.rateLimiter.block('lone', '1 minute')
  await app.rateLimiter.reset('lone')
  t.strictSame(await statuses(app, 1), [200])
  for (const options of [
    { continueExceeding: true },
    { exponentialBackoff: true },
    { prefetch: { max: 4 }, max: 100 },
  ]) {
    const other = await limited(t, {
      max: 1,
      timeWindow: '1 minute',
      ...shared,
      ...options,
      nameSpace: `app:${Object.keys(options)}:`,
    })
    t.equal((await statuses(other, 3))[0], 200, JSON.stringify(options))
  }
  const log = (await admin.call('ACL', 'LOG')) as unknown[][]
  // A client says its name and version, and does without an answer.
  const refused = log
    .map(entry => String(entry[entry.indexOf('object') + 1]))
    .filter(name => !name.startsWith('client'))
  t.strictSame(refused, [], 'nothing was refused that the plugin asked')
  const elsewhere = await limited(t, { ...shared, nameSpace: 'other:', max: 1 })
  t.strictSame(await statuses(elsewhere, 1), [500])
  t.strictSame(failures, [])
})

t.test('Redis is reached through a Unix socket', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'socket-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'redis.sock')
  await startRedis(t, { args: ['--unixsocket', path] })
  const redis = new Redis(path)
  t.teardown(() => redis.disconnect())
  const app = await limited(t, { redis, nameSpace: 'socket:', max: 1, timeWindow: '1 minute', storeTimeout: 5000 })
  t.strictSame(await statuses(app, 2), [200, 429])
})

t.test('an app that listens on a Unix socket limits by the key that it is given', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'socket-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'app.sock')
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, {
    max: 1,
    timeWindow: '1 minute',
    keyGenerator: ({ headers }) => `${headers['x-user']}`,
  })
  app.get('/', async () => 'ok')
  await app.listen({ path })
  const ask = (user: string) =>
    new Promise<number | undefined>((resolve, reject) => {
      request({ socketPath: path, path: '/', headers: { 'x-user': user } }, response => {
        response.resume()
        resolve(response.statusCode)
      })
        .on('error', reject)
        .end()
    })
  t.strictSame([await ask('a'), await ask('a'), await ask('b')], [200, 429, 200])
})
