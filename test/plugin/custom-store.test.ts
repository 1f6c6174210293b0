import type { CustomStore, CustomStoreCallback } from 'ml-api-rate-limiter'
import t from 'tap'
import { ask, limited, statuses } from '../support/plugin.js'

const made: Record<string, unknown>[] = []

class Counting implements CustomStore {
  readonly counts = new Map<string, number>()
  constructor(readonly options: Record<string, unknown>) {
    made.push(options)
  }
  incr(key: string, callback: CustomStoreCallback, timeWindow: number): void {
    const current = (this.counts.get(key) ?? 0) + 1
    this.counts.set(key, current)
    callback(null, { current, ttl: timeWindow })
  }
  read(key: string, callback: CustomStoreCallback, timeWindow: number): void {
    callback(null, { current: this.counts.get(key) ?? 0, ttl: timeWindow })
  }
  child(options: Record<string, unknown>): CustomStore {
    return new Counting(options)
  }
}

t.test('a custom store counts, bans and is read as in @fastify/rate-limit', async t => {
  made.length = 0
  const app = await limited(t, { store: Counting, max: 1, ban: 1, timeWindow: '5 seconds' }, app => {
    app.get('/', async () => 'ok')
    app.get('/own', { config: { rateLimit: { max: 2 } } }, async () => 'ok')
    const own = { rateLimit: { max: 1, groupId: 'g' } }
    app.get('/grouped', { config: own }, async () => 'ok')
    const check = app.createRateLimit({ max: 1 })
    app.get('/peek', { config: { rateLimit: false } }, async request => check(request, { increment: false }))
  })
  t.strictSame(await statuses(app, 3), [200, 429, 403])
  t.strictSame(await statuses(app, 3, '/own'), [200, 200, 429])
  t.strictSame(await statuses(app, 2, '/grouped'), [200, 429])
  t.match((await ask(app, '/peek')).json(), { isExceeded: false, remaining: 1, max: 1, ttl: 5000 })
  t.match(made[0], { max: 1, timeWindow: 5000, ban: 1, continueExceeding: false })
  t.match(made[1], { max: 2, timeWindow: 5000, routeInfo: { url: '/own' } })
})

t.test('what a custom store cannot do is said', async t => {
  class Blind {
    incr(_key: string, callback: CustomStoreCallback): void {
      callback(null, { current: 1, ttl: 5 })
    }
    child(): CustomStore {
      return this
    }
  }
  const app = await limited(t, { store: Blind, max: 1 }, app => {
    const check = app.createRateLimit()
    app.get('/peek', { config: { rateLimit: false } }, async request => check(request, { increment: false }))
    app.get('/', async request => request.rateLimit?.charge(1))
  })
  t.match((await ask(app, '/peek')).json(), { statusCode: 500, code: 'ML_RATE_STORE_CANNOT_READ', message: /`read`/ })
  t.match((await ask(app)).json(), { statusCode: 500, code: 'ML_RATE_STORE_CANNOT', message: /cannot charge a cost/ })
  t.rejects(app.rateLimiter.refund('lone', 1), { message: /cannot refund a cost/ })
  t.rejects(app.rateLimiter.reset('lone'), { message: /cannot reset a key/ })
})

t.test('errors of a custom store are met as the options say', async t => {
  class Failing {
    incr(_key: string, callback: CustomStoreCallback): void {
      callback(new Error('out of order'))
    }
    child(): CustomStore {
      return this
    }
  }
  const thrown = await limited(t, { store: Failing })
  t.match(
    (await ask(thrown)).json(),
    { statusCode: 500, message: 'The rate limit store failed' },
    'not in its own words',
  )
  const skipped = await limited(t, { store: Failing, skipOnError: true })
  t.equal((await ask(skipped)).statusCode, 200)
  class Silent extends Failing {
    override incr(_key: string, callback: CustomStoreCallback): void {
      callback(null)
    }
  }
  t.match((await ask(await limited(t, { store: Silent }))).json(), {
    code: 'ML_RATE_INVALID_ANSWER',
    message:
      "option 'store' returned current undefined and ttl undefined; allowed: { current, ttl }, two finite numbers",
  })
})

