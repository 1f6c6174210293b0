// A suite of a user, for any runner: `runner` has useFakeTimers, advanceTimersByTime and useRealTimers.
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit, { QuotaExceeded } from 'ml-api-rate-limiter'

async function limited(options, onError) {
  const app = Fastify()
  if (onError) app.setErrorHandler(onError)
  await app.register(rateLimit, { max: 1, timeWindow: '1 minute', ...options })
  app.get('/', async () => 'ok')
  return app
}
const status = async app => (await app.inject('/')).statusCode

test('a window opens when fake time passes', async () => {
  runner.useFakeTimers(FAKE)
  try {
    const app = await limited()
    expect([await status(app), await status(app)]).toEqual([200, 429])
    runner.advanceTimersByTime(60_001)
    expect(await status(app)).toBe(200)
    await app.close()
  } finally {
    runner.useRealTimers()
  }
})

test('calls to Redis are answered while timers are fake', async () => {
  const redis = new Redis(process.env.REDIS_URL)
  await redis.ping()
  runner.useFakeTimers(ALMOST_ALL)
  try {
    const app = await limited({
      redis,
      nameSpace: `runner:${process.pid}:${process.hrtime.bigint()}:`,
      storeTimeout: 5000,
    })
    expect([await status(app), await status(app)]).toEqual([200, 429])
    await app.close()
  } finally {
    runner.useRealTimers()
    redis.disconnect()
  }
})

test('a denial is an error of the package', async () => {
  let seen
  const app = await limited({}, (error, _request, reply) => {
    seen = error
    reply.code(error.statusCode).send({ code: error.constructor.code })
  })
  await status(app)
  expect((await app.inject('/')).json()).toEqual({ code: 'ML_RATE_QUOTA_EXCEEDED' })
  expect(seen).toBeInstanceOf(QuotaExceeded)
  await app.close()
})

test('a wrong option is refused', async () => {
  await expect(limited({ max: 'many' })).rejects.toThrow("option 'max'")
})
