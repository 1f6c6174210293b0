/** One service in front of two others, all of them processes of their own: the v2 client and server meet. */
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { startService } from '../../../support/build.js'
import { modelsFolder, until } from '../../../support/onnx-folder.js'
import { identity, slow } from '../../../support/onnx-models.js'

t.setTimeout(240_000)

const generous = { RATE_LIMIT_MAX: 1_000_000, REQUEST_TIMEOUT_MS: 10_000 }

async function freePort(): Promise<number> {
  return new Promise(resolve => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}

const front = (t: Test, urls: readonly string[], model: string, more: object = {}, settings = {}, json: object = {}) =>
  startService(t, {
    ...generous,
    MODELS_DIR: modelsFolder(t, {
      [`${model}/model.json`]: {
        maxBatchRows: 4,
        ...json,
        backend: { urls, healthIntervalMs: 100, lanes: 2, ...more },
      },
    }),
    ...settings,
  })

const predictions = async (response: Response) => ((await response.json()) as { predictions: unknown }).predictions

t.test('a service in front of others gives their predictions, as its own', async t => {
  const behind = await startService(t, generous)
  const { labels } = JSON.parse(readFileSync('models/digits/model.json', 'utf8'))
  const ahead = await front(t, [behind.url], 'digits', {}, {}, { labels })
  for (let i = 0; i < 10; i++) {
    const row = () => Array.from({ length: 64 }, (_, j) => (i * 7 + j * 3) % 17)
    const body = { model: 'digits', features: [row(), row()] }
    t.strictSame(await predictions(await ahead.predict(body)), await predictions(await behind.predict(body)))
  }
  const wrong = await ahead.predict({ model: 'digits', features: [1, 2, 3] })
  t.equal(wrong.status, 400, 'what does not fit is refused before it is sent on')
})

interface Outcome {
  readonly status: number
  readonly code: string | undefined
}

/** `clients` ask for their own number, again and again, until `done`; a wrong number is thrown. */
async function load(clients: number, ask: (value: number) => Promise<Response>, done: () => boolean) {
  const outcomes: Outcome[] = []
  const client = async (value: number) => {
    while (!done()) {
      const response = await ask(value)
      const body = (await response.json()) as { code?: string; predictions?: { outputs: { y: unknown } }[] }
      const y = JSON.stringify(body.predictions?.[0]?.outputs.y)
      if (response.status === 200 && y !== `[${value},0,0]`) throw new Error(`client ${value} was given ${y}`)
      outcomes.push({ status: response.status, code: body.code })
    }
  }
  const ended = Promise.all(Array.from({ length: clients }, (_, i) => client(i)))
  return { outcomes, ended }
}

for (const retry of ['unsent', 'safe'] as const) {
  const fails = retry === 'safe' ? 'no request fails' : 'only what was on its way to it fails, with 503'
  t.test(`a backend is killed under load: ${fails}; once it is back it is used again`, async t => {
    const MODELS_DIR = modelsFolder(t, { 'copy/1/model.onnx': identity() })
    const PORT = await freePort()
    const [b, c] = await Promise.all([
      startService(t, { ...generous, MODELS_DIR, PORT }),
      startService(t, { ...generous, MODELS_DIR }),
    ])
    const a = await front(t, [b.url, c.url], 'copy', { retry })
    let done = false
    const { outcomes, ended } = await load(
      16,
      value => a.predict({ features: [value, 0, 0] }),
      () => done,
    )
    await until(() => outcomes.length > 60, 'the load runs')
    b.child.kill('SIGKILL')
    await b.ended
    const seen = outcomes.length
    await until(() => outcomes.length > seen + 200, 'the load goes on')
    const bad = outcomes.filter(({ status }) => status !== 200)
    // Two lanes with four rows each were on their way.
    t.ok(bad.length <= (retry === 'safe' ? 0 : 8), `${bad.length} of ${outcomes.length} failed`)
    t.ok(bad.every(({ status, code }) => status === 503 && code === 'INFERENCE_BACKEND_UNAVAILABLE'))

    const again = await startService(t, { ...generous, MODELS_DIR, PORT })
    await until(() => a.output().includes('a backend is back'), 'it is seen')
    done = true
    await ended
    c.child.kill('SIGKILL')
    await c.ended
    await until(() => a.output().match(/a backend is left out/g)?.length === 2, 'the other is left out')
    t.strictSame(await predictions(await a.predict({ features: [7, 0, 0] })), [{ outputs: { y: [7, 0, 0] } }])
    again.child.kill('SIGKILL')
    await again.ended
    await until(() => a.output().match(/a backend is left out/g)?.length === 3, 'none is left')
    const none = await a.predict({ features: [7, 0, 0] })
    t.equal(none.status, 503)
    t.ok(Number(none.headers.get('retry-after')) >= 1)
    t.match(await none.json(), { code: 'INFERENCE_BACKEND_UNAVAILABLE' })
  })
}

t.test('what is too much is refused in front, and never reaches the backends', async t => {
  const MODELS_DIR = modelsFolder(t, { 'slow/model.json': { maxBatchRows: 1 }, 'slow/1/model.onnx': slow(512, 8) })
  const settings = { ...generous, MODELS_DIR, QUEUE_MAX: 4 }
  const [b, c] = await Promise.all([startService(t, settings), startService(t, settings)])
  const a = await front(t, [b.url, c.url], 'slow', {}, { QUEUE_MAX: 8 }, { maxBatchRows: 1 })
  const answers = await Promise.all(
    Array.from({ length: 200 }, async (_, i) => {
      // Behind the queue of each backend there is room for less than a tenth of this.
      await delay((i % 20) * 10)
      const response = await a.predict({ features: [i] })
      return { status: response.status, body: (await response.json()) as { code?: string; predictions?: unknown } }
    }),
  )
  const refused = answers.filter(({ status }) => status !== 200)
  t.ok(refused.length > 100 && refused.length < 200, `${refused.length} of 200 were refused`)
  t.strictSame([...new Set(refused.map(({ status, body }) => `${status} ${body.code}`))], ['429 INFERENCE_OVERLOADED'])
  for (const [i, { status, body }] of answers.entries()) {
    if (status === 200) t.strictSame(body.predictions, [{ outputs: { y: [i] } }])
  }
  t.notMatch(a.output(), /left out/)
})
