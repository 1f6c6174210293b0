import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { buildService, IRIS, type RunningService, startService } from '../support/build.js'
import { freePort, type RedisProcess, startRedis, until } from '../support/redis-fleet.js'

t.setTimeout(240_000)

interface Readiness {
  readonly status: string
  readonly store: string
  readonly reasons?: readonly string[]
}

t.test('a Redis that answers and does not count makes readiness degraded, and says why in the metrics', async t => {
  const redis = await startRedis(t)
  const admin = redis.client()
  const { ask, predict } = await buildService(t, {
    REDIS_URL: `redis://127.0.0.1:${redis.port}`,
    RATE_LIMIT_MAX: 1_000_000,
    STORE_TIMEOUT_MS: 1000,
  })
  const ready = async () => (await ask('/health/ready')).json() as Readiness
  const read = async (series: string) =>
    Number(
      (await ask('/metrics')).payload
        .split('\n')
        .find(line => line.startsWith(`${series} `))
        ?.split(' ')[1],
    )
  await until('all is well', async () => (await ready()).status === 'ready')
  for (const [what, strike, heal, reason] of [
    [
      'a replica',
      async () => admin.replicaof('127.0.0.1', await freePort()),
      () => admin.replicaof('NO', 'ONE'),
      'read_only',
    ],
    [
      'full',
      () => admin.config('SET', 'maxmemory', '1mb'),
      () => admin.config('SET', 'maxmemory', '0'),
      'out_of_memory',
    ],
  ] as const) {
    await strike()
    await until(`it is given up: ${what}`, async () => {
      const { statusCode } = await predict(IRIS)
      if (statusCode !== 200) throw new Error(`${statusCode}`)
      return (await read('rate_limit_store_up')) === 0
    })
    t.match(await ready(), { status: 'degraded', store: 'down', reasons: [/store/] }, what)
    t.ok((await read(`rate_limit_store_errors_total{reason="${reason}"}`)) >= 1)
    await heal()
    await until('it is ready, though nobody asked for a prediction', async () => (await ready()).status === 'ready')
    t.equal(await read('rate_limit_store_up'), 1)
  }
})

/** Asks again and again, on several connections at once, until it is told to stop. */
function load(service: RunningService, connections: number) {
  const statuses = new Map<number, number>()
  const failures: string[] = []
  let running = true
  const loops = Array.from({ length: connections }, async () => {
    while (running) {
      try {
        const response = await service.predict()
        await response.arrayBuffer()
        statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1)
      } catch (error) {
        failures.push(`${error} ${(error as Error).cause}`)
      }
      await delay(5)
    }
  })
  return {
    statuses,
    failures,
    stop: async () => {
      running = false
      await Promise.all(loops)
    },
  }
}

const MODES = { local: [200], allow: [200], deny: [200, 503] } as const

t.test('Redis is killed and restored ten times under load: each mode answers every request as it says', async t => {
  let redis: RedisProcess = await startRedis(t)
  const { port } = redis
  const start = async (mode: keyof typeof MODES) => {
    const service = await startService(t, {
      REDIS_URL: `redis://127.0.0.1:${port}`,
      RATE_LIMIT_MAX: 1_000_000,
      STORE_TIMEOUT_MS: 100,
      ON_STORE_ERROR: mode,
      REQUEST_TIMEOUT_MS: 120_000,
    })
    const ready = async () => (await (await fetch(`${service.url}/health/ready`)).json()) as Readiness
    return { mode, service, ready, load: load(service, 4) }
  }
  const services = await Promise.all([start('local'), start('allow'), start('deny')])
  const readiness = (status: string) =>
    until(`all are ${status}`, async () =>
      (await Promise.all(services.map(each => each.ready()))).every(each => each.status === status),
    )
  const said = (service: RunningService) => {
    const count = (message: string) => service.output().split(message).length - 1
    return { lost: count('the rate limit store is lost'), back: count('the rate limit store answers again') }
  }
  const givenUp = () =>
    until('all have given Redis up', async () =>
      services.map(({ service }) => said(service)).every(({ lost, back }) => lost > back),
    )
  await readiness('ready')
  for (let round = 0; round < 10; round++) {
    await redis.kill()
    // Most rounds are over before anybody has settled; some let all notice.
    if (round % 3 === 0) {
      await readiness('degraded')
      await givenUp()
    }
    redis = await startRedis(t, { port })
    if (round % 3 === 1) await readiness('ready')
  }
  await readiness('ready')
  for (const { mode, service, load } of services) {
    await load.stop()
    const allowed: readonly number[] = MODES[mode]
    t.strictSame(
      [...load.statuses.keys()].filter(status => !allowed.includes(status)),
      [],
      mode,
    )
    t.strictSame(load.failures, [], `${mode}: no request without an answer`)
    t.ok((load.statuses.get(200) ?? 0) > 0)
    const { lost, back } = said(service)
    t.ok(lost > 0 && (lost === back || lost === back + 1), `${mode}: a line each way: ${lost}, ${back}`)
    service.child.kill('SIGTERM')
    t.match(await service.ended, { code: 0, signal: null, stderr: '' })
  }
  const deny = services[2]?.load.statuses.get(503) ?? 0
  t.comment(services.map(({ mode, load }) => `${mode}: ${[...load.statuses].join(' ')}`).join('; '))
  t.ok(deny > 0, 'the outages were there')
})
