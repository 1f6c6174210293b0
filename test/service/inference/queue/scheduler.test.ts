import t from 'tap'
import {
  DeadlineExceeded,
  Overloaded,
  RunFailed,
  Stopping,
  WorkerLost,
} from '../../../../service/src/inference/errors.js'
import type { AdmissionOptions } from '../../../../service/src/inference/queue/admission.js'
import { background } from '../../../../service/src/inference/queue/admission-constants.js'
import { Batcher, type BatcherOptions } from '../../../../service/src/inference/queue/batcher.js'
import {
  type BatchEvent,
  type BatchResult,
  type Runner,
  Scheduler,
} from '../../../../service/src/inference/queue/scheduler.js'
import { ServiceTime } from '../../../../service/src/inference/queue/service-time.js'
import { tensorOf } from '../../../../service/src/inference/tensors/tensor.js'
import type { NamedTensors, RunOptions, RunResult, Tensor } from '../../../../service/src/inference/types.js'
import { valuesOf } from '../../../support/values.js'

/** Time that a test moves. */
class ManualClock {
  time = 0
  #turns: (() => void)[] = []
  #timers: { at: number; callback: () => void }[] = []

  now = () => this.time
  afterTurn = (callback: () => void) => void this.#turns.push(callback)
  after = (ms: number, callback: () => void) => {
    const timer = { at: this.time + ms, callback }
    this.#timers.push(timer)
    return () => {
      this.#timers = this.#timers.filter(each => each !== timer)
    }
  }

  /** The end of this turn of the event loop. */
  turn(): void {
    const turns = this.#turns
    this.#turns = []
    for (const callback of turns) callback()
  }

  advance(ms: number): void {
    const end = this.time + ms
    for (;;) {
      const due = this.#timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0]
      if (due === undefined) break
      this.#timers = this.#timers.filter(each => each !== due)
      this.time = Math.max(this.time, due.at)
      due.callback()
    }
    this.time = end
  }

  get timers(): number {
    return this.#timers.length
  }
}

/** A worker that a test finishes by hand. */
class ManualRunner implements Runner {
  readonly keys: Set<string>
  lost = false
  readonly runs: { key: string; values: unknown[]; finish: () => void; fail: (error: Error) => void }[] = []

  computeMs = (_rows: number): number => 1

  constructor(...keys: string[]) {
    this.keys = new Set(keys)
  }

  run(key: string, inputs: NamedTensors): Promise<BatchResult> {
    return new Promise((resolve, reject) => {
      const x = inputs.x as Tensor
      const finish = () => resolve({ outputs: { y: x }, computeMs: this.computeMs(x.data.length) })
      this.runs.push({ key, values: valuesOf(x), finish, fail: reject })
    })
  }

  get last() {
    const last = this.runs.at(-1)
    if (last === undefined) throw new Error('nothing was run')
    return last
  }
}

const settle = () => new Promise(resolve => setImmediate(resolve))

const batcher = (options: Partial<BatcherOptions> = {}) =>
  new Batcher({ mode: 'shared', maxRows: 4, maxDelayMs: 0, shapesVary: false, ...options })

function schedule(admission: Partial<AdmissionOptions> = {}) {
  const clock = new ManualClock()
  const events: BatchEvent[] = []
  const scheduler = new Scheduler({
    clock,
    admission: { mode: 'on', queueMaxRows: Number.POSITIVE_INFINITY, ...admission },
    onBatch: e => void events.push(e),
  })
  const submit = (key: string, values: number[], extra: Partial<RunOptions> = {}): Promise<RunResult> => {
    const inputs = { x: tensorOf('FP32', [values.length, 1], values) }
    const result = scheduler.submit(key, inputs, { rows: values.length, ...extra })
    result.catch(() => {})
    return result
  }
  return { clock, events, scheduler, submit }
}

