import { clearTimeout, monotonic, setImmediate, setTimeout } from '../../clock.js'
import { ChargeTooLarge, StoreClosed, StoreTimeout } from '../../errors.js'
import { Denials } from '../denials.js'
import type { StoreEvent, StoreListener } from '../redis/events.js'
import type { Answer, BlockPlaces, Check, Names, Refund, Store } from '../store.js'
import {
  type AnswerSent,
  type Call,
  decodeAnswer,
  encodeRefund,
  type Freed,
  type Result,
  type ShapeSent,
  shapeOf,
} from './messages.js'

/** The way to the process that holds the counts, a `SharedCounts`. */
export interface CountsLink {
  /**
   * Hands a batch to `answer()` there, and resolves with what that returned. Rejects where it cannot be asked. Batches
   * arrive in the order of the calls.
   */
  ask(batch: unknown): Promise<unknown>
  /** Calls `listener` with each notice of `onFreed`. Without it, a denial is remembered for a second after a refund. */
  listen?(listener: (notice: unknown) => void): void
}

export interface SharedStoreOptions {
  /** Milliseconds after which a call is given up. */
  readonly timeoutMs: number
  /** Denials remembered in this process; 0 for none. */
  readonly denyMemory: number
  readonly onEvent?: StoreListener | undefined
}

/** One call, and who waits for its result. Undefined: nobody. */
interface Pending {
  readonly call: Call
  readonly settle?: ((result: Result) => void) | undefined
  readonly fail?: ((error: Error) => void) | undefined
}

/** A full batch goes out at once, so that the other process works on it while the rest of the turn is read. */
const MOST = 64

/** Limiters whose policies are known to the other process; further ones send theirs each time. */
const MOST_SHAPES = 1000

/**
 * Counts in another process of this machine. What is asked in one turn of the event loop goes there as one message. An
 * answer that comes after its call was given up is taken back there: it charges nothing, and holds no permit.
 */
export class SharedStore implements Store {
  readonly #link: CountsLink
  readonly #options: SharedStoreOptions
  readonly #denials: Denials
  #waiting: Pending[] = []
  #isScheduled = false
  #isClosed = false
  #isLost = false
  /** By the policies of a limiter, which are one object for all of its checks; 0 where they were seen once. */
  readonly #shapes = new WeakMap<readonly unknown[], number>()
  #lastShape = 0

  constructor(link: CountsLink, options: SharedStoreOptions) {
    this.#link = link
    this.#options = options
    this.#denials = new Denials(options.denyMemory)
    link.listen?.(notice => {
      const { limiter, key } = notice as Freed
      this.#denials.forget(limiter, key)
    })
  }

  check(check: Check): Answer | Promise<Answer> {
    return this.#denials.find(check) ?? this.#ask('check', check)
  }

  peek(check: Check): Promise<Answer> {
    return this.#ask('peek', check)
  }

  knownDenial(check: Check): Answer | undefined {
    return this.#denials.find(check)
  }

  charge(check: Check): Promise<Answer> {
    return this.#ask('charge', check)
  }

