import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { IRIS, startService } from '../support/build.js'
import { limitsFile } from '../support/limits-file.js'
import { startRedis } from '../support/redis-fleet.js'

t.setTimeout(240_000)

t.test('stops under load, several times: no request that was taken is lost, and every place is given back', async t => {
  const redis = await startRedis(t)
  const admin = redis.client()
  const { path } = limitsFile(t, {
    anonymous: 'all',
    plans: { all: { policies: [{ name: 'requests', limit: 1_000_000, window: '1 hour' }], concurrency: 50 } },
    keys: [],
  })
  const places = async () => {
    const counts = await Promise.all((await admin.keys('*leases')).map(key => admin.zcard(key)))
    return counts.reduce((sum, count) => sum + count, 0)
  }
  for (let round = 0; round < 3; round++) {
    const service = await startService(t, {
      REDIS_URL: `redis://127.0.0.1:${redis.port}`,
      STORE_TIMEOUT_MS: 5000,
      REQUEST_TIMEOUT_MS: 120_000,
      STOP_TIMEOUT_MS: 120_000,
      STOP_DELAY_MS: 500,
      LIMITS_FILE: path,
    })
    const statuses: number[] = []
    const failures: unknown[] = []
    let stopping = false
    // As behind a balancer: whoever is told that the connection closes asks somebody else.
    const clients = Array.from({ length: 6 }, async () => {
      while (!stopping) {
        try {
          const response = await service.predict(IRIS)
          await response.arrayBuffer()
          statuses.push(response.status)
          if (response.headers.get('connection') === 'close') stopping = true
        } catch (error) {
          failures.push(error)
        }
      }
    })
    while (statuses.length < 20) await delay(10)
    service.child.kill('SIGTERM')
    await Promise.all(clients)
    const { code, signal, stderr } = await service.ended
    t.strictSame({ code, signal, stderr }, { code: 0, signal: null, stderr: '' }, `stop ${round + 1}`)
    t.strictSame(failures, [], 'every request was answered')
    t.strictSame(
      statuses.filter(status => status !== 200),
      [],
      `${statuses.length} requests`,
    )
    t.equal(await places(), 0, 'no place is held by who has gone')
  }
})
