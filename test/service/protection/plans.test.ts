import t, { type Test } from 'tap'
import { ConfigError } from '../../../service/src/config.js'
import { readPlans, unknownModels } from '../../../service/src/protection/plans.js'
import { buildService, IRIS, inRedis, STORES } from '../../support/build.js'
import { limitsFile as fileOf, rowsOf, sha256, v2RowsOf } from '../../support/limits-file.js'

const perMinute = (name: string, limit: number, unit?: string) => ({ name, limit, window: '1 minute', unit })

const LIMITS = {
  anonymous: 'free',
  plans: {
    free: { policies: [perMinute('requests', 2)] },
    pro: { policies: [perMinute('requests', 5), perMinute('rows', 10, 'rows')], concurrency: 4 },
  },
  keys: [
    { sha256: sha256('one'), plan: 'pro' },
    { sha256: sha256('two'), plan: 'pro' },
    { sha256: sha256('gone'), plan: 'pro', revoked: true },
  ],
}

const limitsFile = (t: Test, content: unknown = LIMITS) => fileOf(t, content)

const withKey = (key: string, more = {}) => ({ headers: { 'x-api-key': key }, ...more })

for (const { name, settings } of STORES) {
  t.test(`each key has the quota of its plan, and those without one that of their address, ${name}`, async t => {
    const { predict } = await buildService(t, { ...settings(), LIMITS_FILE: limitsFile(t).path })
    for (const key of ['one', 'two']) {
      for (let i = 0; i < 5; i++) t.equal((await predict(IRIS, withKey(key))).statusCode, 200)
      const denied = await predict(IRIS, withKey(key))
      t.equal(denied.statusCode, 429)
      t.match(denied.json(), { 'violated-policies': ['requests'] })
    }
    for (const expected of [200, 200, 429]) t.equal((await predict(IRIS)).statusCode, expected)
  })

  t.test(`rows are charged besides requests, by both protocols together, ${name}`, async t => {
    const { ask, predict } = await buildService(t, { ...settings(), LIMITS_FILE: limitsFile(t).path })
    t.equal((await predict(rowsOf(6), withKey('one'))).statusCode, 200)
    const v2 = { method: 'POST', url: '/v2/models/iris/infer', payload: v2RowsOf(3), ...withKey('one') } as const
    t.equal((await ask(v2)).statusCode, 200)
    const denied = await predict(rowsOf(2), withKey('one'))
    t.equal(denied.statusCode, 429)
    t.match(denied.json(), { code: 'ML_RATE_QUOTA_EXCEEDED', 'violated-policies': ['rows'] })
    t.equal(denied.headers['retry-after'], String(denied.json().retryAfter))
    const refused = await ask(v2)
    t.equal(refused.statusCode, 429)
    t.ok(refused.headers['retry-after'])
    const last = await predict(rowsOf(1), withKey('one'))
    t.equal(last.statusCode, 200, 'what fits is served, and the denied rows were not charged')
    t.match(last.headers['ratelimit-policy'], /"requests";q=5;w=60.*"rows";q=10;w=60/)
    t.match((await ask({ url: '/v1/limits', ...withKey('one') })).json(), {
      plan: 'pro',
      policies: [
        { name: 'requests', unit: 'requests', limit: 5, remaining: 0, windowSeconds: 60 },
        { unit: 'concurrent-requests', limit: 4, remaining: 4 },
        { name: 'rows', unit: 'rows', limit: 10, remaining: 0, windowSeconds: 60 },
      ],
    })
  })

  t.test(`wrong keys are denied after ten in a minute, and right ones at that address never, ${name}`, async t => {
    const { ask, predict } = await buildService(t, { ...settings(), LIMITS_FILE: limitsFile(t).path })
    const refused = await predict(IRIS, withKey('gone'))
    t.equal(refused.statusCode, 401, 'a revoked key')
    t.match(refused.json(), { code: 'UNKNOWN_KEY', status: 401 })
    t.equal(refused.headers['www-authenticate'], 'ApiKey')
    const guesses = await Promise.all(
      Array.from({ length: 30 }, async (_, i) => (await predict(IRIS, withKey(`guess ${i}`))).statusCode),
    )
    t.equal(guesses.filter(status => status === 401).length, 9)
    t.equal(guesses.filter(status => status === 429).length, 21)
    const denied = await predict(IRIS, withKey('guess 30'))
    t.equal(denied.statusCode, 429)
    t.match(denied.json(), { 'violated-policies': ['key-guesses'] })
    t.ok(denied.headers['retry-after'])
    t.equal((await predict(IRIS, withKey('one'))).statusCode, 200, 'a right key goes on working')
    t.equal((await ask({ url: '/v1/limits', ...withKey('two') })).statusCode, 200)
    t.equal((await predict(IRIS)).statusCode, 200, 'and so does the address without a key')
    t.equal((await predict(IRIS, withKey('guess 31', { remoteAddress: '198.51.100.7' }))).statusCode, 401)
  })
}

