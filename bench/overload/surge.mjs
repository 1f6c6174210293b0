import { arrivalsOf } from '../arrivals.mjs'
import { Connection } from '../connection.mjs'
import { Histogram } from '../histogram.mjs'

const microseconds = () => performance.now() * 1000
/** Most answers fit into it, and there may be thousands of connections. */
const READ_BYTES = 2048
/** Length of the stretches that a phase is cut into, to see when it is back to normal. */
const STRETCH_MS = 100
/**
 * What is due is sent, and what came is read, once in so many milliseconds; in between the process sleeps. One that wakes
 * up for each answer, as an event loop does, takes a tenth of a processor more from the server beside it, where clients
 * are on machines of their own.
 */
const TICK_MS = 1
const asleep = new Int32Array(new SharedArrayBuffer(4))
/** Connections that are opened at once, less than what servers let wait to be accepted. */
const OPENED_AT_ONCE = 100

/**
 * What came back of the requests that were due in one phase.
 *
 * good: 200 within the deadline; late: 200 after it; refused: 429 or 503; expired: 504; unanswered: given up, or the
 * connection was lost; other: any other status.
 */
class Tally {
  sent = 0
  counts = { good: 0, late: 0, refused: 0, expired: 0, unanswered: 0, other: 0 }
  statuses = {}
  /** Of those that were refused and came back as they were told: how many, and how many then got a 200 in time. */
  retries = { tried: 0, succeeded: 0 }
  #accepted = new Histogram()
  #refusals = new Histogram()
  #quickUs
  /** By stretch: how many were due, and how many of them got a 200 as quickly as is normal. */
  #stretches = []

  constructor(quickMs) {
    this.#quickUs = quickMs * 1000
  }

  due(stretch) {
    this.sent++
    this.#stretches[stretch] ??= { due: 0, quick: 0 }
    this.#stretches[stretch].due++
    return this.#stretches[stretch]
  }

  answered(status, us, deadlineUs, stretch) {
    this.statuses[status] = (this.statuses[status] ?? 0) + 1
    if (status === 200) {
      this.#accepted.add(us)
      this.counts[us <= deadlineUs ? 'good' : 'late']++
      if (us <= this.#quickUs) stretch.quick++
    } else if (status === 429 || status === 503) {
      this.#refusals.add(us)
      this.counts.refused++
    } else this.counts[status === 504 ? 'expired' : 'other']++
  }

  result(ms) {
    return {
      sent: this.sent,
      ms,
      ...this.counts,
      statuses: this.statuses,
      retries: this.retries,
      p50: this.#accepted.quantile(0.5),
      p99: this.#accepted.quantile(0.99),
      refusalP50: this.#refusals.quantile(0.5),
      refusalP99: this.#refusals.quantile(0.99),
      normalAfterMs: this.#normalAfterMs(),
    }
  }

  /** Start of the first stretch in which nine of ten are answered as is normal; undefined where none is. */
  #normalAfterMs() {
    const index = this.#stretches.findIndex(each => each !== undefined && each.quick >= 0.9 * each.due)
    return index < 0 ? undefined : index * STRETCH_MS
  }
}

/**
 * Open loop: requests of each stream come at random (Poisson) at the rate of its phase, whether or not others are
 * answered. They are those of many clients: each goes out on the connection that has been idle for longest, of so many
 * that were opened before, or on a new one where all are busy. Latency counts from when a request was due, to the
 * millisecond. One that is not answered within `giveUpMs` is given up and its connection dropped. Ends when the last one
 * is answered or given up, and gives the tallies of each stream, phase by phase.
 *
 * `quickMs`: what is normal. `even`: requests of the stream come evenly, not at random. `obey`: what is refused is sent once more, after the seconds that the refusal named.
 *
 * @param {{ port: number, connections: number, deadlineMs: number, giveUpMs: number, quickMs?: number, obey?: boolean,
 *   seed: number, streams: { messages: string[], even?: boolean, phases: { rate: number, ms: number }[] }[] }} task
 */
export async function surge({ port, connections, deadlineMs, giveUpMs, quickMs = deadlineMs, obey, seed, streams }) {
  const client = new Client(port, giveUpMs * 1000, deadlineMs * 1000, obey === true)
  await client.open(connections)
  const sources = streams.map((stream, index) => new Source(stream, seed * 1000 + index, quickMs, client))
  await new Promise(resolve => {
    const tick = () => {
      const now = microseconds()
      let over = true
      for (const source of sources) over = source.sendUntil(now) && over
      client.giveUp(now)
      if (over && client.idle) resolve()
      else {
        Atomics.wait(asleep, 0, 0, TICK_MS)
        setImmediate(tick)
      }
    }
    tick()
  })
  client.close()
  return { streams: sources.map(({ results }) => results) }
}

