import { sharesSlices } from './policy.js'

/** One log of a group: a policy's name and a window. */
export interface GroupLog {
  readonly log: string
  /** Name of the policy. */
  readonly name: string
  readonly windowMs: number
  /** Whether a quota on this log is larger than its number of slices. Becomes true and stays so. */
  readonly sliced: boolean
}

/** Logs that are remembered as sliced though their window is a function. */
const MOST_GIVEN = 1000

/**
 * The logs that the limiters of one group share. Each distinct window of a policy has a log, and a request that one
 * limiter admits is charged to all of them.
 *
 * A window that is a function is known only with the request; its log is charged by the requests of that window alone.
 */
export class Group {
  /** A fraction of the window; the same for all limiters, because their entries stand in the same logs. */
  readonly precision: number
  /**
   * Whether a denial costs one of the limiters a penalty. Then nothing is taken ahead of these logs: a denial that has
   * had a penalty cannot be taken back once unspent units are.
   */
  hasPenalty = false
  readonly #logs = new Map<string, GroupLog>()
  /** Sliced logs whose window a function has given. */
  readonly #given = new Set<string>()
  #version = 0

  constructor(precision: number) {
    this.precision = precision
  }

  /** Changes whenever a log joins, or becomes sliced. */
  get version(): number {
    return this.#version
  }

  get logs(): readonly GroupLog[] {
    return [...this.#logs.values()]
  }

  /** Adds a window. `max`: the quota on it, 0 where it depends on the request. */
  join(log: string, name: string, windowMs: number, max: number): void {
    if (!this.#logs.has(log)) this.#set({ log, name, windowMs, sliced: false })
    this.isSliced(log, max)
  }

  /** Whether a log is sliced, given one more quota on it. */
  isSliced(log: string, limit: number): boolean {
    const known = this.#logs.get(log)
    const sliced = known?.sliced === true || this.#given.has(log) || sharesSlices(limit, this.precision)
    if (known !== undefined && sliced && !known.sliced) this.#set({ ...known, sliced })
    if (known === undefined && sliced && this.#given.size < MOST_GIVEN) this.#given.add(log)
    return sliced
  }

  #set(log: GroupLog): void {
    this.#logs.set(log.log, log)
    this.#version++
  }
}
