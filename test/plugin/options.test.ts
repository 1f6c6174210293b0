import Fastify from 'fastify'
import rateLimit, { type RateLimitPluginOptions } from 'ml-api-rate-limiter'
import t from 'tap'
import { type App, ask, inRedis, limited, statuses } from '../support/plugin.js'

/** Options as somebody without types may write them. */
const wild = (options: object) => options as RateLimitPluginOptions

async function refusal(options: object): Promise<Error> {
  const app = Fastify()
  try {
    await app.register(rateLimit, wild(options))
    await app.ready()
  } catch (error) {
    return error as Error
  } finally {
    await app.close()
  }
  throw new Error('the options were taken')
}

const policy = { name: 'p', max: 1, timeWindow: 1000 }
const WRONG: readonly (readonly [object, RegExp])[] = [
  [{ timeWindow: '10 parsecs' }, /'timeWindow' is '10 parsecs'; allowed: milliseconds ≥ 1, a duration such as/],
  [{ timeWindow: 0 }, /'timeWindow' is 0/],
  [{ timeWindow: -5 }, /'timeWindow' is -5/],
  [{ timeWindow: Infinity }, /'timeWindow' is Infinity/],
  [{ max: '100' }, /'max' is '100'; allowed: a number ≥ 0, or a function/],
  [{ max: -1 }, /'max' is -1/],
  [{ max: {} }, /'max' is an object/],
  [{ max: 5n }, /'max' is 5n/],
  [{ ban: 'yes' }, /'ban' is 'yes'/],
  [{ ban: -2 }, /'ban' is -2/],
  [{ hook: 'onSend' }, /'hook' is 'onSend'; allowed: 'onRequest', 'preParsing', 'preValidation' or 'preHandler'/],
  [{ cache: 0 }, /'cache' is 0; allowed: an integer ≥ 1/],
  [{ allowList: 'x' }, /'allowList' is 'x'/],
  [{ keyGenerator: 'ip' }, /'keyGenerator' is 'ip'/],
  [{ cost: 1.5 }, /'cost' is 1.5; allowed: an integer ≥ 0/],
  [{ precision: 2 }, /'precision' is 2; allowed: a fraction of the window/],
  [{ mode: 'watch' }, /'mode' is 'watch'; allowed: 'enforce' or 'report'/],
  [{ onStoreError: 'ignore' }, /'onStoreError' is 'ignore'; allowed: 'throw', 'allow', 'deny' or 'local'/],
  [{ storeTimeout: 0 }, /'storeTimeout' is 0/],
  [{ denyMemory: -1 }, /'denyMemory' is -1/],
  [{ nameSpace: '' }, /'nameSpace' is ''/],
  [{ redis: {} }, /'redis' is an object; allowed: a client of ioredis/],
  [{ store: class {}, redis: { evalsha() {} } }, /'store' is given together with redis/],
  [{ store: class {}, policies: [policy] }, /'policies' is given together with store/],
  [{ max: 1, policies: [policy] }, /'max' is given together with policies/],
  [{ policies: [] }, /'policies' is a list of 0/],
  [{ policies: ['burst'] }, /'policies\[0\]' is 'burst'/],
  [{ policies: [{ ...policy, name: '' }] }, /'policies\[0\].name' is ''/],
  [
    { policies: [{ ...policy, name: 'ünïcode' }] },
    /'policies\[0\].name' is 'ünïcode'; allowed: a name of printable ASCII/,
  ],
  [{ policies: [{ ...policy, name: 'a\r\nset-cookie: x' }] }, /'policies\[0\].name'/],
  [{ policies: [{ ...policy, name: 'x'.repeat(65) }] }, /'policies\[0\].name' is 'x{40}…'/],
  [{ policies: [policy, policy] }, /'policies\[1\].name' is 'p'.*different from the others/],
  [{ policies: [{ ...policy, name: 'concurrency' }] }, /'policies\[0\].name' is 'concurrency'/],
  [{ policies: [{ name: 'p', max: 1 }] }, /'policies\[0\].timeWindow' is undefined/],
  [{ policies: [{ name: 'p', timeWindow: 1 }] }, /'policies\[0\].max' is undefined/],
  [{ policies: [{ ...policy, timeWindow: 'soon' }] }, /'policies\[0\].timeWindow' is 'soon'/],
  [
    { policies: [{ ...policy, burst: 1 }] },
    /'policies\[0\].burst' is 1; allowed: one of name, max, timeWindow, cost, unit/,
  ],
  [{ concurrency: {} }, /'concurrency.max' is undefined/],
  [{ concurrency: { max: 1.5 } }, /'concurrency.max' is 1.5/],
  [{ concurrency: { max: 1, ttl: 5 } }, /'concurrency.ttl' is 5/],
  [{ concurrency: { max: 1, ttl: '60 days' } }, /'concurrency.ttl' is '60 days'; allowed: .*at most 2\^31 − 1/],
  [{ storeTimeout: 2 ** 31 }, /'storeTimeout' is 2147483648/],
  [{ concurrency: { max: 1, ttl: 'never' } }, /'concurrency.ttl' is 'never'/],
  [{ timeWindows: 5 }, /'timeWindows' is 5; allowed: one of max, timeWindow/],
  [{ onExceeded: [1] }, /'onExceeded' is a list of 1/],
  [{ ban: () => 1 }, /'ban' is a function/],
  [{ concurrency: null }, /'concurrency' is null/],
]

