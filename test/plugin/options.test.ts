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
  [{ ban: -0.5 }, /'ban' is -0.5; allowed: a number ≥ 0, or -1 for never/],
  [{ cost: 2 ** 53 }, /'cost' is 9007199254740992; allowed: an integer ≥ 0 \(at most 2\^53 − 1\), or a function/],
  [{ policies: [{ ...policy, cost: 1e300 }] }, /'policies\[0\].cost' is 1e\+300/],
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
  [{ redis: {} }, /'redis' is an object without the method 'evalsha'; allowed: a client of ioredis/],
  [{ store: class {}, redis: { evalsha() {} } }, /'store' is combined with 'redis'/],
  [{ store: class {}, policies: [policy] }, /'policies' is combined with 'store'/],
  [{ max: 1, policies: [policy] }, /'max' is combined with 'policies'/],
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
    /'policies\[0\].burst' is 1; allowed: one of name, max, timeWindow, cost, keyGenerator, unit/,
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
  [{ startTimeout: -1 }, /'startTimeout' is -1; allowed: milliseconds ≥ 0/],
  [{ hashKeys: 'yes' }, /'hashKeys' is 'yes'; allowed: true or false/],
  [{ prefetch: 'no' }, /'prefetch' is 'no'; allowed: true, false or { max }/],
  [{ prefetch: {} }, /'prefetch.max' is undefined; allowed: an integer ≥ 1/],
  [{ prefetch: { max: 0 } }, /'prefetch.max' is 0/],
  [{ prefetch: { size: 1 } }, /'prefetch.size' is 1; allowed: one of max/],
  [{ refundOn: true }, /'refundOn' is true; allowed: a function \(request, reply\)/],
  [{ store: class {}, refundOn: () => true }, /'refundOn' is combined with 'store'/],
  [{ name: 'x' }, /'name' is given here; allowed: only in app.rateLimit\(\) and app.createRateLimit\(\)/],
  [{ allowList: ['192.0.2.1', 'friend'] }, /'allowList\[1\]' is 'friend'; allowed: an address, or a range such as/],
  [{ allowList: ['10.0.0.0/33'] }, /'allowList\[0\]' is '10.0.0.0\/33'/],
  [{ allowList: [7], keyGenerator: () => 7 }, /'allowList' is a list of 1/],
  [{ redis: 'redis://:secret@redis.example' }, /'redis' is 'redis:\/\/…@redis.example'; allowed: a client of ioredis/],
  [{ max: Infinity }, /'max' is Infinity/],
  [{ policies: [{ ...policy, max: Number.NaN }] }, /'policies\[0\].max' is NaN/],
  [{ policies: [{ ...policy, timeWindow: Number.NaN }] }, /'policies\[0\].timeWindow' is NaN/],
  [{ policies: [{}] }, /'policies\[0\].name' is undefined/],
  [{ concurrency: { max: Number.NaN } }, /'concurrency.max' is NaN/],
  ...['cost', 'precision', 'ban', 'cache', 'ipv6Subnet', 'storeTimeout', 'startTimeout', 'denyMemory'].map(
    name => [{ [name]: Number.NaN }, new RegExp(`'${name}' is NaN`)] as const,
  ),
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
  for (const other of [true, 0, '', 'max: 5', [], [{ max: 5 }], () => ({ max: 5 }), Promise.resolve({ max: 5 })]) {
    await t.rejects(declare(other), { code: 'ML_RATE_INVALID_ROUTE_CONFIG' })
  }
  await t.rejects(declare({ groupId: 5 }), { message: 'groupId must be a string', code: 'ML_RATE_INVALID_GROUP' })
  t.throws(() => app.rateLimit('often' as never), { message: /'options' is 'often'/ })
  t.throws(() => app.rateLimit([] as never), { message: /'options' is a list of 0; allowed: an object, or nothing/ })
  t.throws(() => app.createRateLimit(Promise.resolve({ max: 5 }) as never), {
    message: /'options' is a promise; allowed: an object/,
  })
  t.throws(() => app.createRateLimit({ concurrency: { max: 1 } }), {
    message: /'concurrency' is given to createRateLimit/,
  })
})