t.test('wrong keys at one replica count at the other', async t => {
  const settings = { ...inRedis(), LIMITS_FILE: limitsFile(t).path }
  const [one, two] = await Promise.all([buildService(t, settings), buildService(t, settings)])
  for (let i = 0; i < 10; i++) t.equal((await one.predict(IRIS, withKey(`guess ${i}`))).statusCode, 401)
  t.equal((await two.predict(IRIS, withKey('guess 10'))).statusCode, 429)
  t.equal((await two.predict(IRIS, withKey('one'))).statusCode, 200)
})

t.test('without a plan for anonymous callers a key is required: 401, and never a quota that is used up', async t => {
  const { path } = limitsFile(t, { ...LIMITS, anonymous: null })
  const { ask, predict } = await buildService(t, { LIMITS_FILE: path })
  const v2 = { method: 'POST', url: '/v2/models/iris/infer', payload: v2RowsOf(1) } as const
  for (let i = 0; i < 20; i++) {
    const refused = await predict(IRIS)
    t.equal(refused.statusCode, 401)
    t.match(refused.json(), { code: 'KEY_REQUIRED', detail: 'an API key is required, in x-api-key' })
    t.equal(refused.headers['www-authenticate'], 'ApiKey')
  }
  t.equal((await predict(IRIS, { headers: { authorization: 'Bearer one' } })).statusCode, 401)
  t.equal((await ask('/v1/limits')).statusCode, 401)
  const bare = await ask(v2)
  t.equal(bare.statusCode, 401)
  t.match(bare.json(), { error: /an API key is required/ })
  t.equal((await predict(IRIS, withKey('one'))).statusCode, 200)
  t.equal((await ask({ ...v2, ...withKey('one') })).statusCode, 200)
  for (const url of ['/v1/models', '/health/ready', '/openapi.json', '/'])
    t.equal((await ask(url)).statusCode, 200, url)
})

t.test('a bearer token is an API key where a setting says so, and nothing otherwise', async t => {
  const { path } = limitsFile(t)
  const bearer = (token: string) => ({ headers: { authorization: `Bearer ${token}` } })
  const off = await buildService(t, { LIMITS_FILE: path })
  for (const token of ['one', 'a-token-of-another-service']) {
    const answer = await off.predict(IRIS, bearer(token))
    t.equal(answer.statusCode, 200)
    t.equal(answer.headers['x-ratelimit-limit'], '2', 'an anonymous caller')
  }
  const on = await buildService(t, { LIMITS_FILE: path, BEARER_KEYS: 'on' })
  t.equal((await on.predict(IRIS, bearer('one'))).headers['x-ratelimit-limit'], '5')
  t.equal((await on.predict(IRIS, withKey('one'))).headers['x-ratelimit-remaining'], '3', 'one quota by either header')
  const wrong = await on.predict(IRIS, bearer('wrong'))
  t.equal(wrong.statusCode, 401)
  t.equal(wrong.headers['www-authenticate'], 'Bearer')
  const both = { headers: { authorization: 'Bearer wrong', 'x-api-key': 'one' } }
  t.equal((await on.predict(IRIS, both)).statusCode, 200, 'x-api-key is read first')
})

t.test('more rows at once than the plan has are refused as what no wait can help', async t => {
  const { predict } = await buildService(t, { LIMITS_FILE: limitsFile(t).path })
  const refused = await predict(rowsOf(11), withKey('one'))
  t.equal(refused.statusCode, 413)
  t.match(refused.json(), { code: 'TOO_MANY_ROWS', detail: /at most 10/ })
})

t.test('a reload takes a new file whole; a broken one is reported and changes nothing', async t => {
  const file = limitsFile(t)
  const { ask, predict } = await buildService(t, { LIMITS_FILE: file.path, ADMIN_TOKEN: 'secret' })
  const reload = async () => {
    const headers = { authorization: 'Bearer secret' }
    return (await ask({ method: 'POST', url: '/v1/admin/reload', headers })).json().limits
  }
  t.equal((await predict(IRIS, withKey('one'))).statusCode, 200)

  file.write({ ...LIMITS, keys: [{ sha256: sha256('three'), plan: 'platinum' }] })
  t.match(await reload(), { loaded: false, errors: [/\/keys\/0\/plan names no plan; there are free, pro/] })
  t.equal((await predict(IRIS, withKey('one'))).headers['x-ratelimit-remaining'], '3', 'the old file still holds')

  const free = { policies: [perMinute('requests', 4)] }
  file.write({ ...LIMITS, plans: { ...LIMITS.plans, free }, keys: LIMITS.keys.slice(1) })
  t.strictSame(await reload(), { loaded: true })
  t.equal((await predict(IRIS, withKey('one'))).statusCode, 401, 'a key that was taken out')
  t.equal((await predict(IRIS)).headers['x-ratelimit-limit'], '4')
  t.equal((await predict(IRIS, withKey('two'))).statusCode, 200)
})

