import { randomBytes } from 'node:crypto'
import { clearTimeout, monotonic, setImmediate, setTimeout } from '../../clock.js'
import { ChargeTooLarge, StoreClosed, StoreForeignKey, StoreTimeout } from '../../errors.js'
import { storedKeys } from '../../key.js'
import { Denials } from '../denials.js'
import {
  type Answer,
  type BlockPlaces,
  type Check,
  type Names,
  OtherPeriod,
  type Refund,
  type Store,
} from '../store.js'
import { AcrossSlots, isAcrossSlots } from './across-slots.js'
import { Batcher } from './batcher.js'
import type { Connection } from './client.js'
import {
  earliestDeadline,
  encodeChecks,
  encodeRefunds,
  listIn,
  numberIn,
  type Pending,
  penaltyName,
  type Release,
  Reply,
  redisKey,
  type TakeReply,
} from './codec.js'
import type { StoreEvent, StoreListener } from './events.js'
import { type Node, Nodes } from './nodes.js'
import { Permits } from './permits.js'
import { Prefetch, type Take } from './prefetch.js'
import { BLOCK, CHECK, PROBE, REFUND, RELEASE, RESET, run, type Script } from './scripts.js'

export interface RedisStoreOptions {
  /** Stands in front of every key. A function is asked once, when the first key is needed. */
  readonly nameSpace: string | (() => string)
  /** A partition key as it stands in Redis; see `storedKeys`. Left out: readable where it can be. */
  readonly stored?: (key: string) => string
  /** Milliseconds after which a call is given up. */
  readonly timeoutMs: number
  /** Milliseconds from now within which the first connection is waited for, whatever `timeoutMs` says; 0 for none. */
  readonly startTimeoutMs?: number
  /** Denials remembered in this process; 0 for none. */
  readonly denyMemory?: number
  /** How many replicas share the quotas. */
  readonly replicas?: () => number
  /** Called with every answer of Redis, also where nobody waits for it any more. */
  readonly onAnswer?: (check: Check, answer: Answer) => void
  readonly onEvent?: StoreListener | undefined
  /** Called when the circuit of a node opens, with the reason, and with `undefined` when it closes. */
  readonly onCircuit?: (error: Error | undefined, node: string | undefined) => void
}

/** The marker of a refund outlives its deadline by this much, in milliseconds: the estimate of the clock may be behind. */
const MARKER_MS = 1000

/** A denial is asked again no more often than this, each time after what was taken ahead has come back. */
const MOST_AGAIN = 3

const NO_REFUNDS: readonly Refund[] = []

/**
 * Counts in Redis, for all replicas. A check takes one path: is a denial remembered? → was quota taken ahead for it? →
 * is the circuit of its node open? → ask → note what became of it.
 */
export class RedisStore implements Store {
  readonly #connection: Connection
  readonly #options: RedisStoreOptions
  readonly #denials: Denials
  readonly #nodes: Nodes
  readonly #batcher: Batcher
  readonly #permits: Permits
  readonly #prefetch: Prefetch
  readonly #stored: (key: string) => string
  readonly #across: AcrossSlots
  /** Whether a call may have keys of one slot only. */
  #bySlot: boolean
  #space: string | undefined
  /** Until when the first connection is waited for; 0 once it stood. */
  #startsUntil = 0
  #start: NodeJS.Timeout | undefined
  /** Set while the first connection has not come in time: nothing waits for it any more. */
  #missing: Error | undefined
  readonly #endReady: () => void

