/** Blocks that are over are dropped when there are this many, and when as many again have come. */
const FIRST_SWEEP = 1000

/** When the blocks of keys end. A block is kept until then, however many there are: it is an operator's act. */
export class Blocks {
  readonly #ends = new Map<string, number>()
  #sweepAt = FIRST_SWEEP

  get isEmpty(): boolean {
    return this.#ends.size === 0
  }

  /** Milliseconds until the end, 0 without a block. */
  left(log: string, key: string, now: number): number {
    if (this.#ends.size === 0) return 0
    return Math.max(0, (this.#ends.get(idOf(log, key)) ?? 0) - now)
  }

  set(log: string, key: string, durationMs: number, now: number): void {
    this.#ends.set(idOf(log, key), now + durationMs)
    if (this.#ends.size < this.#sweepAt) return
    for (const [id, end] of this.#ends) if (end <= now) this.#ends.delete(id)
    this.#sweepAt = Math.max(FIRST_SWEEP, 2 * this.#ends.size)
  }

  delete(log: string, key: string): void {
    this.#ends.delete(idOf(log, key))
  }

  clear(): void {
    this.#ends.clear()
  }
}

/** No name of a log has a line feed. */
function idOf(log: string, key: string): string {
  return `${log}\n${key}`
}
