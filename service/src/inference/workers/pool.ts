/**
 * The workers that serve: slots, each of which runs one batch at a time. A slot begins with one host. A model that takes
 * long to load comes into a fresh host of the slot, beside those that serve, so that nothing that serves waits for it or
 * is loaded again. A host that ends by itself is replaced.
 *
 *   pool ─ slot 0 ─ host (models a, b, c)
 *        │        └ host (model d, which was changed while all served)
 *        └ slot 1 ─ …
 */
import { setTimeout as delay } from 'node:timers/promises'
import { WorkerLost } from '../errors.js'
import type { RunControl } from '../queue/batch.js'
import type { BatchResult, Runner, Scheduler } from '../queue/scheduler.js'
import type { Answered } from '../tensors/predictions.js'
import type { Log, NamedTensors } from '../types.js'
import { Host } from './host.js'
import type { SampleTask } from './self-check.js'
import type { SessionOptions } from './session-options.js'
import type { SessionSource } from './worker-messages.js'
import { type Isolation, openPort } from './worker-port.js'

/** A model as every slot gets it. */
export interface PooledModel {
  readonly key: string
  readonly source: SessionSource
  readonly session: SessionOptions
  /** Slots that load it, counted from the first. */
  readonly workers: number
  /** Milliseconds that it took to load when it was tried. */
  readonly loadMs: number
  /** What answers of it say. */
  readonly answered: Answered
  /** Its first runs, and the rows of a full batch; 0: rows never share a run. */
  readonly sample: SampleTask
  readonly maxRows: number
  /** Rejects where its files are no longer those that were tried. */
  verify(): Promise<void>
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

/** What loads within this time is loaded into a host that serves: nobody notices. In milliseconds. */
const quickLoadMs = 20

/** A host and what it has loaded, to be loaded again where the host is lost. */
interface Lane {
  /** Undefined while a lost one is being replaced. */
  host: Host | undefined
  readonly models: Set<PooledModel>
}

/** Some hosts that take turns: the scheduler's worker. */
class Slot implements Runner {
  readonly keys = new Set<string>()
  readonly lanes = new Set<Lane>()

  constructor(readonly index: number) {}

  get lost(): boolean {
    for (const { host } of this.lanes) if (host?.lost) return true
    return false
  }

  /** Every host is there. */
  get whole(): boolean {
    for (const { host } of this.lanes) if (host === undefined) return false
    return this.lanes.size > 0
  }

  run(
    key: string,
    inputs: NamedTensors,
    outputs: readonly string[] | undefined,
    control: RunControl,
  ): Promise<BatchResult> {
    for (const { host } of this.lanes) if (host?.keys.has(key)) return host.run(key, inputs, outputs, control)
    return Promise.reject(new WorkerLost('it had the only copy of the model', 0))
  }
}

export class Pool {
  readonly #options: PoolOptions
  readonly #scheduler: Scheduler
  readonly #slots: readonly Slot[]
  #closing = false
  readonly #busy = new Set<Promise<void>>()
  readonly #watchdog: NodeJS.Timeout
  #stuck = false

  constructor(scheduler: Scheduler, options: PoolOptions) {
    this.#scheduler = scheduler
    this.#options = options
    this.#slots = Array.from({ length: options.size }, (_, index) => new Slot(index))
    this.#watchdog = setInterval(() => this.#watch(), Math.min(1000, options.stuckAfterMs / 2)).unref()
  }

  /** At least one slot serves, and no run is stuck that cannot be stopped. */
  get ready(): boolean {
    return !this.#closing && !this.#stuck && this.#slots.some(slot => slot.whole)
  }

  get size(): number {
    return this.#options.size
  }

  /** Process ids of the workers that serve; empty for threads. */
  get pids(): readonly number[] {
    return this.#lanes().flatMap(({ host }) => (host?.pid === undefined ? [] : [host.pid]))
  }

  /** Takes results of runs that have come, before their turn. */
  takeResults(): void {
    for (const { lanes } of this.#slots) {
      for (const { host } of lanes) host?.takeMessages()
    }
  }

  /** Brings up the first host of every slot. Rejects where one cannot be started. */
  async start(): Promise<void> {
    await Promise.all(
      this.#slots.map(async slot => {
        if (slot.lanes.size > 0) return
        const host = await this.#open()
        if (this.#closing) return host.close()
        this.#follow(slot, { host, models: new Set() })
        this.#scheduler.addRunner(slot)
        this.#options.onWorker?.({ type: 'started', slot: slot.index })
      }),
    )
  }

