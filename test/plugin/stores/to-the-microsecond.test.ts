/**
 * The scripts of the Redis store on a real Redis whose clock the test sets, held against a plain model: every reply and
 * every log is the same to the microsecond, at the edges of windows, slices and blocks too, and when the clock goes back.
 */
import fc from 'fast-check'
import { Redis } from 'ioredis'
import t from 'tap'
import { history, play } from '../../support/exact-histories.js'
import { ScriptsAt } from '../../support/scripts-at.js'

const RUNS = Number(process.env.FC_RUNS ?? 60)
const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
t.teardown(() => redis.disconnect())

t.test('every reply and every log is what the plain model says, at any time to the microsecond', async t => {
  await fc.assert(
    fc.asyncProperty(history, async given => {
      const at = new ScriptsAt(redis)
      try {
        await play(at, given)
      } finally {
        await at.clear()
      }
    }),
    { numRuns: RUNS },
  )
  t.pass(`${RUNS} histories`)
})
