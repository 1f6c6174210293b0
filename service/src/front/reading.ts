/**
 * What will be refused is not read: a controller bounds the share of the main thread that refusals take while there is
 * anything else to do. Beyond it, connections whose requests were refused of late are read in turns, and TCP makes their
 * clients wait meanwhile. Connections with requests that are admitted are always read.
 */

/**
 * Share of the main thread that refusals may take while something is admitted. Results of runs go first in any case. With a
 * smaller share more clients wait, and a client that waits opens one more connection, which costs more than to refuse it.
 */
const MOST_SHARE = 1 / 2
/** Milliseconds between two turns. */
const TURN_MS = 5
/** Milliseconds after which a connection has its turn, whatever the share. */
const LONGEST_PAUSE_MS = 40
/** Refusals in a row, over one connection, from which on it is paused. */
const FEWEST_REFUSALS = 2
/** New connections that are read in one turn of the event loop, while refusals take more than their share. */
const MOST_NEW_AT_ONCE = 50
/**
 * Milliseconds of refusals in one turn of the event loop. Whoever is refused later in that turn is not read again before the
 * next one. libuv polls up to 48 times in one turn as long as it finds 1,024 readable connections, and all timers wait
 * meanwhile: without this, a turn has taken two seconds.
 */
const LONGEST_TURN_MS = 20
/** What the kernel and libuv add to the time that a refusal takes in JavaScript. */
const READING_FACTOR = 1.6

/** A connection that can be left unread. */
export interface Pausable {
  /** Refusals since the last request over it that was not refused. */
  readonly refusalsInRow: number
  /** Stops reading it, or reads it again. Gives false where that is not possible. */
  pause(now: number): boolean
  resume(): void
  /** It was read once more, and had nothing to say: what comes from now on has only just come. */
  settle(): void
}

/** The rule alone, without timers: time is an argument. */
export class RefusalBudget {
  #leftMs = 0
  #since: number

  constructor(now: number) {
    this.#since = now
  }

  /** Milliseconds that refusals may still take; below 0 where they took more than their share. */
  leftMs(now: number): number {
    const elapsedMs = now - this.#since
    this.#since = now
    // What was not used for two turns is gone: a share of the time that has passed is of no use to what is due now.
    this.#leftMs = Math.min(this.#leftMs + elapsedMs * MOST_SHARE, 2 * TURN_MS * MOST_SHARE)
    return this.#leftMs
  }

  spend(ms: number): void {
    // No more debt than a second of it: a single stall is not paid for by everybody after it.
    this.#leftMs = Math.max(-1000 * MOST_SHARE, this.#leftMs - ms)
  }
}

export class ReadingControl {
  readonly #isBusy: () => boolean
  readonly #now: () => number
  readonly #budget: RefusalBudget
  /** Since when, the longest paused first. */
  readonly #paused = new Map<Pausable, number>()
  /** Whether this turn of the event loop has begun for us, and when. */
  #isInTurn = false
  #turnBegan = 0
  #timer: NodeJS.Timeout | undefined
  /** Connections that have opened in this turn of the event loop. */
  #opened = 0
  /** Milliseconds that one refusal takes, of late. */
  #refusalMs = 0.02

  /** `isBusy`: whether anything is admitted, that refusals would keep from the main thread. */
  constructor(isBusy: () => boolean, now = () => performance.now()) {
    this.#isBusy = isBusy
    this.#now = now
    this.#budget = new RefusalBudget(now())
  }

  /** Connections that are not read at present. */
  get paused(): number {
    return this.#paused.size
  }

  /** A request over this connection was refused, between `from` and `now`. */
  refused(connection: Pausable, from: number, now: number): void {
    const ms = (now - from) * READING_FACTOR
    this.#refusalMs += (ms - this.#refusalMs) / 64
    this.#budget.spend(ms)
    this.#beginTurn(now)
    const isLong = now - this.#turnBegan > LONGEST_TURN_MS
    const isRefused = connection.refusalsInRow >= FEWEST_REFUSALS
    if (!isLong && !(isRefused && this.#budget.leftMs(now) <= 0 && this.#isBusy())) return
    // Behind all ticks, since one of them has Node's stream read on.
    queueMicrotask(() => this.#hold(connection, this.#now()))
  }

  /** A connection has opened: it is read at once, unless many have in this turn of the event loop, and there is no time. */
  opened(connection: Pausable, now: number): void {
    this.#beginTurn(now)
    if (++this.#opened <= MOST_NEW_AT_ONCE || this.#budget.leftMs(now) > 0 || !this.#isBusy()) return
    this.#hold(connection, now)
  }

  /** Notes when the first refusal, or connection, of a turn of the event loop came. */
  #beginTurn(now: number): void {
    if (this.#isInTurn) return
    this.#isInTurn = true
    this.#turnBegan = now
    setImmediate(() => {
      this.#isInTurn = false
      this.#opened = 0
      if (this.#paused.size > 0) this.#turn()
    })
  }

  /** Reads all connections again. */
  close(): void {
    this.#stopTurns()
    for (const connection of this.#paused.keys()) connection.resume()
    this.#paused.clear()
  }

  /** The connection is gone. */
  forget(connection: Pausable): void {
    this.#paused.delete(connection)
  }

  #hold(connection: Pausable, now: number): void {
    if (this.#paused.has(connection) || !connection.pause(now)) return
    this.#paused.set(connection, now)
    this.#timer ??= setInterval(() => this.#turn(), TURN_MS)
  }

  /** Reads those again whose turn it is. */
  #turn(): void {
    const now = this.#now()
    const leftMs = this.#budget.leftMs(now)
    const affordable = this.#isBusy() ? Math.floor(leftMs / this.#refusalMs) : this.#paused.size
    const resumed: Pausable[] = []
    for (const [connection, since] of this.#paused) {
      if (resumed.length >= affordable && now - since < LONGEST_PAUSE_MS) break
      resumed.push(connection)
      this.#paused.delete(connection)
      connection.resume()
    }
    // Timers come before the reading of this turn of the event loop, and this behind it.
    if (resumed.length > 0) {
      setImmediate(() => {
        for (const connection of resumed) connection.settle()
      })
    }
    if (this.#paused.size === 0) this.#stopTurns()
  }

  #stopTurns(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}
