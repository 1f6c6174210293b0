/**
 * One virtual clock, one queue of events, processes, a server and the network between them. Times are whole microseconds of
 * true time, from 0. What happens depends on nothing but the seed and on what is asked of the world.
 */
import type { Connection } from '../../plugin/src/stores/redis/client.js'
import { scripts } from './plugin.js'
import { Random, seedOf } from './random.js'
import { ReplyError, type SimulatedRedis } from './redis.js'
import { type Environment, enter, type Timer, WALL_MS } from './virtual.js'

/** What an event loop does first of what is due: timers, then what has arrived, then immediates. */
const TIMER = 0
const ARRIVAL = 1
const IMMEDIATE = 2

export interface Event {
  at: number
  readonly kind: number
  readonly number: number
  /** Whose event it is: it waits while that process is stalled, and is gone when it was killed. */
  readonly process: Process | undefined
  readonly act: () => void
  /** The call whose answer this is. */
  readonly call: Call | undefined
  cancelled: boolean
}

/** One script call. */
export interface Call {
  readonly process: Process
  readonly script: Script
  readonly keys: readonly string[]
  readonly args: readonly (string | number)[]
  readonly sentAt: number
  /** When it first ran; undefined while it has not. */
  ranAt: number | undefined
  settled: boolean
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: Error) => void
}

type Script = { readonly sha: string; readonly source: string }

export class World {
  nowUs = 0
  /** What happens at present. */
  event: Event | undefined
  readonly seed: number
  readonly server: Server
  readonly processes: Process[] = []
  readonly #heap: Event[] = []
  #events = 0
  /** Lines that tell what happened; undefined where nobody reads them. */
  readonly #trace: string[] | undefined

  constructor(seed: number, redis: SimulatedRedis, trace?: string[]) {
    this.seed = seed
    this.#trace = trace
    this.server = new Server(this, redis)
  }

  tell(line: () => string): void {
    this.#trace?.push(`${(this.nowUs / 1000).toFixed(3).padStart(10)}  ${line()}`)
  }

  start(rate: number): Process {
    const process = new Process(this, this.processes.length, rate)
    this.processes.push(process)
    return process
  }

  at(at: number, kind: number, process: Process | undefined, act: () => void, call?: Call): Event {
    const number = this.#events++
    const event = { at: Math.max(at, this.nowUs), kind, number, process, act, call, cancelled: false }
    this.#push(event)
    return event
  }

  /** Something that arrives at a process from outside. */
  arrive(at: number, process: Process, act: () => void): Event {
    return this.at(at, ARRIVAL, process, act)
  }

  /** Something that happens to the world. */
  happen(at: number, act: () => void): Event {
    return this.at(at, ARRIVAL, undefined, act)
  }

  /** Lets everything happen up to this time. Between two events all promises settle, as in an event loop. */
  run(untilUs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const step = () => {
        const event = this.#next(untilUs)
        this.event = event
        if (event === undefined) {
          this.nowUs = Math.max(this.nowUs, untilUs)
          enter(undefined)
          // The event loop of the real process goes on between two runs.
          setImmediate(resolve)
          return
        }
        this.nowUs = Math.max(this.nowUs, event.at)
        enter(event.process)
        try {
          event.act()
        } catch (error) {
          enter(undefined)
          reject(error)
          return
        }
        // All microtasks run before the next tick.
        queueMicrotask(() => process.nextTick(step))
      }
      process.nextTick(step)
    })
  }

  #next(untilUs: number): Event | undefined {
    for (let event = this.#heap[0]; event !== undefined && event.at <= untilUs; event = this.#heap[0]) {
      this.#pop()
      const { process } = event
      if (event.cancelled || process?.isAlive === false) continue
      if (process === undefined || process.stalledUntil <= Math.max(event.at, this.nowUs)) return event
      event.at = process.stalledUntil
      this.#push(event)
    }
    return undefined
  }

  #push(event: Event): void {
    const heap = this.#heap
    let at = heap.length
    heap.push(event)
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!isBefore(event, heap[parent] as Event)) break
      heap[at] = heap[parent] as Event
      at = parent
    }
    heap[at] = event
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop() as Event
    if (heap.length === 0) return
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Event, heap[child] as Event)) child++
      if (!isBefore(heap[child] as Event, last)) break
      heap[at] = heap[child] as Event
      at = child
    }
    heap[at] = last
  }
}

function isBefore(a: Event, b: Event): boolean {
  if (a.at !== b.at) return a.at < b.at
  if (a.kind !== b.kind) return a.kind < b.kind
  return a.number < b.number
}

/** A process: its clock, its timers, its chance, and its connection to the server. */
export class Process implements Environment {
  readonly id: number
  readonly world: World
  /** Milliseconds of its monotonic clock in one true millisecond. */
  readonly rate: number
  readonly client: Client
  isAlive = true
  stalledUntil = 0
  readonly timers = new Set<Timer>()
  readonly #originMs: number
  readonly #random: Random