t.test('register refuses a wrong option and says which, what it was and what is allowed', async t => {
  for (const [options, message] of WRONG) {
    const error = await refusal(options)
    t.match(error.message, message)
    t.match(error, { code: 'ML_RATE_INVALID_OPTION' })
  }
})

t.test('a route refuses wrong options when it is declared', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit)
  const declare = (options: unknown) => async () => {
    app.get('/', { config: { rateLimit: options as RateLimitPluginOptions } }, async () => 'ok')
  }
  await t.rejects(declare({ max: '5' }), { code: 'ML_RATE_INVALID_OPTION', message: /'max' is '5'/ })
  await t.rejects(declare({ redis: 1 }), {
    message: /'redis' is given here; allowed: only where the plugin is registered/,
  })
  await t.rejects(declare(true), { code: 'ML_RATE_INVALID_ROUTE_CONFIG' })
  await t.rejects(declare({ groupId: 5 }), { message: 'groupId must be a string', code: 'ML_RATE_INVALID_GROUP' })
  t.throws(() => app.rateLimit('often' as never), { message: /'options' is often/ })
  t.throws(() => app.createRateLimit({ concurrency: { max: 1 } }), {
    message: /'concurrency' is given to createRateLimit/,
  })
})

t.test('what a function answers is checked at each request, and never taken for no limit', async t => {
  const answers = async (options: object) => {
    const app = await limited(t, wild(options))
    const response = await ask(app)
    return { status: response.statusCode, message: response.json().message as string, code: response.json().code }
  }
  t.match(await answers({ max: () => undefined }), {
    status: 500,
    message: "option 'max' returned undefined; allowed: a number ≥ 0",
  })
  t.match(await answers({ max: async () => '7' }), { status: 500, code: 'ML_RATE_INVALID_ANSWER' })
  t.match(await answers({ max: () => -1 }), { status: 500 })
  t.match(await answers({ max: () => Number.NaN }), { status: 500 })
  t.match(await answers({ timeWindow: () => 'long' }), { status: 500, message: /'timeWindow' returned 'long'/ })
  t.match(await answers({ timeWindow: async () => -1 }), { status: 500 })
  t.match(await answers({ cost: () => 0.5 }), { status: 500, message: /'cost' returned 0.5/ })
  t.match(await answers({ keyGenerator: () => undefined }), {
    status: 500,
    message: /'keyGenerator' returned undefined; allowed: a string or a number/,
  })
  t.match(await answers({ keyGenerator: async () => ({}) }), { status: 500 })
})

t.test('a denial whose response is not built stays a denial', async t => {
  for (const nothing of [undefined, null, '', 0, Promise.resolve(undefined)]) {
    const builder = { max: 0, errorResponseBuilder: () => nothing } as unknown as RateLimitPluginOptions
    const app = await limited(t, builder, app => {
      app.get('/', async () => 'ok')
      app.get('/attached', { config: { rateLimit: false }, preHandler: app.rateLimit() }, async () => 'ok')
    })
    for (const url of ['/', '/attached']) {
      t.match((await ask(app, url)).json(), {
        statusCode: 500,
        code: 'ML_RATE_INVALID_ANSWER',
        message: /option 'errorResponseBuilder' returned .*; allowed: an error or an object/,
      })
    }
  }
  const late = await limited(t, { max: 0, errorResponseBuilder: async () => ({ statusCode: 418, own: true }) })
  t.match((await ask(late)).json(), { own: true }, 'one that is built later is waited for')
})

t.test('a window beyond what Redis can count with is cut to it', async t => {
  const redis = inRedis(t)
  for (const timeWindow of ['300000 years', () => 1e16]) {
    for (const options of [{}, redis]) {
      const app = await limited(t, { ...options, max: 1, timeWindow })
      const [first, second] = [await ask(app), await ask(app)]
      t.strictSame([first.statusCode, second.statusCode], [200, 429])
      t.equal(second.headers['retry-after'], `${Math.ceil(Number.MAX_SAFE_INTEGER / 1000)}`)
      await app.rateLimiter.reset('lone')
      await app.close()
    }
  }
})

t.test('options that are functions, at once or later, are asked with the request and its key', async t => {
  const seen: unknown[] = []
  const app = await limited(t, {
    keyGenerator: async () => 7,
    max: async (request, key) => {
      seen.push([request.url, key])
      return 1
    },
    timeWindow: () => 60_000,
    cost: async () => 1,
    allowList: async request => request.headers.friend === 'yes',
  })
  t.strictSame(await statuses(app, 2), [200, 429])
  t.strictSame(await statuses(app, 2, { url: '/', headers: { friend: 'yes' } }), [200, 200])
  t.strictSame(seen, [
    ['/', 7],
    ['/', 7],
  ])
})

