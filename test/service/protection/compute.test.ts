import { once } from 'node:events'
import { type AddressInfo, connect } from 'node:net'
import t, { type Test } from 'tap'
import {
  Cancelled,
  DeadlineExceeded,
  Overloaded,
  RunFailed,
  WorkerLost,
} from '../../../service/src/inference/errors.js'
import type { Model, Models, RunOptions, RunOutcome } from '../../../service/src/inference/types.js'
import { buildService, STORES } from '../../support/build.js'
import { onePlan } from '../../support/limits-file.js'
import { openFolder, until } from '../../support/onnx-folder.js'
import { slow } from '../../support/onnx-models.js'
import { until as untilSo } from '../../support/redis-fleet.js'
import { echo, fakeModels } from '../v2/v2-app.js'

const WINDOW = '10 minutes'
const REQUESTS = { name: 'requests', limit: 1000, window: WINDOW }
const ROWS = { name: 'rows', unit: 'rows', limit: 1000, window: WINDOW }
const compute = (limit: number, name = 'compute') => ({ name, unit: 'compute-ms', limit, window: WINDOW })

/** What becomes of a run that is expected to take `predictedMs`. */
interface Fate {
  readonly predictedMs?: number
  readonly outcome?: RunOutcome
  readonly computeMs?: number
  /** What the caller gets instead of an answer. */
  readonly error?: Error
  /** Before the end of the run; after the caller has its error. */
  readonly until?: Promise<void>
}

/** One model, made up, whose runs have the fates that the test says. `runs` counts them. */
function fated(fate: () => Fate): Models & { runs: number } {
  const models = Object.assign(fakeModels([echo('FP32')]), { runs: 0 })
  const model: Model = {
    info: models.get('FP32').info,
    predictedMs: rows => (fate().predictedMs ?? 10) * rows,
    run: async (inputs, options) => {
      const { outcome = 'ran', computeMs = 10, error, until } = fate()
      models.runs++
      const end = () => options.meter?.ended(outcome, computeMs)
      if (error !== undefined && until !== undefined) {
        void until.then(end)
        throw error
      }
      await until
      end()
      if (error !== undefined) throw error
      return { outputs: { y: inputs.x as never }, queueMs: 0, computeMs, computeShareMs: computeMs, batchRows: 1 }
    },
  }
  return Object.assign(models, { get: () => model, list: () => [model] })
}

const BODY = { features: [1, 2, 3] }

async function service(t: Test, policies: readonly object[], models: Models, settings: object = {}) {
  const built = await buildService(t, { ...settings, LIMITS_FILE: onePlan(t, policies) }, models)
  const left = async (remoteAddress = '127.0.0.1'): Promise<Record<string, number>> => {
    const answer = await built.ask({ url: '/v1/limits', remoteAddress })
    const standing = answer.json().policies as { name: string; remaining: number }[]
    return Object.fromEntries(standing.map(({ name, remaining }) => [name, remaining]))
  }
  return { ...built, left }
}