t.test('a free worker takes at the end of the turn all that came in it', async t => {
  const { clock, events, scheduler, submit } = schedule()
  const runner = new ManualRunner('m')
  scheduler.addModel('m', batcher({ maxRows: 8 }))
  scheduler.addRunner(runner)
  const results = [submit('m', [1]), submit('m', [2]), submit('m', [3])]
  t.equal(runner.runs.length, 0)
  clock.turn()
  t.strictSame(runner.last.values, [1, 2, 3])
  clock.advance(7)
  runner.last.finish()
  t.match(await results[1], { computeMs: 1, queueMs: 0, batchRows: 3 })
  t.match(events, [{ key: 'm', rows: 3, requests: 3, failed: false, computeMs: 1 }])
})

t.test('half a batch leaves for a free worker within the turn, while the rest of it is read', async t => {
  const { clock, scheduler, submit } = schedule()
  const runner = new ManualRunner('m')
  scheduler.addModel('m', batcher({ maxRows: 4 }))
  scheduler.addRunner(runner)
  void submit('m', [1])
  t.equal(runner.runs.length, 0)
  void submit('m', [2])
  t.strictSame(runner.last.values, [1, 2])
  for (const value of [3, 4, 5]) void submit('m', [value])
  t.equal(runner.runs.length, 1, 'nothing more while it is busy')
  clock.turn()
  runner.last.finish()
  await settle()
  t.strictSame(runner.last.values, [3, 4, 5])
})

t.test('a whole batch is waited for within the turn where each run costs much however few its rows', async t => {
  const { clock, scheduler, submit } = schedule()
  const runner = new ManualRunner('m')
  runner.computeMs = rows => 3 + rows * 0.1
  scheduler.addModel('m', batcher({ maxRows: 4 }))
  scheduler.addRunner(runner)
  for (const rows of [1, 2]) {
    void submit('m', Array.from({ length: rows }).fill(0) as number[])
    clock.turn()
    runner.last.finish()
    await settle()
  }
  for (const value of [1, 2, 3]) void submit('m', [value])
  t.equal(runner.runs.length, 2, 'half a batch is not enough')
  void submit('m', [4])
  t.strictSame(runner.last.values, [1, 2, 3, 4], 'a whole one leaves at once')
  runner.last.finish()
  await settle()
  void submit('m', [5])
  clock.turn()
  t.strictSame(runner.last.values, [5], 'and at the end of the turn whatever there is')
})

t.test('a worker has one run at a time, and takes what has gathered when it is done', async t => {
  const { clock, scheduler, submit } = schedule()
  const runner = new ManualRunner('m')
  scheduler.addModel('m', batcher())
  scheduler.addRunner(runner)
  void submit('m', [1])
  clock.turn()
  for (const value of [2, 3, 4]) void submit('m', [value])
  clock.turn()
  t.equal(runner.runs.length, 1)
  t.equal(scheduler.queueRows, 3)
  runner.last.finish()
  await settle()
  t.strictSame(runner.last.values, [2, 3, 4])
})

t.test('the model whose request has waited longest goes first', async t => {
  const { clock, scheduler, submit } = schedule()
  const runner = new ManualRunner('a', 'b')
  for (const key of ['a', 'b']) scheduler.addModel(key, batcher())
  scheduler.addRunner(runner)
  void submit('a', [0])
  clock.turn()
  clock.advance(1)
  void submit('b', [1])
  clock.advance(1)
  void submit('a', [2])
  for (const key of ['b', 'a']) {
    runner.last.finish()
    await settle()
    t.equal(runner.last.key, key)
  }
})

t.test('what nobody waits for runs only while no other request waits, of any model', async t => {
  const { clock, scheduler, submit } = schedule()
  const runner = new ManualRunner('a', 'b')
  for (const key of ['a', 'b']) scheduler.addModel(key, batcher())
  scheduler.addRunner(runner)
  void submit('a', [0])
  clock.turn()
  const { priority } = background
  const finish = async () => {
    runner.last.finish()
    await settle()
    return [runner.last.key, ...runner.last.values]
  }
  void submit('b', [1], { priority })
  clock.advance(1)
  void submit('a', [2])
  void submit('b', [3])
  t.strictSame(await finish(), ['a', 2], 'the model whose other request has waited longest')
  t.strictSame(await finish(), ['b', 3], 'a run that somebody waits for has no room for it')
  t.strictSame(await finish(), ['b', 1])
})

