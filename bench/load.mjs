import { answerParent } from './child.mjs'
import { Connection } from './connection.mjs'
import { Histogram } from './histogram.mjs'
import { KEY_HEADER } from './scenarios.mjs'

const wait = ms => new Promise(resolve => setTimeout(resolve, ms))
const microseconds = () => performance.now() * 1000

/** A request for each key, ready to be written. */
const requestsOf = keys =>
  keys.map(key => Buffer.from(`GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n${KEY_HEADER}: ${key}\r\n\r\n`))

/** What came back, counted from `begin` on. */
class Tally {
  latencies = new Histogram()
  statuses = {}
  counting = false

  answered(status, since) {
    if (!this.counting) return
    this.latencies.add(microseconds() - since)
    this.statuses[status] = (this.statuses[status] ?? 0) + 1
  }

  result(ms) {
    const { latencies, statuses } = this
    return {
      answers: latencies.total,
      statuses,
      perSecond: (latencies.total / ms) * 1000,
      p50: latencies.quantile(0.5),
      p99: latencies.quantile(0.99),
      p999: latencies.quantile(0.999),
    }
  }
}

/** Each connection asks again as soon as it is answered. */
async function closedLoop({ port, keys, connections, warmUpMs, ms }) {
  const requests = requestsOf(keys)
  const tally = new Tally()
  let next = 0
  let over = false
  const ask = connection => {
    const since = microseconds()
    connection.request(requests[next++ % requests.length], status => {
      tally.answered(status, since)
      if (!over) ask(connection)
    })
  }
  const open = await Connection.open(port, connections)
  for (const connection of open) ask(connection)
  await wait(warmUpMs)
  const from = performance.now()
  tally.counting = true
  await wait(ms)
  tally.counting = false
  const took = performance.now() - from
  over = true
  await wait(20) // for what is still on its way
  await Connection.close(open)
  return tally.result(took)
}

/** So many requests and no more, as fast as they are answered. */
async function exactly({ port, keys, connections, requests: count }) {
  const requests = requestsOf(keys)
  const tally = new Tally()
  tally.counting = true
  let next = 0
  const from = performance.now()
  const open = await Connection.open(port, connections)
  const asked = open.map(async connection => {
    while (next < count) {
      const request = requests[next++ % requests.length]
      const since = microseconds()
      await new Promise(resolve =>
        connection.request(request, status => {
          tally.answered(status, since)
          resolve()
        }),
      )
    }
  })
  await Promise.all(asked)
  await Connection.close(open)
  return tally.result(performance.now() - from)
}

/**
 * Requests come at random (Poisson) at a fixed mean rate, whether or not earlier ones are answered. Latency counts
 * from the moment a request was due, so that a server that stalls is charged for all that it kept waiting.
 */
async function openLoop({ port, keys, connections, rate, warmUpMs, ms, seed }) {
  const requests = requestsOf(keys)
  const tally = new Tally()
  const random = randomOf(seed)
  const free = await Connection.open(port, connections)
  const open = [...free]
  const waiting = []
  let next = 0
  let latest = 0
  let over = false
  const send = (connection, since) => {
    connection.request(requests[next++ % requests.length], status => {
      tally.answered(status, since)
      const due = waiting.shift()
      if (due === undefined) free.push(connection)
      else send(connection, due)
    })
  }
  const start = microseconds()
  let due = start
  const tick = () => {
    const now = microseconds()
    latest = Math.max(latest, now - due)
    for (; due <= now; due += (-Math.log(random()) / rate) * 1e6) {
      const connection = free.pop()
      if (connection === undefined) waiting.push(now)
      else send(connection, now)
    }
    if (!over) setTimeout(tick, 1)
  }
  tick()
  await wait(warmUpMs)
  const from = performance.now()
  latest = 0
  tally.counting = true
  await wait(ms)
  tally.counting = false
  const took = performance.now() - from
  over = true
  await wait(50)
  await Connection.close(open)
  return { ...tally.result(took), unanswered: waiting.length, generatorLateMs: latest / 1000 }
}

/** mulberry32: the same arrivals for every contender of a round. */
function randomOf(seed) {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return (((mixed ^ (mixed >>> 14)) >>> 0) + 1) / 4_294_967_297
  }
}

const kinds = { closedLoop, openLoop, exactly }

answerParent({}, async task => {
  const before = process.cpuUsage()
  const result = await kinds[task.kind](task)
  const { user, system } = process.cpuUsage(before)
  return { ...result, cpu: user + system }
})