for (const { name, settings } of STORES) {
  t.test(`what a run took is charged when it is over, by either protocol, ${name}`, async t => {
    const { models } = await openFolder(t, { 'slow/1/model.onnx': slow(512, 16) })
    const { ask, predict, left } = await service(t, [REQUESTS, compute(20)], models, settings())
    t.strictSame(await left(), { requests: 1000, compute: 20 })
    const infer = { inputs: [{ name: 'x', datatype: 'FP32', shape: [1, 1], data: [1] }] }
    const answers = []
    // As long as it takes to use them up, on however fast a machine.
    for (let i = 0; i < 90; i++) {
      const answer =
        i % 2 === 0
          ? await predict({ features: [1] })
          : await ask({ method: 'POST', url: '/v2/models/slow/infer', payload: infer })
      answers.push(answer)
      if (answer.statusCode === 429) break
    }
    const denied = answers.pop()
    t.equal(denied?.statusCode, 429)
    t.ok(answers.length > 0 && answers.every(({ statusCode }) => statusCode === 200))
    t.ok(Number(denied?.headers['retry-after']) > 500, 'until the first has left')
    t.equal(denied?.headers['x-ratelimit-limit'], '20', 'and says what it is about')
    t.match(answers[0]?.headers, { 'x-ratelimit-limit': '1000', 'ratelimit-policy': /"compute";q=20;w=600/ })
    const spent = answers
      .map(({ headers }) => Number(/compute;dur=([\d.]+)/.exec(String(headers['server-timing']))?.[1]))
      .reduce((sum, ms) => sum + ms, 0)
    const standing = await left()
    // Each is told with two decimals.
    const leftAfter = (ms: number) => Math.max(0, 20 - Math.floor(ms))
    const roundedMs = 0.005 * answers.length
    t.ok(
      [leftAfter(spent - roundedMs), leftAfter(spent + roundedMs)].includes(standing.compute as number),
      `to the millisecond: ${standing.compute} are left after ${spent}`,
    )
    t.equal(standing.requests, 1000 - answers.length - 1, 'the denied one has cost its one')
  })

  t.test(`calls that come together run only as far as their quota goes, ${name}`, async t => {
    const models = fated(() => ({}))
    const { predict, left } = await service(t, [REQUESTS, compute(100)], models, settings())
    const statuses = (await Promise.all(Array.from({ length: 50 }, () => predict(BODY)))).map(each => each.statusCode)
    t.equal(statuses.filter(status => status === 200).length, 10)
    t.equal(statuses.filter(status => status === 429).length, 40)
    t.equal(models.runs, 10)
    t.strictSame(await left(), { requests: 950, compute: 0 })
  })

  t.test(`what a run took less is given back, what it took more is charged, ${name}`, async t => {
    let computeMs = 0
    const models = fated(() => ({ computeMs }))
    const { predict, left } = await service(
      t,
      [REQUESTS, ROWS, compute(100), compute(500, 'hourly')],
      models,
      settings(),
    )
    const spent = async (ms: number) => {
      computeMs = ms
      t.equal((await predict(BODY)).statusCode, 200)
      const { compute = 0, hourly = 0 } = await left()
      t.equal(500 - hourly, 100 - compute)
      return 100 - compute
    }
    t.equal(await spent(3), 3)
    t.equal(await spent(17), 20)
    t.equal(await spent(10), 30, 'as expected')
    t.equal(await spent(0), 30)
    const spents = []
    for (let i = 0; i < 10; i++) spents.push(await spent(0.4))
    t.strictSame(spents, [30, 30, 31, 31, 32, 32, 32, 33, 33, 34], 'fractions add up')
    t.equal((await left()).rows, 1000 - 14)
  })

  t.test(`what became of a run decides what its caller is charged, ${name}`, async t => {
    let fate: Fate = {}
    const models = fated(() => fate)
    const { predict, left } = await service(t, [REQUESTS, ROWS, compute(100)], models, settings())
    const none = { requests: 0, rows: 0, compute: 0 }
    for (const [next, status, charged] of [
      [{ outcome: 'unknown', computeMs: 0, error: new WorkerLost('gone') }, 503, { requests: 1, rows: 1, compute: 10 }],
      [
        { outcome: 'unknown', computeMs: 12.5, error: new WorkerLost('gone') },
        503,
        { requests: 1, rows: 1, compute: 13 },
      ],
      [{ outcome: 'ran', computeMs: 4, error: new RunFailed('bad') }, 500, { requests: 1, rows: 1, compute: 4 }],
      [{ outcome: 'ran', computeMs: 4, error: new DeadlineExceeded(true) }, 504, { requests: 1, rows: 1, compute: 4 }],
      [{ outcome: 'not-run', computeMs: 0, error: new DeadlineExceeded(false) }, 504, none],
      [{ outcome: 'not-run', computeMs: 0, error: new WorkerLost('none is left', 0) }, 503, none],
      [{ outcome: 'not-run', computeMs: 0, error: overloaded() }, 429, none],
      [{ outcome: 'not-run', computeMs: 0, error: new Cancelled() }, 499, { requests: 1, rows: 1, compute: 0 }],
    ] as const) {
      fate = next
      const before = await left()
      t.equal((await predict(BODY)).statusCode, status)
      const after = await left()
      const spent = Object.fromEntries(Object.entries(before).map(([name, of]) => [name, of - (after[name] as number)]))
      t.strictSame(spent, charged, `${next.error.name} ${next.outcome}`)
    }
  })

  t.test(`who does not wait for a run that goes on is charged when it ends, ${name}`, async t => {
    let end = () => {}
    const until = new Promise<void>(resolve => (end = resolve))
    const models = fated(() => ({ computeMs: 27, error: new DeadlineExceeded(true), until }))
    const { predict, left } = await service(t, [REQUESTS, ROWS, compute(100)], models, settings())
    t.equal((await predict(BODY)).statusCode, 504)
    t.strictSame(await left(), { requests: 999, rows: 999, compute: 90 }, 'what was reserved stays meanwhile')
    end()
    await untilSo('what ran is charged', async () => (await left()).compute === 73)
    t.strictSame(await left(), { requests: 999, rows: 999, compute: 73 })
  })

  t.test(
    `a request that is expected to take more than the whole quota runs while none of it is used, ${name}`,
    async t => {
      const models = fated(() => ({ predictedMs: 5000, computeMs: 60 }))
      const { predict, left } = await service(t, [REQUESTS, compute(100)], models, settings())
      t.equal((await predict(BODY)).statusCode, 200)
      t.equal((await left()).compute, 40)
      t.equal((await predict(BODY)).statusCode, 429)
      t.equal((await left()).compute, 40)
    },
  )

  t.test(`rows and compute time are one decision: what the one denies the other is not charged, ${name}`, async t => {
    const models = fated(() => ({ computeMs: 10 }))
    const { predict, left } = await service(t, [REQUESTS, { ...ROWS, limit: 3 }, compute(35)], models, settings())
    const rows = (count: number) => ({ features: Array.from({ length: count }, () => BODY.features) })
    t.equal((await predict(rows(2))).statusCode, 200)
    t.strictSame(await left(), { requests: 999, rows: 1, compute: 25 })
    t.match((await predict(rows(2))).json(), { 'violated-policies': ['rows'] })
    t.strictSame(await left(), { requests: 998, rows: 1, compute: 25 })
  })

  t.test(`a quota of no compute time runs nothing, ${name}`, async t => {
    const models = fated(() => ({ predictedMs: 0 }))
    const { predict } = await service(t, [REQUESTS, compute(0)], models, settings())
    t.equal((await predict(BODY)).statusCode, 429)
  })
}

