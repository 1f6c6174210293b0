import fc from 'fast-check'
import Fastify from 'fastify'
import rateLimit from 'ml-api-rate-limiter'
import t from 'tap'
import { WindowOracle } from '../support/window-oracle.js'

const RUNS = Number(process.env.FC_RUNS ?? 150)

const traffic = fc.record({
  max: fc.integer({ min: 1, max: 400 }),
  windowMs: fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 5000, max: 86_400_000 })),
  requests: fc.array(
    fc.record({
      gap: fc.double({ min: 0, max: 0.2, noNaN: true }),
      cost: fc.double({ min: 0, max: 0.6, noNaN: true }),
    }),
    { minLength: 3, maxLength: 25 },
  ),
})

t.test('a lone client that waits `retry-after` is allowed, and has not waited a second too long', async t => {
  const real = Date.now
  let now = 1_750_000_000_000
  Date.now = () => now
  t.teardown(() => {
    Date.now = real
  })
  let denials = 0
  await fc.assert(
    fc.asyncProperty(traffic, async ({ max, windowMs, requests }) => {
      const app = Fastify()
      const oracle = new WindowOracle()
      await app.register(rateLimit, { max, timeWindow: windowMs, cost: request => Number(request.headers.cost) })
      app.get('/', async () => 'ok')
      try {
        for (const { gap, cost: share } of requests) {
          now += Math.round(gap * windowMs)
          const cost = Math.max(1, Math.floor(share * max))
          const ask = () => app.inject({ url: '/', headers: { cost: `${cost}` } })
          const first = await ask()
          if (first.statusCode === 429) {
            denials++
            const seconds = Number(first.headers['retry-after'])
            // Where the quota is large, a request may count up to a hundredth of the window longer.
            const exact = oracle.wait(now, max > 100 ? windowMs * 1.01 : windowMs, max, cost)
            if (!(seconds >= 1 && seconds * 1000 < Math.max(exact, 1) + 1000)) {
              throw new Error(`told to wait ${seconds} s where ${exact} ms would do`)
            }
            if (Number(first.headers['x-ratelimit-reset']) !== seconds) throw new Error('two answers to one question')
            now += seconds * 1000
            const second = await ask()
            if (second.statusCode !== 200) throw new Error(`denied after ${seconds} s`)
          }
          if (!oracle.fits(now, windowMs, max, cost)) throw new Error('a window above its quota')
          oracle.charge(now, cost)
        }
      } finally {
        await app.close()
      }
    }),
    { numRuns: RUNS },
  )
  // Not a matter of luck: hundreds are usual.
  t.ok(denials > RUNS / 10, `${denials} denials in ${RUNS} runs of traffic`)
})
