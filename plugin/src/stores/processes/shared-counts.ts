import { monotonic, now } from '../../clock.js'
import { ChargeTooLarge, InvalidOption } from '../../errors.js'
import { show } from '../../options/kinds.js'
import { MemoryStore } from '../memory/memory-store.js'
import type { Check, Lease } from '../store.js'
import {
  type Call,
  decodeRefund,
  encodeAnswer,
  type Freed,
  type Latest,
  type Result,
  type Shape,
  type ShapeSent,
} from './messages.js'

export interface SharedCountsOptions {
  /** Keys of one policy that are kept, as the option `cache` of the plugin. Default 5000. */
  readonly cache?: number | undefined
  /**
   * Called when quota came back that other processes may still deny: with a notice for all of them but `from`, which asked
   * for it. Each gives it to `listen` of its `counts`.
   */
  readonly onFreed?: ((notice: unknown, from: string | number) => void) | undefined
}

/** One process that asks. */
interface Asker {
  readonly shapes: Map<number, Shape>
  readonly permits: Map<number, Lease>
  lastPermit: number
}

const DEFAULT_CACHE = 5000

/** Denials are remembered by the askers for a second at most. */
const REMEMBERED_MS = 1000

/**
 * The counts that several processes of a machine share without Redis. One process holds them; the others ask it, with the
 * option `counts`. Decisions are exact, and the same as in one process.
 */
export class SharedCounts {
  readonly #store: MemoryStore
  readonly #onFreed: SharedCountsOptions['onFreed']
  readonly #askers = new Map<string | number, Asker>()
  /** Denials that an asker may remember, with the time until which; the oldest first. */
  readonly #denied = new Map<string, number>()

  /**
   * `clock`: milliseconds that never step back. Throws InvalidOption (`ML_RATE_INVALID_OPTION`) for a `cache` that is no
   * integer of 1 or more.
   */
  constructor({ cache = DEFAULT_CACHE, onFreed }: SharedCountsOptions = {}, clock: () => number = now) {
    if (!Number.isInteger(cache) || cache < 1) throw new InvalidOption('cache', show(cache), 'an integer ≥ 1')
    this.#store = new MemoryStore(cache, clock)
    this.#onFreed = onFreed
  }

  /**
   * Answers one batch of `from`, any name of the process that sent it. The result goes back to it as it is. Batches of one
   * process must arrive in their order. Throws InvalidOption for anything but a batch.
   */
  answer(batch: unknown, from: string | number): unknown {
    if (!Array.isArray(batch) || !batch.every(call => Array.isArray(call))) {
      throw new InvalidOption('batch', show(batch), "what a process hands to the function of its option 'counts'")
    }
    let asker = this.#askers.get(from)
    if (asker === undefined) {
      asker = { shapes: new Map(), permits: new Map(), lastPermit: 0 }
      this.#askers.set(from, asker)
    }
    return (batch as unknown as readonly Call[]).map(call => this.#call(call, asker, from))
  }

  /** A process has ended: what it held of permits is free. */
  leave(from: string | number): void {
    for (const lease of this.#askers.get(from)?.permits.values() ?? []) lease.release()
    this.#askers.delete(from)
  }

  /** Forgets everything. */
  close(): void {
    this.#askers.clear()
    this.#store.close()
  }

  #call(call: Call, asker: Asker, from: string | number): Result {
    switch (call[0]) {
      case 'check': {
        const [, key, keys, ...shape] = call
        const check = checkOf(key, keys, shape, asker)
        if (check === undefined) return 'unknown'
        const answer = this.#store.check(check)
        const lease = answer.concurrency?.lease
        if (!answer.allowed) this.#noteDenial(check)
        if (lease === undefined) return encodeAnswer(answer, 0)
        asker.permits.set(++asker.lastPermit, lease)
        return encodeAnswer(answer, asker.lastPermit)
      }
      case 'peek': {
        const [, key, keys, ...shape] = call
        const check = checkOf(key, keys, shape, asker)
        return check === undefined ? 'unknown' : encodeAnswer(this.#store.peek(check), 0)
      }
      case 'charge': {
        const [, key, keys, ...shape] = call
        const check = checkOf(key, keys, shape, asker)
        if (check === undefined) return 'unknown'
        try {
          return encodeAnswer(this.#store.charge(check), 0)
        } catch (error) {
          if (error instanceof ChargeTooLarge) return 'too-large'
          throw error
        }
      }
      case 'refund': {
        const [, key, limiter, sent, latest] = call
        if (isLate(latest)) return 'late'
        const refunds = sent.map(decodeRefund)
        const given = this.#store.refund({ key } as Check, refunds)
        for (const each of new Set(refunds.map(refund => refund.key ?? key))) this.#freed(limiter, each, from)
        return given
      }
      case 'reset': {
        const [, key, names, latest] = call
        if (isLate(latest)) return 'late'
        this.#store.reset(key, names)
        for (const limiter of names.limiters) this.#freed(limiter, key, from)
        return null
      }
      case 'block': {
        const [, key, places, durationMs, latest] = call
        if (isLate(latest)) return 'late'
        this.#store.block(key, places, durationMs)
        return null
      }
      case 'release': {
        const [, permit] = call
        asker.permits.get(permit)?.release()
        asker.permits.delete(permit)
        return null
      }
      default:
        throw new InvalidOption('batch', show((call as readonly unknown[])[0]), 'calls of the same release')
    }
  }

  #noteDenial({ limiter, key, keys }: Check): void {
    if (this.#onFreed === undefined) return
    const now = monotonic()
    for (const [id, until] of this.#denied) {
      if (until > now) break
      this.#denied.delete(id)
    }
    for (const each of new Set(keys ?? [key])) {
      const id = idOf(limiter, each)
      this.#denied.delete(id)
      this.#denied.set(id, now + REMEMBERED_MS)
    }
  }

  #freed(limiter: string, key: string, from: string | number): void {
    const id = idOf(limiter, key)
    const until = this.#denied.get(id) ?? 0
    this.#denied.delete(id)
    if (until > monotonic()) this.#onFreed?.({ limiter, key } satisfies Freed, from)
  }
}

const isLate = (latest: Latest): boolean => latest > 0 && Date.now() > latest

const idOf = (limiter: string, key: string): string => `${limiter}\n${key}`

/** Undefined where the shape was sent to other counts, before these. */
function checkOf(
  key: string,
  keys: readonly string[] | null,
  [id, sent]: ShapeSent,
  { shapes }: Asker,
): Check | undefined {
  const shape = sent ?? shapes.get(id)
  if (shape === undefined) return undefined
  if (sent !== null && id !== 0) shapes.set(id, sent)
  const { concurrency, ...rest } = shape
  return { key, keys: keys ?? undefined, ...rest, concurrency: concurrency ?? undefined }
}
