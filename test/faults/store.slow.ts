/**
 * Every fault of Redis against every `onStoreError`: a real Redis process fails, each mode answers as it says for as
 * long as that lasts, says so once, and counts in Redis again when it is well.
 */
import { Redis } from 'ioredis'
import type { RateLimitPluginOptions } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { type App, ask, limited } from '../support/plugin.js'
import { freePort, freeze, type RedisProcess, startRedis, until } from '../support/redis-fleet.js'
import { certificate, startProxy } from '../support/redis-proxy.js'

t.setTimeout(240_000)

const MODES = ['throw', 'allow', 'deny', 'local'] as const
type Mode = (typeof MODES)[number]

const MAX = 5
/** Asked before the fault. */
const BEFORE = 2
const CROWD = 8

interface Fault {
  /** Where the limiters look for Redis. */
  readonly port: number
  readonly tls?: { readonly ca?: string }
  /** Brings the fault about. Left out where it is there from the start. */
  strike?(): Promise<unknown>
  heal(): Promise<unknown>
  /** Whether Redis comes back without what it held, or has counted what nobody heard of any more. */
  readonly after?: 'empty' | 'more'
  /** What the log says of the failure. No client is told. */
  readonly error: RegExp
}

const LOST = 'the rate limit store is lost'
const BACK = 'the rate limit store answers again'
const OWN_TEXT = /^(The rate limit store (failed|did not answer within \d+ ms)|Connection is closed\.)$/
const NO_ANSWER = /did not answer within|Connection is closed|ECONN|EPIPE/

interface Replica {
  readonly mode: Mode
  readonly app: App
  readonly lines: string[]
  /** Texts of the errors in the log, each with its cause. */
  readonly errors: string[]
  /** Requests that reached the handler. */
  passed: number
}

async function replicaOf(t: Test, mode: Mode, { port, tls }: Pick<Fault, 'port' | 'tls'>): Promise<Replica> {
  // The defaults of ioredis, but for how soon it tries again and looks whether a Redis is done loading.
  const redis = new Redis(port, '127.0.0.1', { retryStrategy: () => 50, maxLoadingRetryTime: 200, ...(tls && { tls }) })
  redis.on('error', () => {})
  t.teardown(() => redis.disconnect())
  const lines: string[] = []
  const errors: string[] = []
  const write = (line: string) => {
    const { msg, err } = JSON.parse(line) as { msg: string; err?: { message: string } }
    lines.push(msg)
    if (err !== undefined) errors.push(err.message)
  }
  const options: RateLimitPluginOptions = {
    redis,
    nameSpace: `${mode}:`,
    max: MAX,
    timeWindow: '1 hour',
    storeTimeout: 700,
    onStoreError: mode,
    denyMemory: false,
  }
  const routes = (app: App) =>
    app.get('/', async () => {
      replica.passed++
      return 'ok'
    })
  const replica: Replica = { mode, app: undefined as never, lines, errors, passed: 0 }
  const app = await limited(t, options, routes, {
    logger: { level: 'info', stream: { write } },
  })
  return Object.assign(replica, { app })
}

const remaining = async (app: App) => (await app.rateLimiter.status('lone'))?.policies[0]?.remaining
const told = ({ lines }: Replica) => lines.filter(line => line.startsWith('the rate limit store'))

/** One failed call is not enough: they have to fail in a row, for a while. */
async function untilLost(replica: Replica): Promise<void> {
  await until('the store counts as lost', async () => {
    await ask(replica.app)
    return told(replica).includes(LOST)
  })
}

