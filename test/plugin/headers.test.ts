import fc from 'fast-check'
import { Redis } from 'ioredis'
import { parseList } from 'structured-headers'
import t from 'tap'
import { limitField, policyField } from '../../plugin/src/headers.js'
import { ask, frozenDate, limited, STOPPED, statuses } from '../support/plugin.js'

t.test('an allowed request is told its quota, what is left and until when', async t => {
  frozenDate(t)
  const app = await limited(t, { max: 2, timeWindow: '1 minute' })
  const { headers } = await ask(app)
  t.match(headers, {
    'x-ratelimit-limit': '2',
    'x-ratelimit-remaining': '1',
    'x-ratelimit-reset': '60',
    'ratelimit-policy': '"default";q=2;w=60',
    ratelimit: '"default";r=1;t=60',
  })
  t.equal(headers['retry-after'], undefined)
})

t.test('a denied one is told when to come back, with the body that Fastify gives to errors', async t => {
  frozenDate(t)
  const app = await limited(t, { max: 1, timeWindow: '1 minute' })
  await ask(app)
  const response = await ask(app)
  t.match(response.headers, {
    'x-ratelimit-limit': '1',
    'x-ratelimit-remaining': '0',
    'x-ratelimit-reset': '60',
    'retry-after': '60',
    ratelimit: '"default";r=0;t=60',
  })
  t.strictSame(response.json(), {
    statusCode: 429,
    error: 'Too Many Requests',
    message: 'Rate limit exceeded, retry in 1 minute',
  })
})

for (const { name, open } of STOPPED) {
  t.test(`${name}: with several policies the headers speak of the one that binds`, async t => {
    const app = await limited(t, {
      ...open(t).options,
      policies: [
        { name: 'burst', max: 2, timeWindow: '100 seconds' },
        { name: 'daily', max: 3, timeWindow: '1 day', unit: 'content-bytes' },
      ],
    })
    const first = await ask(app)
    t.match(first.headers, {
      'x-ratelimit-limit': '2',
      'x-ratelimit-remaining': '1',
      'x-ratelimit-reset': '100',
      'ratelimit-policy': '"burst";q=2;w=100, "daily";q=3;qu="content-bytes";w=86400',
      ratelimit: '"burst";r=1;t=100, "daily";r=2;t=86400',
    })
    await ask(app)
    const burst = await ask(app)
    t.match(burst.headers, { 'x-ratelimit-limit': '2', 'retry-after': '100' })
    await app.rateLimiter.refund('lone', { burst: 2 })
    await ask(app)
    const daily = await ask(app)
    t.match(daily.headers, { 'x-ratelimit-limit': '3', 'x-ratelimit-remaining': '0', 'retry-after': '86400' })
  })
}

t.test('odd names are strings of a structured field and cannot break out of it', async t => {
  const odd = 'a"b\\c, d;q=99'
  const app = await limited(t, { policies: [{ name: odd, max: 5, timeWindow: 1500 }] })
  const { headers } = await ask(app, { url: '/', headers: { 'x-key': 'key"with,odd;things' } })
  const [policy] = parseList(headers['ratelimit-policy'] as string)
  t.equal(policy?.[0], odd)
  t.strictSame(
    [...(policy?.[1] ?? [])],
    [
      ['q', 5],
      ['w', 2],
    ],
  )
  const [state] = parseList(headers.ratelimit as string)
  t.equal(state?.[0], odd)
  t.strictSame(
    [...(state?.[1] ?? [])],
    [
      ['r', 4],
      ['t', 2],
    ],
  )
})

t.test('any name that a policy may have comes back from both fields as it was', async () => {
  const printable = fc.stringMatching(/^[\x20-\x7e]{1,64}$/)
  fc.assert(
    fc.property(fc.uniqueArray(printable, { minLength: 1, maxLength: 3 }), names => {
      const states = names.map(name => ({
        name,
        unit: 'requests' as const,
        limit: 1,
        windowMs: 1,
        remaining: 1,
        reset: 1,
      }))
      return [policyField(states), limitField(states)].every(
        field => JSON.stringify(parseList(field).map(([name]) => name)) === JSON.stringify(names),
      )
    }),
  )
})