  constructor(connection: Connection, options: RedisStoreOptions) {
    const { timeoutMs, startTimeoutMs = 0 } = options
    this.#connection = connection
    this.#options = options
    this.#stored = options.stored ?? storedKeys(false)
    this.#across = new AcrossSlots(
      (operation: Pending['operation'], check: Check, refunds?: readonly Refund[]) =>
        this.#askOnce<never>(operation, check, refunds),
      this.#stored,
    )
    this.#bySlot = connection.isCluster
    this.#denials = new Denials(options.denyMemory ?? 0)
    this.#batcher = new Batcher({
      connection,
      timeoutMs,
      send: (pending, releases) => void this.#send(pending, releases),
      release: releases => void this.#sendReleases(releases),
      giveUp: (pending, error) => this.#giveUp(pending, error),
    })
    this.#permits = new Permits(connection, permit => this.#batcher.release(permit))
    this.#nodes = new Nodes({
      connection,
      probe: key => this.#within(PROBE, [redisKey(this.#nameSpace, key, '~probe')], []),
      onChange: (error, node) => this.#changed(error, node),
    })
    this.#prefetch = new Prefetch({
      timeoutMs,
      replicas: options.replicas ?? (() => 1),
      send: take => this.#sendTake(take),
      settle: (rider, answer) => this.#answer(rider, { answer, permit: 0 }, true),
      again: (riders, back) => this.#askAgain(riders, back),
      giveBack: (check, refunds) => this.refund(check, refunds),
      pending: (check, resolve, reject) => this.#pending('check', check, NO_REFUNDS, resolve as never, reject),
    })
    this.#endReady = connection.onReady(() => this.#started())
    if (startTimeoutMs > 0 && connection.status !== 'ready') {
      this.#startsUntil = monotonic() + startTimeoutMs
      this.#start = setTimeout(() => {
        // A lazy client connects with the first request, which then waits as any other.
        if (connection.status === 'idle') return
        this.#missing = new StoreTimeout(startTimeoutMs)
        this.#batcher.giveUp(this.#missing)
        this.#changed(this.#missing, undefined)
      }, startTimeoutMs).unref()
    }
  }

  check(check: Check): Answer | Promise<Answer> {
    const denial = this.#denials.find(check)
    if (denial !== undefined) return denial
    const mayAhead = check.prefetch !== undefined && !this.#isApart(check, NO_REFUNDS)
    const ahead = mayAhead ? this.#prefetch.check(check) : undefined
    return ahead ?? this.#ask('check', check)
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

  refund(check: Check, refunds: readonly Refund[]): Promise<readonly number[]> {
    const keys = refunds.map(({ key = check.key }) => key)
    return this.#denials.freeing([check.limiter], keys, () => this.#ask('refund', check, refunds))
  }

  reset(key: string, names: Names): Promise<void> {
    return this.#denials.freeing(names.limiters, [key], () => this.#reset(key, names))
  }

  async #reset(key: string, { logs, permits }: Names): Promise<void> {
    const stored = this.#stored(key)
    const names = logs.flatMap(log => [log, penaltyName(log, 'count'), penaltyName(log, 'renew')])
    const keys = [...names, ...permits].map(name => redisKey(this.#nameSpace, stored, name))
    this.#prefetch.recall(other => other === key)
    if (keys.length > 0) await this.#inTime(RESET, stored, keys, [])
    for (const log of permits) this.#permits.forget(redisKey(this.#nameSpace, stored, log))
  }

  /** What this replica has taken ahead goes back before and after the call, as some of it may come in between. */
  async block(key: string, { limiters, logs }: BlockPlaces, durationMs: number): Promise<void> {
    const recall = () => {
      for (const limiter of limiters) this.#denials.forget(limiter, key)
      this.#prefetch.recall(other => other === key)
    }
    const stored = this.#stored(key)
    recall()
    const keys = logs.map(({ log }) => redisKey(this.#nameSpace, stored, log))
    const windows = logs.map(({ windowMs }) => windowMs * 1000)
    const found = await this.#inTime(BLOCK, stored, keys, [durationMs * 1000, ...windows])
    if (found === -2) throw new StoreForeignKey()
    recall()
  }

  /**
   * Runs a script that changes nothing once it is given up. Where it says that it came too late, by what was known of the
   * clock, the clock is read and it is asked again. `stored`: a key that leads to the node.
   */
  async #inTime(
    script: Script,
    stored: string,
    keys: readonly string[],
    args: readonly (string | number)[],
  ): Promise<number> {
    const { timeoutMs } = this.#options
    const { circuit, clock } = this.#nodes.of(stored)
    const error = this.#missing ?? circuit.error
    if (error !== undefined) throw error
    const deadline = this.#deadlineFrom(monotonic())
    const ask = async () => numberIn(await this.#within(script, keys, [clock.latest(deadline), ...args]))
    if (!clock.isKnown) await this.#readClock(stored, clock)
    let found = await ask()
    if (found === -1 && monotonic() < deadline) {
      await this.#readClock(stored, clock)
      found = await ask()
    }
    if (found === -1) throw new StoreTimeout(timeoutMs)
    return found
  }

  now(key: string): number | undefined {
    return this.#nodes.of(this.#stored(key)).clock.at(monotonic())
  }

  held(key: string, permits: string): number {
    return this.#permits.count(redisKey(this.#nameSpace, this.#stored(key), permits))
  }

  /** What was taken ahead for these keys is not spent any more. */
  recall(isMeant: (key: string) => boolean): void {
    this.#prefetch.recall(isMeant)
  }

  /** The node that holds a partition key, as it stands in Redis; undefined where there is only one. */
  nodeOf(stored: string): string | undefined {
    return this.#nodes.nameOf(stored)
  }

  /** The nodes that have been asked so far. */
  get nodes(): readonly (string | undefined)[] {
    return this.#nodes.names
  }

  async drain(): Promise<void> {
    this.#prefetch.close()
    // What an answer brings goes back, too.
    await this.#prefetch.answered()
    await new Promise(sent => setImmediate(sent))
  }

  close(): void {
    this.#endReady()
    this.#prefetch.close()
    clearTimeout(this.#start)
    this.#missing = undefined
    this.#nodes.dispose()
    this.#permits.close()
    this.#batcher.close()
    this.#denials.clear()
  }

  get #nameSpace(): string {
    if (this.#space === undefined) {
      const { nameSpace } = this.#options
      this.#space = typeof nameSpace === 'string' ? nameSpace : nameSpace()
    }
    return this.#space
  }

  /** Of the policies, or of what is refunded, where policies have keys of their own. */
  #keysOf(check: Check, refunds: readonly Refund[]): readonly string[] | undefined {
    if (check.keys === undefined) return undefined
    const keys = refunds === NO_REFUNDS ? check.keys : refunds.map(({ key = check.key }) => key)
    return keys.map(this.#stored)
  }

  /** In a cluster a call has keys of one slot; then keys of policies may need several calls. */
  #ask<T = Answer>(operation: Pending['operation'], check: Check, refunds = NO_REFUNDS): Promise<T> {
    if (this.#isApart(check, refunds)) {
      return this.#askAcross(operation as keyof AcrossSlots, check, refunds) as Promise<T>
    }
    return this.#askOnce(operation, check, refunds)
  }

  #isApart(check: Check, refunds: readonly Refund[]): boolean {
    return this.#bySlot && check.keys !== undefined && isAcrossSlots(check, refunds, this.#stored)
  }

  async #askAcross(operation: keyof AcrossSlots, check: Check, refunds: readonly Refund[]): Promise<unknown> {
    if (operation !== 'check') return this.#across[operation](check, refunds)
    const asked = monotonic()
    const answer = await this.#across.check(check)
    this.#denials.remember(check, answer, asked)
    return answer
  }

  #askOnce<T = Answer>(operation: Pending['operation'], check: Check, refunds = NO_REFUNDS): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const pending = this.#pending(operation, check, refunds, resolve as never, reject)
      const error = this.#missing ?? this.#nodes.of(pending.key).circuit.error
      if (error !== undefined) reject(error)
      else this.#batcher.add(pending)
    })
  }

  #pending(
    operation: Pending['operation'],
    check: Check,
    refunds: readonly Refund[],
    resolve: (answer: never) => void,
    reject: (error: unknown) => void,
  ): Pending {
    const since = monotonic()
    const deadline = this.#deadlineFrom(since)
    const keys = this.#keysOf(check, refunds)
    // Where nothing goes by the key of the check, the keys of its policies alone say which node is asked.
    const isOfKey = keys === undefined || check.concurrency !== undefined || check.penalty !== 'none'
    const key = (isOfKey ? undefined : keys[0]) ?? this.#stored(check.key)
    return { operation, check, key, keys, refunds, since, deadline, settled: false, resolve, reject }
  }

  /** Until when something that begins now may take: what waits for the first connection has longer. */
  #deadlineFrom(now: number): number {
    return Math.max(now + this.#options.timeoutMs, this.#startsUntil)
  }

  /** False where it cannot be sent at once. */
  #sendTake(take: Take): boolean {
    const error = this.#missing ?? this.#nodes.of(take.key).circuit.error
    if (error !== undefined || this.#connection.status !== 'ready') return false
    this.#batcher.add(take)
    return true
  }

  #started(): void {
    clearTimeout(this.#start)
    this.#startsUntil = 0
    if (this.#missing === undefined) return
    this.#missing = undefined
    this.#changed(undefined, undefined)
  }

  /** A circuit has opened, with the reason, or has closed. */
  #changed(error: Error | undefined, node: string | undefined): void {
    const at = node === undefined ? {} : { node }
    this.#options.onCircuit?.(error, node)
    this.#tell(error === undefined ? { type: 'back', ...at } : { type: 'lost', error, ...at })
  }

  /** Sends one call. What waits for it is given up one by one, each when its own time is over. */
  async #send(pending: readonly Pending[], releases: readonly Release[]): Promise<void> {
    const node = this.#nodes.of((pending[0] as Pending).key)
    const { circuit } = node
    const { epoch } = circuit
    const timeout = () => new StoreTimeout(this.#options.timeoutMs)
    const patience = new Patience(pending, late => {
      // One call is one failure, however many of its checks are given up one after the other.
      if (!patience.isOver) circuit.failed(epoch, timeout(), monotonic())
      patience.isOver = true
      this.#failAll(late, timeout())
    })
    try {
      if ((pending[0] as Pending).operation === 'refund') await this.#sendRefunds(pending, node)
      else await this.#sendChecks(pending, releases, node)
      if (!patience.isOver) circuit.succeeded(epoch)
    } catch (reason) {
      const error = errorOf(reason)
      if (isCrossSlot(error) && this.#sendBySlot(inTime(pending), releases)) return
      if (releases.length > 0) this.#sendReleases(releases)
      if (!patience.isOver) circuit.failed(epoch, error, monotonic())
      this.#failAll(waiters(pending), error)
    } finally {
      patience.end()
    }
  }

  /** A plain client leads to a cluster. False where all keys are of one slot. */
  #sendBySlot(pending: readonly Pending[], releases: readonly Release[]): boolean {
    this.#bySlot = true
    const isApart = ({ check, refunds }: Pending) => this.#isApart(check, refunds)
    const apart = pending.filter(isApart)
    for (const one of apart.flatMap(ridersOf))
      this.#ask<never>(one.operation, one.check, one.refunds).then(one.resolve, one.reject)
    const others = pending.filter(one => !isApart(one))
    if (this.#batcher.split(others, releases)) return true
    for (const one of apart.length > 0 ? others : []) this.#batcher.add(one)
    for (const one of apart.length > 0 ? releases : []) this.#batcher.release(one)
    return apart.length > 0
  }

  async #sendChecks(pending: readonly Pending[], releases: readonly Release[], { clock }: Node): Promise<void> {
    const sent = monotonic()
    const latest = clock.latest(earliestDeadline(pending))
    const { keys, args } = encodeChecks(this.#nameSpace, pending, releases, latest)
    const reply = new Reply(await run(this.#connection, CHECK, keys, args))
    const late: Pending[] = []
    let isOtherPeriod = false
    for (const one of pending) {
      const take = one.operation === 'take' ? (one as Take) : undefined
      const result = take === undefined ? reply.next(one) : reply.nextTake(one.check)
      if (result === 'late') late.push(one)
      else if (result === 'other period') {
        isOtherPeriod = true
        // An answer, and no failure of the store.
        one.reject(new OtherPeriod())
        one.settled = true
      } else if (typeof result === 'string') {
        const error = result === 'foreign' ? new StoreForeignKey() : new ChargeTooLarge()
        this.#failAll(waiters([one]), error)
      } else if (take === undefined) this.#answer(one, result as { answer: Answer; permit: number })
      else {
        take.settled = true
        this.#options.onAnswer?.(...countedOf(take.check, result as TakeReply))
        this.#prefetch.granted(take, result as TakeReply, sent)
      }
    }
    clock.observe(reply.time, sent, monotonic(), late.length > 0 || isOtherPeriod)
    // These ran too late by what we knew of the clock, and changed nothing. Those still in time are asked again.
    const again = inTime(late)
    if (again.length > 0) await this.#sendChecks(again, [], { clock } as Node)
  }

  async #sendRefunds(pending: readonly Pending[], { clock }: Node): Promise<void> {
    if (!clock.isKnown) await this.#readClock((pending[0] as Pending).key, clock)
    const sent = monotonic()
    const deadline = earliestDeadline(pending)
    const life = Math.ceil(Math.max(0, deadline - sent)) + MARKER_MS
    const marker = randomBytes(12).toString('base64url')
    const { keys, args } = encodeRefunds(this.#nameSpace, pending, marker, clock.latest(deadline), life)
    const reply = listIn(await run(this.#connection, REFUND, keys, args))
    const isLate = reply.length === 1
    clock.observe(numberIn(reply[0]), sent, monotonic(), isLate)
    if (isLate) {
      const again = inTime(pending)
      if (again.length > 0) await this.#sendRefunds(again, { clock } as Node)
      return
    }
    const wasResent = String(reply[1]) === 'resent'
    let at = 1
    for (const one of pending) {
      const given = one.refunds.map(({ cost }) => (wasResent ? cost : numberIn(reply[at++])))
      if (given.some(cost => cost < 0)) {
        this.#fail(one, new StoreForeignKey())
        continue
      }
      for (const [index, { policy, key = one.check.key }] of one.refunds.entries()) {
        this.#prefetch.gaveBack(policy.log, key, given[index] as number)
      }
      this.#settle(one, given as never)
    }
  }

  /** The key, as it stands in Redis, leads to the node whose clock it is. */
  async #readClock(stored: string, clock: Node['clock']): Promise<void> {
    const sent = monotonic()
    const [time] = listIn(await this.#within(CHECK, [redisKey(this.#nameSpace, stored, '~probe')], [0, 0, 0]))
    clock.observe(numberIn(time), sent, monotonic(), true)
  }

  /** Other failures leave the permits to end by themselves. */
  #sendReleases(releases: readonly Release[]): void {
    const keys = releases.map(({ key }) => key)
    const numbers = releases.map(({ number }) => number)
    run(this.#connection, RELEASE, keys, numbers).catch(reason => {
      if (isCrossSlot(errorOf(reason))) this.#batcher.split([], releases)
    })
  }

  /** `isRider`: it waited for a grant, whose answer has been told. */
  #answer(pending: Pending, { answer: counted, permit }: { answer: Answer; permit: number }, isRider = false): void {
    const answer = this.#prefetch.without(pending.check, counted)
    const { check, operation, key } = pending
    if (!isRider) this.#options.onAnswer?.(check, answer)
    if (operation === 'check' && answer.allowed) this.#prefetch.seen(check, answer)
    else if (operation === 'check') {
      // What this replica has taken ahead and not spent comes back before it denies.
      const back = this.#prefetch.callBack(check, pending.asked ?? pending.since)
      if (back !== undefined && this.#mayAskAgain(pending)) {
        pending.denied = answer
        this.#askAgain([pending], back)
        return
      }
      this.#denials.remember(check, answer, pending.since)
    }
    if (check.concurrency === undefined || permit === 0) {
      this.#settle(pending, answer as never)
      return
    }
    const lease = this.#permits.hold(
      redisKey(this.#nameSpace, key, check.concurrency.log),
      permit,
      check.concurrency.ttlMs,
    )
    // Where nobody waits for the answer any more, the permit is given back at once.
    if (pending.settled) lease.release()
    const { inFlight = 0, violated = false } = answer.concurrency ?? {}
    this.#settle(pending, { ...answer, concurrency: { inFlight, violated, lease } } as never)
  }

  #mayAskAgain(pending: Pending): boolean {
    const again = (pending.again ?? 0) + 1
    if (again > MOST_AGAIN || pending.settled) return false
    pending.again = again
    return true
  }

  /**
   * At once, or once `back` has resolved: a call may overtake the one that brings units back. Until then each has its own
   * time, as in a call that is on its way.
   */
  #askAgain(pending: readonly Pending[], back?: Promise<unknown>): void {
    const ask = () => {
      const now = monotonic()
      for (const one of pending) {
        if (one.settled) continue
        one.asked = now
        this.#batcher.add(one)
      }
    }
    if (back === undefined) {
      ask()
      return
    }
    const patience = new Patience(pending, late => this.#failAll(late, new StoreTimeout(this.#options.timeoutMs)))
    void back.then(() => {
      patience.end()
      ask()
    })
  }

  #settle(pending: Pending, answer: never): void {
    if (pending.settled) return
    pending.settled = true
    pending.resolve(answer)
    if (this.#options.onEvent !== undefined) this.#tell({ type: 'answered', ms: monotonic() - pending.since })
  }

  /** A check that was denied before it was asked again is denied. */
  #fail(pending: Pending, error: Error): void {
    if (pending.settled) return
    if (pending.denied !== undefined) {
      this.#settle(pending, pending.denied as never)
      return
    }
    pending.settled = true
    pending.reject(error)
    if (pending.operation === 'take') return
    if (this.#options.onEvent !== undefined) this.#tell({ type: 'failed', ms: monotonic() - pending.since, error })
  }

  /** A listener that throws changes nothing here. */
  #tell(event: StoreEvent): void {
    try {
      this.#options.onEvent?.(event)
    } catch {}
  }

  #failAll(pending: readonly Pending[], error: Error): void {
    for (const one of pending) this.#fail(one, error)
  }

  /** What waited in vain for a connection counts as one failed call of each node. */
  #giveUp(pending: readonly Pending[], error: Error): void {
    const nodes = new Set(pending.map(({ key }) => this.#nodes.of(key)))
    const now = monotonic()
    for (const { circuit } of nodes) circuit.failed(circuit.epoch, error, now)
    this.#failAll(pending, error)
    for (const one of pending) {
      if (one.operation !== 'take') continue
      // Each has its own time, also where it waits for the call of another.
      for (const rider of (one as Take).riders) {
        if (rider.deadline > now && error instanceof StoreTimeout) this.#batcher.add(rider)
        else this.#fail(rider, error)
      }
    }
  }

  /** Runs a script within the time allowed, which begins without a connection too. */
  async #within(script: Script, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown> {
    const { timeoutMs } = this.#options
    let timer: NodeJS.Timeout | undefined
    let endReady = () => {}
    const late = new Promise<never>((_resolve, reject) => {
      const ms = this.#deadlineFrom(monotonic()) - monotonic()
      timer = setTimeout(() => setImmediate(reject, new StoreTimeout(timeoutMs)), ms)
    })
    const call = async () => {
      const { status } = this.#connection
      if (status === 'closed') throw new StoreClosed()
      if (status !== 'ready') {
        const ready = new Promise<void>(resolve => {
          endReady = this.#connection.onReady(resolve)
        })
        if (status === 'idle') this.#connection.connect()
        await ready
      }
      return run(this.#connection, script, keys, args)
    }
    try {
      return await Promise.race([call(), late])
    } finally {
      clearTimeout(timer)
      endReady()
    }
  }
}