  async refund(check: Check, refunds: readonly Refund[]): Promise<readonly number[]> {
    const { key, limiter } = check
    const keys = refunds.map(refund => refund.key ?? key)
    const sent = refunds.map(encodeRefund)
    const refund = () => this.#callInTime(latest => ['refund', key, limiter, sent, latest])
    return (await this.#denials.freeing([limiter], keys, refund)) as AnswerSent
  }

  async reset(key: string, names: Names): Promise<void> {
    const reset = () => this.#callInTime(latest => ['reset', key, names, latest])
    await this.#denials.freeing(names.limiters, [key], reset)
  }

  async block(key: string, places: BlockPlaces, durationMs: number): Promise<void> {
    await this.#callInTime(latest => ['block', key, places, durationMs, latest])
    for (const limiter of places.limiters) this.#denials.forget(limiter, key)
  }

  /** Asks no more. What waits is still sent, and permits go back later too: work may outlast its limiter. */
  close(): void {
    this.#flush()
    this.#isClosed = true
    this.#denials.clear()
  }

  #ask(operation: 'check' | 'peek' | 'charge', check: Check): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const asked = monotonic()
      let isGivenUp = false
      /** The policies were unknown there, and have been sent once more. */
      let isAgain = false
      const settle = (result: Result) => {
        if (result === 'too-large') {
          reject(new ChargeTooLarge())
          return
        }
        if (result === 'unknown' && !isAgain) {
          // These counts have replaced those that the shape was sent to. Nothing was counted.
          isAgain = true
          this.#shapes.delete(check.policies)
          if (!isGivenUp) send()
          return
        }
        const decoded = decodeAnswer(result, check.policies.length)
        if (decoded === undefined) {
          fail(new Error('the link gave something else than the answer to its call'))
          return
        }
        const { answer, permit } = decoded
        if (isGivenUp) {
          this.#takeBack(check, answer, permit)
          return
        }
        if (operation === 'check' && !answer.allowed) this.#denials.remember(check, answer, asked)
        resolve(permit === 0 ? answer : this.#withLease(answer, permit))
      }
      const fail = (error: Error) => {
        isGivenUp = true
        reject(error)
      }
      const send = () =>
        this.#add({ call: [operation, check.key, check.keys ?? null, ...this.#shape(check)], settle, fail })
      send()
    })
  }

  /** Where it is given up, it does not happen later. */
  async #callInTime(callUntil: (latest: number) => Call): Promise<Result> {
    const { timeoutMs } = this.#options
    const call = callUntil(Date.now() + timeoutMs)
    const result = await new Promise<Result>((resolve, reject) => this.#add({ call, settle: resolve, fail: reject }))
    if (result === 'late') throw new StoreTimeout(timeoutMs)
    return result
  }

  #withLease(answer: Answer, permit: number): Answer {
    let isHeld = true
    const release = () => {
      if (isHeld) this.#add({ call: ['release', permit] })
      isHeld = false
    }
    const { inFlight = 0, violated = false } = answer.concurrency ?? {}
    return { ...answer, concurrency: { inFlight, violated, lease: { release } } }
  }

  /** Nobody waits for an answer any more: what it has charged goes back. */
  #takeBack(check: Check, answer: Answer, permit: number): void {
    if (permit !== 0) this.#add({ call: ['release', permit] })
    const refunds = check.policies.flatMap((policy, index): Refund[] => {
      const admission = answer.policies[index]?.admission
      return admission === undefined ? [] : [{ policy, cost: policy.cost, admission, key: check.keys?.[index] }]
    })
    if (refunds.length > 0) this.#add({ call: ['refund', check.key, check.limiter, refunds.map(encodeRefund), 0] })
  }

  /** The policies of a limiter are sent twice, and known by a number from then on. */
  #shape(check: Check): ShapeSent {
    const known = this.#shapes.get(check.policies)
    if (known !== undefined && known > 0) return [known, null]
    if (known === undefined || this.#lastShape === MOST_SHAPES) {
      this.#shapes.set(check.policies, 0)
      return [0, shapeOf(check)]
    }
    this.#shapes.set(check.policies, ++this.#lastShape)
    return [this.#lastShape, shapeOf(check)]
  }

  #add(pending: Pending): void {
    if (this.#isClosed && pending.fail !== undefined) {
      pending.fail(new StoreClosed())
      return
    }
    this.#waiting.push(pending)
    if (this.#waiting.length === MOST) this.#flush()
    else if (!this.#isScheduled) {
      this.#isScheduled = true
      // The end of this turn of the event loop: right after all that has arrived was read.
      setImmediate(() => {
        this.#isScheduled = false
        this.#flush()
      })
    }
  }

  #flush(): void {
    const waiting = this.#waiting
    if (waiting.length === 0) return
    this.#waiting = []
    void this.#send(waiting)
  }

  async #send(batch: readonly Pending[]): Promise<void> {
    const { timeoutMs } = this.#options
    const since = monotonic()
    let isOver = false
    const failAll = (error: Error) => {
      if (isOver) return
      isOver = true
      const ms = monotonic() - since
      this.#turned(error)
      for (const { fail } of batch) {
        if (fail === undefined) continue
        fail(error)
        this.#tell({ type: 'failed', ms, error })
      }
    }
    // An answer that has arrived while this process was busy is read before the call is given up.
    const timer = setTimeout(() => setImmediate(failAll, new StoreTimeout(timeoutMs)), timeoutMs)
    try {
      const results = (await this.#link.ask(batch.map(({ call }) => call))) as readonly Result[]
      if (!Array.isArray(results) || results.length !== batch.length) throw new Error('the link gave no answer')
      if (!isOver) this.#turned(undefined)
      const ms = monotonic() - since
      for (const [index, { settle }] of batch.entries()) {
        if (settle === undefined) continue
        settle(results[index] as Result)
        if (!isOver) this.#tell({ type: 'answered', ms })
      }
      isOver = true
    } catch (reason) {
      failAll(reason instanceof Error ? reason : new Error(String(reason)))
    } finally {
      clearTimeout(timer)
    }
  }

  #turned(error: Error | undefined): void {
    if (this.#isLost === (error !== undefined)) return
    this.#isLost = error !== undefined
    this.#tell(error === undefined ? { type: 'back' } : { type: 'lost', error })
  }

  #tell(event: StoreEvent): void {
    this.#options.onEvent?.(event)
  }
}
