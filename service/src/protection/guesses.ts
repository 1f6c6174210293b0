/** How often secrets may be guessed: wrong ones count by address, right ones never. */
import type { FastifyInstance } from 'fastify'
import type { RateLimitHandler } from 'ml-api-rate-limiter'
import { addressKey } from '../auth.js'

/** Wrong secrets of one kind that one address may send in a minute; the next are denied. */
const GUESSES = { max: 10, timeWindow: 60_000 }

/** Counts a wrong secret of the kind `name` against the address that sent it. Rejects with QuotaExceeded. */
export function limitGuesses(app: FastifyInstance, name: string): RateLimitHandler {
  return app.rateLimit({ groupId: name, policies: [{ name, ...GUESSES }], keyGenerator: addressKey })
}