/** One stream of requests, phase after phase. */
class Source {
  #bytes
  #phases
  #gap
  #client
  #phase = 0
  #next = 0
  #endsAt
  #startedAt
  #due

  constructor({ messages, even = false, phases }, seed, quickMs, client) {
    this.#bytes = messages.map(message => Buffer.from(message))
    this.#phases = phases.map(phase => ({ ...phase, tally: new Tally(quickMs) }))
    this.#gap = even ? rate => 1e6 / rate : arrivalsOf(seed)
    this.#client = client
    this.#startedAt = microseconds()
    this.#endsAt = this.#startedAt + phases[0].ms * 1000
    this.#due = this.#startedAt + this.#gap(phases[0].rate)
  }

  /** Sends what is due; true when there is no more to come. */
  sendUntil(now) {
    for (;;) {
      const phase = this.#phases[this.#phase]
      if (phase === undefined) return true
      if (this.#due > this.#endsAt) {
        if (now < this.#endsAt) return false
        this.#phase++
        const next = this.#phases[this.#phase]
        if (next === undefined) return true
        this.#startedAt = this.#endsAt
        this.#endsAt += next.ms * 1000
        this.#due = this.#startedAt + this.#gap(next.rate)
      } else if (this.#due <= now) {
        const stretch = phase.tally.due(Math.floor((this.#due - this.#startedAt) / 1000 / STRETCH_MS))
        this.#client.send(this.#bytes[this.#next++ % this.#bytes.length], this.#due, phase.tally, stretch)
        this.#due += this.#gap(phase.rate)
      } else return false
    }
  }

  get results() {
    return this.#phases.map(({ tally, ms }) => tally.result(ms))
  }
}

/** Connections as many as there are requests on their way, and more; the one that was idle for longest is used next. */
class Client {
  #port
  #giveUpUs
  #deadlineUs
  #obey
  #free = []
  #freeHead = 0
  /** In the order in which they were due, since all are given up after the same time. */
  #open = []
  #head = 0
  #pending = 0

  constructor(port, giveUpUs, deadlineUs, obey) {
    this.#port = port
    this.#giveUpUs = giveUpUs
    this.#deadlineUs = deadlineUs
    this.#obey = obey
  }

  get idle() {
    return this.#pending === 0
  }

  async open(count) {
    while (this.#free.length < count) {
      const more = Math.min(OPENED_AT_ONCE, count - this.#free.length)
      this.#free.push(...(await Connection.open(this.#port, more, READ_BYTES)))
    }
  }

  send(bytes, due, tally, stretch) {
    const answered = (status, retryAfter) => {
      tally.answered(status, microseconds() - due, this.#deadlineUs, stretch)
      if (this.#obey && retryAfter !== undefined) this.#sendAgain(bytes, retryAfter, tally.retries)
    }
    this.#request(bytes, due, answered, () => tally.counts.unanswered++)
  }

  /** As it was told, and for the last time. */
  #sendAgain(bytes, seconds, retries) {
    // It is still on its way, though not on a connection.
    this.#pending++
    setTimeout(() => {
      this.#pending--
      retries.tried++
      const due = microseconds()
      const answered = status => {
        if (status === 200 && microseconds() - due <= this.#deadlineUs) retries.succeeded++
      }
      this.#request(bytes, due, answered, () => {})
    }, seconds * 1000)
  }

  #request(bytes, due, answered, lost) {
    const connection = this.#idle() ?? new Connection(this.#port, READ_BYTES)
    const request = { due, connection, lost, open: true }
    this.#open.push(request)
    this.#pending++
    const end = () => {
      this.#pending--
      request.open = false
    }
    connection.request(
      bytes,
      (status, retryAfter) => {
        end()
        this.#free.push(connection)
        answered(status, retryAfter)
      },
      () => {
        end()
        lost()
      },
    )
  }

  #idle() {
    while (this.#freeHead < this.#free.length) {
      const connection = this.#free[this.#freeHead++]
      if (this.#freeHead > 4096) {
        this.#free = this.#free.slice(this.#freeHead)
        this.#freeHead = 0
      }
      if (connection.isOpen) return connection
    }
    return undefined
  }

  giveUp(now) {
    for (; this.#head < this.#open.length; this.#head++) {
      const { due, connection, lost, open } = this.#open[this.#head]
      if (!open) continue
      if (due + this.#giveUpUs > now) break
      connection.drop()
      this.#pending--
      lost()
    }
    if (this.#head > 4096) {
      this.#open = this.#open.slice(this.#head)
      this.#head = 0
    }
  }

  close() {
    for (const connection of this.#free.slice(this.#freeHead)) connection.drop()
  }
}
