/**
 * The workers: so many hosts of one generation, each with every model loaded. A host never loads anything while it
 * serves: changed models come with fresh hosts, the old ones are drained. A host that ends by itself is replaced.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { WorkerLost } from '../errors.js'
import type { Scheduler } from '../queue/scheduler.js'
import type { Log } from '../types.js'
import { Host } from './host.js'
import type { SessionOptions } from './worker-messages.js'
import { type Isolation, openPort } from './worker-port.js'

/** A model as every host gets it. */
export interface PooledModel {
  readonly key: string
  readonly bytes: Uint8Array
  readonly session: SessionOptions
  /** Hosts that load it, counted from the first. */
  readonly workers: number
  /** First runs, which are slower than the later ones. */
  warm(host: Host): Promise<void>
}

export interface PoolOptions {
  readonly size: number
  readonly isolation: Isolation
  readonly log: Log
  readonly onWorker?: (event: { type: 'started' | 'lost'; slot: number; reason?: string }) => void
  /** A run that takes longer is taken for one that will not end. */
  readonly stuckAfterMs: number
}

const firstBackoffMs = 100
const lastBackoffMs = 2000

/** Workers that serve the same models. */
export interface Generation {
  readonly models: readonly PooledModel[]
  /** By slot; undefined while a lost one is being replaced. */
  readonly hosts: (Host | undefined)[]
}

export class Pool {
  readonly #options: PoolOptions
  readonly #scheduler: Scheduler
  #current: Generation = { models: [], hosts: [] }
  #closing = false
  readonly #retiring = new Set<Promise<void>>()
  readonly #respawning = new Set<Promise<void>>()
  readonly #watchdog: NodeJS.Timeout
  #stuck = false

  constructor(scheduler: Scheduler, options: PoolOptions) {
    this.#scheduler = scheduler
    this.#options = options
    this.#watchdog = setInterval(() => this.#watch(), Math.min(1000, options.stuckAfterMs / 2)).unref()
  }

  /** At least one worker serves, and none is stuck in a run that cannot be stopped. */
  get ready(): boolean {
    return !this.#closing && !this.#stuck && this.#current.hosts.some(host => host !== undefined)
  }

  get size(): number {
    return this.#options.size
  }

  /** Process ids of the workers that serve; empty for threads. */
  get pids(): readonly number[] {
    return this.#current.hosts.flatMap(host => (host?.pid === undefined ? [] : [host.pid]))
  }

