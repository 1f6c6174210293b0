const LINEAR_BITS = 11
const HALF = 1 << (LINEAR_BITS - 1)

/** Counts of latencies in microseconds, each kept to one part in a thousand. */
export class Histogram {
  #counts = new Uint32Array(HALF * 24)
  #total = 0

  /** @param {number} us */
  add(us) {
    const value = us | 0
    const shift = Math.max(0, 32 - Math.clz32(value) - LINEAR_BITS)
    this.#counts[shift * HALF + (value >>> shift)]++
    this.#total++
  }

  get total() {
    return this.#total
  }

  /**
   * The latency in milliseconds that the given share of all stays at or below.
   *
   * @param {number} share
   */
  quantile(share) {
    const wanted = Math.max(1, Math.ceil(share * this.#total))
    let seen = 0
    for (let index = 0; index < this.#counts.length; index++) {
      seen += this.#counts[index]
      if (seen < wanted) continue
      const shift = Math.max(0, Math.floor(index / HALF) - 1)
      return ((index - shift * HALF) * 2 ** shift) / 1000
    }
    return Number.NaN
  }
}
