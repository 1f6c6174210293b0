import t from 'tap'
import { DeadlineExceeded, Overloaded, type OverloadReason } from '../../../../service/src/inference/errors.js'
import type { AdmissionOptions } from '../../../../service/src/inference/queue/admission.js'
import { background } from '../../../../service/src/inference/queue/admission-constants.js'
import { Batcher } from '../../../../service/src/inference/queue/batcher.js'
import { type BatchResult, type Runner, Scheduler } from '../../../../service/src/inference/queue/scheduler.js'
import { tensorOf } from '../../../../service/src/inference/tensors/tensor.js'
import type { RunOptions } from '../../../../service/src/inference/types.js'

/** Models of one row a run that takes so many milliseconds, in a time that stands still; runs never end. */
function models(runMs: Readonly<Record<string, number>>, admission: Partial<AdmissionOptions> = {}) {
  const turns: (() => void)[] = []
  const scheduler = new Scheduler({
    clock: { now: () => 0, afterTurn: callback => void turns.push(callback), after: () => () => {} },
    admission: { mode: 'on', queueMaxRows: Number.POSITIVE_INFINITY, ...admission },
  })
  for (const [key, ms] of Object.entries(runMs)) {
    const batcher = new Batcher({ mode: 'split', maxRows: 1, maxDelayMs: 0, shapesVary: false })
    for (let i = 0; i < 10; i++) batcher.serviceTime.observe(1, ms)
    scheduler.addModel(key, batcher)
  }
  const started: string[] = []
  const runner = (...keys: string[]): Runner => ({
    keys: new Set(keys),
    lost: false,
    run: key => {
      started.push(key)
      return new Promise<BatchResult>(() => {})
    },
  })
  const submit = (key: string, options: Partial<RunOptions> = {}) => {
    const result = scheduler.submit(key, { x: tensorOf('FP32', [1, 1], [1]) }, { rows: 1, ...options })
    result.catch(() => {})
    for (const callback of turns.splice(0)) callback()
    return result
  }
  return { scheduler, runner, submit, started }
}

const refused = (why: OverloadReason) => ({ code: 'INFERENCE_OVERLOADED', why, served: why !== 'unserved' })

t.test('a request waits only for those that compete for the same workers', async t => {
  const { scheduler, runner, submit } = models({ local: 10, remote: 400 })
  for (let i = 0; i < 2; i++) scheduler.addRunner(runner('local'))
  scheduler.addRunner(runner('remote'))
  for (let i = 0; i < 20; i++) submit('remote')
  submit('local')
  submit('local')
  submit('local')
  t.equal(scheduler.estimateWaitMs('remote', 1), 400 * 21)
  t.equal(scheduler.estimateWaitMs('local', 1), 10 + 5 + 10, 'two run, and one waits for either worker')
  t.doesNotThrow(() => submit('local', { deadline: 100 }))
  t.throws(() => submit('remote', { deadline: 4000 }), Overloaded)
})

t.test('runs that nobody waits for are no reason to refuse a request', async t => {
  const { scheduler, runner, submit } = models({ live: 10, shadow: 10 })
  scheduler.addRunner(runner('live', 'shadow'))
  for (let i = 0; i < 2; i++) submit('live')
  const before = scheduler.estimateWaitMs('live', 1)
  for (let i = 0; i < 9; i++) submit('shadow', { priority: background.priority })
  t.equal(scheduler.estimateWaitMs('live', 1), before)
  t.ok(scheduler.estimateWaitMs('shadow', 1) > before, 'they wait for each other, and for the requests')
})

t.test('of a model that also runs elsewhere, a part of the work is waited for', async t => {
  const { scheduler, runner, submit } = models({ one: 10, all: 100 })
  scheduler.addRunner(runner('one', 'all'))
  scheduler.addRunner(runner('all'))
  for (let i = 0; i < 12; i++) submit('all')
  t.equal(scheduler.estimateWaitMs('one', 1), 100 + 500 + 10, 'the run, and half of ten that wait')
})

t.test('a worker that comes or goes changes whom a request waits for', async t => {
  const { scheduler, runner, submit } = models({ m: 10 })
  const [first, second] = [runner('m'), runner('m')]
  scheduler.addRunner(first)
  for (let i = 0; i < 9; i++) submit('m')
  t.equal(scheduler.estimateWaitMs('m', 1), 10 + 80 + 10)
  scheduler.addRunner(second)
  t.equal(scheduler.estimateWaitMs('m', 1), 10 + 35 + 10)
  scheduler.removeRunner(second)
  t.equal(scheduler.runnersOf('m'), 1)
})

t.test('one caller that fills the queue does not keep another out of it', async t => {
  const { scheduler, runner, submit } = models({ m: 10 }, { queueMaxRows: 5 })
  scheduler.addRunner(runner('m'))
  submit('m')
  const greedy = Array.from({ length: 5 }, () => submit('m', { partitionKey: 'greedy' }))
  t.throws(() => submit('m', { partitionKey: 'greedy' }), refused('queue-full'))
  for (let i = 0; i < 2; i++) t.doesNotThrow(() => submit('m', { partitionKey: 'modest' }))
  const outcomes = await Promise.all(
    greedy.map(each => Promise.race([each.catch(({ why }) => why), new Promise(resolve => setImmediate(resolve))])),
  )
  t.strictSame(outcomes, [undefined, undefined, undefined, 'displaced', 'displaced'], 'its newest give way')
  t.throws(() => submit('m', { partitionKey: 'modest' }), refused('queue-full'), 'but not for more than its part')
})

t.test('who is refused hears why: full, too late, or nobody there', async t => {
  const { scheduler, runner, submit } = models({ m: 100 }, { limit: { mostRows: 3 } })
  submit('m')
  t.throws(() => submit('m', { deadline: 50 }), refused('unserved'))
  scheduler.addRunner(runner('m'))
  submit('m')
  t.throws(() => submit('m', { deadline: 200 }), refused('too-late'))
  submit('m')
  t.throws(() => submit('m'), refused('limit'))
})

t.test('with admission off all is taken that fits into the queue, and waits until its deadline', async t => {
  const { scheduler, runner, submit } = models({ m: 1000 }, { mode: 'off', queueMaxRows: 50, limit: { mostRows: 3 } })
  scheduler.addRunner(runner('m'))
  for (let i = 0; i < 51; i++) t.doesNotThrow(() => submit('m', { deadline: 10 }))
  t.equal(scheduler.refusalOf('m', { rows: 1, deadline: 10 })?.why, 'queue-full')
  t.throws(() => submit('m'), refused('queue-full'))
  t.throws(() => submit('m', { deadline: 0 }), DeadlineExceeded)
})
