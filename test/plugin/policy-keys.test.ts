/** Policies with keys of their own: user, tenant and everybody in one decision. */
import { Cluster, Redis } from 'ioredis'
import type { RateLimitHandler, RateLimitPluginOptions } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { type App, ask, elsewhere, limited, redisClient, STORES } from '../support/plugin.js'
import { startCluster, until } from '../support/redis-fleet.js'

const header = (name: string) => (request: { headers: Record<string, unknown> }) => `${request.headers[name] ?? 'none'}`

/** The client is the header `x-key`; see `limited`. */
const policies = (user: number, tenant: number, all: number) => [
  { name: 'user', max: user, timeWindow: '1 hour' },
  { name: 'tenant', max: tenant, timeWindow: '1 hour', keyGenerator: header('x-tenant') },
  { name: 'all', max: all, timeWindow: '1 hour', keyGenerator: () => 'everybody' },
]
const of = (user: string, tenant: string, url = '/') => ({ url, headers: { 'x-key': user, 'x-tenant': tenant } })
const routes = (app: App) => {
  app.get('/', async request => request.rateLimit?.policies.map(({ name, key, remaining }) => [name, key, remaining]))
  app.get('/back', async request => request.rateLimit?.refund())
  app.get('/more', async request => request.rateLimit?.charge({ tenant: 2 }))
}
const statusOf = async (app: App, user: string, tenant: string) => (await ask(app, of(user, tenant))).statusCode

