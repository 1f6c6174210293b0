import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import t from 'tap'
import { LARGEST_TOTAL, sharesSlices } from '../../../plugin/src/policy.js'
import { SlidingLog } from '../../../plugin/src/window.js'
import { WindowOracle } from '../../support/window-oracle.js'

const RUNS = Number(process.env.FC_RUNS ?? 200)

const WINDOW = 20
const LIMIT = 30
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('append' as const), value: fc.integer({ min: 0, max: 5 }) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('pass' as const), value: fc.integer({ min: 1, max: 6 }) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('refund' as const), value: fc.integer({ min: 0, max: 12 }) }) },
)

t.test('a log answers as the plain rule does, after any appends, refunds and time', async t => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 5, maxLength: 200 }), fc.integer({ min: 0, max: 35 }), (steps, cost) => {
      const log = new SlidingLog()
      const oracle = new WindowOracle()
      let now = 1000
      for (const { do: action, value } of steps) {
        log.read(now, WINDOW, LIMIT, cost)
        if (action === 'pass') now += value
        else if (action === 'refund') {
          const given = log.refund(value)
          const wanted = oracle.refund(now, WINDOW, value)
          if (given !== wanted) throw new Error(`${given} given back instead of ${wanted}`)
        } else {
          log.append(now, value, 0)
          if (value > 0) oracle.charge(now, value)
        }
        const found = log.read(now, WINDOW, LIMIT, cost)
        const wanted = {
          used: oracle.used(now, WINDOW),
          resetMs: oracle.resetsIn(now, WINDOW),
          retryMs: oracle.wait(now, WINDOW, LIMIT, cost),
        }
        if (JSON.stringify(found) !== JSON.stringify(wanted))
          throw new Error(`${JSON.stringify(found)} instead of ${JSON.stringify(wanted)}`)
      }
    }),
    { numRuns: RUNS },
  )
  t.pass(`${RUNS} histories`)
})

t.test('an entry leaves a window exactly when the window is over', async t => {
  const log = new SlidingLog()
  log.append(1000, 1, 0)
  t.match(log.read(1099, 100, 1, 1), { used: 1, resetMs: 1, retryMs: 1 })
  t.match(log.read(1100, 100, 1, 1), { used: 0, resetMs: 0, retryMs: 0 })
})

t.test('charges of one slice share an entry with the newest time, and those of two slices do not', async t => {
  const shared = new SlidingLog()
  shared.append(1000, 1, 10)
  shared.append(1009, 1, 10)
  t.match(shared.read(1100, 100, 9, 1), { used: 2, resetMs: 9 })
  shared.append(1101, 0, 10)
  shared.append(1108, 1, 10)
  t.match(shared.read(1109, 100, 9, 1), { used: 1, resetMs: 99 }, 'one that has left is not joined')
  const apart = new SlidingLog()
  apart.append(1009, 1, 10)
  apart.append(1010, 1, 10)
  t.match(apart.read(1109, 100, 9, 1), { used: 1, resetMs: 1 })
  const unsliced = new SlidingLog()
  unsliced.append(1000, 1, 0)
  unsliced.append(1000.5, 1, 0)
  t.match(unsliced.read(1100, 100, 9, 1), { used: 1, resetMs: 0.5 }, 'without slices every time is its own')
  const fine = new SlidingLog()
  fine.append(1000, 1, 0.5)
  fine.append(1000.25, 1, 0.5)
  t.match(fine.read(1100, 100, 9, 1), { used: 2, resetMs: 0.25 }, 'a slice may be shorter than a millisecond')
})

t.test('an entry that has left its window is not brought back by a charge of its slice', async t => {
  const log = new SlidingLog()
  log.append(1000, 5, 1000)
  t.match(log.read(1200, 100, 9, 1), { used: 0 })
  log.append(1300, 1, 1000)
  t.match(log.read(1300, 100, 9, 1), { used: 1, resetMs: 100 })
})

t.test('the newest time of a log is that of its last admission, and an empty log has none', async t => {
  const log = new SlidingLog()
  t.equal(log.newest, Number.NEGATIVE_INFINITY)
  log.append(1000, 1, 0)
  t.equal(log.newest, 1000)
  log.append(1500, 1, 0)
  t.equal(log.newest, 1500)
})

t.test('a log that a refund has emptied begins another generation, and no other refund does that', async t => {
  const log = new SlidingLog()
  t.not(log.generation, new SlidingLog().generation)
  const { generation } = log
  log.append(1000, 3, 0)
  t.equal(log.refund(2), 2)
  t.equal(log.generation, generation, 'a unit is left')
  t.equal(log.refund(0), 0)
  t.equal(log.generation, generation)
  t.equal(log.refund(5), 1, 'no more than is used')
  t.ok(log.generation > generation)
  const emptied = log.generation
  t.equal(log.refund(1), 0)
  t.equal(log.generation, emptied, 'an empty log gave nothing back')
  t.ok(new SlidingLog().generation > emptied, 'no two logs have the same')
})

