import t from 'tap'
import { AdaptiveLimit } from '../../../../service/src/inference/queue/adaptive-limit.js'

interface Load {
  readonly perMs: number
  readonly serviceMs: number
  readonly givenMs: number
  readonly forMs: number
  readonly from?: number
}

/**
 * A server that answers `perMs` rows a millisecond, in runs of `serviceMs`, asked for more than it can: as many are
 * under way as the limit and the deadline let be, and each takes as long as those before it need.
 */
function overload(limit: AdaptiveLimit, { perMs, serviceMs, givenMs, forMs, from = 0 }: Load) {
  let now = from
  const end = now + forMs
  let sojournMs = 0
  while (now < end) {
    const rows = Math.min(limit.rows, givenMs * perMs)
    limit.occupied(rows)
    sojournMs = Math.max(serviceMs, rows / perMs)
    for (let i = 0; i < 10; i++)
      limit.observe({ sojournMs, serviceMs, givenMs, answeredRows: perMs, batchRows: 1 }, rows, now)
    now += 10
  }
  return { now, sojournMs }
}

t.test('the limit finds what a server can hold without rows waiting for long, whatever its speed', async t => {
  for (const [perMs, serviceMs, givenMs] of [
    [0.2, 10, 500],
    [4, 8, 200],
    [0.01, 200, 5000],
    [50, 1, 100],
  ] as const) {
    const limit = new AdaptiveLimit()
    const { sojournMs } = overload(limit, { perMs, serviceMs, givenMs, forMs: 20_000 })
    t.ok(sojournMs <= givenMs / 2 + serviceMs, `${sojournMs} ms under way, of ${givenMs}`)
    t.ok(limit.rows >= perMs * serviceMs, 'and its workers never wait for work')
  }
})

t.test('a server that becomes slower has its limit lowered, and raised again once it is well', async t => {
  const limit = new AdaptiveLimit()
  const { now } = overload(limit, { perMs: 4, serviceMs: 8, givenMs: 400, forMs: 5000 })
  const well = limit.rows
  const slow = overload(limit, { perMs: 1, serviceMs: 8, givenMs: 400, forMs: 5000, from: now })
  t.ok(limit.rows < well / 2, `${limit.rows} of ${well}`)
  overload(limit, { perMs: 4, serviceMs: 8, givenMs: 400, forMs: 5000, from: slow.now })
  t.ok(limit.rows > well / 2)
})

t.test('while nothing waits the limit rises, so that a burst is taken', async t => {
  const limit = new AdaptiveLimit({ mostRows: 1000 })
  const { now } = overload(limit, { perMs: 1, serviceMs: 10, givenMs: 200, forMs: 5000 })
  t.ok(limit.rows < 200)
  for (let i = 0; i < 200; i++) {
    limit.occupied(1)
    limit.observe({ sojournMs: 10, serviceMs: 10, givenMs: 200, answeredRows: 1, batchRows: 1 }, 1, now + i * 100)
  }
  t.equal(limit.rows, 1000, 'and never beyond what it is given')
})

t.test('a burst, after which the queue gets shorter by itself, lowers nothing', async t => {
  const limit = new AdaptiveLimit({ mostRows: 1000 })
  limit.occupied(400)
  for (let busy = 400; busy > 0; busy--) {
    const now = (400 - busy) * 10
    limit.observe({ sojournMs: now, serviceMs: 10, givenMs: 5000, answeredRows: 1, batchRows: 1 }, busy - 1, now)
  }
  t.equal(limit.rows, 1000)
})
