import Fastify, { type FastifyInstance } from 'fastify'
import rateLimit, { type RateLimitPluginOptions } from 'ml-api-rate-limiter'
import t, { type Test } from 'tap'
import { STORES, statuses } from '../support/plugin.js'
import { startRedis, until } from '../support/redis-fleet.js'

/** An app whose errors are kept. */
async function logged(t: Test, options: RateLimitPluginOptions) {
  const errors: { msg: string; err: { message: string } }[] = []
  const stream = { write: (line: string) => void errors.push(JSON.parse(line)) }
  const app = Fastify({ logger: { level: 'error', stream } }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(rateLimit, { timeWindow: '1 minute', keyGenerator: () => 'lone', ...options })
  app.get('/', async () => 'ok')
  return { app, errors }
}

/** All ways in which a function of the options can fail. */
const FAILURES: Record<string, () => unknown> = {
  throws: () => {
    throw new Error('mail server away')
  },
  rejects: async () => {
    throw new Error('mail server away')
  },
  'rejects later': async () => {
    await new Promise(resolve => setTimeout(resolve, 5))
    throw new Error('mail server away')
  },
  'is a thenable that rejects': () => ({
    // biome-ignore lint/suspicious/noThenProperty: that is what it is about
    then: (_done: unknown, failed: (error: Error) => void) => failed(new Error('mail server away')),
  }),
  'is a thenable that throws': () => ({
    // biome-ignore lint/suspicious/noThenProperty: that is what it is about
    then: () => {
      throw new Error('mail server away')
    },
  }),
}

for (const { name, options } of STORES) {
  for (const [how, fail] of Object.entries(FAILURES)) {
    t.test(`${name}: a callback that ${how} is logged, and the request is answered as it was decided`, async t => {
      const failing = { onDecision: fail, onExceeding: fail, onExceeded: fail, onBanReach: fail }
      const { app, errors } = await logged(t, { ...options(t), max: 1, ban: 1, ...failing })
      t.strictSame(await statuses(app, 3), [200, 429, 403])
      await until('all are logged', async () => errors.length === 7)
      const of = (option: string) => errors.filter(({ msg }) => msg.includes(`'${option}'`)).length
      t.strictSame(Object.keys(failing).map(of), [3, 1, 2, 1])
      t.ok(errors.every(({ err }) => err.message === 'mail server away'))
    })
  }
}

for (const [how, fail] of Object.entries(FAILURES)) {
  t.test(`a listener for events of the store that ${how} is logged, and changes nothing`, async t => {
    const server = await startRedis(t)
    const events: string[] = []
    const { app, errors } = await logged(t, {
      max: 2,
      redis: server.client(),
      storeTimeout: 3000,
      onStoreEvent: ({ type }) => {
        events.push(type)
        return fail() as undefined
      },
    })
    t.strictSame(await statuses(app, 2), [200, 200])
    await until('all are logged', async () => events.length > 0 && errors.length === events.length)
    t.ok(errors.every(({ msg, err }) => msg.includes("'onStoreEvent'") && err.message === 'mail server away'))
  })
}
