/** What a limiter knows of a denial without asking: for servers that refuse before there is a request. */
import t, { type Test } from 'tap'
import type { Decision, RateLimitHandler, RateLimitPluginOptions } from '../../plugin/src/index.js'
import { type App, limited, STORES, statuses } from '../support/plugin.js'

/** An app whose route is held against a limiter by hand. */
async function byHand(t: Test, options: RateLimitPluginOptions, own: RateLimitPluginOptions = {}) {
  let limiter: RateLimitHandler | undefined
  const app = await limited(t, { global: false, ...options }, (app: App) => {
    limiter = app.rateLimit({ name: 'by-hand', max: 2, timeWindow: '1 hour', ...own })
    app.get('/', { onRequest: limiter }, async () => 'ok')
  })
  return { app, limiter: limiter as RateLimitHandler }
}

for (const { name, options } of STORES) {
  t.test(`a denial that was answered once is known from then on, and counts nothing, ${name}`, async t => {
    const { app, limiter } = await byHand(t, options(t))
    t.equal(limiter.knownDenial('lone'), undefined, 'nothing is used')
    t.strictSame(await statuses(app, 3), [200, 200, 429])
    for (let i = 0; i < 3; i++) {
      t.match(limiter.knownDenial('lone'), {
        key: 'lone',
        allowed: false,
        violated: ['default'],
        binding: { limit: 2, remaining: 0 },
        banned: false,
      })
    }
    const { retryAfterMs = 0 } = limiter.knownDenial('lone') ?? {}
    t.ok(retryAfterMs > 3_500_000 && retryAfterMs <= 3_600_000, 'the time until the oldest leaves the window')
    t.equal(limiter.knownDenial('other'), undefined, 'of others nothing is known')
    const { headers: sent, ...answer } = await app.inject('/')
    const refusal = limiter.refusalOf(limiter.knownDenial('lone') as Decision)
    for (const [field, value] of Object.entries(refusal.headers)) t.equal(`${sent[field]}`, `${value}`, field)
    const names = Object.keys(sent).filter(field => /ratelimit|retry-after/.test(field))
    t.strictSame(names.sort(), Object.keys(refusal.headers).sort(), 'the fields that are sent')
    t.equal(answer.json().message, refusal.error.message)
    t.equal(refusal.error.statusCode, 429)
    await app.rateLimiter.reset('lone')
    t.equal(limiter.knownDenial('lone'), undefined)
    t.strictSame(await statuses(app, 3), [200, 200, 429], 'asking has cost nothing')
  })

  t.test(`what a denial costs, or what the request decides, is not known beforehand, ${name}`, async t => {
    const kinds: Record<string, RateLimitPluginOptions> = {
      'a quota by function': { max: () => 2 },
      'an allow list': { allowList: ['127.9.9.9'] },
      'denials that lead to a ban': { ban: 5 },
      'denials that last longer each time': { exponentialBackoff: true },
      'shadow mode': { mode: 'report' },
      'an answer by function': { errorResponseBuilder: () => new Error('no') },
    }
    for (const [kind, own] of Object.entries(kinds)) {
      const { app, limiter } = await byHand(t, options(t), own)
      await statuses(app, 3)
      t.equal(limiter.knownDenial('lone'), undefined, kind)
    }
  })
}

t.test('in the process a quota is known to be used up before anybody was denied', async t => {
  const { app, limiter } = await byHand(t, {})
  await statuses(app, 2)
  t.match(limiter.knownDenial('lone'), { allowed: false })
})
