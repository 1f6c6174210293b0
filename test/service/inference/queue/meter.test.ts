import t from 'tap'
import { NotRun, RunFailed, WorkerLost } from '../../../../service/src/inference/errors.js'
import type { Batch } from '../../../../service/src/inference/queue/batch.js'
import { Batcher } from '../../../../service/src/inference/queue/batcher.js'
import { tensorOf } from '../../../../service/src/inference/tensors/tensor.js'
import type { RunOptions } from '../../../../service/src/inference/types.js'

/** A queue of which every request tells what it ran, by name, as often as it is told. */
function metered(maxRows = 4) {
  const batcher = new Batcher({ mode: 'shared', maxRows, maxDelayMs: 0, shapesVary: false })
  const told: string[] = []
  const submit = (name: string, rows: number, options: Partial<RunOptions> = {}) => {
    const inputs = { x: tensorOf('FP32', [rows, 1], new Array(rows).fill(1)) }
    const meter = { ended: (outcome: string, ms: number) => void told.push(`${name} ${outcome} ${ms}`) }
    const result = batcher.submit(inputs, { rows, meter, ...options }, 0)
    result.catch(() => {})
    return result
  }
  const take = (now = 0) => batcher.take(now) as Batch
  const succeed = (batch: Batch, computeMs: number) =>
    batcher.succeed(batch, { y: batch.tensors().x as never }, computeMs, 1)
  return { batcher, told, submit, take, succeed }
}

t.test('each request of a batch learns the part of the run that its rows took', async t => {
  const { told, submit, take, succeed } = metered()
  submit('a', 1)
  submit('b', 3)
  succeed(take(), 8)
  t.strictSame(told, ['a ran 2', 'b ran 6'])
})

t.test(
  'what ran is told when the batch ends, also of a caller that has gone and of a deadline that passed',
  async t => {
    const { batcher, told, submit, take, succeed } = metered()
    const gone = new AbortController()
    submit('gone', 1, { signal: gone.signal })
    submit('late', 1, { deadline: 10 })
    const batch = take()
    gone.abort()
    batcher.sweep(10)
    t.strictSame(told, [], 'the run goes on')
    succeed(batch, 40)
    t.strictSame(told, ['gone ran 20', 'late ran 20'])
  },
)

t.test('what leaves the queue before its run has not run, and says so at once', async t => {
  const { batcher, told, submit, take } = metered()
  const gone = new AbortController()
  submit('gone', 1, { signal: gone.signal })
  submit('late', 1, { deadline: 10 })
  submit('lost', 1)
  gone.abort()
  batcher.sweep(10)
  batcher.rejectWaiting(new WorkerLost('no worker is left'))
  t.strictSame(told, ['gone not-run 0', 'late not-run 0', 'lost not-run 0'])
  t.equal(take(), undefined)
})

t.test('a request that runs in pieces is told once, when the last of them that began has ended', async t => {
  const { batcher, told, submit, take, succeed } = metered(2)
  submit('whole', 4)
  succeed(take(), 5)
  succeed(take(), 6)
  t.strictSame(told, ['whole ran 11'])
  submit('cut', 6, { deadline: 10 })
  const [first, second] = [take(), take()]
  batcher.sweep(10)
  succeed(second, 5)
  t.strictSame(told.slice(1), [], 'one piece still runs')
  succeed(first, 5)
  t.strictSame(told.slice(1), ['cut ran 10'], 'and the third never will')
  t.equal(take(10), undefined)
})

t.test('a run that fails has run all the same, and so has the one after it', async t => {
  const { batcher, told, submit, take, succeed } = metered()
  submit('a', 1)
  submit('poison', 1)
  batcher.fail(take(), new RunFailed('no such index', 4))
  t.strictSame(told, [], 'each is run once more')
  succeed(take(), 3)
  batcher.fail(take(), new RunFailed('no such index', 1))
  t.strictSame(told, ['a ran 5', 'poison ran 3'])
})

t.test('what became of a run whose worker was lost nobody knows; what was never sent has not run', async t => {
  const { batcher, told, submit, take, succeed } = metered()
  submit('lost', 1)
  batcher.fail(take(), new WorkerLost('SIGKILL'))
  submit('unsent', 1)
  for (let i = 0; i < 4; i++) batcher.fail(take(), new NotRun('nobody is there'))
  submit('again', 1)
  batcher.fail(take(), new NotRun('nobody is there'))
  succeed(take(), 7)
  t.strictSame(told, ['lost unknown 0', 'unsent not-run 0', 'again ran 7'])
})

t.test('an answer that goes to nobody has run', async t => {
  const { batcher, told, submit, take } = metered()
  submit('a', 1)
  submit('b', 1)
  batcher.succeed(take(), { y: tensorOf('FP32', [1, 1], [1]) }, 6, 1)
  for (let batch = take(); batch !== undefined; batch = take()) batcher.fail(batch, new RunFailed('x', 1))
  t.strictSame(told, ['a ran 4', 'b ran 4'])
})

t.test('the time of a request is predicted from what batches took in their worker', async t => {
  const { batcher, submit, take, succeed } = metered(4)
  t.equal(batcher.computeMs(1), 0, 'before any has run')
  for (let i = 0; i < 50; i++) batcher.serviceTime.observe(4, 400)
  t.equal(Math.round(batcher.computeMs(4)), 400, 'by the check at load')
  for (let i = 0; i < 50; i++) {
    submit('a', 1)
    succeed(take(), 3)
    submit('b', 4)
    succeed(take(), 6)
  }
  t.equal(Math.round(batcher.computeMs(1)), 3)
  t.equal(Math.round(batcher.computeMs(8)), 12, 'in two batches')
})
