import t from 'tap'
import { DeadlineExceeded, RunFailed, WorkerLost } from '../../../../service/src/inference/errors.js'
import type { Batch } from '../../../../service/src/inference/queue/batch.js'
import { Batcher, type BatcherOptions } from '../../../../service/src/inference/queue/batcher.js'
import { tensorOf } from '../../../../service/src/inference/tensors/tensor.js'
import type { NamedTensors, RunOptions, Tensor } from '../../../../service/src/inference/types.js'
import { valuesOf } from '../../../support/values.js'

const shared: BatcherOptions = { mode: 'shared', maxRows: 4, maxDelayMs: 0, shapesVary: false }

/** Rows of one value each. */
const rows = (...values: number[]): NamedTensors => ({ x: tensorOf('FP32', [values.length, 1], values) })

/** A model that doubles. */
const double = (inputs: NamedTensors): NamedTensors => {
  const { datatype, shape, data } = inputs.x as Tensor
  return { y: { datatype, shape, data: (data as Float32Array).map(value => value * 2) } }
}

const values = (tensors: NamedTensors, name: string) => valuesOf(tensors[name] as Tensor)

/** A queue, the outcomes of its requests by name, and a worker that runs when told to. */
function queue(options: Partial<BatcherOptions> = {}) {
  const batcher = new Batcher({ ...shared, ...options })
  const outcomes = new Map<string, unknown>()
  const submit = (name: string, inputs: NamedTensors, extra: Partial<RunOptions> = {}, now = 0) => {
    const rowCount = (inputs.x as Tensor).shape[0] ?? 1
    batcher.submit(inputs, { rows: rowCount, ...extra }, now).then(
      ({ outputs }) => outcomes.set(name, values(outputs, 'y')),
      error => outcomes.set(name, error),
    )
  }
  const run = async (batch: Batch | undefined) => {
    if (batch === undefined) throw new Error('there is no batch')
    batcher.succeed(batch, double(batch.tensors()), 1, 1)
    await settle()
  }
  return { batcher, outcomes, submit, run }
}

/** Lets every promise that is ready call back. */
const settle = () => new Promise(resolve => setImmediate(resolve))

t.test('answers are asked for where every request of a batch is whole and wants one', async t => {
  const { batcher } = queue()
  const json: Partial<RunOptions> = { json: true }
  const take = (...requests: readonly (readonly [number, Partial<RunOptions>])[]) => {
    const results = requests.map(([count, options]) =>
      batcher.submit(rows(...Array.from({ length: count }, (_, i) => i)), { rows: count, ...options }, 0),
    )
    for (const result of results) result.catch(() => {})
    return { batch: batcher.take(0) as Batch, results }
  }
  t.equal(take([1, json], [2, {}]).batch.answerRows, undefined, 'one wants its outputs')
  t.equal(take([1, json], [2, { ...json, outputs: ['y'] }]).batch.answerRows, undefined, 'one wants some of them')
  t.equal(take([6, json]).batch.answerRows, undefined, 'it is split')
  t.equal(batcher.take(0)?.answerRows, undefined)
  const { batch, results } = take([1, json], [2, json])
  t.strictSame(batch.answerRows, [1, 2])
  const bytes = new TextEncoder().encode('firstsecond')
  batcher.succeed(batch, {}, 1, 1, { bytes, ends: Uint32Array.of(5, 11) })
  const told = (await Promise.all(results)).map(({ json: own, outputs }) => [String(own), outputs])
  t.strictSame(told, [
    ['first', {}],
    ['second', {}],
  ])
})

t.test('requests that wait run together and each gets its own rows', async t => {
  const { batcher, outcomes, submit, run } = queue()
  submit('a', rows(1))
  submit('b', rows(2, 3))
  submit('c', rows(4))
  t.equal(batcher.queueRows, 4)
  const batch = batcher.take(0)
  t.equal(batch?.rows, 4)
  t.equal(batcher.queueRows, 0)
  t.notOk(batcher.idle, 'a batch runs')
  await run(batch)
  t.ok(batcher.idle)
  t.strictSame(
    [...outcomes],
    [
      ['a', [2]],
      ['b', [4, 6]],
      ['c', [8]],
    ],
  )
  t.equal(batcher.take(0), undefined)
})

t.test('a request that would be torn waits for the next batch', async t => {
  const { batcher, submit, run } = queue()
  submit('a', rows(1, 2, 3))
  submit('b', rows(4, 5))
  const first = batcher.take(0)
  t.equal(first?.rows, 3)
  await run(first)
  t.equal(batcher.take(0)?.rows, 2)
})