t.test('what Fastify hands to every plugin is not taken for an option, and on a route it is none', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, { prefix: '/p', logLevel: 'warn', max: 1 })
  app.get('/', async () => 'ok')
  t.strictSame([(await app.inject('/')).statusCode, (await app.inject('/')).statusCode], [200, 429])
  t.throws(() => app.createRateLimit(wild({ prefix: '/p' })), { message: /'prefix' is '\/p'/ })
})

t.test('a quota of 0 denies everything, a cost of 0 passes while there is quota', async t => {
  const app = await limited(t, { max: 0, timeWindow: 1000 })
  t.strictSame(await statuses(app, 2), [429, 429])
  const free = await limited(
    t,
    { max: 1, timeWindow: '1 minute', cost: request => (request.method === 'GET' ? 0 : 1) },
    app => {
      app.get('/', async () => 'ok')
      app.post('/', async () => 'ok')
    },
  )
  t.strictSame(await statuses(free, 3), [200, 200, 200])
  t.strictSame(await statuses(free, 2, { method: 'POST', url: '/' }), [200, 429])
  t.strictSame(await statuses(free, 1), [200])
})

t.test('a cost that no window can hold is denied for the length of the window', async t => {
  const app = await limited(t, { max: 3, timeWindow: '1 minute', cost: 4 })
  t.match((await ask(app)).headers, { 'retry-after': '60' })
})

t.test('values that @fastify/rate-limit replaces by the default are replaced here, too, with a warning', async t => {
  const warnings: string[] = []
  const logger = {
    level: 'warn',
    stream: { write: (line: string) => void warnings.push((JSON.parse(line) as { msg: string }).msg) },
  }
  const routes = (app: App) => {
    app.get('/', { config: { rateLimit: { timeWindow: -5 } } }, async () => 'ok')
  }
  const app = await limited(t, { max: Number.NaN, timeWindow: Number.NaN, ipv6Subnet: 129 }, routes, { logger })
  t.match((await ask(app)).headers, { 'x-ratelimit-limit': '1000', 'x-ratelimit-reset': '60' })
  t.equal(warnings.length, 4)
  t.match(warnings[0], /option 'max' is NaN; the default, 1000, is used instead/)
})

t.test('a list of keys, or null for none, lets through whom it names', async t => {
  const app = await limited(t, { max: 1, allowList: ['friend'] })
  t.strictSame(await statuses(app, 3, { url: '/', headers: { 'x-key': 'friend' } }), [200, 200, 200])
  t.strictSame(await statuses(app, 2), [200, 429])
  const asked = await limited(t, { global: false, allowList: ['friend'] }, app => {
    const check = app.createRateLimit()
    app.get('/', async request => check(request))
  })
  t.strictSame((await ask(asked, { url: '/', headers: { 'x-key': 'friend' } })).json(), {
    isAllowed: true,
    key: 'friend',
  })
  const none = await limited(t, wild({ max: 1, allowList: null }))
  t.strictSame(await statuses(none, 2), [200, 429])
})

t.test('each hook can hold the limiter, and the own handlers of the route come first', async t => {
  for (const hook of ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const) {
    const order: string[] = []
    const options = { max: 1, hook, onExceeding: () => void order.push('limiter') }
    const own = async () => void order.push('own')
    const app = await limited(t, options, app => {
      app.post('/', { [hook]: own }, async () => 'ok')
      app.post('/two', { [hook]: [own, own] }, async () => 'ok')
    })
    t.strictSame(await statuses(app, 2, { method: 'POST', url: '/', payload: {} }), [200, 429])
    t.strictSame(order, ['own', 'limiter', 'own'], hook)
    t.strictSame(await statuses(app, 1, { method: 'POST', url: '/two', payload: {} }), [429])
  }
})

t.test('a route can lay policies over a single quota, and a single quota over policies', async t => {
  const app = await limited(t, { max: 5, timeWindow: '1 minute' }, app => {
    app.get('/', { config: { rateLimit: { policies: [{ name: 'own', max: 1, timeWindow: 1000 }] } } }, async () => 'ok')
  })
  t.match((await ask(app)).headers, { 'ratelimit-policy': '"own";q=1;w=1' })
  const several = await limited(
    t,
    { policies: [{ name: 'many', max: 9, timeWindow: 1000 }], onStoreError: 'local' },
    app => {
      app.get('/', { config: { rateLimit: { max: 2, skipOnError: true } } }, async () => 'ok')
      app.get('/else', { config: { rateLimit: { onStoreError: 'deny' } } }, async () => 'ok')
    },
  )
  t.match((await ask(several)).headers, { 'x-ratelimit-limit': '2', 'ratelimit-policy': '"default";q=2;w=60' })
  t.match((await ask(several, '/else')).headers, { 'x-ratelimit-limit': '9' })
})