/** The time that each of several pending checks has, with one timer. */
class Patience {
  readonly #pending: readonly Pending[]
  readonly #giveUp: (late: readonly Pending[]) => void
  #timer: NodeJS.Timeout | undefined
  #ended = false
  /** Whether something was given up. */
  isOver = false

  constructor(pending: readonly Pending[], giveUp: (late: readonly Pending[]) => void) {
    this.#pending = pending
    this.#giveUp = giveUp
    this.#arm(earliestDeadline(pending))
  }

  end(): void {
    this.#ended = true
    clearTimeout(this.#timer)
  }

  #arm(deadline: number): void {
    this.#timer = setTimeout(
      () => {
        // A reply that has arrived while this process was busy is read before anything is given up.
        setImmediate(() => {
          if (this.#ended) return
          const now = monotonic()
          const waiting = waiters(this.#pending).filter(({ settled }) => !settled)
          const late = waiting.filter(one => one.deadline <= now)
          if (late.length > 0) this.#giveUp(late)
          const left = waiting.filter(one => one.deadline > now)
          if (left.length > 0) this.#arm(earliestDeadline(left))
        })
      },
      Math.max(1, Math.ceil(deadline - monotonic())),
    )
  }
}

/** A grant as one check of all its requests, and its answer. */
function countedOf(check: Check, { admitted, ahead, policies }: TakeReply): [check: Check, answer: Answer] {
  const requests = admitted + ahead
  const answers = policies.map(({ used, resetMs, blockedMs, admission }) => ({
    ...{ used, resetMs, retryMs: 0, denials: 0, blockedMs },
    admission: requests > 0 ? admission : undefined,
  }))
  const charged = check.policies.map(policy => ({ ...policy, cost: policy.cost * requests }))
  return [
    { ...check, policies: charged },
    { allowed: requests > 0, policies: answers },
  ]
}

/** All that wait for a call: those it was made of, and those that joined a call for a grant. */
function waiters(pending: readonly Pending[]): readonly Pending[] {
  if (!pending.some(({ operation }) => operation === 'take')) return pending
  return pending.flatMap(one => (one.operation === 'take' ? [one, ...(one as Take).riders] : [one]))
}

/** A call for a grant is taken back, and the requests that wait for it are asked for by themselves. */
function ridersOf(pending: Pending): readonly Pending[] {
  if (pending.operation !== 'take') return [pending]
  const take = pending as Take
  take.end()
  return take.riders
}

/** What is still to be sent of a call that changed nothing. Where a call for a grant has no time left, its riders do. */
function inTime(pending: readonly Pending[]): readonly Pending[] {
  return pending
    .flatMap(one => (one.operation === 'take' && one.settled ? (one as Take).riders : [one]))
    .filter(({ settled }) => !settled)
}

/** Clients say in these words that they were closed, whatever the status was when the call was sent. */
function errorOf(reason: unknown): Error {
  const error = reason instanceof Error ? reason : new Error(String(reason))
  return error.message === new StoreClosed().message ? new StoreClosed() : error
}

function isCrossSlot(error: Error): boolean {
  return error.message.startsWith('CROSSSLOT')
}
