import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type { LightMyRequestResponse } from 'fastify'
import t, { type Test } from 'tap'
import { Overloaded } from '../../../service/src/inference/errors.js'
import type { Model, Models, Tensor } from '../../../service/src/inference/types.js'
import { buildService, IRIS, runProgram, STORES } from '../../support/build.js'
import { limitsFile, onePlan, rowsOf, sha256, v2RowsOf } from '../../support/limits-file.js'
import { openFolder } from '../../support/onnx-folder.js'
import { identity, slow } from '../../support/onnx-models.js'

const REGISTRY = 'https://iana.org/assignments/http-problem-types'
const DURATION = { '1s': 1, '2s': 2, '1 minute': 60 } as const

/** A model of which few rows run in a second, each alone, and one may wait. */
const crowded = (t: Test) =>
  openFolder(t, { 'slow/model.json': { maxBatchRows: 1 }, 'slow/1/model.onnx': slow(512, 16) }, { queueMaxRows: 1 })

/** One model, which is run as the test says. */
async function modelThat(t: Test, behave: (model: Model) => Model['run']): Promise<Models> {
  const { models } = await openFolder(t, { 'copy/1/model.onnx': identity() })
  const model = models.get('copy')
  return Object.assign(models, { get: () => ({ info: model.info, run: behave(model) }) })
}

/** It refuses every third run. */
const oftenOverloaded = (t: Test) => {
  let runs = 0
  return modelThat(t, model => async (inputs, options) => {
    if (runs++ % 3 === 0) throw new Overloaded('queue-full', 'the queue is full', 800)
    return model.run(inputs, options)
  })
}

/** It needs no time, so that nothing but a quota is in the way however busy the machine is. */
const instant = (t: Test) =>
  modelThat(t, () => async inputs => ({
    outputs: { y: inputs.x as Tensor },
    queueMs: 0,
    computeMs: 0,
    computeShareMs: 0,
    batchRows: 1,
  }))

/** Says why, which policy and when to come back, in the headers and, the same, in the document. */
function isDenial(t: Test, answer: LightMyRequestResponse, violated: string, longestSeconds: number): void {
  const { headers, statusCode } = answer
  t.equal(statusCode, 429)
  t.match(headers['content-type'], /^application\/problem\+json/)
  const problem = answer.json()
  t.match(problem, {
    type: `${REGISTRY}#quota-exceeded`,
    title: 'Quota exceeded',
    status: 429,
    code: 'ML_RATE_QUOTA_EXCEEDED',
    detail: /^Rate limit exceeded, retry in /,
    instance: /^urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
  })
  t.strictSame(problem['violated-policies'], [violated])
  t.ok(Number.isInteger(problem.retryAfter) && problem.retryAfter >= 1 && problem.retryAfter <= longestSeconds)
  t.equal(headers['retry-after'], `${problem.retryAfter}`)
  t.match(headers['ratelimit-policy'], `"${violated}";q=`)
  t.match(headers.ratelimit, `"${violated}";r=`)
  t.ok(headers['x-ratelimit-limit'] !== undefined && headers['x-ratelimit-remaining'] !== undefined)
}

function isOverload(t: Test, answer: LightMyRequestResponse): void {
  t.equal(answer.statusCode, 429)
  t.match(answer.headers['content-type'], /^application\/problem\+json/)
  const problem = answer.json()
  t.match(problem, { type: `${REGISTRY}#temporary-reduced-capacity`, status: 429, code: /^INFERENCE_/, detail: /./ })
  t.ok(Number.isInteger(problem.retryAfter) && problem.retryAfter >= 1)
  t.equal(answer.headers['retry-after'], `${problem.retryAfter}`)
}

