import t from 'tap'
import { sampleOf, serviceTimeOf } from '../../../../service/src/inference/models/model-loader.js'
import { tensorOf } from '../../../../service/src/inference/tensors/tensor.js'
import type { Datatype, Dimension, NamedTensors, Signature, Tensor } from '../../../../service/src/inference/types.js'
import { type CheckTask, mostSampleValues, selfCheck } from '../../../../service/src/inference/workers/self-check.js'

const signature = (shape: readonly Dimension[], datatype: Datatype = 'FP32', output = shape): Signature => ({
  inputs: [{ name: 'x', datatype, shape }],
  outputs: [{ name: 'y', datatype, shape: output }],
})

type Run = (x: Tensor) => Tensor

/** A model as a function of its one input; each run takes `cost` of the clock. */
async function check(of: Signature, run: Run, options: object = {}, cost: (rows: number) => number = rows => 1 + rows) {
  let time = 0
  let runs = 0
  const task: CheckTask = { name: 'm', signature: of, budgetMs: 1e9, ...options }
  const result = await selfCheck(task, {
    now: () => time,
    run: async (inputs: NamedTensors) => {
      const x = inputs.x as Tensor
      time += cost(x.shape[0] ?? 1)
      runs++
      return { outputs: { y: run(x) } }
    },
  })
  const sample = sampleOf('m', of, task as object, result.size)
  return { ...result, sample, serviceTime: serviceTimeOf(result), runs }
}

const same: Run = x => x

const sumOf = (x: Tensor): number => (x.data as Float32Array).reduce((sum, value) => sum + value, 0)

t.test('rows that do not touch each other share runs', async t => {
  for (const datatype of ['FP32', 'FP64', 'FP16', 'INT64', 'UINT8', 'BOOL', 'BYTES'] as const) {
    const { batching, sample } = await check(signature(['batch', 3], datatype), same)
    t.match(batching, { enabled: true }, datatype)
    t.equal(sample.model, 'm')
  }
})

t.test('a model that mixes rows is found out, and said to', async t => {
  const mixing: Run = x => ({ ...x, data: (x.data as Float32Array).map(value => value + sumOf(x)) })
  const { batching } = await check(signature(['batch', 2]), mixing)
  t.match(batching, { enabled: false, reason: /output 'y' of a row depends on the other rows/ })
  const lastRowOnly: Run = x => ({ ...x, data: (x.data as Float32Array).map((_, i, all) => all[i % 2] as number) })
  t.match((await check(signature(['batch', 2]), lastRowOnly)).batching, { enabled: false })
})

t.test('answers without one entry a row rule out batches', async t => {
  const total: Run = x => tensorOf('FP32', [], [sumOf(x)])
  t.match((await check(signature(['batch', 2]), total)).batching, { reason: /no batch dimension/ })
  const widening: Run = x => {
    const rows = x.shape[0] as number
    return tensorOf('FP32', [rows, rows], new Array(rows * rows).fill(1))
  }
  t.match((await check(signature(['batch', 2]), widening)).batching, { reason: /the shape of output 'y' depends/ })
})

t.test('a model that answers differently each time is not batched', async t => {
  let n = 0
  const random: Run = x => ({ ...x, data: (x.data as Float32Array).map(() => n++) })
  t.match((await check(signature(['batch', 2]), random)).batching, { reason: 'the same row gives different answers' })
})

t.test('rounding that differs with the batch is no mixing, NaN is the same as NaN', async t => {
  const rounding: Run = x => ({
    ...x,
    data: (x.data as Float32Array).map(value => value * (1 + (x.shape[0] as number) * 1e-7)),
  })
  t.match((await check(signature(['batch', 2]), rounding)).batching, { enabled: true })
  const nan: Run = x => ({ ...x, data: (x.data as Float32Array).map(() => Number.NaN) })
  t.match((await check(signature(['batch', 2]), nan)).batching, { enabled: true })
})

t.test('signatures that rule out batches are not even tried', async t => {
  t.match((await check(signature([1, 2]), same)).batching, { reason: 'the batch dimension is fixed at 1' })
  t.match((await check(signature([3, 2]), same)).batching, { reason: /fixed first dimension of 3/ })
  t.match((await check(signature(['batch', 2]), same, { batching: false })).batching, {
    reason: 'switched off in model.json',
  })
})