t.test('a wrong option of a route names the route, whenever the plugin has loaded', async t => {
  const wrong = { config: { rateLimit: wild({ max: '5' }) } }
  const message = /^option 'max' is '5'; allowed: .*; route: GET \/v1\/models\/:name$/
  const declare = (app: App) =>
    app.register(async scope => void scope.get('/models/:name', wrong, async () => 'ok'), { prefix: '/v1' })
  const late = Fastify() as unknown as App
  t.teardown(() => late.close())
  await late.register(rateLimit)
  declare(late)
  await t.rejects(async () => late.ready(), { code: 'ML_RATE_INVALID_OPTION', message })
  const early = Fastify() as unknown as App
  t.teardown(() => early.close())
  early.register(rateLimit)
  early.route({ method: ['PUT', 'POST'], url: '/', ...wrong, handler: async () => 'ok' })
  await t.rejects(async () => early.ready(), { message: /'max' is '5'; .*; route: PUT \/, POST \/$/ })
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
  t.match(await answers({ timeWindow: () => Infinity }), { status: 500, message: /'timeWindow' returned Infinity/ })
  t.match(await answers({ timeWindow: async () => -1 }), { status: 500 })
  t.match(await answers({ cost: () => 0.5 }), { status: 500, message: /'cost' returned 0.5/ })
  t.match(await answers({ keyGenerator: () => undefined }), {
    status: 500,
    message: /'keyGenerator' returned undefined; allowed: a string or a number/,
  })
  t.match(await answers({ keyGenerator: async () => ({}) }), { status: 500 })
  t.match(await answers({ keyGenerator: () => Number(undefined) }), {
    status: 500,
    message: /'keyGenerator' returned NaN; allowed: a string or a number/,
  })
})

t.test('what a function answers is not told to clients where it is text, but logged', async t => {
  const secret = 'the password of the database'
  for (const name of ['max', 'timeWindow', 'cost', 'keyGenerator', 'errorResponseBuilder']) {
    for (const answer of name === 'keyGenerator' ? [Symbol(secret)] : [secret, Symbol(secret)]) {
      const lines: string[] = []
      const logger = { level: 'error', stream: { write: (line: string) => void lines.push(line) } }
      const options = wild({ max: 0, [name]: () => answer })
      const app = await limited(t, options, app => app.get('/', async () => 'ok'), { logger })
      const { body, statusCode } = await ask(app)
      t.equal(statusCode, 500, name)
      t.notMatch(body, secret)
      t.match(body, new RegExp(`'${name}' returned a (string|symbol); allowed: `))
      t.match(lines.join(''), secret)
    }
  }
})