/** What holds whatever counts. */
async function holds(t: Test, options: RateLimitPluginOptions): Promise<void> {
  await t.test('a request is charged to the key of each policy, by all or by none', async t => {
    const app = await limited(t, { ...options, policies: policies(2, 3, 4) }, routes)
    t.strictSame((await ask(app, of('ann', 'acme'))).json(), [
      ['user', 'ann', 1],
      ['tenant', 'acme', 2],
      ['all', 'everybody', 3],
    ])
    t.equal(await statusOf(app, 'ann', 'acme'), 200)
    t.equal(await statusOf(app, 'ann', 'acme'), 429, 'the user has used all of theirs')
    t.equal(await statusOf(app, 'bob', 'acme'), 200, 'which cost the tenant nothing')
    t.equal(await statusOf(app, 'bob', 'acme'), 429, 'the tenant has used all of theirs')
    t.equal(await statusOf(app, 'bob', 'other'), 200)
    t.equal(await statusOf(app, 'cid', 'third'), 429, 'and everybody all of theirs')
    const left = async (keys: Parameters<App['rateLimiter']['status']>[0]) =>
      (await app.rateLimiter.status(keys))?.policies.map(({ name, key, remaining }) => `${name} ${key} ${remaining}`)
    t.strictSame(await left({ user: 'bob', tenant: 'acme', all: 'everybody' }), [
      'user bob 0',
      'tenant acme 0',
      'all everybody 0',
    ])
    t.strictSame(await left({ tenant: 'third' }), ['tenant third 3'], 'policies without a key are left out')
    t.strictSame(await left('ann'), ['user ann 0', 'tenant ann 3', 'all ann 4'], 'one key is for every policy')
    await app.rateLimiter.refund({ tenant: 'acme', all: 'everybody' }, { tenant: 2, all: 1 })
    t.strictSame(await left({ tenant: 'acme', all: 'everybody' }), ['tenant acme 2', 'all everybody 1'])
    await app.rateLimiter.reset({ all: 'everybody', user: 'bob' })
    t.strictSame(await left({ user: 'bob', tenant: 'acme', all: 'everybody' }), [
      'user bob 2',
      'tenant acme 2',
      'all everybody 4',
    ])
    t.equal(await statusOf(app, 'bob', 'acme'), 200)
  })

  await t.test('what is charged later and given back goes to the keys of the request', async t => {
    const app = await limited(t, { ...options, policies: policies(10, 10, 10) }, routes)
    t.equal((await ask(app, of('ann', 'acme', '/more'))).statusCode, 200)
    t.equal((await ask(app, of('ann', 'acme', '/back'))).statusCode, 200)
    const { policies: left = [] } =
      (await app.rateLimiter.status({ user: 'ann', tenant: 'acme', all: 'everybody' })) ?? {}
    t.strictSame(
      left.map(({ remaining }) => remaining),
      [9, 7, 9],
    )
  })

  await t.test('penalties and requests in flight go by the key of the limiter', async t => {
    const app = await limited(t, { ...options, policies: policies(9, 1, 9), ban: 1, concurrency: { max: 2 } }, routes)
    t.equal(await statusOf(app, 'ann', 'acme'), 200)
    t.equal(await statusOf(app, 'ann', 'acme'), 429)
    t.equal(await statusOf(app, 'ann', 'acme'), 403, 'ann was denied too often')
    t.equal(await statusOf(app, 'bob', 'acme'), 429, 'bob was not')
    t.equal(await statusOf(app, 'ann', 'other'), 200)
    const { policies: left = [] } = (await app.rateLimiter.status({ concurrency: 'ann', tenant: 'acme' })) ?? {}
    t.strictSame(
      left.map(({ name, key, remaining }) => [name, key, remaining]),
      [
        ['tenant', 'acme', 0],
        ['concurrency', 'ann', 2],
      ],
    )
  })

  await t.test('continueExceeding blocks the client, and not those who share a key with it', async t => {
    const short = policies(9, 9, 9).map(policy => ({ ...policy, max: policy.name === 'tenant' ? 1 : 9 }))
    const app = await limited(t, { ...options, policies: short, continueExceeding: true }, routes)
    t.equal(await statusOf(app, 'ann', 'acme'), 200)
    t.equal(await statusOf(app, 'ann', 'acme'), 429)
    t.equal(await statusOf(app, 'ann', 'fresh'), 429, 'ann is blocked whatever tenant she names')
    t.equal(await statusOf(app, 'bob', 'fresh'), 200)
  })

  for (const penalty of [{ ban: 1 }, { continueExceeding: true }, { exponentialBackoff: true }]) {
    await t.test(`a reset of a client lifts what its denials cost it, ${Object.keys(penalty)}`, async t => {
      const app = await limited(t, { ...options, policies: policies(9, 1, 9), ...penalty }, routes)
      t.equal(await statusOf(app, 'ann', 'acme'), 200)
      t.equal(await statusOf(app, 'ann', 'acme'), 429)
      t.equal(await statusOf(app, 'ann', 'acme'), 'ban' in penalty ? 403 : 429)
      await app.rateLimiter.reset('ann')
      t.equal(await statusOf(app, 'ann', 'fresh'), 200)
      t.equal(await statusOf(app, 'ann', 'fresh'), 429, 'the first denial again')
    })
  }

  await t.test('it is charged as a plain count says, whatever the keys', async t => {
    const limits = { user: 4, tenant: 7, all: 25 }
    const app = await limited(t, { ...options, policies: policies(limits.user, limits.tenant, limits.all) }, routes)
    const counts = new Map<string, number>()
    for (let step = 0; step < 60; step++) {
      const [user, tenant] = [`u${(step * 7) % 11}`, `t${(step * 5) % 4}`]
      const ids = [
        ['user', user],
        ['tenant', tenant],
        ['all', ''],
      ] as const
      const fits = ids.every(([name, key]) => (counts.get(name + key) ?? 0) < limits[name])
      const status = await statusOf(app, user, tenant)
      if (status !== (fits ? 200 : 429)) t.fail(`step ${step}: ${status}`)
      if (fits) for (const [name, key] of ids) counts.set(name + key, (counts.get(name + key) ?? 0) + 1)
    }
    t.equal(counts.get('all'), 25)
  })
}

for (const { name, options } of STORES) {
  t.test(name, async t => {
    let space = 0
    const given = options(t)
    await holds(t, {
      ...given,
      get nameSpace() {
        return given.nameSpace === undefined ? undefined : `${given.nameSpace}${space++}:`
      },
      get counts() {
        return given.counts && elsewhere().counts
      },
    })
  })
}

