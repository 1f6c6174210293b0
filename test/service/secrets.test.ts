/** What is secret stays so, also where everything is logged and Redis refuses what it is told. */
import t from 'tap'
import { IRIS, startService } from '../support/build.js'
import { limitsFile, sha256 } from '../support/limits-file.js'
import { startRedis, until } from '../support/redis-fleet.js'

const SECRET = { redis: 'zq-password-of-redis', key: 'zq-key-of-a-caller', admin: 'zq-token-of-admins' }

const skip = process.env.REDIS_SERVER_BIN === undefined ? 'there is no Redis program here to start' : false

t.test('no password, no API key nor its digest, and no admin token is logged or answered', { skip }, async t => {
  const redis = await startRedis(t)
  await redis.client().config('SET', 'requirepass', 'another')
  const policies = [{ name: 'requests', limit: 100, window: '1 minute' }]
  const { path } = limitsFile(t, {
    anonymous: 'plan',
    plans: { plan: { policies } },
    keys: [{ sha256: sha256(SECRET.key), plan: 'plan' }],
  })
  const service = await startService(t, {
    REDIS_URL: `redis://:${SECRET.redis}@127.0.0.1:${redis.port}`,
    LIMITS_FILE: path,
    ADMIN_TOKEN: SECRET.admin,
    LOG_LEVEL: 'trace',
    BEARER_KEYS: 'on',
  })
  const answers: string[] = []
  const ask = async (url: string, headers: Record<string, string>, body: object = IRIS) => {
    const init = {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json', ...headers },
    }
    const response = await fetch(`${service.url}${url}`, init)
    answers.push(JSON.stringify([...response.headers]), await response.text())
    return response.status
  }
  t.equal(await ask('/v1/predict', { 'x-api-key': SECRET.key }), 200)
  t.equal(await ask('/v1/predict', { authorization: `Bearer ${SECRET.key}` }, { model: 'iris' }), 400)
  t.equal(await ask('/v1/predict', { 'x-api-key': `${SECRET.key}-wrong` }), 401)
  t.equal(await ask('/v1/admin/reload', { authorization: `Bearer ${SECRET.admin}-wrong` }), 401)
  t.equal(await ask('/v1/admin/reload', { authorization: `Bearer ${SECRET.admin}` }), 200)
  await until('Redis has refused the password', async () => service.output().includes('WRONGPASS'))
  const told = service.output() + answers.join('\n')
  for (const [what, secret] of Object.entries(SECRET)) {
    t.notOk(told.includes(secret), `${what} is nowhere`)
    t.notOk(told.includes(sha256(secret)), `the digest of ${what} is nowhere`)
  }
})
