/**
 * A model under open-loop load in simulated time: arrivals that do not wait for answers, runs of random length. The same
 * numbers come of it on every machine, however busy.
 */
import { Batcher } from '../../service/src/inference/queue/batcher.js'
import { type Clock, Scheduler } from '../../service/src/inference/queue/scheduler.js'
import { tensorOf } from '../../service/src/inference/tensors/tensor.js'
import type { NamedTensors, Tensor } from '../../service/src/inference/types.js'

class SimulatedTime implements Clock {
  #now = 0
  #events: { readonly at: number; readonly happen: () => void }[] = []

  now = () => this.#now
  afterTurn = (callback: () => void) => void this.at(this.#now, callback)
  after = (ms: number, callback: () => void) => {
    const event = this.at(this.#now + ms, callback)
    return () => {
      this.#events = this.#events.filter(each => each !== event)
    }
  }

  at(at: number, happen: () => void) {
    const event = { at, happen }
    const later = this.#events.findIndex(each => each.at > at)
    this.#events.splice(later === -1 ? this.#events.length : later, 0, event)
    return event
  }

  async run(): Promise<void> {
    for (let event = this.#events.shift(); event !== undefined; event = this.#events.shift()) {
      this.#now = event.at
      event.happen()
      // What it resolved is to be heard before time goes on.
      for (let i = 0; i < 6; i++) await undefined
    }
  }
}

/** Numbers from 0 to 1 by a linear congruence. */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
    return state / 2_147_483_648
  }
}

export interface Load {
  readonly workers: number
  readonly maxRows: number
  /** Milliseconds of a run, and of each of its rows. */
  readonly overheadMs: number
  readonly perRowMs: number
  readonly deadlineMs: number
  /** Requests that come at once after half a second. */
  readonly burst?: number
  /** In multiples of the capacity, by the second. */
  readonly seconds: readonly number[]
}

export interface Asked {
  readonly second: number
  readonly outcome: 'answered' | 'refused'
  readonly latencyMs: number
}

/** What became of every request, and how many a second the model can answer. */
export async function simulate(load: Load): Promise<{ readonly asked: readonly Asked[]; readonly capacity: number }> {
  const { workers, maxRows, overheadMs, perRowMs, deadlineMs, seconds, burst = 0 } = load
  const random = randomFrom(1)
  const time = new SimulatedTime()
  const scheduler = new Scheduler({ clock: time, queueMaxRows: 10_000 })
  const batcher = new Batcher({ mode: 'shared', maxRows, maxDelayMs: 0, shapesVary: false })
  scheduler.addModel('m', batcher)
  const meanMs = (rows: number) => overheadMs + rows * perRowMs
  for (const rows of [1, maxRows]) batcher.serviceTime.observe(rows, meanMs(rows))
  const run = (_key: string, inputs: NamedTensors) =>
    new Promise<{ outputs: NamedTensors; computeMs: number }>(resolve => {
      const ms = meanMs((inputs.x as Tensor).shape[0] as number) * (0.75 + random() / 2)
      time.at(time.now() + ms, () => resolve({ outputs: inputs, computeMs: ms }))
    })
  for (let i = 0; i < workers; i++) scheduler.addRunner({ keys: new Set(['m']), lost: false, run })

  const asked: Asked[] = []
  const ask = (second: number) => {
    const since = time.now()
    const note = (outcome: Asked['outcome']) => void asked.push({ second, outcome, latencyMs: time.now() - since })
    try {
      const options = { rows: 1, deadline: since + deadlineMs }
      scheduler.submit('m', { x: tensorOf('FP32', [1, 1], [1]) }, options).then(
        () => note('answered'),
        () => note('refused'),
      )
    } catch {
      note('refused')
    }
  }
  const capacity = (workers * maxRows * 1000) / meanMs(maxRows)
  const askNext = (after: number) => {
    const second = Math.floor(after / 1000)
    const multiple = seconds[second]
    if (multiple === undefined) return
    const at = after + (-Math.log(1 - random()) / (multiple * capacity)) * 1000
    // Whoever would come in a second of another load comes anew there.
    if (at >= (second + 1) * 1000) return askNext((second + 1) * 1000)
    time.at(at, () => {
      ask(second)
      askNext(at)
    })
  }
  askNext(0)
  time.at(500, () => {
    for (let i = 0; i < burst; i++) ask(0)
  })
  await time.run()
  return { asked, capacity }
}
