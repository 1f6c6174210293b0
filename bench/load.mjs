import { arrivalsOf } from './arrivals.mjs'
import { answerParent } from './child.mjs'
import { Connection } from './connection.mjs'
import { Histogram } from './histogram.mjs'
import { surge } from './overload/surge.mjs'

const wait = ms => new Promise(resolve => setTimeout(resolve, ms))
const microseconds = () => performance.now() * 1000

/** Kept open from task to task, by port. */
const pools = new Map()

async function connectionsTo(port, count, addresses) {
  const pool = (pools.get(port) ?? []).filter(({ isOpen }) => isOpen)
  pools.set(port, pool)
  if (pool.length < count) pool.push(...(await Connection.open(port, count - pool.length, undefined, addresses)))
  return pool.slice(0, count)
}

/** What came back: everything, and with its latency what came while counting. */
class Tally {
  latencies = new Histogram()
  statuses = {}
  sent = 0
  received = 0
  counting = false
  #whenAll = () => {}

  answered(status, since) {
    this.received++
    this.statuses[status] = (this.statuses[status] ?? 0) + 1
    if (this.counting) this.latencies.add(microseconds() - since)
    if (this.received === this.sent) this.#whenAll()
  }

  /** Counts for so many milliseconds, and gives how many they were in truth. */
  async count(ms) {
    const from = performance.now()
    this.counting = true
    await wait(ms)
    this.counting = false
    return performance.now() - from
  }

  /** All that was sent is answered. */
  async all() {
    if (this.received < this.sent) {
      await new Promise(resolve => {
        this.#whenAll = resolve
      })
    }
  }

  result(ms) {
    const { latencies, received, statuses } = this
    return {
      received,
      statuses,
      perSecond: (latencies.total / ms) * 1000,
      p50: latencies.quantile(0.5),
      p99: latencies.quantile(0.99),
    }
  }
}

/** How many requests have had a name of their own. */
let named = 0

/**
 * What is sent next: `messages`, one after the other and over and over, or `before` and `after` a name that is new.
 * `encoding`: what makes bytes of a message.
 */
function sourceOf({ messages, fresh, encoding = 'utf8' }) {
  if (fresh !== undefined) return () => Buffer.from(`${fresh.before}${named++}${fresh.after}`)
  const bytes = messages.map(message => Buffer.from(message, encoding))
  let next = 0
  return () => bytes[next++ % bytes.length]
}

/**
 * Each connection asks again as soon as it is answered, for a time or for a number of `requests`. `messages`: requests
 * as they go over the wire; or `fresh`, see above. `addresses`: where the connections come from.
 */
async function closedLoop({ port, connections, addresses, warmUpMs, ms, requests: most, ...what }) {
  const message = sourceOf(what)
  const tally = new Tally()
  let over = false
  const ask = connection => {
    const since = microseconds()
    tally.sent++
    connection.request(message(), status => {
      if (!over && tally.sent !== most) ask(connection)
      tally.answered(status, since)
    })
  }
  for (const connection of await connectionsTo(port, connections, addresses)) ask(connection)
  let took = 0
  if (most === undefined) {
    await wait(warmUpMs)
    took = await tally.count(ms)
    over = true
  }
  await tally.all()
  return tally.result(took)
}

/**
 * Requests come at random (Poisson) at a fixed mean rate, whether or not earlier ones are answered. One that finds
 * no free connection waits for one, and its latency counts from when it was due, so that a server that stalls is
 * charged for all that it kept waiting.
 */
async function openLoop({ port, connections, addresses, rate, warmUpMs, ms, seed, ...what }) {
  const message = sourceOf(what)
  const tally = new Tally()
  const gap = arrivalsOf(seed)
  const free = [...(await connectionsTo(port, connections, addresses))]
  const waiting = []
  let over = false
  const send = (connection, since) => {
    connection.request(message(), status => {
      tally.answered(status, since)
      const due = waiting.shift()
      if (due === undefined) free.push(connection)
      else send(connection, due)
    })
  }
  let due = microseconds()
  const tick = () => {
    if (over) return
    const now = microseconds()
    for (; due <= now; due += gap(rate)) {
      tally.sent++
      const connection = free.shift()
      if (connection === undefined) waiting.push(now)
      else send(connection, now)
    }
    setTimeout(tick, 1)
  }
  tick()
  await wait(warmUpMs)
  const took = await tally.count(ms)
  over = true
  await tally.all()
  return tally.result(took)
}

/** The servers of a scenario are about to stop. */
async function hangUp() {
  await Promise.all([...pools.values()].map(pool => Connection.close(pool)))
  pools.clear()
  return {}
}

const kinds = { closedLoop, openLoop, surge, hangUp }

answerParent({}, async task => {
  const before = process.cpuUsage()
  const result = await kinds[task.kind](task)
  const { user, system } = process.cpuUsage(before)
  return { ...result, cpu: user + system }
})
