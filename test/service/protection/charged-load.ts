/**
 * Generated load, of which some hang up and some give too little time, while models are reloaded and workers and backends
 * are lost: each caller is charged what ran for it, and what was reserved for runs of which nobody knows what became.
 */
import { setTimeout as delay } from 'node:timers/promises'
import fc from 'fast-check'
import type { Test } from 'tap'
import type { Model, RunOptions, RunOutcome } from '../../../service/src/inference/types.js'
import { buildService, type Store } from '../../support/build.js'
import { limitsFile } from '../../support/limits-file.js'
import { openFolder, writeModels } from '../../support/onnx-folder.js'
import { slow } from '../../support/onnx-models.js'
import { until } from '../../support/redis-fleet.js'
import { answerDouble, startV2Server, type V2Server } from '../../support/v2-server.js'

const SEED = Number(process.env.FUZZ_SEED ?? 1)
const LANES = 12
const CALLERS = Array.from({ length: 5 }, (_, index) => `203.0.113.${index + 1}`)
/** More than anybody can use, so that all of it is seen. */
const PLENTY = 1_000_000_000

const asked = fc.record({
  caller: fc.constantFrom(...CALLERS),
  model: fc.constantFrom('slow', 'double'),
  protocol: fc.constantFrom('v1', 'v2'),
  rows: fc.oneof({ weight: 3, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: fc.integer({ min: 0, max: 9 }) }),
  timeoutMs: fc.option(fc.integer({ min: 1, max: 1000 }), { nil: undefined, freq: 2 }),
  /** When the caller hangs up. */
  abortAfterMs: fc.option(fc.integer({ min: 0, max: 500 }), { nil: undefined, freq: 2 }),
  /** Whether its rows do not fit the model. */
  isBroken: fc.oneof({ weight: 9, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
})
type Asked = typeof asked extends fc.Arbitrary<infer T> ? T : never

/** What ran for each caller, as the engine says it to whoever pays. */
class Books {
  readonly #ranMs = new Map<string, number>()
  readonly #keptMs = new Map<string, number>()
  readonly outcomes: Record<RunOutcome, number> = { ran: 0, 'not-run': 0, unknown: 0 }
  open = 0

  /** Listens in on every run of a model. */
  watch(model: Model): Model {
    const run = model.run.bind(model)
    return Object.assign(model, {
      run: (inputs: Parameters<Model['run']>[0], options: RunOptions) => {
        const meter = options.meter as unknown as {
          key: string
          reservedMs: number
          ended: (...args: unknown[]) => void
        }
        this.open++
        const ended = (outcome: RunOutcome, ms: number) => {
          this.open--
          this.outcomes[outcome]++
          const [sums, add] =
            outcome === 'unknown' ? [this.#keptMs, Math.max(meter.reservedMs, Math.ceil(ms))] : [this.#ranMs, ms]
          sums.set(meter.key, (sums.get(meter.key) ?? 0) + add)
          meter.ended(outcome, ms)
        }
        return run(inputs, { ...options, meter: { ended } })
      },
    })
  }

  chargedMs(key: string): number {
    return (this.#ranMs.get(key) ?? 0) + (this.#keptMs.get(key) ?? 0)
  }
}

const keyOf = (caller: string) => `ip:${caller}`
const width = (model: string) => (model === 'slow' ? 1 : 2)

function bodyOf({ model, protocol, rows, isBroken }: Asked): [path: string, body: object] {
  const row = Array.from({ length: width(model) + (isBroken ? 1 : 0) }, () => 1)
  const features = Array.from({ length: rows }, () => row)
  if (protocol === 'v1') return ['/v1/predict', { model, features }]
  const shape = [rows, row.length]
  return [`/v2/models/${model}/infer`, { inputs: [{ name: 'x', datatype: 'FP32', shape, data: features.flat() }] }]
}

/** So many requests in a round; no more rounds than that, and no more than it takes until every kind of end has come. */
export interface Load {
  readonly requests: number
  readonly mostRounds: number
}

/** Gives the kinds of end that have not come: how soon each comes is up to the machine. */
export async function checkCharges(t: Test, { settings }: Store, { requests, mostRounds }: Load): Promise<unknown[]> {
  t.comment(`seed ${SEED}`)
  let calls = 0
  const infer: typeof answerDouble = (call, response) => {
    // Now and then a connection is lost while a call is on it.
    if (++calls % 9 === 0) response.socket?.destroy()
    else setTimeout(() => answerDouble(call, response), 15)
  }
  const backends: V2Server[] = [await startV2Server(t, { infer }), await startV2Server(t, { infer })]
  const urls = backends.map(({ url }) => url)
  const files = {
    'slow/model.json': { maxBatchRows: 4 },
    'slow/1/model.onnx': slow(256, 8),
    'double/model.json': { maxBatchRows: 4, backend: { urls, lanes: 2, healthIntervalMs: 50 } },
  }
  const { models, dir } = await openFolder(t, files, { isolation: 'process', workers: 2 })
  const books = new Books()
  const watched = new WeakSet<Model>()
  const get = models.get.bind(models)
  Object.assign(models, {
    get: (name?: string, version?: string) => {
      const model = get(name, version)
      if (!watched.has(model)) watched.add(books.watch(model))
      return model
    },
  })
  const policies = [
    { name: 'requests', limit: PLENTY, window: '1h' },
    { name: 'compute', unit: 'compute-ms', limit: PLENTY, window: '1h' },
    { name: 'burst', unit: 'compute-ms', limit: 400, window: '1s' },
  ]
  const { path } = limitsFile(t, { anonymous: 'plan', plans: { plan: { policies } } })
  const more = { LIMITS_FILE: path, TRUST_PROXY: '127.0.0.1' }
  const { app, limits } = await buildService(t, { ...settings(), ...more }, models)
  const url = await app.listen({ host: '127.0.0.1', port: 0 })

  const statuses = new Map<number | string, number>()
  const note = (status: number | string) => statuses.set(status, (statuses.get(status) ?? 0) + 1)
  const ask = async (each: Asked): Promise<void> => {
    const [path, body] = bodyOf(each)
    const leaving = new AbortController()
    const timer = each.abortAfterMs === undefined ? undefined : setTimeout(() => leaving.abort(), each.abortAfterMs)
    const headers = { 'content-type': 'application/json', 'x-forwarded-for': each.caller }
    const time = each.timeoutMs === undefined ? {} : { 'x-request-timeout-ms': `${each.timeoutMs}` }
    try {
      const init = {
        method: 'POST',
        body: JSON.stringify(body),
        headers: { ...headers, ...time },
        signal: leaving.signal,
      }
      const response = await fetch(`${url}${path}`, init)
      await response.arrayBuffer()
      note(response.status)
    } catch {
      note('gone')
    } finally {
      clearTimeout(timer)
    }
  }
  let over = false
  const trouble = async () => {
    for (let round = 0; !over; round++) {
      await delay(200)
      if (round % 4 === 0) {
        writeModels(dir, { 'slow/model.json': { maxBatchRows: 2 + (round % 3) } })
        await models.reload()
        limits.reload()
      } else if (round % 4 === 2) {
        const [pid] = models.workerPids
        if (pid !== undefined) process.kill(pid, 'SIGKILL')
      } else {
        const index = (round >> 1) % 2
        const { port } = backends[index] as V2Server
        await backends[index]?.stop()
        await delay(100)
        backends[index] = await startV2Server(t, { port, infer })
      }
    }
  }
  const troubled = trouble()
  const outcomes = () => (['ran', 'not-run', 'unknown'] as const).filter(outcome => books.outcomes[outcome] === 0)
  const ends = () => [200, 429, 504, 'gone'].filter(status => !statuses.has(status))
  for (let round = 0; round === 0 || (round < mostRounds && outcomes().length + ends().length > 0); round++) {
    const load = fc.sample(asked, { seed: SEED + round, numRuns: requests }).values()
    await Promise.all(
      Array.from({ length: LANES }, async () => {
        for (const each of load) await ask(each)
      }),
    )
  }
  over = true
  await troubled
  await until('nothing runs any more', async () => books.open === 0, 60_000)
  t.comment(JSON.stringify({ statuses: Object.fromEntries(statuses), outcomes: books.outcomes }))
  t.notOk(statuses.has(500))
  t.ok(CALLERS.some(caller => books.chargedMs(keyOf(caller)) > 0))
  for (const caller of CALLERS) {
    const charged = async () => {
      const response = await fetch(`${url}/v1/limits`, { headers: { 'x-forwarded-for': caller } })
      const { policies } = (await response.json()) as { policies: { name: string; remaining: number }[] }
      return PLENTY - (policies.find(({ name }) => name === 'compute')?.remaining ?? Number.NaN)
    }
    const ranMs = books.chargedMs(keyOf(caller))
    await until(`${caller} is charged ${ranMs}`, async () => Math.abs((await charged()) - ranMs) < 1.001, 10_000)
  }
  return [...outcomes(), ...ends()]
}
