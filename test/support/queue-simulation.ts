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

export interface SimulatedModel {
  readonly workers: number
  readonly maxRows: number
  readonly mode?: 'shared' | 'split' | 'alone'
  /** Milliseconds of a run, and of each of its rows. */
  readonly overheadMs: number
  readonly perRowMs: number
  readonly deadlineMs: number
}

export interface Load extends SimulatedModel {
  /** Requests that come at once after half a second. */
  readonly burst?: number
  /** In multiples of the capacity, by the second. */
  readonly seconds: readonly number[]
}

export interface Asked {
  readonly second: number
  readonly caller: string
  readonly outcome: 'answered' | 'refused'
  readonly latencyMs: number
}

/** A model in simulated time, and what became of every request. */
function open({ workers, maxRows, mode = 'shared', overheadMs, perRowMs, deadlineMs }: SimulatedModel) {
  const random = randomFrom(1)
  const time = new SimulatedTime()
  const scheduler = new Scheduler({ clock: time, admission: { mode: 'on', queueMaxRows: 10_000 } })
  const batcher = new Batcher({ mode, maxRows, maxDelayMs: 0, shapesVary: false })
  scheduler.addModel('m', batcher)
  const meanMs = (rows: number) => overheadMs + rows * perRowMs
  const runRows = Number.isFinite(maxRows) ? maxRows : 1
  for (const rows of new Set([1, runRows])) batcher.serviceTime.observe(rows, meanMs(rows))
  const run = (_key: string, inputs: NamedTensors) =>
    new Promise<{ outputs: NamedTensors; computeMs: number }>(resolve => {
      const ms = meanMs((inputs.x as Tensor).shape[0] as number) * (0.75 + random() / 2)
      time.at(time.now() + ms, () => resolve({ outputs: inputs, computeMs: ms }))
    })
  for (let i = 0; i < workers; i++) scheduler.addRunner({ keys: new Set(['m']), lost: false, run })

  const asked: Asked[] = []
  const ask = (caller: string) => {
    const since = time.now()
    const second = Math.floor(since / 1000)
    const note = (outcome: Asked['outcome']) =>
      void asked.push({ second, caller, outcome, latencyMs: time.now() - since })
    try {
      const options = { rows: 1, deadline: since + deadlineMs, partitionKey: caller }
      scheduler.submit('m', { x: tensorOf('FP32', [1, 1], [1]) }, options).then(
        () => note('answered'),
        () => note('refused'),
      )
    } catch {
      note('refused')
    }
  }
  const capacity = (workers * runRows * 1000) / meanMs(runRows)
  /** Asks at random, in multiples of the capacity by the second. */
  const arrive = (caller: string, seconds: readonly number[], after = 0): void => {
    const second = Math.floor(after / 1000)
    const multiple = seconds[second]
    if (multiple === undefined) return
    const at = multiple === 0 ? Infinity : after + (-Math.log(1 - random()) / (multiple * capacity)) * 1000
    // Whoever would come in a second of another load comes anew there.
    if (at >= (second + 1) * 1000) arrive(caller, seconds, (second + 1) * 1000)
    else {
      time.at(at, () => {
        ask(caller)
        arrive(caller, seconds, at)
      })
    }
  }
  return { time, batcher, asked, ask, arrive, capacity }
}

/** What became of every request, and how many a second the model can answer. */
export async function simulate(load: Load): Promise<{ readonly asked: readonly Asked[]; readonly capacity: number }> {
  const { time, asked, ask, arrive, capacity } = open(load)
  arrive('one', load.seconds)
  time.at(500, () => {
    for (let i = 0; i < (load.burst ?? 0); i++) ask('one')
  })
  await time.run()
  return { asked, capacity }
}

/** The same for several callers: of each its load, by the second. `fairness`: the index at the end. */
export async function simulateCallers(
  model: SimulatedModel,
  loads: Readonly<Record<string, readonly number[]>>,
): Promise<{ readonly asked: readonly Asked[]; readonly fairness: number }> {
  const { time, asked, arrive, batcher } = open(model)
  for (const [caller, seconds] of Object.entries(loads)) arrive(caller, seconds)
  const end = Math.max(...Object.values(loads).map(({ length }) => length)) * 1000
  let fairness = Number.NaN
  time.at(end - 1, () => {
    fairness = batcher.fairnessIndex
  })
  await time.run()
  return { asked, fairness }
}
