import { clearTimeout, setTimeout } from '../../clock.js'

/** Failed calls in a row that open the circuit, and the time that they span at least, in milliseconds. */
const FAILURES = 3
const SPAN_MS = 100
/** How an error that Redis answered with begins: with its code. */
const REPLY = /^[A-Z][A-Z0-9_]+ /
/** Milliseconds before the first probe; each further one waits twice as long, up to the longest. */
const FIRST_PROBE_MS = 50
const LONGEST_PROBE_MS = 1000

export interface CircuitParts {
  /** Tries the node; rejects where it does not answer. */
  readonly probe: () => Promise<unknown>
  /** Called with the reason when the circuit opens, and with nothing when it closes. */
  readonly onChange: (error: Error | undefined) => void
}

/**
 * A circuit breaker for one node: while calls fail in a row it is open, and nothing is sent. Probes run behind the
 * scenes; the first one that succeeds closes it, and so does a client that has connected again.
 */
export class Circuit {
  readonly #parts: CircuitParts
  #error: Error | undefined
  #failures = 0
  #failingSince = 0
  /** Counts openings and closings: what was sent before the last one says nothing about the node as it is now. */
  #epoch = 0
  #timer: NodeJS.Timeout | undefined
  #disposed = false

  constructor(parts: CircuitParts) {
    this.#parts = parts
  }

  /** Why the circuit is open; undefined while it is closed. */
  get error(): Error | undefined {
    return this.#error
  }

  /** To be handed back with the result of a call that is sent now. */
  get epoch(): number {
    return this.#epoch
  }

  succeeded(epoch: number): void {
    if (epoch === this.#epoch && this.#error === undefined) this.#failures = 0
  }

  /** `now`: milliseconds of a monotonic clock. */
  failed(epoch: number, error: Error, now: number): void {
    if (epoch !== this.#epoch || this.#error !== undefined || this.#disposed) return
    if (this.#failures === 0) this.#failingSince = now
    this.#failures++
    if (this.#failures < FAILURES || now - this.#failingSince < SPAN_MS) return
    this.#error = error
    this.#epoch++
    this.#probeIn(FIRST_PROBE_MS)
    this.#tell(error)
  }

  /**
   * The client has connected: that closes the circuit. It does not where Redis has answered with errors, such as
   * READONLY: it was connected to before, and clients may connect again at each of them.
   */
  connected(): void {
    if (this.#error !== undefined && !REPLY.test(this.#error.message)) this.#close()
  }

  #close(): void {
    this.#stop()
    this.#error = undefined
    this.#epoch++
    this.#tell(undefined)
  }

  /** Ends probes, and tells nobody. The circuit stays closed from then on. */
  dispose(): void {
    this.#stop()
    this.#disposed = true
    this.#error = undefined
    this.#epoch++
  }

  #stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#failures = 0
  }

  #probeIn(ms: number): void {
    const epoch = this.#epoch
    this.#timer = setTimeout(() => {
      this.#parts.probe().then(
        () => {
          if (epoch === this.#epoch) this.#close()
        },
        () => {
          if (epoch === this.#epoch) this.#probeIn(Math.min(ms * 2, LONGEST_PROBE_MS))
        },
      )
    }, ms).unref()
  }

  /** A listener that throws changes nothing here. */
  #tell(error: Error | undefined): void {
    try {
      this.#parts.onChange(error)
    } catch {}
  }
}
