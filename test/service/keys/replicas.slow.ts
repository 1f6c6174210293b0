/** Replicas that share their keys in a Redis of their own, while that is cut off, killed and emptied. */
import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { buildService, IRIS, startService } from '../../support/build.js'
import { AS_ADMIN, adminOf, TOKEN } from '../../support/keys.js'
import { limitsFile } from '../../support/limits-file.js'
import { type RedisProcess, startRedis, until } from '../../support/redis-fleet.js'
import { startProxy } from '../../support/redis-proxy.js'

const skip = process.env.REDIS_SERVER_BIN === undefined ? 'there is no Redis program here to start' : false

const LIMITS = {
  anonymous: 'free',
  plans: { free: { policies: [{ name: 'requests', limit: 1000, window: '1 minute' }] } },
}
const DURABLE = ['--appendonly', 'yes', '--appendfsync', 'always', '--maxmemory-policy', 'noeviction']

/** One for all tests, which have name spaces of their own. */
const redis = skip ? undefined : await startRedis(t, { args: DURABLE })
const port = redis?.port ?? 0

const settingsOf = (t: Test, more: Record<string, string> = {}) => ({
  ...{ KEYS_STORE: `redis://127.0.0.1:${port}`, REDIS_NAMESPACE: `test:${randomUUID()}:`, ADMIN_TOKEN: TOKEN },
  LIMITS_FILE: limitsFile(t, LIMITS).path,
  ...more,
})
/** The same, over another way to Redis. */
const over = (settings: object, port: number) => ({ ...settings, KEYS_STORE: `redis://127.0.0.1:${port}` })

const withKey = (key: string) => ({ headers: { 'x-api-key': key } })

t.test(
  'a replica that is cut off goes on with the keys it knows, says so, and catches up when it is back',
  { skip },
  async t => {
    const proxy = await startProxy(t, port)
    const settings = settingsOf(t)
    const one = await buildService(t, settings)
    const two = await buildService(t, over(settings, proxy.port))
    const { admin, create } = adminOf(one.ask)
    const stays = await create({ owner: 'acme', plan: 'free' })
    const goes = await create({ owner: 'acme', plan: 'free' })
    const status = async (key: string) => (await two.predict(IRIS, withKey(key))).statusCode
    await until('it knows both', async () => (await status(stays.key)) === 200 && (await status(goes.key)) === 200)

    // Messages are lost, and no call is answered.
    proxy.dropsAnswers = true
    proxy.cut()
    await admin('DELETE', `keys/${goes.id}`)
    const made = await create({ owner: 'acme', plan: 'free' })
    await until('it is degraded', async () => (await two.ask('/health/ready')).json().status === 'degraded')
    t.match((await two.ask('/health/ready')).json().reasons, [/the store of the API keys does not answer/])
    t.equal(await status(stays.key), 200)
    t.equal(await status(goes.key), 200, 'it cannot know')
    t.equal(await status(made.key), 401)
    const unchanged = await adminOf(two.ask).admin('DELETE', `keys/${stays.id}`)
    t.equal(unchanged.statusCode, 503)
    t.match(unchanged.json(), { code: 'KEYS_UNAVAILABLE' })
    t.ok(unchanged.headers['retry-after'])

    proxy.dropsAnswers = false
    proxy.cut()
    await until('it knows what was missed', async () => (await status(goes.key)) === 401)
    t.equal(await status(made.key), 200)
    await until('it is ready', async () => (await two.ask('/health/ready')).json().status === 'ready')
  },
)

t.test('after KEYS_MAX_STALE such a key gets 503, and never 401; callers without one are served', { skip }, async t => {
  const proxy = await startProxy(t, port)
  const settings = over(settingsOf(t, { KEYS_MAX_STALE: '3s' }), proxy.port)
  const { predict, ask } = await buildService(t, settings)
  const { create } = adminOf(ask)
  const { key } = await create({ owner: 'acme', plan: 'free' })
  t.equal((await predict(IRIS, withKey(key))).statusCode, 200)
  proxy.dropsAnswers = true
  proxy.cut()
  await until('the keys are too old', async () => (await predict(IRIS, withKey(key))).statusCode === 503)
  const refused = await predict(IRIS, withKey(key))
  t.match(refused.json(), { code: 'KEYS_UNAVAILABLE' })
  t.ok(refused.headers['retry-after'])
  t.equal((await predict(IRIS)).statusCode, 200)
  t.match((await ask('/health/ready')).json(), { status: 'degraded', reasons: [/KEYS_MAX_STALE/] })
})

