import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { buildService, IRIS, inRedis, STORES, startService } from '../support/build.js'

for (const { name, settings } of STORES) {
  t.test(`four in ten seconds: the fifth waits for the first to leave, and no longer, ${name}`, async t => {
    const { predict } = await buildService(t, { ...settings(), RATE_LIMIT_MAX: 4, RATE_LIMIT_WINDOW: '10s' })
    const begun = performance.now()
    const first = await predict(IRIS)
    const since = performance.now()
    t.equal(first.statusCode, 200)
    await delay(3500)
    for (let i = 2; i <= 4; i++) t.equal((await predict(IRIS)).statusCode, 200)

    const asked = performance.now()
    const denied = await predict(IRIS)
    t.equal(denied.statusCode, 429)
    const retryAfter = Number(denied.headers['retry-after'])
    // Both were decided about between their question and their answer.
    const secondsAfter = (ms: number) => Math.ceil((10_000 - ms) / 1000)
    const [least, most] = [secondsAfter(performance.now() - begun), secondsAfter(asked - since)]
    t.ok(
      retryAfter >= least && retryAfter <= most,
      `${retryAfter} seconds until the first one leaves: ${least}, ${most}`,
    )
    t.match(denied.json(), {
      type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
      status: 429,
      code: 'ML_RATE_QUOTA_EXCEEDED',
      'violated-policies': ['requests'],
      retryAfter,
    })

    await delay(retryAfter * 1000)
    t.equal((await predict(IRIS)).statusCode, 200, 'waiting as told is enough')
    t.equal((await predict(IRIS)).statusCode, 429, 'only the first has left')
  })
}

t.test('two service processes share one Redis: four in all, not eight', async t => {
  const shared = { ...inRedis(), RATE_LIMIT_MAX: 4, RATE_LIMIT_WINDOW: '10s' }
  const [one, two] = await Promise.all([startService(t, shared), startService(t, shared)])
  const answers = await Promise.all(Array.from({ length: 16 }, (_, i) => (i % 2 === 0 ? one : two).predict()))
  const statuses = answers.map(({ status }) => status)
  t.equal(statuses.filter(status => status === 200).length, 4)
  t.equal(statuses.filter(status => status === 429).length, 12)
})

t.test('asking for the limits costs nothing and tells what is left', async t => {
  const { ask, predict } = await buildService(t, { RATE_LIMIT_MAX: 3, RATE_LIMIT_WINDOW: '1 minute' })
  const whole = { name: 'requests', unit: 'requests', limit: 3, windowSeconds: 60 }
  for (let i = 0; i < 5; i++) {
    t.strictSame((await ask('/v1/limits')).json(), {
      plan: 'anonymous',
      policies: [{ ...whole, remaining: 3, resetSeconds: 0 }],
    })
  }
  await predict(IRIS)
  const [{ resetSeconds, ...left }] = (await ask('/v1/limits')).json().policies
  t.strictSame(left, { ...whole, remaining: 2 })
  t.ok(resetSeconds > 0 && resetSeconds <= 60, `${resetSeconds} s`)
})

t.test('one quota for every way to ask for a prediction, however its URL is spelt', async t => {
  const { ask, predict } = await buildService(t, { RATE_LIMIT_MAX: 3 })
  t.equal((await predict(IRIS)).headers['x-ratelimit-remaining'], '2')
  for (const [url, left] of [
    ['/v1/predict/', '1'],
    ['//v1//predict', '0'],
  ]) {
    t.equal((await ask({ method: 'POST', url: url as string, payload: IRIS })).headers['x-ratelimit-remaining'], left)
  }
  for (const url of ['/v1/models/iris/predict', '/v1/models/ir%69s/predict', '/v1/%70redict']) {
    t.equal((await ask({ method: 'POST', url, payload: IRIS })).statusCode, 429, url)
  }
})

t.test('what a client sends as a key or as its address opens no fresh quota', async t => {
  const { predict } = await buildService(t, { RATE_LIMIT_MAX: 1 })
  t.equal((await predict(IRIS)).statusCode, 200)
  for (const headers of [
    { 'x-api-key': 'anything' },
    { authorization: 'Bearer anything' },
    { 'x-forwarded-for': '203.0.113.9' },
    { forwarded: 'for=203.0.113.9' },
    { 'x-real-ip': '203.0.113.9' },
  ]) {
    t.equal((await predict(IRIS, { headers })).statusCode, 429, JSON.stringify(headers))
  }
})