for (const { name, settings } of STORES) {
  t.test(`a denial names the one policy that stood in the way, and when it lets through again, ${name}`, async t => {
    const build = (policies: readonly object[], more?: object) =>
      buildService(t, { ...settings(), LIMITS_FILE: onePlan(t, policies, more) })
    const perMinute = (name: string, limit: number, unit?: string) => ({ name, limit, window: '1 minute', unit })

    const byWindow = await build([{ name: 'burst', limit: 100, window: '2s' }, perMinute('steady', 2)])
    for (let i = 0; i < 2; i++) t.equal((await byWindow.predict(IRIS)).statusCode, 200)
    isDenial(t, await byWindow.predict(IRIS), 'steady', DURATION['1 minute'])
    const bare = await byWindow.ask({ method: 'POST', url: '/v2/models/iris/infer', payload: v2RowsOf(1) })
    t.equal(bare.statusCode, 429)
    t.match(bare.json(), { error: /^Rate limit exceeded, retry in / }, 'the form of that protocol')
    t.match(bare.headers['retry-after'], /^[1-9]\d*$/)
    t.match(bare.headers.ratelimit, '"steady";r=0')

    const byRows = await build([perMinute('requests', 100), perMinute('rows', 4, 'rows')])
    t.equal((await byRows.predict(rowsOf(3))).statusCode, 200)
    isDenial(t, await byRows.predict(rowsOf(2)), 'rows', DURATION['1 minute'])

    const inFlight = await build([perMinute('requests', 100)], { concurrency: 1 })
    const both = await Promise.all([inFlight.predict(rowsOf(200)), inFlight.predict(rowsOf(200))])
    const denied = both.find(({ statusCode }) => statusCode === 429)
    if (denied === undefined) t.fail('two at once where one may be')
    else isDenial(t, denied, 'concurrency', DURATION['1s'])
  })

  t.test(`of clients that wait as they are told, nearly all are answered at the first retry, ${name}`, async t => {
    const policies = [
      { name: 'burst', limit: 3, window: '1s' },
      { name: 'rows', unit: 'rows', limit: 8, window: '2s' },
    ]
    const LIMITS_FILE = onePlan(t, policies)
    const { predict } = await buildService(t, { ...settings(), LIMITS_FILE }, await instant(t))
    const client = async (index: number): Promise<boolean> => {
      const remoteAddress = `10.1.0.${index}`
      // Some run into the one policy, some into the other, none at the same time as all.
      const payload = { features: Array.from({ length: 1 + (index % 4) }, () => [1, 2, 3]) }
      await delay((index * 37) % 700)
      const answers = await Promise.all([0, 1, 2, 3].map(() => predict(payload, { remoteAddress })))
      const waits = answers.flatMap(({ statusCode, headers }) => (statusCode === 200 ? [] : [headers['retry-after']]))
      t.ok(waits.length > 0, 'four at once are too many')
      await delay(Math.max(...waits.map(Number)) * 1000)
      return (await predict(payload, { remoteAddress })).statusCode === 200
    }
    const clients = 100
    const results = await Promise.all(Array.from({ length: clients }, (_, index) => client(index)))
    const succeeded = results.filter(Boolean).length
    t.ok(succeeded >= 0.95 * clients, `${succeeded} of ${clients}`)
  })
}

t.test('a service that is overloaded says so, and when to come back', async t => {
  const { models } = await crowded(t)
  const { predict, ask } = await buildService(t, { RATE_LIMIT_MAX: 1000, REQUEST_TIMEOUT_MS: 60_000 }, models)
  const answers = await Promise.all(Array.from({ length: 20 }, () => predict({ features: [1] })))
  const refused = answers.filter(({ statusCode }) => statusCode !== 200)
  t.ok(refused.length > 0 && refused.length < answers.length)
  for (const answer of refused) isOverload(t, answer)

  const payload = { inputs: [{ name: 'x', datatype: 'FP32', shape: [1, 1], data: [1] }] }
  const infer = () => ask({ method: 'POST', url: '/v2/models/slow/infer', payload })
  const bare = (await Promise.all(Array.from({ length: 20 }, infer))).find(({ statusCode }) => statusCode === 429)
  t.match(bare?.json(), { error: /overloaded/ })
  t.match(bare?.headers['retry-after'], /^[1-9]\d*$/)
})

t.test('clients that obey get all their work done, whatever limits they run into', async t => {
  const keys = ['one', 'two', 'three']
  const limits = limitsFile(t, {
    anonymous: 'plan',
    plans: {
      plan: {
        policies: [
          { name: 'burst', limit: 4, window: '1s' },
          { name: 'rows', unit: 'rows', limit: 15, window: '2s' },
        ],
        concurrency: 1,
      },
    },
    keys: keys.map(key => ({ sha256: sha256(key), plan: 'plan' })),
  })
  const limited = await buildService(t, { LIMITS_FILE: limits.path })
  const overloaded = await buildService(t, { RATE_LIMIT_MAX: 1000 }, await oftenOverloaded(t))
  const run = async (app: typeof limited.app, ...args: string[]) => {
    const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
    const { code, stdout } = await runProgram(t, 'cli', ['call', '--url', url, '--json', '--retries', '100', ...args])
      .ended
    const events = stdout
      .trim()
      .split('\n')
      .map(line => JSON.parse(line))
    t.equal(code, 0)
    t.match(events.at(-1), { event: 'summary', failed: 0 })
    return events.filter(({ event }) => event === 'answer').map(({ status }) => status as number)
  }
  for (const { app } of [limited, overloaded]) await app.listen({ host: '127.0.0.1', port: 0 })

  const body = JSON.stringify(rowsOf(4))
  const denied = await Promise.all(
    keys.map(key => run(limited.app, '--api-key', key, '--requests', '5', '--body', body)),
  )
  for (const statuses of denied) {
    t.equal(statuses.filter(status => status === 200).length, 5)
    t.ok(statuses.includes(429), 'it had to wait')
  }
  const refused = await run(overloaded.app, '--requests', '4')
  t.strictSame(refused, [429, 200, 200, 429, 200, 200], 'as often as it was refused')
})