t.test('a denial whose response is not built stays a denial', async t => {
  for (const nothing of [undefined, null, '', 0, 'slow down', Promise.resolve(undefined)]) {
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

t.test('a number that is none is replaced by the default, as the warning says, or else refused', async t => {
  const warnings: string[] = []
  const logger = {
    level: 'warn',
    stream: { write: (line: string) => void warnings.push((JSON.parse(line) as { msg: string }).msg) },
  }
  const declare = (rateLimit: object) => (app: App) => {
    app.get('/', { config: { rateLimit } }, async () => 'ok')
  }
  const strict = await limited(t, { max: 2, timeWindow: 5000 }, declare({ max: Number.NaN }), { logger })
  t.match((await ask(strict)).headers, { 'x-ratelimit-limit': '1000', 'x-ratelimit-reset': '5' })
  const several = { policies: [{ name: 'p', max: 1, timeWindow: 5000 }] }
  const single = await limited(t, several, declare({ max: Number.NaN }), { logger })
  t.match((await ask(single)).headers, { 'ratelimit-policy': '"default";q=1000;w=60' })
  const past = await limited(t, { max: 2, timeWindow: 5000 }, declare({ timeWindow: -1 }), { logger })
  t.match((await ask(past)).headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-reset': '60' })
  t.strictSame(warnings, [
    "option 'max' is NaN; the default, 1000, is used instead",
    "option 'max' is NaN; the default, 1000, is used instead",
    "option 'timeWindow' is -1; the default, 60000, is used instead",
  ])
  const code = 'ML_RATE_INVALID_OPTION'
  await t.rejects(limited(t, {}, declare({ timeWindow: Number.NaN })), { code }, 'a window on a route')
  await t.rejects(limited(t, {}, declare({ ipv6Subnet: 129 })), { code }, 'a prefix length on a route')
  const app = await limited(t, {})
  for (const wrong of [{ max: Number.NaN }, { timeWindow: Number.NaN }, { timeWindow: -5 }, { ipv6Subnet: -1 }]) {
    t.throws(() => app.createRateLimit(wrong), { code })
    t.throws(() => app.rateLimit(wrong), { code })
  }
})

t.test('null on a route, or on a limiter made by hand, takes back whatever option it inherits', async t => {
  const inherited = {
    max: 2,
    timeWindow: 5000,
    cost: 2,
    allowList: ['friend'],
    groupId: 'g',
    ban: 0,
    standardHeaders: false,
    mode: 'report',
    errorResponseBuilder: () => ({ statusCode: 418 }),
    hook: 'preHandler',
    keyGenerator: () => 'friend',
  } as const
  const bare = Object.fromEntries(Object.keys(inherited).map(name => [name, null]))
  const app = await limited(t, inherited, app => {
    app.get('/', { config: { rateLimit: bare } }, async () => 'ok')
    app.get('/max', { config: { rateLimit: { ...bare, max: 1 } } }, async () => 'ok')
    app.get('/hand', { config: { rateLimit: false }, onRequest: app.rateLimit({ ...bare, max: 0 }) }, async () => 'ok')
  })
  t.match((await ask(app)).headers, { 'ratelimit-policy': '"default";q=1000;w=60', 'x-ratelimit-remaining': '999' })
  t.strictSame(await statuses(app, 2, '/max'), [200, 429])
  t.match((await ask(app, '/hand')).json(), { statusCode: 429, error: 'Too Many Requests' })

  const several = await limited(t, { policies: [{ ...policy }], concurrency: { max: 0 } }, app => {
    app.get('/', { config: { rateLimit: { policies: null, concurrency: null } } }, async () => 'ok')
    app.get('/own', { config: { rateLimit: { max: null, concurrency: null } } }, async () => 'ok')
  })
  t.match((await ask(several)).headers, { 'ratelimit-policy': '"default";q=1000;w=60' })
  t.match((await ask(several, '/own')).headers, { 'ratelimit-policy': '"p";q=1;w=1' }, 'null names no other quota')
  t.throws(() => app.rateLimit(wild({ maxx: null })), { message: /'maxx' is null/ }, 'of options that exist')
  t.throws(() => app.rateLimit(wild({ redis: null })), { message: /'redis' is given here/ })
})

t.test('a route can count without the custom store of its registration', async t => {
  class Full {
    incr(_key: string, callback: (error: null, result: object) => void) {
      callback(null, { current: 99, ttl: 1000 })
    }
    child() {
      return this
    }
  }
  const app = await limited(t, wild({ store: Full, max: 1 }), app => {
    app.get('/', async () => 'ok')
    app.get('/own', { config: { rateLimit: { store: null, cost: 1 } } }, async () => 'ok')
  })
  t.strictSame(await statuses(app, 1), [429])
  t.strictSame(await statuses(app, 2, '/own'), [200, 429])
})

t.test('a name is for limiters made by hand', async t => {
  const app = await limited(t, {})
  t.doesNotThrow(() => [app.rateLimit({ name: 'a' }), app.createRateLimit({ name: 'b' })])
  t.throws(() => app.rateLimit({ name: '' }), { message: /'name' is ''; allowed: a string that is not empty/ })
  await t.rejects(
    limited(t, {}, app => app.get('/', { config: { rateLimit: wild({ name: 'a' }) } }, async () => 'ok')),
    { message: /'name' is given here; allowed: only in app.rateLimit\(\) and app.createRateLimit\(\)/ },
  )
})

t.test('the routes of a group have one precision', async t => {
  const group = (precision?: number) => ({ groupId: 'g', ...(precision !== undefined && { precision }) })
  const app = await limited(t, { precision: 0.5 }, app => {
    app.get('/', { config: { rateLimit: group() } }, async () => 'ok')
    app.get('/same', { config: { rateLimit: group(0.5) } }, async () => 'ok')
    app.get('/else', { config: { rateLimit: { groupId: 'h', precision: 0 } } }, async () => 'ok')
  })
  const message = /'precision' is 0; allowed: 0.5, like .* group 'g'/
  t.throws(() => app.createRateLimit(group(0)), { message })
  t.throws(() => app.rateLimit(group(0)), { message })
  t.doesNotThrow(() => app.rateLimit(group(0.5)))
})

t.test('an allow list of addresses and ranges names clients by their whole address', async t => {
  const routes = (app: App) => {
    app.get('/', async () => 'ok')
    app.get('/none', { config: { rateLimit: { max: 1, allowList: [] } } }, async () => 'ok')
  }
  const allowList = ['192.0.2.1', '10.0.0.0/8', '2001:db8::5', '2001:db8:1::/48']
  const options = { max: 1, allowList }
  const passes = async (app: App, remoteAddress: string, url = '/') =>
    (await statuses(app, 2, { url, remoteAddress })).every(status => status === 200)
  for (const keyGenerator of [undefined, () => 'one for all']) {
    const app = await limited(t, wild({ ...options, keyGenerator }), routes)
    for (const ip of ['192.0.2.1', '::ffff:192.0.2.1', '10.99.1.2', '2001:db8::5', '2001:DB8:1:ffff::1'])
      t.ok(await passes(app, ip), ip)
    for (const ip of ['192.0.2.2', '11.0.0.1', '2001:db8::6', '2001:db8:2::1']) t.notOk(await passes(app, ip), ip)
    t.notOk(await passes(app, '192.0.2.1', '/none'), 'an empty list names nobody')
  }
  const asked = await limited(t, { ...options, keyGenerator: undefined as never, global: false }, app => {
    const check = app.createRateLimit()
    app.get('/', async request => check(request))
  })
  t.strictSame((await ask(asked, { url: '/', remoteAddress: '2001:db8::5' })).json(), {
    isAllowed: true,
    key: '2001:db8::',
  })
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit)
  t.throws(() => app.rateLimit({ allowList: ['friend'] }), { message: /'allowList\[0\]' is 'friend'/ })
  t.doesNotThrow(() => app.rateLimit({ allowList: ['friend'], keyGenerator: request => request.id }))
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
