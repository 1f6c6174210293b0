import t from 'tap'
import { type Asked, simulate } from '../../../support/queue-simulation.js'

/** Which of all lies at this share, from the least. */
const quantile = (values: readonly number[], share: number): number =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? 0

const latencies = (asked: readonly Asked[], outcome: Asked['outcome']) =>
  asked.filter(each => each.outcome === outcome).map(({ latencyMs }) => latencyMs)

const alone = { mode: 'alone', maxRows: Number.POSITIVE_INFINITY } as const

const MODELS = [
  { title: '10 ms a row', workers: 2, maxRows: 1, overheadMs: 0, perRowMs: 10 },
  { title: '50 ms a row', workers: 1, maxRows: 1, overheadMs: 0, perRowMs: 50 },
  { title: '24 ms a batch of 8', workers: 2, maxRows: 8, overheadMs: 16, perRowMs: 1 },
  { title: '10 ms a request that runs alone', workers: 1, ...alone, overheadMs: 8, perRowMs: 2 },
]

for (const { title, ...model } of MODELS) {
  for (const multiple of [2, 10]) {
    t.test(`${title}, asked ${multiple} times what it can: it does what it can`, async t => {
      const deadlineMs = 500
      const seconds = [0.3, ...Array.from({ length: 4 }, () => multiple), 0.3, 0.3]
      const { asked, capacity } = await simulate({ ...model, deadlineMs, seconds })
      const surge = asked.filter(({ second }) => second >= 1 && second <= 4)
      const answered = latencies(surge, 'answered')
      const good = answered.filter(ms => ms <= deadlineMs).length / 4 / capacity
      t.ok(good >= (multiple === 2 ? 0.95 : 0.9), `goodput ${good.toFixed(3)} of the capacity`)
      t.ok(quantile(answered, 0.99) <= deadlineMs, `99% of the answers within ${quantile(answered, 0.99)} ms`)
      t.ok(quantile(latencies(surge, 'refused'), 0.99) < 50, 'who is refused is so at once')
      const after = asked.filter(({ second }) => second === 6)
      t.strictSame(latencies(after, 'refused'), [], 'a second after the surge nobody is refused')
      const before = latencies(
        asked.filter(({ second }) => second === 0),
        'answered',
      )
      t.ok(quantile(latencies(after, 'answered'), 0.9) <= 3 * quantile(before, 0.9), 'nor waits longer than before')
    })
  }
}

t.test('requests that run alone wait no longer than those of a model whose runs have one row', async t => {
  const model = {
    workers: 1,
    overheadMs: 0,
    perRowMs: 10,
    deadlineMs: 5000,
    seconds: Array.from({ length: 15 }, () => 2),
  }
  const split = await simulate({ ...model, mode: 'split', maxRows: 1 })
  const whole = await simulate({ ...model, ...alone })
  const mean = (asked: readonly Asked[]) => {
    const all = latencies(asked, 'answered')
    return all.reduce((sum, ms) => sum + ms, 0) / all.length
  }
  t.ok(mean(whole.asked) <= 1.2 * mean(split.asked), `${mean(whole.asked)} ms, and ${mean(split.asked)}`)
  t.ok(mean(whole.asked) < 600)
})

t.test('a burst that can be answered in time is taken whole', async t => {
  const model = { workers: 2, maxRows: 1, overheadMs: 0, perRowMs: 10 }
  const { asked } = await simulate({ ...model, deadlineMs: 5000, seconds: [0.2, 0.5, 0.5], burst: 300 })
  t.strictSame(latencies(asked, 'refused'), [], 'and so is who comes while it is worked off')
  t.ok(Math.max(...latencies(asked, 'answered')) < 3500)
})
