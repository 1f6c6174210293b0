/** Who asks: the holder of an API key, or an address, and which plan it has. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { PolicyState, RateLimitHandler } from 'ml-api-rate-limiter'
import { addressKey, digestOfKey, keyOfDigest, keyOfId, keyOfOwner, keyTextOf } from '../auth.js'
import type { Config } from '../config.js'
import { type Fault, Refusal, unavailable } from '../http/problem.js'
import { FoundKeys } from '../keys/found-keys.js'
import type { KeyRecord } from '../keys/key-record.js'
import { claimsKeyText, isKeyText } from '../keys/key-text.js'
import type { Keyring } from '../keys/keyring.js'
import { ANONYMOUS, type UsageHolder } from '../usage/entry.js'
import { limitGuesses } from './guesses.js'
import type { Plan, Plans, Scope } from './plans.js'

export interface Identity {
  /** Partition key: whose quota it is. */
  readonly key: string
  /** Partition key of the quota that all keys of the owner share; `key` for a caller without an owner. */
  readonly ownerKey: string
  readonly plan: Plan
  /** By what name its use is reported. */
  readonly holder: UsageHolder
  /** Models that its API key is for; left out: all that its plan allows. */
  readonly models?: readonly string[] | null
}

/** Whose quotas a caller takes from. */
export type Whose = Pick<Identity, 'key' | 'ownerKey'>

export const partitionKeyOf = ({ key, ownerKey }: Whose, per: Scope): string => (per === 'owner' ? ownerKey : key)

/** A caller without an API key. It is no owner's. */
export const anonymousAt = (key: string, plan: Plan): Identity => ({ key, ownerKey: key, plan, holder: ANONYMOUS })

/** How a key of the limits file, which has no id, is called where its use is reported. */
const idOfDigest = (sha256: string): string => `sha256:${sha256.slice(0, 16)}`

/** A checksum tells it, and nobody is asked. Keys of the limits file may have any form. */
export const isMistyped = (text: string): boolean => claimsKeyText(text) && !isKeyText(text)

/** A key that was found before. */
interface FoundKey {
  readonly sha256: string
  /** What its identity was made of. */
  readonly source: Plan | KeyRecord
  readonly plans: Plans
  readonly identity: Identity
}

/** The plan of a key is gone. What its holder asked for is refused, and still counted as theirs. */
class PlanGone extends Refusal {
  constructor(
    plan: string,
    readonly holder: UsageHolder,
  ) {
    super({ status: 403, code: 'UNKNOWN_PLAN', detail: `the plan '${plan}' of this API key is no longer there` })
  }
}

/** Throws PlanGone where the plan of a record is. */
function identityFrom(source: Plan | KeyRecord, sha256: string, { all }: Plans): Identity {
  if (!('secrets' in source)) {
    const key = keyOfDigest(sha256)
    return { key, ownerKey: key, plan: source, holder: { key: idOfDigest(sha256), owner: null } }
  }
  const { id, owner, models } = source
  const holder = { key: id, owner }
  const plan = all.find(({ name }) => name === source.plan)
  if (plan === undefined) throw new PlanGone(source.plan, holder)
  return { key: keyOfId(id, owner), ownerKey: keyOfOwner(owner), plan, holder, models }
}

export class Callers {
  readonly #app: FastifyInstance
  readonly #bearerKeys: boolean
  readonly #guesses: RateLimitHandler
  readonly #keyring: Keyring | undefined
  readonly #found = new FoundKeys<FoundKey>()
  /** Whether what is sent as a key means something even before the first key is made. */
  readonly #keysAreGiven: boolean
  readonly #unknownKey: Fault
  readonly #noKey: Fault
  /** Whether the log still has to say that a proxy may be in front. */
  #suspectsProxy: boolean

