/** How long a batch takes, as `overhead + rows × perRow`, learnt from the batches themselves. Pure. */
export class ServiceTime {
  // Sums of a least-squares fit whose older samples fade: the last fifty batches or so decide.
  #weight = 0
  #rows = 0
  #ms = 0
  #rowsSquared = 0
  #rowsMs = 0
  readonly #fade: number

  constructor(fade = 0.98) {
    this.#fade = fade
  }

  /** Whether a batch was ever observed. */
  get known(): boolean {
    return this.#weight > 0
  }

  observe(rows: number, ms: number): void {
    const fade = this.#fade
    this.#weight = this.#weight * fade + 1
    this.#rows = this.#rows * fade + rows
    this.#ms = this.#ms * fade + ms
    this.#rowsSquared = this.#rowsSquared * fade + rows * rows
    this.#rowsMs = this.#rowsMs * fade + rows * ms
  }

  /** Rows of a batch of late; 0 before the first was observed. */
  get meanRows(): number {
    return this.#weight === 0 ? 0 : this.#rows / this.#weight
  }

  /** Expected milliseconds of a batch; 0 before the first was observed. */
  estimateMs(rows: number): number {
    return this.totalMs(rows, 1)
  }

  /** Expected milliseconds of `rows` in so many batches. */
  totalMs(rows: number, batches: number): number {
    const { overheadMs, perRowMs } = this.line()
    return batches * overheadMs + rows * perRowMs
  }

  line(): { overheadMs: number; perRowMs: number } {
    if (this.#weight === 0) return { overheadMs: 0, perRowMs: 0 }
    const meanRows = this.#rows / this.#weight
    const meanMs = this.#ms / this.#weight
    const spread = this.#rowsSquared / this.#weight - meanRows * meanRows
    const slope = (this.#rowsMs / this.#weight - meanRows * meanMs) / spread
    // Batches of one size say nothing of the slope; neither part of the line can be below nothing.
    const perRowMs =
      spread > 1e-6 * meanRows * meanRows ? Math.min(Math.max(slope, 0), meanMs / meanRows) : meanMs / meanRows
    return { overheadMs: Math.max(0, meanMs - perRowMs * meanRows), perRowMs }
  }
}