t.test('numbers beyond fifteen digits are cut to what a structured field can hold', async t => {
  const state = { name: 'x', unit: 'requests' as const, limit: 1e17, windowMs: 9e18, remaining: 1e17, reset: 0 }
  t.equal(policyField([state]), '"x";q=999999999999999;w=999999999999999')
  t.equal(limitField([state]), '"x";r=999999999999999', 'and without use there is nothing to wait for')
})

t.test('the draft names, hidden headers and no standard fields, as the options say', async t => {
  frozenDate(t)
  const draft = await limited(t, { max: 1, enableDraftSpec: true, standardHeaders: false })
  t.match((await ask(draft)).headers, { 'ratelimit-limit': '1', 'ratelimit-remaining': '0', 'ratelimit-reset': '60' })
  t.match((await ask(draft)).headers, { 'ratelimit-limit': '1', 'retry-after': '60' })
  const shy = await limited(t, {
    max: 1,
    standardHeaders: false,
    addHeadersOnExceeding: { 'x-ratelimit-limit': false, 'x-ratelimit-remaining': false, 'x-ratelimit-reset': false },
    addHeaders: {
      'x-ratelimit-limit': false,
      'x-ratelimit-remaining': false,
      'x-ratelimit-reset': false,
      'retry-after': false,
    },
  })
  for (const { headers } of [await ask(shy), await ask(shy)]) {
    t.notOk(Object.keys(headers).some(header => /ratelimit|retry/.test(header)))
  }
})

t.test('while the store is out of reach the policies are told all the same, places included', async t => {
  const redis = new Redis({ port: 1, host: '127.0.0.1', lazyConnect: true, retryStrategy: () => 100 })
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  const app = await limited(t, { redis, storeTimeout: 20, onStoreError: 'allow', max: 5, concurrency: { max: 2 } })
  const { headers } = await ask(app)
  t.equal(headers['ratelimit-policy'], '"default";q=5;w=60, "concurrency";q=2;qu="concurrent-requests"')
  t.equal(headers.ratelimit, undefined)
  t.match(headers, { 'x-ratelimit-limit': '5', 'x-ratelimit-remaining': '5' }, 'and the window binds')
})

t.test('two limiters on one request both tell of their policies', async t => {
  const app = await limited(t, { max: 5 }, app => {
    const second = app.rateLimit({ policies: [{ name: 'second', max: 3, timeWindow: 1000 }] })
    app.get('/', { preHandler: second }, async () => 'ok')
    const quiet = app.rateLimit({ max: 7, standardHeaders: true })
    app.get('/quiet', { config: { rateLimit: { standardHeaders: false } }, preHandler: quiet }, async () => 'ok')
  })
  t.match((await ask(app)).headers, {
    'ratelimit-policy': '"default";q=5;w=60, "second";q=3;w=1',
    ratelimit: '"default";r=4;t=60, "second";r=2;t=1',
    'x-ratelimit-limit': '3',
  })
  t.match((await ask(app, '/quiet')).headers, { 'ratelimit-policy': '"default";q=7;w=60' })
})

t.test('callbacks and a response of one’s own know the client, the quota and the wait', async t => {
  const calls: unknown[] = []
  const app = await limited(t, {
    max: 1,
    ban: 1,
    timeWindow: '2 seconds',
    onExceeding: (request, key) => calls.push(['exceeding', request.url, key]),
    onExceeded: (_request, key) => calls.push(['exceeded', key]),
    onBanReach: (_request, key) => calls.push(['ban', key]),
    errorResponseBuilder: (_request, context) => ({ ...context, own: true }),
  })
  t.strictSame(await statuses(app, 2), [200, 429])
  const { json, statusCode } = await ask(app)
  t.equal(statusCode, 403)
  t.match(json(), { statusCode: 403, ban: true, max: 1, after: '2 seconds', own: true })
  t.strictSame(calls, [
    ['exceeding', '/', 'lone'],
    ['exceeded', 'lone'],
    ['exceeded', 'lone'],
    ['ban', 'lone'],
  ])
})