  constructor(
    app: FastifyInstance,
    { bearerKeys, trustProxy, keys }: Pick<Config, 'bearerKeys' | 'trustProxy' | 'keys'>,
    keyring: Keyring | undefined,
  ) {
    this.#app = app
    this.#keyring = keyring
    this.#keysAreGiven = keyring !== undefined && keys.isGiven
    this.#bearerKeys = bearerKeys
    this.#suspectsProxy = trustProxy.length === 0
    this.#guesses = limitGuesses(app, 'key-guesses')
    const unauthorized = { status: 401, headers: { 'www-authenticate': bearerKeys ? 'Bearer' : 'ApiKey' } }
    const header = bearerKeys ? 'x-api-key or as authorization: Bearer <key>' : 'x-api-key'
    this.#unknownKey = { ...unauthorized, code: 'UNKNOWN_KEY', detail: 'this API key is not known, or no longer valid' }
    this.#noKey = { ...unauthorized, code: 'KEY_REQUIRED', detail: `an API key is required, in ${header}` }
  }

  /**
   * Throws Refusal: 401 where a key is required and missing, 403 where the plan of a key is gone, 503 where the keys are not
   * known at present. Rejects with 401 for a wrong key, then with QuotaExceeded.
   */
  identify(request: FastifyRequest, reply: FastifyReply, plans: Plans): Identity | Promise<Identity> {
    const text = this.haveMeaning(plans) ? keyTextOf(request, this.#bearerKeys) : undefined
    if (text === undefined) {
      if (plans.anonymous === undefined) this.refuseWithoutKey()
      return anonymousAt(this.#address(request), plans.anonymous)
    }
    try {
      return this.#identityOfText(text, plans) ?? this.#refuse(request, reply)
    } catch (error) {
      if (error instanceof PlanGone) request.refusedHolder = error.holder
      throw error
    }
  }

  /** Throws Refusal (401). */
  refuseWithoutKey(): never {
    throw new Refusal(this.#noKey)
  }

  /** Whether there are keys. Where there are none, what is sent as one changes nothing. */
  haveMeaning(plans: Plans): boolean {
    return plans.keys !== undefined || this.#keysAreGiven || this.#keyring?.everHeld === true
  }

  /** Who holds the key with this SHA-256; undefined for one that is not known. Throws as `identify`. */
  identityOf(sha256: string, plans: Plans): Identity | undefined {
    const source = this.#sourceOf(sha256, plans)
    return source && identityFrom(source, sha256, plans)
  }

  #identityOfText(text: string, plans: Plans): Identity | undefined {
    const found = this.#found.get(text)
    if (found === undefined && isMistyped(text)) return undefined
    const sha256 = found === undefined ? digestOfKey(text) : found.sha256
    const source = this.#sourceOf(sha256, plans)
    if (source === undefined) {
      if (found !== undefined) this.#found.delete(text)
      return undefined
    }
    if (found?.source === source && found.plans === plans) return found.identity
    const identity = identityFrom(source, sha256, plans)
    this.#found.set(text, { sha256, source, plans, identity })
    return identity
  }

  /** What a key opens: a plan of the limits file, or a record of the store. Throws Refusal (503) as `identify`. */
  #sourceOf(sha256: string, { keys }: Plans): Plan | KeyRecord | undefined {
    const plan = keys?.get(sha256)
    if (plan !== undefined || this.#keyring === undefined) return plan
    const { state } = this.#keyring
    if (state === 'loading' || state === 'stale') {
      throw new Refusal(unavailable('KEYS_UNAVAILABLE', 'API keys cannot be checked at the moment', 1000))
    }
    return this.#keyring.find(sha256)
  }

  /**
   * The caller of a request by the digest of its key, or by the partition key of its address where it sends none.
   * Undefined where it is not served, or not at once. Counts nothing.
   */
  known(digest: string | undefined, address: string, plans: Plans): Identity | undefined {
    const { anonymous } = plans
    if (digest === undefined || !this.haveMeaning(plans)) return anonymous && anonymousAt(address, anonymous)
    try {
      return this.identityOf(digest, plans)
    } catch {
      // Its route says why.
      return undefined
    }
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
