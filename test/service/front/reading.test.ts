/** What will be refused is not read: whose turn it is, and when. */
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { type Pausable, ReadingControl, RefusalBudget } from '../../../service/src/front/reading.js'

class Connection implements Pausable {
  refusalsInRow = 5
  isPaused = false
  settled = 0
  pausedAt = 0

  pause(now: number): boolean {
    this.isPaused = true
    this.pausedAt = now
    return true
  }

  resume(): void {
    this.isPaused = false
  }

  settle(): void {
    this.settled++
  }
}

/** A time in milliseconds that a test moves, so that it does not matter how busy the machine is. */
function clock() {
  const time = { now: 1000 }
  return Object.assign(time, { read: () => time.now })
}

/** Lets time pass until all connections are read. */
async function untilAllAreRead(control: ReadingControl, time: { now: number }): Promise<void> {
  for (; control.paused > 0; time.now += 5) await delay(5)
}

t.test('refusals have half of the time, and what they did not use is gone', async t => {
  const budget = new RefusalBudget(0)
  t.equal(budget.leftMs(2), 1)
  budget.spend(5)
  t.ok(budget.leftMs(2) < 0, 'more than their share')
  t.ok(budget.leftMs(9) < 0)
  t.ok(budget.leftMs(12) > 0, 'five milliseconds are half of ten')
  t.ok(budget.leftMs(100_000) < 10)
  budget.spend(60_000)
  t.ok(budget.leftMs(102_000) > 0, 'a stall is not paid for for ever')
})

t.test('beyond their share connections are not read, and each gets its turn', async t => {
  const time = clock()
  const control = new ReadingControl(() => true, time.read)
  t.teardown(() => control.close())
  const connections = Array.from({ length: 50 }, () => new Connection())
  const polite = new Connection()
  polite.refusalsInRow = 1
  for (let i = 0; i < 20; i++, time.now += 5) {
    const { now } = time
    for (const connection of connections) control.refused(connection, now - 1, now)
    control.refused(polite, now - 1, now)
    await delay(5)
  }
  t.ok(control.paused > 0 && control.paused <= 50)
  t.equal(polite.pausedAt, 0, 'one with requests that are admitted is always read')
  await untilAllAreRead(control, time)
  t.ok(connections.every(({ isPaused }) => !isPaused))
  t.ok(connections.some(({ settled }) => settled > 0))
})

t.test('a turn of the event loop in which much is refused comes to its end', async t => {
  const time = clock()
  const control = new ReadingControl(() => true, time.read)
  t.teardown(() => control.close())
  const connection = new Connection()
  connection.refusalsInRow = 1
  const { now } = time
  control.refused(connection, now, now)
  await Promise.resolve()
  t.equal(connection.isPaused, false)
  time.now += 60
  control.refused(connection, now + 60, now + 60)
  await Promise.resolve()
  t.equal(connection.isPaused, true, 'though there is time left for refusals')
  await new Promise(resolve => setImmediate(resolve))
  t.equal(connection.isPaused, false, 'the next turn has begun')
})

t.test('many that open at once are read in turns, and a few at once always', async t => {
  const time = clock()
  const control = new ReadingControl(() => true, time.read)
  t.teardown(() => control.close())
  const { now } = time
  const few = Array.from({ length: 20 }, () => new Connection())
  for (const connection of few) control.opened(connection, now)
  t.equal(control.paused, 0)
  for (let i = 0; i < 100; i++) control.refused(new Connection(), now - 10, now)
  const many = Array.from({ length: 200 }, () => new Connection())
  for (const connection of many) control.opened(connection, now)
  t.ok(many[0]?.isPaused === false && many.at(-1)?.isPaused === true)
  await untilAllAreRead(control, time)
  t.ok(many.every(({ isPaused }) => !isPaused))
})

t.test('where there is nothing else to do, everything is read', async t => {
  const control = new ReadingControl(() => false)
  const connection = new Connection()
  for (let i = 0; i < 100; i++) control.refused(connection, 0, 10)
  await delay(20)
  t.equal(control.paused, 0)
  t.equal(connection.pausedAt, 0)
})

t.test('a connection that is gone has no turn, and an end reads all of them again', async t => {
  const time = clock()
  const control = new ReadingControl(() => true, time.read)
  const [one, other] = [new Connection(), new Connection()]
  const { now } = time
  for (let i = 0; i < 100; i++) for (const connection of [one, other]) control.refused(connection, now - 100, now)
  await new Promise(resolve => setImmediate(resolve))
  t.equal(control.paused, 2)
  control.forget(one)
  control.close()
  t.equal(one.isPaused, true)
  t.equal(other.isPaused, false)
  t.equal(control.paused, 0)
})