t.test('callers that hang up are charged for what ran, and for nothing that did not', async t => {
  const files = { 'slow/model.json': { maxBatchRows: 1 }, 'slow/1/model.onnx': slow(512, 8) }
  const { models } = await openFolder(t, files)
  let ran = 0
  const model = models.get('slow')
  const run = model.run.bind(model)
  Object.assign(model, {
    run: (inputs: never, options: RunOptions) => {
      const ended = (outcome: RunOutcome, ms: number) => {
        ran += ms
        options.meter?.ended(outcome, ms)
      }
      return run(inputs, { ...options, meter: { ended } })
    },
  })
  const settings = { REQUEST_TIMEOUT_MS: 60_000 }
  const { app, left } = await service(t, [REQUESTS, compute(1_000_000)], models, settings)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  const body = JSON.stringify({ features: [1] })
  const sockets = Array.from({ length: 20 }, () => connect(port, '127.0.0.1'))
  for (const socket of sockets) {
    socket.write(
      `POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    )
  }
  await until(() => models.queueRows >= 2, 'some wait')
  await Promise.race(sockets.map(socket => once(socket, 'data')))
  for (const socket of sockets) socket.destroy()
  const spent = async () => 1_000_000 - ((await left()).compute as number)
  await untilSo('it is settled', async () => models.queueRows === 0 && ran > 0 && (await spent()) === Math.floor(ran))
  t.ok(((await left()).requests as number) < 1000, 'as requests they count')
})

const overloaded = () => new Overloaded('limit', '200 rows wait', 2300)
