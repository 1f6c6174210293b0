import t from 'tap'
import { ConfigError, readConfig } from '../../service/src/config.js'

const problemsOf = (environment: Record<string, string>): readonly string[] => {
  try {
    readConfig(environment)
  } catch (error) {
    if (error instanceof ConfigError) return error.problems
    throw error
  }
  return []
}

t.test('without any setting the service has all it needs', async t => {
  t.match(readConfig({}), {
    host: '0.0.0.0',
    port: 3000,
    logLevel: 'info',
    redis: undefined,
    rateLimit: { max: 100, windowMs: 60_000 },
    onStoreError: 'local',
    storeTimeoutMs: 100,
    trustProxy: [],
    models: { dir: /models$/, defaultModel: undefined, workers: undefined, isolation: 'thread', batchMaxDelayMs: 0 },
    requestTimeoutMs: 5000,
    adminToken: undefined,
  })
})

t.test('every wrong setting is named at once, with its value and what it takes', async t => {
  const problems = problemsOf({
    PORT: '70000',
    LOG_LEVEL: 'loud',
    REDIS_URL: 'http://user:geheim@host',
    RATE_LIMIT_MAX: '-1',
    RATE_LIMIT_WINDOW: 'soon',
    ON_STORE_ERROR: 'throw',
    TRUST_PROXY: 'true',
    INFERENCE_THREADS: 'many',
    QUEUE_MAX: '1.5',
    HOST: '127.0.0.1',
  })
  t.equal(problems.length, 9)
  for (const name of ['PORT', 'LOG_LEVEL', 'REDIS_URL', 'RATE_LIMIT_MAX', 'RATE_LIMIT_WINDOW', 'QUEUE_MAX']) {
    t.ok(
      problems.some(problem => problem.startsWith(`${name} is `) && problem.includes('; it takes ')),
      name,
    )
  }
  t.match(problems.join(), /PORT is '70000'; it takes an integer, 0 \(any free port\) to 65535/)
  t.match(problems.join(), /TRUST_PROXY is 'true'; it takes addresses and CIDR ranges.*could forge its address/)
  t.notMatch(problems.join(), /geheim/, 'no secret in a message')
})

t.test('a window is a duration in words or in milliseconds', async t => {
  for (const [text, ms] of [
    ['10s', 10_000],
    ['1 minute', 60_000],
    ['2h', 7_200_000],
    ['250', 250],
    ['1500ms', 1500],
  ] as const) {
    t.equal(readConfig({ RATE_LIMIT_WINDOW: text }).rateLimit.windowMs, ms, text)
  }
  for (const text of ['0', '-1', '0s', '10 parsecs', 'Infinity', '1e3x']) {
    t.equal(problemsOf({ RATE_LIMIT_WINDOW: text }).length, 1, text)
  }
})

t.test('trusted proxies are addresses and ranges, never everybody', async t => {
  t.strictSame(readConfig({ TRUST_PROXY: '10.0.0.0/8, ::1' }).trustProxy, ['10.0.0.0/8', '::1'])
  for (const text of ['1', 'true', 'proxy.local', '10.0.0.0/33', '0.0.0.0/0', '::/0', '10.0.0.1/8/8', '::1/129', ',']) {
    t.equal(problemsOf({ TRUST_PROXY: text }).length, 1, text)
  }
})

t.test('origins are as browsers send them', async t => {
  t.strictSame(readConfig({}).corsOrigins, [])
  t.strictSame(readConfig({ CORS_ORIGINS: 'https://a.example, http://localhost:5173' }).corsOrigins, [
    'https://a.example',
    'http://localhost:5173',
  ])
  t.strictSame(readConfig({ CORS_ORIGINS: '*' }).corsOrigins, ['*'])
  for (const text of ['a.example', 'https://a.example/', 'https://A.example', 'https://a.example/x', 'ftp://a', ',']) {
    t.equal(problemsOf({ CORS_ORIGINS: text }).length, 1, text)
  }
})

t.test('one Redis, a cluster by its nodes or its one endpoint, or what Sentinels watch', async t => {
  const redis = (REDIS_URL: string) => readConfig({ REDIS_URL }).redis
  const single = { kind: 'single', hosts: [{ host: 'host', port: 6379 }], tls: false, database: 0 }
  const nodes = [
    { host: 'a', port: 1 },
    { host: 'b', port: 6379 },
  ]
  for (const [text, expected] of [
    ['redis://host', single],
    [' redis://host:6379/ ', single],
    ['redis://[2001:db8::1]:7000', { ...single, hosts: [{ host: '2001:db8::1', port: 7000 }] }],
    ['redis://:p%40%3A%2Fw@host', { ...single, password: 'p@:/w' }],
    ['redis://u:a@b@host?family=6', { ...single, username: 'u', password: 'a@b', family: 6 }],
    [
      'rediss://u:p@host:6380/2',
      { ...single, hosts: [{ host: 'host', port: 6380 }], tls: true, username: 'u', password: 'p', database: 2 },
    ],
    ['redis://a:1, redis://b', { ...single, kind: 'cluster', hosts: nodes }],
    ['redis://a:1,b', { ...single, kind: 'cluster', hosts: nodes }],
    ['rediss://:p@a:1,rediss://b', { ...single, kind: 'cluster', hosts: nodes, tls: true, password: 'p' }],
    ['rediss+cluster://host', { ...single, kind: 'cluster', tls: true }],
    ['redis+cluster://a:1,b', { ...single, kind: 'cluster', hosts: nodes }],
    [
      'redis+sentinel://a:1,b:2/limits/3',
      {
        ...single,
        kind: 'sentinel',
        hosts: [
          { host: 'a', port: 1 },
          { host: 'b', port: 2 },
        ],
        primary: 'limits',
        database: 3,
      },
    ],
    [
      'rediss+sentinel://u:p@host/my%20limits?sentinelUsername=s&sentinelPassword=t',
      {
        ...single,
        ...{ kind: 'sentinel', hosts: [{ host: 'host', port: 26_379 }], tls: true, username: 'u', password: 'p' },
        ...{ primary: 'my limits', sentinelUsername: 's', sentinelPassword: 't' },
      },
    ],
  ] as const) {
    t.strictSame(redis(text), expected, text)
  }
  for (const text of [
    ...['localhost:6379', 'redis://', 'http://a', 'redis://a,rediss://b', 'redis://a,', 'redis://a,,b', 'redis://a:0'],
    ...[
      'redis://a:70000',
      'redis://a/x',
      'redis://a,b/1',
      'redis+cluster://a/1',
      'redis+sentinel://a',
      'redis://%zz@a',
    ],
    ...[
      'redis+sentinel://a/',
      'redis+sentinel://a/x,redis+sentinel://b/y',
      'redis://a?tls=no',
      'redis://[a]',
      'redis+x://a',
    ],
  ]) {
    t.equal(problemsOf({ REDIS_URL: text }).length, 1, text)
  }
})

t.test('an admin token is one that a header can carry', async t => {
  t.equal(readConfig({ ADMIN_TOKEN: 'tok-en' }).adminToken, 'tok-en')
  t.strictSame(problemsOf({ ADMIN_TOKEN: 'two words' }).length, 1)
  t.notMatch(problemsOf({ ADMIN_TOKEN: 'two words' })[0], 'two words')
})

t.test('an empty setting counts as left out', async t => {
  const config = readConfig({ REDIS_URL: '', PORT: ' ', ADMIN_TOKEN: '' })
  t.match(config, { redis: undefined, port: 3000, adminToken: undefined })
})
