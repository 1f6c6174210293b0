/** Who asks: the holder of an API key, or an address, and which plan it has. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { PolicyState, RateLimitHandler } from 'ml-api-rate-limiter'
import { addressKey, keyDigestOf, keyOfDigest } from '../auth.js'
import type { Config } from '../config.js'
import { type Fault, Refusal } from '../http/problem.js'
import { limitGuesses } from './guesses.js'
import type { Plan, Plans } from './plans.js'

export interface Identity {
  /** Partition key: whose quota it is. */
  readonly key: string
  readonly plan: Plan
}

export class Callers {
  readonly #app: FastifyInstance
  readonly #bearerKeys: boolean
  readonly #guesses: RateLimitHandler
  readonly #unknownKey: Fault
  readonly #noKey: Fault
  /** Whether the log still has to say that a proxy may be in front. */
  #suspectsProxy: boolean

  constructor(app: FastifyInstance, { bearerKeys, trustProxy }: Pick<Config, 'bearerKeys' | 'trustProxy'>) {
    this.#app = app
    this.#bearerKeys = bearerKeys
    this.#suspectsProxy = trustProxy.length === 0
    this.#guesses = limitGuesses(app, 'key-guesses')
    const unauthorized = { status: 401, headers: { 'www-authenticate': bearerKeys ? 'Bearer' : 'ApiKey' } }
    const header = bearerKeys ? 'x-api-key or as authorization: Bearer <key>' : 'x-api-key'
    this.#unknownKey = { ...unauthorized, code: 'UNKNOWN_KEY', detail: 'this API key is not known, or no longer valid' }
    this.#noKey = { ...unauthorized, code: 'KEY_REQUIRED', detail: `an API key is required, in ${header}` }
  }

  /** Throws Refusal (401) where a key is required and missing; rejects with it for a wrong key, then with QuotaExceeded. */
  identify(request: FastifyRequest, reply: FastifyReply, { keys, anonymous }: Plans): Identity | Promise<Identity> {
    // Without a limits file there are no keys, and what is sent as one changes nothing.
    const digest = keys === undefined ? undefined : keyDigestOf(request, this.#bearerKeys)
    if (digest === undefined) {
      if (anonymous === undefined) throw new Refusal(this.#noKey)
      return { key: this.#address(request), plan: anonymous }
    }
    const plan = keys?.get(digest)
    return plan === undefined ? this.#refuse(request, reply) : { key: keyOfDigest(digest), plan }
  }

  /** How many wrong keys an address, by its partition key, may still send. Counts nothing. */
  async guesses(address: string): Promise<PolicyState> {
    const standing = await this.#guesses.status(address)
    return standing?.policies[0] as PolicyState
  }

  async #refuse(request: FastifyRequest, reply: FastifyReply): Promise<never> {
    await this.#guesses(request, reply)
    throw new Refusal(this.#unknownKey)
  }

  #address(request: FastifyRequest): string {
    if (this.#suspectsProxy && request.headers['x-forwarded-for'] !== undefined) {
      this.#suspectsProxy = false
      this.#app.log.warn(
        'a request has the header x-forwarded-for, and TRUST_PROXY is not set: if a proxy is in front of the service, ' +
          'all its clients share one quota',
      )
    }
    return addressKey(request)
  }
}