t.test('a model runs where it is loaded, also where that changes', async t => {
  const { clock, scheduler, submit } = schedule()
  const one = new ManualRunner('both', 'one')
  const other = new ManualRunner('both', 'other')
  for (const key of ['both', 'one', 'other', 'late']) scheduler.addModel(key, batcher())
  scheduler.addRunner(one)
  scheduler.addRunner(other)
  void submit('late', [1])
  clock.turn()
  t.equal(one.runs.length + other.runs.length, 0)
  other.keys.add('late')
  scheduler.runnersChanged()
  t.equal(other.last.key, 'late')
  void submit('both', [1])
  clock.turn()
  t.equal(one.last.key, 'both')
  one.keys.delete('both')
  scheduler.runnersChanged()
  t.equal(scheduler.runnersOf('both'), 1)
  t.equal(scheduler.runnersOf('late'), 1)
  scheduler.removeRunner(other)
  t.equal(scheduler.runnersOf('both') + scheduler.runnersOf('late'), 0)
})

t.test('a poisoned request fails alone', async t => {
  const { clock, events, scheduler, submit } = schedule()
  const runner = new ManualRunner('m')
  scheduler.addModel('m', batcher())
  scheduler.addRunner(runner)
  const results = [submit('m', [1]), submit('m', [666])]
  clock.turn()
  runner.last.fail(new RunFailed('no'))
  await settle()
  t.strictSame(runner.last.values, [1])
  runner.last.finish()
  await settle()
  t.strictSame(runner.last.values, [666])
  runner.last.fail(new RunFailed('no'))
  t.match(await results[0], { batchRows: 1 })
  await t.rejects(results[1] as Promise<RunResult>, { code: 'INFERENCE_RUN_FAILED', detail: 'no' })
  t.strictSame(
    events.map(({ failed }) => failed),
    [true, false, true],
  )
})

t.test('nothing more is sent to a worker that is lost', async t => {
  const { clock, scheduler, submit } = schedule()
  const runner = new ManualRunner('m')
  scheduler.addModel('m', batcher({ maxRows: 1 }))
  scheduler.addRunner(runner)
  const results = [submit('m', [1]), submit('m', [2])]
  clock.turn()
  runner.lost = true
  runner.last.fail(new WorkerLost('SIGKILL'))
  await t.rejects(results[0] as Promise<RunResult>, { code: 'INFERENCE_WORKER_LOST' })
  t.equal(scheduler.queueRows, 1)
  scheduler.removeRunner(runner)
  const next = new ManualRunner('m')
  scheduler.addRunner(next)
  next.last.finish()
  t.match(await results[1], { batchRows: 1 })
})

t.test('a full queue refuses with the time until there is room', async t => {
  const { clock, scheduler, submit } = schedule({ queueMaxRows: 3 })
  const serviceTime = new ServiceTime()
  for (let i = 0; i < 200; i++) serviceTime.observe(4, 100)
  scheduler.addModel('m', new Batcher({ mode: 'shared', maxRows: 4, maxDelayMs: 0, shapesVary: false }, serviceTime))
  const runner = new ManualRunner('m')
  scheduler.addRunner(runner)
  void submit('m', [0, 0, 0, 0])
  clock.turn()
  const gone = new AbortController()
  void submit('m', [1, 2])
  void submit('m', [3], { signal: gone.signal })
  try {
    submit('m', [4])
    t.fail('it was taken')
  } catch (error) {
    t.type(error, Overloaded)
    // The one that runs (100 ms), three that wait (75 ms) and itself (25 ms).
    t.ok(Math.abs((error as Overloaded).retryAfterMs - 200) <= 1)
  }
  gone.abort()
  clock.advance(10)
  t.doesNotThrow(() => submit('m', [5]), 'those who have gone hold no place')
})