t.test('on one server it is one call, and a remembered denial of a shared key needs none', async t => {
  const redis = redisClient(t)
  const app = await limited(
    t,
    { redis, nameSpace: `keys:${process.pid}:`, policies: policies(9, 1, 9), storeTimeout: 20_000 },
    routes,
  )
  t.equal(await statusOf(app, 'ann', 'acme'), 200)
  const send = redis.evalsha.bind(redis) as (...args: unknown[]) => Promise<unknown>
  let calls = 0
  redis.evalsha = ((...args: unknown[]) => {
    calls++
    return send(...args)
  }) as never
  t.equal(await statusOf(app, 'ann', 'acme'), 429)
  t.equal(calls, 1)
  const { statusCode, json } = await ask(app, of('bob', 'acme'))
  t.equal(statusCode, 429, 'another client of the tenant')
  t.match(json().message, /Rate limit exceeded/)
  t.equal(calls, 1, 'is denied without asking')
  t.equal(await statusOf(app, 'ann', 'other'), 200, 'and the client with another tenant is not')
  t.equal(calls, 2)
  await app.rateLimiter.reset({ tenant: 'acme' })
  t.equal(await statusOf(app, 'bob', 'acme'), 200, 'a reset is seen at once')
})

t.test('quota of several keys is taken ahead together: each gets its own to the unit, whoever shares it', async t => {
  const redis = redisClient(t)
  const app = await limited(
    t,
    { redis, nameSpace: `ahead-keys:${process.pid}:`, policies: policies(700, 1000, 100_000), storeTimeout: 20_000 },
    routes,
  )
  const send = redis.evalsha.bind(redis) as (...args: unknown[]) => Promise<unknown>
  let calls = 0
  redis.evalsha = ((...args: unknown[]) => {
    calls++
    return send(...args)
  }) as never
  const admitted = { ann: 0, bob: 0, cid: 0 }
  const use = async (user: keyof typeof admitted, tenant: string) => {
    for (let status = 200; status === 200; ) {
      status = await statusOf(app, user, tenant)
      if (status === 200) admitted[user]++
    }
  }
  await use('ann', 'acme')
  t.equal(admitted.ann, 700)
  await Promise.all([use('bob', 'acme'), use('cid', 'other')])
  t.strictSame(admitted, { ann: 700, bob: 300, cid: 700 })
  t.ok(calls < 1200, `${calls} calls for 1703 requests`)
  const { policies: left = [] } =
    (await app.rateLimiter.status({ user: 'bob', tenant: 'acme', all: 'everybody' })) ?? {}
  t.strictSame(
    left.map(({ remaining }) => remaining),
    [400, 0, 98_300],
  )
})

t.test('where the key of one policy is reset, the others get back what was taken ahead of them', async t => {
  const options = { policies: policies(100_000, 100_000, 100_000), nameSpace: `reset-ahead:${process.pid}:` }
  const app = await limited(t, { ...options, redis: redisClient(t), storeTimeout: 20_000 }, routes)
  const other = await limited(t, { ...options, redis: redisClient(t), storeTimeout: 20_000 }, routes)
  let asked = 0
  for (let ahead = 0; ahead === 0; ) {
    for (let index = 0; index < 50; index++, asked++) await statusOf(app, 'ann', 'acme')
    ahead = (await app.rateLimiter.status({ user: 'ann' }))?.policies[0]?.prefetched ?? 0
  }
  await app.rateLimiter.reset({ tenant: 'acme' })
  const keys = { user: 'ann', tenant: 'acme', all: 'everybody' }
  await until('all of it is back', async () => {
    const left = (await other.rateLimiter.status(keys))?.policies.map(({ remaining }) => remaining)
    return `${left}` === `${[100_000 - asked, 100_000, 100_000 - asked]}`
  })
})

