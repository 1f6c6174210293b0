/** Keys cannot be guessed at speed: wrong ones are counted by address, and a counted-out address is not told of right ones. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { addressKey } from '../auth.js'

/** Wrong keys that one address may send in a minute. */
const GUESSES = { name: 'key-guesses', max: 10, timeWindow: 60_000 }
/** Addresses remembered at most; the oldest goes first. */
const MOST_ADDRESSES = 10_000

export class Guesses {
  readonly #count: ReturnType<FastifyInstance['rateLimit']>
  /** Addresses that have used up their guesses. */
  readonly #usedUp = new Set<string>()

  constructor(app: FastifyInstance) {
    this.#count = app.rateLimit({ groupId: GUESSES.name, policies: [GUESSES], keyGenerator: addressKey })
  }

  /**
   * Counts a wrong key. While an address has no guesses left, each of its keys counts as one, else the one right key
   * among many wrong ones would still stand out. Throws QuotaExceeded.
   */
  async check(right: boolean, request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const address = addressKey(request)
    if (right && !this.#usedUp.has(address)) return
    try {
      await this.#count(request, reply)
      this.#usedUp.delete(address)
    } catch (error) {
      const [oldest] = this.#usedUp
      if (oldest !== undefined && this.#usedUp.size >= MOST_ADDRESSES) this.#usedUp.delete(oldest)
      this.#usedUp.add(address)
      throw error
    }
  }
}