t.test('a request larger than a batch is split and put together again, and lets small ones pass', async t => {
  const { batcher, outcomes, submit, run } = queue()
  submit('large', rows(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
  submit('small', rows(11))
  const first = batcher.take(0)
  const second = batcher.take(0)
  t.equal(first?.rows, 4)
  t.equal(second?.rows, 4, 'the small one and three of the large')
  await run(second)
  t.strictSame(outcomes.get('small'), [22])
  const third = batcher.take(0)
  t.equal(third?.rows, 3)
  await run(third)
  t.notOk(outcomes.has('large'))
  await run(first)
  t.strictSame(outcomes.get('large'), [2, 4, 6, 8, 10, 12, 14, 16, 18, 20], 'in order, whatever ended first')
})

t.test('each request gets the outputs it asked for', async t => {
  const batcher = new Batcher(shared)
  const one = batcher.submit(rows(1), { rows: 1, outputs: ['y'] }, 0)
  const other = batcher.submit(rows(2), { rows: 1, outputs: ['z'] }, 0)
  const batch = batcher.take(0) as Batch
  t.strictSame(batch.outputs, ['y', 'z'])
  batcher.succeed(batch, { y: rows(1, 2).x as Tensor, z: rows(3, 4).x as Tensor }, 1, 1)
  t.strictSame(Object.keys((await one).outputs), ['y'])
  t.strictSame(values((await other).outputs, 'z'), [4])
  void batcher.submit(rows(1), { rows: 1, outputs: ['y'] }, 0)
  void batcher.submit(rows(2), { rows: 1 }, 0)
  t.equal(batcher.take(0)?.outputs, undefined, 'all, when one wants all')
  const alone = batcher.submit(rows(1), { rows: 1, outputs: ['z'] }, 0)
  batcher.succeed(batcher.take(0) as Batch, { z: rows(3).x as Tensor }, 1, 1)
  t.strictSame(Object.keys((await alone).outputs), ['z'])
})

t.test('only rows of one shape run together', async t => {
  const { batcher, outcomes, submit, run } = queue({ shapesVary: true })
  submit('short', { x: tensorOf('FP32', [1, 1], [1]) })
  submit('long', { x: tensorOf('FP32', [1, 2], [2, 3]) })
  submit('short too', { x: tensorOf('FP32', [1, 1], [4]) })
  const first = batcher.take(0)
  t.strictSame(first?.tensors().x?.shape, [2, 1])
  const second = batcher.take(0)
  t.strictSame(second?.tensors().x?.shape, [1, 2])
  await run(first)
  await run(second)
  t.strictSame(Object.fromEntries(outcomes), { short: [2], 'short too': [8], long: [4, 6] })
})

t.test('models that cannot be batched run one request at a time', async t => {
  const alone = queue({ mode: 'alone', maxRows: Number.POSITIVE_INFINITY })
  alone.submit('a', rows(1, 2))
  alone.submit('b', rows(3))
  t.equal(alone.batcher.take(0)?.rows, 2, 'whole')
  t.equal(alone.batcher.take(0)?.rows, 1)
  const split = queue({ mode: 'split', maxRows: 1 })
  split.submit('a', rows(1, 2))
  await split.run(split.batcher.take(0))
  t.notOk(split.outcomes.has('a'))
  await split.run(split.batcher.take(0))
  t.strictSame(split.outcomes.get('a'), [2, 4], 'row by row')
})

t.test('a poisoned row fails its own request; its neighbours run again without it', async t => {
  const { batcher, outcomes, submit, run } = queue()
  for (const [name, value] of [
    ['a', 1],
    ['poison', 666],
    ['c', 3],
  ] as const)
    submit(name, rows(value))
  const poisoned = (batch: Batch) => values(batch.tensors(), 'x').includes(666)
  batcher.fail(batcher.take(0) as Batch, new RunFailed('index out of range'))
  t.equal(batcher.queueRows, 3)
  for (let batch = batcher.take(0); batch !== undefined; batch = batcher.take(0)) {
    t.equal(batch.rows, 1)
    if (poisoned(batch)) batcher.fail(batch, new RunFailed('index out of range'))
    else await run(batch)
  }
  await settle()
  t.strictSame(outcomes.get('a'), [2])
  t.strictSame(outcomes.get('c'), [6])
  t.type(outcomes.get('poison'), RunFailed)
  t.ok(batcher.idle)
})

t.test('a batch whose worker was lost is not run again', async t => {
  const { batcher, outcomes, submit } = queue()
  submit('a', rows(1))
  submit('b', rows(2))
  batcher.fail(batcher.take(0) as Batch, new WorkerLost('SIGKILL'))
  await settle()
  t.match([...outcomes.values()], [{ code: 'INFERENCE_WORKER_LOST' }, { code: 'INFERENCE_WORKER_LOST' }])
  t.ok(batcher.idle)
})

t.test('answers with another number of rows go to nobody', async t => {
  const { batcher, outcomes, submit } = queue()
  submit('a', rows(1))
  submit('b', rows(2))
  batcher.succeed(batcher.take(0) as Batch, double(rows(1)), 1, 1)
  t.equal(batcher.queueRows, 2, 'each is run by itself')
  for (let batch = batcher.take(0); batch !== undefined; batch = batcher.take(0)) {
    batcher.succeed(batch, double(batch.tensors()), 1, 1)
  }
  await settle()
  t.strictSame(Object.fromEntries(outcomes), { a: [2], b: [4] })
})

t.test('parts whose shapes differ cannot be one answer', async t => {
  const { batcher, outcomes, submit } = queue({ maxRows: 1 })
  submit('a', rows(1, 2))
  const [first, second] = [batcher.take(0) as Batch, batcher.take(0) as Batch]
  batcher.succeed(first, { y: tensorOf('FP32', [1, 1], [1]) }, 1, 1)
  batcher.succeed(second, { y: tensorOf('FP32', [1, 2], [1, 2]) }, 1, 1)
  await settle()
  t.type(outcomes.get('a'), RunFailed)
})

t.test('expired and abandoned requests leave the queue before they cost compute', async t => {
  const { batcher, outcomes, submit } = queue()
  const gone = new AbortController()
  submit('late', rows(1), { deadline: 10 })
  submit('gone', rows(2), { signal: gone.signal })
  submit('here', rows(3), { deadline: 1000 })
  gone.abort()
  const batch = batcher.take(10)
  await settle()
  t.strictSame(values((batch as Batch).tensors(), 'x'), [3])
  t.match(outcomes.get('late'), { code: 'INFERENCE_DEADLINE_EXCEEDED', running: false })
  t.match(outcomes.get('gone'), { code: 'INFERENCE_CANCELLED' })
})

t.test('a sweep answers at the deadline what waits and what runs, and says when to look again', async t => {
  const { batcher, outcomes, submit, run } = queue({ maxRows: 1 })
  const gone = new AbortController()
  submit('running', rows(1), { deadline: 10 })
  const batch = batcher.take(0)
  submit('waiting', rows(2), { deadline: 20 })
  submit('watched', rows(3), { signal: gone.signal })
  submit('patient', rows(4, 5))
  t.strictSame(batcher.sweep(5), { nextDeadline: 10, watching: true })
  t.strictSame(batcher.sweep(10), { nextDeadline: 20, watching: true })
  await settle()
  t.match(outcomes.get('running'), { code: 'INFERENCE_DEADLINE_EXCEEDED', running: true })
  gone.abort()
  t.strictSame(batcher.sweep(20), { nextDeadline: Number.POSITIVE_INFINITY, watching: false })
  t.equal(batcher.queueRows, 2)
  await run(batch)
  t.type(outcomes.get('running'), DeadlineExceeded, 'the run ends unheard')
  t.equal(outcomes.has('patient'), false)
})

t.test('rows that wait to be run again are swept as well', async t => {
  const { batcher, outcomes, submit } = queue()
  submit('a', rows(1), { deadline: 10 })
  submit('b', rows(2))
  batcher.fail(batcher.take(0) as Batch, new RunFailed('x'))
  batcher.sweep(10)
  await settle()
  t.type(outcomes.get('a'), DeadlineExceeded)
  t.equal(batcher.queueRows, 1)
  submit('c', rows(3))
  batcher.rejectWaiting(new WorkerLost('gone'))
  await settle()
  t.type(outcomes.get('b'), WorkerLost)
  t.type(outcomes.get('c'), WorkerLost)
  t.ok(batcher.idle)
})

t.test('a delay holds back the first request until it has company or has waited long enough', async t => {
  const { batcher, submit } = queue({ maxDelayMs: 5 })
  t.equal(batcher.readyAt(), undefined)
  submit('a', rows(1), {}, 100)
  t.equal(batcher.readyAt(), 105)
  submit('b', rows(1, 2, 3), {}, 101)
  t.equal(batcher.readyAt(), Number.NEGATIVE_INFINITY, 'a full batch waits for nothing')
})

t.test('the time of waiting rows is told from the batches that ran', async t => {
  const batcher = new Batcher({ ...shared, maxRows: 10 })
  for (let i = 0; i < 100; i++) for (const n of [1, 5, 10]) batcher.serviceTime.observe(n, 2 + 0.5 * n)
  t.equal(batcher.backlogMs(), 0)
  void batcher.submit(rows(...new Array(20).fill(1)), { rows: 20 }, 0)
  t.ok(Math.abs(batcher.backlogMs() - (2 * 2 + 20 * 0.5)) < 0.01, 'two batches of ten rows')
  t.ok(Math.abs(batcher.requestMs(1) - 2.5) < 0.01)
})

t.test('a thousand requests pass through a long queue in order', async t => {
  const { batcher, outcomes, submit, run } = queue()
  for (let i = 0; i < 5000; i++) submit(String(i), rows(i))
  for (let batch = batcher.take(0); batch !== undefined; batch = batcher.take(0)) await run(batch)
  let wrong = 0
  for (let i = 0; i < 5000; i++) if ((outcomes.get(String(i)) as number[])[0] !== 2 * i) wrong++
  t.equal(wrong, 0)
  t.equal(outcomes.size, 5000)
})