t.test('what is no store is refused when it is given, with what it lacks', async t => {
  const incr = (_key: string, callback: CustomStoreCallback) => callback(null, { current: 1, ttl: 5 })
  const allowed = 'allowed: a class with incr(key, callback, timeWindow, max) and child(options)'
  const lacking: [string, unknown][] = [
    ['a function that is no class', () => ({ incr })],
    ["a class whose objects have no method 'incr'", class {}],
    [
      "a class whose objects have no method 'incr'",
      class {
        incr = 5
      },
    ],
  ]
  for (const [what, store] of lacking) {
    const message = `option 'store' is ${what}; ${allowed}`
    await t.rejects(limited(t, { store } as never), { code: 'ML_RATE_INVALID_OPTION', message })
    await limited(t, {}, app => {
      t.throws(() => app.createRateLimit({ store } as never), { code: 'ML_RATE_INVALID_OPTION', message })
    })
  }
  const childless: [string, unknown][] = [
    ["a class whose objects have no method 'child'", undefined],
    ['a class whose child() returned undefined without an incr()', () => {}],
    ['a class whose child() returned an object without an incr()', () => ({})],
    ['a class whose child() returned a promise without an incr()', async () => ({ incr })],
  ]
  for (const [what, child] of childless) {
    class Store {
      incr = incr
      child = child
    }
    const app = await limited(t, { store: Store } as never, app => {
      app.get('/', async () => 'ok')
      const message = `option 'store' is ${what}; ${allowed}`
      t.throws(() => app.rateLimit({ max: 2 }), { code: 'ML_RATE_INVALID_OPTION', message })
      t.throws(() => app.get('/own', { config: { rateLimit: { max: 2 } } }, async () => 'ok'), {
        message: `${message}; route: GET /own`,
      })
    })
    t.equal((await ask(app)).statusCode, 200, 'needed only where a limiter has options of its own')
  }
})

t.test('a count below zero is none, and one that never ends is no answer', async t => {
  const answering = (current: unknown, ttl: unknown) =>
    class {
      incr(_key: string, callback: CustomStoreCallback): void {
        callback(null, { current, ttl } as never)
      }
      child(): CustomStore {
        return this
      }
    }
  const below = await ask(await limited(t, { store: answering(-5, -1), max: 3 }))
  t.match(below.headers, { 'x-ratelimit-remaining': '3', 'x-ratelimit-reset': '0' })
  for (const [current, ttl, said] of [
    [1, Infinity, 'current number and ttl Infinity'],
    [Infinity, 5, 'current Infinity and ttl number'],
    [Number.NaN, 5n, 'current NaN and ttl bigint'],
  ]) {
    const { statusCode, body } = await ask(await limited(t, { store: answering(current, ttl) }))
    t.equal(statusCode, 500)
    t.match(body, `returned ${said}; allowed: { current, ttl }, two finite numbers`)
  }
})

/** Each fails in a way of its own; `late` is called when the request was answered. */
const FAILURES: Record<string, (callback: CustomStoreCallback, late: (then: () => void) => void) => unknown> = {
  'calls back with an error': callback => callback(new Error('database away')),
  'calls back with text': callback => callback('database away' as never),
  'calls back with nothing': callback => callback(null, null as never),
  'calls back with no numbers': callback => callback(null, { current: 'many', ttl: 5 } as never),
  throws: () => {
    throw new Error('database away')
  },
  'throws nothing': () => {
    throw undefined
  },
  rejects: async () => {
    throw new Error('database away')
  },
  'rejects with nothing': () => Promise.reject(),
  'rejects later': callback => new Promise((_resolve, reject) => setImmediate(() => reject(callback))),
  'never answers': () => new Promise(() => {}),
  'returns and never answers': () => 5,
  'answers too late': (callback, late) => late(() => callback(null, { current: 1, ttl: 5 })),
  'fails too late': (_callback, late) =>
    new Promise((_resolve, reject) => late(() => reject(new Error('database away')))),
}

