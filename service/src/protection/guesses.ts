/** Keys cannot be guessed at speed: wrong ones are counted by address, and a counted-out address is not told of right ones. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { PolicyState } from 'ml-api-rate-limiter'
import { addressKey } from '../auth.js'

/** Wrong keys that one address may send in a minute. */
const GUESSES = { name: 'key-guesses', max: 10, timeWindow: 60_000 }
/** Addresses remembered at most; the oldest goes first, and is asked for again. */
const MOST_ADDRESSES = 10_000
/** For how long an address is taken to stand where it stood: other replicas count its guesses too. */
const FRESH_MS = 1000

/** What this process knows of an address. */
interface Standing {
  readonly usedUp: boolean
  /** Milliseconds of `performance.now()`. */
  readonly since: number
}

export class Guesses {
  readonly #count: ReturnType<FastifyInstance['rateLimit']>
  readonly #known = new Map<string, Standing>()
  /** Guesses on their way to the store, by address. */
  readonly #counting = new Map<string, number>()

  constructor(app: FastifyInstance) {
    this.#count = app.rateLimit({ groupId: GUESSES.name, policies: [GUESSES], keyGenerator: addressKey })
  }

  /**
   * Counts a wrong key. While an address has no guesses left, or has some that are being counted, each of its keys counts
   * as one, else the one right key among many wrong ones would still stand out. Throws QuotaExceeded.
   */
  async check(right: boolean, request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const address = addressKey(request)
    if (right && !this.#counting.has(address) && !(await this.#isUsedUp(address))) return
    this.#counting.set(address, (this.#counting.get(address) ?? 0) + 1)
    try {
      await this.#count(request, reply)
      // Whoever comes next asks the store whether this was the last.
      this.#known.delete(address)
    } catch (error) {
      this.#remember(address, true)
      throw error
    } finally {
      const others = (this.#counting.get(address) as number) - 1
      if (others === 0) this.#counting.delete(address)
      else this.#counting.set(address, others)
    }
  }

  /** Where an address stands, by its partition key. Counts nothing. */
  async standing(address: string): Promise<PolicyState> {
    const standing = await this.#count.status(address)
    return standing?.policies[0] as PolicyState
  }

  /** Asked of the store, which all replicas share, once a second for each address that sends right keys. */
  async #isUsedUp(address: string): Promise<boolean> {
    const known = this.#known.get(address)
    if (known !== undefined && performance.now() - known.since < FRESH_MS) return known.usedUp
    return this.#remember(address, (await this.standing(address)).remaining === 0)
  }

  #remember(address: string, usedUp: boolean): boolean {
    this.#known.delete(address)
    const [oldest] = this.#known.keys()
    if (oldest !== undefined && this.#known.size >= MOST_ADDRESSES) this.#known.delete(oldest)
    this.#known.set(address, { usedUp, since: performance.now() })
    return usedUp
  }
}
