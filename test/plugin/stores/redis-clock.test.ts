/** What is known of the clock of Redis: an estimate that is never ahead of it. */
import t from 'tap'
import { RedisClock } from '../../../plugin/src/stores/redis/clock.js'

t.test('nothing is known before the first reply', async t => {
  const clock = new RedisClock()
  t.equal(clock.isKnown, false)
  t.equal(clock.at(5), undefined)
  t.equal(clock.latest(5), 0, 'any time')
})

t.test('the time in a reply is taken for that of its arrival', async t => {
  const clock = new RedisClock()
  clock.observe(7_000_000, 100, 104, false)
  t.equal(clock.isKnown, true)
  t.equal(clock.at(104), 7000)
  t.equal(clock.at(106.5), 7002.5)
  t.equal(clock.latest(204), 7_100_000)
  t.equal(clock.latest(204.0001), 7_100_001, 'a part of a microsecond counts')
})

t.test('the reply that took least is believed, for a second', async t => {
  const clock = new RedisClock()
  /** A reply that is a millisecond further ahead than the one before. */
  let aheadUs = 0
  const replyOf = (sent: number, received: number, wrong = false) => {
    aheadUs += 1000
    clock.observe(received * 1000 + aheadUs, sent, received, wrong)
    return clock.latest(0)
  }
  t.equal(replyOf(96, 100), 1000)
  t.equal(replyOf(200, 205), 1000, 'it took longer')
  t.equal(replyOf(300, 304), 3000, 'as long, and later')
  t.equal(replyOf(400, 402), 4000)
  t.equal(replyOf(1399, 1402), 4000, 'a second')
  t.equal(replyOf(1399, 1402.5), 6000, 'and longer')
  t.equal(replyOf(1500, 1509, true), 7000, 'the estimate was wrong')
  t.equal(replyOf(1600, 1608), 8000)
})