for (const [how, fail] of Object.entries(FAILURES)) {
  t.test(`a custom store that ${how} is treated as onStoreError says, within storeTimeout`, async t => {
    const late: (() => void)[] = []
    class Failing {
      incr = (_key: string, callback: CustomStoreCallback) => fail(callback, then => late.push(then)) as undefined
      child(): CustomStore {
        return this
      }
    }
    const options = { store: Failing, storeTimeout: 20, max: 1, timeWindow: '1 minute' }
    const answered = async (onStoreError: 'throw' | 'allow' | 'deny' | 'local') =>
      statuses(await limited(t, { ...options, onStoreError }), 2)
    t.strictSame(await answered('throw'), [500, 500])
    t.strictSame(await answered('allow'), [200, 200])
    t.strictSame(await answered('deny'), [503, 503])
    t.strictSame(await answered('local'), [200, 429])
    t.strictSame(await statuses(await limited(t, { ...options, skipOnError: true }), 2), [200, 200])
    for (const then of late) then()
    await new Promise(resolve => setImmediate(resolve))
  })
}

t.test('a custom store that answers twice, or answers and fails, has answered once', async t => {
  class Twice {
    async incr(_key: string, callback: CustomStoreCallback): Promise<void> {
      callback(null, { current: 1, ttl: 1000 })
      callback(null, { current: 9, ttl: 1000 })
      callback(new Error('database away'))
      throw new Error('database away')
    }
    child(): CustomStore {
      return this
    }
  }
  t.strictSame(await statuses(await limited(t, { store: Twice, max: 1 }), 2), [200, 200])
})

t.test('counts in text or as a bigint, and a time that is over, are read as numbers', async t => {
  const answers = [
    { current: '1', ttl: '500' },
    { current: 2n, ttl: -1 },
  ]
  class Text {
    incr(_key: string, callback: CustomStoreCallback): void {
      callback(null, answers.shift() as never)
    }
    child(): CustomStore {
      return this
    }
  }
  const app = await limited(t, { store: Text, max: 1 })
  t.match(await ask(app), { statusCode: 200, headers: { 'x-ratelimit-reset': '1' } })
  t.match(await ask(app), { statusCode: 429, headers: { 'retry-after': '1' } })
})

t.test('a route with a custom store of its own obeys the storeTimeout of the registration', async t => {
  class Silent {
    incr(): void {}
    child(): CustomStore {
      return this
    }
  }
  const app = await limited(t, { storeTimeout: 20 }, app => {
    app.get('/', { config: { rateLimit: { store: Silent } } }, async () => 'ok')
  })
  t.match((await ask(app)).json(), { statusCode: 500, code: 'ML_RATE_STORE_TIMEOUT' })
})

t.test('a limiter or a route can have a custom store of its own, where the rest counts otherwise', async t => {
  made.length = 0
  const app = await limited(t, { max: 5, timeWindow: '1 minute' }, app => {
    const check = app.createRateLimit({ store: Counting, max: 1, colour: 'red' } as never)
    app.get('/made', { config: { rateLimit: false } }, async request => check(request))
    app.get('/own', { config: { rateLimit: { store: Counting, max: 2 } } }, async () => 'ok')
    app.get('/', async () => 'ok')
  })
  t.match((await ask(app, '/made')).json(), { isExceeded: false })
  t.match((await ask(app, '/made')).json(), { isExceeded: true })
  t.strictSame(await statuses(app, 3, '/own'), [200, 200, 429])
  t.match((await ask(app)).headers, { 'x-ratelimit-remaining': '4' })
  t.match(made[0], { max: 1, timeWindow: 60_000, colour: 'red' }, 'options that only the store knows reach it')
  t.throws(() => app.createRateLimit({ store: Counting, cost: 2 }), { message: /'cost' is combined with 'store'/ })
})