t.test('a request larger than the queue is taken when nothing waits', async t => {
  const { clock, scheduler, submit } = schedule({ queueMaxRows: 3 })
  scheduler.addModel('m', batcher())
  scheduler.addRunner(new ManualRunner('m'))
  void submit('m', [0])
  clock.turn()
  t.doesNotThrow(() => submit('m', [1, 2, 3, 4, 5]))
  t.throws(() => submit('m', [6]), Overloaded)
})

t.test('a request that could not be answered in time is refused at once', async t => {
  const { clock, scheduler, submit } = schedule()
  const model = batcher({ maxRows: 1 })
  for (let i = 0; i < 200; i++) model.serviceTime.observe(1, 100)
  scheduler.addModel('m', model)
  scheduler.addRunner(new ManualRunner('m'))
  t.doesNotThrow(() => submit('m', [0], { deadline: 50 }), 'while nothing waits, a wrong estimate must not refuse all')
  clock.turn()
  void submit('m', [1])
  t.equal(Math.round(scheduler.estimateWaitMs('m', 1)), 300)
  t.throws(() => submit('m', [2], { deadline: 299 }), Overloaded)
  t.doesNotThrow(() => submit('m', [2], { deadline: 370 }), 'with a fifth to spare')
  t.equal(scheduler.estimateWaitMs('unknown', 1), 0)
})

t.test('deadlines are kept by one timer, also while a run goes on', async t => {
  const { clock, scheduler, submit } = schedule()
  scheduler.addModel('m', batcher({ maxRows: 1 }))
  const runner = new ManualRunner('m')
  scheduler.addRunner(runner)
  const running = submit('m', [1], { deadline: 1000 })
  clock.turn()
  const waiting = submit('m', [2], { deadline: 500 })
  for (let i = 0; i < 10; i++) void submit('m', [i], { deadline: 2000 })
  t.equal(clock.timers, 1)
  clock.advance(500)
  await t.rejects(waiting, { code: 'INFERENCE_DEADLINE_EXCEEDED', running: false })
  clock.advance(500)
  await t.rejects(running, { code: 'INFERENCE_DEADLINE_EXCEEDED', running: true })
  clock.advance(1000)
  t.equal(scheduler.queueRows, 0)
  t.equal(clock.timers, 0)
})

t.test('callers that have gone are noticed while they wait', async t => {
  const { clock, scheduler, submit } = schedule()
  scheduler.addModel('m', batcher({ maxRows: 1 }))
  scheduler.addRunner(new ManualRunner('m'))
  void submit('m', [1])
  clock.turn()
  const gone = new AbortController()
  const waiting = submit('m', [2], { signal: gone.signal })
  clock.advance(50)
  gone.abort()
  clock.advance(50)
  await t.rejects(waiting, { code: 'INFERENCE_CANCELLED' })
  t.equal(scheduler.queueRows, 0)
})

t.test('a delay is waited for by a timer, not by a busy loop', async t => {
  const { clock, scheduler, submit } = schedule()
  scheduler.addModel('m', batcher({ maxDelayMs: 5 }))
  scheduler.addModel('eager', batcher())
  const runner = new ManualRunner('m', 'eager')
  scheduler.addRunner(runner)
  void submit('m', [1])
  clock.turn()
  t.equal(runner.runs.length, 0)
  clock.advance(4)
  void submit('m', [2])
  clock.turn()
  t.equal(runner.runs.length, 0)
  clock.advance(1)
  t.strictSame(runner.last.values, [1, 2])
  runner.last.finish()
  await settle()
  void submit('m', [3])
  void submit('eager', [4])
  clock.turn()
  t.equal(runner.last.key, 'eager', 'a model that need not wait goes before one that does')
})

t.test('a batch whose requests have all expired gives its place to the next', async t => {
  const { clock, scheduler, submit } = schedule()
  scheduler.addModel('a', batcher())
  scheduler.addModel('b', batcher())
  const runner = new ManualRunner('a', 'b')
  scheduler.addRunner(runner)
  const gone = new AbortController()
  void submit('a', [1], { signal: gone.signal })
  void submit('b', [2])
  gone.abort()
  clock.turn()
  t.equal(runner.last.key, 'b')
})