t.test('behind a trusted proxy each client has its own quota, and the proxy vouches for it', async t => {
  const { predict } = await buildService(t, { RATE_LIMIT_MAX: 1, TRUST_PROXY: '10.0.0.0/8' })
  const from = async (remoteAddress: string, forwarded: string) =>
    (await predict(IRIS, { remoteAddress, headers: { 'x-forwarded-for': forwarded } })).statusCode
  t.equal(await from('10.0.0.1', '203.0.113.7'), 200)
  t.equal(await from('10.0.0.1', '203.0.113.8'), 200, 'another client')
  t.equal(await from('10.0.0.1', '198.51.100.1, 203.0.113.7'), 429, 'what a client forged stands left of what is true')
  t.equal(await from('198.51.100.9', '203.0.113.9'), 200, 'no proxy: its own address counts')
  t.equal(await from('198.51.100.9', '203.0.113.10'), 429)
  t.equal(await from('10.0.0.1', 'garbage'), 200, 'no address: the proxy itself is the client')
  t.equal(await from('10.0.0.1', 'other garbage'), 429)
  t.equal(await from('10.0.0.1', '2001:db8::1'), 200)
  t.equal(await from('10.0.0.1', '2001:db8::ffff:1'), 429, 'one /64 is one client')
  t.equal(await from('10.0.0.1', '::ffff:203.0.113.7'), 429, 'IPv4 written as IPv6 is the same client')
})

t.test('ports in X-Forwarded-For neither merge clients nor make new ones', async t => {
  const { predict } = await buildService(t, { RATE_LIMIT_MAX: 1, TRUST_PROXY: '10.0.0.0/8,2001:db8:ffff::/48' })
  const from = async (forwarded: string, remoteAddress = '10.0.0.1') =>
    (await predict(IRIS, { remoteAddress, headers: { 'x-forwarded-for': forwarded } })).statusCode
  t.equal(await from('203.0.113.7:4711'), 200)
  t.equal(await from('203.0.113.8:4711'), 200, 'another client')
  t.equal(await from('203.0.113.7:4712'), 429, 'another connection of the first')
  t.equal(await from('203.0.113.7'), 429)
  t.equal(await from('[2001:db8::1]:80'), 200)
  t.equal(await from('[2001:db8::2]:81'), 429, 'one /64 is one client')
  t.equal(await from('2001:db8::3'), 429)
  t.equal(await from('203.0.113.9:1, 10.0.0.2:5555'), 200, 'a chain of proxies that all write ports')
  t.equal(await from('203.0.113.10:1, 10.0.0.2:5556'), 200)
  t.equal(await from('203.0.113.11:1, [2001:db8:ffff::1]:5555'), 200)
  t.equal(await from('203.0.113.12:1, [2001:db8:ffff::1]:5556', '::ffff:10.0.0.1'), 200)
  t.equal(await from('203.0.113.9:2, 10.0.0.3:5557'), 429)
  t.equal(await from('203.0.113.9:1, 198.51.100.1:1'), 200, 'a proxy that is not trusted is the client')
  t.equal(await from('203.0.113.99:1, 198.51.100.1:2'), 429)
})

t.test('a proxy that nobody trusts is told of once in the log', async t => {
  const asked = async (settings: Record<string, string>) => {
    const service = await startService(t, settings)
    for (let i = 0; i < 3; i++) await service.predict(IRIS, { headers: { 'x-forwarded-for': `203.0.113.${i}` } })
    return service.output().split('TRUST_PROXY is not set').length - 1
  }
  t.equal(await asked({}), 1)
  t.equal(await asked({ TRUST_PROXY: '127.0.0.1' }), 0)
})

t.test('health, models and limits are never limited', async t => {
  const { ask } = await buildService(t, { RATE_LIMIT_MAX: 0 })
  for (const url of ['/health/live', '/health/ready', '/v1/models', '/v1/models/iris', '/v1/limits']) {
    t.equal((await ask(url)).statusCode, 200, url)
  }
})

t.test('a limit of 0 allows nothing', async t => {
  const { predict } = await buildService(t, { RATE_LIMIT_MAX: 0 })
  t.equal((await predict(IRIS)).statusCode, 429)
})
