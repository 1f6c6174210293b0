/**
 * API keys that were found of late, by their text, so that a key in use is neither checked nor hashed again. Whether it is
 * still good is looked up each time. Pure.
 */

/** Keys of one of two generations: what was not used for so many others is forgotten. */
const MOST = 1000

/** Holds good keys alone: whoever sends other texts makes nothing be forgotten. */
export class FoundKeys<Found> {
  #young = new Map<string, Found>()
  #old = new Map<string, Found>()

  get(text: string): Found | undefined {
    const young = this.#young.get(text)
    if (young !== undefined) return young
    const old = this.#old.get(text)
    if (old !== undefined) this.set(text, old)
    return old
  }

  set(text: string, found: Found): void {
    if (this.#young.size >= MOST) {
      this.#old = this.#young
      this.#young = new Map()
    }
    this.#young.set(text, found)
  }

  delete(text: string): void {
    this.#young.delete(text)
    this.#old.delete(text)
  }
}