t.test('stopping answers all that was taken and takes no more', async t => {
  const { clock, scheduler, submit } = schedule()
  scheduler.addModel('m', batcher({ maxRows: 1 }))
  const runner = new ManualRunner('m')
  scheduler.addRunner(runner)
  const results = [submit('m', [1]), submit('m', [2])]
  clock.turn()
  let stopped = false
  const stop = scheduler.stop().then(() => {
    stopped = true
  })
  t.throws(() => submit('m', [3]), Stopping)
  t.throws(() => submit('unknown', [3]), Stopping)
  runner.last.finish()
  await settle()
  t.notOk(stopped)
  runner.last.finish()
  await Promise.all([...results, stop])
  t.ok(stopped)
})

t.test('without a worker requests wait for one, until there is none to hope for', async t => {
  const { clock, scheduler, submit } = schedule()
  scheduler.addModel('m', batcher())
  const waiting = submit('m', [1])
  clock.turn()
  t.equal(scheduler.queueRows, 1)
  const idle = scheduler.whenIdle('m')
  scheduler.rejectWaiting(new Stopping())
  await t.rejects(waiting, { code: 'INFERENCE_STOPPING' })
  await idle
  await scheduler.whenIdle('unknown')
  const other = submit('m', [2])
  scheduler.rejectWaiting(new Stopping(), 'another model')
  t.equal(scheduler.queueRows, 1)
  const late = new ManualRunner('m')
  scheduler.addRunner(late)
  late.last.finish()
  t.match(await other, { batchRows: 1 })
})

t.test('service time is learnt as a line, and from one size as a ratio', async t => {
  const line = new ServiceTime()
  t.equal(line.estimateMs(8), 0)
  for (let i = 0; i < 50; i++) for (const n of [1, 2, 4, 8, 16]) line.observe(n, 3 + 2 * n)
  t.ok(Math.abs(line.estimateMs(10) - 23) < 1e-6)
  const ratio = new ServiceTime()
  for (let i = 0; i < 50; i++) ratio.observe(4, 20)
  t.ok(Math.abs(ratio.estimateMs(8) - 40) < 1e-6)
  for (let i = 0; i < 400; i++) for (const n of [1, 16]) line.observe(n, 1 * n)
  t.ok(Math.abs(line.estimateMs(10) - 10) < 0.1, 'what was long ago is forgotten')
  const falling = new ServiceTime()
  for (const [n, ms] of [
    [1, 10],
    [10, 5],
  ] as const)
    falling.observe(n, ms)
  t.ok(falling.estimateMs(100) >= 0, 'more rows are never told to take less than nothing')
})

/** A model of one row a run, 25 ms each, and one worker that is busy. */
function loaded(limitRows: number) {
  const parts = schedule({ limit: { mostRows: limitRows } })
  const serviceTime = new ServiceTime()
  for (let i = 0; i < 10; i++) serviceTime.observe(1, 25)
  const runner = new ManualRunner('m')
  parts.scheduler.addModel(
    'm',
    new Batcher({ mode: 'shared', maxRows: 1, maxDelayMs: 0, shapesVary: false }, serviceTime),
  )
  parts.scheduler.addRunner(runner)
  void parts.submit('m', [0])
  parts.clock.turn()
  const runAll = async () => {
    for (let before = -1; before < runner.runs.length; ) {
      before = runner.runs.length
      parts.clock.advance(25)
      runner.last.finish()
      await settle()
    }
    return runner.runs.flatMap(({ values }) => values)
  }
  return { ...parts, runner, runAll }
}

t.test('higher plans are run before lower ones, and within a plan who came first', async t => {
  const { submit, runAll } = loaded(100)
  void submit('m', [1])
  void submit('m', [20], { priority: 2 })
  void submit('m', [10], { priority: 1 })
  void submit('m', [21], { priority: 2 })
  void submit('m', [2])
  t.strictSame(await runAll(), [0, 20, 21, 10, 1, 2])
})