t.test('a denial of keys of policies is known at once, where all keys are named', async t => {
  for (const { options } of STORES) {
    let limiter: RateLimitHandler | undefined
    const app = await limited(t, { ...options(t), global: false }, app => {
      limiter = app.rateLimit({ name: 'known', policies: policies(5, 1, 9) })
      app.get('/', { onRequest: limiter }, async () => 'ok')
    })
    const known = (user: string, tenant: string) => limiter?.knownDenial({ user, tenant, all: 'everybody' })
    t.equal(known('ann', 'acme'), undefined)
    t.strictSame([await statusOf(app, 'ann', 'acme'), await statusOf(app, 'ann', 'acme')], [200, 429])
    t.match(known('ann', 'acme'), { allowed: false, violated: ['tenant'], binding: { key: 'acme' } })
    t.match(known('bob', 'acme'), { allowed: false, violated: ['tenant'] })
    t.equal(known('ann', 'other'), undefined)
    t.equal(limiter?.knownDenial('acme'), undefined)
    t.equal(limiter?.knownDenial({ tenant: 'acme' }), undefined)
  }
})

t.test('a hash tag that is no string is refused when it is given', async t => {
  await t.rejects(limited(t, { hashTag: 'tenant' as never }), { message: /option 'hashTag' is 'tenant'; allowed: / })
})

t.test('a hash tag that is no string is an error whatever onStoreError says, and no failure of the store', async t => {
  const failure = new Error('the text of an error')
  const fails = () => {
    throw failure
  }
  for (const onStoreError of ['throw', 'allow', 'deny', 'local'] as const) {
    for (const [hashTag, said] of [
      [() => undefined, 'undefined'],
      [async () => 'a', 'a promise'],
      [fails, 'nothing, because it failed'],
    ] as const) {
      const app = await limited(t, { redis: redisClient(t), hashTag: hashTag as never, onStoreError })
      const message = `option 'hashTag' returned ${said}; allowed: a string`
      t.match((await ask(app)).json(), { statusCode: 500, code: 'ML_RATE_INVALID_ANSWER', message })
      const { status, reset, refund, block } = app.rateLimiter
      for (const act of [() => status('a'), () => reset('a'), () => refund('a', 1), () => block('a', 1000)]) {
        const error = { code: 'ML_RATE_INVALID_ANSWER', message, ...(hashTag === fails ? { cause: failure } : {}) }
        await t.rejects(async () => act(), error)
      }
    }
  }
})

t.test('keys of policies that there are not are refused, and say which there are', async t => {
  const app = await limited(t, { policies: policies(1, 1, 1) }, routes)
  const message =
    "option 'key' is { 'usr': 'ann' }; allowed: a string, or an object with a string for any of user, tenant, all"
  for (const act of ['status', 'reset'] as const)
    await t.rejects(async () => app.rateLimiter[act]({ usr: 'ann' }), { code: 'ML_RATE_INVALID_OPTION', message })
  await t.rejects(async () => app.rateLimiter.refund({}, 1), { message: /'key' is an object; allowed: / })
  await t.rejects(async () => app.rateLimiter.reset({ user: 1 } as never), { message: /'key' is { 'user': 1 }; / })
})

t.test('a group shares the logs of policies with keys', async t => {
  const rateLimit = { groupId: 'g', policies: policies(9, 2, 9) }
  const app = await limited(t, { global: false }, app => {
    app.get('/a', { config: { rateLimit } }, async () => 'a')
    app.get(
      '/b',
      {
        config: {
          rateLimit: { ...rateLimit, policies: policies(9, 2, 9).map(one => ({ ...one, timeWindow: '2 hours' })) },
        },
      },
      async () => 'b',
    )
  })
  const urls = ['/a', '/b', '/a', '/b']
  const list: number[] = []
  for (const [index, url] of urls.entries()) list.push((await ask(app, of(`u${index}`, 'acme', url))).statusCode)
  t.strictSame(list, [200, 200, 429, 429])
})

