import t from 'tap'
import type { Request } from '../../../../service/src/inference/queue/batch.js'
import { RequestQueue } from '../../../../service/src/inference/queue/request-queue.js'
import { type Asked, type SimulatedModel, simulateCallers } from '../../../support/queue-simulation.js'

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length

const requestOf = (partitionKey: string, rows: number): Request => ({
  inputs: {},
  rows,
  shapeKey: '',
  options: { rows, partitionKey },
  arrivedAt: 0,
  resolve: () => {},
  reject: () => {},
  share: undefined,
  order: 0,
  taken: 0,
  done: 0,
  settled: false,
  running: 0,
  unknown: false,
  startedAt: 0,
  computeMs: 0,
  computeShareMs: 0,
  batchRows: 0,
  parts: undefined,
})

const of = (asked: readonly Asked[], caller: string) => asked.filter(each => each.caller === caller)

const latency = (asked: readonly Asked[], caller: string): number =>
  mean(of(asked, caller).map(({ latencyMs }) => latencyMs))

const steady = (load: number, seconds = 20): readonly number[] => Array.from({ length: seconds }, () => load)

const MODELS: Readonly<Record<string, SimulatedModel>> = {
  '10 ms a row on two workers': { workers: 2, maxRows: 1, overheadMs: 0, perRowMs: 10, deadlineMs: 5000 },
  '50 ms a row on one worker': { workers: 1, maxRows: 1, overheadMs: 0, perRowMs: 50, deadlineMs: 5000 },
  '24 ms a batch of 8': { workers: 2, maxRows: 8, overheadMs: 16, perRowMs: 1, deadlineMs: 500 },
  '20 ms a request, alone': {
    workers: 1,
    mode: 'alone',
    maxRows: Number.POSITIVE_INFINITY,
    overheadMs: 20,
    perRowMs: 0,
    deadlineMs: 2000,
  },
}

for (const [title, model] of Object.entries(MODELS)) {
  const rows = Number.isFinite(model.maxRows) ? model.maxRows : 1
  const batchMs = model.overheadMs + rows * model.perRowMs
  for (const light of [0.05, 0.2, 0.4]) {
    t.test(`${title}: ${10 * light} of the capacity by one caller, a tenth of it by another`, async t => {
      const alone = await simulateCallers(model, { light: steady(light) })
      const { asked, fairness } = await simulateCallers(model, { light: steady(light), heavy: steady(10 * light) })
      const [before, beside] = [latency(alone.asked, 'light'), latency(asked, 'light')]
      t.ok(beside <= before + batchMs, `${beside.toFixed(1)} ms after ${before.toFixed(1)}, a batch being ${batchMs}`)
      const refused = of(asked, 'light').filter(({ outcome }) => outcome === 'refused')
      t.strictSame(refused, [], 'and it is never refused for the other')
      t.ok(fairness > 0.99, `Jain's index ${fairness.toFixed(3)}`)
    })
  }
}

t.test('callers that ask the same share a model that is asked too much, however many they are', async t => {
  const model = MODELS['10 ms a row on two workers'] as SimulatedModel
  const callers = Array.from({ length: 40 }, (_, i) => `caller ${i}`)
  const { asked, fairness } = await simulateCallers(model, Object.fromEntries(callers.map(each => [each, steady(0.1)])))
  const served = callers.map(each => of(asked, each).filter(({ outcome }) => outcome === 'answered').length)
  t.ok(Math.min(...served) > 0.8 * Math.max(...served), `${Math.min(...served)} to ${Math.max(...served)} answers`)
  t.ok(fairness > 0.95, `Jain's index ${fairness.toFixed(3)}`)
})

t.test('a caller that had the model for itself has its half two seconds after another came', async t => {
  const model = MODELS['10 ms a row on two workers'] as SimulatedModel
  const both = (...loads: readonly (readonly [seconds: number, load: number])[]) =>
    loads.flatMap(([seconds, load]) => Array.from({ length: seconds }, () => load))
  const { asked } = await simulateCallers(model, { old: both([15, 2]), fresh: both([10, 0], [5, 2]) })
  for (const caller of ['old', 'fresh']) {
    const answers = of(asked, caller).filter(({ second, outcome }) => second >= 12 && outcome === 'answered')
    t.ok(answers.length > 0.45 * 3 * 200, `${answers.length} answers to ${caller}, of 600 in three seconds`)
  }
})

t.test(
  'the fairness index falls where one of many callers has everything, and speaks only of what was asked',
  async t => {
    const queue = new RequestQueue()
    t.equal(queue.fairnessIndex(), 1, 'nobody has asked')
    const serve = (caller: string, rows: number) => {
      const request = requestOf(caller, rows)
      queue.push(request)
      queue.take(request, rows, 0)
    }
    serve('greedy', 100)
    serve('modest', 1)
    t.equal(queue.fairnessIndex(), 1, 'each has all that it asked for')
    for (let i = 0; i < 8; i++) queue.missed({ rows: 50, partitionKey: `refused ${i}` }, 0)
    t.ok(queue.fairnessIndex() < 0.3, `${queue.fairnessIndex()}: eight have nothing`)
    for (let i = 0; i < 8; i++) serve(`refused ${i}`, 50)
    t.ok(queue.fairnessIndex() > 0.9, `${queue.fairnessIndex()}`)
  },
)