t.test('the sample of model.json must run, and be one row', async t => {
  const fails: Run = () => {
    throw new Error('boom')
  }
  await t.rejects(check(signature(['batch', 2]), fails, { sample: [1, 2] }), { message: 'boom' })
  await t.rejects(check(signature(['batch', 2]), same, { sample: [1, 2, 3] }), { message: /has 3 values/ })
  await t.rejects(
    check(signature(['batch', 2]), same, {
      sample: [
        [1, 2],
        [3, 4],
      ],
    }),
    { message: /has 2 rows/ },
  )
  const { sample } = await check(signature(['batch', 2]), same, { sample: [1, 2] })
  t.strictSame(sample, { model: 'm', features: [1, 2] })
})

t.test('dynamic dimensions are tried in sizes until one runs', async t => {
  const fussy: Run = x => {
    if ((x.shape[1] as number) < 8) throw new Error('too short')
    return x
  }
  const { sample, batching } = await check(signature(['batch', 'n']), fussy)
  t.equal((sample.features as unknown[]).length, 8)
  t.match(batching, { enabled: true })
  const never: Run = () => {
    throw new Error('never')
  }
  t.match((await check(signature(['batch', 'n']), never)).batching, { reason: /no input made up .* never/ })
  const aloneOnly: Run = x => {
    if ((x.shape[0] as number) > 1) throw new Error('one by one')
    return x
  }
  t.match((await check(signature(['batch', 2]), aloneOnly)).batching, { reason: /run together: one by one/ })
})

t.test(
  'the batch is the smallest size with nearly the best rate, where a run also costs the turns it takes',
  async t => {
    const size = async (cost: (rows: number) => number, options: object = {}) => {
      const { batching } = await check(signature(['batch', 2]), same, options, cost)
      return batching.enabled ? batching.maxRows : 0
    }
    t.equal(await size(rows => rows * 20), 1, 'no gain: one by one')
    t.equal(await size(rows => rows * 2), 4, 'a turn is a ninth of one row, and a thirty-third of four')
    t.equal(await size(rows => 0.01 + rows * 0.01), 64, 'to a quick model turns are nearly all it costs')
    t.equal(await size(rows => 1 + rows * 0.01), 64, 'all overhead but for a little')
    t.equal(await size(rows => 3 + rows * 5), 8, 'nobody waits for longer than 50 ms, whatever the rate')
    t.equal(await size(() => 0.1), 64, 'all overhead: as many as there may be')
    t.equal(await size(rows => rows * 100), 1, 'slow models are not tried at length')
    t.equal(await size(rows => 1 + rows, { maxRows: 5 }), 5, 'a size that is set is taken')
    t.equal(await size(rows => 1 + rows, { maxRows: 500 }), 500)
  },
)

t.test('what a batch costs is known before the first request', async t => {
  const { serviceTime } = await check(signature(['batch', 2]), same, {}, rows => 1 + rows * 0.5)
  t.ok(Math.abs(serviceTime.estimateMs(16) - 9) < 0.1)
})

t.test('no row is made up of more values than memory is sure to have, and the model serves unbatched', async t => {
  const open: Dimension[] = ['a', 'b', 'c', 'd', 'e']
  let largest = 0
  const never: Run = x => {
    largest = Math.max(largest, x.data.length)
    throw new Error('takes none')
  }
  t.match((await check(signature(open), never)).batching, { enabled: false })
  t.ok(largest > 0 && largest <= mostSampleValues, 'sizes that would be larger are left out')
  const { batching, runs } = await check(signature(['batch', 1 << 30]), same)
  t.match(batching, { enabled: false, reason: /has 1073741824 values, and 4194304 are made up at most/ })
  t.equal(runs, 0)
})

t.test('a slow model is not compared for longer than its trial may take', async t => {
  const slowly = await check(signature(['batch', 2]), same, { budgetMs: 20_000 }, () => 3000)
  t.match(slowly.batching, { enabled: false, reason: /one row takes 3000 ms/ })
  t.ok(slowly.runs <= 4)
})

t.test('batching that model.json asks for is not argued with', async t => {
  const mixing: Run = x => ({ ...x, data: (x.data as Float32Array).map(value => value + sumOf(x)) })
  t.match((await check(signature(['batch', 2]), mixing, { batching: true })).batching, { enabled: true })
  t.match((await check(signature([1, 2]), same, { batching: true })).batching, { enabled: false, reason: /fixed at 1/ })
})