t.test('in a cluster', async t => {
  const { nodes } = await startCluster(t, { replicas: false })
  const cluster = new Cluster(nodes.map(({ port }) => ({ host: '127.0.0.1', port })))
  cluster.on('error', () => {})
  t.teardown(() => cluster.disconnect())
  await until('the client is ready', async () => cluster.status === 'ready')
  let space = 0
  await holds(t, {
    redis: cluster,
    storeTimeout: 20_000,
    denyMemory: false,
    get nameSpace() {
      return `cluster${space++}:`
    },
  })

  await t.test('a policy whose key alone counts, and that of the limiter not at all', async t => {
    const [, ...own] = policies(9, 5, 1000)
    const app = await limited(
      t,
      { redis: cluster, nameSpace: 'own:', storeTimeout: 20_000, denyMemory: false, policies: own.slice(0, 1) },
      routes,
    )
    const asked = Array.from({ length: 40 }, (_, index) => statusOf(app, 'ann', `t${index % 8}`))
    t.strictSame(new Set(await Promise.all(asked)), new Set([200]), 'of many tenants at once')
    t.equal((await ask(app, of('ann', 't9', '/back'))).statusCode, 200)
    const [left] = (await app.rateLimiter.status({ tenant: 't9' }))?.policies ?? []
    t.equal(left?.remaining, 5)
  })

  await t.test('keys that share a hash tag are one call, and quota of them is taken ahead', async t => {
    const client = new Cluster(nodes.map(({ port }) => ({ host: '127.0.0.1', port })))
    client.on('error', () => {})
    t.teardown(() => client.disconnect())
    await until('the client is ready', async () => client.status === 'ready')
    let calls = 0
    const count = () => {
      const send = client.evalsha.bind(client) as (...args: unknown[]) => Promise<unknown>
      client.evalsha = ((...args: unknown[]) => {
        calls++
        return send(...args)
      }) as never
    }
    const app = await limited(
      t,
      {
        ...{ redis: client, nameSpace: 'tagged:', storeTimeout: 20_000 },
        keyGenerator: request => `${request.headers['x-tenant']}/${request.headers['x-key']}`,
        hashTag: key => key.split('/', 1)[0] as string,
        policies: policies(3000, 6000, 1).slice(0, 2),
      },
      routes,
    )
    t.equal(await statusOf(app, 'ann', 'acme'), 200)
    const logs = (await Promise.all(client.nodes('master').map(node => node.keys('tagged:*')))).flat()
    t.strictSame(
      logs.map(log => /\{(.*?)\}/.exec(log)?.[1]),
      ['acme', 'acme'],
    )
    count()
    // The first request of a key takes nothing ahead.
    t.equal(await statusOf(app, 'bob', 'other'), 200)
    t.equal(calls, 1)
    for (let index = 0; index < 300; index++) await statusOf(app, 'ann', 'acme')
    t.ok(calls < 250, `${calls} calls`)
    const { policies: left = [] } = (await app.rateLimiter.status({ user: 'acme/ann', tenant: 'acme' })) ?? {}
    t.strictSame(
      left.map(({ remaining }) => remaining),
      [2699, 5699],
    )
  })

  await t.test('checks at the same time never exceed a limit, and leave nothing behind', async t => {
    const app = await limited(
      t,
      { redis: cluster, nameSpace: 'burst:', storeTimeout: 20_000, policies: policies(5, 12, 40) },
      routes,
    )
    const asked = Array.from({ length: 120 }, (_, index) => statusOf(app, `u${index % 12}`, `t${index % 6}`))
    const admitted = (await Promise.all(asked)).filter(status => status === 200).length
    t.ok(admitted <= 40, `${admitted} of 40`)
    const { policies: [all] = [] } = (await app.rateLimiter.status({ all: 'everybody' })) ?? {}
    t.equal(all?.remaining, 40 - admitted, 'what was denied was given back')
  })
})

t.test('a plain client that leads to a cluster learns it, and counts by slot', async t => {
  const { nodes } = await startCluster(t, { masters: 1, replicas: false })
  const redis = new Redis(nodes[0]?.port as number, '127.0.0.1')
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  let space = 0
  await holds(t, {
    redis,
    storeTimeout: 20_000,
    get nameSpace() {
      return `plain${space++}:`
    },
  })
})