/** What a crowd is answered while nobody can ask Redis. */
async function during(t: Test, { mode, app, errors }: Replica, error: RegExp, localLeft: number): Promise<void> {
  const answers = await Promise.all(Array.from({ length: CROWD }, () => ask(app)))
  const statuses = answers.map(({ statusCode }) => statusCode).sort()
  switch (mode) {
    case 'throw':
      t.strictSame(statuses, Array(CROWD).fill(500), mode)
      t.ok(
        errors.some(text => error.test(text)),
        `${errors}`,
      )
      t.strictSame(
        answers.map(answer => answer.json().message).filter(text => !OWN_TEXT.test(text)),
        [],
        'clients are told in the words of the package',
      )
      return
    case 'allow':
      t.strictSame(statuses, Array(CROWD).fill(200), mode)
      t.ok(answers.every(({ headers }) => headers.ratelimit === undefined && headers['ratelimit-policy'] !== undefined))
      return
    case 'deny':
      t.strictSame(statuses, Array(CROWD).fill(503), mode)
      t.ok(answers.every(({ headers }) => ['1', '2', '3', '4', '5'].includes(`${headers['retry-after']}`)))
      t.ok(answers.every(({ payload }) => JSON.parse(payload).code === 'ML_RATE_STORE_UNAVAILABLE'))
      return
    case 'local':
      // On a busy machine some of it may have been used before.
      t.ok(statuses.filter(status => status === 200).length <= localLeft, `${mode}: ${statuses}`)
      t.ok(statuses.every(status => status === 200 || status === 429))
  }
}

async function holds(t: Test, fault: Fault): Promise<void> {
  const replicas = await Promise.all(MODES.map(mode => replicaOf(t, mode, fault)))
  const left = new Map<Mode, number>()
  if (fault.strike !== undefined) {
    for (const replica of replicas) {
      await until('Redis has counted', async () => {
        for (let i = 0; i < BEFORE; i++) await ask(replica.app)
        return ((await remaining(replica.app)) ?? MAX) < MAX && told(replica).at(-1) !== LOST
      })
      left.set(replica.mode, (await remaining(replica.app)) ?? MAX)
      replica.lines.length = 0
      replica.passed = 0
    }
    await fault.strike()
  }
  await Promise.all(replicas.map(replica => during(t, replica, fault.error, MAX)))
  await Promise.all(replicas.map(untilLost))
  for (const replica of replicas) t.strictSame(told(replica), [LOST], replica.mode)
  await Promise.all(replicas.map(replica => during(t, replica, fault.error, 0)))

  await fault.heal()
  for (const replica of replicas) {
    const { mode, app } = replica
    const before = left.get(mode) ?? MAX
    // With 'local' Redis is told what it has missed, and what it has lost.
    const kept = mode === 'local' ? Math.max(0, before - replica.passed) : fault.after === 'empty' ? MAX : before
    await until('Redis is asked again, though no request came', async () => told(replica).at(-1) === BACK)
    await until('what Redis knows counts', async () => {
      const still = await remaining(app)
      return still === kept || (fault.after === 'more' && Number(still) < kept)
    })
    let admitted = 0
    await until('its quota is used up', async () => {
      const { statusCode, headers } = await ask(app)
      if (statusCode === 200 && headers.ratelimit !== undefined) admitted++
      return statusCode === 429
    })
    t.ok(admitted <= kept, `${mode}: ${admitted} admitted of ${kept}`)
    const lines = told(replica)
    t.ok(
      lines.every((line, index) => line === (index % 2 === 0 ? LOST : BACK)),
      `${mode}: one line each way`,
    )
  }
}

/** A Redis, and who tells it what to be. */
async function administered(t: Test) {
  const server = await startRedis(t)
  return { server, admin: server.client() }
}

t.test('Redis is not there at start', async t => {
  const port = await freePort()
  await holds(t, { port, heal: () => startRedis(t, { port }), error: NO_ANSWER })
})

t.test('Redis is stopped, and started again empty', async t => {
  const server = await startRedis(t)
  const { port } = server
  await holds(t, {
    port,
    strike: () => server.kill(),
    heal: () => startRedis(t, { port }),
    after: 'empty',
    error: NO_ANSWER,
  })
})

t.test('Redis is stopped, and loads what it had saved', async t => {
  const server = await startRedis(t, { args: ['--enable-debug-command', 'yes'] })
  const { port } = server
  const admin = server.client()
  let loading: RedisProcess | undefined
  await holds(t, {
    port,
    strike: async () => {
      await admin.call('DEBUG', 'POPULATE', '2000')
      await admin.save()
      const [, folder] = (await admin.config('GET', 'dir')) as [string, string]
      await server.kill()
      // 10 ms a key, and it says LOADING meanwhile.
      const slowly = ['--key-load-delay', '10000', '--loading-process-events-interval-bytes', '1024']
      loading = await startRedis(t, { port, args: ['--dir', folder, ...slowly] })
      t.match(await loading.client().info('persistence'), 'loading:1')
    },
    heal: async () => loading?.client().call('CONFIG', 'SET', 'key-load-delay', '0'),
    error: NO_ANSWER,
  })
})