t.test('a reload gives nobody a fresh quota', async t => {
  const file = limitsFile(t)
  const { limits, predict } = await buildService(t, { LIMITS_FILE: file.path })
  t.equal((await predict(IRIS)).headers['x-ratelimit-remaining'], '1')
  file.write({ ...LIMITS, plans: { ...LIMITS.plans, free: { policies: [perMinute('requests', 3)] } } })
  t.strictSame(limits.reload(), { loaded: true })
  t.equal((await predict(IRIS)).headers['x-ratelimit-remaining'], '1', 'two of the new three')
})

t.test('a wrong limits file names every wrong place, and shows nothing of what is in it', async t => {
  const errorsOf = (content: unknown) => {
    try {
      readPlans(limitsFile(t, content).path)
    } catch (error) {
      t.ok(error instanceof ConfigError)
      return (error as ConfigError).problems.join('\n')
    }
    return ''
  }
  const free = { policies: [perMinute('requests', 1)] }
  for (const [content, expected] of [
    ['{ "keys": ["a secret', /is not valid JSON/],
    [{ plans: { free } }, /anonymous/],
    [{ anonymous: 'free', plans: { free }, keys: [{ sha256: 'a secret', plan: 'free' }] }, /\/keys\/0\/sha256/],
    [{ anonymous: 'free', plans: { free: { policies: [perMinute('rows', 1, 'rows')] } } }, /needs one in requests/],
    [
      { anonymous: 'free', plans: { free: { policies: [{ ...perMinute('x', 1), window: 'soon' }] } } },
      /\/policies\/0\/window/,
    ],
    [
      { anonymous: 'free', plans: { free: { policies: [perMinute('x', 1), perMinute('x', 2)] } } },
      /\/policies\/1\/name/,
    ],
    [{ anonymous: 'free', plans: { free: { ...free, concurency: 1 } } }, /\/plans\/free/],
    [{ anonymous: 'other', plans: { free } }, /\/anonymous names no plan; there are free/],
    [{ anonymous: false, plans: { free } }, /\/anonymous/],
  ] as const) {
    const errors = errorsOf(content)
    t.match(errors, expected)
    t.notMatch(errors, /a secret/)
  }
  const budget = { limit: 1, per: 'year' }
  const policies = Array.from({ length: 12 }, (_, i) => ({ ...perMinute(`p${i}`, -1), unit: 'tokens', per: 'user' }))
  const all = errorsOf({ anonymous: 'free', plans: { free: { policies, budget, concurency: 1 } }, key: [] }).split('\n')
  t.equal(all.length, 39, 'one line for each wrong place, however many there are')
  for (const expected of [
    /policies\/11\/unit must be 'requests' or must be 'rows' or must be 'compute-ms' or must be 'credits'$/,
    /policies\/11\/per must be 'key' or must be 'owner'$/,
    /policies\/11\/limit must be >= 0$/,
    /free\/budget\/per must be 'day' or must be 'month'$/,
    /free\/concurency is not known here$/,
    /: \/key is not known here$/,
  ]) {
    t.equal(all.filter(line => expected.test(line)).length, 1, String(expected))
  }
  t.throws(() => readPlans('/nowhere/limits.json'), { message: /cannot be read \(ENOENT\)/ })
})

t.test('a limits file may begin with the mark that editors of Windows write', async t => {
  t.equal(readPlans(limitsFile(t, `\ufeff${JSON.stringify(LIMITS)}`).path).all.length, 2)
})

t.test('models that plans name and that are not there are found, wherever a plan names them', async t => {
  const plan = (more: object) => ({ policies: [perMinute('requests', 5)], ...more })
  const { path } = limitsFile(t, {
    anonymous: 'allows',
    plans: {
      allows: plan({ models: { allow: ['iris', 'irsi'] } }),
      denies: plan({ models: { deny: ['irsi', 'digits'] } }),
      prices: plan({ costs: { digit: { request: 2 } } }),
      counts: plan({ policies: [perMinute('requests', 5), { ...perMinute('some', 5), models: ['iris', 'one'] }] }),
    },
  })
  const unknown = unknownModels(readPlans(path).all, new Set(['iris', 'digits']))
  t.strictSame(
    [...unknown],
    [
      ['irsi', ['allows', 'denies']],
      ['digit', ['prices']],
      ['one', ['counts']],
    ],
  )
})
