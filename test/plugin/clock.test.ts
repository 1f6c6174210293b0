import { mock } from 'node:test'
import Fastify from 'fastify'
import type { Redis } from 'ioredis'
import rateLimit from 'ml-api-rate-limiter'
import t from 'tap'
import * as clock from '../../plugin/src/clock.js'
import { inRedis, limited, statuses } from '../support/plugin.js'

const RealDate = globalThis.Date
const realNow = Date.now

t.afterEach(() => {
  mock.timers.reset()
  globalThis.Date = RealDate
  Date.now = realNow
})

t.test('the time in the process is close to that of the system, and never steps back', async t => {
  t.ok(Math.abs(clock.now() - Date.now()) < 60_000)
  let last = clock.now()
  for (let index = 0; index < 10_000; index++) {
    const now = clock.now()
    if (now < last) t.fail(`${now} comes after ${last}`)
    last = now
  }
  t.ok(clock.monotonic() > 0)
})

t.test('while Date is replaced, the time is that of the replacement', async t => {
  mock.timers.enable({ apis: ['Date'], now: 5000 })
  t.equal(clock.now(), 5000)
  mock.timers.tick(250)
  t.equal(clock.now(), 5250)
  mock.timers.reset()
  t.ok(clock.now() > 1e12, 'and afterwards that of the process again')

  globalThis.Date = class extends RealDate {
    static override now = () => 77
  } as DateConstructor
  t.equal(clock.now(), 77, 'a class of its own')
  globalThis.Date = RealDate

  Date.now = () => 78
  t.equal(clock.now(), 78, 'a stub of Date.now')
})

t.test('where Date was replaced before the import, the time is that of any Date', async t => {
  mock.timers.enable({ apis: ['Date'], now: 1000 })
  const late: typeof clock = await import(`../../plugin/src/clock.js?${'late'}`)
  mock.timers.tick(1)
  t.equal(late.now(), 1001)
  mock.timers.reset()
  t.ok(Math.abs(late.now() - Date.now()) < 60_000)
})

t.test('a window in the process passes with the timers of a test runner', async t => {
  mock.timers.enable({ apis: ['Date', 'setTimeout', 'setInterval', 'setImmediate'], now: Date.now() })
  const app = await limited(t, { max: 1, timeWindow: '1 minute' })
  t.strictSame(await statuses(app, 2), [200, 429])
  mock.timers.tick(60_001)
  t.strictSame(await statuses(app, 2), [200, 429])
})

t.test('a step of the system clock, as Date alone sees it, is none for the windows', async t => {
  const app = await limited(t, { max: 1, timeWindow: '1 minute' })
  t.strictSame(await statuses(app, 2), [200, 429])
  mock.timers.enable({ apis: ['Date'], now: Date.now() - 3_600_000 })
  t.strictSame(await statuses(app, 1), [429])
})

t.test('stopped timers of a test runner stop no call to Redis', async t => {
  const options = inRedis(t)
  await (options.redis as Redis).ping()
  mock.timers.enable({ apis: ['Date', 'setTimeout', 'setInterval', 'setImmediate'] })
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, { ...options, max: 1, timeWindow: '1 minute' })
  app.get('/', async () => 'ok')
  t.strictSame(await statuses(app, 2), [200, 429])
})