  /** A fresh worker with nothing loaded. */
  async open(): Promise<Host> {
    const host = new Host(openPort(this.#options.isolation))
    await host.up
    return host
  }

  /**
   * Brings up a whole generation, `first` being its first host with everything loaded already; it serves once it is put
   * in place. Rejects where a host cannot be brought up; all new ones are closed again.
   */
  async bringUp(models: readonly PooledModel[], first: Host): Promise<Generation> {
    const hosts: Host[] = [first]
    try {
      const others = Array.from({ length: this.#options.size - 1 }, async (_, i) => this.#openLoaded(models, i + 1))
      const results = await Promise.allSettled(others)
      for (const result of results) if (result.status === 'fulfilled') hosts.push(result.value)
      const failed = results.find(result => result.status === 'rejected')
      if (failed !== undefined) throw failed.reason
    } catch (error) {
      await Promise.all(hosts.map(host => host.close()))
      throw error
    }
    return { models, hosts }
  }

  /** Lets a generation that was brought up serve in place of the present one. */
  putInPlace(generation: Generation): void {
    const old = this.#current
    this.#current = generation
    for (const host of old.hosts) if (host !== undefined) this.#scheduler.retireRunner(host)
    for (const [slot, host] of generation.hosts.entries()) if (host !== undefined) this.#serve(generation, slot, host)
    this.#retire(old)
  }

  /** Ends the workers after their last run. The scheduler must have stopped. */
  async close(): Promise<void> {
    this.#closing = true
    await Promise.all(this.#respawning)
    await Promise.all(this.#retiring)
    await Promise.all(this.#current.hosts.map(host => host?.close()))
    clearInterval(this.#watchdog)
  }

  async #openLoaded(models: readonly PooledModel[], slot: number): Promise<Host> {
    const host = await this.open()
    try {
      for (const model of models) {
        if (slot >= model.workers) continue
        await host.load(model.key, model.bytes, model.session)
        await model.warm(host)
      }
      return host
    } catch (error) {
      await host.close()
      throw error
    }
  }

  #serve(generation: Generation, slot: number, host: Host): void {
    generation.hosts[slot] = host
    this.#scheduler.addRunner(host)
    this.#options.onWorker?.({ type: 'started', slot })
    const since = performance.now()
    void host.ended.then(reason => {
      if (host.closing) return
      this.#scheduler.removeRunner(host)
      this.#options.onWorker?.({ type: 'lost', slot, reason })
      if (generation !== this.#current) return
      generation.hosts[slot] = undefined
      this.#options.log.error({ slot, reason }, 'an inference worker was lost; a new one is being started')
      const lived = performance.now() - since
      const respawn = this.#respawn(generation, slot, lived > lastBackoffMs ? 0 : firstBackoffMs)
      this.#respawning.add(respawn)
      void respawn.finally(() => this.#respawning.delete(respawn))
    })
  }

  /** Tries until it succeeds; first at once, unless the worker died young. */
  async #respawn(generation: Generation, slot: number, backoffMs: number): Promise<void> {
    for (let wait = backoffMs; ; wait = Math.min(Math.max(wait * 2, firstBackoffMs), lastBackoffMs)) {
      await delay(wait)
      if (generation !== this.#current) return
      // What waits while the service stops still needs a worker; with nothing to do none is started.
      if (this.#closing && this.#scheduler.queueRows === 0) return
      try {
        const host = await this.#openLoaded(generation.models, slot)
        if (generation !== this.#current) return void (await host.close())
        this.#serve(generation, slot, host)
        this.#options.log.info({ slot }, 'the inference worker is back')
        return
      } catch (error) {
        const reason = (error as Error).message
        this.#options.log.error({ slot, reason }, 'an inference worker could not be started')
        if (this.#closing) return this.#scheduler.rejectWaiting(new WorkerLost(reason))
      }
    }
  }

  /** Lets the workers of an old generation end what they have, and what only they can run. */
  #retire(old: Generation): void {
    const hosts = old.hosts.filter(host => host !== undefined)
    if (hosts.length === 0) return
    const kept = new Set(this.#current.models.map(({ key }) => key))
    const gone = old.models.map(({ key }) => key).filter(key => !kept.has(key))
    const retirement = this.#drain(hosts, gone)
    this.#retiring.add(retirement)
    void retirement.finally(() => this.#retiring.delete(retirement))
  }

  async #drain(hosts: readonly Host[], gone: readonly string[]): Promise<void> {
    const lost = Promise.all(hosts.map(host => host.ended)).then(() => {
      for (const key of gone) this.#scheduler.rejectWaiting(new WorkerLost('its last worker ended'), key)
    })
    await Promise.race([lost, Promise.all(gone.map(key => this.#scheduler.whenIdle(key)))])
    for (const key of gone) this.#scheduler.removeModel(key)
    for (const host of hosts) this.#scheduler.removeRunner(host)
    await Promise.all(hosts.map(host => host.close()))
  }

  /** A run that does not end holds its worker for good: a process is replaced, a thread can only be reported. */
  #watch(): void {
    const now = performance.now()
    let stuck = false
    for (const [slot, host] of this.#current.hosts.entries()) {
      if (host === undefined || host.busyMs(now) < this.#options.stuckAfterMs) continue
      if (host.kill()) {
        this.#options.log.error({ slot, pid: host.pid }, 'a run did not end; its worker is being replaced')
        continue
      }
      stuck = true
      if (!this.#stuck) {
        this.#options.log.error({ slot }, 'a run does not end and its thread cannot be stopped: restart the service')
      }
    }
    this.#stuck = stuck
  }
}
