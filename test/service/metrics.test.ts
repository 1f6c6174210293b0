import t from 'tap'
import { ERRORS } from '../../service/src/openapi/errors.js'
import { buildService, IRIS, inRedis, startService } from '../support/build.js'
import { limitsFile } from '../support/limits-file.js'
import { startRedis, until } from '../support/redis-fleet.js'

/** The value of a series as it is written, labels and all; undefined where there is none. */
const sampleOf = (text: string, series: string): number | undefined => {
  const line = text.split('\n').find(each => each.startsWith(`${series} `))
  return line === undefined ? undefined : Number(line.slice(series.length + 1))
}

t.test('requests, decisions, Redis, queue and batches are counted as they happened', async t => {
  const { url, predict } = await startService(t, { ...inRedis(), RATE_LIMIT_MAX: 2 })
  t.strictSame([(await predict()).status, (await predict()).status, (await predict()).status], [200, 200, 429])
  const secret = 'a-key-that-nobody-may-read'
  await predict({ ...IRIS, features: ['no number'] }, { headers: { 'x-api-key': secret } })
  for (const path of ['no-such-url', 'nor-this', `v1/models/${secret}`]) await fetch(`${url}/${path}`)

  const read = async () => (await fetch(`${url}/metrics`)).text()
  const route = (status: string) => `{route="/v1/predict",method="POST",status="${status}"}`
  // A request is counted once its answer has gone, which its client may see first.
  await until('all is counted', async () => sampleOf(await read(), `http_requests_total${route('4xx')}`) === 2)
  const answer = await fetch(`${url}/metrics`)
  t.match(answer.headers.get('content-type'), 'text/plain; version=0.0.4')
  t.equal(answer.headers.get('x-ratelimit-limit'), null, 'it is not limited')
  const text = await answer.text()
  const is = (series: string, expected: number) => t.equal(sampleOf(text, series), expected, series)
  is(`http_requests_total${route('2xx')}`, 2)
  is(`http_request_duration_seconds_count${route('2xx')}`, 2)
  is('http_requests_total{route="unknown",method="GET",status="4xx"}', 2)
  is('http_requests_total{route="/v1/models/:name",method="GET",status="4xx"}', 1)
  is('rate_limit_decisions_total{plan="anonymous",policy="requests",outcome="allowed"}', 2)
  is('rate_limit_decisions_total{plan="anonymous",policy="requests",outcome="denied"}', 2)
  is('rate_limit_store_up', 1)
  is('rate_limit_store_remote', 1)
  is('inference_queue_rows', 0)
  is('front_refusals_total', 0)
  is('inference_refused_total{reason="limit"}', 0)
  is('inference_ready', 1)
  is('inference_batch_rows_sum{model="iris",version="1"}', 2)
  is('inference_queue_wait_seconds_count{model="iris",version="1"}', 2)
  is('inference_run_duration_seconds_count{model="iris",version="1"}', 2)
  t.ok((sampleOf(text, 'rate_limit_store_duration_seconds_count') ?? 0) >= 2)
  t.ok((sampleOf(text, 'process_resident_memory_bytes') ?? 0) > 1e6)
  t.ok(sampleOf(text, 'nodejs_eventloop_lag_p99_seconds') !== undefined)
  t.notMatch(text, secret)
  t.notMatch(text, '127.0.0.1')
  t.notMatch(text, 'no-such-url')
})

t.test('every counter is there with 0 before anything has happened, so that its first rise is seen', async t => {
  const { path } = limitsFile(t, {
    anonymous: 'free',
    plans: { free: { policies: [{ name: 'requests', limit: 9, window: '1s' }], concurrency: 2 } },
  })
  const { ask } = await buildService(t, { LIMITS_FILE: path })
  const text = (await ask('/metrics')).payload
  const is0 = (series: string) => t.equal(sampleOf(text, series), 0, series)
  for (const status of ['2xx', '4xx', '5xx']) {
    is0(`http_requests_total{route="/v1/predict",method="POST",status="${status}"}`)
    is0(`http_requests_total{route="/v2/models/:model/infer",method="POST",status="${status}"}`)
    is0(`http_requests_total{route="/v1/models",method="GET",status="${status}"}`)
  }
  for (const [status, code] of ERRORS) {
    if (status >= 503) is0(`http_requests_shed_total{reason="${code}",status="5xx"}`)
  }
  for (const policy of ['requests', 'concurrency']) {
    for (const outcome of ['allowed', 'denied', 'unchecked']) {
      is0(`rate_limit_decisions_total{plan="free",policy="${policy}",outcome="${outcome}"}`)
    }
  }
  for (const model of ['digits', 'digits-picture', 'digits-wide', 'iris'])
    is0(`inference_batches_failed_total{model="${model}",version="1"}`)
  is0('inference_workers_lost_total')
  for (const reason of ['timeout', 'unavailable']) is0(`rate_limit_store_errors_total{reason="${reason}"}`)
})

t.test('buckets add up: each holds those below it, and the last all', async t => {
  const { ask, predict } = await buildService(t)
  for (let i = 0; i < 5; i++) await predict(IRIS)
  const name = 'http_request_duration_seconds_bucket{route="/v1/predict"'
  const inBuckets = async () =>
    (await ask('/metrics')).payload
      .split('\n')
      .filter(line => line.startsWith(name))
      .map(line => Number(line.split(' ').at(-1)))
  await until('all is counted', async () => (await inBuckets()).at(-1) === 5)
  const counts = await inBuckets()
  t.strictSame(
    [...counts].sort((a, b) => a - b),
    counts,
  )
})

t.test('a Redis that is lost and comes back is seen, with the errors by reason', async t => {
  const redis = await startRedis(t)
  const { ask, predict } = await buildService(t, {
    REDIS_URL: `redis://127.0.0.1:${redis.port}`,
    RATE_LIMIT_MAX: 1_000_000,
    STORE_TIMEOUT_MS: 250,
  })
  const read = async (series: string) => sampleOf((await ask('/metrics')).payload, series)
  const up = (expected: number) =>
    until(`rate_limit_store_up is ${expected}`, async () => {
      await predict(IRIS)
      return (await read('rate_limit_store_up')) === expected
    })
  await up(1)
  redis.signal('SIGSTOP')
  await up(0)
  t.ok(((await read('rate_limit_store_errors_total{reason="timeout"}')) ?? 0) >= 1)
  redis.signal('SIGCONT')
  await up(1)
})

t.test('a request that is shed is counted by the reason, in either protocol', async t => {
  const { app, ask } = await buildService(t, { REDIS_URL: 'redis://127.0.0.1:1', ON_STORE_ERROR: 'deny' })
  const url = '/v2/models/iris/infer'
  t.equal((await ask({ method: 'POST', url: '/v1/predict', payload: IRIS })).statusCode, 503)
  t.equal((await ask({ method: 'POST', url, payload: {} })).statusCode, 503)
  const shed = 'http_requests_shed_total{reason="ML_RATE_STORE_UNAVAILABLE",status="5xx"}'
  await until('both are counted', async () => sampleOf((await app.inject('/metrics')).payload, shed) === 2)
  t.pass()
})

t.test('where it is switched off there is no route', async t => {
  const { ask } = await buildService(t, { METRICS: 'off' })
  t.equal((await ask('/metrics')).statusCode, 404)
})