t.test('a service that starts without its store is not ready, and turns no key away for good', { skip }, async t => {
  const settings = settingsOf(t)
  const first = await buildService(t, settings)
  const { key } = await adminOf(first.ask).create({ owner: 'acme', plan: 'free' })
  const proxy = await startProxy(t, port)
  proxy.dropsAnswers = true
  const { predict, ask } = await buildService(t, over(settings, proxy.port))
  t.equal((await ask('/health/ready')).statusCode, 503)
  t.equal((await predict(IRIS, withKey(key))).statusCode, 503)
  proxy.dropsAnswers = false
  proxy.cut()
  await until('it is ready', async () => (await ask('/health/ready')).statusCode === 200)
  t.equal((await predict(IRIS, withKey(key))).statusCode, 200)
})

t.test('a store that lost its data takes no key away, and no change', { skip }, async t => {
  const settings = settingsOf(t)
  const { predict, ask } = await buildService(t, settings)
  const { admin, create } = adminOf(ask)
  const { key, id } = await create({ owner: 'acme', plan: 'free' })
  const client = (redis as RedisProcess).client()
  await client.del(await client.keys(`${settings.REDIS_NAMESPACE}*`))
  await until('it is degraded', async () => (await ask('/health/ready')).json().status === 'degraded')
  t.equal((await predict(IRIS, withKey(key))).statusCode, 200)
  t.equal((await admin('DELETE', `keys/${id}`)).statusCode, 503)
})

t.test('the start says what of its Redis is not as keys need it', { skip }, async t => {
  const { port } = await startRedis(t, { args: ['--maxmemory-policy', 'allkeys-lru'] })
  const { output } = await startService(t, over(settingsOf(t, { REDIS_URL: `redis://127.0.0.1:${port}` }), port))
  await until('all is said', async () => output().includes('maxmemory-policy is allkeys-lru, and should be noeviction'))
  t.match(output(), /appendonly is no, and should be yes/)
  t.match(output(), /appendfsync is everysec, and should be always/)
  t.match(output(), /KEYS_STORE and REDIS_URL name one Redis/)
})

t.test('removals that are long ago are still known to a replica that was away for them', { skip }, async t => {
  const settings = settingsOf(t)
  const one = await buildService(t, settings)
  const { admin, create } = adminOf(one.ask)
  const { key, id } = await create({ owner: 'acme', plan: 'free' })
  const proxy = await startProxy(t, port)
  const two = await buildService(t, over(settings, proxy.port))
  t.equal((await two.predict(IRIS, withKey(key))).statusCode, 200)
  proxy.dropsAnswers = true
  await admin('DELETE', `keys/${id}`)
  // As if ten thousand others had been removed since.
  const client = (redis as RedisProcess).client()
  const name = (part: string) => `${settings.REDIS_NAMESPACE}{keys}:${part}`
  await client.hset(name('state'), 'floor', (await client.hget(name('state'), 'revision')) as string)
  await client.zrem(name('revisions'), id)
  await create({ owner: 'acme', plan: 'free' })
  proxy.dropsAnswers = false
  proxy.cut()
  await until('it knows', async () => (await two.predict(IRIS, withKey(key))).statusCode === 401)
})

t.test(
  'a password in KEYS_STORE is shown by nothing, and of a Redis as keys need it there is nothing to say',
  {
    skip,
  },
  async t => {
    const redis = await startRedis(t, { args: DURABLE })
    const secret = 'zq-password-of-the-keys'
    const service = await startService(t, {
      ...settingsOf(t),
      KEYS_STORE: `redis://:${secret}@127.0.0.1:${redis.port}`,
      LOG_LEVEL: 'trace',
    })
    const answer = await fetch(`${service.url}/v1/admin/keys`, {
      method: 'POST',
      headers: { ...AS_ADMIN, 'content-type': 'application/json' },
      body: JSON.stringify({ owner: 'acme', plan: 'free' }),
    })
    t.notMatch(service.output(), /may lose changes/)
    await redis.kill()
    await until('the loss is told', async () => service.output().includes('the store of the keys is lost'))
    t.notOk((service.output() + (await answer.text())).includes(secret))
  },
)