  constructor(world: World, id: number, rate: number) {
    this.id = id
    this.world = world
    this.rate = rate
    this.#random = new Random(seedOf(world.seed, 1, id))
    this.#originMs = this.#random.int(0, 100_000)
    this.client = new Client(this)
  }

  get name(): string {
    return `replica ${this.id}`
  }

  monotonic(): number {
    return this.#originMs + (this.world.nowUs / 1000) * this.rate
  }

  /** True time at which its wall clock said so. */
  trueUs(wallMs: number): number {
    return Math.round(((wallMs - WALL_MS - this.#originMs) * 1000) / this.rate)
  }

  chance(): number {
    return this.#random.next()
  }

  /** As in Node.js: whole milliseconds, up to one of them early, and late by chance. */
  setTimeout(act: () => void, ms: number, repeats: boolean): Timer {
    const { world, timers } = this
    const wait = ms >= 1 ? Math.trunc(ms) : 1
    const due = () => {
      const localMs = Math.floor(this.monotonic()) + wait - this.monotonic()
      const lateUs = this.#random.isLikely(0.8) ? 0 : this.#random.int(0, 1500)
      return world.nowUs + Math.max(0, Math.ceil((localMs * 1000) / this.rate)) + lateUs
    }
    let event: Event
    const timer: Timer = {
      unref: () => timer,
      cancel: () => {
        event.cancelled = true
        timers.delete(timer)
      },
    }
    const arm = () => {
      event = world.at(due(), TIMER, this, () => {
        if (repeats) arm()
        else timers.delete(timer)
        act()
      })
    }
    arm()
    timers.add(timer)
    return timer
  }

  setImmediate(act: () => void): void {
    this.world.at(this.world.nowUs, IMMEDIATE, this, act)
  }

  /** The process ends at once. What it has sent is on its way. */
  kill(): void {
    this.isAlive = false
    this.timers.clear()
  }
}

/** How calls of a process fare on their way, by number of calls. */
export interface Mishaps {
  /** Calls that never arrive. */
  loseCalls: number
  /** Answers that never arrive. */
  loseAnswers: number
  /** Calls that arrive twice. */
  double: number
  /** Calls that take longer, and by how many µs: on their way there, and back. */
  slow: number
  slowThereUs: number
  slowBackUs: number
}

/** The client of one process: an adapter, as the plugin takes it. */
export class Client implements Connection {
  readonly isCluster = false
  readonly mishaps: Mishaps = { loseCalls: 0, loseAnswers: 0, double: 0, slow: 0, slowThereUs: 0, slowBackUs: 0 }
  status: Connection['status'] = 'ready'
  /** Longest way of a call there, or back, in µs. */
  longestUs = 2000
  /** Whether calls, and answers, keep their order. */
  inOrder = true
  /** Until when nothing gets through, in either direction; it arrives then. */
  heldUntil = 0
  readonly #process: Process
  readonly #random: Random
  readonly #listeners = new Set<() => void>()
  readonly #open = new Set<Call>()
  /** Connections so far: what was sent on an earlier one is not answered. */
  #number = 0
  #lastThere = 0
  #lastBack = 0

  constructor(process: Process) {
    this.#process = process
    this.#random = new Random(seedOf(process.world.seed, 2, process.id))
  }

  connect(): void {}

  nodeOf(): undefined {}

  onReady(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  evalsha(sha: string, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown> {
    return this.#send(SCRIPTS.get(sha) as Script, keys, args, false)
  }

  eval(source: string, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown> {
    return this.#send(SOURCES.get(source) as Script, keys, args, true)
  }

  /** The connection breaks. `reset`: the client notices. */
  lose(): void {
    if (this.status !== 'ready') return
    this.status = 'connecting'
    this.#number++
    const open = [...this.#open]
    this.#open.clear()
    const { world } = this.#process
    world.arrive(world.nowUs, this.#process, () => {
      for (const call of open) this.#settle(call, () => call.reject(new Error('Socket closed unexpectedly')))
    })
  }

  regain(): void {
    if (this.status === 'ready') return
    this.status = 'ready'
    const { world } = this.#process
    world.tell(() => `${this.#process.name} is connected again`)
    world.arrive(world.nowUs, this.#process, () => {
      for (const listener of [...this.#listeners]) listener()
    })
  }

  #send(
    script: Script,
    keys: readonly string[],
    args: readonly (string | number)[],
    withSource: boolean,
  ): Promise<unknown> {
    const { world } = this.#process
    if (this.status !== 'ready') return Promise.reject(new Error('Socket closed unexpectedly'))
    return new Promise((resolve, reject) => {
      const call: Call = {
        process: this.#process,
        script,
        keys,
        args,
        sentAt: world.nowUs,
        ranAt: undefined,
        settled: false,
        resolve,
        reject,
      }
      this.#open.add(call)
      const number = this.#number
      const { mishaps } = this
      const isSlow = take(mishaps, 'slow')
      const isLost = take(mishaps, 'loseCalls')
      const isUnanswered = take(mishaps, 'loseAnswers')
      const copies = take(mishaps, 'double') ? 2 : 1
      const back = this.#way() + (isSlow ? mishaps.slowBackUs : 0)
      for (let copy = 0; copy < copies; copy++) {
        const there = this.#way() + (isSlow ? mishaps.slowThereUs : 0) + copy * this.#random.int(0, 20_000)
        if (isLost) continue
        let arrival = Math.max(world.nowUs + there, this.heldUntil)
        if (this.inOrder) {
          this.#lastThere = Math.max(this.#lastThere, arrival)
          arrival = this.#lastThere
        }
        const answer = (reply: unknown, error: Error | undefined) => {
          if (isUnanswered || copy > 0) return
          this.#answer(call, number, back, reply, error)
        }
        world.happen(arrival, () => world.server.arrive(call, withSource, answer))
      }
    })
  }

  #answer(call: Call, number: number, back: number, reply: unknown, error: Error | undefined): void {
    const { world } = this.#process
    let arrival = Math.max(world.nowUs + back, this.heldUntil)
    if (this.inOrder) {
      this.#lastBack = Math.max(this.#lastBack, arrival)
      arrival = this.#lastBack
    }
    const settle = () => {
      if (number !== this.#number) return
      this.#settle(call, () => (error === undefined ? call.resolve(reply) : call.reject(error)))
    }
    world.at(arrival, ARRIVAL, this.#process, settle, call)
  }

  #settle(call: Call, act: () => void): void {
    this.#open.delete(call)
    if (call.settled) return
    call.settled = true
    act()
  }

  #way(): number {
    return this.#random.int(50, this.longestUs)
  }
}

function take(mishaps: Mishaps, name: 'slow' | 'loseCalls' | 'loseAnswers' | 'double'): boolean {
  if (mishaps[name] <= 0) return false
  mishaps[name]--
  return true
}

const SCRIPTS = new Map<string, Script>()
const SOURCES = new Map<string, Script>()
const NAMES = new Map<string, string>()
for (const [name, script] of Object.entries(scripts)) {
  if (typeof script !== 'object') continue
  SCRIPTS.set(script.sha, script)
  SOURCES.set(script.source, script)
  NAMES.set(script.sha, name)
}

/** The name of the constant in `scripts.ts`. */
export function nameOf({ sha }: Script): string {
  return NAMES.get(sha) as string
}

/** The server: its clock, what it knows, and whether it answers. */
export class Server {
  /** What its clock is ahead of true time, in µs. */
  aheadUs = WALL_MS * 1000
  isUp = true
  isFrozen = false
  /** An error that it answers everything with. */
  refusal: string | undefined
  /** Called when a script has run, with its reply. */
  onRun: (call: Call, reply: unknown) => void = () => {}
  readonly #world: World
  readonly #redis: SimulatedRedis
  readonly #known = new Set<string>()
  /** What has arrived while it was frozen. */
  #waiting: (() => void)[] = []

  constructor(world: World, redis: SimulatedRedis) {
    this.#world = world
    this.#redis = redis
    redis.clear()
  }

  get clockUs(): number {
    return this.#world.nowUs + this.aheadUs
  }

  dump(): string {
    return this.#redis.dump(this.clockUs)
  }

  arrive(call: Call, withSource: boolean, answer: (reply: unknown, error: Error | undefined) => void): void {
    if (!this.isUp) return
    if (this.isFrozen) {
      this.#waiting.push(() => this.arrive(call, withSource, answer))
      return
    }
    try {
      const reply = this.#run(call, withSource)
      this.onRun(call, reply)
      answer(reply, undefined)
    } catch (error) {
      if (!(error instanceof ReplyError)) throw error
      answer(undefined, error)
    }
  }

  freeze(): void {
    this.isFrozen = true
  }

  thaw(): void {
    this.isFrozen = false
    const waiting = this.#waiting
    this.#waiting = []
    for (const act of waiting) act()
  }

  /** Its process ends. `empties`: without what was stored. */
  stop(empties: boolean): void {
    this.isUp = false
    this.isFrozen = false
    this.#waiting = []
    this.#known.clear()
    if (empties) this.#redis.clear()
    for (const { client } of this.#world.processes) client.lose()
  }

  flush(): void {
    this.#redis.clear()
  }

  forgetScripts(): void {
    this.#known.clear()
  }

  #run(call: Call, withSource: boolean): unknown {
    const { script } = call
    if (this.refusal !== undefined) throw new ReplyError(this.refusal)
    if (withSource) this.#known.add(script.sha)
    else if (!this.#known.has(script.sha)) throw new ReplyError('NOSCRIPT No matching script.')
    const reply = this.#redis.run(this.clockUs, script, call.keys, call.args)
    call.ranAt ??= this.#world.nowUs
    this.#world.tell(() => {
      const back = Array.isArray(reply) ? reply.slice(1).join(' ') : String(reply)
      return `${nameOf(script)} of ${call.process.name}, sent at ${call.sentAt / 1000}: ${call.args.join(' ')} → ${back}`
    })
    return reply
  }
}
