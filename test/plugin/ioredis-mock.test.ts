/** A Redis in the process, as apps use it in their tests. */
import Mock from 'ioredis-mock'
import type { RedisClient } from 'ml-api-rate-limiter'
import t from 'tap'
import { limited, statuses } from '../support/plugin.js'

t.test('ioredis-mock counts, denies, gives back and resets', async t => {
  const policies = [
    { name: 'short', max: 3, timeWindow: '1 minute' },
    { name: 'long', max: 1000, timeWindow: '1 hour' },
  ]
  const redis = new Mock() as unknown as RedisClient
  const app = await limited(t, { redis, nameSpace: 'mock:', policies, storeTimeout: 20_000 }, app => {
    app.get('/', async request => request.rateLimit?.charge({ long: 10 }))
    app.get('/back', async request => request.rateLimit?.refund())
    const own = { policies: null, max: 5, timeWindow: '1 hour' }
    app.get('/permit', { config: { rateLimit: { ...own, concurrency: { max: 1 } } } }, async () => 1)
    app.get('/ban', { config: { rateLimit: { ...own, max: 0, ban: 1 } } }, async () => 1)
    app.get('/backoff', { config: { rateLimit: { ...own, max: 1, exponentialBackoff: true } } }, async () => 1)
  })
  const left = async () => (await app.rateLimiter.status('lone'))?.policies.map(({ remaining }) => remaining)
  t.strictSame(await statuses(app, 4), [200, 200, 200, 429])
  t.strictSame(await left(), [0, 967])
  await app.rateLimiter.refund('lone', { short: 2 })
  t.strictSame(await left(), [2, 967])
  t.strictSame(await statuses(app, 2, '/back'), [200, 200])
  t.strictSame(await left(), [2, 967])
  await app.rateLimiter.reset('lone')
  t.strictSame(await left(), [3, 1000])
  t.strictSame(await statuses(app, 6, '/permit'), [200, 200, 200, 200, 200, 429])
  t.strictSame(await statuses(app, 3, '/ban'), [429, 403, 403])
  t.strictSame(await statuses(app, 3, '/backoff'), [200, 429, 429])
})

t.test('ioredis-mock frees quota when the window has passed', async t => {
  const redis = new Mock() as unknown as RedisClient
  const app = await limited(t, { redis, nameSpace: 'passing:', max: 1, timeWindow: 50, storeTimeout: 20_000 })
  for (let admitted = 0; admitted < 3; ) {
    const [status] = await statuses(app, 1)
    if (status === 200) admitted++
    else t.equal(status, 429)
  }
})
