/** Each script by itself, at a time that the test sets. */
import { Redis } from 'ioredis'
import t from 'tap'
import { SCRIPT_CASES } from '../../support/script-cases.js'

const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
t.teardown(() => redis.disconnect())

for (const { title, run } of SCRIPT_CASES) {
  t.test(title, t =>
    run({
      redis,
      equal: (found, wanted, what = 'is equal') => t.equal(found, wanted, what),
      strictSame: (found, wanted, what = 'is the same') => t.strictSame(found, wanted, what),
      ok: (found, what = 'is so') => t.ok(found, what),
      teardown: act => t.teardown(act),
    }),
  )
}