t.test('a window holds at most the largest exact total, and totals stay exact however much went before', async t => {
  const log = new SlidingLog()
  t.ok(log.canHold(LARGEST_TOTAL))
  t.notOk(log.canHold(LARGEST_TOTAL + 1))
  log.append(1000, LARGEST_TOTAL - 1, 0)
  log.read(1000, 100, LARGEST_TOTAL, 1)
  t.ok(log.canHold(1))
  t.notOk(log.canHold(2))
  t.match(log.read(1000, 100, Number.MAX_SAFE_INTEGER, 2), { retryMs: 100 }, 'a larger quota admits no more')
  t.match(log.read(1000, 100, Number.MAX_SAFE_INTEGER, 1), { retryMs: 0 })
  log.append(1000, 1, 0)
  t.match(log.read(1000, 100, LARGEST_TOTAL, 1), { used: LARGEST_TOTAL, retryMs: 100 })
  for (let round = 1; round < 5; round++) {
    const now = 1000 + round * 200
    t.match(log.read(now, 100, LARGEST_TOTAL, 7), { used: 0, retryMs: 0 })
    log.append(now, 7, 0)
    log.append(now + 1, LARGEST_TOTAL - 7, 0)
    t.match(log.read(now + 1, 100, LARGEST_TOTAL, 7), { used: LARGEST_TOTAL, retryMs: 99 })
    t.match(log.read(now + 1, 100, LARGEST_TOTAL, 8), { retryMs: 100 })
  }
})

t.test('a log frees what it has forgotten, and still adds up', async t => {
  const log = new SlidingLog()
  for (let now = 0; now < 1000; now++) log.append(now, 1, 0)
  t.match(log.read(999, 100, 100, 1), { used: 100, resetMs: 0 + 100 - 99, retryMs: 1 })
  log.append(1000, 0, 0)
  t.match(log.read(1000, 100, 100, 1), { used: 99, retryMs: 0 })
  t.match(log.read(1000, 100, 100, 101), { retryMs: 100 }, 'more than fits into any window')
  log.refund(90)
  t.match(log.read(1000, 100, 100, 1), { used: 9 })
  t.match(log.read(1000, 5, 100, 1), { used: 4, resetMs: 1 }, 'a shorter window')
  log.refund(1000)
  t.match(log.read(1000, 100, 100, 1), { used: 0, resetMs: 0 })
  t.equal(log.resetMs(1000, 100), 0)
})

t.test('totals that are set back keep what still counts, and what leaves when', async t => {
  const log = new SlidingLog()
  log.append(1000, LARGEST_TOTAL - 10, 0)
  log.append(1050, 5, 0)
  t.match(log.read(1100, 100, 25, 5), { used: 5, retryMs: 0 })
  t.ok(log.canHold(LARGEST_TOTAL - 5), 'what has left takes no room')
  log.append(1100, 20, 0)
  t.match(log.read(1100, 100, 25, 5), { used: 25, resetMs: 50, retryMs: 50 })
  t.match(log.read(1100, 100, 25, 6), { retryMs: 100 })
  t.match(log.read(1150, 100, 25, 5), { used: 20, resetMs: 50, retryMs: 0 })
})

t.test('a log takes no more memory than its window needs, however much goes through it', async t => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const heapBytes = () => {
    collect()
    return process.memoryUsage().heapUsed
  }
  const logs = [10, 100].map(windowMs => ({ windowMs, log: new SlidingLog() }))
  const instant = new SlidingLog()
  const before = heapBytes()
  for (let now = 0; now < 300_000; now++) {
    for (const { windowMs, log } of logs) {
      log.read(now, windowMs, 1000, 1)
      log.append(now, 1, 0)
    }
    instant.append(1000, 1, 0)
  }
  const grown = heapBytes() - before
  t.ok(grown < 1_000_000, `${grown} bytes more for 300,000 admissions`)
  for (const { windowMs, log } of logs) t.match(log.read(299_999, windowMs, 1000, 1), { used: windowMs })
  t.match(instant.read(1000, 10, 1000, 1), { used: 300_000 })
})

t.test('slices are shared only where the quota is larger than their number', async t => {
  t.equal(sharesSlices(101, 0.01), true)
  t.equal(sharesSlices(100, 0.01), false)
  t.equal(sharesSlices(1_000_000, 0), false)
  t.equal(sharesSlices(1, 0.01), false)
  t.equal(LARGEST_TOTAL, 2 ** 53 - 64)
})