t.test('once requests have waited for long, fresh ones go before them', async t => {
  const { clock, submit, runAll } = loaded(100)
  for (const value of [1, 2, 3]) void submit('m', [value])
  clock.advance(5000)
  for (const value of [4, 5]) void submit('m', [value])
  const order = await runAll()
  t.strictSame(order.slice(0, 3), [0, 5, 4], 'the newest first')
  t.same(new Set(order), new Set([0, 1, 2, 3, 4, 5]), 'and nobody is forgotten')
})

t.test('while the model has all it can take, others are refused at once, and told when to come back', async t => {
  const { scheduler, submit } = loaded(3)
  for (const value of [1, 2]) void submit('m', [value])
  const told: number[] = []
  for (let i = 0; i < 4; i++) {
    try {
      void submit('m', [9])
    } catch (error) {
      t.type(error, Overloaded)
      told.push((error as Overloaded).retryAfterMs)
    }
  }
  t.equal(scheduler.queueRows, 2)
  t.equal(told.length, 4)
  t.ok(
    told.every(ms => ms >= 60 && ms <= 10_000),
    `${told}: not before those that wait have had their runs`,
  )
})

t.test(
  'then a request of a higher plan takes the place of the newest of a lower one, which is told so at once',
  async t => {
    const { submit, runAll } = loaded(3)
    const [older, newer] = [submit('m', [1]), submit('m', [2])]
    void submit('m', [10], { priority: 1 })
    await t.rejects(newer, Overloaded)
    t.throws(() => submit('m', [3]), Overloaded, 'not the other way round')
    t.throws(() => submit('m', [4], { priority: -1 }), Overloaded)
    t.strictSame(await runAll(), [0, 10, 1])
    await t.resolves(older)
  },
)

t.test('and a fresh request that of one which has waited for long', async t => {
  const { clock, submit, runAll } = loaded(3)
  const stale = submit('m', [1])
  clock.advance(4500)
  void submit('m', [2])
  void submit('m', [3])
  await t.rejects(stale, Overloaded)
  t.throws(() => submit('m', [4]), Overloaded, 'none of the others has')
  t.strictSame(await runAll(), [0, 2, 3])
})

t.test('no run is given to a request that it would answer too late, while another waits', async t => {
  const { clock, submit, runner } = loaded(100)
  const late = submit('m', [1], { deadline: 60 })
  void submit('m', [2])
  clock.advance(40)
  runner.last.finish()
  await settle()
  t.strictSame(runner.last.values, [2])
  await t.rejects(late, Overloaded)
})

t.test('who gives no time for a run gets at most one a second, also while nothing waits', async t => {
  const { clock, submit, runner } = loaded(100)
  runner.last.finish()
  await settle()
  t.throws(() => submit('m', [1], { deadline: clock.time + 5 }), Overloaded, 'the last one took 25 ms')
  t.doesNotThrow(() => submit('m', [2], { deadline: clock.time + 50 }))
  clock.turn()
  clock.advance(25)
  runner.last.finish()
  await settle()
  clock.advance(1000)
  t.doesNotThrow(() => submit('m', [3], { deadline: clock.time + 5 }), 'which tells whether it still does')
})

t.test('and only one of them where none ends in time', async t => {
  const { clock, scheduler, submit, runner } = loaded(100)
  runner.last.finish()
  await settle()
  clock.advance(5000)
  t.doesNotThrow(() => submit('m', [1], { deadline: clock.time + 5 }))
  clock.advance(5)
  await settle()
  t.equal(scheduler.queueRows, 0, 'it has expired before its turn')
  t.throws(() => submit('m', [2], { deadline: clock.time + 5 }), Overloaded)
  clock.advance(1000)
  t.doesNotThrow(() => submit('m', [3], { deadline: clock.time + 5 }))
})

t.test('a request that comes after its deadline is not run, however long nothing has', async t => {
  const { clock, submit, runner } = loaded(100)
  runner.last.finish()
  await settle()
  clock.advance(5000)
  t.throws(() => submit('m', [1], { deadline: clock.time }), DeadlineExceeded)
  t.throws(() => submit('m', [2], { deadline: clock.time - 100 }), DeadlineExceeded)
})
