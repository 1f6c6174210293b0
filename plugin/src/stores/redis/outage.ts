import { clearTimeout, setTimeout } from '../../clock.js'
import { ChargeTooLarge, StoreForeignKey, StoreTimeout } from '../../errors.js'
import type { Policy } from '../../policy.js'
import { MemoryStore } from '../memory/memory-store.js'
import { type Answer, byKey, type Check, type Names, type Refund } from '../store.js'
import type { Connection } from './client.js'
import { redisKey } from './codec.js'
import { firstSlotOf, tagOf } from './nodes.js'
import { Owed } from './owed.js'
import { longestLife } from './prefetch.js'
import { ANNOUNCED, markerLife, newMarker, type Replicas, shareOfCheck, type Watcher } from './presence.js'
import type { RedisStore } from './redis-store.js'
import { restore, type Usage } from './restore.js'
import { MARK, run } from './scripts.js'

/** Keys that are written at a time. */
const CHUNK = 64
/** Milliseconds that a node has to answer what no request waits for. */
const PATIENCE_MS = 1000
/** Milliseconds until a return that failed is tried again. */
const RETRY_MS = 250
/** Logs without usage are forgotten when there are this many, and when as many again have come. */
const FIRST_SWEEP = 1000
/** Announcements between two looks at the markers of a cluster. */
const LOOKS = 10

/** Where this replica stands with one node. */
interface Return {
  readonly node: string | undefined
  /**
   * `calm`: the node alone decides. `away`: it may have missed something. `writing`: it is told what it has missed.
   * `waiting`: for the other replicas to have done the same.
   */
  phase: 'calm' | 'away' | 'writing' | 'waiting'
  /** Whether its circuit is open. */
  isOpen: boolean
  isBusy: boolean
  /** Counts what interrupts a return. */
  epoch: number
  /** What `guards` was when this replica was last guarded against it; 0 where it never was. */
  guardedAt: number
  retry: NodeJS.Timeout | undefined
  /** The marker of the node's data, once known. */
  marker: string | undefined
  /** Whether the node has lost its data, and has not been told the last known usage. */
  isEmpty: boolean
}

const NEW: Omit<Return, 'node'> = {
  phase: 'calm',
  isOpen: false,
  isBusy: false,
  epoch: 0,
  guardedAt: 0,
  retry: undefined,
  marker: undefined,
  isEmpty: false,
}

export interface OutageParts {
  readonly connection: Connection
  readonly store: RedisStore
  /** Where requests are counted meanwhile. */
  readonly local: MemoryStore
  readonly replicas: Replicas
  readonly nameSpace: string
  /** A partition key as it stands in Redis. */
  readonly stored: (key: string) => string
  readonly timeoutMs: number
  /** Keys for which usage is remembered. */
  readonly capacity: number
}

/**
 * How this replica admits requests by itself while a node of Redis cannot be asked, and how it returns to Redis. Upon
 * the return it writes what it admitted. Until all replicas have done so, it stays guarded: a request has to fit this
 * replica's share of the limit as well as the log in Redis. So no window across the return holds more than the limit.
 */
export class Outage implements Watcher {
  readonly #parts: OutageParts
  /**
   * Last known usage per key, as Redis told it. It counts for the window and the life of a grant: units that a replica has
   * taken ahead may be spent so much later.
   */
  readonly #learnt: MemoryStore
  /**
   * The same, of nodes that this replica is guarded against. Shares go on from what was left before the outage: what
   * replicas admit within their shares is no part of what they share.
   */
  readonly #late: MemoryStore
  readonly #owed: Owed
  readonly #returns = new Map<string | undefined, Return>()
  /** Policies by the name of their log, of every log with known usage. */
  readonly #policies = new Map<string, Policy>()
  #sweepAt = FIRST_SWEEP
  /** Nodes that are not calm. */
  #away = 0
  #untilLook = 0
  /** Rises whenever it turns out that a node may have missed something. */
  guards = 0
  #closed = false
  longestMs = 0