  /**
   * Loads a model into its slots; requests for it can be run as soon as the scheduler knows it. `beside`: others serve
   * meanwhile, and must not wait for it. Rejects where it cannot be loaded; no slot has it then.
   */
  async load(model: PooledModel, beside: boolean): Promise<void> {
    const slots = this.#slots.slice(0, model.workers)
    const results = await Promise.allSettled(slots.map(slot => this.#loadInto(slot, model, beside)))
    const failed = results.find(result => result.status === 'rejected')
    if (failed === undefined) return
    await this.unload(model.key)
    throw failed.reason
  }

  /** Takes a model out of every slot, and ends hosts that have nothing else. It must be idle. */
  async unload(key: string): Promise<void> {
    const ended: Promise<void>[] = []
    for (const slot of this.#slots) {
      for (const lane of slot.lanes) {
        for (const model of lane.models) if (model.key === key) lane.models.delete(model)
        lane.host?.unload(key)
        if (lane.models.size > 0 || slot.lanes.size === 1) continue
        slot.lanes.delete(lane)
        if (lane.host !== undefined) ended.push(lane.host.close())
      }
      slot.keys.delete(key)
    }
    this.#scheduler.runnersChanged()
    await Promise.all(ended)
  }

  /** Ends the workers after their last run. The scheduler must have stopped. */
  async close(): Promise<void> {
    this.#closing = true
    await Promise.all(this.#busy)
    await Promise.all(this.#lanes().map(({ host }) => host?.close()))
    clearInterval(this.#watchdog)
  }

  #lanes(): Lane[] {
    return this.#slots.flatMap(({ lanes }) => [...lanes])
  }

  async #open(): Promise<Host> {
    const host = new Host(openPort(this.#options.isolation))
    await host.up
    return host
  }

  async #loadInto(slot: Slot, model: PooledModel, beside: boolean): Promise<void> {
    const [first] = slot.lanes
    if (first?.host !== undefined && (!beside || model.loadMs <= quickLoadMs)) {
      await loadModel(first.host, model)
      first.models.add(model)
    } else {
      const host = await this.#open()
      try {
        await loadModel(host, model)
      } catch (error) {
        await host.close()
        throw error
      }
      this.#follow(slot, { host, models: new Set([model]) })
    }
    slot.keys.add(model.key)
    this.#scheduler.runnersChanged()
  }

  /** Adds a host to its slot, and replaces it where it is lost. */
  #follow(slot: Slot, lane: Lane): void {
    slot.lanes.add(lane)
    const since = performance.now()
    const { host } = lane
    void host?.ended.then(reason => {
      if (host.closing) return
      lane.host = undefined
      for (const { key } of lane.models) slot.keys.delete(key)
      this.#scheduler.runnersChanged()
      this.#options.onWorker?.({ type: 'lost', slot: slot.index, reason })
      if (!slot.lanes.has(lane)) return
      this.#options.log.error({ slot: slot.index, reason }, 'an inference worker was lost; a new one is being started')
      const lived = performance.now() - since
      const respawn = this.#respawn(slot, lane, lived > lastBackoffMs ? 0 : firstBackoffMs)
      this.#busy.add(respawn)
      void respawn.finally(() => this.#busy.delete(respawn))
    })
  }

  /** Tries until it succeeds; first at once, unless the worker died young. */
  async #respawn(slot: Slot, lane: Lane, backoffMs: number): Promise<void> {
    const { log } = this.#options
    for (let wait = backoffMs; ; wait = Math.min(Math.max(wait * 2, firstBackoffMs), lastBackoffMs)) {
      await delay(wait)
      if (!slot.lanes.has(lane)) return
      // What waits while the service stops still needs a worker; with nothing to do none is started.
      if (this.#closing && this.#scheduler.queueRows === 0) return
      let host: Host | undefined
      try {
        host = await this.#open()
        await this.#restore(host, lane)
        if (host.lost) continue
        if (!slot.lanes.has(lane)) return void (await host.close())
        lane.host = host
        for (const key of host.keys) slot.keys.add(key)
        this.#follow(slot, lane)
        this.#scheduler.runnersChanged()
        this.#options.onWorker?.({ type: 'started', slot: slot.index })
        log.info({ slot: slot.index }, 'the inference worker is back')
        return
      } catch (error) {
        const reason = (error as Error).message
        log.error({ slot: slot.index, reason }, 'an inference worker could not be started')
        void host?.close()
        if (this.#closing) return this.#scheduler.rejectWaiting(new WorkerLost(reason))
      }
    }
  }

  /** What cannot be loaded again is left out, so that the others are there. */
  async #restore(host: Host, lane: Lane): Promise<void> {
    for (const model of lane.models) {
      try {
        await loadModel(host, model)
      } catch (error) {
        if (host.lost) throw error
        const reason = (error as Error).message
        this.#options.log.error({ model: model.answered.name, reason }, 'a model could not be loaded again')
      }
    }
  }

  /** A run that does not end holds its worker for good: a process is replaced, a thread can only be reported. */
  #watch(): void {
    const now = performance.now()
    let stuck = false
    for (const { index, lanes } of this.#slots) {
      for (const { host } of lanes) {
        if (host === undefined || host.busyMs(now) < this.#options.stuckAfterMs) continue
        if (host.kill()) {
          this.#options.log.error({ slot: index, pid: host.pid }, 'a run did not end; its worker is being replaced')
          continue
        }
        stuck = true
        if (!this.#stuck) {
          this.#options.log.error(
            { slot: index },
            'a run does not end and its thread cannot be stopped: restart the service',
          )
        }
      }
    }
    this.#stuck = stuck
  }
}

async function loadModel(host: Host, model: PooledModel): Promise<void> {
  const { key, source, session, answered, sample, maxRows } = model
  await model.verify()
  await host.load(key, source, session)
  await model.verify()
  host.describe(key, answered)
  await host.warm(key, sample, maxRows)
}
