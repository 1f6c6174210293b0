/**
 * Models on trial: each is loaded and run for the first time in a process that serves nobody. One that crashes it, or
 * does not come to an end, takes nothing else along, and the others are tried beside it.
 */
import { ModelBroken, WorkerLost } from '../errors.js'
import { Host } from './host.js'
import { openPort } from './worker-port.js'

export interface TrialOptions {
  /** Milliseconds that one trial may take. */
  readonly timeoutMs: number
  /** Trials at the same time, as long as each makes progress. */
  readonly parallel: number
  /** Memory that this process has, in bytes. */
  readonly residentBytes?: () => number
}

/**
 * Starting a process stops the main thread while the kernel copies the page tables: 40 ms for each GB that this process
 * has. So a process that has more than this keeps one for the trials to come, and starts no second one while that is
 * busy. A smaller one is stopped for 20 ms at most, and an idle process would take a good part of its memory again.
 */
const largeBytes = 512 * 1024 * 1024

/** A trial that takes longer than this does not keep the others waiting, in milliseconds. */
const slowMs = 2000
/** Trials at the same time, however slow they are. */
const most = 16

interface Waiting {
  start(): void
  cancel(error: Error): void
}

interface Running {
  readonly since: number
  host: Host | undefined
}

export class Trials {
  readonly #options: TrialOptions
  readonly #idle: Host[] = []
  readonly #waiting: Waiting[] = []
  /** When each trial that goes on began. */
  readonly #running = new Set<Running>()
  #aborted = false
  #timer: NodeJS.Timeout | undefined

  constructor(options: TrialOptions) {
    this.#options = options
  }

  /**
   * Gives `work` a process. Rejects with what it rejects with, or with ModelBroken where it takes too long or the process
   * crashes.
   */
  async run<T>(work: (host: Host) => Promise<T>): Promise<T> {
    if (!this.#hasRoom()) await new Promise<void>((start, cancel) => this.#wait({ start, cancel }))
    if (this.#aborted) throw aborted()
    const trial: Running = { since: performance.now(), host: undefined }
    this.#running.add(trial)
    try {
      return await this.#attempt(trial, work)
    } finally {
      this.#running.delete(trial)
      this.#next()
    }
  }

  /** Trials are over for now: ends the processes that are idle, but for the one that a large process keeps. */
  rest(): Promise<void> {
    return this.#end(this.#isLarge() ? 1 : 0)
  }

  /** Ends the processes that are idle. */
  close(): Promise<void> {
    return this.#end(0)
  }

  /** Ends all trials at once: those that go on, and those to come, reject. */
  abort(): void {
    this.#aborted = true
    for (const waiting of this.#waiting.splice(0)) waiting.cancel(aborted())
    for (const { host } of this.#running) host?.kill()
    clearInterval(this.#timer)
  }

  async #attempt<T>(trial: Running, work: (host: Host) => Promise<T>): Promise<T> {
    const host = this.#takeIdle() ?? (await open())
    trial.host = host
    const { timeoutMs } = this.#options
    let late = false
    const timer = setTimeout(() => {
      late = true
      host.kill()
    }, timeoutMs)
    try {
      if (this.#aborted) throw aborted()
      const result = await work(host)
      this.#idle.push(host)
      return result
    } catch (error) {
      if (this.#aborted) {
        host.kill()
        throw aborted()
      }
      if (late) throw new ModelBroken(`its trial took longer than ${timeoutMs} ms (TRIAL_TIMEOUT_MS)`)
      if (error instanceof WorkerLost) {
        throw new ModelBroken(`it crashed the process that it was tried in (${await host.ended})`)
      }
      this.#idle.push(host)
      throw error
    } finally {
      clearTimeout(timer)
    }
  }

  #hasRoom(): boolean {
    if (this.#running.size >= most) return false
    const now = performance.now()
    let quick = 0
    for (const { since } of this.#running) if (now - since < slowMs) quick++
    if (quick === 0) return true
    return quick < this.#options.parallel && (this.#idle.length > 0 || !this.#isLarge())
  }

  #isLarge(): boolean {
    const { residentBytes = process.memoryUsage.rss } = this.#options
    return residentBytes() > largeBytes
  }

  /** One that ended while it was idle was ended by somebody else, and says nothing of the next model. */
  #takeIdle(): Host | undefined {
    let host = this.#idle.pop()
    while (host?.lost) host = this.#idle.pop()
    return host
  }

  /** Ends all that are idle but so many. */
  async #end(but: number): Promise<void> {
    await Promise.all(this.#idle.splice(but).map(host => host.close()))
  }

  #wait(waiting: Waiting): void {
    this.#waiting.push(waiting)
    this.#timer ??= setInterval(() => this.#next(), slowMs / 4)
  }

  #next(): void {
    // Those that start are counted only once they run, so one at a time.
    if (this.#waiting.length > 0 && this.#hasRoom()) this.#waiting.shift()?.start()
    if (this.#waiting.length > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}

const aborted = (): Error => new Error('the models are being closed')

async function open(): Promise<Host> {
  const host = new Host(openPort('process'))
  await host.up
  return host
}