  constructor(parts: OutageParts) {
    this.#parts = parts
    this.#learnt = new MemoryStore(parts.capacity)
    this.#late = new MemoryStore(parts.capacity)
    this.#owed = new Owed(parts.capacity)
    parts.replicas.watch(this)
    if (!parts.connection.isCluster) this.#at(undefined)
  }

  /** Logs whose last known usage is remembered. */
  get logs(): number {
    return this.#policies.size
  }

  /** Whether a check must fit this replica's share too. */
  isGuarded(check: Check): boolean {
    if (this.#away === 0) return false
    return (check.keys ?? [check.key]).some(key => {
      const { phase } = this.#of(key)
      return phase === 'waiting' ? !this.#parts.replicas.isAlone : phase !== 'calm'
    })
  }

  /** Whether it turned out after `guards` that a node of these keys may have missed something. */
  wasLeft(check: Check, guards: number): boolean {
    return (check.keys ?? [check.key]).some(key => this.#of(key).guardedAt > guards)
  }

  /** Whether it is not known that the nodes of a check answer. */
  isAway(check: Check): boolean {
    return (check.keys ?? [check.key]).some(key => {
      const { phase } = this.#of(key)
      return phase === 'away' || phase === 'writing'
    })
  }

  /** This replica's part of what was left when the node was lost, and of what has expired since. */
  share(check: Check): Check {
    const { replicas, store } = this.#parts
    const used = this.#learnt.peek({ ...check, policies: check.policies.map(late) }).policies.map(({ used }) => used)
    const { concurrency } = check
    const held = concurrency === undefined ? 0 : store.held(check.key, concurrency.log)
    return shareOfCheck(check, replicas.seen, used, held)
  }

  /** This replica has admitted or charged something by itself; `reason`: why Redis did not. */
  gave(check: Check, answer: Answer, reason: unknown): void {
    // Such a key is a store error for as long as its foreign value is there: it never returns.
    if (reason instanceof StoreForeignKey) return
    for (const [part, itsAnswer] of byKey(check, answer)) {
      if (this.#owed.add(part, itsAnswer)) this.#leave(this.#of(part.key))
    }
  }

  /** Cost was given back to what this replica had admitted by itself. */
  tookBack(check: Check, refunds: readonly Refund[]): void {
    for (const key of new Set(refunds.map(({ key = check.key }) => key))) {
      const its = refunds.filter(refund => (refund.key ?? check.key) === key)
      this.#owed.takeBack({ ...check, key, keys: undefined }, its)
    }
  }

  /** The node of these keys has answered: that is what is known of their usage, or the node is back. */
  answered(check: Check, answer: Answer): void {
    for (const [part, itsAnswer] of byKey(check, answer)) this.#answered(part, itsAnswer)
  }

  #answered(check: Check, answer: Answer): void {
    if (this.#away === 0) {
      this.#learn(this.#learnt, check, answer)
      return
    }
    const state = this.#of(check.key)
    if (state.phase === 'away') void this.#return(state)
    // While it is not known whether the data is lost, an answer may be about other data.
    if (state.phase === 'calm') this.#learn(this.#learnt, check, answer)
    else if (state.phase === 'waiting') this.#learn(this.#late, check, answer)
  }

  /** The circuit of a node has opened, or closed; of every node where it is undefined. */
  circuit(isOpen: boolean, node: string | undefined): void {
    const states = node === undefined ? this.#returns.values() : [this.#at(node)]
    for (const state of states) {
      state.isOpen = isOpen
      if (isOpen) this.#leave(state)
      else if (state.phase === 'away') void this.#return(state)
    }
  }

  /** A key was reset in Redis. */
  reset(key: string, names: Names): void {
    this.#learnt.reset(key, names)
    this.#late.reset(key, names)
    this.#owed.reset(key, names)
  }

  get dirty(): readonly string[] {
    const dirty = [...this.#returns.values()].filter(({ phase }) => phase === 'away' || phase === 'writing')
    return dirty.map(({ node }) => node ?? '')
  }

  missed(isAll: boolean): void {
    const { store } = this.#parts
    for (const state of this.#returns.values()) {
      if (isAll || state.node === store.nodeOf(ANNOUNCED)) this.#leave(state)
    }
  }

  heard(marker: string): void {
    const single = this.#parts.connection.isCluster ? undefined : this.#at(undefined)
    // Data that was thrown away on purpose is not written again.
    if (single?.phase === 'calm') single.marker = marker
    for (const state of this.#returns.values()) if (state.phase === 'away') void this.#return(state)
    if (single === undefined && --this.#untilLook < 0) {
      this.#untilLook = LOOKS
      for (const node of this.#parts.store.nodes) void this.#adopt(this.#at(node))
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    for (const { retry } of this.#returns.values()) clearTimeout(retry)
    await this.flush()
    this.#parts.replicas.unwatch(this)
  }

  /** Writes what it can, within the time that a check has. */
  async flush(): Promise<void> {
    const { timeoutMs, connection } = this.#parts
    if (connection.status !== 'ready') return
    const states = [...this.#returns.values()].filter(({ isOpen }) => !isOpen)
    await within(timeoutMs, Promise.all(states.map(state => this.#write(state)))).catch(() => {})
  }

  #of(key: string): Return {
    return this.#at(this.#nodeOf(key))
  }

  #nodeOf(key: string): string | undefined {
    const { store, stored, connection } = this.#parts
    return connection.isCluster ? store.nodeOf(stored(key)) : undefined
  }

  #at(node: string | undefined): Return {
    let state = this.#returns.get(node)
    if (state === undefined) {
      state = { ...NEW, node }
      this.#returns.set(node, state)
    }
    return state
  }

  /** Something may be missing in the node. */
  #leave(state: Return): void {
    if (this.#closed) return
    const wasCalm = state.phase === 'calm'
    state.phase = 'away'
    state.epoch++
    state.guardedAt = ++this.guards
    if (!wasCalm) return
    this.#away++
    // It would be spent when others have written what they admitted meanwhile.
    this.#parts.store.recall(key => this.#nodeOf(key) === state.node)
  }

  async #return(state: Return): Promise<void> {
    if (this.#closed || state.isBusy || state.isOpen || state.phase !== 'away') return
    if (this.#parts.connection.status !== 'ready') return
    const { epoch } = state
    state.phase = 'writing'
    state.isBusy = true
    const isWritten = await this.#catchUp(state).then(
      () => true,
      () => false,
    )
    state.isBusy = false
    if (this.#closed) return
    if (!isWritten || epoch !== state.epoch) {
      state.phase = 'away'
      clearTimeout(state.retry)
      state.retry = setTimeout(() => void this.#return(state), RETRY_MS).unref()
      return
    }
    state.phase = 'waiting'
    await this.#parts.replicas.allClean(state.node ?? '')
    if (this.#closed || epoch !== state.epoch) return
    state.phase = 'calm'
    this.#away--
    if (this.#away === 0) this.#takeOver()
  }

  #learn(usage: MemoryStore, check: Check, answer: Answer): void {
    if (this.#policies.size >= this.#sweepAt) this.#sweep()
    for (const policy of check.policies) {
      if (this.#policies.has(policy.log)) continue
      this.#policies.set(policy.log, policy)
      this.longestMs = Math.max(this.longestMs, policy.windowMs)
    }
    usage.learn(check, answer, longestLife)
    this.#parts.local.learnBlocks(check, answer)
  }

  /** Forgets logs whose usage has left the window: those of former periods, and of windows that functions gave. */
  #sweep(): void {
    for (const policy of this.#policies.values()) {
      const isUsed = [this.#learnt, this.#late].some(
        usage => usageOf(usage, policy)[Symbol.iterator]().next().done === false,
      )
      if (!isUsed) this.#policies.delete(policy.log)
    }
    this.#sweepAt = Math.max(FIRST_SWEEP, 2 * this.#policies.size)
  }

  /** No node is guarded any more: what was learnt meanwhile is what is known. */
  #takeOver(): void {
    for (const policy of this.#policies.values()) {
      for (const [key, used] of usageOf(this.#late, policy)) {
        const check = { key, limiter: '', policies: [policy], decisive: 1, penalty: 'none' as const }
        // A reset in a millisecond: no entry has expired.
        this.#learnt.learn(
          check,
          { allowed: true, policies: [{ used, resetMs: 1, retryMs: 0, denials: 0 }] },
          longestLife,
        )
      }
    }
    this.#late.close()
  }

  /** Tells a node what it has missed. Rejects where it gives no answer. */
  async #catchUp(state: Return): Promise<void> {
    // Where nodes have taken over slots of each other, another one may hold what is owed.
    for (const key of this.#owed.keys()) {
      const other = this.#of(key)
      if (other.phase !== 'calm') continue
      this.#leave(other)
      void this.#return(other)
    }
    const marker = await this.#markerOf(state)
    // A node has no marker before there is usage that could be lost.
    if (state.marker && state.marker !== marker) state.isEmpty = true
    state.marker = marker
    if (state.isEmpty) await this.#restore(state)
    await this.#write(state)
  }

  /** Notes the marker of a node of a cluster. */
  async #adopt(state: Return): Promise<void> {
    try {
      const marker = await this.#markerOf(state)
      if (state.phase === 'calm') state.marker = marker
    } catch {
      // Looked at again soon.
    }
  }

  async #markerOf({ node }: Return): Promise<string> {
    const { connection, nameSpace, replicas } = this.#parts
    if (node === undefined) return within(PATIENCE_MS, replicas.announce())
    const key = redisKey(nameSpace, tagOf(firstSlotOf(connection, node)), '~marker')
    const args = [newMarker(), markerLife(this.longestMs)]
    return String(await within(PATIENCE_MS, run(connection, MARK, [key], args)))
  }

  /** Writes what is known of the usage before the loss. */
  async #restore(state: Return): Promise<void> {
    const { connection, nameSpace, stored } = this.#parts
    const known = new Map<string, Usage[]>()
    for (const policy of this.#policies.values()) {
      const all = [...usageOf(this.#learnt, policy), ...usageOf(this.#late, policy)]
      for (const [key, used] of all) {
        if (this.#nodeOf(key) !== state.node) continue
        const usage = known.get(key)
        // Of two usages of one log the larger counts.
        if (usage === undefined) known.set(key, [{ policy, used }])
        else usage.push({ policy, used })
      }
    }
    await inChunks([...known], ([key, usage]) =>
      within(PATIENCE_MS, restore(connection, nameSpace, stored(key), usage)),
    )
    state.isEmpty = false
  }

  /** Writes what this replica admitted by itself: one charge for a key. */
  async #write(state: Return): Promise<void> {
    const { store } = this.#parts
    const keys = this.#owed.keys().filter(key => this.#nodeOf(key) === state.node)
    await inChunks(keys, key =>
      this.#owed
        .pay(key, store, (check, answer) => this.#learn(this.#late, check, answer))
        .catch(reason => {
          const isFutile = reason instanceof StoreForeignKey || reason instanceof ChargeTooLarge
          if (!isFutile) throw reason
          this.#owed.forget(key)
        }),
    )
  }
}

function late(policy: Policy): Policy {
  return { ...policy, windowMs: policy.windowMs + longestLife(policy) }
}

/** Usage of each key in the log of a policy. */
function usageOf(usage: MemoryStore, policy: Policy): Iterable<[key: string, used: number]> {
  return usage.usage(policy.log, late(policy).windowMs)
}

/** A few at a time, so that no call waits behind all of them. */
async function inChunks<T>(all: readonly T[], act: (one: T) => Promise<void>): Promise<void> {
  for (let from = 0; from < all.length; from += CHUNK) {
    const results = await Promise.allSettled(all.slice(from, from + CHUNK).map(act))
    for (const result of results) if (result.status === 'rejected') throw result.reason
  }
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new StoreTimeout(ms)), ms)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