t.test('Redis is frozen', async t => {
  const server = await startRedis(t)
  await holds(t, {
    port: server.port,
    strike: () => freeze(server),
    heal: async () => server.signal('SIGCONT'),
    error: NO_ANSWER,
  })
})

t.test('Redis is slower than a request may wait', async t => {
  const server = await startRedis(t)
  const proxy = await startProxy(t, server.port)
  const slow = (ms: number) => async () => {
    proxy.delayMs = ms
  }
  await holds(t, { port: proxy.port, strike: slow(2500), heal: slow(0), after: 'more', error: NO_ANSWER })
})

t.test('Redis is full', async t => {
  const { server, admin } = await administered(t)
  await holds(t, {
    port: server.port,
    strike: () => admin.config('SET', 'maxmemory', '1mb'),
    heal: () => admin.config('SET', 'maxmemory', '0'),
    error: /OOM /,
  })
})

t.test('Redis has become a replica, which takes no writes', async t => {
  const { server, admin } = await administered(t)
  await holds(t, {
    port: server.port,
    strike: async () => admin.replicaof('127.0.0.1', await freePort()),
    heal: () => admin.replicaof('NO', 'ONE'),
    error: /READONLY /,
  })
})

t.test('Redis has become a replica that has lost its primary, and answers nothing', async t => {
  const { server, admin } = await administered(t)
  await holds(t, {
    port: server.port,
    strike: async () => {
      await admin.config('SET', 'replica-serve-stale-data', 'no')
      await admin.replicaof('127.0.0.1', await freePort())
    },
    heal: () => admin.replicaof('NO', 'ONE'),
    error: /MASTERDOWN /,
  })
})

t.test('the password of Redis has changed', async t => {
  const { server, admin } = await administered(t)
  await holds(t, {
    port: server.port,
    strike: async () => {
      await admin.config('SET', 'requirepass', 'another')
      await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    },
    heal: () => admin.config('SET', 'requirepass', ''),
    error: /NOAUTH |did not answer within/,
  })
})

t.test('Redis takes no more connections', async t => {
  const { server, admin } = await administered(t)
  await holds(t, {
    port: server.port,
    strike: async () => {
      await admin.config('SET', 'maxclients', '1')
      await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    },
    heal: () => admin.config('SET', 'maxclients', '1000'),
    error: NO_ANSWER,
  })
})

t.test('Redis is busy with an endless script', async t => {
  const { server, admin } = await administered(t)
  await admin.config('SET', 'lua-time-limit', '50')
  await holds(t, {
    port: server.port,
    strike: async () => {
      server
        .client()
        .eval('while true do end', 0)
        .catch(() => {})
      await until('it says so', async () =>
        admin.ping().then(
          () => false,
          ({ message }) => /^BUSY/.test(message),
        ),
      )
    },
    heal: () => admin.script('KILL'),
    error: /BUSY /,
  })
})

t.test('the certificate of Redis is not trusted any more', async t => {
  const server = await startRedis(t)
  const proxy = await startProxy(t, server.port, 'trusted')
  await holds(t, {
    port: proxy.port,
    tls: { ca: certificate('trusted') },
    strike: async () => {
      proxy.show('unknown')
      proxy.cut()
    },
    heal: async () => proxy.show('trusted'),
    error: NO_ANSWER,
  })
})

t.test('Redis does not speak TLS, and the client insists on it', async t => {
  const { port } = await startRedis(t)
  const replicas = await Promise.all(MODES.map(mode => replicaOf(t, mode, { port, tls: {} })))
  await Promise.all(replicas.map(replica => during(t, replica, NO_ANSWER, MAX)))
  await Promise.all(replicas.map(untilLost))
  for (const replica of replicas) t.strictSame(told(replica), [LOST])
})
